/*
 * From the paths of a policy to the mounts of a session, and to the answer whether a path is readable
 * inside.
 *
 * What is shown is made from three sources: the tool folders of the home, the workspace, and the paths of
 * the policy. A path that is shown is dropped where another layer denies it or a folder above it; of two
 * words about one path the narrower holds. What is left is mounted from the shortest path to the longest, so
 * that the most specific one lies on top. Denials and credentials are masks in the same order.
 */

#include <errno.h>
#include <string.h>

#include "daemon/isolate/etc_names.h"
#include "daemon/policy/model.h"
#include "proto/base/str.h"

#define TMP_BYTES_DEFAULT  (UINT64_C(1) << 30)
#define HOME_BYTES_DEFAULT (UINT64_C(1) << 30)
#define HOLE_BYTES         (UINT64_C(1) << 20)
#define FILES_DEFAULT      16384U

typedef struct Item {
        char *path;
        const char *pattern; /* "": builtin */
        const char *layer;
        PathAccess access;
        uint32_t flags;
        uint64_t size_bytes; /* of PATH_TMPFS */
        bool is_dropped;
} Item;

typedef struct Items {
        Item *list;
        size_t n;
        size_t room;
} Items;

static void items_done(Items *x)
{
        for (size_t i = 0; i < x->n; i++)
                free(x->list[i].path);
        free(x->list);
        *x = (Items){ 0 };
}

static int add_item(Items *x, const Item *item, const char *path)
{
        if (x->n == x->room) {
                size_t room = x->room > 0 ? 2 * x->room : 64;
                Item *list = reallocarray(x->list, room, sizeof(*list));

                if (!list)
                        return -ENOMEM;
                x->list = list;
                x->room = room;
        }
        x->list[x->n] = *item;
        if (str_dup(path, &x->list[x->n].path) < 0)
                return -ENOMEM;
        x->n++;
        return 0;
}

static int note(PolicyDiagnostics *d, PolicySeverity severity, const char *key, const char *path,
                const char *message)
{
        if (!d)
                return 0;
        return diagnose(d, severity, &(DiagnosticPlace){ .source = "policy", .key = key }, "%s: %s", path,
                        message);
}

static int add_tools(Items *x, const PolicyVariables *v)
{
        char path[PLAN_PATH_MAX];
        int r;

        for (size_t i = 0; tool_folders[i]; i++) {
                r = str_printf(path, sizeof(path), "%s/%s", v->home, tool_folders[i]);
                if (r >= 0)
                        r = add_item(x,
                                     &(Item){ .pattern = "",
                                              .layer = "builtin",
                                              .access = PATH_READ,
                                              .flags = PLAN_OPTIONAL | PLAN_EXEC_TOOLS },
                                     path);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int add_paths(Items *x, const Policy *p, const PolicyVariables *v, PolicyDiagnostics *d)
{
        static const char *const keys[] = { [PATH_DENY] = "filesystem.deny",
                                            [PATH_TMPFS] = "filesystem.tmpfs",
                                            [PATH_SOCKET] = "filesystem.sockets",
                                            [PATH_READ] = "filesystem.read",
                                            [PATH_WRITE] = "filesystem.write" };
        char path[PLAN_PATH_MAX];
        int r;

        for (size_t i = 0; i < p->n_paths; i++) {
                const PathRule *rule = &p->paths[i];

                if (rule->access == PATH_PROTECT || path_is_glob(rule->pattern))
                        continue;
                r = path_pattern_expand(rule->pattern, v, path, sizeof(path));
                if (r == -ENOENT)
                        continue;
                if (r < 0) {
                        r = note(d, SEVERITY_FAILURE, keys[rule->access], rule->pattern,
                                 "is no path once its variables are replaced");
                        return r < 0 ? r : -EINVAL;
                }
                r = add_item(x,
                             &(Item){ .pattern = rule->pattern,
                                      .layer = rule->layer,
                                      .access = rule->access,
                                      .flags = rule->access == PATH_DENY ? 0 : PLAN_OPTIONAL,
                                      .size_bytes = rule->size_bytes },
                             path);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int bound_item(const Policy *p, const PolicyVariables *v, PolicyDiagnostics *d, Item *item)
{
        PathAccess left = item->flags & PLAN_EXEC_TOOLS
                                          ? item->access
                                          : ceiling_access(p->ceiling, v, item->path, item->access);
        int r;

        if (left == item->access)
                return 0;
        item->is_dropped = left == PATH_DENY;
        if (!item->is_dropped)
                item->access = left;
        if (item->is_dropped && (item->flags & PLAN_WORKSPACE)) {
                r = note(d, SEVERITY_FAILURE, "filesystem", item->path,
                         "the administrator's ceiling leaves no workspace there; work elsewhere");
                return r < 0 ? r : -EINVAL;
        }
        return note(d, SEVERITY_WARNING, "filesystem", item->path,
                    item->is_dropped ? "is beyond the administrator's ceiling and not shown"
                                     : "is beyond the administrator's ceiling for writing: read-only");
}

static int bound_items(const Policy *p, const PolicyVariables *v, PolicyDiagnostics *d, Items *x)
{
        int r = 0;

        for (size_t i = 0; r >= 0 && i < x->n; i++)
                r = bound_item(p, v, d, &x->list[i]);
        return r;
}

static int compare_items(const void *a, const void *b)
{
        const Item *x = a, *y = b;
        size_t n = strlen(x->path), m = strlen(y->path);
        int r;

        if (n != m)
                return n < m ? -1 : 1;
        r = strcmp(x->path, y->path);
        if (r != 0)
                return r;
        /* The narrower first: it is the one that stays. What a policy says comes before what is built in. */
        if (x->access != y->access)
                return (int) x->access - (int) y->access;
        if (x->size_bytes != y->size_bytes)
                return x->size_bytes < y->size_bytes ? -1 : 1;
        return (int) (x->pattern[0] == '\0') - (int) (y->pattern[0] == '\0');
}

static const Item *denier_of(const Items *x, const Item *item)
{
        for (size_t i = 0; i < x->n; i++) {
                const Item *d = &x->list[i];

                if (d->access == PATH_DENY && !d->is_dropped && !str_equal(d->layer, item->layer) &&
                    path_is_below(item->path, d->path))
                        return d;
        }
        return NULL;
}

static int drop_denied(Items *x, PolicyDiagnostics *d)
{
        int r;

        for (size_t i = 0; i < x->n; i++) {
                Item *item = &x->list[i];

                if (item->access == PATH_DENY || !denier_of(x, item))
                        continue;
                item->is_dropped = true;
                if (item->flags & PLAN_WORKSPACE) {
                        r = note(d, SEVERITY_FAILURE, "filesystem.deny", item->path,
                                 "the policy denies this workspace; work elsewhere or change the rule");
                        return r < 0 ? r : -EPERM;
                }
                if (!(item->flags & PLAN_EXEC_TOOLS)) {
                        r = note(d, SEVERITY_WARNING, "filesystem.deny", item->path,
                                 "is denied by another layer and not shown");
                        if (r < 0)
                                return r;
                }
        }
        return 0;
}

/* Sorted: equal paths stand side by side, the narrowest first. */
static int drop_wider(Items *x, PolicyDiagnostics *d)
{
        Item *kept = NULL;
        int r;

        for (size_t i = 0; i < x->n; i++) {
                Item *item = &x->list[i];

                if (item->is_dropped)
                        continue;
                if (!kept || !str_equal(kept->path, item->path)) {
                        kept = item;
                        continue;
                }
                if (item->flags & PLAN_WORKSPACE && kept->access < PATH_READ) {
                        r = note(d, SEVERITY_FAILURE, "filesystem.deny", item->path,
                                 "the policy denies this workspace, or has something else there");
                        return r < 0 ? r : -EPERM;
                }
                kept->flags |= item->flags & PLAN_WORKSPACE;
                item->is_dropped = true;
                if (item->access != kept->access && !(item->flags & PLAN_WORKSPACE)) {
                        r = note(d, SEVERITY_WARNING, "filesystem", item->path,
                                 kept->access == PATH_DENY ? "is denied as well: the denial holds"
                                 : kept->access == PATH_TMPFS
                                                 ? "is memory of the session's own as well: that holds"
                                                 : "is named for reading as well: it is shown read-only");
                        if (r < 0)
                                return r;
                }
        }
        return 0;
}

static bool is_named(const Items *x, const char *path)
{
        for (size_t i = 0; i < x->n; i++)
                if (!x->list[i].is_dropped && x->list[i].pattern[0] != '\0' &&
                    str_equal(x->list[i].path, path))
                        return true;
        return false;
}

static bool shows_host(const Item *item)
{
        return item->access == PATH_READ || item->access == PATH_WRITE;
}

static bool is_below_shown(const Items *x, size_t n, const char *path)
{
        for (size_t i = 0; i < n; i++) {
                const Item *item = &x->list[i];

                if (!item->is_dropped && shows_host(item) && !str_equal(item->path, path) &&
                    path_is_below(path, item->path))
                        return true;
        }
        return false;
}

static int mask_credential(Items *x, size_t n, const char *path, const PolicyVariables *v)
{
        /* The home or workspace of root's own session lies in what is nobody else's. */
        if (path_is_below(v->home, path) || (v->workspace[0] != '\0' && path_is_below(v->workspace, path)))
                return 0;
        if (!is_below_shown(x, n, path) || is_named(x, path))
                return 0;
        return add_item(x, &(Item){ .pattern = "", .layer = "credential", .access = PATH_DENY }, path);
}

static int add_credentials(Items *x, const PolicyVariables *v)
{
        char path[PLAN_PATH_MAX];
        size_t n = x->n;
        int r;

        for (size_t i = 0; credential_home_paths[i]; i++) {
                r = str_printf(path, sizeof(path), "%s/%s", v->home, credential_home_paths[i]);
                if (r >= 0)
                        r = mask_credential(x, n, path, v);
                if (r < 0)
                        return r;
        }
        for (size_t i = 0; credential_system_paths[i]; i++) {
                r = mask_credential(x, n, credential_system_paths[i], v);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* Something else is there, above or below it: a rule knows better, or it is denied already. */
static bool is_taken(const Items *x, size_t n, const char *path)
{
        for (size_t i = 0; i < n; i++) {
                const Item *item = &x->list[i];

                if (!item->is_dropped && (path_is_below(path, item->path) ||
                                          (item->access != PATH_DENY && path_is_below(item->path, path))))
                        return true;
        }
        return false;
}

static int add_folders(Items *x, const PolicyVariables *v)
{
        const Item folder = {
                .pattern = "", .layer = "credential", .access = PATH_DENY, .flags = PLAN_MADE | PLAN_QUIET
        };
        char path[PLAN_PATH_MAX];
        size_t n = x->n;
        int r = 0;

        for (size_t i = 0; r >= 0 && credential_folders[i]; i++) {
                r = str_printf(path, sizeof(path), "%s/%s", v->home, credential_folders[i]);
                if (r >= 0 && !is_taken(x, n, path))
                        r = add_item(x, &folder, path);
        }
        return r;
}

static int collect(const Policy *p, const PolicyVariables *v, PolicyDiagnostics *d, Items *x)
{
        int r;

        r = add_tools(x, v);
        if (r >= 0 && v->workspace[0] != '\0')
                r = add_item(x,
                             &(Item){ .pattern = "",
                                      .layer = "builtin",
                                      .access = policy_mode(p, MODE_WORKSPACE) == WORKSPACE_READ_ONLY
                                                                ? PATH_READ
                                                                : PATH_WRITE,
                                      .flags = PLAN_WORKSPACE },
                             v->workspace);
        if (r >= 0)
                r = add_paths(x, p, v, d);
        if (r >= 0)
                r = bound_items(p, v, d, x);
        if (r < 0)
                return r;
        qsort(x->list, x->n, sizeof(*x->list), compare_items);
        r = drop_denied(x, d);
        if (r >= 0)
                r = drop_wider(x, d);
        if (r >= 0)
                r = add_credentials(x, v);
        if (r >= 0)
                r = add_folders(x, v);
        if (r < 0)
                return r;
        qsort(x->list, x->n, sizeof(*x->list), compare_items);
        return 0;
}

/* Something is shown below this denied path. */
static bool has_hole(const Items *x, const Item *denied)
{
        for (size_t i = 0; i < x->n; i++) {
                const Item *item = &x->list[i];

                if (!item->is_dropped && item->access != PATH_DENY &&
                    path_is_below(item->path, denied->path))
                        return true;
        }
        return false;
}

static int put_denied(const Items *x, const Item *item, const PolicyVariables *v, PlanBuilder *b)
{
        bool is_covered = is_below_shown(x, x->n, item->path) || !path_is_below(item->path, v->home);
        const char *rule = item->pattern[0] ? item->pattern : "credentials";
        int r;

        /* In the session's own home there is nothing to hide, but for what a worktree brings along; who
         * looks for it is noticed. */
        if (!is_covered && (has_hole(x, item) || str_equal(item->path, v->home)))
                return plan_builder_mount(b, PLAN_DENY, 0, "", item->path, 0);
        /* A mask cannot carry the mount below it; an own empty folder can. */
        if (has_hole(x, item)) {
                r = plan_builder_mount(b, PLAN_DENY, 0, "", item->path, 0);
                return r < 0 ? r : plan_builder_mount(b, PLAN_TMPFS, 0, "", item->path, HOLE_BYTES);
        }
        r = plan_builder_mask(b, is_covered ? 0 : PLAN_MADE, item->path, item->layer, rule);
        return r < 0 ? r : globs_plan_literal(item->path, v, b);
}

static int put_items(const Items *x, const PolicyVariables *v, bool is_root_session, PlanBuilder *b)
{
        int r = 0;

        for (size_t i = 0; r >= 0 && i < x->n; i++) {
                const Item *item = &x->list[i];
                uint32_t flags = item->flags;

                if (item->is_dropped || item->flags & PLAN_QUIET)
                        continue;
                if (item->access == PATH_DENY) {
                        r = put_denied(x, item, v, b);
                        continue;
                }
                if (item->access == PATH_TMPFS) {
                        r = plan_builder_mount(b, PLAN_TMPFS, flags, "", item->path, item->size_bytes);
                        continue;
                }
                if (item->access == PATH_SOCKET) {
                        if (is_root_session)
                                flags |= PLAN_IDMAP;
                        r = plan_builder_mount(b, PLAN_SOCKET, flags, item->path, item->path, 0);
                        continue;
                }
                if (flags & PLAN_WORKSPACE)
                        flags &= ~(uint32_t) (PLAN_OPTIONAL | PLAN_EXEC_TOOLS);
                if (item->access == PATH_WRITE)
                        flags |= PLAN_WRITABLE;
                /* Also where it is read-only: files that root alone may read are the session's own there. */
                if (is_root_session && (flags & (PLAN_WRITABLE | PLAN_WORKSPACE)))
                        flags |= PLAN_IDMAP;
                r = plan_builder_mount(b, PLAN_BIND, flags, item->path, item->path, 0);
                if (r >= 0 && (flags & PLAN_WORKSPACE))
                        r = plan_builder_mount(b, PLAN_REPOSITORY, flags & (PLAN_WRITABLE | PLAN_IDMAP), "",
                                               item->path, 0);
        }
        return r;
}

/* First of all: init has masks of the lowest numbers ready. */
static int put_folders(const Items *x, PlanBuilder *b)
{
        int r = 0;

        for (size_t i = 0; r >= 0 && i < x->n; i++) {
                const Item *item = &x->list[i];

                if (!item->is_dropped && item->flags & PLAN_QUIET)
                        r = plan_builder_mask(b, item->flags, item->path, item->layer, "credentials");
        }
        return r;
}

static int put_composed(const Policy *p, const Items *x, const PolicyVariables *v, PlanBuilder *b)
{
        _cleanup_free_ const char **denied = NULL;
        size_t n = 0;

        denied = calloc(x->n + 1, sizeof(*denied));
        if (!denied)
                return -ENOMEM;
        for (size_t i = 0; i < x->n; i++)
                if (!x->list[i].is_dropped && x->list[i].access == PATH_DENY &&
                    !(x->list[i].flags & PLAN_QUIET))
                        denied[n++] = x->list[i].path;
        return compose_plan(p, v, denied, n, b);
}

static PlanHomeKind home_kind(const Policy *p)
{
        switch ((PolicyHome) policy_mode(p, MODE_HOME)) {
        case HOME_PERSISTENT:
                return PLAN_HOME_GIVEN;
        case HOME_MASKED:
                return PLAN_HOME_SHOWN;
        case HOME_EMPTY:
                break;
        }
        return PLAN_HOME_OWN;
}

int policy_plan(const Policy *p, const PolicyVariables *v, bool is_root_session, PlanBuilder *b,
                PlanHeader *header, PolicyDiagnostics *diagnostics)
{
        Items items = { 0 };
        int r;

        r = collect(p, v, diagnostics, &items);
        if (r >= 0)
                r = put_folders(&items, b);
        if (r >= 0)
                r = put_composed(p, &items, v, b);
        if (r >= 0)
                r = put_items(&items, v, is_root_session, b);
        if (r >= 0)
                r = globs_plan(p, v, b, diagnostics);
        if (r >= 0)
                r = protect_plan(p, v, b);
        if (r >= 0)
                r = repository_plan(p->ceiling, v, b);
        items_done(&items);
        if (r < 0)
                return r;
        header->tmp_size_bytes = p->has & HAS_TMP ? p->tmp_bytes : TMP_BYTES_DEFAULT;
        header->home_size_bytes = HOME_BYTES_DEFAULT;
        header->home_kind = home_kind(p);
        header->files_max = p->has & HAS_FILES ? (uint32_t) p->limits.files : FILES_DEFAULT;
        return 0;
}

/* ---- would a path be readable? ---- */

static Verdict builtin_verdict(const Policy *p, const PolicyVariables *v, const char *path, bool for_writing,
                               const char **ret_rule)
{
        *ret_rule = "";
        if (!for_writing && compose_shows(p, v, path))
                return VERDICT_ALLOW;
        if (path_is_below(path, v->home) && policy_mode(p, MODE_HOME) == HOME_MASKED)
                return VERDICT_DENY;
        if (path_is_below(path, v->home)) {
                *ret_rule = builtin_own;
                return VERDICT_ALLOW;
        }
        if (str_has_prefix(path, "/etc/"))
                return !for_writing && etc_shows(path + strlen("/etc/")) ? VERDICT_ALLOW : VERDICT_DENY;
        return builtin_shows(path, for_writing, ret_rule) ? VERDICT_ALLOW : VERDICT_DENY;
}

static const Item *covering(const Items *x, const char *path)
{
        const Item *found = NULL;

        for (size_t i = 0; i < x->n; i++)
                if (!x->list[i].is_dropped && path_is_below(path, x->list[i].path))
                        found = &x->list[i];
        return found;
}

int policy_check_file(const Policy *p, const PolicyVariables *v, const char *path, bool for_writing,
                      PolicyFileAnswer *ret)
{
        char canonical[PLAN_PATH_MAX];
        const PathRule *match;
        const Item *item;
        Items items = { 0 };
        int r;

        r = policy_path_canonical(path, canonical, sizeof(canonical));
        if (r >= 0)
                r = collect(p, v, NULL, &items);
        if (r < 0) {
                items_done(&items);
                return r;
        }
        item = covering(&items, canonical);
        match = glob_matching(p, v, canonical);
        if (match) {
                *ret = (PolicyFileAnswer){ VERDICT_DENY, match->layer, match->pattern };
        } else if (!item) {
                ret->verdict = builtin_verdict(p, v, canonical, for_writing, &ret->rule);
                ret->layer = "builtin";
        } else {
                bool is_open = item->access == PATH_WRITE || item->access == PATH_TMPFS ||
                               item->access == PATH_SOCKET || (item->access == PATH_READ && !for_writing);

                ret->verdict = is_open ? VERDICT_ALLOW : VERDICT_DENY;
                ret->layer = item->layer;
                ret->rule = item->pattern;
        }
        items_done(&items);
        if (for_writing)
                protect_answer(p, v, canonical, ret);
        return 0;
}
