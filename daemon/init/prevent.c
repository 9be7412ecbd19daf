/*
 * What the kernel refuses by itself, where it does (daemon/isolate/prevent.h): the guard's rules as nodes,
 * by name, and what lies at them as marks. The guard covers and watches all the same: it sees what the host
 * puts there, marks it, and keeps what has a name that is too long or too far down for a node.
 */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "daemon/init/protect.h"
#include "daemon/isolate/rulemap.h"
#include "proto/base/error.h"
#include "proto/base/str.h"

#define ENTRIES_MAX 65536U

/* The kernel's form of a device's number. */
#define KERNEL_MINOR_BITS 20U

static uint32_t flags_of(const ProtectRule *rule)
{
        uint32_t flags = rule->is_protected ? PREVENT_PROTECTED : PREVENT_ABOVE;

        for (const ProtectRule *c = rule->first; c; c = c->next)
                if (str_equal(c->name, "*") && !c->is_module)
                        flags |= PREVENT_HAS_ANY;
        return flags;
}

static int put_name(const Protect *p, uint32_t parent, const char *name, const PreventNode *node)
{
        PreventKey key = { .parent = parent };

        /* One byte shorter than there is room for: the kernel's copy of a longer one must not be taken for
         * it.
         */
        if (strlen(name) + 1 >= sizeof(key.name))
                return 0;
        memcpy(key.name, name, strlen(name));
        return rulemap_put(p->rules_fd, &key, node);
}

/* git writes beside it and renames. Who had that file open would have the other one. */
static int put_lock(const Protect *p, const ProtectRule *parent, const ProtectRule *rule)
{
        PreventNode node = { .number = rule->number, .flags = PREVENT_PROTECTED };

        return rule->is_protected && str_equal(rule->name, "config")
                               ? put_name(p, parent->number, "config.lock", &node)
                               : 0;
}

/* By name only what nobody but the host makes. The rest is told apart by who made it: what the host has is
 * marked, all else is the guard's. So is what git writes in a repository that begins in the session, as long
 * as the host has none there. */
static int put_rule(Protect *p, const ProtectRule *parent, ProtectRule *rule)
{
        PreventNode node;
        int r;

        if (rule->number == 0)
                rule->number = ++p->last_number;
        if (rule->is_kept || rule->is_state || rule->is_module ||
            (rule->fresh != FRESH_NONE && !p->is_hosts_repository))
                return 0;
        node = (PreventNode){ .number = rule->number, .flags = flags_of(rule) };
        r = put_name(p, parent->number, rule->name, &node);
        return r < 0 ? r : put_lock(p, parent, rule);
}

static int put_below(Protect *p, ProtectRule *parent, unsigned depth)
{
        int r = 0;

        /* Rules of links may lead to each other. */
        if (depth > PROTECT_DEPTH_MAX)
                return 0;
        for (ProtectRule *c = parent->first; r >= 0 && c; c = c->next) {
                r = put_rule(p, parent, c);
                if (r >= 0)
                        r = put_below(p, c, depth + 1);
        }
        return r;
}

int prevent_rules(Protect *p)
{
        bool has_workspaces = p->is_hosts_repository;
        int r;

        if (p->rules_fd < 0)
                return 0;
        r = put_below(p, &p->root, 0);
        if (r < 0 || p->repository_fd < 0)
                return r;
        /* It is the host's, whatever the workspace has. */
        if (p->repository_root.number == 0)
                p->repository_root.number = ++p->last_number;
        p->is_hosts_repository = true;
        r = put_below(p, &p->repository_root, 0);
        p->is_hosts_repository = has_workspaces;
        return r;
}

static int mark_repository(const Protect *p)
{
        PreventNode node = { .number = p->repository_root.number, .flags = flags_of(&p->repository_root) };

        return p->repository_fd < 0 ? 0 : rulemap_mark(p->rules_fd, p->marks_fd, p->repository_fd, &node);
}

/* The device, for files that come by way of an overlay. */
static int put_device(const Protect *p)
{
        PreventKey key = { 0 };
        PreventNode node = { 0 };
        struct stat st;

        if (fstat(p->workspace_fd, &st) < 0)
                return neg_errno();
        node.number = major(st.st_dev) << KERNEL_MINOR_BITS | minor(st.st_dev);
        return rulemap_put(p->rules_fd, &key, &node);
}

int prevent_begin(Protect *p)
{
        PreventNode top = { .flags = PREVENT_TOP };
        int r;

        if (p->rules_fd < 0)
                return 0;
        p->is_hosts_repository = faccessat(p->workspace_fd, ".git", F_OK, AT_SYMLINK_NOFOLLOW) == 0;
        top.flags |= flags_of(&p->root) & PREVENT_HAS_ANY;
        r = put_device(p);
        if (r >= 0)
                r = prevent_rules(p);
        if (r >= 0)
                r = rulemap_mark(p->rules_fd, p->marks_fd, p->workspace_fd, &top);
        return r < 0 ? r : mark_repository(p);
}

/* From then on a repository of the host's, with all its names. */
static int take_repository(Protect *p, const ProtectRule *rule)
{
        if (p->is_hosts_repository || !str_equal(rule->name, ".git"))
                return 0;
        p->is_hosts_repository = true;
        return prevent_rules(p);
}

int prevent_mark(Protect *p, const ProtectRule *rule, int fd, bool is_wrong)
{
        PreventNode node = { .number = rule->number, .flags = flags_of(rule) };
        int r;

        if (p->rules_fd < 0)
                return 0;
        /* What stands in the way of a directory is kept itself. */
        if (is_wrong)
                node.flags = PREVENT_PROTECTED;
        r = take_repository(p, rule);
        if (r >= 0)
                r = rulemap_mark(p->rules_fd, p->marks_fd, fd, &node);
        /* The host has replaced it so often that what has gone fills the map. Its name still holds. */
        return r == -E2BIG && !p->is_first ? 0 : r;
}

int prevent_new(int *ret_fd)
{
        return rulemap_new(ENTRIES_MAX, ret_fd);
}
