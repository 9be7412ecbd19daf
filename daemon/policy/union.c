/*
 * Texts become one policy: profiles with what they extend, then the user's layer, then the command line.
 * Rules and paths add up. Of single values a profile's own one replaces those that it extends; what joins
 * later, and parents side by side, can only narrow.
 */

#include <errno.h>
#include <string.h>

#include "daemon/policy/model.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

#define EXTENDS_DEPTH_MAX 8U
#define EXTENDS_LOADS_MAX 64U

typedef enum MergeMode {
        MERGE_REPLACE = 0, /* what from says holds */
        MERGE_NARROW,      /* where both say something, the narrower holds */
        MERGE_JOIN,        /* the same, and the default of a policy that names none is deny */
} MergeMode;

typedef struct Resolver {
        PolicyLoader loader;
        void *userdata;
        PolicyDiagnostics *diagnostics;
        const char *names[EXTENDS_DEPTH_MAX + 1];
        unsigned depth;
        unsigned n_loads;
} Resolver;

static void merge_value(uint64_t *to, uint32_t *to_has, uint64_t from, uint32_t has, MergeMode mode)
{
        if (mode == MERGE_REPLACE || !(*to_has & has) || from < *to)
                *to = from;
        *to_has |= has;
}

static void merge_limits(Policy *to, const Policy *from, MergeMode mode)
{
        PolicyLimits *l = &to->limits;
        const struct {
                uint64_t *to;
                uint64_t from;
                uint32_t has;
        } values[] = {
                { &l->memory_bytes, from->limits.memory_bytes, HAS_MEMORY },
                { &l->swap_bytes, from->limits.swap_bytes, HAS_SWAP },
                { &l->tasks, from->limits.tasks, HAS_TASKS },
                { &l->cpu_percent, from->limits.cpu_percent, HAS_CPU },
                { &l->io_bytes_per_sec, from->limits.io_bytes_per_sec, HAS_IO },
                { &l->files, from->limits.files, HAS_FILES },
                { &l->runtime_usec, from->limits.runtime_usec, HAS_RUNTIME },
                { &l->idle_usec, from->limits.idle_usec, HAS_IDLE },
                { &l->output_bytes, from->limits.output_bytes, HAS_OUTPUT },
                { &to->tmp_bytes, from->tmp_bytes, HAS_TMP },
                { &to->ask_timeout_usec, from->ask_timeout_usec, HAS_ASK_TIMEOUT },
        };

        for (size_t i = 0; i < ELEMENTSOF(values); i++)
                if (from->has & values[i].has)
                        merge_value(values[i].to, &to->has, values[i].from, values[i].has, mode);
        l->has_swap = (to->has & HAS_SWAP) != 0;
}

static void merge_default(Policy *to, const Policy *from, MergeMode mode)
{
        bool has_own = (to->has & HAS_DEFAULT) || mode == MERGE_JOIN;

        if (!(from->has & HAS_DEFAULT))
                return;
        if (mode == MERGE_REPLACE || !has_own || from->network_default < to->network_default) {
                to->network_default = from->network_default;
                to->default_layer = from->default_layer;
        }
        to->has |= HAS_DEFAULT;
}

/* Synthetic is the narrower: nothing real is told. */
static void merge_dns(Policy *to, const Policy *from, MergeMode mode)
{
        bool holds = mode == MERGE_REPLACE || !(to->has & HAS_DNS) || !from->is_dns_real;

        if (!(from->has & HAS_DNS))
                return;
        if (holds)
                to->is_dns_real = from->is_dns_real;
        to->has |= HAS_DNS;
}

/* A layer adds what is not chosen yet: an administrator's choice is not changed by a user's. */
static void merge_pool(Policy *to, const Policy *from, MergeMode mode)
{
        const struct {
                PrivPrefix *to;
                const PrivPrefix *from;
                uint32_t has;
        } prefixes[] = { { &to->pool.v4, &from->pool.v4, HAS_POOL4 },
                         { &to->pool.v6, &from->pool.v6, HAS_POOL6 } };

        for (size_t i = 0; i < ELEMENTSOF(prefixes); i++) {
                if (!(from->has & prefixes[i].has) || (mode != MERGE_REPLACE && to->has & prefixes[i].has))
                        continue;
                *prefixes[i].to = *prefixes[i].from;
                to->has |= prefixes[i].has;
        }
}

static int merge_set(Policy *to, const char *pair)
{
        size_t n = strcspn(pair, "=") + 1;

        for (size_t i = 0; i < to->set.n; i++)
                if (strncmp(to->set.items[i], pair, n) == 0) {
                        char *copy;
                        int r = str_dup(pair, &copy);

                        if (r < 0)
                                return r;
                        free(to->set.items[i]);
                        to->set.items[i] = copy;
                        return 0;
                }
        return string_list_add(&to->set, pair);
}

static int merge_path(Policy *to, const PathRule *rule, const char *layer, MergeMode mode)
{
        if (rule->access == PATH_TMPFS)
                return policy_add_tmpfs(to, rule->pattern, rule->size_bytes, layer, mode == MERGE_REPLACE);
        return policy_add_path(to, rule->access, rule->pattern, layer);
}

static int merge_lists(Policy *to, const Policy *from, const char *layer, MergeMode mode)
{
        int r;

        for (size_t i = 0; i < from->n_rules; i++) {
                r = policy_add_rule(to, &from->rules[i], layer ? layer : from->rules[i].layer);
                if (r < 0)
                        return r;
        }
        for (uint32_t i = 0; i < from->n_publish; i++) {
                r = policy_add_publish(to, from->publish[i]);
                if (r < 0)
                        return r;
        }
        for (size_t i = 0; i < from->n_paths; i++) {
                r = merge_path(to, &from->paths[i], layer ? layer : from->paths[i].layer, mode);
                if (r < 0)
                        return r;
        }
        for (size_t i = 0; i < from->pass.n; i++) {
                r = string_list_holds(&to->pass, from->pass.items[i])
                                    ? 0
                                    : string_list_add(&to->pass, from->pass.items[i]);
                if (r < 0)
                        return r;
        }
        for (size_t i = 0; i < from->groups.n; i++) {
                r = string_list_holds(&to->groups, from->groups.items[i])
                                    ? 0
                                    : string_list_add(&to->groups, from->groups.items[i]);
                if (r < 0)
                        return r;
        }
        for (size_t i = 0; i < from->set.n; i++) {
                r = merge_set(to, from->set.items[i]);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int merge(Policy *to, const Policy *from, MergeMode mode, const char *layer, PolicyDiagnostics *d)
{
        int r;

        merge_default(to, from, mode);
        merge_dns(to, from, mode);
        merge_pool(to, from, mode);
        merge_limits(to, from, mode);
        mode_merge(to, from, mode == MERGE_REPLACE, mode == MERGE_JOIN);
        r = merge_lists(to, from, layer, mode);
        if (r != -E2BIG)
                return r;
        r = diagnose(d, SEVERITY_FAILURE, &(DiagnosticPlace){ .source = from->source },
                     "together with what it is added to this makes too many rules, ports, paths or variables");
        return r < 0 ? r : -EINVAL;
}

static int resolve_into(Resolver *x, const Policy *p, Policy *to);

static int fail_extends(Resolver *x, const Policy *p, const char *name, const char *message)
{
        int r = diagnose(x->diagnostics, SEVERITY_FAILURE,
                         &(DiagnosticPlace){ .source = p->source, .key = "extends" }, "\"%s\": %s", name,
                         message);

        return r < 0 ? r : -EINVAL;
}

static int check_parent(Resolver *x, const Policy *p, const char *name)
{
        for (unsigned i = 0; i < x->depth; i++)
                if (str_equal(x->names[i], name))
                        return fail_extends(x, p, name,
                                            "this profile extends itself, by way of others or directly");
        if (x->depth > EXTENDS_DEPTH_MAX)
                return fail_extends(x, p, name, "profiles extend each other more than 8 deep");
        if (x->n_loads++ >= EXTENDS_LOADS_MAX)
                return fail_extends(x, p, name, "too many profiles in all (at most 64)");
        return 0;
}

static int merge_parent(Resolver *x, const Policy *p, const char *name, Policy *to)
{
        _cleanup_(policy_freep) Policy *parent = NULL, *resolved = NULL;
        _cleanup_free_ char *text = NULL;
        _cleanup_free_ char *source = NULL;
        size_t size = 0;
        int r;

        r = check_parent(x, p, name);
        if (r < 0)
                return r;
        r = x->loader(x->userdata, name, &text, &size, &source);
        if (r == -ENOENT)
                return fail_extends(x, p, name, "no such profile");
        if (r < 0)
                return r;
        r = policy_parse(POLICY_PROFILE, source ? source : name, text, size, x->diagnostics, &parent);
        if (r >= 0)
                r = policy_new(POLICY_PROFILE, parent->source, &resolved);
        if (r < 0)
                return r;
        x->names[x->depth++] = name;
        r = resolve_into(x, parent, resolved);
        x->depth--;
        return r < 0 ? r : merge(to, resolved, MERGE_NARROW, NULL, x->diagnostics);
}

static int resolve_into(Resolver *x, const Policy *p, Policy *to)
{
        int r;

        for (size_t i = 0; i < p->extends.n; i++) {
                r = merge_parent(x, p, p->extends.items[i], to);
                if (r < 0)
                        return r;
        }
        return merge(to, p, MERGE_REPLACE, NULL, x->diagnostics);
}

int policy_resolve(const Policy *p, PolicyLoader loader, void *userdata, PolicyDiagnostics *diagnostics,
                   Policy **ret)
{
        _cleanup_(policy_freep) Policy *to = NULL;
        Resolver x = { .loader = loader, .userdata = userdata, .diagnostics = diagnostics, .depth = 1 };
        int r;

        x.names[0] = policy_name(p);
        r = policy_new(p->kind, p->source, &to);
        if (r >= 0 && p->name)
                r = str_dup(p->name, &to->name);
        if (r >= 0 && p->description)
                r = str_dup(p->description, &to->description);
        if (r >= 0)
                r = resolve_into(&x, p, to);
        if (r < 0)
                return r;
        to->settings = p->settings;
        *ret = TAKE_PTR(to);
        return 0;
}

int policy_join(Policy *p, const Policy *layer, const char *layer_name, PolicyDiagnostics *diagnostics)
{
        return merge(p, layer, MERGE_JOIN, layer_name, diagnostics);
}

int policy_bound(Policy *p, Policy *take_ceiling, PolicyDiagnostics *diagnostics)
{
        const Policy *ceiling = take_ceiling;
        int r = 0;

        p->ceiling = take_ceiling;
        if (!ceiling)
                return 0;
        merge_limits(p, ceiling, MERGE_NARROW);
        mode_merge(p, ceiling, /* replaces= */ false, /* is_join= */ true);
        for (size_t i = 0; r >= 0 && i < ceiling->n_paths; i++)
                if (ceiling->paths[i].access == PATH_DENY)
                        r = policy_add_path(p, PATH_DENY, ceiling->paths[i].pattern, "ceiling");
        return r < 0 ? r : ceiling_strike(p, ceiling, diagnostics);
}

/* ---- the command line ---- */

static int fail_flag(PolicyDiagnostics *d, const char *flag, const char *value, const char *message)
{
        int r = diagnose(d, SEVERITY_FAILURE, &(DiagnosticPlace){ .source = "flags", .key = flag },
                         "\"%s\": %s", value, message);

        return r < 0 ? r : -EINVAL;
}

/* HOST, HOST:PORT, ADDRESS, [ADDRESS]:PORT, NETWORK/BITS: target gets what stands before the port. */
static int split_port(const char *s, char *target, size_t size, uint16_t *ret_port)
{
        const char *end = s + strlen(s), *colon = strrchr(s, ':');
        int r;

        *ret_port = 0;
        if (s[0] == '[') {
                const char *bracket = strchr(s, ']');

                if (!bracket || (bracket[1] != ':' && bracket[1] != '\0'))
                        return -EINVAL;
                colon = bracket[1] ? bracket + 1 : NULL;
                end = bracket;
                s++;
        } else if (colon && strchr(s, ':') == colon) {
                end = colon;
        } else {
                colon = NULL;
        }
        if (colon) {
                r = parse_port(colon + 1, ret_port);
                if (r < 0)
                        return r;
        }
        if ((size_t) (end - s) >= size)
                return -EINVAL;
        memcpy(target, s, (size_t) (end - s));
        target[end - s] = '\0';
        return 0;
}

static int join_host(Policy *p, Verdict action, const char *flag, const char *value, PolicyDiagnostics *d)
{
        char target[PRIV_HOST_SIZE + 2], host[PRIV_HOST_SIZE];
        NetRule rule = { .action = action, .has_action = true };
        PortRange range;
        const char *message = "expected HOST or HOST:PORT";
        PrivAddress a;

        if (split_port(value, target, sizeof(target), &range.first) < 0)
                return fail_flag(d, flag, value, message);
        if (strchr(target, '/') || address_parse(target, &a) == 0) {
                rule.has_cidr = true;
                if (rule_cidr_parse(target, &rule.network, &rule.prefix_length, &message) < 0)
                        return fail_flag(d, flag, value, message);
        } else {
                if (rule_host_parse(target, host, &rule.is_wildcard, &message) < 0)
                        return fail_flag(d, flag, value, message);
                rule.host = host;
        }
        if (range.first != 0) {
                range.last = range.first;
                rule.ports = &range;
                rule.n_ports = 1;
        }
        return policy_add_rule(p, &rule, "flags");
}

static int join_paths(Policy *p, PathAccess access, const char *flag, const char *const *paths, size_t n,
                      PolicyDiagnostics *d)
{
        char pattern[PLAN_PATH_MAX];
        const char *message;
        int r;

        for (size_t i = 0; i < n; i++) {
                message = access == PATH_DENY ? path_glob_check(paths[i], pattern, sizeof(pattern))
                                              : path_pattern_check(paths[i], pattern, sizeof(pattern));
                if (!message && str_equal(pattern, "/") && access != PATH_DENY)
                        message = "the whole file system cannot be shown; name folders";
                if (message)
                        return fail_flag(d, flag, paths[i], message);
                r = policy_add_path(p, access, pattern, "flags");
                if (r < 0)
                        return r;
        }
        return 0;
}

static int join_port(Policy *p, uint16_t port, PolicyDiagnostics *d)
{
        char text[16];
        int r = str_printf(text, sizeof(text), "%u", port);

        if (r >= 0 && port < 1024)
                return fail_flag(d, "--publish", text, "choose a port from 1024 on");
        return r < 0 ? r : policy_add_publish(p, port);
}

static void drop_network(Policy *p)
{
        for (size_t i = 0; i < p->n_rules; i++)
                net_rule_done(&p->rules[i]);
        p->n_rules = 0;
        p->n_publish = 0;
        p->network_default = VERDICT_DENY;
        p->default_layer = "flags";
        p->has |= HAS_DEFAULT;
}

static int join_flags(Policy *p, const PolicyFlags *f, PolicyDiagnostics *d)
{
        int r;

        for (size_t i = 0; i < f->n_allow_hosts; i++) {
                r = join_host(p, VERDICT_ALLOW, "--allow-host", f->allow_hosts[i], d);
                if (r < 0)
                        return r;
        }
        for (size_t i = 0; i < f->n_deny_hosts; i++) {
                r = join_host(p, VERDICT_DENY, "--deny-host", f->deny_hosts[i], d);
                if (r < 0)
                        return r;
        }
        for (size_t i = 0; i < f->n_publish; i++) {
                r = join_port(p, f->publish[i], d);
                if (r < 0)
                        return r;
        }
        if (f->has_no_network)
                drop_network(p);
        r = join_paths(p, PATH_READ, "--read", f->read, f->n_read, d);
        if (r >= 0)
                r = join_paths(p, PATH_WRITE, "--write", f->write, f->n_write, d);
        if (r >= 0)
                r = join_paths(p, PATH_DENY, "--deny", f->deny, f->n_deny, d);
        return r;
}

int policy_join_flags(Policy *p, const PolicyFlags *flags, PolicyDiagnostics *diagnostics)
{
        int r = join_flags(p, flags, diagnostics);

        return r == -E2BIG ? fail_flag(diagnostics, "", "", "too many rules, ports or paths") : r;
}
