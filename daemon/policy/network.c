/* The network part of a policy text. */

#include <errno.h>
#include <string.h>

#include "daemon/policy/model.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

#define ID_BYTES "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:*/-"

static const char *const protocol_names[] = {
        [RULE_ANY] = "any",
        [RULE_HTTP] = "http",
        [RULE_TLS] = "tls",
        [RULE_TCP] = "tcp",
};
ASSERT_TABLE(protocol_names, _RULE_PROTOCOL_MAX);

const char *rule_protocol_to_string(RuleProtocol p)
{
        return protocol_names[p];
}

static int read_verdict(SchemaReader *x, const TextNode *n, Verdict *ret, bool *ret_is_good)
{
        int v, r;

        *ret_is_good = false;
        r = schema_expect(x, n, TEXT_STRING);
        if (r <= 0)
                return r;
        v = verdict_from_string(n->string);
        if (v != VERDICT_DENY && v != VERDICT_ASK && v != VERDICT_ALLOW)
                return schema_fail(x, n, "expected \"allow\", \"deny\" or \"ask\"");
        *ret = (Verdict) v;
        *ret_is_good = true;
        return 0;
}

static int read_id(SchemaReader *x, const TextNode *n)
{
        int r;

        r = schema_expect(x, n, TEXT_STRING);
        if (r <= 0)
                return r;
        if (n->string[0] == '\0' || strlen(n->string) >= PRIV_NAME_SIZE ||
            n->string[strspn(n->string, ID_BYTES)])
                return schema_fail(x, n, "an id has 1 to 63 letters, digits and . _ : * / -");
        if (map_get(&x->ids, n->string, strlen(n->string))) {
                r = schema_warn(x, n, "another rule has this id: rows will not tell them apart");
                if (r < 0)
                        return r;
        }
        return str_dup(n->string, &x->rule->id);
}

static int read_action(SchemaReader *x, const TextNode *n)
{
        return read_verdict(x, n, &x->rule->action, &x->rule->has_action);
}

static int read_host(SchemaReader *x, const TextNode *n)
{
        char host[PRIV_HOST_SIZE];
        const char *message;
        int r;

        r = schema_expect(x, n, TEXT_STRING);
        if (r <= 0)
                return r;
        if (rule_host_parse(n->string, host, &x->rule->is_wildcard, &message) < 0)
                return schema_fail(x, n, "%.255s: %s", n->string, message);
        return str_dup(host, &x->rule->host);
}

static int read_cidr(SchemaReader *x, const TextNode *n)
{
        const char *message;
        int r;

        r = schema_expect(x, n, TEXT_STRING);
        if (r <= 0)
                return r;
        if (rule_cidr_parse(n->string, &x->rule->network, &x->rule->prefix_length, &message) < 0)
                return schema_fail(x, n, "%s", message);
        x->rule->has_cidr = true;
        return 0;
}

static int parse_range(const TextNode *n, PortRange *ret)
{
        char first[16];
        const char *dash;

        if (n->type == TEXT_INTEGER) {
                if (n->integer < 1 || n->integer > UINT16_MAX)
                        return -ERANGE;
                *ret = (PortRange){ (uint16_t) n->integer, (uint16_t) n->integer };
                return 0;
        }
        if (n->type != TEXT_STRING)
                return -EINVAL;
        dash = strchr(n->string, '-');
        if (!dash || (size_t) (dash - n->string) >= sizeof(first))
                return -EINVAL;
        memcpy(first, n->string, (size_t) (dash - n->string));
        first[dash - n->string] = '\0';
        if (parse_port(first, &ret->first) < 0 || parse_port(dash + 1, &ret->last) < 0 ||
            ret->first > ret->last)
                return -EINVAL;
        return 0;
}

static int read_ports(SchemaReader *x, const TextNode *n)
{
        NetRule *rule = x->rule;
        int r;

        r = schema_expect(x, n, TEXT_ARRAY);
        if (r <= 0)
                return r;
        if (n->n > POLICY_RULE_PORTS_MAX)
                return schema_fail(x, n, "too many ports (at most 64); write ranges such as \"8000-8100\"");
        rule->is_empty_ports = n->n == 0;
        rule->ports = calloc(n->n + 1, sizeof(*rule->ports));
        if (!rule->ports)
                return -ENOMEM;
        for (const TextNode *c = n->first; c; c = c->next) {
                if (parse_range(c, &rule->ports[rule->n_ports]) < 0) {
                        r = schema_fail(x, c,
                                        "expected a port from 1 to 65535 or a range such as \"8000-8100\"");
                        if (r < 0)
                                return r;
                        continue;
                }
                rule->n_ports++;
        }
        return 0;
}

static int read_protocol(SchemaReader *x, const TextNode *n)
{
        int r;

        r = schema_expect(x, n, TEXT_STRING);
        if (r <= 0)
                return r;
        for (unsigned i = 0; i < _RULE_PROTOCOL_MAX; i++) {
                if (!str_equal(protocol_names[i], n->string))
                        continue;
                x->rule->protocol = (RuleProtocol) i;
                x->rule->has_protocol = true;
                return 0;
        }
        return schema_fail(x, n, "expected \"any\", \"http\", \"tls\" or \"tcp\"");
}

static int read_expires(SchemaReader *x, const TextNode *n)
{
        int r;

        r = schema_expect(x, n, TEXT_STRING);
        if (r <= 0)
                return r;
        if (rule_time_parse(n->string, &x->rule->expires_usec) < 0)
                return schema_fail(x, n, "expected a time in UTC such as \"2026-12-31T00:00:00Z\"");
        return str_dup(n->string, &x->rule->expires);
}

static int read_reason(SchemaReader *x, const TextNode *n)
{
        int r;

        r = schema_expect(x, n, TEXT_STRING);
        if (r <= 0)
                return r;
        if (strlen(n->string) >= PRIV_TEXT_SIZE)
                return schema_fail(x, n, "a reason has at most 255 bytes");
        for (const char *p = n->string; *p; p++)
                if ((unsigned char) *p < 0x20 || *p == 0x7f)
                        return schema_fail(x, n, "a reason is one line without control characters");
        return str_dup(n->string, &x->rule->reason);
}

static const KeyRule rule_rules[] = {
        { "id", read_id, NULL },
        { "action", read_action, NULL },
        { "host", read_host, NULL },
        { "cidr", read_cidr, NULL },
        { "ports", read_ports, NULL },
        { "protocol", read_protocol, NULL },
        { "expires", read_expires, NULL },
        { "reason", read_reason, NULL },
        { "methods", rule_read_methods, NULL },
        { "paths", rule_read_paths, NULL },
        { "tls", rule_read_tls, NULL },
        { "max_upload", rule_read_max_upload, NULL },
        { "max_download", rule_read_max_download, NULL },
        { "max_connections", rule_read_max_connections, NULL },
        { "idle", rule_read_idle, NULL },
        { "dns_types", rule_read_dns_types, NULL },
        { "websocket", NULL, "a rule with protocol \"tcp\" lets it pass, and over TLS any rule does" },
        { "credential", NULL, "no credential is injected yet" },
};
static const KeyTable rule_table = { rule_rules, ELEMENTSOF(rule_rules) };

static const char *layer_of(const Policy *p)
{
        return policy_kind_to_string(p->kind);
}

static int keep_rule(SchemaReader *x, const NetRule *rule)
{
        NetRule *kept;
        int r;

        r = policy_add_rule(x->policy, rule, layer_of(x->policy));
        if (r < 0 || !rule->id)
                return r;
        kept = &x->policy->rules[x->policy->n_rules - 1];
        r = map_put(&x->ids, kept->id, strlen(kept->id), kept->id);
        return r == -EEXIST ? 0 : r;
}

static int read_rule(SchemaReader *x, const TextNode *n)
{
        NetRule rule = { .action = VERDICT_DENY };
        unsigned n_before = x->diagnostics->n_failures;
        int r;

        x->rule = &rule;
        r = schema_read_object(x, n, &rule_table);
        if (r >= 0 && x->diagnostics->n_failures == n_before)
                r = rule_check_terms(x, n);
        x->rule = NULL;
        if (r >= 0 && x->diagnostics->n_failures == n_before) {
                if (!rule.has_action)
                        r = schema_fail(x, n, "a rule needs an action: \"allow\", \"deny\" or \"ask\"");
                else if (!rule.host && !rule.has_cidr)
                        r = schema_fail(x, n, "a rule needs a host, a cidr or both");
                else
                        r = keep_rule(x, &rule);
        }
        net_rule_done(&rule);
        return r;
}

static int read_rules(SchemaReader *x, const TextNode *n)
{
        int r;

        r = schema_expect(x, n, TEXT_ARRAY);
        if (r <= 0)
                return r;
        for (const TextNode *c = n->first; c; c = c->next) {
                r = read_rule(x, c);
                if (r == -E2BIG)
                        return schema_fail(x, c, "too many rules (at most %u)", POLICY_RULES_MAX);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int read_default(SchemaReader *x, const TextNode *n)
{
        bool is_good;
        int r;

        r = read_verdict(x, n, &x->policy->network_default, &is_good);
        if (r < 0 || !is_good)
                return r;
        x->policy->has |= HAS_DEFAULT;
        x->policy->default_layer = layer_of(x->policy);
        return 0;
}

int policy_add_publish(Policy *p, uint32_t port)
{
        uint32_t at = 0;

        while (at < p->n_publish && p->publish[at] < port)
                at++;
        if (at < p->n_publish && p->publish[at] == port)
                return 0;
        if (p->n_publish >= PRIV_PUBLISH_MAX)
                return -E2BIG;
        memmove(&p->publish[at + 1], &p->publish[at], (p->n_publish - at) * sizeof(p->publish[0]));
        p->publish[at] = port;
        p->n_publish++;
        return 0;
}

uint32_t policy_publish(const Policy *p, uint32_t ports[PRIV_PUBLISH_MAX])
{
        memcpy(ports, p->publish, p->n_publish * sizeof(ports[0]));
        return p->n_publish;
}

/* It opens a door: what can only narrow has none to open. A ceiling says which there may be. */
static int read_publish(SchemaReader *x, const TextNode *n)
{
        int r;

        r = schema_expect(x, n, TEXT_ARRAY);
        if (r <= 0)
                return r;
        if (x->policy->kind == POLICY_PROJECT)
                return schema_fail(x, n, "only a profile and the user's own layer can publish ports");
        x->policy->has |= HAS_PUBLISH;
        for (const TextNode *c = n->first; c; c = c->next) {
                if (c->type != TEXT_INTEGER || c->integer < 1024 || c->integer > UINT16_MAX)
                        r = schema_fail(x, c, "expected a port from 1024 to 65535");
                else if (policy_add_publish(x->policy, (uint32_t) c->integer) < 0)
                        return schema_fail(x, c, "too many ports (at most %u)", PRIV_PUBLISH_MAX);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int read_dns(SchemaReader *x, const TextNode *n)
{
        int r;

        r = schema_expect(x, n, TEXT_STRING);
        if (r <= 0)
                return r;
        x->policy->is_dns_real = str_equal(n->string, "real");
        if (!x->policy->is_dns_real && !str_equal(n->string, "synthetic"))
                return schema_fail(x, n, "expected \"synthetic\" or \"real\"");
        x->policy->has |= HAS_DNS;
        return 0;
}

static const KeyRule network_rules[] = {
        { "default", read_default, NULL },
        { "rules", read_rules, NULL },
        { "dns", read_dns, NULL },
        { "pool", schema_read_own_pool4, NULL },
        { "pool6", schema_read_own_pool6, NULL },
        { "publish", read_publish, NULL },
};
static const KeyTable network_table = { network_rules, ELEMENTSOF(network_rules) };

int schema_read_network(SchemaReader *x, const TextNode *n)
{
        return schema_read_object(x, n, &network_table);
}
