/*
 * Output: bytes in one buffer. Descriptors go with the first byte of their message; each group of them waits
 * for its offset, counted from the first byte ever put.
 */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/wire/conn_impl.h"

#define FD_GROUPS_MAX 64U

static void fd_group_free(Conn *c, FdGroup *g)
{
        list_unlink(&g->link);
        c->n_groups--;
        fd_close_many(g->fds, g->n_fds);
        free(g);
}

void conn_drop_output(Conn *c)
{
        LIST_FOREACH (g, &c->groups, FdGroup, link)
                fd_group_free(c, g);
        buf_done(&c->output);
}

/* Whole or not at all: descriptors that could not be duplicated leave no group behind. */
static int put_fds(Conn *c, uint64_t at, size_t size, const int *fds, size_t n_fds)
{
        FdGroup *g;

        if (n_fds > CONN_FDS_MAX)
                return -EINVAL;
        if (c->n_groups >= FD_GROUPS_MAX)
                return -ENOBUFS;
        g = malloc(sizeof(*g));
        if (!g)
                return -ENOMEM;
        *g = (FdGroup){ .at = at, .size = size };
        list_append(&c->groups, &g->link);
        c->n_groups++;
        for (; g->n_fds < n_fds; g->n_fds++) {
                int fd = fcntl(fds[g->n_fds], F_DUPFD_CLOEXEC, 3);

                if (fd < 0) {
                        int r = neg_errno();

                        fd_group_free(c, g);
                        return r;
                }
                g->fds[g->n_fds] = fd;
        }
        return 0;
}

/* What a half message would leave behind is cut off again. */
static int put_message(Conn *c, const Json *message, const int *fds, size_t n_fds)
{
        size_t before = buf_size(&c->output);
        int r;

        r = json_format(message, &c->output);
        if (r >= 0)
                r = buf_put(&c->output, "", 1);
        if (r >= 0 && n_fds > 0)
                r = put_fds(c, c->n_sent + before, buf_size(&c->output) - before, fds, n_fds);
        if (r < 0)
                c->output.end = c->output.begin + before;
        return r;
}

static int set_parameters(Json *message, const Json *parameters)
{
        if (!parameters)
                return 0;
        return json_set(message, "parameters", json_ref((Json *) (uintptr_t) parameters));
}

void conn_call_done(Conn *c)
{
        c->has_call = false;
        c->is_oneway = false;
        c->is_more = false;
}

bool conn_has_call(const Conn *c)
{
        return c->has_call;
}

int conn_reply(Conn *c, const Json *parameters, bool has_continues, const int *fds, size_t n_fds)
{
        _cleanup_json_ Json *message = NULL;
        int r;

        sb_assert(c->has_call && (!has_continues || c->is_more));
        if (!c->is_oneway) {
                r = json_new_object(&message);
                if (r < 0)
                        return r;
                r = set_parameters(message, parameters);
                if (r < 0)
                        return r;
                if (has_continues)
                        r = json_set_boolean(message, "continues", true);
                if (r < 0)
                        return r;
                r = put_message(c, message, fds, n_fds);
                if (r < 0)
                        return r;
        }
        if (!has_continues)
                conn_call_done(c);
        return 0;
}

int conn_reply_error(Conn *c, const char *error, const Json *parameters)
{
        _cleanup_json_ Json *message = NULL;
        int r;

        sb_assert(c->has_call);
        if (!c->is_oneway) {
                r = json_new_object(&message);
                if (r < 0)
                        return r;
                r = json_set_string(message, "error", error);
                if (r < 0)
                        return r;
                r = set_parameters(message, parameters);
                if (r < 0)
                        return r;
                r = put_message(c, message, NULL, 0);
                if (r < 0)
                        return r;
        }
        conn_call_done(c);
        return 0;
}

static int set_flags(Json *message, unsigned flags)
{
        const char *key;

        switch (flags) {
        case 0:
                return 0;
        case CONN_MORE:
                key = "more";
                break;
        case CONN_ONEWAY:
                key = "oneway";
                break;
        case CONN_UPGRADE:
                key = "upgrade";
                break;
        default:
                return -EINVAL;
        }
        return json_set_boolean(message, key, true);
}

int conn_call(Conn *c, const char *method, const Json *parameters, unsigned flags, const int *fds,
              size_t n_fds)
{
        _cleanup_json_ Json *message = NULL;
        int r;

        r = json_new_object(&message);
        if (r < 0)
                return r;
        r = json_set_string(message, "method", method);
        if (r < 0)
                return r;
        r = set_parameters(message, parameters);
        if (r < 0)
                return r;
        r = set_flags(message, flags);
        if (r < 0)
                return r;
        return put_message(c, message, fds, n_fds);
}

bool conn_wants_write(const Conn *c)
{
        return buf_size(&c->output) > 0;
}

/* How much may go in one send, and the descriptors that go with it: never past the message they belong to,
 * so that the receiver finds no second message in the same chunk. */
static size_t next_send(Conn *c, FdGroup **ret_group)
{
        size_t size = buf_size(&c->output);
        FdGroup *first;

        *ret_group = NULL;
        if (list_is_empty(&c->groups))
                return size;
        first = list_entry(c->groups.next, FdGroup, link);
        if (first->at > c->n_sent)
                return MIN_OF(size, (size_t) (first->at - c->n_sent));
        *ret_group = first;
        return first->size;
}

static ssize_t send_bytes(int fd, char *data, size_t size, const FdGroup *g)
{
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int) * CONN_FDS_MAX)];
        } control = { 0 };
        struct iovec iov = { .iov_base = data, .iov_len = size };
        struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
        ssize_t n;

        if (g) {
                control.header = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int) * g->n_fds),
                                                   .cmsg_level = SOL_SOCKET,
                                                   .cmsg_type = SCM_RIGHTS };
                memcpy(CMSG_DATA(&control.header), g->fds, sizeof(int) * g->n_fds);
                m.msg_control = &control;
                m.msg_controllen = CMSG_SPACE(sizeof(int) * g->n_fds);
        }
        do
                n = sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
        while (n < 0 && errno == EINTR);
        return n;
}

uint64_t conn_n_sent(const Conn *c)
{
        return c->n_sent;
}

size_t conn_memory(Conn *c)
{
        if (buf_size(&c->input) == 0)
                buf_done(&c->input);
        if (buf_size(&c->output) == 0)
                buf_done(&c->output);
        return c->input.room + c->output.room;
}

int conn_write(Conn *c)
{
        while (buf_size(&c->output) > 0) {
                FdGroup *g;
                size_t size = next_send(c, &g);
                ssize_t n = send_bytes(c->fd, buf_front(&c->output), size, g);

                if (n < 0 && errno == EAGAIN)
                        return 0;
                if (n < 0)
                        return neg_errno();
                if (g)
                        fd_group_free(c, g);
                buf_consume(&c->output, (size_t) n);
                c->n_sent += (size_t) n;
        }
        return 0;
}
