#include "daemon/init/harmless.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "proto/base/str.h"

#define REMOTES_MAX 8U
#define NAME_MAX_   128U

typedef bool (*IsHarmless)(const char *value);

typedef struct Setting {
        const char *section; /* with a name: "remote." */
        const char *key;
        IsHarmless check;
} Setting;

typedef struct Reading {
        const Plan *plan;
        const char *module;
        char section[NAME_MAX_];
        char name[NAME_MAX_]; /* of the section; empty: none */
        char remotes[REMOTES_MAX][NAME_MAX_];
        size_t n_remotes;
        bool is_list; /* of submodules */
} Reading;

/* ---- values ---- */

static bool is_any(const char *value)
{
        (void) value;
        return true;
}

static bool is_boolean(const char *value)
{
        return strcasecmp(value, "true") == 0 || strcasecmp(value, "false") == 0;
}

static bool is_false(const char *value)
{
        return strcasecmp(value, "false") == 0;
}

static bool is_format(const char *value)
{
        return str_equal(value, "0") || str_equal(value, "1");
}

static bool is_hash(const char *value)
{
        return str_equal(value, "sha1") || str_equal(value, "sha256");
}

static bool is_rebase(const char *value)
{
        return is_boolean(value) || str_equal(value, "merges");
}

static bool is_way_to_push(const char *value)
{
        return str_equal(value, "simple") || str_equal(value, "current") || str_equal(value, "upstream") ||
               str_equal(value, "nothing");
}

static bool is_plain(const char *value)
{
        return value[0] != '\0' && value[0] != '-' &&
               strspn(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") ==
                               strlen(value);
}

static bool is_reference(const char *value)
{
        return str_has_prefix(value, "refs/") && !strstr(value, "..");
}

static bool is_refspec(const char *value)
{
        return (str_has_prefix(value, "+refs/") || str_has_prefix(value, "refs/")) && !strstr(value, "..");
}

static const Setting settings[] = {
        { "core", "repositoryformatversion", is_format },
        { "core", "filemode", is_boolean },
        { "core", "bare", is_false },
        { "core", "logallrefupdates", is_boolean },
        { "core", "ignorecase", is_boolean },
        { "core", "symlinks", is_boolean },
        { "core", "precomposeunicode", is_boolean },
        { "extensions", "objectformat", is_hash },
        { "user", "name", is_any },
        { "user", "email", is_any },
        { "init", "defaultbranch", is_plain },
        { "pull", "rebase", is_rebase },
        { "pull", "ff", is_plain },
        { "push", "default", is_way_to_push },
        { "push", "autosetupremote", is_boolean },
        { "fetch", "prune", is_boolean },
        { "branch.", "merge", is_reference },
        { "branch.", "rebase", is_rebase },
        { "remote.", "fetch", is_refspec },
        { "remote.", "prune", is_boolean },
        { "submodule.", "active", is_boolean },
};

/* ---- places ---- */

static bool is_below(const char *path, const char *folder)
{
        size_t n = strlen(folder);

        return strncmp(path, folder, n) == 0 && (path[n] == '\0' || path[n] == '/');
}

/* By the network alone: pushing to a repository on this machine runs its hooks, and where a path leads only
 * git knows, which decodes it and follows links that a session can change later. "ext::" and the like run
 * programs; what begins with a dash would be an option of one. */
static bool is_url(const char *value)
{
        static const char *const schemes[] = { "https://", "http://", "ssh://", "git://" };

        for (size_t i = 0; i < ELEMENTSOF(schemes); i++)
                if (str_has_prefix(value, schemes[i])) {
                        value += strlen(schemes[i]);
                        return value[0] != '-' && value[0] != '/' && value[0] != '\0' &&
                               !memchr(value, '%', strcspn(value, "/")) && !strstr(value, "@-") &&
                               !strstr(value, "::");
                }
        return false;
}

/* One of the two is the other, or lies in it. "*" of a rule is any name. */
static bool is_in_line(const char *path, const char *rule)
{
        for (;;) {
                size_t n = strcspn(path, "/"), n_rule = strcspn(rule, "/");

                if (!(n_rule == 1 && rule[0] == '*') && (n != n_rule || strncmp(path, rule, n) != 0))
                        return false;
                if (path[n] == '\0' || rule[n_rule] == '\0')
                        return true;
                path += n + 1;
                rule += n_rule + 1;
        }
}

/* A checkout there would write it. */
static bool holds_protected(const Plan *plan, const char *path)
{
        for (uint32_t i = 0; i < plan->header->n_mounts; i++)
                if (plan->mounts[i].type == PLAN_PROTECT &&
                    is_in_line(path, plan_string(plan, plan->mounts[i].target)))
                        return true;
        return false;
}

/* Without "." and "..", and each name once: as it is compared. */
static bool is_canonical(const char *path)
{
        size_t n;

        for (;; path += n + 1) {
                n = strcspn(path, "/");
                if (n == 0 || str_equal(path, ".") || str_has_prefix(path, "./") || str_equal(path, "..") ||
                    str_has_prefix(path, "../"))
                        return false;
                if (path[n] == '\0')
                        return true;
        }
}

/* "../../../part" in .git/modules/part: back out of where the settings lie, and down to a folder of the
 * workspace. */
static bool is_own_folder(const Plan *plan, const char *module, const char *value)
{
        const char *workspace = plan_string(plan, plan->header->workspace);
        char path[PLAN_PATH_MAX], git[PLAN_PATH_MAX];
        size_t n;

        if (!module || str_copy(path, sizeof(path), module) < 0)
                return false;
        for (*strrchr(path, '/') = '\0'; str_has_prefix(value, "../"); value += 3)
                if (path[0] == '\0')
                        return false;
                else
                        *strrchr(path, '/') = '\0';
        n = strlen(path);
        return is_canonical(value) && str_printf(path + n, sizeof(path) - n, "/%s", value) >= 0 &&
               str_printf(git, sizeof(git), "%s/.git", workspace) >= 0 && is_below(path, workspace) &&
               !is_below(path, git) && !holds_protected(plan, path);
}

/* ---- lines ---- */

static bool is_known_remote(const Reading *x, const char *value)
{
        for (size_t i = 0; i < x->n_remotes; i++)
                if (str_equal(x->remotes[i], value))
                        return true;
        return str_equal(value, ".");
}

static bool add_remote(Reading *x, const char *value)
{
        if (!is_url(value) || !is_plain(x->name) || x->n_remotes >= REMOTES_MAX)
                return false;
        memcpy(x->remotes[x->n_remotes++], x->name, sizeof(x->name));
        return true;
}

static bool is_folder(const char *value)
{
        return value[0] != '\0' && value[0] != '-' && value[0] != '/' && !strstr(value, "..") &&
               !strstr(value, ".git");
}

/* Where a checkout of it would go. */
static bool is_free_folder(const Plan *plan, const char *value)
{
        char path[PLAN_PATH_MAX];

        return is_folder(value) && is_canonical(value) &&
               str_printf(path, sizeof(path), "%s/%s", plan_string(plan, plan->header->workspace), value) >=
                               0 &&
               !holds_protected(plan, path);
}

/* "../x" is a place beside the remote, and without one a folder beside, or in, the workspace: none. */
static bool is_harmless_module(const Reading *x, const char *key, const char *value)
{
        static const char *const words[] = { "true",  "false",     "on-demand", "all",
                                             "dirty", "untracked", "none" };

        if (!str_equal(x->section, "submodule.") || !is_folder(x->name))
                return false;
        if (strcasecmp(key, "path") == 0)
                return is_free_folder(x->plan, value);
        if (strcasecmp(key, "url") == 0)
                return is_url(value);
        if (strcasecmp(key, "branch") == 0)
                return is_folder(value);
        if (strcasecmp(key, "shallow") != 0 && strcasecmp(key, "ignore") != 0 &&
            strcasecmp(key, "fetchrecursesubmodules") != 0)
                return false;
        for (size_t i = 0; i < ELEMENTSOF(words); i++)
                if (str_equal(words[i], value))
                        return true;
        return false;
}

/* A name that is no remote git takes for a path. */
static bool is_harmless(Reading *x, const char *key, const char *value)
{
        if (x->is_list)
                return is_harmless_module(x, key, value);
        if (str_equal(x->section, "remote.") && strcasecmp(key, "url") == 0)
                return add_remote(x, value);
        if (str_equal(x->section, "branch.") && strcasecmp(key, "remote") == 0)
                return is_known_remote(x, value);
        if (str_equal(x->section, "submodule.") && strcasecmp(key, "url") == 0)
                return is_url(value);
        if (str_equal(x->section, "core") && strcasecmp(key, "worktree") == 0)
                return is_own_folder(x->plan, x->module, value);
        for (size_t i = 0; i < ELEMENTSOF(settings); i++)
                if (str_equal(settings[i].section, x->section) && strcasecmp(settings[i].key, key) == 0)
                        return settings[i].check(value);
        return false;
}

/* "[section]", or "[section "name"]": of the first kind without a name, of the second never without one. */
static bool read_section(Reading *x, char *line)
{
        char *end = strchr(line, ']'), *name = strchr(line, '"');
        int r;

        if (!end || end[1] != '\0')
                return false;
        *end = '\0';
        x->name[0] = '\0';
        if (name) {
                size_t n = strlen(name);

                if (n < 3 || name[n - 1] != '"' || name - line < 3 || name[-1] != ' ')
                        return false;
                name[n - 1] = '\0';
                name[-1] = '\0';
                if (strchr(name + 1, '"') || str_copy(x->name, sizeof(x->name), name + 1) < 0)
                        return false;
        }
        if (!is_plain(line + 1))
                return false;
        r = str_printf(x->section, sizeof(x->section), "%s%s", line + 1, name ? "." : "");
        for (char *p = x->section; r >= 0 && *p; p++)
                if (*p >= 'A' && *p <= 'Z')
                        *p = (char) (*p - 'A' + 'a');
        return r >= 0;
}

static bool read_line(Reading *x, char *line)
{
        char *value;

        line += strspn(line, " \t");
        if (line[0] == '\0')
                return true;
        if (line[0] == '[')
                return read_section(x, line);
        value = strstr(line, " = ");
        if (!value)
                return false;
        *value = '\0';
        return is_plain(line) && is_harmless(x, line, value + 3);
}

static bool is_text(const char *text, size_t size)
{
        for (size_t i = 0; i < size; i++)
                if (((unsigned char) text[i] < ' ' && text[i] != '\n' && text[i] != '\t') ||
                    text[i] == 0x7f || strchr("\\#;", text[i]))
                        return false;
        return size == 0 || text[size - 1] == '\n';
}

static int read_all(Reading *x, const char *text, size_t size)
{
        char line[512];

        if (size > HARMLESS_SIZE_MAX || !is_text(text, size))
                return -EPERM;
        while (size > 0) {
                size_t n = (size_t) ((const char *) memchr(text, '\n', size) - text);

                if (n >= sizeof(line))
                        return -EPERM;
                memcpy(line, text, n);
                line[n] = '\0';
                /* Quotes are for names of sections alone. */
                if ((line[0] != '[' && strchr(line, '"')) || !read_line(x, line))
                        return -EPERM;
                text += n + 1;
                size -= n + 1;
        }
        return 0;
}

int harmless_config(const char *text, size_t size, const Plan *plan, const char *module)
{
        return read_all(&(Reading){ .plan = plan, .module = module }, text, size);
}

int harmless_modules(const char *text, size_t size, const Plan *plan)
{
        return read_all(&(Reading){ .plan = plan, .is_list = true }, text, size);
}
