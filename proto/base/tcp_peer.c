#include "proto/base/tcp_peer.h"

#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include "proto/base/error.h"
#include "proto/base/fd.h"

typedef union Address {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
} Address;

typedef struct Request {
        struct nlmsghdr header;
        struct inet_diag_req_v2 body;
} Request;

int tcp_peer_open(int *ret_fd)
{
        int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG);

        if (fd < 0)
                return neg_errno();
        *ret_fd = fd;
        return 0;
}

static void put_address(const Address *a, __be32 to[4], __be16 *port)
{
        if (a->any.sa_family == AF_INET6) {
                memcpy(to, &a->v6.sin6_addr, 16);
                *port = a->v6.sin6_port;
        } else {
                memcpy(to, &a->v4.sin_addr, 4);
                *port = a->v4.sin_port;
        }
}

/* The other end has our peer's address as its own. */
static int fill(int fd, Request *q)
{
        Address own, peer;
        socklen_t own_size = sizeof(own), peer_size = sizeof(peer);

        if (getsockname(fd, &own.any, &own_size) < 0 || getpeername(fd, &peer.any, &peer_size) < 0)
                return neg_errno();
        if ((own.any.sa_family != AF_INET && own.any.sa_family != AF_INET6) ||
            own.any.sa_family != peer.any.sa_family)
                return -EAFNOSUPPORT;
        *q = (Request){ .header = { .nlmsg_len = sizeof(*q),
                                    .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                                    .nlmsg_flags = NLM_F_REQUEST },
                        .body = { .sdiag_family = (uint8_t) own.any.sa_family,
                                  .sdiag_protocol = IPPROTO_TCP,
                                  .idiag_states = UINT32_MAX,
                                  .id = { .idiag_cookie = { INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE } } } };
        put_address(&peer, q->body.id.idiag_src, &q->body.id.idiag_sport);
        put_address(&own, q->body.id.idiag_dst, &q->body.id.idiag_dport);
        return 0;
}

/* What a former question left behind must not answer this one. */
static void drain(int fd)
{
        char byte;

        while (recv(fd, &byte, sizeof(byte), MSG_DONTWAIT | MSG_TRUNC) >= 0)
                ;
}

/* A socket of IPv6 may have connected to our IPv4 address: the kernel then says both in the other's form. */
static bool is_address(const __be32 said[4], bool is_v6, const __be32 asked[4], bool is_asked_v6)
{
        if (is_v6 == is_asked_v6)
                return memcmp(said, asked, is_v6 ? 16 : 4) == 0;
        return is_v6 && said[0] == 0 && said[1] == 0 && said[2] == htonl(0xffff) && said[3] == asked[0];
}

/* The kernel looks for a listener where it finds no connection, and says uid 0 of sockets that nobody holds
 * any more: neither may be taken for root's. */
static int judge(const struct inet_diag_msg *m, const Request *q, uint32_t *ret_uid)
{
        const struct inet_diag_sockid *id = &m->id, *asked = &q->body.id;
        bool is_v6 = m->idiag_family == AF_INET6, is_asked_v6 = q->body.sdiag_family == AF_INET6;

        if (id->idiag_sport != asked->idiag_sport || id->idiag_dport != asked->idiag_dport ||
            !is_address(id->idiag_src, is_v6, asked->idiag_src, is_asked_v6) ||
            !is_address(id->idiag_dst, is_v6, asked->idiag_dst, is_asked_v6))
                return -ENOENT;
        if (m->idiag_inode == 0 || (m->idiag_state != TCP_ESTABLISHED && m->idiag_state != TCP_FIN_WAIT1 &&
                                    m->idiag_state != TCP_FIN_WAIT2 && m->idiag_state != TCP_CLOSE_WAIT))
                return -ENOENT;
        *ret_uid = m->idiag_uid;
        return 0;
}

int tcp_peer_uid(int diag_fd, int fd, uint32_t *ret_uid)
{
        struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
        _Alignas(struct nlmsghdr) char data[4096];
        struct nlmsghdr *h = (void *) data;
        Request q;
        ssize_t n;
        int r = fill(fd, &q);

        if (r < 0)
                return r;
        drain(diag_fd);
        if (sendto(diag_fd, &q, sizeof(q), 0, (struct sockaddr *) &kernel, sizeof(kernel)) < 0)
                return neg_errno();
        n = recv(diag_fd, data, sizeof(data), MSG_DONTWAIT);
        if (n < 0)
                return neg_errno();
        if (!NLMSG_OK(h, n))
                return -EBADMSG;
        if (h->nlmsg_type == NLMSG_ERROR && h->nlmsg_len >= NLMSG_LENGTH(sizeof(struct nlmsgerr)))
                return MIN_OF(((const struct nlmsgerr *) NLMSG_DATA(h))->error, -1);
        if (h->nlmsg_type != SOCK_DIAG_BY_FAMILY ||
            h->nlmsg_len < NLMSG_LENGTH(sizeof(struct inet_diag_msg)))
                return -EBADMSG;
        return judge(NLMSG_DATA(h), &q, ret_uid);
}
