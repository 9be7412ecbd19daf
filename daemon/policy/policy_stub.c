/* Placeholder: no policy is valid until the parser lands. */

#include <errno.h>

#include "daemon/policy/policy.h"

const char *policy_kind_to_string(PolicyKind k)
{
        (void) k;
        return NULL;
}

int policy_kind_from_string(const char *s)
{
        (void) s;
        return -EINVAL;
}

void policy_diagnostics_init(PolicyDiagnostics *d)
{
        (void) d;
}

void policy_diagnostics_done(PolicyDiagnostics *d)
{
        (void) d;
}

int policy_parse(PolicyKind kind, const char *source, const char *text, size_t size, PolicyDiagnostics *diagnostics, Policy **ret)
{
        (void) kind;
        (void) source;
        (void) text;
        (void) size;
        (void) diagnostics;
        (void) ret;
        return -EINVAL;
}

Policy *policy_free(Policy *p)
{
        (void) p;
        return NULL;
}

const char *policy_name(const Policy *p)
{
        (void) p;
        return NULL;
}

const char *policy_description(const Policy *p)
{
        (void) p;
        return NULL;
}

size_t policy_n_extends(const Policy *p)
{
        (void) p;
        return 0;
}

const char *policy_extends(const Policy *p, size_t i)
{
        (void) p;
        (void) i;
        return NULL;
}

int policy_resolve(const Policy *p, PolicyLoader loader, void *userdata, PolicyDiagnostics *diagnostics, Policy **ret)
{
        (void) p;
        (void) loader;
        (void) userdata;
        (void) diagnostics;
        (void) ret;
        return -EINVAL;
}

int policy_join(Policy *p, const Policy *layer, const char *layer_name, PolicyDiagnostics *diagnostics)
{
        (void) p;
        (void) layer;
        (void) layer_name;
        (void) diagnostics;
        return -EINVAL;
}

int policy_join_flags(Policy *p, const PolicyFlags *flags, PolicyDiagnostics *diagnostics)
{
        (void) p;
        (void) flags;
        (void) diagnostics;
        return -EINVAL;
}

int policy_format(const Policy *p, char **ret)
{
        (void) p;
        (void) ret;
        return -EINVAL;
}

int policy_compile(const Policy *p, const Policy *project, const Policy *ceiling, uint64_t generation, int *ret_fd)
{
        (void) p;
        (void) project;
        (void) ceiling;
        (void) generation;
        (void) ret_fd;
        return -EINVAL;
}

int policy_plan(const Policy *p, const PolicyVariables *v, bool is_root_session, PlanBuilder *b, PlanHeader *header, PolicyDiagnostics *diagnostics)
{
        (void) p;
        (void) v;
        (void) is_root_session;
        (void) b;
        (void) header;
        (void) diagnostics;
        return -EINVAL;
}

int policy_check_file(const Policy *p, const PolicyVariables *v, const char *path, bool for_writing, Verdict *ret_verdict, const char **ret_layer, const char **ret_rule)
{
        (void) p;
        (void) v;
        (void) path;
        (void) for_writing;
        (void) ret_verdict;
        (void) ret_layer;
        (void) ret_rule;
        return -EINVAL;
}

const PolicyLimits *policy_limits(const Policy *p)
{
        (void) p;
        return NULL;
}

size_t policy_n_pass(const Policy *p)
{
        (void) p;
        return 0;
}

const char *policy_pass(const Policy *p, size_t i)
{
        (void) p;
        (void) i;
        return NULL;
}

size_t policy_n_set(const Policy *p)
{
        (void) p;
        return 0;
}

const char *policy_set(const Policy *p, size_t i)
{
        (void) p;
        (void) i;
        return NULL;
}

void policy_settings(const Policy *p, PrivSettings *ret)
{
        (void) p;
        *ret = (PrivSettings) { 0 };
}

void policy_settings_default(PrivSettings *ret)
{
        *ret = (PrivSettings) { 0 };
}

int policy_workspace_check(const char *path, const char *home)
{
        (void) path;
        (void) home;
        return -EINVAL;
}

int policy_path_canonical(const char *path, char *ret, size_t size)
{
        (void) path;
        (void) ret;
        (void) size;
        return -EINVAL;
}
