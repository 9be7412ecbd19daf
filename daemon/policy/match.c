/* Decisions on a compiled policy: the same function for whoever decides and for whoever connects. */

#include <string.h>

#include "daemon/policy/address.h"
#include "daemon/policy/block.h"
#include "proto/base/str.h"

#define IMPLICIT_DEPTH_MAX 31U

typedef struct Outcome {
        Verdict verdict;
        const BlockRule *rule; /* NULL: a default, or the guard */
        bool is_guarded;       /* a guard said no, not the default */
} Outcome;

typedef struct Matcher {
        const PolicyBlock *b;
        const BlockSet *set;
        const PolicyRequest *q;
        const BlockName *name; /* NULL where the request has a literal address */
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

static bool rule_applies(const Matcher *m, const BlockRule *r)
{
        if (m->q->protocol >= _PROTOCOL_MAX || !(r->protocols & UINT32_C(1) << m->q->protocol))
                return false;
        if (m->q->now_usec != 0 && r->expires_usec != 0 && m->q->now_usec >= r->expires_usec)
                return false;
        return port_matches(m->b, r, m->q->port);
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

static void take_better_literal(const Matcher *m, const BlockRule *r, void *userdata)
{
        PrivAddress a = address_unmap(&m->q->address);
        Outcome *o = userdata;

        /* The guard belongs to the session's own rules; further sets only bound them. */
        if (r->verdict != VERDICT_DENY && is_first_set(m) && address_class(&a) != ADDRESS_GLOBAL &&
            !address_guard_admits(&a, &r->network, r->prefix_length)) {
                o->is_guarded = true;
                return;
        }
        take_better(m, r, userdata);
}

/* Names that mean this machine or its network: only a rule opens them, no default. */
static bool is_local_name(const char *host)
{
        static const char *const names[] = { "localhost", "local", "internal" };
        const char *last = strrchr(host, '.');

        last = last ? last + 1 : host;
        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                if (str_equal(last, names[i]))
                        return true;
        return false;
}

static Outcome match_set(const Matcher *m)
{
        Outcome o = { .verdict = (Verdict) m->set->default_verdict };

        if (m->name) {
                visit_host_rules(m, take_better, &o);
                o.is_guarded = is_local_name(m->q->host) && m->set->default_verdict != VERDICT_DENY;
        } else {
                PrivAddress a = address_unmap(&m->q->address);

                visit_cidr_rules(m, &a, take_better_literal, &o);
                if (address_class(&a) != ADDRESS_GLOBAL && m->set->default_verdict != VERDICT_DENY)
                        o.is_guarded = true;
        }
        o.is_guarded = o.is_guarded && !o.rule && is_first_set(m);
        if (o.is_guarded)
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
                                      .layer = o->is_guarded ? "builtin"
                                                             : block_string(m->b, m->set->default_layer),
                                      .rule = "",
                                      .rule_text = "",
                                      .rule_reason = "" };
}

void policy_match_request(const PolicyBlock *b, const PolicyRequest *q, PolicyMatch *ret)
{
        Matcher m = { .b = b, .set = block_table(b, b->sets), .q = q };
        BlockName name;
        bool is_decided = false;

        *ret = (PolicyMatch){ .verdict = VERDICT_DENY,
                              .reason = REASON_MALFORMED,
                              .layer = "builtin",
                              .rule = "",
                              .rule_text = "",
                              .rule_reason = "" };
        if (q->host[0] == '\0' && q->address.family != 4 && q->address.family != 6)
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

static void view_host_rule(const Matcher *m, const BlockRule *r, void *userdata)
{
        AddressView *v = userdata;

        (void) m;
        v->is_denied = v->is_denied || r->verdict == VERDICT_DENY;
        v->has_rule[r->verdict] = true;
        if (!(r->flags & BLOCK_RULE_CIDR) || address_in_prefix(&v->address, &r->network, r->prefix_length))
                v->has_holding_rule[r->verdict] = true;
        v->is_admitted = v->is_admitted || (r->verdict != VERDICT_DENY && opens_guard(v, r));
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
        BlockName name;

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
