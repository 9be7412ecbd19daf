/*
 * Datagrams are refused by the kernel, which tells us of each one: for the log, nothing waits for us. The
 * first to a destination is a row at once, further ones are counted and a row of their own each second; of
 * many destinations those beyond a limit are counted together. What netfilter could not tell us it numbers,
 * so that it is counted, too; what finds a BPF ring full is lost.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_log.h>
#include <linux/netlink.h>
#include <sys/socket.h>

#include "daemon/egress/egress.h"
#include "daemon/policy/compiled.h"
#include "proto/base/bpf_ring.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"

#define DESTINATIONS_MAX 16U
#define UNDECIDED_MAX    (3U * DESTINATIONS_MAX) /* then what comes is counted only */
#define TURN_MAX         64U
#define LEFT_MAX         8192U /* read at the end: more than the queue holds */
#define TICK_USEC        USEC_PER_SEC
#define MESSAGE_MAX      8192U
#define PROTOCOL_NUMBER  17U
#define IPV4_HEADER_SIZE 20U
#define IPV6_HEADER_SIZE 40U
#define ATTRIBUTE_HEADER sizeof(struct nlattr)
#define ATTRIBUTE_ALIGN  4U

typedef struct Destination {
        PrivAddress address;
        uint32_t port;
        uint32_t count; /* not in a row yet */
} Destination;

struct Refused {
        Egress *egress;
        int fd;
        BpfRing *ring; /* NULL: messages of netfilter */
        LoopIo *io;
        LoopTimer *timer;
        bool is_ticking;
        bool is_over; /* there is no later time for what waits: audit has room for that much more */
        Destination destinations[DESTINATIONS_MAX];
        size_t n_destinations;
        Destination rest; /* the newest of those beyond */
        uint32_t next_number;
        bool has_number;
        unsigned n_undecided;
        uint64_t n_requests;
};

/* ---- rows ---- */

static bool write_row(Refused *f, Destination *d)
{
        PrivDecide decide = { .request = REFUSED_REQUEST | f->n_requests,
                              .entry = ENTRY_UDP,
                              .protocol = PROTOCOL_UDP,
                              .port = d->port,
                              .count = d->count,
                              .address = d->address };

        if (f->n_undecided >= UNDECIDED_MAX + (f->is_over ? DESTINATIONS_MAX + 1U : 0U) ||
            priv_link_send(f->egress->audit, PRIV_DECIDE, &decide, sizeof(decide), NULL, 0) < 0)
                return false;
        f->n_requests++;
        f->n_undecided++;
        d->count = 0;
        return true;
}

bool refused_on_verdict(Egress *e, uint64_t request)
{
        if (!(request & REFUSED_REQUEST))
                return false;
        if (e->refused && e->refused->n_undecided > 0)
                e->refused->n_undecided--;
        return true;
}

static void tick_later(Refused *f)
{
        if (!f->is_ticking)
                f->is_ticking = loop_timer_set(f->timer, TICK_USEC) >= 0;
}

static void on_tick(void *userdata)
{
        Refused *f = userdata;
        size_t n = 0;

        f->is_ticking = false;
        for (size_t i = 0; i < f->n_destinations; i++) {
                Destination d = f->destinations[i];

                /* Quiet for a second: its next one is the first again. */
                if (d.count == 0)
                        continue;
                (void) write_row(f, &d);
                f->destinations[n++] = d;
        }
        f->n_destinations = n;
        if (f->rest.count > 0)
                (void) write_row(f, &f->rest);
        if (n > 0 || f->rest.count > 0)
                tick_later(f);
}

static void add_count(Destination *d, uint32_t n)
{
        d->count = n < UINT32_MAX - d->count ? d->count + n : UINT32_MAX;
}

static void count_one(Refused *f, const Destination *to, uint32_t n_lost)
{
        Destination *d = NULL;

        for (size_t i = 0; i < f->n_destinations && !d; i++) {
                if (f->destinations[i].port == to->port &&
                    address_equal(&f->destinations[i].address, &to->address))
                        d = &f->destinations[i];
        }
        if (d) {
                add_count(d, 1);
        } else if (f->n_destinations < DESTINATIONS_MAX) {
                d = &f->destinations[f->n_destinations++];
                *d = *to;
                d->count = 1;
                (void) write_row(f, d);
        }
        if (!d || n_lost > 0) {
                uint32_t count = f->rest.count;

                f->rest = *to;
                f->rest.count = count;
                add_count(&f->rest, n_lost + (d ? 0 : 1));
        }
        tick_later(f);
}

/* ---- messages of the kernel, with packets of who knows whom ---- */

static uint16_t port_at(const uint8_t *packet, size_t size, size_t at)
{
        if (size < at + 4)
                return 0;
        return (uint16_t) (packet[at + 2] << 8 | packet[at + 3]);
}

/* Extension headers are not walked: the destination is known, if not its port. */
static int read_packet(const uint8_t *packet, size_t size, Destination *ret)
{
        *ret = (Destination){ .count = 0 };
        if (size >= IPV4_HEADER_SIZE && packet[0] >> 4 == 4) {
                ret->address.family = 4;
                memcpy(ret->address.bytes, packet + 16, 4);
                if (packet[9] == PROTOCOL_NUMBER)
                        ret->port = port_at(packet, size, (size_t) (packet[0] & 0xf) * 4);
                return 0;
        }
        if (size < IPV6_HEADER_SIZE || packet[0] >> 4 != 6)
                return -EBADMSG;
        ret->address.family = 6;
        memcpy(ret->address.bytes, packet + 24, 16);
        if (packet[6] == PROTOCOL_NUMBER)
                ret->port = port_at(packet, size, IPV6_HEADER_SIZE);
        return 0;
}

typedef struct Attribute {
        const uint8_t *data;
        size_t size;
} Attribute;

static Attribute find_attribute(const uint8_t *data, size_t size, uint16_t type)
{
        while (size >= ATTRIBUTE_HEADER) {
                struct nlattr a;
                size_t step;

                memcpy(&a, data, sizeof(a));
                if (a.nla_len < ATTRIBUTE_HEADER || a.nla_len > size)
                        break;
                if ((a.nla_type & NLA_TYPE_MASK) == type)
                        return (Attribute){ data + ATTRIBUTE_HEADER, a.nla_len - ATTRIBUTE_HEADER };
                step = MIN_OF(((size_t) a.nla_len + ATTRIBUTE_ALIGN - 1) & ~(size_t) (ATTRIBUTE_ALIGN - 1),
                              size);
                data += step;
                size -= step;
        }
        return (Attribute){ NULL, 0 };
}

/* How many were lost since the one before. */
static uint32_t take_number(Refused *f, Attribute number)
{
        uint32_t v, n_lost;

        if (number.size != sizeof(v))
                return 0;
        memcpy(&v, number.data, sizeof(v));
        v = ntohl(v);
        n_lost = f->has_number ? v - f->next_number : 0;
        f->next_number = v + 1;
        f->has_number = true;
        return n_lost;
}

static void take_message(Refused *f, const struct nlmsghdr *h)
{
        const uint8_t *data = (const uint8_t *) h + NLMSG_HDRLEN + sizeof(struct nfgenmsg);
        size_t head = NLMSG_HDRLEN + NLMSG_ALIGN(sizeof(struct nfgenmsg));
        Attribute packet;
        Destination to;

        if (h->nlmsg_type != (NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET) || h->nlmsg_len < head)
                return;
        packet = find_attribute(data, h->nlmsg_len - head, NFULA_PAYLOAD);
        if (!packet.data || read_packet(packet.data, packet.size, &to) < 0)
                return;
        count_one(f, &to, take_number(f, find_attribute(data, h->nlmsg_len - head, NFULA_SEQ)));
}

static void take_messages(Refused *f, unsigned n_max)
{
        _Alignas(struct nlmsghdr) char data[MESSAGE_MAX];

        for (unsigned i = 0; i < n_max; i++) {
                struct sockaddr_nl from = { .nl_family = AF_UNSPEC };
                socklen_t from_size = sizeof(from);
                ssize_t n = recvfrom(f->fd, data, sizeof(data), MSG_DONTWAIT, (struct sockaddr *) &from,
                                     &from_size);

                /* ENOBUFS: some were lost, and their numbers will say how many. */
                if (n < 0 && errno != ENOBUFS && errno != EINTR)
                        return;
                if (n < 0 || from.nl_pid != 0)
                        continue;
                for (struct nlmsghdr *h = (void *) data; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n))
                        take_message(f, h);
        }
}

static void take_records(Refused *f, unsigned n_max)
{
        PrivRefused record;

        for (unsigned i = 0; i < n_max && bpf_ring_take(f->ring, &record, sizeof(record)); i++) {
                Destination to = { .port = record.port & UINT16_MAX,
                                   .address.family = record.family == AF_INET ? 4 : 6 };

                if (to.address.family == 4)
                        memcpy(to.address.bytes, &record.v4, sizeof(record.v4));
                else
                        memcpy(to.address.bytes, record.v6, sizeof(record.v6));
                count_one(f, &to, 0);
        }
}

static void take(Refused *f, unsigned n_max)
{
        if (f->ring)
                take_records(f, n_max);
        else
                take_messages(f, n_max);
}

static void on_packets(void *userdata, _unused_ int fd, _unused_ unsigned events)
{
        take(userdata, TURN_MAX);
}

void refused_finish(Refused *f)
{
        take(f, LEFT_MAX);
        f->is_over = true;
        on_tick(f);
}

int refused_new(Egress *e, PrivEgressSocket which, int take_fd, Refused **ret)
{
        Refused *f = calloc(1, sizeof(*f));
        int r;

        if (!f) {
                (void) fd_close(take_fd);
                return -ENOMEM;
        }
        f->egress = e;
        f->fd = take_fd;
        r = which == EGRESS_RING ? bpf_ring_open(f->fd, PRIV_RING_BYTES_MIN, &f->ring)
                                 : fd_set_nonblock(f->fd, true);
        if (r >= 0)
                r = loop_timer_new(e->loop, on_tick, f, &f->timer);
        if (r >= 0)
                r = loop_io_new(e->loop, f->fd, LOOP_READ, on_packets, f, &f->io);
        if (r < 0) {
                (void) refused_free(f);
                return r;
        }
        *ret = f;
        return 0;
}

Refused *refused_free(Refused *f)
{
        if (!f)
                return NULL;
        f->io = loop_io_free(f->io);
        f->timer = loop_timer_free(f->timer);
        f->ring = bpf_ring_close(f->ring);
        f->fd = fd_close(f->fd);
        free(f);
        return NULL;
}
