/*
 * The client of one connection: what conn.h does without blocking, with poll() around it. Who listens is
 * checked before a byte is sent: a program that sits on the address in the daemon's place gets no descriptor
 * and no text. Names in the abstract space are refused: they are anybody's, and have no owner to look at.
 */

#include "client/lib/client.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"
#include "proto/wire/conn.h"

_Static_assert(SANDBOXD_FDS_MAX == CONN_FDS_MAX, "descriptors of a reply");
_Static_assert((int) SANDBOXD_MORE == (int) CONN_MORE && (int) SANDBOXD_ONEWAY == (int) CONN_ONEWAY &&
                               (int) SANDBOXD_UPGRADE == (int) CONN_UPGRADE,
               "flags of a call");

struct SandboxdClient {
        Conn *conn;
        uint64_t timeout_usec;  /* 0: none */
        uint64_t deadline_usec; /* of the function under way; 0: none */
        unsigned n_pending;     /* calls without their last reply */
        uint64_t is_more;       /* which of them may have several: a bit each, the oldest lowest */
};

#define PENDING_MAX 64U

void sandboxd_reply_done(SandboxdReply *r)
{
        fd_close_many(r->fds, r->n_fds);
        (void) json_unref(r->json);
        *r = SANDBOXD_REPLY_INIT;
}

/* ---- connecting ---- */

static int parse_address(const char *address, struct sockaddr_un *ret)
{
        static const char scheme[] = "unix:";
        struct sockaddr_un sa = { .sun_family = AF_UNIX };
        const char *path = address + sizeof(scheme) - 1;

        if (!str_has_prefix(address, scheme) || path[0] != '/' || strpbrk(path, ";?#"))
                return -EINVAL;
        if (str_copy(sa.sun_path, sizeof(sa.sun_path), path) < 0)
                return -ENAMETOOLONG;
        *ret = sa;
        return 0;
}

static int check_owner(const char *path, uid_t owner)
{
        struct stat st;

        if (stat(path, &st) < 0)
                return neg_errno();
        return st.st_uid == owner ? 0 : -EPERM;
}

/* The kernel's word about who called listen(): decides, whatever stood at the path before or after. */
static int check_listener(int fd, uid_t owner)
{
        struct ucred peer;
        socklen_t size = sizeof(peer);

        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
                return neg_errno();
        return peer.uid == owner ? 0 : -EPERM;
}

static int open_connection(const struct sockaddr_un *sa, uid_t owner, int *ret_fd)
{
        _cleanup_close_ int fd = -EBADF;
        int r;

        r = check_owner(sa->sun_path, owner);
        if (r < 0)
                return r;
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return neg_errno();
        if (connect(fd, (const struct sockaddr *) sa, sizeof(*sa)) < 0)
                return neg_errno();
        r = check_listener(fd, owner);
        if (r < 0)
                return r;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int client_connect(const char *address, uid_t owner, SandboxdClient **ret)
{
        _cleanup_(sandboxd_client_freep) SandboxdClient *c = NULL;
        struct sockaddr_un sa;
        int fd, r;

        r = parse_address(address, &sa);
        if (r < 0)
                return r;
        c = calloc(1, sizeof(*c));
        if (!c)
                return -ENOMEM;
        r = open_connection(&sa, owner, &fd);
        if (r < 0)
                return r;
        r = conn_new(fd, /* is_server= */ false, &c->conn);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(c);
        return 0;
}

int sandboxd_connect(const char *address, SandboxdClient **ret)
{
        if (!address)
                address = secure_getenv("SANDBOXD_ADDRESS");
        return client_connect(address && *address ? address : SANDBOXD_ADDRESS_DEFAULT, /* owner= */ 0, ret);
}

SandboxdClient *sandboxd_client_free(SandboxdClient *c)
{
        if (!c)
                return NULL;
        (void) conn_free(c->conn);
        free(c);
        return NULL;
}

int sandboxd_fd(const SandboxdClient *c)
{
        return conn_fd(c->conn);
}

void sandboxd_set_timeout(SandboxdClient *c, uint64_t timeout_usec)
{
        c->timeout_usec = timeout_usec;
}

/* ---- calls ---- */

static void start_waiting(SandboxdClient *c)
{
        uint64_t now = clock_monotonic_usec();

        c->deadline_usec = c->timeout_usec == 0                 ? 0
                           : c->timeout_usec > UINT64_MAX - now ? UINT64_MAX
                                                                : now + c->timeout_usec;
}

/* Milliseconds, rounded up, so that nobody turns in a loop until the time is there. */
static int time_left(const SandboxdClient *c)
{
        uint64_t now, left;

        if (c->deadline_usec == 0)
                return -1;
        now = clock_monotonic_usec();
        left = c->deadline_usec > now ? c->deadline_usec - now : 0;
        return (int) MIN_OF((left + USEC_PER_MSEC - 1) / USEC_PER_MSEC, (uint64_t) INT_MAX);
}

static int wait_for(SandboxdClient *c, short events)
{
        struct pollfd p = { .fd = conn_fd(c->conn), .events = events };
        int n;

        do
                n = poll(&p, 1, time_left(c));
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return neg_errno();
        return n == 0 ? -ETIMEDOUT : 0;
}

/* The daemon may close (it refuses, it is full) before it has read all: its last reply can still be there.
 */
static int flush(SandboxdClient *c)
{
        int r;

        while (conn_wants_write(c->conn)) {
                r = conn_write(c->conn);
                if (r == -EPIPE || r == -ECONNRESET)
                        return 0;
                if (r < 0)
                        return r;
                if (!conn_wants_write(c->conn))
                        break;
                r = wait_for(c, POLLOUT);
                if (r < 0)
                        return r;
        }
        return 0;
}

int sandboxd_send(SandboxdClient *c, const char *method, const SandboxdValue *parameters, unsigned flags,
                  const int *fds, size_t n_fds)
{
        int r;

        if (c->n_pending >= PENDING_MAX)
                return -EBUSY;
        r = conn_call(c->conn, method, parameters, flags, fds, n_fds);
        if (r < 0)
                return r;
        if (flags != SANDBOXD_ONEWAY)
                c->is_more |= (uint64_t) (flags == SANDBOXD_MORE) << c->n_pending++;
        start_waiting(c);
        return flush(c);
}

/* Moves what the message owns into the reply. */
static void take_message(ConnMessage *m, SandboxdReply *ret)
{
        *ret = (SandboxdReply){ .error = m->error,
                                .parameters = m->parameters,
                                .has_more = m->has_continues,
                                .n_fds = m->n_fds,
                                .json = TAKE_PTR(m->json) };
        memcpy(ret->fds, m->fds, m->n_fds * sizeof(int));
        m->n_fds = 0;
}

/* A reply has to belong to a call, and several replies to one that asked for more. */
static int note_reply(SandboxdClient *c, bool has_more)
{
        if (c->n_pending == 0 || (has_more && !(c->is_more & 1)))
                return -EBADMSG;
        if (!has_more) {
                c->n_pending--;
                c->is_more >>= 1;
        }
        return 0;
}

static int next_message(SandboxdClient *c, SandboxdReply *ret)
{
        ConnMessage m;
        int r;

        r = conn_next(c->conn, &m);
        if (r <= 0)
                return r;
        r = m.has_lost_fds ? -EMFILE : note_reply(c, m.has_continues);
        if (r < 0) {
                conn_message_done(&m);
                return r;
        }
        take_message(&m, ret);
        return 1;
}

int sandboxd_try_next(SandboxdClient *c, SandboxdReply *ret)
{
        int r, k;

        r = next_message(c, ret);
        if (r != 0)
                return r;
        r = conn_read(c->conn);
        if (r < 0 && r != -EPIPE && r != -ECONNRESET)
                return r;
        k = next_message(c, ret);
        if (k != 0)
                return k;
        return r < 0 ? -ECONNRESET : 0;
}

int sandboxd_next(SandboxdClient *c, SandboxdReply *ret)
{
        int r;

        start_waiting(c);
        for (;;) {
                r = sandboxd_try_next(c, ret);
                if (r < 0)
                        return r;
                if (r > 0)
                        return 0;
                r = wait_for(c, POLLIN);
                if (r < 0)
                        return r;
        }
}

int sandboxd_call_fds(SandboxdClient *c, const char *method, const SandboxdValue *parameters, const int *fds,
                      size_t n_fds, SandboxdReply *ret)
{
        int r;

        r = sandboxd_send(c, method, parameters, 0, fds, n_fds);
        if (r < 0)
                return r;
        return sandboxd_next(c, ret);
}

int sandboxd_call(SandboxdClient *c, const char *method, const SandboxdValue *parameters, SandboxdReply *ret)
{
        return sandboxd_call_fds(c, method, parameters, NULL, 0, ret);
}

int sandboxd_take_fd(SandboxdClient *c, char **ret_early, size_t *ret_n_early, int *ret_fd)
{
        _cleanup_free_ char *early = NULL;
        Buf *input = conn_input(c->conn);
        size_t n = buf_size(input);
        int r;

        if (n > 0 && !ret_early)
                return -EBADMSG;
        if (n > 0) {
                early = malloc(n);
                if (!early)
                        return -ENOMEM;
                memcpy(early, buf_front(input), n);
        }
        r = fd_set_nonblock(conn_fd(c->conn), false);
        if (r < 0)
                return r;
        if (ret_early) {
                *ret_early = TAKE_PTR(early);
                *ret_n_early = n;
        }
        *ret_fd = conn_take_fd(c->conn);
        return 0;
}
