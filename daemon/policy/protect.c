/*
 * Protected paths: what lies in a writable workspace and must not be written. They are names below the
 * workspace, of which some components may be "*"; the session's init and its guard keep them
 * (daemon/init/protect.h).
 */

#include <errno.h>
#include <string.h>

#include "daemon/policy/model.h"
#include "proto/base/str.h"

#define WORKSPACE "${workspace}/"
#define MODULE    "/.git/modules/*"

/* Of two paths the first covers the second: each of its names equals or is "*". */
static bool covers_names(const char *rule, const char *path)
{
        for (;;) {
                size_t n = strcspn(rule, "/"), m = strcspn(path, "/");

                if (!(n == 1 && rule[0] == '*') && (n != m || memcmp(rule, path, n) != 0))
                        return false;
                if (rule[n] == '\0')
                        return true;
                if (path[m] == '\0')
                        return false;
                rule += n + 1;
                path += m + 1;
        }
}

/* A submodule's name is as many names as its path, and it has submodules (daemon/init/modules.c). */
static bool covers_module(const char *rule, const char *path)
{
        const char *star = strstr(rule, MODULE), *name;
        size_t n = star ? (size_t) (star - rule) + strlen(MODULE) - 1 : 0;

        if (!star || strncmp(rule, path, n) != 0)
                return false;
        for (name = strchr(path + n, '/'); name; name = strchr(name + 1, '/'))
                if (covers_names(rule + n + 2, name + 1))
                        return true;
        return false;
}

static bool covers(const char *rule, const char *path)
{
        return covers_names(rule, path) || covers_module(rule, path);
}

/* Somebody who may has granted it: the path itself is named for writing. */
static bool is_granted(const Policy *p, const PolicyVariables *v, const char *protected)
{
        char path[PLAN_PATH_MAX];

        for (size_t i = 0; i < p->n_paths; i++)
                if (p->paths[i].access == PATH_WRITE && !str_equal(p->paths[i].layer, "project") &&
                    path_pattern_expand(p->paths[i].pattern, v, path, sizeof(path)) >= 0 &&
                    str_equal(path, protected))
                        return true;
        return false;
}

static bool is_of_use(const Policy *p, const PolicyVariables *v)
{
        return v->workspace[0] != '\0' && policy_mode(p, MODE_WORKSPACE) != WORKSPACE_READ_ONLY;
}

static int expand(const Policy *p, const PathRule *rule, const PolicyVariables *v, char path[PLAN_PATH_MAX])
{
        int r;

        if (rule->access != PATH_PROTECT)
                return -ENOENT;
        r = str_printf(path, PLAN_PATH_MAX, "%s/%s", v->workspace, rule->pattern + strlen(WORKSPACE));
        if (r < 0)
                return r;
        return is_granted(p, v, path) ? -ENOENT : 0;
}

int protect_plan(const Policy *p, const PolicyVariables *v, PlanBuilder *b)
{
        char path[PLAN_PATH_MAX];
        int r = 0;

        if (!is_of_use(p, v))
                return 0;
        for (size_t i = 0; r >= 0 && i < p->n_paths; i++) {
                r = expand(p, &p->paths[i], v, path);
                if (r == -ENOENT)
                        r = 0;
                else if (r >= 0)
                        r = plan_builder_mount(b, PLAN_PROTECT, 0, "", path, 0);
        }
        return r;
}

void protect_answer(const Policy *p, const PolicyVariables *v, const char *path, PolicyFileAnswer *answer)
{
        char rule[PLAN_PATH_MAX];

        if (!is_of_use(p, v) || answer->verdict != VERDICT_ALLOW)
                return;
        for (size_t i = 0; i < p->n_paths; i++)
                if (expand(p, &p->paths[i], v, rule) >= 0 && covers(rule, path))
                        *answer = (PolicyFileAnswer){ .verdict = VERDICT_DENY,
                                                      .layer = p->paths[i].layer,
                                                      .rule = p->paths[i].pattern };
}
