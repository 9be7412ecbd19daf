#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/init/protect.h"
#include "proto/base/str.h"

static int rule_child(Protect *p, ProtectRule *rule, const char *name, size_t n, ProtectRule **ret)
{
        ProtectRule *c, **end = &rule->first;

        for (; *end; end = &(*end)->next)
                if (strncmp((*end)->name, name, n) == 0 && (*end)->name[n] == '\0') {
                        *ret = *end;
                        return 0;
                }
        if (p->n_rules >= PROTECT_RULES_MAX)
                return -E2BIG;
        c = calloc(1, sizeof(*c));
        if (!c)
                return -ENOMEM;
        c->name = strndup(name, n);
        if (!c->name) {
                free(c);
                return -ENOMEM;
        }
        *end = c;
        p->n_rules++;
        *ret = c;
        return 0;
}

int rules_add(Protect *p, ProtectRule *root, const char *path, ProtectRule **ret)
{
        ProtectRule *rule = root;
        int r;

        for (;;) {
                size_t n = strcspn(path, "/");

                r = rule_child(p, rule, path, n, &rule);
                if (r < 0)
                        return r;
                if (path[n] == '\0')
                        break;
                path += n + 1;
        }
        *ret = rule;
        return 0;
}

static ProtectRule *find(ProtectRule *rule, const char *name)
{
        ProtectRule *c = rule ? rule->first : NULL;

        while (c && !str_equal(c->name, name))
                c = c->next;
        return c;
}

static void know_fresh(ProtectRule *repository)
{
        ProtectRule *config = find(repository, "config"), *hooks = find(repository, "hooks");

        if (config && config->is_protected)
                config->fresh = FRESH_CONFIG;
        if (hooks && hooks->is_protected)
                hooks->fresh = FRESH_HOOKS;
}

/* What a checkout elsewhere, which is the host's, goes on with: "exec" lines of a rebase are run there. */
static int add_states(Protect *p, ProtectRule *rule, bool is_of_worktrees)
{
        static const char *const states[] = { "rebase-merge", "rebase-apply", "sequencer" };
        int r = 0;

        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(states); i++) {
                ProtectRule *c;

                r = rule_child(p, rule, states[i], strlen(states[i]), &c);
                if (r >= 0 && !c->is_protected) {
                        c->is_protected = true;
                        c->is_state = is_of_worktrees;
                }
        }
        return r;
}

/* What a name alone does not say of git's folders, where the policy protects something in them. */
static int know_git(Protect *p)
{
        static const char *const kept[] = { "commondir", "gitdir" };
        ProtectRule *git = find(&p->root, ".git"), *module = find(find(git, "modules"), "*");
        ProtectRule *worktree = find(find(git, "worktrees"), "*"), *modules = find(&p->root, ".gitmodules");
        int r = 0;

        if (modules && modules->is_protected)
                modules->fresh = FRESH_MODULES;
        know_fresh(git);
        know_fresh(module);
        if (module)
                module->is_module = true;
        for (size_t i = 0; worktree && r >= 0 && i < ELEMENTSOF(kept); i++) {
                ProtectRule *c;

                if (find(worktree, kept[i]))
                        continue;
                r = rule_child(p, worktree, kept[i], strlen(kept[i]), &c);
                if (r >= 0)
                        c->is_protected = c->is_kept = true;
        }
        if (worktree && r >= 0)
                r = add_states(p, worktree, /* is_of_worktrees= */ true);
        /* Submodules of a worktree lie there. */
        if (worktree && module && r >= 0) {
                r = rule_child(p, worktree, "modules", strlen("modules"), &modules);
                if (r >= 0)
                        r = rules_copy(p, find(git, "modules"), modules, 0);
        }
        return r;
}

int protect_rules(Protect *p, const Plan *plan, size_t *ret_n)
{
        size_t n = strlen(p->workspace);
        ProtectRule *rule;
        int r;

        p->plan = plan;
        for (uint32_t i = 0; i < plan->header->n_mounts; i++) {
                const char *path = plan_string(plan, plan->mounts[i].target);

                if (plan->mounts[i].type != PLAN_PROTECT)
                        continue;
                if (strncmp(path, p->workspace, n) != 0 || path[n] != '/')
                        return -EBADMSG;
                r = rules_add(p, &p->root, path + n + 1, &rule);
                if (r < 0)
                        return r;
                rule->is_protected = true;
        }
        *ret_n = p->n_rules;
        return know_git(p);
}

int rules_copy(Protect *p, const ProtectRule *from, ProtectRule *to, unsigned depth)
{
        int r = 0;

        to->is_kept = from->is_kept && (to->is_kept || !to->is_protected);
        to->is_state = from->is_state && (to->is_state || !to->is_protected);
        to->is_protected = to->is_protected || from->is_protected;
        to->is_module = to->is_module || from->is_module;
        to->fresh = to->fresh ? to->fresh : from->fresh;
        if (depth > PROTECT_DEPTH_MAX)
                return -ELOOP;
        for (const ProtectRule *c = from->first; r >= 0 && c; c = c->next) {
                ProtectRule *copy;

                r = rule_child(p, to, c->name, strlen(c->name), &copy);
                if (r >= 0 && copy != c)
                        r = rules_copy(p, c, copy, depth + 1);
        }
        return r;
}

/* The workspace's own: all that is kept of any, but what its checkout goes on with. */
static int add_own_worktree(Protect *p, ProtectRule *repository, const char *name)
{
        ProtectRule *worktrees = find(repository, "worktrees"), *any = find(worktrees, "*"), *own, *copy;
        int r;

        if (!any || str_equal(name, "*"))
                return 0;
        r = rule_child(p, worktrees, name, strlen(name), &own);
        for (const ProtectRule *c = any->first; r >= 0 && c; c = c->next) {
                if (c->is_state)
                        continue;
                r = rule_child(p, own, c->name, strlen(c->name), &copy);
                if (r >= 0)
                        r = rules_copy(p, c, copy, 0);
        }
        return r;
}

int protect_repository_rules(Protect *p, const char *repository, const char *worktree)
{
        size_t n = strlen(p->workspace);
        ProtectRule *git = find(&p->root, ".git"), *inside;
        int r;

        /* Nothing is kept, or all of it, by the mount itself. */
        if (!repository[0] || !git || git->is_protected)
                return 0;
        if (strncmp(repository, p->workspace, n) == 0 && repository[n] == '/') {
                r = rules_add(p, &p->root, repository + n + 1, &inside);
                if (r >= 0 && inside != git)
                        r = rules_copy(p, git, inside, 0);
                return r < 0 ? r : add_own_worktree(p, inside, worktree);
        }
        p->repository = repository;
        r = rules_copy(p, git, &p->repository_root, 0);
        if (r >= 0)
                r = add_states(p, &p->repository_root, /* is_of_worktrees= */ false);
        return r < 0 ? r : add_own_worktree(p, &p->repository_root, worktree);
}
