#include "daemon/init/protect.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>

#include "daemon/init/modes.h"
#include "daemon/isolate/kernel.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

#define RESOLVE (RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_BENEATH)

int protect_open(int directory_fd, const char *name, uint64_t flags)
{
        int fd = kernel_openat2(directory_fd, name, flags | O_NOFOLLOW | O_CLOEXEC, RESOLVE);

        return fd < 0 ? neg_errno() : fd;
}

int protect_list(int directory_fd, DIR **ret)
{
        int fd = protect_open(directory_fd, ".", O_RDONLY | O_DIRECTORY);

        if (fd < 0)
                return fd;
        *ret = fdopendir(fd);
        if (*ret)
                return 0;
        (void) fd_close(fd);
        return -ENOMEM;
}

/* ---- one pass ---- */

static int visit(Protect *p, const Place *place, const ProtectRule *rule, const char *name);

static int first_error(int first, int r)
{
        return first < 0 ? first : MIN_OF(r, 0);
}

static bool is_literal(const ProtectRule *parent, const char *name)
{
        for (const ProtectRule *c = parent->first; c; c = c->next)
                if (str_equal(c->name, name))
                        return true;
        return false;
}

static int visit_entries(Protect *p, const Place *place, const ProtectRule *rule)
{
        const struct dirent *e;
        size_t n = 0;
        DIR *d;
        int r;

        r = protect_list(place->fd, &d);
        if (r < 0)
                return r;
        while (n <= PROTECT_ENTRIES_MAX && (e = readdir(d))) {
                if (str_equal(e->d_name, ".") || str_equal(e->d_name, "..") ||
                    is_literal(place->rule, e->d_name))
                        continue;
                r = first_error(r, n++ < PROTECT_ENTRIES_MAX ? visit(p, place, rule, e->d_name) : -E2BIG);
        }
        (void) closedir(d);
        return r;
}

/* An error in one place, which a session can arrange, keeps nobody from looking at the others. */
static int visit_children(Protect *p, const Place *place)
{
        mode_t mode = 0;
        bool is_changed = modes_open(place->fd, &mode);
        int r = 0;

        for (const ProtectRule *c = place->rule->first; c; c = c->next)
                r = first_error(r, str_equal(c->name, "*") ? visit_entries(p, place, c)
                                                           : visit(p, place, c, c->name));
        modes_back(place->fd, is_changed, mode);
        return r;
}

static bool holds_something(Protect *p, const Place *place);

typedef struct Visit {
        Protect *p;
        const Place *place;
        int error;
} Visit;

static int holds_module(void *userdata, const char *name)
{
        const Visit *v = userdata;
        _cleanup_close_ int fd = protect_open(v->place->fd, name, O_PATH);
        char path[PROTECT_PATH_MAX];
        Place below = *v->place;

        if (fd < 0 || str_printf(path, sizeof(path), "%s/%s", v->place->path, name) < 0)
                return fd != -ENOENT;
        below.fd = fd;
        below.path = path;
        below.depth++;
        return holds_something(v->p, &below);
}

static bool is_held(const Protect *p, const Place *place)
{
        return !place->rule->is_kept || p->is_first || place->maker == MAKER_HOST ||
               cover_is_there(place->fd, /* is_read_only= */ true) > 0;
}

/* One that the host has: these are covered there, and looked at first. */
static bool is_hosts_worktree(const Place *place)
{
        static const char *const names[] = { "commondir", "gitdir" };

        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                _cleanup_close_ int fd = protect_open(place->fd, names[i], O_PATH);

                if (fd >= 0 && cover_is_there(fd, /* is_read_only= */ true) > 0)
                        return true;
        }
        return false;
}

/* Something that is protected lies below: then the directory must keep its name. */
static bool holds_something(Protect *p, const Place *place)
{
        for (const ProtectRule *c = place->rule->first; c; c = c->next) {
                _cleanup_close_ int fd = -EBADF;
                Place below = { .rule = c, .path = place->path, .depth = place->depth + 1 };

                /* Where it counts, the worktree's own names are held. */
                if (c->is_state)
                        continue;
                /* Any entry of a directory may be one. */
                if (str_equal(c->name, "*"))
                        return true;
                below.fd = fd = protect_open(place->fd, c->name, O_PATH);
                below.maker = place->maker;
                if (fd >= 0 && (c->is_protected ? is_held(p, &below) : holds_something(p, &below)))
                        return true;
        }
        /* What cannot be listed may hold any. */
        return place->rule->is_module &&
               modules_each(p, place, holds_module, &(Visit){ .p = p, .place = place }) != 0;
}

static const char *below(const char *path, const char *top)
{
        size_t n = strlen(top);

        return n > 0 && strncmp(path, top, n) == 0 && path[n] == '/' ? path + n + 1 : NULL;
}

/* -EXDEV: that is nothing of ours. */
static int find_alias(Protect *p, const char *target, ProtectRule **ret)
{
        const char *path = below(target, p->workspace);

        if (path)
                return rules_add(p, &p->root, path, ret);
        path = below(target, p->repository);
        return path ? rules_add(p, &p->repository_root, path, ret) : -EXDEV;
}

/* A link that the host made: what it leads to is kept as well, where that is in the workspace. */
static int follow_link(Protect *p, const Place *place, const ProtectRule *rule, const char *name)
{
        _cleanup_close_ int fd = -EBADF;
        char link[32], target[PLAN_PATH_MAX];
        ProtectRule *alias;
        size_t n_rules = p->n_rules;
        ssize_t n;
        int r;

        if (p->n_aliases >= PROTECT_ALIASES_MAX)
                return 0;
        fd = kernel_openat2(place->fd, name, O_PATH | O_CLOEXEC, RESOLVE_NO_MAGICLINKS);
        if (fd < 0 || str_printf(link, sizeof(link), "/proc/self/fd/%d", fd) < 0)
                return 0;
        n = readlink(link, target, sizeof(target) - 1);
        if (n < 0)
                return 0;
        target[n] = '\0';
        r = find_alias(p, target, &alias);
        if (r == -EXDEV)
                return 0;
        if (r >= 0 && alias != rule)
                r = rules_copy(p, rule, alias, 0);
        if (r >= 0 && p->n_rules > n_rules) {
                p->n_aliases++;
                p->has_new_alias = true;
        }
        return r;
}

/* A directory above something protected. below->fd is that of its cover, or of itself, and the caller's. */
static int open_above(Protect *p, const Place *place, const char *name, Place *below)
{
        _cleanup_close_ int fd = protect_open(place->fd, name, O_RDONLY | O_DIRECTORY | O_NONBLOCK);
        int r;

        if (fd < 0)
                return fd;
        r = cover_is_there(fd, /* is_read_only= */ false);
        below->fd = fd;
        if (r == 0 && holds_something(p, below)) {
                r = cover_put(p, fd, below->path, /* is_read_only= */ false, /* is_directory= */ true);
                (void) fd_close(fd);
                fd = r < 0 ? -EBADF : protect_open(place->fd, name, O_RDONLY | O_DIRECTORY | O_NONBLOCK);
                r = r < 0 ? r : MIN_OF(fd, 0);
        }
        below->fd = r < 0 ? -EBADF : TAKE_FD(fd);
        return r;
}

/* Errors as everywhere: the others are looked at all the same. */
static int visit_module(void *userdata, const char *name)
{
        Visit *v = userdata;

        v->error = first_error(v->error, visit(v->p, v->place, v->place->rule, name));
        return 0;
}

static int visit_modules(Protect *p, const Place *place)
{
        Visit v = { .p = p, .place = place };
        int r = modules_each(p, place, visit_module, &v);

        return first_error(v.error, r);
}

/* Below .git/modules there may be more than can be watched; they leave room for all others. */
static int watch_place(Protect *p, const Place *place)
{
        int r = p->watch ? watch_add(p->watch, place->rule, place->fd, place->path,
                                     place->is_in_modules ? PROTECT_WATCHES_LEFT : 0)
                         : 0;

        if (r != -ENOSPC || !place->is_in_modules)
                return r;
        p->is_partly_watched = true;
        return 0;
}

static int enter(Protect *p, const Place *place, const ProtectRule *rule, const char *name, const char *path,
                 Maker maker)
{
        Place below = { .rule = rule,
                        .path = path,
                        .maker = maker,
                        .depth = place->depth + 1,
                        .fd = -EBADF,
                        .is_in_modules = place->is_in_modules || rule->is_module };
        _cleanup_close_ int fd = -EBADF, at = protect_open(place->fd, name, O_PATH | O_DIRECTORY);
        mode_t mode = 0;
        bool is_changed;
        int r;

        if (at < 0)
                return at == -ENOENT ? 0 : at;
        is_changed = modes_open(at, &mode);
        r = open_above(p, place, name, &below);
        fd = below.fd;
        if (r >= 0)
                r = watch_place(p, &below);
        /* What is not watched is looked at all the same, once. */
        if (fd >= 0)
                r = first_error(r, visit_children(p, &below));
        if (fd >= 0 && rule->is_module)
                r = first_error(r, visit_modules(p, &below));
        modes_back(at, is_changed, mode);
        return r;
}

/* A directory of the session's that cannot be gone through is no directory above something protected. The
 * covers go with it. */
static int give_up(Protect *p, const Place *place, const char *name, const char *path)
{
        _cleanup_close_ int fd = protect_open(place->fd, name, O_PATH | O_DIRECTORY);
        char link[32];
        int r;

        if (fd < 0)
                return fd == -ENOENT ? 0 : fd;
        r = str_printf(link, sizeof(link), "/proc/self/fd/%d", fd);
        if (r >= 0)
                r = cover_is_there(fd, /* is_read_only= */ false);
        if (r > 0 && syscall(SYS_umount2, link, MNT_DETACH) < 0)
                r = neg_errno();
        return r < 0 ? r
                     : away_take(p, place->fd, path, name, MAKER_SESSION_MOVED, /* is_directory= */ true);
}

/* MAKER_UNKNOWN: nobody since the last pass. */
static Maker maker_of(const Protect *p, const Place *place, const char *name)
{
        if (p->is_first)
                return MAKER_HOST;
        return p->watch ? watch_maker(p->watch, place->path, name, place->maker) : MAKER_UNKNOWN;
}

static int keep(Protect *p, const Place *place, const ProtectRule *rule, const char *name, const char *path)
{
        _cleanup_close_ int fd = protect_open(place->fd, name, O_PATH);
        struct stat st;
        int r;

        if (fd < 0 || fstat(fd, &st) < 0)
                return fd == -ENOENT ? 0 : -EIO;
        if (S_ISLNK(st.st_mode)) {
                r = follow_link(p, place, rule, name);
                if (r < 0)
                        return r;
        }
        r = cover_is_there(fd, /* is_read_only= */ true);
        if (r != 0)
                return r < 0 ? r : 0;
        r = cover_put(p, fd, path, /* is_read_only= */ true, S_ISDIR(st.st_mode));
        if (r >= 0 && !p->is_first)
                protect_note(p, GUARD_COVERED, path);
        return r;
}

/* What is no longer harmless was made by the session all the same. */
static bool is_fresh(Protect *p, const Place *place, const ProtectRule *rule, const char *name,
                     const char *path, Maker *maker)
{
        if (rule->fresh == FRESH_NONE)
                return false;
        if (*maker == MAKER_UNKNOWN && fresh_is_known(p->fresh, path))
                *maker = MAKER_SESSION_MOVED;
        if (*maker != MAKER_SESSION && *maker != MAKER_SESSION_MOVED)
                fresh_forget(p->fresh, path);
        else if (fresh_take(p, place, rule, name, path) >= 0)
                return true;
        return false;
}

static int visit(Protect *p, const Place *place, const ProtectRule *rule, const char *name)
{
        _cleanup_close_ int fd = protect_open(place->fd, name, O_PATH);
        char path[PROTECT_PATH_MAX];
        struct stat st;
        Maker maker;
        bool is_wrong, is_theirs;
        int r;

        if (fd < 0)
                return fd == -ENOENT ? 0 : fd;
        if (fstat(fd, &st) < 0)
                return neg_errno();
        /* Names of a folder that a "*" stands for are the folder's own business where they are no folders.
         */
        if (!rule->is_protected && !S_ISDIR(st.st_mode) && str_equal(rule->name, "*"))
                return 0;
        r = str_printf(path, sizeof(path), "%s%s%s", place->path, place->path[0] ? "/" : "", name);
        if (r < 0)
                return r;
        r = cover_is_there(fd, rule->is_protected);
        if (r < 0)
                return r;
        maker = maker_of(p, place, name);
        if (r == 0 &&
            ((rule->is_kept && maker != MAKER_HOST) || (rule->is_state && !is_hosts_worktree(place))))
                return 0;
        if (r == 0 && is_fresh(p, place, rule, name, path, &maker))
                return 0;
        is_wrong = rule->is_protected || !S_ISDIR(st.st_mode);
        is_theirs = r == 0 && (maker == MAKER_SESSION || maker == MAKER_SESSION_MOVED);
        if (is_theirs && is_wrong) {
                r = away_take(p, place->fd, path, name, maker, S_ISDIR(st.st_mode));
                if (r >= 0)
                        return 0;
                protect_note(p, GUARD_LEFT, path);
        }
        r = maker == MAKER_HOST ? prevent_mark(p, rule, fd, is_wrong) : 0;
        if (r >= 0)
                r = is_wrong ? keep(p, place, rule, name, path) : enter(p, place, rule, name, path, maker);
        /* The host, or commands that did not stand still in time, took it away meanwhile: a change that is
         * looked at. */
        if (r == -ENOENT || r == -ENOTDIR || r == -ESTALE)
                return 0;
        return r < 0 && is_theirs && !is_wrong && !str_equal(rule->name, "*") ? give_up(p, place, name, path)
                                                                              : r;
}

int protect_pass(Protect *p)
{
        Place top = { .rule = &p->root, .fd = p->workspace_fd, .path = "", .maker = MAKER_UNKNOWN };
        Place repository = { .rule = &p->repository_root,
                             .fd = p->repository_fd,
                             .path = PROTECT_REPOSITORY,
                             .maker = MAKER_UNKNOWN };
        int r;

        p->is_partly_watched = false;
        do {
                p->has_new_alias = false;
                p->n_modules = p->n_module_entries = 0;
                r = visit_children(p, &top);
                if (p->repository_fd >= 0)
                        r = first_error(r, visit_children(p, &repository));
                if (r >= 0 && p->has_new_alias)
                        r = prevent_rules(p);
        } while (r >= 0 && p->has_new_alias);
        return r;
}

int protect_full(const Protect *p, const char *path, char *ret, size_t size)
{
        return str_has_prefix(path, PROTECT_REPOSITORY)
                               ? str_printf(ret, size, "%s%s", p->repository, path + 1)
                               : str_printf(ret, size, "%s/%s", p->workspace, path);
}

void protect_note(Protect *p, PrivGuardNote note, const char *path)
{
        PrivGuarded m = { .note = note };
        int r = str_has_prefix(path, PROTECT_REPOSITORY) ? protect_full(p, path, m.path, sizeof(m.path))
                                                         : str_copy(m.path, sizeof(m.path), path);

        /* One that is too long is better told without where the repository lies than not at all. */
        if (r < 0)
                r = str_copy(m.path, sizeof(m.path), path);
        if (r >= 0)
                (void) !write(p->init_fd, &m, sizeof(m));
}
