#include "daemon/isolate/netns.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
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
 * inside. lo is the only device, and every address is local to it: nothing can leave, and what is not for
 * the session's own addresses is the steering's. The own addresses are there so that programs find one that
 * is not loopback; the routes name them as source, since a connection from an address to itself would meet
 * itself.
 */

#define NETNS_SELF           "/proc/thread-self/ns/net"
#define NETNS_CONGESTION     "/proc/sys/net/ipv4/tcp_congestion_control"
#define NETNS_PINGS          "/proc/sys/net/ipv4/ping_group_range" /* for IPv6, too */
#define NETNS_BACKLOG        1024
#define NETNS_LOOPBACK_INDEX 1
#define NETNS_BATCH_SIZE     512U
#define NETNS_TRY_MSEC       2000

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

/* The messages, in this order; those from the first of IPv6 on may fail where the kernel has none. */
enum { MESSAGE_LINK = 1, MESSAGE_ADDRESS_V4, MESSAGE_ROUTE_V4, MESSAGE_ADDRESS_V6, MESSAGE_ROUTE_V6 };

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

static void *put_attribute(void *at, uint16_t type, const void *data, size_t size)
{
        struct rtattr *a = at;

        *a = (struct rtattr){ .rta_len = (uint16_t) RTA_LENGTH(size), .rta_type = type };
        memcpy(RTA_DATA(a), data, size);
        return (char *) at + RTA_SPACE(size);
}

static void batch_put_address(Batch *b, uint8_t family, const uint8_t *address, size_t size)
{
        size_t total = NLMSG_ALIGN(sizeof(struct ifaddrmsg)) + RTA_SPACE(size);
        struct ifaddrmsg *m = batch_put(b, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, total);

        *m = (struct ifaddrmsg){ .ifa_family = family,
                                 .ifa_prefixlen = (uint8_t) (size * 8),
                                 .ifa_flags = family == AF_INET6 ? IFA_F_NODAD : 0,
                                 .ifa_index = NETNS_LOOPBACK_INDEX };
        (void) put_attribute((char *) m + NLMSG_ALIGN(sizeof(*m)), IFA_LOCAL, address, size);
}

/* local default dev lo src ADDRESS */
static void batch_put_route(Batch *b, uint8_t family, const uint8_t *source, size_t size)
{
        uint32_t device = NETNS_LOOPBACK_INDEX;
        size_t total = NLMSG_ALIGN(sizeof(struct rtmsg)) + RTA_SPACE(sizeof(device)) + RTA_SPACE(size);
        struct rtmsg *m = batch_put(b, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, total);
        void *at = (char *) m + NLMSG_ALIGN(sizeof(*m));

        *m = (struct rtmsg){ .rtm_family = family,
                             .rtm_table = RT_TABLE_LOCAL,
                             .rtm_type = RTN_LOCAL,
                             .rtm_scope = family == AF_INET ? RT_SCOPE_HOST : RT_SCOPE_UNIVERSE,
                             .rtm_protocol = RTPROT_STATIC };
        at = put_attribute(at, RTA_OIF, &device, sizeof(device));
        (void) put_attribute(at, RTA_PREFSRC, source, size);
}

static bool lacks_ipv6(int error)
{
        return error == -EOPNOTSUPP || error == -EAFNOSUPPORT || error == -EACCES;
}

static int take_answer(const struct nlmsghdr *h, uint32_t expected, bool *has_ipv6)
{
        const struct nlmsgerr *e = NLMSG_DATA(h);

        if (h->nlmsg_type != NLMSG_ERROR || h->nlmsg_seq != expected)
                return -EPROTO;
        if (expected == MESSAGE_ADDRESS_V6 && lacks_ipv6(e->error))
                *has_ipv6 = false;
        return expected < MESSAGE_ADDRESS_V6 || *has_ipv6 ? e->error : 0;
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
                        int r = take_answer(h, ++n, ret_has_ipv6);

                        if (r < 0)
                                return r;
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
        batch_put_address(&b, AF_INET, steer_own_v4, sizeof(steer_own_v4));
        batch_put_route(&b, AF_INET, steer_own_v4, sizeof(steer_own_v4));
        batch_put_address(&b, AF_INET6, steer_own_v6, sizeof(steer_own_v6));
        batch_put_route(&b, AF_INET6, steer_own_v6, sizeof(steer_own_v6));
        sb_assert(b.n_messages == MESSAGE_ROUTE_V6);
        if (sendto(fd, b.data, b.size, 0, (struct sockaddr *) &kernel, sizeof(kernel)) < 0)
                return neg_errno();
        return read_answers(fd, b.n_messages, ret_has_ipv6);
}

/* ---- sockets ---- */

typedef union Address {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
} Address;

static Address address_of(PrivEgressSocket which)
{
        Address a = { .any.sa_family = AF_UNSPEC };

        switch (which) {
        case EGRESS_PROXY4:
        case EGRESS_DOOR4:
                a.v4 = (struct sockaddr_in){ .sin_family = AF_INET,
                                             .sin_port = htons(NETNS_PROXY_PORT),
                                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
                break;
        case EGRESS_PROXY6:
        case EGRESS_DOOR6:
                a.v6 = (struct sockaddr_in6){ .sin6_family = AF_INET6,
                                              .sin6_port = htons(NETNS_PROXY_PORT),
                                              .sin6_addr = IN6ADDR_LOOPBACK_INIT };
                break;
        case EGRESS_LOG:
        case EGRESS_RING:
        case _EGRESS_SOCKET_MAX:
                break;
        }
        if (which == EGRESS_DOOR4) {
                a.v4.sin_port = htons(STEER_PORT);
                memcpy(&a.v4.sin_addr, steer_door_v4, sizeof(steer_door_v4));
        } else if (which == EGRESS_DOOR6) {
                a.v6.sin6_port = htons(STEER_PORT);
                memcpy(&a.v6.sin6_addr, steer_door_v6, sizeof(steer_door_v6));
        }
        return a;
}

static bool is_ipv6(PrivEgressSocket which)
{
        return which == EGRESS_PROXY6 || which == EGRESS_DOOR6;
}

static bool is_door(PrivEgressSocket which)
{
        return which == EGRESS_DOOR4 || which == EGRESS_DOOR6;
}

static int set_option(int fd, int level, int option, int value)
{
        return setsockopt(fd, level, option, &value, sizeof(value)) < 0 ? neg_errno() : 0;
}

/* Sends and receives in the name of any address. */
static int make_transparent(int fd, bool is_v6)
{
        int r = set_option(fd, SOL_SOCKET, SO_MARK, (int) STEER_MARK);

        if (r < 0)
                return r;
        return is_v6 ? set_option(fd, SOL_IPV6, IPV6_TRANSPARENT, 1)
                     : set_option(fd, SOL_IP, IP_TRANSPARENT, 1);
}

static int make_listener(PrivEgressSocket which, int *ret_fd)
{
        Address a = address_of(which);
        _cleanup_close_ int fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        int r = 0;

        if (fd < 0)
                return neg_errno();
        if (is_ipv6(which))
                r = set_option(fd, SOL_IPV6, IPV6_V6ONLY, 1);
        if (r >= 0)
                r = set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
        /* What it accepts has it, too. */
        if (r >= 0)
                r = set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
        if (r >= 0 && is_door(which))
                r = make_transparent(fd, is_ipv6(which));
        if (r < 0)
                return r;
        if (bind(fd, &a.any, is_ipv6(which) ? sizeof(a.v6) : sizeof(a.v4)) < 0 ||
            listen(fd, NETNS_BACKLOG) < 0)
                return neg_errno();
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static int make_sockets(NetworkNamespace *n, bool has_ipv6)
{
        for (unsigned i = 0; i < _EGRESS_SOCKET_MAX; i++) {
                int r = 0;

                if (i == EGRESS_LOG || i == EGRESS_RING)
                        continue;
                if (has_ipv6 || !is_ipv6((PrivEgressSocket) i))
                        r = make_listener((PrivEgressSocket) i, &n->socket_fds[i]);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int write_setting(const char *path, const char *text)
{
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);

        return fd < 0 ? neg_errno() : fd_write_all(fd, text, strlen(text));
}

/* Nothing is lost on the way from a program to its egress worker, and nobody else is on it: an algorithm
 * that paces what it sends, as that of the machine may, only sets timers. */
static void choose_congestion_control(void)
{
        /* The one that every kernel has. */
        if (write_setting(NETNS_CONGESTION, "reno") < 0)
                log_debug("The congestion control of a session's network stays the machine's");
}

/* The kernel asks who may before it asks the program that refuses and counts (pings.h). Where this fails
 * nobody may. */
static void let_pings(void)
{
        if (write_setting(NETNS_PINGS, "0 4294967294") < 0)
                log_debug("Who pings in a session is refused by the kernel itself, which tells nobody");
}

static void read_cookie(NetworkNamespace *n)
{
        socklen_t size = sizeof(n->cookie);

        if (getsockopt(n->socket_fds[EGRESS_PROXY4], SOL_SOCKET, SO_NETNS_COOKIE, &n->cookie, &size) < 0)
                n->cookie = 0;
}

static int set_up(NetworkNamespace *n, const Steering *steering)
{
        bool has_ipv6;
        int r;

        r = netns_open_home(&n->fd);
        if (r >= 0)
                r = configure(&has_ipv6);
        if (r >= 0)
                choose_congestion_control();
        if (r >= 0 && steering && steering_lets_pings(steering))
                let_pings();
        if (r >= 0)
                r = make_sockets(n, has_ipv6);
        if (r >= 0)
                read_cookie(n);
        if (r >= 0)
                r = netns_open_dns(has_ipv6, n->dns_fds);
        if (r >= 0 && steering)
                r = steering_apply(steering, n->fd, &n->socket_fds[EGRESS_DOOR4], &n->steer_fd,
                                   &n->socket_fds[EGRESS_LOG], &n->socket_fds[EGRESS_RING]);
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

/* A launcher that is lost in a session's namespace must not go on. */
static void come_home(int home_fd)
{
        sb_assert(setns(home_fd, CLONE_NEWNET) >= 0);
        sb_assert(is_home(home_fd));
}

int netns_new(int home_fd, const Steering *steering, NetworkNamespace *ret)
{
        NetworkNamespace n = NETNS_INIT;
        int r;

        if (unshare(CLONE_NEWNET) < 0)
                return neg_errno();
        r = set_up(&n, steering);
        come_home(home_fd);
        if (r < 0) {
                netns_done(&n);
                return r;
        }
        *ret = n;
        return 0;
}

void netns_done(NetworkNamespace *n)
{
        n->steer_fd = fd_close(n->steer_fd);
        fd_close_many(n->socket_fds, ELEMENTSOF(n->socket_fds));
        fd_close_many(n->dns_fds, ELEMENTSOF(n->dns_fds));
        n->fd = fd_close(n->fd);
}

/* ---- a connection into it ---- */

int netns_go_on_connecting(int fd, bool is_v6, uint16_t port)
{
        Address to = address_of(is_v6 ? EGRESS_PROXY6 : EGRESS_PROXY4);

        if (is_v6)
                to.v6.sin6_port = htons(port);
        else
                to.v4.sin_port = htons(port);
        return connect(fd, &to.any, is_v6 ? sizeof(to.v6) : sizeof(to.v4)) < 0 ? neg_errno() : 0;
}

static int begin_connection(bool is_v6, uint16_t port, int *ret_fd)
{
        _cleanup_close_ int fd =
                        socket(is_v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        int r;

        if (fd < 0)
                return neg_errno();
        r = netns_go_on_connecting(fd, is_v6, port);
        if (r < 0 && r != -EINPROGRESS)
                return r;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int netns_connect(int home_fd, const NetworkNamespace *n, bool is_v6, uint16_t port, int *ret_fd)
{
        int r;

        if (setns(n->fd, CLONE_NEWNET) < 0)
                return neg_errno();
        r = begin_connection(is_v6, port, ret_fd);
        come_home(home_fd);
        return r;
}

/* ---- the trial ---- */

/* Documentation addresses (RFC 5737, RFC 3849): nobody's. */
static Address somewhere(bool is_v6)
{
        Address a = { .any.sa_family = AF_UNSPEC };

        if (is_v6)
                a.v6 = (struct sockaddr_in6){ .sin6_family = AF_INET6,
                                              .sin6_port = htons(443),
                                              .sin6_addr.s6_addr = { 0x20, 0x01, 0x0d, 0xb8, [15] = 1 } };
        else
                a.v4 = (struct sockaddr_in){ .sin_family = AF_INET,
                                             .sin_port = htons(443),
                                             .sin_addr.s_addr = htonl(UINT32_C(0xc0000201)) };
        return a;
}

static int try_door(int listener_fd, bool is_v6)
{
        struct pollfd p = { .fd = listener_fd, .events = POLLIN };
        _cleanup_close_ int client = -EBADF, server = -EBADF;
        Address to = somewhere(is_v6), found = { .any.sa_family = AF_UNSPEC };
        socklen_t size = is_v6 ? sizeof(to.v6) : sizeof(to.v4), found_size = sizeof(found);

        client = socket(to.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (client < 0 || (connect(client, &to.any, size) < 0 && errno != EINPROGRESS))
                return neg_errno();
        if (poll(&p, 1, NETNS_TRY_MSEC) != 1)
                return -ETIMEDOUT;
        server = accept4(listener_fd, NULL, NULL, SOCK_CLOEXEC);
        if (server < 0 || getsockname(server, &found.any, &found_size) < 0)
                return neg_errno();
        return found_size == size && memcmp(&found, &to, size) == 0 ? 0 : -ENOTRECOVERABLE;
}

int netns_try(int home_fd, const Steering *steering)
{
        NetworkNamespace n = NETNS_INIT;
        int r = netns_new(home_fd, steering, &n);

        if (r < 0)
                return r;
        if (setns(n.fd, CLONE_NEWNET) < 0)
                r = neg_errno();
        if (r >= 0)
                r = try_door(n.socket_fds[EGRESS_DOOR4], false);
        if (r >= 0 && n.socket_fds[EGRESS_DOOR6] >= 0)
                r = try_door(n.socket_fds[EGRESS_DOOR6], true);
        come_home(home_fd);
        netns_done(&n);
        return r;
}
