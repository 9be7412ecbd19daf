/*
 * Decisions about the requests of a session: what egress asks, what the dialer made of what was allowed.
 *
 * egress:  DECIDE -> row -> VERDICT
 * dialer:  DIAL (of a committed row) -> DIAL_CLOSED | DIAL_REFUSED -> row -> VERDICT deny
 */

#include "daemon/audit/bounds.h"
#include "daemon/audit/held.h"
#include "daemon/audit/queue.h"
#include "daemon/audit/quota.h"
#include "proto/base/clock.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

#define UNDECIDED_MAX 256U
#define COUNT_SIZE    32U /* of the text that counts refused datagrams */

static bool is_address_ok(const PrivAddress *a)
{
        return a->family == 0 || a->family == 4 || a->family == 6;
}

static bool is_method_ok(const char *method)
{
        for (const char *c = method; *c; c++)
                if (*c <= ' ' || *c > '~')
                        return false;
        return true;
}

static bool is_canonical(const char *host)
{
        char canonical[PRIV_HOST_SIZE];

        return policy_host_canonical(host, strlen(host), canonical) >= 0 && str_equal(host, canonical);
}

static int check_decide(const PrivDecide *d, size_t size)
{
        size_t n_tail = size - sizeof(*d);

        if (d->entry == ENTRY_NONE || d->entry >= ENTRY_FORWARD || d->protocol >= PROTOCOL_ICMP ||
            d->port > UINT16_MAX)
                return -EPROTO;
        if (d->is_malformed > 1 || d->wants_connection > 1 || !is_address_ok(&d->address))
                return -EPROTO;
        if (d->n_raw > n_tail || d->n_path != n_tail - d->n_raw)
                return -EPROTO;
        if (!PRIV_STRING_OK(d->host) || !PRIV_STRING_OK(d->method) || !is_method_ok(d->method))
                return -EPROTO;
        if (d->host[0] != '\0' && !is_canonical(d->host))
                return -EPROTO;
        if (!d->is_malformed && (d->host[0] != '\0') == (d->address.family != 0))
                return -EPROTO;
        if ((d->entry == ENTRY_DNS) != (d->protocol == PROTOCOL_DNS) ||
            (d->entry == ENTRY_DNS && (d->address.family != 0 || d->port != 0)))
                return -EPROTO;
        if ((d->entry == ENTRY_UDP) != (d->protocol == PROTOCOL_UDP) ||
            (d->entry == ENTRY_UDP) != (d->count > 0) || (d->count > 0 && d->wants_connection))
                return -EPROTO;
        return 0;
}

static const char *action_of(const PrivDecide *d)
{
        if (d->entry == ENTRY_DNS)
                return "query";
        return d->wants_connection ? "connect" : "request";
}

static void decide(Pending *p, const PrivDecide *d)
{
        bool has_port = d->port > 0 || d->entry == ENTRY_DNS;

        p->row.verdict = VERDICT_DENY;
        if (d->is_malformed || !has_port)
                p->reason = REASON_MALFORMED;
        else if (p->session->has_no_network)
                p->reason = REASON_NO_NETWORK;
        else if (d->entry == ENTRY_UDP)
                p->reason = REASON_PROTOCOL;
        else
                decision_match(p, d);
        /* It was asked for while there was a session; nobody is there who could have it. */
        if (p->session->ended_usec > 0 && p->row.verdict == VERDICT_ALLOW) {
                p->row.verdict = VERDICT_DENY;
                p->reason = REASON_NO_NETWORK;
        }
        /* Without a dialer nothing can come of it. */
        if (p->row.verdict == VERDICT_ALLOW && (p->wants_connection || p->wants_lookup) &&
            !p->egress->audit->dialer) {
                p->row.verdict = VERDICT_DENY;
                p->reason = REASON_AUDIT;
        }
        p->row.reason = decision_reason_to_string(p->reason);
}

static void fill_row(Pending *p, const PrivDecide *d)
{
        const char *tail = (const char *) (d + 1);
        char count[COUNT_SIZE];
        Row *row = &p->row;

        row->policy = &p->session->policy_row;
        row->entry = entry_to_string(d->entry);
        row->protocol = protocol_to_string(d->protocol);
        row->address = d->address;
        row->port = d->port > 0 ? (int64_t) d->port : -1;
        if (d->host[0] != '\0')
                row->host = pending_put(p, d->host, strlen(d->host));
        if (d->method[0] != '\0')
                row->method = pending_put(p, d->method, strlen(d->method));
        if (d->count > 1 && str_printf(count, sizeof(count), "{\"count\":%u}", d->count) >= 0)
                row->detail = pending_put(p, count, strlen(count));
        if (d->n_raw > 0)
                row->raw = (RowBytes){ .data = pending_put(p, tail, d->n_raw), .size = d->n_raw };
        if (d->n_path > 0)
                row->path = (RowBytes){ .data = pending_put(p, tail + d->n_raw, d->n_path),
                                        .size = d->n_path };
}

/* As much as fits, but no half of a UTF-8 sequence. */
static void copy_cut(char *to, size_t size, const char *from)
{
        size_t n = strnlen(from, size - 1);

        while (n > 0 && from[n] != '\0' && ((unsigned char) from[n] & 0xc0) == 0x80)
                n--;
        memcpy(to, from, n);
        to[n] = '\0';
}

/* Before anybody in the session can know: its end comes later. */
static void tell_api(const Pending *p, DecisionReason reason, uint64_t sequence)
{
        PrivDenied d = { .session = p->session->id,
                         .sequence = sequence,
                         .count = MAX_OF(p->count, 1U),
                         .kind = p->row.kind,
                         .port = p->row.port > 0 ? (uint32_t) p->row.port : 0,
                         .reason = reason,
                         .address = p->row.address };

        if (p->row.host)
                copy_cut(d.host, sizeof(d.host), p->row.host);
        if (p->row.rule.name)
                copy_cut(d.rule, sizeof(d.rule), p->row.rule.name);
        if (p->rule_reason)
                copy_cut(d.text, sizeof(d.text), p->rule_reason);
        denials_tell(p->egress->audit, p->session, &d);
}

/* Counted, but without a row of its own. */
static void refuse_beyond_quota(Egress *e, const PrivDecide *d)
{
        PrivVerdict v = { .request = d->request, .verdict = VERDICT_DENY, .reason = REASON_LIMIT };
        PrivDenied denied = { .session = e->session->id,
                              .count = 1,
                              .kind = d->entry == ENTRY_DNS ? AUDIT_KIND_DNS : AUDIT_KIND_NET,
                              .port = d->port,
                              .reason = REASON_LIMIT,
                              .address = d->address };

        memcpy(denied.host, d->host, sizeof(denied.host));
        denials_tell(e->audit, e->session, &denied);
        (void) priv_link_send(e->channel, PRIV_VERDICT, &v, sizeof(v), NULL, 0);
}

static int on_decide(Egress *e, const PrivDecide *d, size_t size)
{
        Row row = ROW_INIT(d->entry == ENTRY_DNS ? AUDIT_KIND_DNS : AUDIT_KIND_NET, action_of(d));
        Pending *p;
        int r;

        r = check_decide(d, size);
        if (r < 0)
                return r;
        if (e->n_undecided >= UNDECIDED_MAX)
                return -EPROTO;
        if (!quota_take_request(e->audit, e->session, size - sizeof(*d))) {
                refuse_beyond_quota(e, d);
                return 0;
        }
        r = pending_new(PENDING_DECISION, &row, e->session, size + 4 + COUNT_SIZE, &p);
        if (r < 0)
                return r;
        p->egress = e;
        p->request = d->request;
        p->protocol = d->protocol;
        p->count = d->count;
        p->wants_connection = d->wants_connection && d->entry != ENTRY_DNS;
        p->wants_lookup = d->wants_connection && d->entry == ENTRY_DNS;
        fill_row(p, d);
        decide(p, d);
        if (p->limit && p->row.verdict == VERDICT_ALLOW)
                held_put(e->audit, p);
        else
                queue_put(e->audit, p);
        return 0;
}

static int on_egress(void *owner, _unused_ PrivLink *link, Imsg *m)
{
        return m->type == PRIV_DECIDE ? on_decide(owner, m->body, m->size) : -EPROTO;
}

static void on_egress_closed(void *owner, _unused_ PrivLink *link, int reason)
{
        Egress *e = owner;

        if (reason != -EPIPE)
                (void) log_warning(reason, "The egress worker of session %s broke the protocol",
                                   e->session->id_text);
        if (e->audit->launcher)
                (void) priv_link_send(e->audit->launcher, PRIV_AUDIT_EGRESS_OVER, &e->ref, sizeof(e->ref),
                                      NULL, 0);
        (void) egress_free(e);
}

int egress_attach(Audit *a, Session *s, const PrivEgressRef *ref, int take_fd)
{
        Egress *e = calloc(1, sizeof(*e));
        int r;

        if (!e) {
                (void) fd_close(take_fd);
                return -ENOMEM;
        }
        r = priv_link_new(a->loop, take_fd, CHANNEL_EGRESS_AUDIT, ROLE_AUDIT, &e->channel);
        if (r < 0) {
                free(e);
                return r;
        }
        e->audit = a;
        e->ref = *ref;
        e->number = ++a->n_egresses;
        list_init(&e->link);
        list_append(&a->egresses, &e->link);
        s->egress = egress_free(s->egress);
        e->session = session_ref(s);
        s->egress = e;
        priv_link_set_handler(e->channel, on_egress, on_egress_closed, e);
        priv_link_set_phase(e->channel, PHASE_RUN);
        return 0;
}

Egress *egress_free(Egress *e)
{
        if (!e)
                return NULL;
        queue_forget_egress(e->audit, e);
        list_unlink(&e->link);
        if (e->session->egress == e)
                e->session->egress = NULL;
        (void) session_unref(e->session);
        e->channel = priv_link_free(e->channel);
        free(e);
        return NULL;
}

static void send_verdict(const Pending *p, Verdict verdict, DecisionReason reason, uint64_t sequence)
{
        PrivVerdict v = { .request = p->request,
                          .sequence = sequence,
                          .verdict = verdict,
                          .reason = reason,
                          .is_looked_up = verdict == VERDICT_ALLOW && p->wants_lookup,
                          .allows_tls = verdict == VERDICT_ALLOW && p->allows_tls,
                          .allows_tcp = verdict == VERDICT_ALLOW && p->allows_tcp,
                          .is_by_request = verdict == VERDICT_ALLOW && p->is_by_request };

        if (!p->egress)
                return;
        if (verdict == VERDICT_DENY && p->session->ended_usec == 0)
                tell_api(p, reason, sequence);
        if (p->row.rule.name)
                copy_cut(v.rule, sizeof(v.rule), p->row.rule.name);
        if (p->rule_reason)
                copy_cut(v.text, sizeof(v.text), p->rule_reason);
        if (verdict == VERDICT_ALLOW && p->bounds)
                bounds_tell(p->bounds, &v);
        (void) priv_link_send(p->egress->channel, PRIV_VERDICT, &v, sizeof(v), NULL, 0);
}

int connection_new(Audit *a, const Pending *p, Connection **ret)
{
        size_t n_host = p->row.host ? strlen(p->row.host) + 1 : 0;
        Connection *c = calloc(1, sizeof(*c) + n_host);
        int r;

        if (!c)
                return -ENOMEM;
        *c = (Connection){ .sequence = p->row.sequence,
                           .since_usec = p->row.realtime_usec,
                           .request = p->request,
                           .egress = p->egress ? p->egress->number : 0,
                           .session = session_ref(p->session),
                           .port = p->row.port,
                           .entry = p->row.entry,
                           .protocol = p->row.protocol };
        if (n_host > 0) {
                memcpy(c->text, p->row.host, n_host);
                c->host = c->text;
        }
        r = map_put(&a->connections, &c->sequence, sizeof(c->sequence), c);
        if (r < 0) {
                (void) connection_free(c);
                return r;
        }
        *ret = c;
        return 0;
}

static void send_dial(Audit *a, const Pending *p)
{
        PrivDial d = { .session = p->session->id,
                       .request = p->request,
                       .sequence = p->row.sequence,
                       .expires_usec = p->bounds ? p->bounds->terms.expires_usec : 0,
                       .port = (uint32_t) p->row.port,
                       .protocol = p->protocol,
                       .address = p->row.address };

        if (p->row.host)
                copy_cut(d.host, sizeof(d.host), p->row.host);
        (void) priv_link_send(a->dialer, PRIV_DIAL, &d, sizeof(d), NULL, 0);
}

/* The row of an allowed connection is there: from here on it must get a close or a refuse row. */
static void open_connection(Audit *a, Pending *p)
{
        bool is_waiting = p->egress && p->session->ended_usec == 0;
        bool is_possible = a->dialer && is_waiting;
        Connection *c;
        int r;

        r = connection_new(a, p, &c);
        if (r >= 0 && !is_possible)
                r = queue_close(a, c, NULL, is_waiting ? CLOSE_ERROR : CLOSE_EGRESS_GONE);
        if (r < 0)
                (void) log_error(r, "Connection %llu gets no close row",
                                 (unsigned long long) p->row.sequence);
        if (r < 0 || !is_possible) {
                send_verdict(p, VERDICT_DENY, REASON_AUDIT, p->row.sequence);
                return;
        }
        /* In this order egress finds the verdict before the descriptor. */
        send_verdict(p, VERDICT_ALLOW, p->reason, p->row.sequence);
        send_dial(a, p);
        c->bounds = TAKE_PTR(p->bounds);
}

/* Nothing follows in the log: what a name resolves to is judged with each connection. */
static void order_lookup(Audit *a, const Pending *p)
{
        PrivResolve order = { .session = p->session->id, .request = p->request, .type = p->dns_type };

        if (!a->dialer || !p->egress || p->session->ended_usec != 0) {
                send_verdict(p, VERDICT_DENY, REASON_AUDIT, p->row.sequence);
                return;
        }
        copy_cut(order.host, sizeof(order.host), p->row.host);
        send_verdict(p, VERDICT_ALLOW, p->reason, p->row.sequence);
        (void) priv_link_send(a->dialer, PRIV_RESOLVE, &order, sizeof(order), NULL, 0);
}

void decision_release(Audit *a, Pending *p)
{
        if (p->egress)
                p->egress->n_undecided--;
        if (p->row.verdict == VERDICT_ALLOW && p->wants_connection)
                open_connection(a, p);
        else if (p->row.verdict == VERDICT_ALLOW && p->wants_lookup)
                order_lookup(a, p);
        else
                send_verdict(p, (Verdict) p->row.verdict, p->reason, p->row.sequence);
}

void decision_fail(Pending *p)
{
        if (p->egress)
                p->egress->n_undecided--;
        send_verdict(p, VERDICT_DENY, REASON_AUDIT, 0);
}

void refuse_release(Pending *p)
{
        send_verdict(p, VERDICT_DENY, REASON_ADDRESS, p->row.sequence);
}

static Connection *find_connection(Audit *a, const Id *session, uint64_t sequence)
{
        Connection *c = map_get(&a->connections, &sequence, sizeof(sequence));

        return c && id_equal(&c->session->id, session) ? c : NULL;
}

static int on_dial_refused(Audit *a, const PrivDialRefused *d)
{
        Connection *c = find_connection(a, &d->session, d->sequence);
        Row row = ROW_INIT(AUDIT_KIND_NET, "refuse");
        Egress *e;
        Pending *p;
        int r;

        if (!c || c->request != d->request || !is_address_ok(&d->address) || d->port > UINT16_MAX)
                return -EPROTO;
        row.verdict = VERDICT_DENY;
        row.refers_to = (int64_t) c->sequence;
        row.reason = decision_reason_to_string(REASON_ADDRESS);
        row.entry = c->entry;
        row.protocol = c->protocol;
        row.address = d->address;
        row.port = c->port;
        row.policy = &c->session->policy_row;
        r = pending_new(PENDING_REFUSE, &row, c->session, PRIV_HOST_SIZE, &p);
        if (r < 0)
                return r;
        if (c->host)
                p->row.host = pending_put(p, c->host, strlen(c->host));
        e = c->session->egress;
        p->egress = e && e->number == c->egress ? e : NULL;
        p->request = c->request;
        p->reason = REASON_ADDRESS;
        (void) map_remove(&a->connections, &c->sequence, sizeof(c->sequence));
        (void) connection_free(c);
        queue_put(a, p);
        return 0;
}

static int on_dial_closed(Audit *a, const PrivDialClosed *d)
{
        Connection *c = find_connection(a, &d->session, d->sequence);

        if (!c || !is_address_ok(&d->address) || d->port > UINT16_MAX || d->reason >= _CLOSE_REASON_MAX)
                return -EPROTO;
        if (d->duration_usec > INT64_MAX || d->sent_bytes > INT64_MAX || d->received_bytes > INT64_MAX)
                return -EPROTO;
        return queue_close(a, c, d, (CloseReason) d->reason);
}

static int on_dialer(void *owner, _unused_ PrivLink *link, Imsg *m)
{
        if (m->type == PRIV_DIAL_REFUSED)
                return on_dial_refused(owner, m->body);
        if (m->type == PRIV_DIAL_CLOSED)
                return on_dial_closed(owner, m->body);
        return -EPROTO;
}

static void on_dialer_closed(void *owner, _unused_ PrivLink *link, int reason)
{
        if (reason != -EPIPE)
                (void) log_warning(reason, "The dialer broke the protocol");
        dialer_lose(owner);
}

void dialer_lose(Audit *a)
{
        size_t cursor = 0, n_left = 0;

        a->dialer = priv_link_free(a->dialer);
        /* Its sockets died with it; how much went over them nobody knows. */
        for (Connection *c; (c = map_next(&a->connections, &cursor));) {
                if (queue_close(a, c, NULL, CLOSE_ERROR) >= 0)
                        map_stay(&cursor);
                else
                        n_left++;
        }
        if (n_left > 0)
                (void) log_error(
                                -ENOMEM,
                                "no memory for the close rows of %zu connections: the next start writes them",
                                n_left);
}

int dialer_attach(Audit *a, int take_fd)
{
        dialer_lose(a);
        if (priv_link_new(a->loop, take_fd, CHANNEL_AUDIT_DIALER, ROLE_AUDIT, &a->dialer) < 0) {
                a->dialer = NULL;
                return -ENOMEM;
        }
        priv_link_set_handler(a->dialer, on_dialer, on_dialer_closed, a);
        priv_link_set_phase(a->dialer, PHASE_RUN);
        return 0;
}
