/*
 * The host's root and the caller's home, as far as a policy shows them: put together by init from what lies
 * in them, but for what is hidden here. What is hidden stays so whether it exists or not.
 */

#include <errno.h>

#include "daemon/policy/model.h"
#include "proto/base/str.h"

/* Besides credentials: sockets of daemons that are as good as root, what tells one machine from another, and
 * what every session has of its own. */
static const char *const hidden_system_paths[] = {
        "/etc/machine-id",
        "/var/lib/dbus",
        "/var/lib/lxd",
        "/var/lib/incus",
        "/var/snap",
        "/home",
        "/run",
        "/proc",
        "/sys",
        "/dev",
        "/tmp",
        "/var/tmp",
        "/var/run",
        "/var/lock",
        "/lost+found",
};

static int hide_system(PlanBuilder *b, const PolicyVariables *v)
{
        int r;

        /* Wherever it lies: it is the session's own, or put together by itself. */
        r = plan_builder_mount(b, PLAN_HIDE, 0, "", v->home, 0);
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(hidden_system_paths); i++)
                r = plan_builder_mount(b, PLAN_HIDE, 0, "", hidden_system_paths[i], 0);
        for (size_t i = 0; r >= 0 && credential_system_paths[i]; i++)
                r = plan_builder_mount(b, PLAN_HIDE, 0, "", credential_system_paths[i], 0);
        return r;
}

static int hide_home(PlanBuilder *b, const PolicyVariables *v)
{
        char path[PLAN_PATH_MAX];
        int r = 0;

        for (size_t i = 0; r >= 0 && credential_home_paths[i]; i++) {
                r = str_printf(path, sizeof(path), "%s/%s", v->home, credential_home_paths[i]);
                if (r >= 0)
                        r = plan_builder_mount(b, PLAN_HIDE, PLAN_FOLLOW, "", path, 0);
        }
        return r;
}

int compose_plan(const Policy *p, const PolicyVariables *v, const char *const *denied, size_t n_denied,
                 PlanBuilder *b)
{
        bool has_root = policy_mode(p, MODE_ROOT) == ROOT_HOST,
             has_home = policy_mode(p, MODE_HOME) == HOME_MASKED;
        int r = 0;

        if (!has_root && !has_home)
                return 0;
        for (size_t i = 0; r >= 0 && i < n_denied; i++) {
                has_root = has_root && !str_equal(denied[i], "/");
                has_home = has_home && !path_is_below(v->home, denied[i]);
                r = str_equal(denied[i], "/")
                                    ? 0
                                    : plan_builder_mount(b, PLAN_HIDE, PLAN_FOLLOW, "", denied[i], 0);
        }
        if (r >= 0)
                r = hide_home(b, v);
        if (r >= 0 && has_root)
                r = hide_system(b, v);
        if (r >= 0 && has_root)
                r = plan_builder_mount(b, PLAN_COMPOSE, 0, "/", "/", 0);
        if (r >= 0 && has_home)
                r = plan_builder_mount(b, PLAN_COMPOSE, PLAN_OPTIONAL, v->home, v->home, 0);
        return r;
}

bool compose_shows(const Policy *p, const PolicyVariables *v, const char *path)
{
        char hidden[PLAN_PATH_MAX];

        for (size_t i = 0; credential_home_paths[i]; i++)
                if (str_printf(hidden, sizeof(hidden), "%s/%s", v->home, credential_home_paths[i]) < 0 ||
                    path_is_below(path, hidden))
                        return false;
        if (path_is_below(path, v->home))
                return policy_mode(p, MODE_HOME) == HOME_MASKED;
        for (size_t i = 0; i < ELEMENTSOF(hidden_system_paths); i++)
                if (path_is_below(path, hidden_system_paths[i]))
                        return false;
        for (size_t i = 0; credential_system_paths[i]; i++)
                if (path_is_below(path, credential_system_paths[i]))
                        return false;
        return policy_mode(p, MODE_ROOT) == ROOT_HOST;
}
