#include "proto/wire/imsg.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "proto/base/error.h"
#include "proto/base/fd.h"

typedef struct Header {
        uint32_t type;
        uint32_t size;
        uint64_t sequence; /* counts the sender's messages: a lost or repeated one is noticed */
} Header;

#define BUFFER_SIZE (sizeof(Header) + PRIV_EXEC_MAX)

/* The singletons speak for all sessions in one channel: what ends many connections or sessions at once, or
 * tells a new worker of all of them, is one message for each in one turn. Nobody there is hostile; how many
 * there can be is bounded by what they may open. */
#define SINGLETONS_QUEUE_MAX (128U * 1024U)

typedef struct Queued {
        ListLink link;
        size_t size;
        int fds[IMSG_FDS_MAX];
        size_t n_fds;
        char data[];
} Queued;

_Static_assert(PRIV_EXEC_MAX >= PRIV_RECORD_EXEC_MAX && PRIV_EXEC_MAX >= PRIV_DECIDE_MAX &&
                               PRIV_EXEC_MAX >= sizeof(PrivSessionCreated),
               "the receive buffer holds every message");

int imsg_pair(int ret_fds[2])
{
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ret_fds) < 0)
                return neg_errno();
        return 0;
}

int imsg_channel_init(ImsgChannel *c, int take_fd, PrivChannel channel, PrivRole role)
{
        _cleanup_close_ int fd = take_fd;
        int size = 2 * (int) BUFFER_SIZE, r;

        r = fd_set_nonblock(fd, true);
        if (r < 0)
                return r;
        /* The largest message must fit; only root may go beyond wmem_max, and the launcher does it for all.
         */
        (void) setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
        *c = (ImsgChannel){ .fd = -EBADF, .channel = channel, .role = role, .phase = PHASE_SETUP };
        c->buffer = malloc(BUFFER_SIZE);
        if (!c->buffer)
                return -ENOMEM;
        list_init(&c->queue);
        c->fd = TAKE_FD(fd);
        return 0;
}

static void queued_free(Queued *q)
{
        list_unlink(&q->link);
        fd_close_many(q->fds, q->n_fds);
        free(q);
}

void imsg_channel_done(ImsgChannel *c)
{
        if (!c->buffer)
                return;
        LIST_FOREACH (q, &c->queue, Queued, link)
                queued_free(q);
        free(c->buffer);
        c->buffer = NULL;
        c->n_queued = 0;
        c->fd = fd_close(c->fd);
}

static int send_now(int fd, struct iovec *iov, size_t n_iov, const int *fds, size_t n_fds)
{
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int) * IMSG_FDS_MAX)];
        } control = { 0 };
        struct msghdr m = { .msg_iov = iov, .msg_iovlen = n_iov };

        if (n_fds > 0) {
                control.header = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int) * n_fds),
                                                   .cmsg_level = SOL_SOCKET,
                                                   .cmsg_type = SCM_RIGHTS };
                memcpy(CMSG_DATA(&control.header), fds, sizeof(int) * n_fds);
                m.msg_control = &control;
                m.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
        }
        for (;;) {
                if (sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
                        return 0;
                if (errno == EINTR)
                        continue;
                if (errno == ECONNRESET)
                        return -EPIPE;
                /* The kernel is short of memory just now: the message waits as it does for a slow reader. */
                if (errno == ENOBUFS || errno == ENOMEM)
                        return -EAGAIN;
                return neg_errno();
        }
}

static size_t queue_max(PrivChannel channel)
{
        return channel == CHANNEL_AUDIT_DIALER || channel == CHANNEL_LAUNCHER_AUDIT ||
                                               channel == CHANNEL_LAUNCHER_DIALER
                               ? SINGLETONS_QUEUE_MAX
                               : IMSG_QUEUE_MAX;
}

static int enqueue(ImsgChannel *c, const struct iovec *iov, size_t n_iov, const int *fds, size_t n_fds)
{
        size_t size = 0, at = 0;
        Queued *q;

        if (c->n_queued >= queue_max(c->channel))
                return -ENOBUFS;
        for (size_t i = 0; i < n_iov; i++)
                size += iov[i].iov_len;
        q = malloc(sizeof(*q) + size);
        if (!q)
                return -ENOMEM;
        *q = (Queued){ .size = size };
        list_init(&q->link);
        for (size_t i = 0; i < n_iov; at += iov[i].iov_len, i++) {
                if (iov[i].iov_len > 0)
                        memcpy(q->data + at, iov[i].iov_base, iov[i].iov_len);
        }
        for (size_t i = 0; i < n_fds; i++) {
                q->fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
                if (q->fds[i] < 0) {
                        int r = neg_errno();

                        queued_free(q);
                        return r;
                }
                q->n_fds++;
        }
        list_append(&c->queue, &q->link);
        c->n_queued++;
        return 0;
}

int imsg_send_tail(ImsgChannel *c, PrivMessage type, const void *head, size_t head_size, const void *tail,
                   size_t tail_size, const int *fds, size_t n_fds)
{
        const PrivRule *rule = priv_rule(type);
        size_t size = head_size + tail_size;
        Header h = { .type = type, .size = (uint32_t) size, .sequence = c->sent };
        struct iovec iov[3] = {
                { .iov_base = &h, .iov_len = sizeof(h) },
                { .iov_base = (void *) (uintptr_t) head, .iov_len = head_size },
                { .iov_base = (void *) (uintptr_t) tail, .iov_len = tail_size },
        };
        int r;

        sb_assert(rule && rule->channel == c->channel && rule->sender == c->role);
        sb_assert(size >= rule->body_min && size <= rule->body_max);
        sb_assert(n_fds >= rule->fds_min && n_fds <= rule->fds_max);
        if (imsg_has_queue(c))
                r = enqueue(c, iov, ELEMENTSOF(iov), fds, n_fds);
        else {
                r = send_now(c->fd, iov, ELEMENTSOF(iov), fds, n_fds);
                if (r == -EAGAIN)
                        r = enqueue(c, iov, ELEMENTSOF(iov), fds, n_fds);
        }
        if (r < 0)
                return r;
        c->sent++;
        return 0;
}

int imsg_send(ImsgChannel *c, PrivMessage type, const void *body, size_t size, const int *fds, size_t n_fds)
{
        return imsg_send_tail(c, type, body, size, NULL, 0, fds, n_fds);
}

int imsg_flush(ImsgChannel *c)
{
        LIST_FOREACH (q, &c->queue, Queued, link) {
                struct iovec iov = { .iov_base = q->data, .iov_len = q->size };
                int r = send_now(c->fd, &iov, 1, q->fds, q->n_fds);

                if (r == -EAGAIN)
                        return 0;
                if (r < 0)
                        return r;
                queued_free(q);
                c->n_queued--;
        }
        return 0;
}

static void take_control(struct msghdr *m, Imsg *ret)
{
        for (struct cmsghdr *h = CMSG_FIRSTHDR(m); h; h = CMSG_NXTHDR(m, h)) {
                size_t n;

                if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
                        continue;
                n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                for (size_t i = 0; i < n; i++) {
                        int fd;

                        memcpy(&fd, CMSG_DATA(h) + i * sizeof(int), sizeof(int));
                        if (ret->n_fds < IMSG_FDS_MAX)
                                ret->fds[ret->n_fds++] = fd;
                        else
                                (void) fd_close(fd);
                }
        }
}

/* init outlives its api worker: the next one starts to count anew on the same socket, and comes into the
 * middle of what init sends. */
static bool sequence_ok(const ImsgChannel *c, const Header *h)
{
        if (h->sequence == c->received)
                return true;
        return c->channel == CHANNEL_API_INIT &&
               (c->role == ROLE_INIT ? h->sequence == 0 : c->received == 0);
}

/* Every check between the socket and a handler. */
static int check(const ImsgChannel *c, const Header *h, ssize_t n, int flags, Imsg *m)
{
        const PrivRule *rule;

        if ((size_t) n < sizeof(*h) || (flags & (MSG_TRUNC | MSG_CTRUNC)))
                return -EPROTO;
        rule = priv_rule(h->type);
        if (!rule || h->size != (size_t) n - sizeof(*h) || !sequence_ok(c, h))
                return -EPROTO;
        if (rule->channel != c->channel || rule->sender == c->role || !(rule->phase & c->phase))
                return -EPROTO;
        if (h->size < rule->body_min || h->size > rule->body_max)
                return -EPROTO;
        if (m->n_fds < rule->fds_min || m->n_fds > rule->fds_max)
                return -EPROTO;
        m->type = (PrivMessage) h->type;
        m->size = h->size;
        return 0;
}

int imsg_receive(ImsgChannel *c, Imsg *ret)
{
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int) * IMSG_FDS_MAX)];
        } control;
        struct iovec iov = { .iov_base = c->buffer, .iov_len = BUFFER_SIZE };
        struct msghdr m = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
        };
        Imsg message = { .n_fds = 0 };
        Header h = { 0 };
        ssize_t n;
        int r;

        do
                n = recvmsg(c->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        while (n < 0 && errno == EINTR);
        if (n < 0 && errno == EAGAIN)
                return 0;
        if (n < 0 && errno != ECONNRESET)
                return neg_errno();
        if (n <= 0)
                return -EPIPE;
        take_control(&m, &message);
        memcpy(&h, c->buffer, MIN_OF(sizeof(h), (size_t) n));
        r = check(c, &h, n, m.msg_flags, &message);
        if (r < 0) {
                imsg_done(&message);
                return r;
        }
        c->received = h.sequence + 1;
        message.body = c->buffer + sizeof(Header);
        *ret = message;
        return 1;
}

void imsg_done(Imsg *m)
{
        fd_close_many(m->fds, m->n_fds);
        m->n_fds = 0;
}
