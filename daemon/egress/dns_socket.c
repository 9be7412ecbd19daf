/* The ways on which questions come and answers go. */

#include <errno.h>
#include <netinet/in.h>

#include "daemon/egress/dns.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"

#define DATAGRAM_BATCH     32U
#define STREAM_IDLE_USEC   (20 * USEC_PER_SEC)
#define STREAM_OUT_MAX     (64U * 1024U)
#define STREAM_ANSWERS_MAX 16U /* owed on one stream; further questions wait in the socket */

struct DnsStream {
        ListLink link;
        Dns *dns;
        int fd;
        LoopIo *io;
        LoopTimer *timer;
        Buf in;
        Buf out;
        unsigned n_owed;
        bool is_eof;
};

/* ---- datagrams ---- */

typedef union Control {
        struct cmsghdr align;
        char data[128];
} Control;

/* Which server was asked: the answer has to come from there. */
static void read_asked(struct msghdr *m, PrivAddress *ret)
{
        for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
                if (c->cmsg_level == SOL_IP && c->cmsg_type == IP_ORIGDSTADDR &&
                    c->cmsg_len >= CMSG_LEN(sizeof(struct sockaddr_in))) {
                        const struct sockaddr_in *a = (const void *) CMSG_DATA(c);

                        ret->family = 4;
                        memcpy(ret->bytes, &a->sin_addr, 4);
                } else if (c->cmsg_level == SOL_IPV6 && c->cmsg_type == IPV6_ORIGDSTADDR &&
                           c->cmsg_len >= CMSG_LEN(sizeof(struct sockaddr_in6))) {
                        const struct sockaddr_in6 *a = (const void *) CMSG_DATA(c);

                        ret->family = 6;
                        memcpy(ret->bytes, &a->sin6_addr, 16);
                }
        }
}

static void put_source(struct msghdr *m, Control *control, const PrivAddress *source)
{
        struct in_pktinfo v4 = { .ipi_ifindex = 0 };
        struct in6_pktinfo v6 = { .ipi6_ifindex = 0 };
        bool is_v4 = source->family == 4;
        size_t size = is_v4 ? sizeof(v4) : sizeof(v6);
        struct cmsghdr *c;

        m->msg_control = control->data;
        m->msg_controllen = CMSG_SPACE(size);
        c = CMSG_FIRSTHDR(m);
        c->cmsg_level = is_v4 ? SOL_IP : SOL_IPV6;
        c->cmsg_type = is_v4 ? IP_PKTINFO : IPV6_PKTINFO;
        c->cmsg_len = CMSG_LEN(size);
        memcpy(&v4.ipi_spec_dst, source->bytes, sizeof(v4.ipi_spec_dst));
        memcpy(&v6.ipi6_addr, source->bytes, sizeof(v6.ipi6_addr));
        memcpy(CMSG_DATA(c), is_v4 ? (const void *) &v4 : (const void *) &v6, size);
}

/* Whoever does not take it asks again, or does not. */
static void send_datagram(const DnsPath *path, const DnsAnswer *a)
{
        struct iovec part = { .iov_base = (void *) (uintptr_t) a->data, .iov_len = a->size };
        struct sockaddr_storage peer = path->peer;
        Control control = { .data = "" };
        struct msghdr m = {
                .msg_name = &peer, .msg_namelen = path->peer_size, .msg_iov = &part, .msg_iovlen = 1
        };

        if (path->asked.family != 0)
                put_source(&m, &control, &path->asked);
        (void) sendmsg(path->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static ssize_t receive(DnsDoor *door, void *data, size_t size, DnsPath *ret)
{
        struct iovec part = { .iov_base = data, .iov_len = size };
        Control control = { .data = "" };
        struct msghdr m = { .msg_iov = &part,
                            .msg_iovlen = 1,
                            .msg_control = control.data,
                            .msg_controllen = sizeof(control.data) };
        ssize_t n;

        *ret = (DnsPath){ .fd = door->fd };
        m.msg_name = &ret->peer;
        m.msg_namelen = sizeof(ret->peer);
        n = recvmsg(door->fd, &m, MSG_DONTWAIT);
        if (n < 0)
                return neg_errno();
        ret->peer_size = m.msg_namelen;
        read_asked(&m, &ret->asked);
        return m.msg_flags & MSG_TRUNC ? 0 : n;
}

static void on_datagram(void *userdata, _unused_ int fd, _unused_ unsigned events)
{
        DnsDoor *door = userdata;
        uint8_t data[DNS_QUESTION_MAX];

        for (unsigned i = 0; i < DATAGRAM_BATCH; i++) {
                DnsPath path;
                ssize_t n = receive(door, data, sizeof(data), &path);

                if (n == -EAGAIN)
                        return;
                /* Too long, no question, or one too many: no answer. An error is an earlier answer's. */
                if (n > 0)
                        (void) !dns_ask(door->dns, &path, data, (size_t) n);
        }
}

/* ---- streams ---- */

static void stream_free(DnsStream *s)
{
        dns_forget(s->dns, s);
        list_unlink(&s->link);
        s->dns->n_streams--;
        s->io = loop_io_free(s->io);
        s->timer = loop_timer_free(s->timer);
        s->fd = fd_close(s->fd);
        buf_done(&s->in);
        buf_done(&s->out);
        free(s);
}

static void on_stream_idle(void *userdata)
{
        stream_free(userdata);
}

/* The answer itself goes when the socket is writable: this may be called while questions are read. */
static void send_stream(DnsStream *s, const DnsAnswer *a)
{
        uint8_t length[2] = { (uint8_t) (a->size >> 8), (uint8_t) a->size };
        int r;

        s->n_owed--;
        r = buf_put(&s->out, length, sizeof(length));
        if (r >= 0)
                r = buf_put(&s->out, a->data, a->size);
        if (r >= 0)
                r = loop_io_set_events(s->io, LOOP_WRITE);
        if (r < 0)
                (void) log_warning(r, "cannot answer on a stream of DNS, ignoring");
}

/* 1: a question was taken; 0: there is none; -EBADMSG: whoever speaks there does not speak DNS. */
static int take_question(DnsStream *s)
{
        const uint8_t *data = (const uint8_t *) buf_front(&s->in);
        DnsPath path = { .stream = s, .fd = s->fd };
        size_t n;
        int r;

        if (buf_size(&s->in) < 2 || s->n_owed >= STREAM_ANSWERS_MAX)
                return 0;
        n = (size_t) data[0] << 8 | data[1];
        if (n > DNS_QUESTION_MAX)
                return -EBADMSG;
        if (buf_size(&s->in) < n + 2)
                return 0;
        s->n_owed++;
        r = dns_ask(s->dns, &path, data + 2, n);
        if (r < 0)
                return r;
        buf_consume(&s->in, n + 2);
        return 1;
}

static int pump(DnsStream *s)
{
        int r = buf_send(s->fd, &s->out);

        if (r >= 0 && !s->is_eof && buf_size(&s->in) < DNS_QUESTION_MAX + 2) {
                r = buf_receive(s->fd, &s->in, DNS_QUESTION_MAX + 2 - buf_size(&s->in));
                s->is_eof = r == 0;
                if (r > 0)
                        r = loop_timer_set(s->timer, STREAM_IDLE_USEC);
                if (r == -EAGAIN)
                        r = 0;
        }
        while (r >= 0) {
                r = take_question(s);
                if (r == 0)
                        break;
        }
        if (r >= 0 && s->is_eof && s->n_owed == 0 && buf_size(&s->out) == 0)
                return -EPIPE;
        return r;
}

static void on_stream(void *userdata, _unused_ int fd, _unused_ unsigned events)
{
        DnsStream *s = userdata;
        bool is_full;
        int r = pump(s);

        is_full = s->is_eof || s->n_owed >= STREAM_ANSWERS_MAX;
        if (r >= 0)
                r = loop_io_set_events(s->io, (is_full ? 0U : LOOP_READ) |
                                                              (buf_size(&s->out) > 0 ? LOOP_WRITE : 0U));
        if (r < 0)
                stream_free(s);
}

int dns_accept(Dns *d, int take_fd)
{
        _cleanup_close_ int fd = take_fd;
        DnsStream *s;
        int r;

        if (d->n_streams >= DNS_STREAMS_MAX)
                return -EMFILE;
        s = calloc(1, sizeof(*s));
        if (!s)
                return -ENOMEM;
        *s = (DnsStream){
                .dns = d, .fd = -EBADF, .in = BUF_INIT(DNS_QUESTION_MAX + 2), .out = BUF_INIT(STREAM_OUT_MAX)
        };
        r = loop_timer_new(d->egress->loop, on_stream_idle, s, &s->timer);
        if (r >= 0)
                r = loop_timer_set(s->timer, STREAM_IDLE_USEC);
        if (r >= 0)
                r = loop_io_new(d->egress->loop, fd, LOOP_READ, on_stream, s, &s->io);
        if (r < 0) {
                s->timer = loop_timer_free(s->timer);
                free(s);
                return r;
        }
        s->fd = TAKE_FD(fd);
        list_init(&s->link);
        list_append(&d->streams, &s->link);
        d->n_streams++;
        return 0;
}

/* ---- doors ---- */

int dns_take_datagrams(Dns *d, int take_fd)
{
        _cleanup_close_ int fd = take_fd;
        DnsDoor *door = &d->datagrams[d->n_datagrams];
        int r;

        if (d->n_datagrams >= DNS_DATAGRAMS_MAX)
                return -E2BIG;
        r = fd_set_nonblock(fd, true);
        if (r >= 0)
                r = loop_io_new(d->egress->loop, fd, LOOP_READ, on_datagram, door, &door->io);
        if (r < 0)
                return r;
        door->dns = d;
        door->fd = TAKE_FD(fd);
        d->n_datagrams++;
        return 0;
}

void dns_sockets_close(Dns *d)
{
        LIST_FOREACH (s, &d->streams, DnsStream, link)
                stream_free(s);
        for (; d->n_datagrams > 0; d->n_datagrams--) {
                DnsDoor *door = &d->datagrams[d->n_datagrams - 1];

                door->io = loop_io_free(door->io);
                door->fd = fd_close(door->fd);
        }
}

size_t dns_path_limit(const DnsPath *path, const DnsQuestion *q)
{
        if (path->stream)
                return DNS_ANSWER_MAX;
        return MIN_OF((size_t) q->udp_size, (size_t) DNS_UDP_MAX);
}

void dns_send(const DnsPath *path, const DnsAnswer *a)
{
        if (path->stream)
                send_stream(path->stream, a);
        else
                send_datagram(path, a);
}
