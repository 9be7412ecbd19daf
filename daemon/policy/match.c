/* Decisions on a compiled policy: the same function for whoever decides and for whoever connects. */

#include <string.h>

#include "daemon/policy/address.h"
#include "daemon/policy/block.h"
#include "daemon/policy/reserved.h"
#include "daemon/policy/terms.h"
#include "daemon/policy/url_path.h"
#include "proto/base/hash.h"
#include "proto/base/str.h"

#define IMPLICIT_DEPTH_MAX 31U
#define DNS_OVER_TLS_PORT  853U

typedef struct Outcome {
        Verdict verdict;
        const BlockRule *rule; /* NULL: a default, or the guard */
        bool is_guarded;       /* a guard said no, not the default */
        bool is_resolver;      /* likewise */
} Outcome;

typedef struct Matcher {
        const PolicyBlock *b;
        const BlockSet *set;
        const PolicyRequest *q;
        const BlockName *name; /* NULL where the request has a literal address */
        PathView *path;        /* NULL where it is not known */
        PolicyTerms *terms;    /* NULL where nobody asks for them */
        bool has_any_port;     /* rules of all ports and protocols are visited */
} Matcher;

typedef void (*RuleVisitor)(const Matcher *m, const BlockRule *r, void *userdata);

static bool port_matches(const PolicyBlock *b, const BlockRule *r, uint32_t port)
{
        const BlockPorts *ports = block_table(b, b->ports);

        for (uint32_t i = 0; i < r->n_ports; i++)
                if (port >= ports[r->first_port + i].first && port <= ports[r->first_port + i].last)
                        return true;
        return r->n_ports == 0;
}

/* The destination fits: what else does the rule say? */
static bool request_fits(const Matcher *m, const BlockRule *r)
{
        if (m->terms) {
                uint32_t flags = terms_of(m->b, r)->flags;

                m->terms->has_methods = m->terms->has_methods || (flags & BLOCK_TERMS_METHODS);
                m->terms->has_paths = m->terms->has_paths || (flags & BLOCK_TERMS_PATHS);
        }
        return terms_apply(m->b, r, m->q, m->path);
}

static bool rule_applies(const Matcher *m, const BlockRule *r)
{
        if (m->q->now_usec != 0 && r->expires_usec != 0 && m->q->now_usec >= r->expires_usec)
                return false;
        if (m->has_any_port)
                return true;
        if (m->q->protocol >= _PROTOCOL_MAX || !(r->protocols & UINT32_C(1) << m->q->protocol))
                return false;
        return port_matches(m->b, r, m->q->port) && (r->terms == 0 || request_fits(m, r));
}

static const BlockRule *find_group(const Matcher *m, size_t i, bool is_wildcard)
{
        const BlockRule *rules = block_table(m->b, m->b->rules);
        const BlockBucket *buckets =
                        (const BlockBucket *) block_table(m->b, m->b->buckets) + m->set->first_bucket;
        uint64_t key = m->name->keys[i] ^ (is_wildcard ? BLOCK_KEY_WILDCARD : 0);
        uint32_t mask = m->set->n_buckets - 1;

        for (uint32_t at = (uint32_t) key & mask; buckets[at].rule != 0; at = (at + 1) & mask) {
                const BlockRule *r = &rules[buckets[at].rule - 1];

                if (buckets[at].tag == (uint32_t) (key >> 32) &&
                    is_wildcard == ((r->flags & BLOCK_RULE_WILDCARD) != 0) &&
                    str_equal(block_string(m->b, r->host), m->name->starts[i]))
                        return r;
        }
        return NULL;
}

static void visit_group(const Matcher *m, const BlockRule *r, RuleVisitor visitor, void *userdata)
{
        for (uint32_t i = 0, n = r ? r->n_group : 0; i < n; i++)
                if (rule_applies(m, &r[i]))
                        visitor(m, &r[i], userdata);
}

static void visit_host_rules(const Matcher *m, RuleVisitor visitor, void *userdata)
{
        if (!m->name || m->name->n == 0 || m->set->n_buckets == 0)
                return;
        for (size_t i = 0; i + 1 < m->name->n; i++) {
                size_t depth = i + 1 < IMPLICIT_DEPTH_MAX ? i + 1 : IMPLICIT_DEPTH_MAX;

                if (m->set->wildcard_depths & UINT32_C(1) << depth)
                        visit_group(m, find_group(m, i, /* is_wildcard= */ true), visitor, userdata);
        }
        visit_group(m, find_group(m, m->name->n - 1, /* is_wildcard= */ false), visitor, userdata);
}

static void visit_cidr_rules(const Matcher *m, const PrivAddress *a, RuleVisitor visitor, void *userdata)
{
        const BlockRule *rules = (const BlockRule *) block_table(m->b, m->b->rules) + m->set->first_rule;

        for (uint32_t i = 0; i < m->set->n_linear; i++)
                if (address_in_prefix(a, &rules[i].network, rules[i].prefix_length) &&
                    rule_applies(m, &rules[i]))
                        visitor(m, &rules[i], userdata);
}

/* deny beats allow beats ask. */
static unsigned rank(uint32_t verdict)
{
        static const unsigned ranks[] = { [VERDICT_DENY] = 3, [VERDICT_ASK] = 1, [VERDICT_ALLOW] = 2 };

        return ranks[verdict];
}

static void take_better(const Matcher *m, const BlockRule *r, void *userdata)
{
        Outcome *o = userdata;

        (void) m;
        if (o->rule && rank(r->verdict) <= rank(o->rule->verdict))
                return;
        o->rule = r;
        o->verdict = (Verdict) r->verdict;
}

static bool is_first_set(const Matcher *m)
{
        return m->set == block_table(m->b, m->b->sets);
}

/* The guard belongs to the session's own rules; further sets only bound them. */
static bool is_too_wide(const Matcher *m, const BlockRule *r)
{
        PrivAddress a = address_unmap(&m->q->address);

        return r->verdict != VERDICT_DENY && is_first_set(m) && address_class(&a) != ADDRESS_GLOBAL &&
               !address_guard_admits(&a, &r->network, r->prefix_length);
}

static void take_better_literal(const Matcher *m, const BlockRule *r, void *userdata)
{
        Outcome *o = userdata;

        if (is_too_wide(m, r)) {
                o->is_guarded = true;
                return;
        }
        take_better(m, r, userdata);
}

/* Other people's DNS, over TLS or HTTPS: likewise. */
static bool is_resolver(const Matcher *m)
{
        return m->q->port == DNS_OVER_TLS_PORT || (m->name && host_is_public_resolver(m->q->host));
}

static Outcome match_set(const Matcher *m)
{
        Outcome o = { .verdict = (Verdict) m->set->default_verdict };

        if (m->name) {
                visit_host_rules(m, take_better, &o);
                o.is_guarded = m->set->default_verdict != VERDICT_DENY && host_is_local(m->q->host);
        } else {
                PrivAddress a = address_unmap(&m->q->address);

                visit_cidr_rules(m, &a, take_better_literal, &o);
                if (address_class(&a) != ADDRESS_GLOBAL && m->set->default_verdict != VERDICT_DENY)
                        o.is_guarded = true;
        }
        if (o.rule || !is_first_set(m))
                o.is_guarded = false;
        else
                o.is_resolver = o.verdict != VERDICT_DENY && is_resolver(m);
        if (o.is_guarded || o.is_resolver)
                o.verdict = VERDICT_DENY;
        return o;
}

static void describe(const Matcher *m, const Outcome *o, PolicyMatch *ret)
{
        if (o->rule)
                *ret = (PolicyMatch){ .verdict = o->verdict,
                                      .reason = REASON_RULE,
                                      .layer = block_string(m->b, o->rule->layer),
                                      .rule = block_string(m->b, o->rule->id),
                                      .rule_text = block_string(m->b, o->rule->text),
                                      .rule_reason = block_string(m->b, o->rule->reason) };
        else
                *ret = (PolicyMatch){ .verdict = o->verdict,
                                      .reason = o->is_guarded ? REASON_ADDRESS : REASON_DEFAULT,
                                      .layer = o->is_guarded || o->is_resolver
                                                               ? "builtin"
                                                               : block_string(m->b, m->set->default_layer),
                                      .rule = "",
                                      .rule_text = "",
                                      .rule_reason = "" };
}

static bool has_destination(const PolicyRequest *q)
{
        return q->host[0] != '\0' || q->address.family == 4 || q->address.family == 6;
}

static void match_sets(const PolicyBlock *b, const PolicyRequest *q, PathView *path, PolicyMatch *ret)
{
        Matcher m = { .b = b, .set = block_table(b, b->sets), .q = q, .path = path };
        _left_as_is_ BlockName name;
        bool is_decided = false;

        *ret = (PolicyMatch){ .verdict = VERDICT_DENY,
                              .reason = REASON_MALFORMED,
                              .layer = "builtin",
                              .rule = "",
                              .rule_text = "",
                              .rule_reason = "" };
        if (!has_destination(q))
                return;
        if (q->host[0] != '\0') {
                block_name_init(&name, b->seed, q->host);
                m.name = &name;
        }
        for (uint32_t i = 0; i < b->n_sets; i++, m.set++) {
                Outcome o = match_set(&m);

                if (!is_decided || o.verdict < ret->verdict)
                        describe(&m, &o, ret);
                is_decided = true;
        }
        if (path && path->is_blamed && ret->verdict != VERDICT_ALLOW && ret->reason == REASON_DEFAULT)
                ret->reason = REASON_PATH;
}

typedef struct PathText {
        PathView view;
        char canonical[URL_PATH_MAX + 1];
} PathText;

static PathView *view_path(const PolicyRequest *q, PathText *text)
{
        bool is_clear = url_path_canonical(q->path, q->n_path, text->canonical) >= 0;

        text->view = (PathView){ .canonical = is_clear ? text->canonical : NULL,
                                 .steps = URL_PATH_STEPS_MAX };
        return &text->view;
}

static void match_with_path(const PolicyBlock *b, const PolicyRequest *q, PolicyMatch *ret)
{
        PathText text;

        match_sets(b, q, view_path(q, &text), ret);
}

void policy_match_request(const PolicyBlock *b, const PolicyRequest *q, PolicyMatch *ret)
{
        if (q->path && policy_block_has_terms(b))
                match_with_path(b, q, ret);
        else
                match_sets(b, q, NULL, ret);
}

/* ---- what holds for what is allowed ---- */

/* What the rules of one set say. */
typedef struct SetTerms {
        PolicyTerms *all;
        uint64_t expires_usec; /* of the rule that holds longest */
        bool has_rule;
        bool is_endless;
} SetTerms;

static void narrow(uint64_t *to, uint64_t limit)
{
        if (limit != 0 && (*to == 0 || limit < *to))
                *to = limit;
}

static void count_for(const Matcher *m, const BlockRule *r, uint32_t max, PolicyTerms *t)
{
        static const uint8_t key[16];
        const char *text = block_string(m->b, r->text);
        PolicyCount count = { .key = hash_siphash(key, text, strlen(text)),
                              .max = max,
                              .layer = block_string(m->b, r->layer),
                              .rule = block_string(m->b, r->id),
                              .text = text };

        for (size_t i = 0; i < t->n_counts; i++)
                if (t->counts[i].key == count.key)
                        return;
        t->is_uncounted = t->is_uncounted || t->n_counts == POLICY_COUNTS_MAX;
        if (!t->is_uncounted)
                t->counts[t->n_counts++] = count;
}

static void take_terms(const Matcher *m, const BlockRule *r, void *userdata)
{
        SetTerms *s = userdata;
        const BlockTerms *t = r->terms != 0 ? terms_of(m->b, r) : NULL;

        if (r->verdict != VERDICT_ALLOW || (!m->name && is_too_wide(m, r)))
                return;
        s->has_rule = true;
        s->is_endless = s->is_endless || r->expires_usec == 0;
        s->expires_usec = MAX_OF(s->expires_usec, r->expires_usec);
        if (m->q->protocol == PROTOCOL_TLS && !(t && (t->flags & BLOCK_TERMS_TLS_ANY)))
                s->all->needs_sni = true;
        if (!t)
                return;
        narrow(&s->all->max_upload_bytes, t->max_upload_bytes);
        narrow(&s->all->max_download_bytes, t->max_download_bytes);
        narrow(&s->all->idle_usec, t->idle_usec);
        if (t->max_connections != 0)
                count_for(m, r, t->max_connections, s->all);
}

static void take_set_terms(const Matcher *m)
{
        SetTerms s = { .all = m->terms };
        PrivAddress a = address_unmap(&m->q->address);

        if (m->name)
                visit_host_rules(m, take_terms, &s);
        else
                visit_cidr_rules(m, &a, take_terms, &s);
        if (s.has_rule && !s.is_endless)
                narrow(&m->terms->expires_usec, s.expires_usec);
        /* A default opens no more than it says; in a set that only bounds it says nothing. */
        if (!s.has_rule && is_first_set(m) && m->q->protocol == PROTOCOL_TLS)
                m->terms->needs_sni = true;
}

void policy_match_terms(const PolicyBlock *b, const PolicyRequest *q, PolicyTerms *terms)
{
        Matcher m = { .b = b, .set = block_table(b, b->sets), .q = q, .terms = terms };
        _left_as_is_ BlockName name;
        PathText text;

        if (!has_destination(q))
                return;
        if (q->path)
                m.path = view_path(q, &text);
        if (q->host[0] != '\0') {
                block_name_init(&name, b->seed, q->host);
                m.name = &name;
        }
        for (uint32_t i = 0; i < b->n_sets; i++, m.set++)
                take_set_terms(&m);
}

/* ---- one address that a name led to ---- */

typedef struct AddressView {
        PrivAddress address;
        bool is_guarded;
        bool is_own; /* of this machine, beyond loopback: opened by its very address alone */
        bool is_denied;
        bool is_admitted;         /* a rule opens the guard */
        bool has_rule[3];         /* by verdict: a rule for the host */
        bool has_holding_rule[3]; /* one of them without a cidr, or whose cidr holds the address */
} AddressView;

static bool opens_guard(const AddressView *v, const BlockRule *r)
{
        if (!(r->flags & BLOCK_RULE_CIDR) ||
            !address_guard_admits(&v->address, &r->network, r->prefix_length))
                return false;
        return !v->is_own || r->prefix_length == (v->address.family == 4 ? 32U : 128U);
}

/* A rule that names this machine means its loopback. */
static bool names_machine(const Matcher *m, const AddressView *v, const BlockRule *r)
{
        return !(r->flags & BLOCK_RULE_WILDCARD) && address_is_loopback(&v->address) &&
               str_equal(m->q->host, POLICY_HOST_MACHINE);
}

static void view_host_rule(const Matcher *m, const BlockRule *r, void *userdata)
{
        AddressView *v = userdata;

        v->is_denied = v->is_denied || r->verdict == VERDICT_DENY;
        v->has_rule[r->verdict] = true;
        if (!(r->flags & BLOCK_RULE_CIDR) || address_in_prefix(&v->address, &r->network, r->prefix_length))
                v->has_holding_rule[r->verdict] = true;
        v->is_admitted = v->is_admitted ||
                         (r->verdict != VERDICT_DENY && (opens_guard(v, r) || names_machine(m, v, r)));
}

static void view_cidr_rule(const Matcher *m, const BlockRule *r, void *userdata)
{
        AddressView *v = userdata;

        v->is_denied = v->is_denied || r->verdict == VERDICT_DENY;
        /* A rule that asks about a network answers no question about a name that leads there. */
        if (r->verdict == VERDICT_ALLOW || (r->verdict == VERDICT_ASK && !m->name))
                v->is_admitted = v->is_admitted || opens_guard(v, r);
}

static bool is_open_in_set(const Matcher *m, AddressView *v)
{
        Verdict decided = VERDICT_ALLOW;

        visit_host_rules(m, view_host_rule, v);
        visit_cidr_rules(m, &v->address, view_cidr_rule, v);
        if (v->is_denied)
                return false;
        if (is_first_set(m) && v->is_guarded && !v->is_admitted)
                return false;
        if (!v->has_rule[VERDICT_ALLOW])
                decided = VERDICT_ASK;
        return !v->has_rule[decided] || v->has_holding_rule[decided];
}

bool policy_match_address(const PolicyBlock *b, const PolicyRequest *q, const PrivAddress *address,
                          bool is_local)
{
        Matcher m = { .b = b, .set = block_table(b, b->sets), .q = q };
        AddressView template = { .address = address_unmap(address) };
        _left_as_is_ BlockName name;

        if (template.address.family != 4 && template.address.family != 6)
                return false;
        template.is_own = is_local && !address_is_loopback(&template.address);
        template.is_guarded = is_local || address_class(&template.address) != ADDRESS_GLOBAL;
        if (q->host[0] != '\0') {
                block_name_init(&name, b->seed, q->host);
                m.name = &name;
        }
        for (uint32_t i = 0; i < b->n_sets; i++, m.set++) {
                AddressView v = template;

                if (!is_open_in_set(&m, &v))
                        return false;
        }
        return true;
}

static void view_pin(const Matcher *m, const BlockRule *r, void *userdata)
{
        bool *has_pin = userdata;

        (void) m;
        *has_pin = *has_pin || (r->flags & BLOCK_RULE_CIDR);
}

bool policy_match_pins(const PolicyBlock *b, const PolicyRequest *q)
{
        Matcher m = { .b = b, .set = block_table(b, b->sets), .q = q, .has_any_port = true };
        bool has_pin = false;
        BlockName name;

        if (q->host[0] == '\0')
                return false;
        block_name_init(&name, b->seed, q->host);
        m.name = &name;
        for (uint32_t i = 0; i < b->n_sets; i++, m.set++)
                visit_host_rules(&m, view_pin, &has_pin);
        return has_pin;
}

/* ---- a name alone ---- */

#define BORDERS_MAX 64U

/* Where the verdict may change from one port to the next, and what DNS may tell of the name. */
typedef struct Borders {
        uint32_t ports[BORDERS_MAX];
        size_t n;
        uint32_t dns_types; /* of the set in hand */
        bool has_rule;      /* it allows something of the name by a rule */
} Borders;

static void add_border(Borders *borders, uint32_t port)
{
        if (port > UINT16_MAX || borders->n >= BORDERS_MAX)
                return;
        for (size_t i = 0; i < borders->n; i++)
                if (borders->ports[i] == port)
                        return;
        borders->ports[borders->n++] = port;
}

static void view_borders(const Matcher *m, const BlockRule *r, void *userdata)
{
        const BlockPorts *ports = block_table(m->b, m->b->ports);
        Borders *borders = userdata;

        borders->has_rule = borders->has_rule || r->verdict == VERDICT_ALLOW;
        if (r->verdict == VERDICT_ALLOW && r->terms != 0)
                borders->dns_types |= terms_of(m->b, r)->flags / BLOCK_TERMS_DNS;
        for (uint32_t i = 0; i < r->n_ports; i++) {
                add_border(borders, ports[r->first_port + i].first);
                add_border(borders, ports[r->first_port + i].last + UINT32_C(1));
        }
}

static void find_borders(const PolicyBlock *b, const PolicyRequest *q, Borders *ret)
{
        Matcher m = { .b = b, .set = block_table(b, b->sets), .q = q, .has_any_port = true };
        _left_as_is_ BlockName name;

        /* The common ones first: a denial is described by what it says of them. */
        *ret = (Borders){ .ports = { 443, 80, 1 }, .n = 3 };
        block_name_init(&name, b->seed, q->host);
        m.name = &name;
        for (uint32_t i = 0, dns_types = POLICY_DNS_ALL; i < b->n_sets; i++, m.set++) {
                ret->dns_types = 0;
                ret->has_rule = false;
                visit_host_rules(&m, view_borders, ret);
                /* A further set bounds what it has a rule for. */
                if (i == 0 || ret->has_rule)
                        dns_types &= ret->dns_types;
                ret->dns_types = dns_types;
        }
}

void policy_match_name(const PolicyBlock *b, const char *host, uint64_t now_usec, PolicyMatch *ret,
                       PolicyRequest *ret_request)
{
        static const Protocol protocols[] = { PROTOCOL_TLS, PROTOCOL_HTTP, PROTOCOL_TCP };
        PolicyRequest q = { .host = host, .now_usec = now_usec };
        bool is_decided = false;
        Borders borders;

        find_borders(b, &q, &borders);
        for (size_t i = 0; i < borders.n; i++) {
                for (size_t p = 0; p < ELEMENTSOF(protocols); p++) {
                        PolicyMatch m;

                        q.port = borders.ports[i];
                        q.protocol = protocols[p];
                        policy_match_request(b, &q, &m);
                        if (is_decided && m.verdict <= ret->verdict)
                                continue;
                        is_decided = true;
                        *ret = m;
                        ret->dns_types = borders.dns_types;
                        *ret_request = q;
                        if (m.verdict == VERDICT_ALLOW)
                                return;
                }
        }
}

static size_t chosen_under(const Matcher *m, const BlockRule *r)
{
        size_t n_host = strlen(m->q->host), n_rule = strlen(block_string(m->b, r->host)) + 1;

        return r->flags & BLOCK_RULE_WILDCARD && n_rule < n_host ? n_host - n_rule : 0;
}

static void view_chosen(const Matcher *m, const BlockRule *r, void *userdata)
{
        size_t *n = userdata;

        if (r->verdict != VERDICT_DENY)
                *n = MIN_OF(*n, chosen_under(m, r));
}

size_t policy_name_chosen(const PolicyBlock *b, const char *host)
{
        PolicyRequest q = { .host = host };
        Matcher m = { .b = b, .set = block_table(b, b->sets), .q = &q, .has_any_port = true };
        size_t n = SIZE_MAX;
        _left_as_is_ BlockName name;

        block_name_init(&name, b->seed, host);
        m.name = &name;
        /* A name has to get through each set: the narrowest says how much of it is free. */
        for (uint32_t i = 0; i < b->n_sets; i++, m.set++)
                if (m.set->default_verdict != VERDICT_ALLOW)
                        visit_host_rules(&m, view_chosen, &n);
        return n == SIZE_MAX ? 0 : n;
}
