#include "daemon/dialer/resolve.h"

#include <ares.h>
#include <arpa/nameser.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/mman.h>

#include "daemon/dialer/hosts.h"
#include "daemon/dialer/records.h"
#include "daemon/policy/compiled.h"
#include "proto/base/clock.h"
#include "proto/base/fd.h"
#include "proto/base/list.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

#define QUERY_TIMEOUT_MSEC 2000
#define QUERY_TRIES        2
#define ANSWERS_MAX        16

typedef struct AresSocket {
        ListLink link;
        Resolver *resolver;
        int fd;
        LoopIo *io;
} AresSocket;

struct Resolver {
        Loop *loop;
        ares_channel channel;
        LoopTimer *timer;
        ListLink sockets;
        HostsTable *hosts;
        bool has_servers;
};

struct Lookup {
        LookupCallback callback; /* NULL: cancelled */
        void *userdata;
        Resolver *resolver;
        char name[PRIV_HOST_SIZE];
        unsigned n_pending;        /* queries of c-ares that still point here, and the deferred call */
        PrivResolvedStatus status; /* the best that an answer said */
        bool is_cut_off;           /* by new servers: asked again of those */
        PrivAddress v6[RESOLVE_ADDRESSES_MAX / 2];
        PrivAddress v4[RESOLVE_ADDRESSES_MAX / 2];
        size_t n_v6;
        size_t n_v4;
        uint32_t dns_type; /* 0: addresses */
        Buf records;
};

static void update_timer(Resolver *r)
{
        struct timeval tv, *next = ares_timeout(r->channel, NULL, &tv);
        int e;

        if (!next) {
                loop_timer_stop(r->timer);
                return;
        }
        e = loop_timer_set(r->timer, (uint64_t) tv.tv_sec * USEC_PER_SEC + (uint64_t) tv.tv_usec);
        if (e < 0)
                (void) log_warning(e, "cannot set the resolver's time-out, ignoring");
}

static void on_ares_timer(void *userdata)
{
        Resolver *r = userdata;

        ares_process_fd(r->channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
        update_timer(r);
}

static void on_ares_io(void *userdata, int fd, unsigned events)
{
        Resolver *r = ((AresSocket *) userdata)->resolver;

        ares_process_fd(r->channel, events & LOOP_READ ? fd : ARES_SOCKET_BAD,
                        events & LOOP_WRITE ? fd : ARES_SOCKET_BAD);
        update_timer(r);
}

static AresSocket *find_socket(Resolver *r, int fd)
{
        LIST_FOREACH (s, &r->sockets, AresSocket, link) {
                if (s->fd == fd)
                        return s;
        }
        return NULL;
}

static void ares_socket_free(AresSocket *s)
{
        list_unlink(&s->link);
        s->io = loop_io_free(s->io);
        free(s);
}

static void on_socket_state(void *userdata, ares_socket_t fd, int readable, int writable)
{
        Resolver *r = userdata;
        AresSocket *s = find_socket(r, fd);
        unsigned events = (readable ? LOOP_READ : 0U) | (writable ? LOOP_WRITE : 0U);
        int e = 0;

        if (events == 0) {
                if (s)
                        ares_socket_free(s);
                return;
        }
        if (s)
                e = loop_io_set_events(s->io, events);
        else {
                s = calloc(1, sizeof(*s));
                if (!s)
                        return;
                *s = (AresSocket){ .resolver = r, .fd = fd };
                list_init(&s->link);
                list_append(&r->sockets, &s->link);
                e = loop_io_new(r->loop, fd, events, on_ares_io, s, &s->io);
        }
        /* The query then runs into its time-out. */
        if (e < 0)
                (void) log_warning(e, "cannot watch a socket of the resolver, ignoring");
}

int resolver_new(Resolver **ret)
{
        struct in_addr nowhere = { .s_addr = htonl(INADDR_LOOPBACK) };
        struct ares_options options = { .flags = ARES_FLAG_NOSEARCH | ARES_FLAG_NOALIASES,
                                        .timeout = QUERY_TIMEOUT_MSEC,
                                        .tries = QUERY_TRIES,
                                        .ndots = 0,
                                        .servers = &nowhere,
                                        .nservers = 1,
                                        .sock_state_cb = on_socket_state };
        char lookups[] = "b";
        Resolver *r = calloc(1, sizeof(*r));

        if (!r)
                return -ENOMEM;
        list_init(&r->sockets);
        options.lookups = lookups;
        options.sock_state_cb_data = r;
        /* All that a resolv.conf could say is set, so that none is read. */
        if (ares_library_init(ARES_LIB_INIT_ALL) != ARES_SUCCESS ||
            ares_init_options(&r->channel, &options,
                              ARES_OPT_FLAGS | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_NDOTS |
                                              ARES_OPT_SERVERS | ARES_OPT_DOMAINS | ARES_OPT_LOOKUPS |
                                              ARES_OPT_SORTLIST | ARES_OPT_SOCK_STATE_CB |
                                              ARES_OPT_NOROTATE) != ARES_SUCCESS) {
                free(r);
                return -EIO;
        }
        *ret = r;
        return 0;
}

int resolver_start(Resolver *r, Loop *loop)
{
        r->loop = loop;
        return loop_timer_new(loop, on_ares_timer, r, &r->timer);
}

Resolver *resolver_free(Resolver *r)
{
        if (!r)
                return NULL;
        ares_destroy(r->channel);
        LIST_FOREACH (s, &r->sockets, AresSocket, link)
                ares_socket_free(s);
        r->timer = loop_timer_free(r->timer);
        r->hosts = hosts_table_free(r->hosts);
        ares_library_cleanup();
        free(r);
        return NULL;
}

static int to_ares(const PrivServer *s, struct ares_addr_port_node *ret)
{
        if (s->port == 0 || s->port > UINT16_MAX)
                return -EPROTO;
        *ret = (struct ares_addr_port_node){ .udp_port = (int) s->port, .tcp_port = (int) s->port };
        if (s->address.family == 4) {
                ret->family = AF_INET;
                memcpy(&ret->addr.addr4, s->address.bytes, 4);
        } else if (s->address.family == 6) {
                ret->family = AF_INET6;
                memcpy(&ret->addr.addr6, s->address.bytes, 16);
        } else
                return -EPROTO;
        return 0;
}

int resolver_configure(Resolver *r, const PrivResolver *servers, int hosts_fd)
{
        struct ares_addr_port_node nodes[PRIV_RESOLVERS_MAX];
        HostsTable *hosts = NULL;
        int e;

        if (servers->n_servers > PRIV_RESOLVERS_MAX)
                return -EPROTO;
        for (size_t i = 0; i < servers->n_servers; i++) {
                e = to_ares(&servers->servers[i], &nodes[i]);
                if (e < 0)
                        return e;
                if (i > 0)
                        nodes[i - 1].next = &nodes[i];
        }
        e = hosts_table_load(hosts_fd, &hosts);
        if (e < 0)
                return e;
        (void) hosts_table_free(r->hosts);
        r->hosts = hosts;
        /* Servers cannot change under a query: what is asked now is asked again of the new ones. */
        ares_cancel(r->channel);
        r->has_servers = servers->n_servers > 0;
        if (r->has_servers && ares_set_servers_ports(r->channel, nodes) != ARES_SUCCESS) {
                r->has_servers = false;
                e = -ENOMEM;
        }
        update_timer(r);
        return e;
}

static void start_deferred(void *userdata);

static bool ask_again(Lookup *l)
{
        if (!l->is_cut_off || !l->callback || loop_defer(l->resolver->loop, start_deferred, l) < 0)
                return false;
        l->is_cut_off = false;
        l->n_v6 = l->n_v4 = 0;
        buf_consume(&l->records, buf_size(&l->records));
        l->status = RESOLVED_FAILED;
        l->n_pending = 1;
        return true;
}

static void lookup_finish(Lookup *l)
{
        PrivAddress all[RESOLVE_ADDRESSES_MAX];
        LookupResult result = { .addresses = all, .status = l->status };
        size_t n = 0;

        if (--l->n_pending > 0 || ask_again(l))
                return;
        for (size_t i = 0; i < MAX_OF(l->n_v6, l->n_v4); i++) {
                if (i < l->n_v6)
                        all[n++] = l->v6[i];
                if (i < l->n_v4)
                        all[n++] = l->v4[i];
        }
        result.n = n;
        result.records = buf_front(&l->records);
        result.records_size = buf_size(&l->records);
        if (l->callback)
                l->callback(l->userdata, &result);
        buf_done(&l->records);
        free(l);
}

static void add_address(Lookup *l, const PrivAddress *a)
{
        if (a->family == 6 && l->n_v6 < ELEMENTSOF(l->v6))
                l->v6[l->n_v6++] = *a;
        else if (a->family == 4 && l->n_v4 < ELEMENTSOF(l->v4))
                l->v4[l->n_v4++] = *a;
}

static void note_status(Lookup *l, int status)
{
        PrivResolvedStatus said = RESOLVED_FAILED;

        if (status == ARES_ECANCELLED)
                l->is_cut_off = true;
        else if (status == ARES_SUCCESS || status == ARES_ENODATA)
                said = RESOLVED_NAME;
        else if (status == ARES_ENOTFOUND)
                said = RESOLVED_NO_NAME;
        l->status = MAX_OF(l->status, said);
}

static void on_a(void *userdata, int status, _unused_ int timeouts, unsigned char *answer, int size)
{
        struct ares_addrttl found[ANSWERS_MAX];
        int n = ANSWERS_MAX;

        note_status(userdata, status);

        if (status == ARES_SUCCESS && ares_parse_a_reply(answer, size, NULL, found, &n) == ARES_SUCCESS) {
                for (int i = 0; i < n; i++) {
                        PrivAddress a = { .family = 4 };

                        memcpy(a.bytes, &found[i].ipaddr, 4);
                        add_address(userdata, &a);
                }
        }
        lookup_finish(userdata);
}

static void on_aaaa(void *userdata, int status, _unused_ int timeouts, unsigned char *answer, int size)
{
        struct ares_addr6ttl found[ANSWERS_MAX];
        int n = ANSWERS_MAX;

        note_status(userdata, status);

        if (status == ARES_SUCCESS && ares_parse_aaaa_reply(answer, size, NULL, found, &n) == ARES_SUCCESS) {
                for (int i = 0; i < n; i++) {
                        PrivAddress a = { .family = 6 };

                        memcpy(a.bytes, &found[i].ip6addr, 16);
                        add_address(userdata, &a);
                }
        }
        lookup_finish(userdata);
}

static void on_records(void *userdata, int status, _unused_ int timeouts, unsigned char *answer, int size)
{
        Lookup *l = userdata;

        note_status(l, status);
        /* An answer that is none says nothing of the name. */
        if (status == ARES_SUCCESS &&
            (size < 0 || records_put(&l->records, l->dns_type, answer, (size_t) size) < 0))
                l->status = RESOLVED_FAILED;
        lookup_finish(l);
}

static void ask(Lookup *l)
{
        Resolver *r = l->resolver;

        if (l->dns_type != 0) {
                l->n_pending++;
                ares_query(r->channel, l->name, ns_c_in, records_type(l->dns_type), on_records, l);
        } else {
                l->n_pending += 2;
                ares_query(r->channel, l->name, ns_c_in, ns_t_aaaa, on_aaaa, l);
                ares_query(r->channel, l->name, ns_c_in, ns_t_a, on_a, l);
        }
        update_timer(r);
}

/* Nobody else is asked what this name means. */
static void answer_machine(Lookup *l)
{
        if (l->dns_type == 0) {
                add_address(l, &(PrivAddress){ .family = 4, .bytes = { 127, [3] = 1 } });
                add_address(l, &(PrivAddress){ .family = 6, .bytes = { [15] = 1 } });
        }
        l->status = RESOLVED_NAME;
        lookup_finish(l);
}

bool resolver_has_name(const Resolver *r, const char *name)
{
        return str_equal(name, POLICY_HOST_MACHINE) || hosts_table_find(r->hosts, name);
}

/* c-ares may call back at once, so it is asked only when no caller is on the stack. */
static void start_deferred(void *userdata)
{
        Lookup *l = userdata;
        Resolver *r = l->resolver;
        const HostsEntry *entry;

        /* At our end the resolver has gone before the last deferred calls. */
        if (!l->callback) {
                lookup_finish(l);
                return;
        }
        if (str_equal(l->name, POLICY_HOST_MACHINE)) {
                answer_machine(l);
                return;
        }
        entry = l->dns_type == 0 ? hosts_table_find(r->hosts, l->name) : NULL;
        if (entry) {
                l->status = RESOLVED_NAME;
                for (size_t i = 0; i < entry->n; i++)
                        add_address(l, &entry->addresses[i]);
        } else if (r->has_servers)
                ask(l);
        lookup_finish(l);
}

int resolver_lookup(Resolver *r, const char *name, LookupCallback callback, void *userdata, Lookup **ret)
{
        return resolver_lookup_records(r, name, 0, callback, userdata, ret);
}

int resolver_lookup_records(Resolver *r, const char *name, uint32_t dns_type, LookupCallback callback,
                            void *userdata, Lookup **ret)
{
        Lookup *l = calloc(1, sizeof(*l));
        int e;

        if (!l)
                return -ENOMEM;
        *l = (Lookup){ .callback = callback,
                       .userdata = userdata,
                       .resolver = r,
                       .n_pending = 1,
                       .dns_type = dns_type,
                       .records = BUF_INIT(PRIV_RESOLVED_MAX - sizeof(PrivResolved)) };
        e = str_copy(l->name, sizeof(l->name), name);
        if (e >= 0)
                e = loop_defer(r->loop, start_deferred, l);
        if (e < 0) {
                free(l);
                return e;
        }
        *ret = l;
        return 0;
}

void lookup_cancel(Lookup *l)
{
        l->callback = NULL;
}
