/*
 * The client of one connection: what conn.h does without blocking, with poll() around it. Who listens is
 * checked before a byte is sent: a program that sits on the address in the daemon's place gets no descriptor
 * and no text.
 */

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "client/lib/sandboxd.h"
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
};

void sandboxd_reply_done(SandboxdReply *r)
{
        fd_close_many(r->fds, r->n_fds);
        (void) json_unref(r->json);
        *r = SANDBOXD_REPLY_INIT;
}

/* ---- connecting ---- */

static int parse_address(const char *address, struct sockaddr_un *ret, socklen_t *ret_size)
{
        struct sockaddr_un sa = { .sun_family = AF_UNIX };
        const char *path = address + strlen("unix:");
        size_t n;

        if (!str_has_prefix(address, "unix:"))
                return -EINVAL;
        n = strlen(path);
        if ((path[0] != '/' && path[0] != '@') || n < 2 || strpbrk(path, ";?#"))
                return -EINVAL;
        if (n >= sizeof(sa.sun_path))
                return -ENAMETOOLONG;
        memcpy(sa.sun_path, path, n);
        if (path[0] == '@')
                sa.sun_path[0] = '\0';
        *ret = sa;
        *ret_size = (socklen_t) (offsetof(struct sockaddr_un, sun_path) + n + (path[0] == '/'));
        return 0;
}

static int check_peer(int fd)
{
        struct ucred peer;
        socklen_t size = sizeof(peer);

        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
                return neg_errno();
        return peer.uid == 0 || peer.uid == geteuid() ? 0 : -EPERM;
}

int sandboxd_connect(const char *address, SandboxdClient **ret)
{
        _cleanup_(sandboxd_client_freep) SandboxdClient *c = NULL;
        _cleanup_close_ int fd = -EBADF;
        struct sockaddr_un sa;
        socklen_t size;
        int r;

        if (!address)
                address = secure_getenv("SANDBOXD_ADDRESS");
        r = parse_address(address && *address ? address : SANDBOXD_ADDRESS_DEFAULT, &sa, &size);
        if (r < 0)
                return r;
        c = calloc(1, sizeof(*c));
        if (!c)
                return -ENOMEM;
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return neg_errno();
        if (connect(fd, (const struct sockaddr *) &sa, size) < 0)
                return neg_errno();
        r = check_peer(fd);
        if (r < 0)
                return r;
        r = conn_new(TAKE_FD(fd), /* is_server= */ false, &c->conn);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(c);
        return 0;
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

/* ---- calls ---- */

static int wait_for(SandboxdClient *c, short events)
{
        struct pollfd p = { .fd = conn_fd(c->conn), .events = events };

        while (poll(&p, 1, -1) < 0) {
                if (errno != EINTR)
                        return neg_errno();
        }
        return 0;
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

int sandboxd_send(SandboxdClient *c, const char *method, const Json *parameters, unsigned flags,
                  const int *fds, size_t n_fds)
{
        int r;

        r = conn_call(c->conn, method, parameters, flags, fds, n_fds);
        if (r < 0)
                return r;
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

static int next_message(SandboxdClient *c, SandboxdReply *ret)
{
        ConnMessage m;
        int r;

        r = conn_next(c->conn, &m);
        if (r <= 0)
                return r;
        if (m.has_lost_fds) {
                conn_message_done(&m);
                return -EMFILE;
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

int sandboxd_call_fds(SandboxdClient *c, const char *method, const Json *parameters, const int *fds,
                      size_t n_fds, SandboxdReply *ret)
{
        int r;

        r = sandboxd_send(c, method, parameters, 0, fds, n_fds);
        if (r < 0)
                return r;
        r = sandboxd_next(c, ret);
        if (r < 0)
                return r;
        if (ret->has_more) {
                sandboxd_reply_done(ret);
                return -EBADMSG;
        }
        return 0;
}

int sandboxd_call(SandboxdClient *c, const char *method, const Json *parameters, SandboxdReply *ret)
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
