#include <arpa/inet.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_log.h>
#include <sys/socket.h>

#include "daemon/isolate/steer.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"

/* The reader of what the table's `log` says. Only who has rights over the namespace may set it up, and
 * nobody can do more than read with it afterwards. */

#define MESSAGE_MAX 256U
#define COPY_BYTES  64U /* of a packet: its headers */
/* Each packet is there when its sender hears of the refusal: none is on its way when a session ends. */
#define BATCH           1U
#define BUFFER_BYTES    256U            /* of a packet with what the kernel says about it */
#define QUEUE_BYTES_MAX (1024U * 1024U) /* of such buffers; what finds no room is counted */

static int configure(int fd, void (*put)(struct nlmsghdr *h))
{
        _Alignas(struct nlmsghdr) char data[MESSAGE_MAX], answer[MESSAGE_MAX];
        struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
        struct nlmsghdr *h = mnl_nlmsg_put_header(data);
        struct nfgenmsg *m;
        ssize_t n;

        h->nlmsg_type = NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_CONFIG;
        h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
        m = mnl_nlmsg_put_extra_header(h, sizeof(*m));
        *m = (struct nfgenmsg){ .nfgen_family = AF_UNSPEC,
                                .version = NFNETLINK_V0,
                                .res_id = htons(STEER_LOG_GROUP) };
        put(h);
        if (sendto(fd, h, h->nlmsg_len, 0, (struct sockaddr *) &kernel, sizeof(kernel)) < 0)
                return neg_errno();
        n = recv(fd, answer, sizeof(answer), MSG_DONTWAIT);
        if (n < 0)
                return neg_errno();
        h = (void *) answer;
        if (!NLMSG_OK(h, n) || h->nlmsg_type != NLMSG_ERROR)
                return -EPROTO;
        return ((struct nlmsgerr *) NLMSG_DATA(h))->error;
}

static void put_bind(struct nlmsghdr *h)
{
        struct nfulnl_msg_config_cmd command = { .command = NFULNL_CFG_CMD_BIND };

        mnl_attr_put(h, NFULA_CFG_CMD, sizeof(command), &command);
}

static void put_mode(struct nlmsghdr *h)
{
        struct nfulnl_msg_config_mode mode = { .copy_range = htonl(COPY_BYTES),
                                               .copy_mode = NFULNL_COPY_PACKET };

        mnl_attr_put(h, NFULA_CFG_MODE, sizeof(mode), &mode);
        mnl_attr_put_u32(h, NFULA_CFG_QTHRESH, htonl(BATCH));
        mnl_attr_put_u32(h, NFULA_CFG_NLBUFSIZ, htonl(BUFFER_BYTES));
        mnl_attr_put_u16(h, NFULA_CFG_FLAGS, htons(NFULNL_CFG_F_SEQ));
}

int steer_log_open(int *ret_fd)
{
        _cleanup_close_ int fd =
                        socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_NETFILTER);
        struct sockaddr_nl any = { .nl_family = AF_NETLINK };
        int queue_bytes = QUEUE_BYTES_MAX, r;

        if (fd < 0 || bind(fd, (struct sockaddr *) &any, sizeof(any)) < 0)
                return neg_errno();
        if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &queue_bytes, sizeof(queue_bytes)) < 0)
                return neg_errno();
        r = configure(fd, put_bind);
        if (r >= 0)
                r = configure(fd, put_mode);
        if (r < 0)
                return r;
        *ret_fd = TAKE_FD(fd);
        return 0;
}
