/* Paths: canonical form, variables, and which ones may be a workspace. */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "daemon/policy/model.h"
#include "proto/base/glob.h"
#include "proto/base/str.h"

bool path_is_below(const char *path, const char *above)
{
        size_t n = strlen(above);

        if (str_equal(above, "/"))
                return true;
        return strncmp(path, above, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

int policy_path_canonical(const char *path, char *ret, size_t size)
{
        size_t n = strlen(path), limit = size < PLAN_PATH_MAX ? size : PLAN_PATH_MAX;

        if (path[0] != '/' || n >= limit || !str_is_utf8(path, n))
                return -EINVAL;
        for (const char *p = path; *p; p++)
                if ((unsigned char) *p < 0x20 || *p == 0x7f)
                        return -EINVAL;
        if (n > 1 && path[n - 1] == '/')
                return -EINVAL;
        for (const char *p = path; n > 1 && *p;) {
                size_t part = strcspn(p + 1, "/");

                if (part == 0 || part > 255 || (part == 1 && p[1] == '.') ||
                    (part == 2 && p[1] == '.' && p[2] == '.'))
                        return -EINVAL;
                p += part + 1;
        }
        return str_copy(ret, size, path);
}

/* Nothing at or below these is anybody's workspace. */
static const char *const system_trees[] = {
        "/proc",
        "/sys",
        "/dev",
        "/etc",
        "/usr",
        "/bin",
        "/sbin",
        "/lib",
        "/lib32",
        "/lib64",
        "/libx32",
        "/boot",
        "/var/lib/sandboxd",
        "/run/sandboxd",
        "/var/log",
        "/var/spool",
};

/* These themselves are not; what lies below may be. */
static const char *const system_folders[] = {
        "/",        "/home",     "/run",      "/tmp",     "/var",        "/root",
        "/opt",     "/srv",      "/mnt",      "/media",   "/lost+found", "/var/lib",
        "/var/tmp", "/run/user", "/run/lock", "/run/shm", "/var/run",    "/var/cache",
};

static bool touches_credentials(const char *path, const char *home)
{
        char full[PLAN_PATH_MAX];

        for (size_t i = 0; credential_home_paths[i]; i++) {
                if (str_printf(full, sizeof(full), "%s/%s", home, credential_home_paths[i]) < 0)
                        return true;
                if (path_is_below(path, full) || path_is_below(full, path))
                        return true;
        }
        return false;
}

int policy_workspace_check(const char *path, const char *home)
{
        char canonical[PLAN_PATH_MAX];
        int r;

        r = policy_path_canonical(path, canonical, sizeof(canonical));
        if (r < 0)
                return -EINVAL;
        for (size_t i = 0; i < ELEMENTSOF(system_trees); i++)
                if (path_is_below(path, system_trees[i]))
                        return -EPERM;
        for (size_t i = 0; i < ELEMENTSOF(system_folders); i++)
                if (str_equal(path, system_folders[i]))
                        return -EPERM;
        /* Homes of others; their rights say the rest. */
        if (str_has_prefix(path, "/home/") && !strchr(path + strlen("/home/"), '/'))
                return -EPERM;
        if (home[0] != '/' || str_equal(home, "/"))
                return 0;
        if (path_is_below(home, path) || touches_credentials(path, home))
                return -EPERM;
        return 0;
}

/* ---- patterns ---- */

typedef struct Variable {
        const char *text;
        const char *sample; /* stands for it in the check of the form */
        bool is_root;       /* a whole path: only at the beginning */
} Variable;

static const Variable variables[] = {
        { "${workspace}", "/w", true },
        { "${home}", "/h", true },
        { "${user}", "u", false },
        { "${uid}", "1", false },
};

static const Variable *variable_at(const char *s)
{
        for (size_t i = 0; i < ELEMENTSOF(variables); i++)
                if (str_has_prefix(s, variables[i].text))
                        return &variables[i];
        return NULL;
}

/* "~/x" is short for "${home}/x". */
static int spell_out(const char *s, char *ret, size_t size)
{
        if (s[0] != '~')
                return str_copy(ret, size, s);
        return str_printf(ret, size, "${home}%s", s + 1);
}

static int substitute(const char *pattern, const char *const values[], char *ret, size_t size)
{
        size_t n = 0;

        for (const char *p = pattern; *p;) {
                const Variable *v = *p == '$' ? variable_at(p) : NULL;
                const char *value = v ? values[v - variables] : NULL;
                size_t part = v ? strlen(value) : 1;

                if (part >= size - n)
                        return -ENAMETOOLONG;
                memcpy(ret + n, v ? value : p, part);
                n += part;
                p += v ? strlen(v->text) : 1;
        }
        ret[n] = '\0';
        return 0;
}

static const char *check_variables(const char *s)
{
        for (const char *p = s; *p; p++) {
                const Variable *v = *p == '$' ? variable_at(p) : NULL;

                if (p[0] == '$' && p[1] == '{' && !v)
                        return "no such variable; there are ${workspace}, ${home}, ${user} and ${uid}";
                if (v && v->is_root && p != s)
                        return "this variable is a whole path and stands at the beginning";
        }
        return NULL;
}

static const char *path_form_check(const char *s, char *ret, size_t size)
{
        const char *samples[] = { variables[0].sample, variables[1].sample, variables[2].sample,
                                  variables[3].sample };
        char example[PLAN_PATH_MAX], canonical[PLAN_PATH_MAX];
        const char *message;

        if (s[0] == '~' && s[1] != '\0' && s[1] != '/')
                return "~NAME is not known; write the path itself";
        if (spell_out(s, ret, size) < 0)
                return "this path is too long";
        message = check_variables(ret);
        if (message)
                return message;
        if (substitute(ret, samples, example, sizeof(example)) < 0)
                return "this path is too long";
        if (policy_path_canonical(example, canonical, sizeof(canonical)) < 0)
                return "expected an absolute path (or ~/…, ${workspace}/…) without \"//\", \"/./\", \"/../\", "
                       "control characters or a slash at the end";
        return NULL;
}

const char *path_pattern_check(const char *s, char *ret, size_t size)
{
        if (strpbrk(s, "*?[]"))
                return "patterns are enforced in deny only; name the path itself";
        return path_form_check(s, ret, size);
}

#define WORKSPACE_BELOW "${workspace}/"

bool path_is_glob(const char *pattern)
{
        return strpbrk(pattern, "*?") != NULL;
}

const char *path_glob_check(const char *s, char *ret, size_t size)
{
        char full[PLAN_PATH_MAX];
        Glob g;

        if (s[0] != '/' && s[0] != '~' && s[0] != '$') {
                if (str_printf(full, sizeof(full), WORKSPACE_BELOW "%s", s) < 0)
                        return "this path is too long";
                s = full;
        }
        if (!path_is_glob(s))
                return path_pattern_check(s, ret, size);
        if (!str_has_prefix(s, WORKSPACE_BELOW))
                return "patterns are enforced below ${workspace} only; name the path itself";
        if (strpbrk(s, "[]\\"))
                return "a pattern has *, ? and ** as a name of its own";
        if (glob_parse(s + strlen(WORKSPACE_BELOW), &g) < 0)
                return "expected at most 16 names, each with * and ?, or ** alone for any number of names";
        return path_form_check(s, ret, size);
}

int path_pattern_expand(const char *pattern, const PolicyVariables *v, char *ret, size_t size)
{
        char uid[16], path[PLAN_PATH_MAX];
        const char *values[] = { v->workspace, v->home, v->user, uid };
        int r;

        if (str_has_prefix(pattern, variables[0].text) && v->workspace[0] == '\0')
                return -ENOENT;
        r = str_printf(uid, sizeof(uid), "%u", v->uid);
        if (r < 0)
                return r;
        r = substitute(pattern, values, path, sizeof(path));
        if (r < 0)
                return r;
        return policy_path_canonical(path, ret, size);
}
