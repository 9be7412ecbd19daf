#include "daemon/isolate/netns.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"

/*
 * The launcher's thread goes into the new namespace, sets it up and comes back; sockets made inside stay
 * inside. lo is the only device: without a default route everything but the session's own addresses is
 * ENETUNREACH. The addresses are there so that programs find one that is not loopback.
 */

#define NETNS_SELF           "/proc/thread-self/ns/net"
#define NETNS_BACKLOG        1024
#define NETNS_LOOPBACK_INDEX 1
#define NETNS_BATCH_SIZE     256U
#define NETNS_N_MESSAGES     3U

static const uint8_t address_v4[4] = { 10, 0, 2, 15 };
static const uint8_t address_v6[16] = { 0xfd, 0x00, 0x00, 0x5a, [15] = 0x15 };

typedef struct Batch {
        _Alignas(struct nlmsghdr) char data[NETNS_BATCH_SIZE];
        size_t size;
        uint32_t n_messages;
} Batch;

static void *batch_put(Batch *b, uint16_t type, uint16_t flags, size_t size)
{
        struct nlmsghdr *h = (void *) (b->data + b->size);
        size_t space = NLMSG_SPACE(size);

        sb_assert(space <= sizeof(b->data) - b->size);
        memset(h, 0, space);
        *h = (struct nlmsghdr){ .nlmsg_len = (uint32_t) NLMSG_LENGTH(size),
                                .nlmsg_type = type,
                                .nlmsg_flags = (uint16_t) (NLM_F_REQUEST | NLM_F_ACK | flags),
                                .nlmsg_seq = ++b->n_messages };
        b->size += space;
        return NLMSG_DATA(h);
}

static void batch_put_link_up(Batch *b)
{
        struct ifinfomsg *m = batch_put(b, RTM_NEWLINK, 0, sizeof(*m));

        *m = (struct ifinfomsg){ .ifi_index = NETNS_LOOPBACK_INDEX,
                                 .ifi_flags = IFF_UP,
                                 .ifi_change = IFF_UP };
}

static void batch_put_address(Batch *b, uint8_t family, const uint8_t *address, size_t size)
{
        size_t total = NLMSG_ALIGN(sizeof(struct ifaddrmsg)) + RTA_SPACE(size);
        struct ifaddrmsg *m = batch_put(b, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, total);
        struct rtattr *a = (void *) ((char *) m + NLMSG_ALIGN(sizeof(*m)));

        *m = (struct ifaddrmsg){ .ifa_family = family,
                                 .ifa_prefixlen = (uint8_t) (size * 8),
                                 .ifa_flags = family == AF_INET6 ? IFA_F_NODAD : 0,
                                 .ifa_index = NETNS_LOOPBACK_INDEX };
        *a = (struct rtattr){ .rta_len = (uint16_t) RTA_LENGTH(size), .rta_type = IFA_LOCAL };
        memcpy(RTA_DATA(a), address, size);
}

static bool lacks_ipv6(int error)
{
        return error == -EOPNOTSUPP || error == -EAFNOSUPPORT || error == -EACCES;
}

/* One answer a message, in order. */
static int read_answers(int fd, uint32_t n_messages, bool *ret_has_ipv6)
{
        _Alignas(struct nlmsghdr) char data[4096];
        uint32_t n = 0;

        *ret_has_ipv6 = true;
        while (n < n_messages) {
                ssize_t size = recv(fd, data, sizeof(data), 0);

                if (size < 0 && errno == EINTR)
                        continue;
                if (size < 0)
                        return neg_errno();
                for (struct nlmsghdr *h = (void *) data; NLMSG_OK(h, size); h = NLMSG_NEXT(h, size)) {
                        const struct nlmsgerr *e = NLMSG_DATA(h);

                        if (h->nlmsg_type != NLMSG_ERROR || h->nlmsg_seq != ++n)
                                return -EPROTO;
                        if (n == NETNS_N_MESSAGES && lacks_ipv6(e->error))
                                *ret_has_ipv6 = false;
                        else if (e->error != 0)
                                return e->error;
                }
        }
        return 0;
}

static int configure(bool *ret_has_ipv6)
{
        struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
        _cleanup_close_ int fd = -EBADF;
        Batch b = { .size = 0 };

        fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
        if (fd < 0)
                return neg_errno();
        batch_put_link_up(&b);
        batch_put_address(&b, AF_INET, address_v4, sizeof(address_v4));
        batch_put_address(&b, AF_INET6, address_v6, sizeof(address_v6));
        sb_assert(b.n_messages == NETNS_N_MESSAGES);
        if (sendto(fd, b.data, b.size, 0, (struct sockaddr *) &kernel, sizeof(kernel)) < 0)
                return neg_errno();
        return read_answers(fd, b.n_messages, ret_has_ipv6);
}

static int listen_on(const struct sockaddr *address, socklen_t size, int *ret_fd)
{
        _cleanup_close_ int fd = -EBADF;
        int one = 1;

        fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return neg_errno();
        if (address->sa_family == AF_INET6 && setsockopt(fd, SOL_IPV6, IPV6_V6ONLY, &one, sizeof(one)) < 0)
                return neg_errno();
        if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0)
                return neg_errno();
        if (bind(fd, address, size) < 0 || listen(fd, NETNS_BACKLOG) < 0)
                return neg_errno();
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static int make_listeners(NetworkNamespace *n, bool has_ipv6)
{
        struct sockaddr_in v4 = { .sin_family = AF_INET,
                                  .sin_port = htons(NETNS_PROXY_PORT),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        struct sockaddr_in6 v6 = { .sin6_family = AF_INET6,
                                   .sin6_port = htons(NETNS_PROXY_PORT),
                                   .sin6_addr = IN6ADDR_LOOPBACK_INIT };
        int r;

        r = listen_on((struct sockaddr *) &v4, sizeof(v4), &n->listener_fds[0]);
        if (r < 0)
                return r;
        n->n_listeners = 1;
        if (!has_ipv6)
                return 0;
        r = listen_on((struct sockaddr *) &v6, sizeof(v6), &n->listener_fds[1]);
        if (r < 0)
                return r;
        n->n_listeners = 2;
        return 0;
}

static int set_up(NetworkNamespace *n)
{
        bool has_ipv6;
        int r;

        r = netns_open_home(&n->fd);
        if (r >= 0)
                r = configure(&has_ipv6);
        if (r >= 0)
                r = make_listeners(n, has_ipv6);
        return r;
}

static bool is_home(int home_fd)
{
        struct stat home, here;

        return fstat(home_fd, &home) >= 0 && stat(NETNS_SELF, &here) >= 0 && home.st_dev == here.st_dev &&
               home.st_ino == here.st_ino;
}

int netns_open_home(int *ret_fd)
{
        int fd = open(NETNS_SELF, O_RDONLY | O_CLOEXEC);

        if (fd < 0)
                return neg_errno();
        *ret_fd = fd;
        return 0;
}

int netns_new(int home_fd, NetworkNamespace *ret)
{
        NetworkNamespace n = NETNS_INIT;
        int r;

        if (unshare(CLONE_NEWNET) < 0)
                return neg_errno();
        r = set_up(&n);
        /* A launcher that is lost in a session's namespace must not go on. */
        sb_assert(setns(home_fd, CLONE_NEWNET) >= 0);
        sb_assert(is_home(home_fd));
        if (r < 0) {
                netns_done(&n);
                return r;
        }
        *ret = n;
        return 0;
}

void netns_done(NetworkNamespace *n)
{
        fd_close_many(n->listener_fds, ELEMENTSOF(n->listener_fds));
        n->fd = fd_close(n->fd);
        n->n_listeners = 0;
}
