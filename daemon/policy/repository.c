/*
 * What init is told of the repository that a workspace brings along, if that is a linked worktree: no policy
 * names its place, which only the user's files say (daemon/init/repository.c).
 */

#include "daemon/policy/model.h"

static int plan_bound(const Policy *c, const PolicyVariables *v, const PathRule *rule, PlanBuilder *b)
{
        char path[PLAN_PATH_MAX];

        if (path_pattern_expand(rule->pattern, v, path, sizeof(path)) < 0)
                return 0;
        if (rule->access == PATH_WRITE && (c->has & HAS_WRITE))
                return plan_builder_mount(b, PLAN_BOUND, PLAN_WRITABLE, "", path, 0);
        if (rule->access == PATH_READ && (c->has & HAS_READ))
                return plan_builder_mount(b, PLAN_BOUND, c->has & HAS_WRITE ? 0 : PLAN_WRITABLE, "", path,
                                          0);
        return 0;
}

/* What a ceiling says of reading and writing, as folders: below any of them it may be shown. */
int repository_plan(const Policy *c, const PolicyVariables *v, PlanBuilder *b)
{
        int r = 0;

        if (!c || !(c->has & HAS_READ))
                r = plan_builder_mount(b, PLAN_BOUND, c && (c->has & HAS_WRITE) ? 0 : PLAN_WRITABLE, "", "/",
                                       0);
        for (size_t i = 0; c && r >= 0 && i < c->n_paths; i++)
                r = plan_bound(c, v, &c->paths[i], b);
        return r;
}
