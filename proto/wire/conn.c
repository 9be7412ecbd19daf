/*
 * Framing: a message is JSON and one NUL byte. The input buffer holds at most one message of the largest
 * size; what has no NUL by then is oversize. scanned remembers how far the search for a NUL went, so that a
 * byte at a time costs no more than one read.
 *
 * Descriptors: the kernel ends a read behind the packet that carried some, but glues earlier packets without
 * any in front of it. Hence the rule: what comes with descriptors must begin at a message boundary and begin
 * no second message, else it cannot be said which message they belong to, and the connection is closed.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"
#include "proto/wire/conn_impl.h"

/* The kernel passes at most 253 at once: room for all, so that too many show as such. */
#define FDS_ROOM                253U
#define READ_SIZE               (64U * 1024U)
#define ERROR_INVALID_PARAMETER "org.varlink.service.InvalidParameter"

/* ---- life ---- */

int conn_new(int take_fd, bool is_server, Conn **ret)
{
        _cleanup_close_ int fd = take_fd;
        Conn *c;
        int r;

        r = fd_set_nonblock(fd, true);
        if (r < 0)
                return r;
        c = malloc(sizeof(*c));
        if (!c)
                return -ENOMEM;
        *c = (Conn){ .fd = TAKE_FD(fd),
                     .is_server = is_server,
                     .input = BUF_INIT((is_server ? CONN_MESSAGE_MAX : CONN_OUTPUT_MAX) + 1),
                     .output = BUF_INIT(CONN_OUTPUT_MAX) };
        list_init(&c->groups);
        *ret = c;
        return 0;
}

Conn *conn_free(Conn *c)
{
        if (!c)
                return NULL;
        conn_drop_output(c);
        fd_close_many(c->fds, c->n_fds);
        buf_done(&c->input);
        (void) fd_close(c->fd);
        free(c);
        return NULL;
}

int conn_fd(const Conn *c)
{
        return c->fd;
}

void conn_message_done(ConnMessage *m)
{
        fd_close_many(m->fds, m->n_fds);
        m->json = json_unref(m->json);
        m->n_fds = 0;
        m->method = m->error = NULL;
        m->parameters = NULL;
}

/* ---- input ---- */

typedef struct Chunk {
        size_t size;
        int fds[FDS_ROOM];
        size_t n_fds;
        bool is_cut; /* MSG_CTRUNC */
} Chunk;

static void chunk_take_control(Chunk *chunk, struct msghdr *m)
{
        for (struct cmsghdr *h = CMSG_FIRSTHDR(m); h; h = CMSG_NXTHDR(m, h)) {
                size_t n;

                if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
                        continue;
                n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                for (size_t i = 0; i < n && chunk->n_fds < FDS_ROOM; i++)
                        memcpy(&chunk->fds[chunk->n_fds++], CMSG_DATA(h) + i * sizeof(int), sizeof(int));
        }
        chunk->is_cut = m->msg_flags & MSG_CTRUNC;
}

/* Descriptors below 3 would take the place of stdio in whatever is spawned with them. */
static int fds_raise(int *fds, size_t n)
{
        for (size_t i = 0; i < n; i++) {
                int fd = fds[i];

                if (fd > STDERR_FILENO)
                        continue;
                fds[i] = fcntl(fd, F_DUPFD_CLOEXEC, 3);
                if (fds[i] < 0) {
                        int r = neg_errno();

                        fds[i] = fd;
                        return r;
                }
                (void) fd_close(fd);
        }
        return 0;
}

static int receive(int fd, char *to, size_t room, Chunk *chunk)
{
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int) * FDS_ROOM)];
        } control;
        struct iovec iov = { .iov_base = to, .iov_len = room };
        struct msghdr m = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
        };
        ssize_t n;

        do
                n = recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return neg_errno();
        chunk->size = (size_t) n;
        chunk_take_control(chunk, &m);
        return 0;
}

/* The bytes are at the end of input, not yet committed. */
static int take_chunk_fds(Conn *c, Chunk *chunk, const char *data)
{
        const char *end;
        int r;

        if (chunk->n_fds == 0 && !chunk->is_cut)
                return 0;
        if (buf_size(&c->input) > 0)
                return -EBADMSG;
        end = memchr(data, '\0', chunk->size);
        if (end && end + 1 < data + chunk->size)
                return -EBADMSG;
        if (chunk->is_cut) {
                c->has_lost_fds = true;
                return 0;
        }
        if (chunk->n_fds > CONN_FDS_MAX)
                return -EBADMSG;
        r = fds_raise(chunk->fds, chunk->n_fds);
        if (r < 0) {
                c->has_lost_fds = true;
                return 0;
        }
        memcpy(c->fds, chunk->fds, chunk->n_fds * sizeof(int));
        c->n_fds = chunk->n_fds;
        chunk->n_fds = 0;
        return 0;
}

/* A peer that shut down its sending side may still wait for replies; one that closed does not. */
static int end_of_file(Conn *c)
{
        struct pollfd p = { .fd = c->fd };

        c->is_eof = true;
        if (poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR)))
                return -ECONNRESET;
        return -EPIPE;
}

bool conn_wants_read(const Conn *c)
{
        return !c->is_eof && buf_size(&c->input) < c->input.size_max;
}

int conn_read(Conn *c)
{
        Chunk chunk;
        char *tail;
        size_t room;
        int r;

        if (c->is_eof)
                return end_of_file(c);
        room = MIN_OF(c->input.size_max - buf_size(&c->input), (size_t) READ_SIZE);
        if (room == 0)
                return 0;
        r = buf_reserve(&c->input, room, &tail);
        if (r < 0)
                return r;
        chunk.n_fds = 0;
        r = receive(c->fd, tail, room, &chunk);
        if (r == -EAGAIN)
                return 0;
        if (r < 0)
                return r;
        r = take_chunk_fds(c, &chunk, tail);
        fd_close_many(chunk.fds, chunk.n_fds);
        if (r < 0)
                return r;
        if (chunk.size == 0)
                return end_of_file(c);
        buf_commit(&c->input, chunk.size);
        return 1;
}

bool conn_has_partial(const Conn *c)
{
        size_t size = buf_size(&c->input);

        return size > 0 && !c->has_call && !memchr(c->input.data + c->input.begin, '\0', size);
}

bool conn_has_input(const Conn *c)
{
        return buf_size(&c->input) > 0;
}

bool conn_has_message(const Conn *c)
{
        size_t size = buf_size(&c->input);

        return size > 0 && memchr(c->input.data + c->input.begin, '\0', size);
}

/* ---- messages ---- */

/* Sound, but more than a tree may hold: there is no call to hand out, so it is answered here. Only
 * parameters can be answered for; a header like that is not a header. */
static int refuse_too_much(Conn *c, const char *text, size_t size)
{
        static const char prefix[] = "parameters";
        _cleanup_json_ Json *parameters = NULL;
        const char *field;
        JsonGate gate;
        int r;

        (void) json_gate_examine(text, size, /* string_max= */ size, &gate);
        if (!c->is_server || !str_has_prefix(gate.place, prefix))
                return -EBADMSG;
        field = gate.place + strlen(prefix);
        if (*field == '.')
                field++;
        else if (*field)
                return -EBADMSG;
        r = json_new_object(&parameters);
        if (r < 0)
                return r;
        r = json_set_string(parameters, "parameter", *field ? field : prefix);
        if (r < 0)
                return r;
        c->has_call = true;
        c->is_oneway = gate.is_oneway;
        return conn_reply_error(c, ERROR_INVALID_PARAMETER, parameters);
}

/* 1: a message of *ret_size bytes, without its NUL, is at the front. */
static int find_message(Conn *c, size_t *ret_size)
{
        size_t size = buf_size(&c->input);
        const char *front = buf_front(&c->input), *end;

        end = size > c->scanned ? memchr(front + c->scanned, '\0', size - c->scanned) : NULL;
        if (!end) {
                c->scanned = size;
                return size >= c->input.size_max ? -EBADMSG : 0;
        }
        *ret_size = (size_t) (end - front);
        return 1;
}

static void take_fds(Conn *c, ConnMessage *m)
{
        memcpy(m->fds, c->fds, c->n_fds * sizeof(int));
        m->n_fds = c->n_fds;
        m->has_lost_fds = c->has_lost_fds;
        c->n_fds = 0;
        c->has_lost_fds = false;
}

/* What stands behind an upgrade is not varlink any more and must not have been read here. */
static int begin_call(Conn *c, const ConnMessage *m)
{
        if (m->is_upgrade && buf_size(&c->input) > 0)
                return -EBADMSG;
        c->has_call = true;
        c->is_oneway = m->is_oneway;
        c->is_more = m->is_more;
        return 0;
}

/* 1: *ret is a message; 0: it was one that is answered already. */
static int take_message(Conn *c, size_t size, ConnMessage *ret)
{
        ConnMessage m = { .n_fds = 0 };
        int r;

        take_fds(c, &m);
        r = conn_message_parse(c->is_server, buf_front(&c->input), size, &m);
        if (r == -E2BIG)
                r = refuse_too_much(c, buf_front(&c->input), size);
        else if (r == 0)
                r = 1;
        buf_consume(&c->input, size + 1);
        c->scanned = 0;
        if (r == 1 && c->is_server) {
                int k = begin_call(c, &m);

                r = k < 0 ? k : r;
        }
        if (r != 1) {
                conn_message_done(&m);
                return r;
        }
        *ret = m;
        return 1;
}

int conn_next(Conn *c, ConnMessage *ret)
{
        size_t size;
        int r;

        *ret = (ConnMessage){ .n_fds = 0 };
        while (!c->has_call) {
                r = find_message(c, &size);
                if (r <= 0)
                        return r;
                r = take_message(c, size, ret);
                if (r != 0)
                        return r;
        }
        return 0;
}

/* ---- upgrade ---- */

int conn_take_fd(Conn *c)
{
        c->is_eof = true;
        return TAKE_FD(c->fd);
}

Buf *conn_input(Conn *c)
{
        return &c->input;
}
