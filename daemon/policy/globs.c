/* Denials by pattern: what matches below the workspace, whatever it is called. */

#include <errno.h>
#include <string.h>

#include "daemon/policy/model.h"
#include "proto/base/glob.h"
#include "proto/base/str.h"

#define PATTERNS_MAX 64U /* the rest of what a plan may have is for paths */

static int expand(const char *pattern, const PolicyVariables *v, char *ret, size_t size)
{
        char path[PLAN_PATH_MAX];
        PolicyVariables at = *v;
        int r;

        if (v->workspace[0] == '\0')
                return -ENOENT;
        /* What the workspace itself is called is no part of the pattern. */
        at.workspace = "/w";
        r = path_pattern_expand(pattern, &at, path, sizeof(path));
        return r < 0 ? r : str_copy(ret, size, path + strlen("/w/"));
}

int globs_plan(const Policy *p, const PolicyVariables *v, PlanBuilder *b, PolicyDiagnostics *d)
{
        char tail[PLAN_PATH_MAX];
        unsigned n = 0;
        int r;

        for (size_t i = 0; i < p->n_paths; i++) {
                if (p->paths[i].access != PATH_DENY || !path_is_glob(p->paths[i].pattern))
                        continue;
                r = expand(p->paths[i].pattern, v, tail, sizeof(tail));
                if (r == -ENOENT)
                        continue;
                if (r >= 0 && n++ >= PATTERNS_MAX) {
                        r = diagnose(d, SEVERITY_FAILURE,
                                     &(DiagnosticPlace){ .source = "policy", .key = "filesystem.deny" },
                                     "too many patterns (at most %u)", PATTERNS_MAX);
                        return r < 0 ? r : -EINVAL;
                }
                if (r >= 0)
                        r = plan_builder_mount(b, PLAN_MASK_MATCHES, 0, tail, v->workspace, 0);
                if (r < 0)
                        return r;
        }
        return 0;
}

int globs_plan_literal(const char *path, const PolicyVariables *v, PlanBuilder *b)
{
        size_t n = strlen(v->workspace);
        Glob g;

        /* A name that would be read as a pattern, or has too many folders above it, is masked at the start
         * alone. */
        if (n == 0 || !path_is_below(path, v->workspace) || path[n] == '\0' || path_is_glob(path + n + 1) ||
            glob_parse(path + n + 1, &g) < 0)
                return 0;
        return plan_builder_mount(b, PLAN_MASK_MATCHES, 0, path + n + 1, v->workspace, 0);
}

const PathRule *glob_matching(const Policy *p, const PolicyVariables *v, const char *path)
{
        size_t n = strlen(v->workspace);
        char tail[PLAN_PATH_MAX], names[PLAN_PATH_MAX];

        if (n == 0 || !path_is_below(path, v->workspace) || path[n] == '\0')
                return NULL;
        for (size_t i = 0; i < p->n_paths; i++) {
                char *rest = names, *name;
                uint32_t places;
                Glob g;

                if (p->paths[i].access != PATH_DENY || !path_is_glob(p->paths[i].pattern) ||
                    expand(p->paths[i].pattern, v, tail, sizeof(tail)) < 0 || glob_parse(tail, &g) < 0 ||
                    str_copy(names, sizeof(names), path + n + 1) < 0)
                        continue;
                places = glob_begin(&g);
                while ((name = strsep(&rest, "/"))) {
                        places = glob_step(&g, places, name);
                        if (glob_is_match(&g, places))
                                return &p->paths[i];
                }
        }
        return NULL;
}
