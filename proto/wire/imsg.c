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

/* A packet that the socket did not take. */
typedef struct Queued {
        ListLink link;
        size_t n_messages;
        size_t size;
        size_t n_fds;
        int *fds; /* behind the data */
        char data[];
} Queued;

/* Messages of one turn, for one packet. */
#define BUNDLE_SIZE         16384U
#define BUNDLE_MESSAGES_MAX 64U
#define ALIGNMENT           8U

struct ImsgBundle {
        size_t size;
        size_t n_messages;
        int fds[IMSG_PACKET_FDS_MAX];
        size_t n_fds;
        char data[BUNDLE_SIZE];
};

_Static_assert(PRIV_EXEC_MAX >= PRIV_RECORD_EXEC_MAX && PRIV_EXEC_MAX >= PRIV_DECIDE_MAX &&
                               PRIV_EXEC_MAX >= sizeof(PrivSessionCreated),
               "the receive buffer holds every message");

int imsg_pair(int ret_fds[2])
{
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ret_fds) < 0)
                return neg_errno();
        return 0;
}

bool imsg_may_gather(PrivChannel channel)
{
        return channel == CHANNEL_EGRESS_AUDIT || channel == CHANNEL_AUDIT_DIALER ||
               channel == CHANNEL_DIALER_EGRESS;
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

static ImsgBundle *bundle_free(ImsgBundle *b)
{
        if (b)
                fd_close_many(b->fds, b->n_fds);
        free(b);
        return NULL;
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
        c->bundle = bundle_free(c->bundle);
        fd_close_many(c->fds + c->fds_at, c->n_fds - c->fds_at);
        c->fds_at = c->n_fds = c->at = c->n_packet = 0;
        free(c->buffer);
        c->buffer = NULL;
        c->n_queued = 0;
        c->fd = fd_close(c->fd);
}

static int send_now(int fd, struct iovec *iov, size_t n_iov, const int *fds, size_t n_fds)
{
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int) * IMSG_PACKET_FDS_MAX)];
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

static size_t align_up(size_t n)
{
        return (n + ALIGNMENT - 1) & ~(size_t) (ALIGNMENT - 1);
}

static size_t queue_max(PrivChannel channel)
{
        return channel == CHANNEL_AUDIT_DIALER || channel == CHANNEL_LAUNCHER_AUDIT ||
                                               channel == CHANNEL_LAUNCHER_DIALER
                               ? SINGLETONS_QUEUE_MAX
                               : IMSG_QUEUE_MAX;
}

static int enqueue(ImsgChannel *c, const struct iovec *iov, size_t n_iov, size_t n_messages, const int *fds,
                   size_t n_fds)
{
        size_t size = 0, at = 0;
        Queued *q;

        if (c->n_queued >= queue_max(c->channel))
                return -ENOBUFS;
        for (size_t i = 0; i < n_iov; i++)
                size += iov[i].iov_len;
        q = malloc(sizeof(*q) + align_up(size) + n_fds * sizeof(int));
        if (!q)
                return -ENOMEM;
        *q = (Queued){ .n_messages = n_messages,
                       .size = size,
                       .fds = (int *) (void *) (q->data + align_up(size)) };
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
        c->n_queued += n_messages;
        return 0;
}

/* Of descriptors that nobody has read yet the kernel lets our user have so many: others have theirs to read,
 * which is no fault of this peer. */
static int try_send(ImsgChannel *c, struct iovec *iov, size_t n_iov, const int *fds, size_t n_fds)
{
        int r = send_now(c->fd, iov, n_iov, fds, n_fds);

        c->is_crowded = r == -ETOOMANYREFS;
        return c->is_crowded ? -EAGAIN : r;
}

static int send_or_queue(ImsgChannel *c, struct iovec *iov, size_t n_iov, size_t n_messages, const int *fds,
                         size_t n_fds)
{
        int r = imsg_has_queue(c) ? -EAGAIN : try_send(c, iov, n_iov, fds, n_fds);

        return r == -EAGAIN ? enqueue(c, iov, n_iov, n_messages, fds, n_fds) : r;
}

static int flush_bundle(ImsgChannel *c)
{
        ImsgBundle *b = c->bundle;
        struct iovec iov;
        int r;

        if (!b)
                return 0;
        c->bundle = NULL;
        if (b->n_messages == 0) {
                b = bundle_free(b);
                return 0;
        }
        iov = (struct iovec){ .iov_base = b->data, .iov_len = b->size };
        r = send_or_queue(c, &iov, 1, b->n_messages, b->fds, b->n_fds);
        b = bundle_free(b);
        return r;
}

/* Room for one more message in the packet that waits; else that one goes, and another begins. */
static int prepare_bundle(ImsgChannel *c, size_t size, size_t n_fds)
{
        const ImsgBundle *b = c->bundle;

        if (b && (align_up(b->size) + size > BUNDLE_SIZE || b->n_messages >= BUNDLE_MESSAGES_MAX ||
                  b->n_fds + n_fds > IMSG_PACKET_FDS_MAX)) {
                int r = flush_bundle(c);

                if (r < 0)
                        return r;
        }
        if (c->bundle)
                return 0;
        c->bundle = malloc(sizeof(*c->bundle));
        if (!c->bundle)
                return -ENOMEM;
        c->bundle->size = c->bundle->n_messages = c->bundle->n_fds = 0;
        return 0;
}

static int duplicate_into(ImsgBundle *b, const int *fds, size_t n_fds)
{
        size_t n_before = b->n_fds;

        for (size_t i = 0; i < n_fds; i++) {
                b->fds[b->n_fds] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
                if (b->fds[b->n_fds] < 0) {
                        int r = neg_errno();

                        fd_close_many(b->fds + n_before, b->n_fds - n_before);
                        b->n_fds = n_before;
                        return r;
                }
                b->n_fds++;
        }
        return 0;
}

/* What waits goes, and then this, without company. */
static int send_alone(ImsgChannel *c, struct iovec *iov, size_t n_iov, const int *fds, size_t n_fds)
{
        int r = flush_bundle(c);

        return r < 0 ? r : send_or_queue(c, iov, n_iov, 1, fds, n_fds);
}

static int gather(ImsgChannel *c, struct iovec *iov, size_t n_iov, size_t size, const int *fds, size_t n_fds)
{
        int r = prepare_bundle(c, size, n_fds);
        ImsgBundle *b = c->bundle;

        if (r < 0)
                return r;
        /* Where no number is free: the caller's own go, and need none. */
        if (duplicate_into(b, fds, n_fds) < 0)
                return send_alone(c, iov, n_iov, fds, n_fds);
        memset(b->data + b->size, 0, align_up(b->size) - b->size);
        b->size = align_up(b->size);
        for (size_t i = 0; i < n_iov; b->size += iov[i].iov_len, i++) {
                if (iov[i].iov_len > 0)
                        memcpy(b->data + b->size, iov[i].iov_base, iov[i].iov_len);
        }
        b->n_messages++;
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
        if (c->is_gathering && sizeof(h) + size <= BUNDLE_SIZE)
                r = gather(c, iov, ELEMENTSOF(iov), sizeof(h) + size, fds, n_fds);
        else
                r = send_alone(c, iov, ELEMENTSOF(iov), fds, n_fds);
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
                int r = try_send(c, &iov, 1, q->fds, q->n_fds);

                if (r == -EAGAIN)
                        break;
                if (r < 0)
                        return r;
                c->n_queued -= q->n_messages;
                queued_free(q);
        }
        return flush_bundle(c);
}

static void take_control(ImsgChannel *c, struct msghdr *m)
{
        c->fds_at = c->n_fds = 0;
        for (struct cmsghdr *h = CMSG_FIRSTHDR(m); h; h = CMSG_NXTHDR(m, h)) {
                size_t n;

                if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
                        continue;
                n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                for (size_t i = 0; i < n; i++) {
                        int fd;

                        memcpy(&fd, CMSG_DATA(h) + i * sizeof(int), sizeof(int));
                        if (c->n_fds < IMSG_PACKET_FDS_MAX)
                                c->fds[c->n_fds++] = fd;
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

/* The header of the message that begins at c->at, and how much of the packet is left behind it. */
static int read_header(const ImsgChannel *c, Header *ret, size_t *ret_left)
{
        size_t left = c->n_packet - c->at;

        if (left < sizeof(*ret))
                return -EPROTO;
        memcpy(ret, c->buffer + c->at, sizeof(*ret));
        left -= sizeof(*ret);
        if (ret->size > left)
                return -EPROTO;
        *ret_left = left - ret->size;
        return 0;
}

/* Every check between the packet and a handler. */
static int check(const ImsgChannel *c, const Header *h, size_t left, size_t *ret_n_fds)
{
        const PrivRule *rule = priv_rule(h->type);
        size_t n_fds = c->n_fds - c->fds_at;

        if (!rule || !sequence_ok(c, h))
                return -EPROTO;
        if (rule->channel != c->channel || rule->sender == c->role || !(rule->phase & c->phase))
                return -EPROTO;
        if (h->size < rule->body_min || h->size > rule->body_max)
                return -EPROTO;
        /* Where others follow, the table says how many descriptors are this one's. */
        if (left > 0) {
                if (c->n_packet > BUNDLE_SIZE || c->n_taken + 1 >= BUNDLE_MESSAGES_MAX)
                        return -EPROTO;
                if (!imsg_may_gather(c->channel) || rule->fds_min != rule->fds_max || n_fds < rule->fds_min)
                        return -EPROTO;
                if (align_up(c->n_packet - left) + sizeof(*h) > c->n_packet)
                        return -EPROTO;
                n_fds = rule->fds_min;
        }
        if (n_fds < rule->fds_min || n_fds > rule->fds_max)
                return -EPROTO;
        *ret_n_fds = n_fds;
        return 0;
}

/* The next message of the packet. */
static int take_message(ImsgChannel *c, Imsg *ret)
{
        Header h = { 0 };
        size_t left, n_fds;
        int r = read_header(c, &h, &left);

        if (r >= 0)
                r = check(c, &h, left, &n_fds);
        if (r < 0) {
                fd_close_many(c->fds + c->fds_at, c->n_fds - c->fds_at);
                c->fds_at = c->n_fds = c->at = c->n_packet = 0;
                return r;
        }
        c->n_taken++;
        c->received = h.sequence + 1;
        *ret = (Imsg){ .type = (PrivMessage) h.type,
                       .body = c->buffer + c->at + sizeof(h),
                       .size = h.size,
                       .n_fds = n_fds };
        memcpy(ret->fds, c->fds + c->fds_at, n_fds * sizeof(int));
        c->fds_at += n_fds;
        c->at = left > 0 ? align_up(c->n_packet - left) : c->n_packet;
        return 1;
}

static int receive_packet(ImsgChannel *c)
{
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int) * IMSG_PACKET_FDS_MAX)];
        } control;
        struct iovec iov = { .iov_base = c->buffer, .iov_len = BUFFER_SIZE };
        struct msghdr m = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
        };
        ssize_t n;

        do
                n = recvmsg(c->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        while (n < 0 && errno == EINTR);
        if (n < 0 && errno == EAGAIN)
                return 0;
        if (n < 0 && errno != ECONNRESET)
                return neg_errno();
        if (n <= 0)
                return -EPIPE;
        take_control(c, &m);
        c->at = 0;
        c->n_taken = 0;
        c->n_packet = (size_t) n;
        /* Cut short: whatever it holds does not count. */
        if (m.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
                c->n_packet = 1;
        return 1;
}

int imsg_receive(ImsgChannel *c, Imsg *ret)
{
        int r = imsg_has_more(c) ? 1 : receive_packet(c);

        return r > 0 ? take_message(c, ret) : r;
}

void imsg_done(Imsg *m)
{
        fd_close_many(m->fds, m->n_fds);
        m->n_fds = 0;
}
