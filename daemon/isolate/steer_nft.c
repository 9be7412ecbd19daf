#include <errno.h>
#include <libmnl/libmnl.h>
#include <libnftnl/chain.h>
#include <libnftnl/common.h>
#include <libnftnl/expr.h>
#include <libnftnl/rule.h>
#include <libnftnl/table.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "daemon/isolate/steer.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"

/*
 * The table, as nft would show it; [door] is the listener's address.
 *
 *   chain own { meta mark STEER_MARK accept; ip daddr { 127.0.0.0/8, 10.0.2.15 } accept;
 *               ip6 daddr { ::1, fd00:5a::15 } accept }
 *   chain pre { type filter hook prerouting priority mangle; policy accept;
 *               tcp dport 53 tproxy to [door] accept; jump own
 *               meta l4proto tcp tproxy to [door] accept; meta l4proto tcp drop }
 *   chain out { type filter hook output priority filter; policy accept;
 *               meta l4proto tcp accept; jump own; udp dport 53 accept; meta l4proto udp log group 5 }
 *   chain in  { type filter hook input priority filter; policy drop;
 *               jump own; meta l4proto tcp accept; udp dport 53 accept; meta l4proto udp reject
 *               reject with icmpx admin-prohibited }
 *
 * - tcp drop: where the listener is gone nothing of the session may stand in for it.
 * - reject in input, not in output: there the program would see EPERM instead of ECONNREFUSED.
 * - log, if anybody can read it, in output: each packet passes once, and before its refusal.
 * - The answer of a listener goes to an address that the program may have chosen itself; it is known by its
 *   mark, which no program inside may set.
 */

#define TABLE        "sandboxd"
#define CHAIN_OWN    "own"
#define CHAIN_PRE    "pre"
#define CHAIN_IN     "in"
#define CHAIN_OUT    "out"
#define BATCH_MAX    16384U
#define MESSAGE_MAX  2048U /* the longest rule takes a fifth of it */
#define DNS_PORT     53U
#define MANGLE       (-150)
#define IPV4_DADDR   16U
#define IPV6_DADDR   24U
#define TH_DPORT     2U
#define PROTOCOL_TCP 6U
#define PROTOCOL_UDP 17U

typedef struct Builder {
        char *data;
        size_t size;
        uint32_t n_messages;
        int error; /* the first one; the rest does nothing */
} Builder;

static struct nlmsghdr *put(Builder *b, uint16_t type, uint16_t family, uint16_t flags)
{
        if (b->size + MESSAGE_MAX > BATCH_MAX) {
                b->error = -E2BIG;
                return NULL;
        }
        return nftnl_nlmsg_build_hdr(b->data + b->size, type, family, flags, ++b->n_messages);
}

static void commit(Builder *b, const struct nlmsghdr *h)
{
        b->size += NLMSG_ALIGN(h->nlmsg_len);
}

/* The kernel takes a batch only between these two. */
static void put_bound(Builder *b, uint16_t type)
{
        struct nlmsghdr *h = put(b, type, AF_UNSPEC, 0);
        struct nfgenmsg *m;

        if (!h)
                return;
        /* nftnl_nlmsg_build_hdr() takes numbers of nftables only. */
        h->nlmsg_type = type;
        m = mnl_nlmsg_get_payload(h);
        m->res_id = __builtin_bswap16(NFNL_SUBSYS_NFTABLES);
        commit(b, h);
}

static void put_table(Builder *b)
{
        struct nlmsghdr *h = put(b, NFT_MSG_NEWTABLE, NFPROTO_INET, NLM_F_CREATE);
        struct nftnl_table *t = nftnl_table_alloc();

        if (h && t) {
                nftnl_table_set_str(t, NFTNL_TABLE_NAME, TABLE);
                nftnl_table_nlmsg_build_payload(h, t);
                commit(b, h);
        } else {
                b->error = b->error < 0 ? b->error : -ENOMEM;
        }
        if (t)
                nftnl_table_free(t);
}

typedef struct Hook {
        uint32_t number;
        int32_t priority;
        uint32_t policy;
} Hook;

static void put_chain(Builder *b, const char *name, const Hook *hook)
{
        struct nlmsghdr *h = put(b, NFT_MSG_NEWCHAIN, NFPROTO_INET, NLM_F_CREATE);
        struct nftnl_chain *c = nftnl_chain_alloc();

        if (h && c) {
                nftnl_chain_set_str(c, NFTNL_CHAIN_TABLE, TABLE);
                nftnl_chain_set_str(c, NFTNL_CHAIN_NAME, name);
                if (hook) {
                        nftnl_chain_set_str(c, NFTNL_CHAIN_TYPE, "filter");
                        nftnl_chain_set_u32(c, NFTNL_CHAIN_HOOKNUM, hook->number);
                        nftnl_chain_set_s32(c, NFTNL_CHAIN_PRIO, hook->priority);
                        nftnl_chain_set_u32(c, NFTNL_CHAIN_POLICY, hook->policy);
                }
                nftnl_chain_nlmsg_build_payload(h, c);
                commit(b, h);
        } else {
                b->error = b->error < 0 ? b->error : -ENOMEM;
        }
        if (c)
                nftnl_chain_free(c);
}

/* ---- rules: rule_new(), expressions, rule_put() ---- */

static struct nftnl_rule *rule_new(Builder *b, const char *chain)
{
        struct nftnl_rule *r = nftnl_rule_alloc();

        if (!r) {
                b->error = -ENOMEM;
                return NULL;
        }
        nftnl_rule_set_u32(r, NFTNL_RULE_FAMILY, NFPROTO_INET);
        if (nftnl_rule_set_str(r, NFTNL_RULE_TABLE, TABLE) < 0 ||
            nftnl_rule_set_str(r, NFTNL_RULE_CHAIN, chain) < 0)
                b->error = -ENOMEM;
        return r;
}

static void rule_put(Builder *b, struct nftnl_rule *r, uint16_t flags)
{
        struct nlmsghdr *h = put(b, NFT_MSG_NEWRULE, NFPROTO_INET,
                                 (uint16_t) (NLM_F_APPEND | NLM_F_CREATE | flags));

        if (h && r) {
                nftnl_rule_nlmsg_build_payload(h, r);
                commit(b, h);
        }
        if (r)
                nftnl_rule_free(r);
}

static struct nftnl_expr *add(Builder *b, struct nftnl_rule *r, const char *name)
{
        struct nftnl_expr *e = r ? nftnl_expr_alloc(name) : NULL;

        if (e)
                nftnl_rule_add_expr(r, e);
        else
                b->error = -ENOMEM;
        return e;
}

static void add_compare(Builder *b, struct nftnl_rule *r, const void *data, uint32_t size)
{
        struct nftnl_expr *e = add(b, r, "cmp");

        if (!e)
                return;
        nftnl_expr_set_u32(e, NFTNL_EXPR_CMP_SREG, NFT_REG_1);
        nftnl_expr_set_u32(e, NFTNL_EXPR_CMP_OP, NFT_CMP_EQ);
        nftnl_expr_set(e, NFTNL_EXPR_CMP_DATA, data, size);
}

static void add_meta(Builder *b, struct nftnl_rule *r, uint32_t key, const void *data, uint32_t size)
{
        struct nftnl_expr *e = add(b, r, "meta");

        if (!e)
                return;
        nftnl_expr_set_u32(e, NFTNL_EXPR_META_KEY, key);
        nftnl_expr_set_u32(e, NFTNL_EXPR_META_DREG, NFT_REG_1);
        add_compare(b, r, data, size);
}

static void add_protocol(Builder *b, struct nftnl_rule *r, uint8_t protocol)
{
        add_meta(b, r, NFT_META_L4PROTO, &protocol, sizeof(protocol));
}

typedef struct Field {
        uint32_t base;
        uint32_t offset;
        uint32_t size;
} Field;

static void add_payload(Builder *b, struct nftnl_rule *r, Field f, const void *data)
{
        struct nftnl_expr *e = add(b, r, "payload");

        if (!e)
                return;
        nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_DREG, NFT_REG_1);
        nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_BASE, f.base);
        nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_OFFSET, f.offset);
        nftnl_expr_set_u32(e, NFTNL_EXPR_PAYLOAD_LEN, f.size);
        add_compare(b, r, data, f.size);
}

static void add_dns_port(Builder *b, struct nftnl_rule *r)
{
        uint16_t port = __builtin_bswap16(DNS_PORT);

        add_payload(b, r, (Field){ NFT_PAYLOAD_TRANSPORT_HEADER, TH_DPORT, sizeof(port) }, &port);
}

static void add_immediate(Builder *b, struct nftnl_rule *r, uint32_t reg, const void *data, uint32_t size)
{
        struct nftnl_expr *e = add(b, r, "immediate");

        if (!e)
                return;
        nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_DREG, reg);
        nftnl_expr_set(e, NFTNL_EXPR_IMM_DATA, data, size);
}

/* chain: of NFT_JUMP */
static void add_verdict(Builder *b, struct nftnl_rule *r, int verdict, const char *chain)
{
        struct nftnl_expr *e = add(b, r, "immediate");

        if (!e)
                return;
        nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_DREG, NFT_REG_VERDICT);
        if (chain)
                nftnl_expr_set_str(e, NFTNL_EXPR_IMM_CHAIN, chain);
        nftnl_expr_set_u32(e, NFTNL_EXPR_IMM_VERDICT, (uint32_t) verdict);
}

static void add_tproxy(Builder *b, struct nftnl_rule *r, bool is_ipv6)
{
        uint16_t port = __builtin_bswap16(STEER_PORT);
        struct nftnl_expr *e;

        if (is_ipv6)
                add_immediate(b, r, NFT_REG_1, steer_door_v6, sizeof(steer_door_v6));
        else
                add_immediate(b, r, NFT_REG_1, steer_door_v4, sizeof(steer_door_v4));
        add_immediate(b, r, NFT_REG_2, &port, sizeof(port));
        e = add(b, r, "tproxy");
        if (!e)
                return;
        nftnl_expr_set_u32(e, NFTNL_EXPR_TPROXY_FAMILY, is_ipv6 ? NFPROTO_IPV6 : NFPROTO_IPV4);
        nftnl_expr_set_u32(e, NFTNL_EXPR_TPROXY_REG_ADDR, NFT_REG_1);
        nftnl_expr_set_u32(e, NFTNL_EXPR_TPROXY_REG_PORT, NFT_REG_2);
}

static void add_reject(Builder *b, struct nftnl_rule *r, uint8_t code)
{
        struct nftnl_expr *e = add(b, r, "reject");

        if (!e)
                return;
        nftnl_expr_set_u32(e, NFTNL_EXPR_REJECT_TYPE, NFT_REJECT_ICMPX_UNREACH);
        nftnl_expr_set_u8(e, NFTNL_EXPR_REJECT_CODE, code);
}

/* ---- chains ---- */

static void accept_address(Builder *b, uint8_t family, Field f, const void *address)
{
        struct nftnl_rule *r = rule_new(b, CHAIN_OWN);

        add_meta(b, r, NFT_META_NFPROTO, &family, sizeof(family));
        add_payload(b, r, f, address);
        add_verdict(b, r, NF_ACCEPT, NULL);
        rule_put(b, r, 0);
}

static void put_own(Builder *b)
{
        static const uint8_t loopback_v4 = 127, loopback_v6[16] = { [15] = 1 };
        uint32_t mark = STEER_MARK;
        struct nftnl_rule *r;

        put_chain(b, CHAIN_OWN, NULL);
        r = rule_new(b, CHAIN_OWN);
        add_meta(b, r, NFT_META_MARK, &mark, sizeof(mark));
        add_verdict(b, r, NF_ACCEPT, NULL);
        rule_put(b, r, 0);
        accept_address(b, NFPROTO_IPV4, (Field){ NFT_PAYLOAD_NETWORK_HEADER, IPV4_DADDR, 1 }, &loopback_v4);
        accept_address(b, NFPROTO_IPV4, (Field){ NFT_PAYLOAD_NETWORK_HEADER, IPV4_DADDR, 4 }, steer_own_v4);
        accept_address(b, NFPROTO_IPV6, (Field){ NFT_PAYLOAD_NETWORK_HEADER, IPV6_DADDR, 16 }, loopback_v6);
        accept_address(b, NFPROTO_IPV6, (Field){ NFT_PAYLOAD_NETWORK_HEADER, IPV6_DADDR, 16 }, steer_own_v6);
}

static void put_jump_own(Builder *b, const char *chain)
{
        struct nftnl_rule *r = rule_new(b, chain);

        add_verdict(b, r, NFT_JUMP, CHAIN_OWN);
        rule_put(b, r, 0);
}

static void put_steering(Builder *b, bool is_ipv6, bool is_dns)
{
        struct nftnl_rule *r = rule_new(b, CHAIN_PRE);

        add_protocol(b, r, PROTOCOL_TCP);
        if (is_dns)
                add_dns_port(b, r);
        add_tproxy(b, r, is_ipv6);
        add_verdict(b, r, NF_ACCEPT, NULL);
        rule_put(b, r, 0);
}

static void put_pre(Builder *b, bool has_ipv6)
{
        static const Hook hook = { NF_INET_PRE_ROUTING, MANGLE, NF_ACCEPT };
        struct nftnl_rule *r;

        put_chain(b, CHAIN_PRE, &hook);
        for (int is_ipv6 = 0; is_ipv6 <= has_ipv6; is_ipv6++)
                put_steering(b, is_ipv6, /* is_dns= */ true);
        put_jump_own(b, CHAIN_PRE);
        for (int is_ipv6 = 0; is_ipv6 <= has_ipv6; is_ipv6++)
                put_steering(b, is_ipv6, /* is_dns= */ false);
        r = rule_new(b, CHAIN_PRE);
        add_protocol(b, r, PROTOCOL_TCP);
        add_verdict(b, r, NF_DROP, NULL);
        rule_put(b, r, 0);
}

static void put_accept(Builder *b, const char *chain, uint8_t protocol, bool is_dns)
{
        struct nftnl_rule *r = rule_new(b, chain);

        add_protocol(b, r, protocol);
        if (is_dns)
                add_dns_port(b, r);
        add_verdict(b, r, NF_ACCEPT, NULL);
        rule_put(b, r, 0);
}

static void put_out(Builder *b)
{
        static const Hook hook = { NF_INET_LOCAL_OUT, 0, NF_ACCEPT };
        struct nftnl_rule *r;
        struct nftnl_expr *e;

        put_chain(b, CHAIN_OUT, &hook);
        put_accept(b, CHAIN_OUT, PROTOCOL_TCP, /* is_dns= */ false);
        put_jump_own(b, CHAIN_OUT);
        put_accept(b, CHAIN_OUT, PROTOCOL_UDP, /* is_dns= */ true);
        r = rule_new(b, CHAIN_OUT);
        add_protocol(b, r, PROTOCOL_UDP);
        e = add(b, r, "log");
        if (e)
                nftnl_expr_set_u16(e, NFTNL_EXPR_LOG_GROUP, STEER_LOG_GROUP);
        rule_put(b, r, 0);
}

static void put_in(Builder *b)
{
        static const Hook hook = { NF_INET_LOCAL_IN, 0, NF_DROP };
        struct nftnl_rule *r;

        put_chain(b, CHAIN_IN, &hook);
        put_jump_own(b, CHAIN_IN);
        put_accept(b, CHAIN_IN, PROTOCOL_TCP, /* is_dns= */ false);
        put_accept(b, CHAIN_IN, PROTOCOL_UDP, /* is_dns= */ true);
        r = rule_new(b, CHAIN_IN);
        add_protocol(b, r, PROTOCOL_UDP);
        add_reject(b, r, NFT_REJECT_ICMPX_PORT_UNREACH);
        rule_put(b, r, 0);
        r = rule_new(b, CHAIN_IN);
        add_reject(b, r, NFT_REJECT_ICMPX_ADMIN_PROHIBITED);
        rule_put(b, r, NLM_F_ACK);
}

int steer_nft_build(bool has_ipv6, bool has_log, char **ret_data, size_t *ret_size, uint32_t *ret_last)
{
        _cleanup_free_ char *data = calloc(1, BATCH_MAX);
        Builder b = { .data = data };

        if (!data)
                return -ENOMEM;
        put_bound(&b, NFNL_MSG_BATCH_BEGIN);
        put_table(&b);
        put_own(&b);
        put_pre(&b, has_ipv6);
        if (has_log)
                put_out(&b);
        put_in(&b);
        *ret_last = b.n_messages;
        put_bound(&b, NFNL_MSG_BATCH_END);
        if (b.error < 0)
                return b.error;
        *ret_data = TAKE_PTR(data);
        *ret_size = b.size;
        return 0;
}

/* An error of any message, or of the whole, or the last message's word that all is done. */
static int read_answer(int fd, uint32_t last)
{
        _Alignas(struct nlmsghdr) char data[8192];

        for (;;) {
                /* The kernel has done all of it when sendto() returns. */
                ssize_t size = recv(fd, data, sizeof(data), MSG_DONTWAIT);

                if (size < 0 && errno == EINTR)
                        continue;
                if (size < 0)
                        return neg_errno();
                for (struct nlmsghdr *h = (void *) data; NLMSG_OK(h, size); h = NLMSG_NEXT(h, size)) {
                        const struct nlmsgerr *e = NLMSG_DATA(h);

                        if (h->nlmsg_type != NLMSG_ERROR)
                                return -EPROTO;
                        if (e->error != 0 || h->nlmsg_seq == last)
                                return e->error;
                }
        }
}

int steer_nft_load(const char *data, size_t size, uint32_t last)
{
        struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
        _cleanup_close_ int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);

        if (fd < 0)
                return neg_errno();
        if (sendto(fd, data, size, 0, (struct sockaddr *) &kernel, sizeof(kernel)) < 0)
                return neg_errno();
        return read_answer(fd, last);
}
