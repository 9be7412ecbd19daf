/* What the rules of a session say about what its egress worker asks. */

#include <errno.h>

#include "daemon/audit/bounds.h"
#include "daemon/audit/queue.h"
#include "proto/base/clock.h"
#include "proto/base/str.h"

#define RULE_TEXT_MAX 16384U /* it is hashed with every row */

static const char *text_or_null(const char *s)
{
        return s && s[0] != '\0' ? s : NULL;
}

static bool is_allowed(const Pending *p, PolicyRequest q, Protocol protocol, PolicyMatch *ret)
{
        q.protocol = protocol;
        q.method = q.path = NULL;
        q.n_path = 0;
        policy_match_request(p->session->policy, &q, ret);
        return ret->verdict == VERDICT_ALLOW;
}

/* A tunnel is decided before anybody knows what for: a rule for http alone opens none for TLS, one for tcp
 * opens it for anything, and one for some requests leads nowhere until there is one. */
static void match_tunnel(Pending *p, const PolicyRequest *q, PolicyMatch *m)
{
        PolicyMatch http, tls, tcp;
        bool allows_http = is_allowed(p, *q, PROTOCOL_HTTP, &http);

        p->allows_tls = is_allowed(p, *q, PROTOCOL_TLS, &tls);
        p->allows_tcp = is_allowed(p, *q, PROTOCOL_TCP, &tcp);
        if (p->allows_tcp && m->verdict != VERDICT_ALLOW) {
                *m = tcp;
                p->protocol = PROTOCOL_TCP;
        } else if (allows_http && m->verdict != VERDICT_ALLOW) {
                *m = http;
                p->protocol = PROTOCOL_HTTP;
                p->is_by_request = true;
                p->wants_connection = false;
                p->row.action = "request";
        } else if (!allows_http && !p->allows_tls && !p->allows_tcp && m->verdict == VERDICT_ALLOW) {
                *m = http.verdict < tls.verdict ? http : tls;
        }
        p->row.protocol = protocol_to_string(p->protocol);
}

/* A rule for whatever is spoken opens HTTP at each door. */
static void match_http(Pending *p, PolicyRequest *q, PolicyMatch *m)
{
        PolicyMatch tcp;

        if (m->verdict == VERDICT_ALLOW || !is_allowed(p, *q, PROTOCOL_TCP, &tcp))
                return;
        *m = tcp;
        p->protocol = PROTOCOL_TCP;
        q->method = q->path = NULL;
        q->n_path = 0;
}

/* What a request for HTTP does not say matches no rule; of others it is not known. */
static void fill_request(const Pending *p, const PrivDecide *d, PolicyRequest *q)
{
        *q = (PolicyRequest){ .host = p->row.host ? p->row.host : "",
                              .address = d->address,
                              .port = d->port,
                              .protocol = (Protocol) d->protocol,
                              .now_usec = clock_latest_usec(&p->egress->audit->latest_usec) };
        if (d->protocol != PROTOCOL_HTTP)
                return;
        q->method = p->row.method ? p->row.method : "";
        q->path = p->row.path.data ? p->row.path.data : "-";
        q->n_path = p->row.path.data ? p->row.path.size : 1;
}

static void deny_for(Pending *p, DecisionReason reason)
{
        p->row.verdict = VERDICT_DENY;
        p->reason = reason;
}

static void name_rule(Pending *p, const char *layer, const char *name, const char *text)
{
        bool is_short = strnlen(text, RULE_TEXT_MAX) < RULE_TEXT_MAX;

        p->row.rule = (RowRule){ .layer = layer, .name = name, .text = is_short ? text : "" };
}

/* What the rules say beyond yes. */
static void take_bounds(Pending *p, PolicyRequest *q, bool is_tunnel)
{
        int r;

        q->protocol = (Protocol) p->protocol;
        r = bounds_new(p->session, q, &p->bounds);
        if (r >= 0 && is_tunnel && p->allows_tls)
                bounds_add(p->bounds, q, PROTOCOL_TLS);
        if (r >= 0 && is_tunnel && p->allows_tcp)
                bounds_add(p->bounds, q, PROTOCOL_TCP);
        if (r >= 0 && p->wants_connection)
                r = bounds_count(p->bounds, &p->limit);
        if (r < 0 && !p->limit)
                deny_for(p, r == -EDQUOT ? REASON_MAX_CONNECTIONS : REASON_AUDIT);
}

void decision_reach_limit(Pending *p)
{
        deny_for(p, REASON_MAX_CONNECTIONS);
        if (p->limit)
                name_rule(p, p->limit->layer, p->limit->rule, p->limit->text);
        p->row.reason = decision_reason_to_string(p->reason);
}

/* What reaches a name server counts, whichever door the name came through. */
static void take_from_budget(Pending *p)
{
        if (p->row.host && !session_take_name(p->egress->audit, p->session, p->row.host))
                deny_for(p, REASON_LIMIT);
}

static void choose_lookup(Pending *p, const PolicyMatch *m)
{
        p->dns_type = policy_dns_type_from_string(p->row.method ? p->row.method : "");
        if (p->dns_type != 0 && !(m->dns_types & p->dns_type))
                p->wants_lookup = false;
}

/* The rules say yes; what else there is may still say no. */
static void allow(Pending *p, const PrivDecide *d, PolicyRequest *q, const PolicyMatch *m)
{
        if (d->entry == ENTRY_DNS)
                choose_lookup(p, m);
        if (p->wants_connection || p->wants_lookup)
                take_from_budget(p);
        if (p->row.verdict == VERDICT_ALLOW && d->entry != ENTRY_DNS && !p->is_by_request &&
            policy_block_has_terms(p->session->policy))
                take_bounds(p, q, d->protocol == PROTOCOL_ANY);
}

/* Ask is deny: nobody may answer yet. A name alone is answered all the same, by egress itself and without a
 * word to anybody outside: what is asked about is the connection that follows. */
static void take_verdict(Pending *p, const PrivDecide *d, const PolicyMatch *m)
{
        bool is_open = m->verdict == VERDICT_ALLOW || (m->verdict == VERDICT_ASK && d->entry == ENTRY_DNS);

        p->row.verdict = is_open ? (int64_t) m->verdict : VERDICT_DENY;
        p->reason = m->verdict == VERDICT_ASK && !is_open && m->reason != REASON_PATH ? REASON_NO_APPROVER
                                                                                      : m->reason;
        p->rule_reason = m->rule_reason;
        if (text_or_null(m->rule))
                name_rule(p, m->layer ? m->layer : "", m->rule, m->rule_text);
}

void decision_match(Pending *p, const PrivDecide *d)
{
        PolicyMatch m = { .verdict = VERDICT_DENY, .reason = REASON_DEFAULT };
        PolicyRequest q;

        fill_request(p, d, &q);
        if (d->entry == ENTRY_DNS)
                policy_match_name(p->session->policy, q.host, q.now_usec, &m, &q);
        else
                policy_match_request(p->session->policy, &q, &m);
        if (d->protocol == PROTOCOL_ANY)
                match_tunnel(p, &q, &m);
        else if (d->protocol == PROTOCOL_HTTP)
                match_http(p, &q, &m);
        take_verdict(p, d, &m);
        if (p->row.verdict == VERDICT_ALLOW)
                allow(p, d, &q, &m);
}
