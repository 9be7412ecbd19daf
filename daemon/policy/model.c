#include "daemon/policy/model.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/str.h"

#define DIAGNOSTICS_MAX 64U

int string_list_add(StringList *l, const char *s)
{
        char **items;
        int r;

        if (l->n >= POLICY_STRINGS_MAX)
                return -E2BIG;
        items = reallocarray(l->items, l->n + 1, sizeof(*items));
        if (!items)
                return -ENOMEM;
        l->items = items;
        r = str_dup(s, &items[l->n]);
        if (r < 0)
                return r;
        l->n++;
        return 0;
}

int string_list_copy(const StringList *from, StringList *to)
{
        int r = 0;

        for (size_t i = 0; r >= 0 && i < from->n; i++)
                r = string_list_add(to, from->items[i]);
        return r;
}

bool string_list_holds(const StringList *l, const char *s)
{
        for (size_t i = 0; i < l->n; i++)
                if (str_equal(l->items[i], s))
                        return true;
        return false;
}

void string_list_done(StringList *l)
{
        for (size_t i = 0; i < l->n; i++)
                free(l->items[i]);
        free(l->items);
        *l = (StringList){ 0 };
}

void net_rule_done(NetRule *r)
{
        free(r->id);
        free(r->host);
        free(r->reason);
        free(r->expires);
        free(r->ports);
        string_list_done(&r->methods);
        string_list_done(&r->paths);
        *r = (NetRule){ 0 };
}

int policy_new(PolicyKind kind, const char *source, Policy **ret)
{
        _cleanup_(policy_freep) Policy *p = NULL;
        int r;

        p = calloc(1, sizeof(*p));
        if (!p)
                return -ENOMEM;
        *p = (Policy){ .kind = kind, .default_layer = "builtin" };
        /* A layer that only narrows has no opinion where it says nothing. */
        if (kind == POLICY_PROJECT || kind == POLICY_CEILING)
                p->network_default = VERDICT_ALLOW;
        policy_settings_default(&p->settings);
        r = str_dup(source, &p->source);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(p);
        return 0;
}

Policy *policy_free(Policy *p)
{
        if (!p)
                return NULL;
        for (size_t i = 0; i < p->n_rules; i++)
                net_rule_done(&p->rules[i]);
        for (size_t i = 0; i < p->n_paths; i++)
                free(p->paths[i].pattern);
        p->ceiling = policy_free(p->ceiling);
        string_list_done(&p->extends);
        string_list_done(&p->pass);
        string_list_done(&p->set);
        string_list_done(&p->groups);
        free(p->rules);
        free(p->paths);
        free(p->name);
        free(p->description);
        free(p->source);
        free(p);
        return NULL;
}

static int dup_optional(const char *s, char **ret)
{
        *ret = NULL;
        return s ? str_dup(s, ret) : 0;
}

static int net_rule_copy(const NetRule *from, NetRule *to)
{
        int r;

        r = dup_optional(from->id, &to->id);
        if (r >= 0)
                r = dup_optional(from->host, &to->host);
        if (r >= 0)
                r = dup_optional(from->reason, &to->reason);
        if (r >= 0)
                r = dup_optional(from->expires, &to->expires);
        if (r >= 0 && from->n_ports > 0) {
                to->ports = calloc(from->n_ports, sizeof(*to->ports));
                if (!to->ports)
                        return -ENOMEM;
                memcpy(to->ports, from->ports, from->n_ports * sizeof(*to->ports));
        }
        if (r >= 0)
                r = string_list_copy(&from->methods, &to->methods);
        if (r >= 0)
                r = string_list_copy(&from->paths, &to->paths);
        return r;
}

int policy_add_rule(Policy *p, const NetRule *rule, const char *layer)
{
        NetRule copy = *rule;
        int r;

        if (p->n_rules >= POLICY_RULES_MAX)
                return -E2BIG;
        if (p->n_rules == p->n_rules_room) {
                size_t room = p->n_rules_room > 0 ? 2 * p->n_rules_room : 16;
                NetRule *rules = reallocarray(p->rules, room, sizeof(*rules));

                if (!rules)
                        return -ENOMEM;
                p->rules = rules;
                p->n_rules_room = room;
        }
        copy.id = copy.host = copy.reason = copy.expires = NULL;
        copy.ports = NULL;
        copy.methods = copy.paths = (StringList){ 0 };
        copy.layer = layer;
        r = net_rule_copy(rule, &copy);
        if (r < 0) {
                net_rule_done(&copy);
                return r;
        }
        p->rules[p->n_rules++] = copy;
        return 0;
}

int policy_add_path(Policy *p, PathAccess access, const char *pattern, const char *layer)
{
        PathRule *paths;
        int r;

        for (size_t i = 0; i < p->n_paths; i++)
                if (p->paths[i].access == access && str_equal(p->paths[i].pattern, pattern) &&
                    str_equal(p->paths[i].layer, layer))
                        return 0;
        if (p->n_paths >= POLICY_PATHS_MAX)
                return -E2BIG;
        paths = reallocarray(p->paths, p->n_paths + 1, sizeof(*paths));
        if (!paths)
                return -ENOMEM;
        p->paths = paths;
        paths[p->n_paths] = (PathRule){ .access = access, .layer = layer };
        r = str_dup(pattern, &paths[p->n_paths].pattern);
        if (r < 0)
                return r;
        p->n_paths++;
        return 0;
}

int policy_add_tmpfs(Policy *p, const char *pattern, uint64_t size_bytes, const char *layer, bool replaces)
{
        PathRule *found = NULL;
        int r;

        for (size_t i = 0; i < p->n_paths; i++)
                if (p->paths[i].access == PATH_TMPFS && str_equal(p->paths[i].pattern, pattern) &&
                    str_equal(p->paths[i].layer, layer))
                        found = &p->paths[i];
        if (found) {
                if (replaces || size_bytes < found->size_bytes)
                        found->size_bytes = size_bytes;
                return 0;
        }
        r = policy_add_path(p, PATH_TMPFS, pattern, layer);
        if (r >= 0)
                p->paths[p->n_paths - 1].size_bytes = size_bytes;
        return r;
}

const char *policy_name(const Policy *p)
{
        return p->name ? p->name : "";
}

const char *policy_description(const Policy *p)
{
        return p->description ? p->description : "";
}

size_t policy_n_extends(const Policy *p)
{
        return p->extends.n;
}

const char *policy_extends(const Policy *p, size_t i)
{
        return p->extends.items[i];
}

const PolicyLimits *policy_limits(const Policy *p)
{
        return &p->limits;
}

const PolicyLimits *policy_limits_max(const Policy *p)
{
        static const PolicyLimits none;

        return p->ceiling ? &p->ceiling->limits : &none;
}

const Policy *policy_ceiling(const Policy *p)
{
        return p->ceiling;
}

size_t policy_n_pass(const Policy *p)
{
        return p->pass.n;
}

const char *policy_pass(const Policy *p, size_t i)
{
        return p->pass.items[i];
}

size_t policy_n_set(const Policy *p)
{
        return p->set.n;
}

const char *policy_set(const Policy *p, size_t i)
{
        return p->set.items[i];
}

size_t policy_n_groups(const Policy *p)
{
        return p->groups.n;
}

const char *policy_group(const Policy *p, size_t i)
{
        return p->groups.items[i];
}

/* ---- diagnostics ---- */

void policy_diagnostics_init(PolicyDiagnostics *d)
{
        *d = (PolicyDiagnostics){ 0 };
        list_init(&d->list);
}

static void diagnostic_free(PolicyDiagnostic *g)
{
        free(g->source);
        free(g->key);
        free(g->message);
        free(g);
}

void policy_diagnostics_done(PolicyDiagnostics *d)
{
        LIST_FOREACH (g, &d->list, PolicyDiagnostic, link) {
                list_unlink(&g->link);
                diagnostic_free(g);
        }
        d->n = d->n_failures = 0;
}

int diagnose(PolicyDiagnostics *d, PolicySeverity severity, const DiagnosticPlace *place, const char *format,
             ...)
{
        _cleanup_free_ char *message = NULL;
        PolicyDiagnostic *g;
        va_list ap;
        int r;

        if (severity == SEVERITY_FAILURE)
                d->n_failures++;
        if (d->n >= DIAGNOSTICS_MAX)
                return 0;
        va_start(ap, format);
        r = vasprintf(&message, format, ap);
        va_end(ap);
        if (r < 0) {
                message = NULL;
                return -ENOMEM;
        }
        g = calloc(1, sizeof(*g));
        if (!g)
                return -ENOMEM;
        *g = (PolicyDiagnostic){ .severity = severity, .line = place->line, .column = place->column };
        list_init(&g->link);
        r = str_dup(place->source, &g->source);
        if (r >= 0)
                r = str_dup(place->key ? place->key : "", &g->key);
        if (r >= 0 && d->n == DIAGNOSTICS_MAX - 1)
                r = str_dup("there is more; only the first 63 messages are shown", &g->message);
        else if (r >= 0)
                g->message = TAKE_PTR(message);
        if (r < 0) {
                diagnostic_free(g);
                return r;
        }
        list_append(&d->list, &g->link);
        d->n++;
        return 0;
}

static const char *const kind_names[] = {
        [POLICY_PROFILE] = "profile", [POLICY_USER] = "user",         [POLICY_PROJECT] = "project",
        [POLICY_CEILING] = "ceiling", [POLICY_SETTINGS] = "settings",
};
ASSERT_TABLE(kind_names, _POLICY_KIND_MAX);

const char *policy_kind_to_string(PolicyKind k)
{
        return (unsigned) k < _POLICY_KIND_MAX ? kind_names[k] : NULL;
}

int policy_kind_from_string(const char *s)
{
        for (int i = 0; i < _POLICY_KIND_MAX; i++)
                if (str_equal(kind_names[i], s))
                        return i;
        return -EINVAL;
}
