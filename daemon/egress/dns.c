#include "daemon/egress/dns.h"

#include <errno.h>

#include "daemon/egress/answered.h"
#include "daemon/egress/names.h"
#include "daemon/policy/compiled.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

/* Audit decides within 5 s, the dialer gives up after 8. */
#define LOOKUP_TIMEOUT_USEC (14 * USEC_PER_SEC)

static const PrivAddress loopback[] = {
        { .family = 4, .bytes = { 127, 0, 0, 1 } },
        { .family = 6, .bytes = { [15] = 1 } },
};

/* ---- answers ---- */

static void answer_plain(const DnsPath *path, const DnsQuestion *q, DnsCode code, unsigned detail)
{
        DnsAnswer a;

        dns_answer_begin(&a, q, dns_path_limit(path, q));
        dns_answer_end(&a, q, code, detail);
        dns_send(path, &a);
}

static void answer_address(const DnsPath *path, const DnsQuestion *q, const PrivAddress *address)
{
        DnsAnswer a;

        dns_answer_begin(&a, q, dns_path_limit(path, q));
        dns_answer_put_address(&a, q, address);
        dns_answer_end(&a, q, DNS_NO_ERROR, DNS_DETAIL_NONE);
        dns_send(path, &a);
}

static bool is_address_type(uint16_t type)
{
        return type == DNS_A || type == DNS_AAAA;
}

/* About the server itself, or a whole zone: nothing that a program inside needs. */
static bool is_meta_type(uint16_t type)
{
        return type == DNS_NULL || (type >= DNS_META && type <= DNS_ANY);
}

static void answer_synthetic(const DnsAsker *a, const DnsLookup *l)
{
        uint32_t family = a->question.type == DNS_A ? 4 : 6, number = 0;
        PrivAddress address;
        int r;

        if (family == 6 && !l->result.has_v6) {
                answer_plain(&a->path, &a->question, DNS_NO_ERROR, DNS_DETAIL_NONE);
                return;
        }
        r = names_add(l->dns->egress->names, l->decide.host, &number);
        if (r < 0) {
                answer_plain(&a->path, &a->question, DNS_SERVER_FAILURE, DNS_DETAIL_NONE);
                return;
        }
        address = names_address(l->dns->egress->names, number, family);
        answer_address(&a->path, &a->question, &address);
}

/* What the dialer put behind its answer: the next record. Records that were cut short are none. */
static bool next_record(Buf *records, const uint8_t **ret_data, size_t *ret_size)
{
        const uint8_t *at = (const uint8_t *) buf_front(records);
        size_t left = buf_size(records), n;

        if (left < 2)
                return false;
        n = (size_t) at[0] << 8 | at[1];
        if (n > left - 2)
                return false;
        *ret_data = at + 2;
        *ret_size = n;
        buf_consume(records, 2 + n);
        return true;
}

/* Of real addresses those of the family that was asked for. */
static void answer_records(const DnsAsker *a, const DnsLookup *l)
{
        size_t wanted = a->question.type == DNS_A ? 4 : a->question.type == DNS_AAAA ? 16 : 0, n;
        Buf records = l->records;
        const uint8_t *data;
        DnsAnswer answer;

        dns_answer_begin(&answer, &a->question, dns_path_limit(&a->path, &a->question));
        while (next_record(&records, &data, &n))
                if (wanted == 0 || n == wanted)
                        dns_answer_put(&answer, &a->question, data, n);
        dns_answer_end(&answer, &a->question, DNS_NO_ERROR, DNS_DETAIL_NONE);
        dns_send(&a->path, &answer);
}

/* Before any program hears of them. */
static void remember_addresses(const DnsLookup *l)
{
        Buf records = l->records;
        const uint8_t *data;
        size_t n;

        while (next_record(&records, &data, &n)) {
                PrivAddress a = { .family = n == 4 ? 4 : 6 };
                int r;

                if (n != 4 && n != 16)
                        continue;
                memcpy(a.bytes, data, n);
                r = answered_add(l->dns->egress->answered, &a, l->decide.host);
                if (r < 0)
                        (void) log_warning(r, "cannot remember a name's address, ignoring");
        }
}

/* What programs may be told beside addresses, if a rule says so; audit knows. */
static bool is_record_type(uint16_t type)
{
        return type == DNS_TXT || type == DNS_SRV || type == DNS_MX || type == DNS_CAA;
}

static void answer_allowed(const DnsAsker *a, const DnsLookup *l)
{
        const DnsQuestion *q = &a->question;

        if (is_meta_type(q->type))
                answer_plain(&a->path, q, DNS_NOT_IMPLEMENTED, DNS_DETAIL_NONE);
        else if (l->is_askable && is_address_type(q->type))
                answer_synthetic(a, l);
        else if (!l->is_looked_up)
                answer_plain(&a->path, q, DNS_NO_ERROR, DNS_DETAIL_NONE);
        else if (l->result.status == RESOLVED_FAILED)
                answer_plain(&a->path, q, DNS_SERVER_FAILURE, DNS_DETAIL_NETWORK);
        else if (l->result.status == RESOLVED_NO_NAME)
                answer_plain(&a->path, q, DNS_NO_NAME, DNS_DETAIL_NONE);
        else if (is_address_type(q->type) && !l->result.has_addresses)
                answer_plain(&a->path, q, DNS_NO_ERROR, DNS_DETAIL_NONE);
        else if (is_address_type(q->type) && !l->result.is_real)
                answer_synthetic(a, l);
        else
                answer_records(a, l);
}

/* ---- lookups ---- */

static void start_waiting(Dns *d);

static void asker_free(DnsAsker *a)
{
        list_unlink(&a->link);
        a->lookup->dns->n_askers--;
        free(a);
}

static void decided(DnsLookup *l)
{
        if (!l->is_undecided)
                return;
        l->is_undecided = false;
        l->dns->n_undecided--;
}

static void lookup_free(DnsLookup *l)
{
        Dns *d = l->dns;

        LIST_FOREACH (a, &l->askers, DnsAsker, link)
                asker_free(a);
        decided(l);
        list_unlink(&l->link);
        if (l->request != 0)
                (void) map_remove(&d->requests, &l->request, sizeof(l->request));
        (void) map_remove(&d->lookups, l->key, strlen(l->key));
        l->timer = loop_timer_free(l->timer);
        buf_done(&l->records);
        d->n_lookups--;
        free(l);
}

static void finish(DnsLookup *l, DnsCode code, unsigned detail)
{
        Dns *d = l->dns;

        LIST_FOREACH (a, &l->askers, DnsAsker, link)
                answer_plain(&a->path, &a->question, code, detail);
        lookup_free(l);
        start_waiting(d);
}

/* Whoever answers for a name must not take over the address that stands for another one. */
static bool has_address_of_ours(const DnsLookup *l)
{
        Buf records = l->records;
        const uint8_t *data;
        size_t n;

        while (next_record(&records, &data, &n)) {
                PrivAddress a = { .family = n == 4 ? 4 : 6 };

                if (n != 4 && n != 16)
                        continue;
                memcpy(a.bytes, data, n);
                if (names_hold(l->dns->egress->names, &a))
                        return true;
        }
        return false;
}

static void finish_allowed(DnsLookup *l)
{
        Dns *d = l->dns;

        if (l->result.is_real && has_address_of_ours(l))
                l->result.is_real = false;
        if (l->result.is_real)
                remember_addresses(l);
        LIST_FOREACH (a, &l->askers, DnsAsker, link)
                answer_allowed(a, l);
        lookup_free(l);
        start_waiting(d);
}

static void on_timeout(void *userdata)
{
        finish(userdata, DNS_SERVER_FAILURE, DNS_DETAIL_NONE);
}

static int start(DnsLookup *l)
{
        Dns *d = l->dns;
        int r;

        l->request = ++d->egress->last_request;
        l->decide.request = l->request;
        r = map_put(&d->requests, &l->request, sizeof(l->request), l);
        if (r < 0) {
                l->request = 0;
                return r;
        }
        list_unlink(&l->link);
        list_append(&d->running, &l->link);
        l->is_undecided = true;
        d->n_undecided++;
        return priv_link_send_tail(d->egress->audit, PRIV_DECIDE, &l->decide, sizeof(l->decide), l->raw,
                                   l->n_raw, NULL, 0);
}

static void start_waiting(Dns *d)
{
        while (!list_is_empty(&d->waiting) && d->n_undecided < DNS_UNDECIDED_MAX) {
                DnsLookup *l = list_entry(d->waiting.next, DnsLookup, link);

                if (start(l) < 0) {
                        LIST_FOREACH (a, &l->askers, DnsAsker, link)
                                answer_plain(&a->path, &a->question, DNS_SERVER_FAILURE, DNS_DETAIL_NONE);
                        lookup_free(l);
                }
        }
}

/* A and AAAA are one question about a name: programs ask both at once. */
static int make_key(DnsLookup *l, const DnsQuestion *q)
{
        return str_printf(l->key, sizeof(l->key), "%u %s",
                          is_address_type(q->type) ? (unsigned) DNS_A : q->type, l->decide.host);
}

static int lookup_new(Dns *d, const DnsQuestion *q, DnsLookup **ret)
{
        DnsLookup *l = calloc(1, sizeof(*l));
        int r;

        if (!l)
                return -ENOMEM;
        *l = (DnsLookup){ .dns = d, .decide = { .entry = ENTRY_DNS, .protocol = PROTOCOL_DNS } };
        l->records = BUF_INIT(PRIV_RESOLVED_MAX - sizeof(PrivResolved));
        list_init(&l->link);
        list_init(&l->askers);
        d->n_lookups++;
        dns_type_format(q->type, l->decide.method);
        if (q->has_odd_bytes || policy_host_canonical(q->name, strlen(q->name), l->decide.host) < 0) {
                l->decide.is_malformed = 1;
                l->n_raw = q->n_wire;
                l->decide.n_raw = (uint32_t) q->n_wire;
                memcpy(l->raw, q->wire, q->n_wire);
        }
        l->decide.wants_connection =
                        !l->decide.is_malformed && (is_address_type(q->type) || is_record_type(q->type));
        r = make_key(l, q);
        if (r >= 0)
                r = loop_timer_new(d->egress->loop, on_timeout, l, &l->timer);
        if (r >= 0)
                r = loop_timer_set(l->timer, LOOKUP_TIMEOUT_USEC);
        /* Of what has no name one is not like the other. */
        if (r >= 0 && !l->decide.is_malformed)
                r = map_put(&d->lookups, l->key, strlen(l->key), l);
        if (r < 0) {
                l->key[0] = '\0';
                lookup_free(l);
                return r;
        }
        list_append(&d->waiting, &l->link);
        *ret = l;
        return 0;
}

static DnsLookup *find_lookup(Dns *d, const DnsQuestion *q)
{
        DnsLookup probe = { .request = 0 };

        if (q->has_odd_bytes || policy_host_canonical(q->name, strlen(q->name), probe.decide.host) < 0 ||
            make_key(&probe, q) < 0)
                return NULL;
        return map_get(&d->lookups, probe.key, strlen(probe.key));
}

/* ---- questions ---- */

static bool is_same_path(const DnsPath *a, const DnsPath *b)
{
        return a->stream == b->stream && a->fd == b->fd && a->peer_size == b->peer_size &&
               memcmp(&a->peer, &b->peer, a->peer_size) == 0;
}

/* Programs repeat what takes long: one answer is enough. */
static bool is_waiting(const DnsLookup *l, const DnsPath *path, const DnsQuestion *q)
{
        LIST_FOREACH (a, &l->askers, const DnsAsker, link) {
                if (a->question.id == q->id && a->question.type == q->type && !path->stream &&
                    is_same_path(&a->path, path))
                        return true;
        }
        return false;
}

static int join(DnsLookup *l, const DnsPath *path, const DnsQuestion *q)
{
        DnsAsker *a;

        if (is_waiting(l, path, q))
                return 0;
        if (l->dns->n_askers >= DNS_ASKERS_MAX)
                return -ENOBUFS;
        a = malloc(sizeof(*a));
        if (!a)
                return -ENOMEM;
        *a = (DnsAsker){ .lookup = l, .path = *path, .question = *q };
        list_init(&a->link);
        list_append(&l->askers, &a->link);
        l->dns->n_askers++;
        return 0;
}

static int look_up(Dns *d, const DnsPath *path, const DnsQuestion *q)
{
        DnsLookup *l = find_lookup(d, q);
        bool is_new = !l;
        int r = 0;

        if (is_new && d->n_lookups >= DNS_LOOKUPS_MAX)
                return -ENOBUFS;
        if (is_new)
                r = lookup_new(d, q, &l);
        if (r < 0)
                return r;
        r = join(l, path, q);
        if (r < 0 && is_new)
                lookup_free(l);
        else if (is_new)
                start_waiting(d);
        return r;
}

static bool is_localhost(const char *name)
{
        return str_equal(name, "localhost") || str_has_suffix(name, ".localhost");
}

/* What leads nowhere outside and is nothing that policy speaks of. */
static bool answer_own(Dns *d, const DnsPath *path, const DnsQuestion *q)
{
        const char *name;
        PrivAddress reverse;
        DnsAnswer a;

        if (is_localhost(q->name)) {
                if (is_address_type(q->type))
                        answer_address(path, q, &loopback[q->type == DNS_AAAA]);
                else
                        answer_plain(path, q, DNS_NO_ERROR, DNS_DETAIL_NONE);
                return true;
        }
        if (q->type != DNS_PTR || dns_reverse_parse(q->name, &reverse) < 0)
                return false;
        name = answered_find(d->egress->answered, &reverse);
        if (!name && !names_hold(d->egress->names, &reverse))
                return false;
        if (!name)
                name = names_find(d->egress->names, &reverse);
        dns_answer_begin(&a, q, dns_path_limit(path, q));
        if (name)
                dns_answer_put_name(&a, q, name);
        dns_answer_end(&a, q, name ? DNS_NO_ERROR : DNS_NO_NAME, DNS_DETAIL_NONE);
        dns_send(path, &a);
        return true;
}

int dns_ask(Dns *d, const DnsPath *path, const void *data, size_t size)
{
        DnsQuestion q;
        int r = dns_parse(data, size, &q);

        if (r < 0)
                return r;
        if (r > 0) {
                answer_plain(path, &q, (DnsCode) r, DNS_DETAIL_NONE);
                return 0;
        }
        return answer_own(d, path, &q) ? 0 : look_up(d, path, &q);
}

/* ---- what the others say ---- */

bool dns_on_verdict(Dns *d, const PrivVerdict *v)
{
        DnsLookup *l = map_get(&d->requests, &v->request, sizeof(v->request));

        if (!l || !l->is_undecided)
                return l != NULL;
        decided(l);
        l->is_askable = v->verdict == VERDICT_ASK;
        l->is_allowed = v->verdict != VERDICT_DENY && !l->decide.is_malformed && !d->egress->is_offline;
        l->is_looked_up = v->is_looked_up != 0 && l->decide.wants_connection;
        if (v->verdict == VERDICT_DENY && v->reason == REASON_AUDIT)
                finish(l, DNS_SERVER_FAILURE, DNS_DETAIL_NONE);
        else if (!l->is_allowed)
                finish(l, DNS_NO_NAME, DNS_DETAIL_BLOCKED);
        else if (l->has_result || !l->is_looked_up)
                finish_allowed(l);
        else
                start_waiting(d);
        return true;
}

void dns_on_resolved(Dns *d, const PrivResolved *m, const void *records, size_t size)
{
        DnsLookup *l = map_get(&d->requests, &m->request, sizeof(m->request));

        if (!l || !l->decide.wants_connection || l->has_result)
                return;
        l->result = *m;
        l->has_result = true;
        if (buf_put(&l->records, records, size) < 0)
                l->result.status = RESOLVED_FAILED;
        /* The two channels are not in step: the verdict may still be on its way. */
        if (l->is_allowed)
                finish_allowed(l);
}

void dns_forget(Dns *d, const DnsStream *stream)
{
        ListLink *const lists[] = { &d->waiting, &d->running };

        for (size_t i = 0; i < ELEMENTSOF(lists); i++)
                LIST_FOREACH (l, lists[i], DnsLookup, link)
                        LIST_FOREACH (a, &l->askers, DnsAsker, link)
                                if (a->path.stream == stream)
                                        asker_free(a);
}

int dns_new(Egress *e, Dns **ret)
{
        Dns *d = calloc(1, sizeof(*d));

        if (!d)
                return -ENOMEM;
        d->egress = e;
        list_init(&d->streams);
        list_init(&d->waiting);
        list_init(&d->running);
        *ret = d;
        return 0;
}

Dns *dns_free(Dns *d)
{
        if (!d)
                return NULL;
        dns_sockets_close(d);
        LIST_FOREACH (l, &d->waiting, DnsLookup, link)
                lookup_free(l);
        LIST_FOREACH (r, &d->running, DnsLookup, link)
                lookup_free(r);
        map_done(&d->requests);
        map_done(&d->lookups);
        free(d);
        return NULL;
}
