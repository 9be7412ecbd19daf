#include "daemon/dialer/local.h"

#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/socket.h>

#include "daemon/policy/compiled.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"

/*
 * New addresses count at once. Others go only when a whole dump has been read: until then an address too
 * many is guarded, never one too few.
 */

#define ADDRESSES_MAX 4096U
#define MESSAGE_SIZE  65536U

typedef struct AddressSet {
        PrivAddress *items;
        size_t n;
} AddressSet;

struct LocalAddresses {
        int fd;
        LoopIo *io;
        AddressSet current;
        AddressSet dumped;
        bool is_dumping;
        bool must_dump_again;
        char *buffer;
};

static int set_add(AddressSet *s, const PrivAddress *a)
{
        for (size_t i = 0; i < s->n; i++) {
                if (address_equal(&s->items[i], a))
                        return 0;
        }
        if (s->n >= ADDRESSES_MAX)
                return -ENOBUFS;
        s->items[s->n++] = *a;
        return 0;
}

static int request_dump(LocalAddresses *l)
{
        struct {
                struct nlmsghdr header;
                struct ifaddrmsg message;
        } request = { .header = { .nlmsg_len = sizeof(request),
                                  .nlmsg_type = RTM_GETADDR,
                                  .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP } };

        if (l->is_dumping) {
                l->must_dump_again = true;
                return 0;
        }
        l->dumped.n = 0;
        l->must_dump_again = false;
        if (send(l->fd, &request, sizeof(request), 0) < 0)
                return neg_errno();
        l->is_dumping = true;
        return 0;
}

static int read_attribute(const struct rtattr *a, unsigned char family, PrivAddress *ret)
{
        size_t size = family == AF_INET ? 4 : 16;

        if (RTA_PAYLOAD(a) != size)
                return -EBADMSG;
        *ret = (PrivAddress){ .family = family == AF_INET ? 4 : 6 };
        memcpy(ret->bytes, RTA_DATA(a), size);
        return 0;
}

static const struct rtattr *next_attribute(const struct rtattr *a, int *left)
{
        int size = (int) RTA_ALIGN(a->rta_len);

        *left -= size;
        return (const void *) ((const char *) a + size);
}

static int on_address(LocalAddresses *l, const struct nlmsghdr *h)
{
        const struct ifaddrmsg *m = NLMSG_DATA(h);
        int left, r = 0;

        if (h->nlmsg_len < NLMSG_LENGTH(sizeof(*m)) ||
            (m->ifa_family != AF_INET && m->ifa_family != AF_INET6))
                return 0;
        left = (int) (h->nlmsg_len - NLMSG_LENGTH(sizeof(*m)));
        for (const struct rtattr *a = IFA_RTA(m); RTA_OK(a, left) && r >= 0; a = next_attribute(a, &left)) {
                PrivAddress address;

                /* On a point-to-point link IFA_ADDRESS is the peer's; guarding it as well does no harm. */
                if (a->rta_type != IFA_ADDRESS && a->rta_type != IFA_LOCAL)
                        continue;
                r = read_attribute(a, m->ifa_family, &address);
                if (r >= 0)
                        r = set_add(&l->current, &address);
                if (r >= 0)
                        r = set_add(&l->dumped, &address);
        }
        return r;
}

static int on_dump_done(LocalAddresses *l)
{
        AddressSet old = l->current;

        l->is_dumping = false;
        if (!l->must_dump_again) {
                l->current = l->dumped;
                l->dumped = old;
                return 0;
        }
        return request_dump(l);
}

static int on_message(LocalAddresses *l, const struct nlmsghdr *h)
{
        switch (h->nlmsg_type) {
        case RTM_NEWADDR:
                return on_address(l, h);
        case RTM_DELADDR:
                return request_dump(l);
        case NLMSG_DONE:
                if (h->nlmsg_flags & NLM_F_DUMP_INTR)
                        l->must_dump_again = true;
                return on_dump_done(l);
        case NLMSG_ERROR:
                return -EIO;
        default:
                return 0;
        }
}

static int receive(LocalAddresses *l, int flags)
{
        ssize_t n = recv(l->fd, l->buffer, MESSAGE_SIZE, flags);
        unsigned left;
        int r = 0;

        if (n < 0 && errno == ENOBUFS)
                return request_dump(l);
        if (n < 0)
                return neg_errno();
        left = (unsigned) n;
        for (struct nlmsghdr *h = (struct nlmsghdr *) (void *) l->buffer; NLMSG_OK(h, left) && r >= 0;
             h = NLMSG_NEXT(h, left))
                r = on_message(l, h);
        return r < 0 ? r : 1;
}

static void on_netlink(void *userdata, _unused_ int fd, _unused_ unsigned events)
{
        LocalAddresses *l = userdata;
        int r;

        do
                r = receive(l, MSG_DONTWAIT);
        while (r > 0);
        if (r < 0 && r != -EAGAIN && r != -EINTR)
                (void) log_warning(r, "cannot follow this machine's addresses, ignoring");
}

int local_addresses_open(LocalAddresses **ret)
{
        struct sockaddr_nl name = { .nl_family = AF_NETLINK,
                                    .nl_groups = RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR };
        LocalAddresses *l = calloc(1, sizeof(*l));
        int r;

        if (!l)
                return -ENOMEM;
        *l = (LocalAddresses){ .fd = -EBADF };
        l->buffer = malloc(MESSAGE_SIZE);
        l->current.items = calloc(ADDRESSES_MAX, sizeof(PrivAddress));
        l->dumped.items = calloc(ADDRESSES_MAX, sizeof(PrivAddress));
        if (!l->buffer || !l->current.items || !l->dumped.items) {
                (void) local_addresses_free(l);
                return -ENOMEM;
        }
        l->fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
        if (l->fd < 0 || bind(l->fd, (struct sockaddr *) &name, sizeof(name)) < 0) {
                r = neg_errno();
                (void) local_addresses_free(l);
                return r;
        }
        *ret = l;
        return 0;
}

int local_addresses_start(LocalAddresses *l, Loop *loop)
{
        int r = request_dump(l);

        while (r >= 0 && l->is_dumping)
                r = receive(l, 0);
        if (r < 0)
                return r;
        return loop_io_new(loop, l->fd, LOOP_READ, on_netlink, l, &l->io);
}

LocalAddresses *local_addresses_free(LocalAddresses *l)
{
        if (!l)
                return NULL;
        l->io = loop_io_free(l->io);
        if (l->fd >= 0)
                l->fd = fd_close(l->fd);
        free(l->buffer);
        free(l->current.items);
        free(l->dumped.items);
        free(l);
        return NULL;
}

bool local_addresses_contain(const LocalAddresses *l, const PrivAddress *a)
{
        PrivAddress plain = address_unmap(a);

        for (size_t i = 0; i < l->current.n; i++) {
                if (address_equal(&l->current.items[i], &plain))
                        return true;
        }
        return false;
}
