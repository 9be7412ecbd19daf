#include "daemon/init/protect.h"

#include <dirent.h>
#include <errno.h>
#include <linux/stat.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/vfs.h>

#include "daemon/isolate/kernel.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

#define STATFS_READ_ONLY 1
#define RESOLVE          (RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_BENEATH)

/* ---- rules ---- */

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

/* path: below the workspace, without a slash at its beginning. */
static int rule_add(Protect *p, const char *path, ProtectRule **ret)
{
        ProtectRule *rule = &p->root;
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
                r = rule_add(p, path + n + 1, &rule);
                if (r < 0)
                        return r;
                rule->is_protected = true;
        }
        *ret_n = p->n_rules;
        return 0;
}

/* The same rules below another name: where a link leads. */
static int copy_rules(Protect *p, const ProtectRule *from, ProtectRule *to, unsigned depth)
{
        int r = 0;

        to->is_protected = to->is_protected || from->is_protected;
        if (depth > PROTECT_DEPTH_MAX)
                return -ELOOP;
        for (const ProtectRule *c = from->first; r >= 0 && c; c = c->next) {
                ProtectRule *copy;

                r = rule_child(p, to, c->name, strlen(c->name), &copy);
                if (r >= 0 && copy != c)
                        r = copy_rules(p, c, copy, depth + 1);
        }
        return r;
}

/* ---- covers ---- */

static int mount_of(int fd, uint64_t *ret_id, bool *ret_is_top)
{
        struct statx st;

        if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &st) < 0)
                return neg_errno();
        if (!(st.stx_mask & STATX_MNT_ID) || !(st.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT))
                return -EOPNOTSUPP;
        *ret_id = st.stx_mnt_id;
        *ret_is_top = (st.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
        return 0;
}

/* Something lies on fd's place, read-only if it is to be: it can be neither written nor renamed. */
static int is_covered(int fd, bool is_read_only)
{
        struct statfs st;
        uint64_t id;
        bool is_top;
        int r;

        r = mount_of(fd, &id, &is_top);
        if (r < 0 || !is_top)
                return r;
        if (fstatfs(fd, &st) < 0)
                return neg_errno();
        return !is_read_only || (st.f_flags & STATFS_READ_ONLY) != 0;
}

/* A grant below it, which stays writable. */
static bool has_grant_below(const Protect *p, const char *path)
{
        char full[PLAN_PATH_MAX];
        size_t n;

        if (str_printf(full, sizeof(full), "%s/%s/", p->workspace, path) < 0)
                return false;
        n = strlen(full);
        for (uint32_t i = 0; i < p->plan->header->n_mounts; i++) {
                const PlanMount *m = &p->plan->mounts[i];

                if (m->type == PLAN_BIND && (m->flags & PLAN_WRITABLE) &&
                    strncmp(plan_string(p->plan, m->target), full, n) == 0)
                        return true;
        }
        return false;
}

static int cover(const Protect *p, int fd, const char *path, bool is_read_only, bool is_directory)
{
        struct mount_attr attr = { .attr_set = is_read_only ? MOUNT_ATTR_RDONLY : 0,
                                   .propagation = MS_PRIVATE };
        unsigned recursive = is_directory ? AT_RECURSIVE : 0;
        _cleanup_close_ int clone = kernel_open_tree(fd, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | recursive);

        if (clone < 0)
                return neg_errno();
        if (kernel_mount_setattr(clone, has_grant_below(p, path) ? 0 : recursive, &attr) < 0)
                return neg_errno();
        return kernel_move_mount(clone, fd) < 0 ? neg_errno() : 0;
}

/* ---- what the session made ---- */

static int open_at(int directory_fd, const char *name, uint64_t flags)
{
        int fd = kernel_openat2(directory_fd, name, flags | O_NOFOLLOW | O_CLOEXEC, RESOLVE);

        return fd < 0 ? neg_errno() : fd;
}

/* Beside it, under a name that nobody could have taken beforehand. */
static int move_aside(int directory_fd, const char *name)
{
        char aside[256];
        uint64_t random;

        for (unsigned i = 0; i < 10; i++) {
                int r;

                if (getrandom(&random, sizeof(random), 0) != (ssize_t) sizeof(random))
                        return -EIO;
                /* The longest names leave no room for it. */
                r = str_printf(aside, sizeof(aside), "%.220s.refused-%016llx", name,
                               (unsigned long long) random);
                if (r < 0)
                        return r;
                if (syscall(SYS_renameat2, directory_fd, name, directory_fd, aside, 1 /* NOREPLACE */) == 0)
                        return 0;
                if (errno != EEXIST)
                        return neg_errno();
        }
        return -EEXIST;
}

static int change_mode(int fd, mode_t mode)
{
        char link[32];
        int r = str_printf(link, sizeof(link), "/proc/self/fd/%d", fd);

        return r < 0 ? r : fchmodat(AT_FDCWD, link, mode, 0) < 0 ? neg_errno() : 0;
}

/* Modes of what is its user's are the session's to set, and the guard has that user's rights only. *ret_mode
 * is what modes_back() puts back; an fd of a path alone will do. What cannot be changed, fails later. */
static bool modes_open(int fd, mode_t *ret_mode)
{
        struct stat st;

        if (fstat(fd, &st) < 0 || (st.st_mode & 0700) == 0700)
                return false;
        *ret_mode = st.st_mode & 07777;
        return change_mode(fd, *ret_mode | 0700) >= 0;
}

static void modes_back(int fd, bool is_changed, mode_t mode)
{
        if (is_changed)
                (void) change_mode(fd, mode);
}

/* Everything in it was made after it: nobody loses what was brought there. */
static int made_after(int fd, uint64_t *ret_usec)
{
        struct statx st;

        if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_BTIME, &st) < 0)
                return neg_errno();
        if (!(st.stx_mask & STATX_BTIME))
                return -EOPNOTSUPP;
        *ret_usec = (uint64_t) st.stx_btime.tv_sec * 1000000U + st.stx_btime.tv_nsec / 1000U;
        return 0;
}

static int empty(int directory_fd, uint64_t since_usec, bool is_real, unsigned depth, unsigned *n);

static int empty_entry(int directory_fd, const char *name, uint64_t since_usec, bool is_real, unsigned depth,
                       unsigned *n)
{
        _cleanup_close_ int fd = open_at(directory_fd, name, O_PATH);
        struct stat st;
        uint64_t made;
        int r;

        if (fd < 0 || fstat(fd, &st) < 0)
                return fd < 0 ? fd : neg_errno();
        r = made_after(fd, &made);
        if (r < 0)
                return r;
        if (made < since_usec || (*n)++ >= PROTECT_ENTRIES_MAX)
                return -EEXIST;
        if (S_ISDIR(st.st_mode)) {
                fd = fd_close(fd);
                fd = open_at(directory_fd, name, O_RDONLY | O_DIRECTORY | O_NONBLOCK);
                r = fd < 0 ? fd : empty(fd, since_usec, is_real, depth + 1, n);
        }
        if (r < 0 || !is_real)
                return r;
        return unlinkat(directory_fd, name, S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0) < 0 ? neg_errno() : 0;
}

/* First without is_real, to see whether it may be done. */
static int empty(int directory_fd, uint64_t since_usec, bool is_real, unsigned depth, unsigned *n)
{
        const struct dirent *e;
        DIR *d;
        int fd, r = 0;

        fd = depth < PROTECT_DEPTH_MAX ? open_at(directory_fd, ".", O_RDONLY | O_DIRECTORY) : -ELOOP;
        if (fd < 0)
                return fd;
        d = fdopendir(fd);
        if (!d) {
                (void) fd_close(fd);
                return -ENOMEM;
        }
        while (r >= 0 && (e = readdir(d)))
                if (!str_equal(e->d_name, ".") && !str_equal(e->d_name, ".."))
                        r = empty_entry(directory_fd, e->d_name, since_usec, is_real, depth, n);
        (void) closedir(d);
        return r;
}

static int remove_made(int directory_fd, const char *name, bool is_directory)
{
        _cleanup_close_ int fd = -EBADF;
        uint64_t made;
        unsigned n = 0, n_again = 0;
        int r;

        if (!is_directory)
                return unlinkat(directory_fd, name, 0) < 0 ? neg_errno() : 0;
        fd = open_at(directory_fd, name, O_RDONLY | O_DIRECTORY | O_NONBLOCK);
        if (fd < 0)
                return fd;
        r = made_after(fd, &made);
        if (r >= 0)
                r = empty(fd, made, /* is_real= */ false, 0, &n);
        if (r >= 0)
                r = empty(fd, made, /* is_real= */ true, 0, &n_again);
        if (r < 0)
                return r;
        return unlinkat(directory_fd, name, AT_REMOVEDIR) < 0 ? neg_errno() : 0;
}

/* What was made there goes. What was brought there, or holds something, gets another name: it may be
 * somebody's only copy. */
static int take_away(Protect *p, int directory_fd, const char *path, const char *name, Maker maker,
                     bool is_directory)
{
        int r = maker == MAKER_SESSION ? remove_made(directory_fd, name, is_directory) : -EEXIST;

        if (r >= 0) {
                protect_note(p, GUARD_REMOVED, path);
                return 0;
        }
        if (r == -ENOENT)
                return 0;
        if (move_aside(directory_fd, name) < 0)
                return -EPERM;
        protect_note(p, GUARD_MOVED, path);
        return 0;
}

/* ---- one pass ---- */

typedef struct Place {
        const ProtectRule *rule;
        int fd; /* the directory */
        const char *path;
        Maker maker; /* of what nobody is known to have made in it */
        unsigned depth;
} Place;

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
        int fd, r = 0;

        fd = open_at(place->fd, ".", O_RDONLY | O_DIRECTORY);
        if (fd < 0)
                return fd;
        d = fdopendir(fd);
        if (!d) {
                (void) fd_close(fd);
                return -ENOMEM;
        }
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

/* Something that is protected lies below: then the directory must keep its name. */
static bool holds_something(const ProtectRule *rule, int directory_fd, unsigned depth)
{
        for (const ProtectRule *c = rule->first; c; c = c->next) {
                _cleanup_close_ int fd = -EBADF;

                /* Any entry of a directory may be one. */
                if (str_equal(c->name, "*"))
                        return true;
                fd = open_at(directory_fd, c->name, O_PATH);
                if (fd >= 0 &&
                    (c->is_protected || depth >= PROTECT_DEPTH_MAX || holds_something(c, fd, depth + 1)))
                        return true;
        }
        return false;
}

/* A link that the host made: what it leads to is kept as well, where that is in the workspace. */
static int follow_link(Protect *p, const Place *place, const ProtectRule *rule, const char *name)
{
        _cleanup_close_ int fd = -EBADF;
        char link[32], target[PLAN_PATH_MAX];
        size_t size = strlen(p->workspace);
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
        if (strncmp(target, p->workspace, size) != 0 || target[size] != '/')
                return 0;
        r = rule_add(p, target + size + 1, &alias);
        if (r >= 0 && alias != rule)
                r = copy_rules(p, rule, alias, 0);
        if (r >= 0 && p->n_rules > n_rules) {
                p->n_aliases++;
                p->has_new_alias = true;
        }
        return r;
}

/* A directory above something protected. *ret_fd is that of its cover, or of itself. */
static int open_above(Protect *p, const Place *place, const ProtectRule *rule, const char *name,
                      const char *path, int *ret_fd)
{
        _cleanup_close_ int fd = open_at(place->fd, name, O_RDONLY | O_DIRECTORY | O_NONBLOCK);
        int r;

        if (fd < 0)
                return fd;
        r = is_covered(fd, /* is_read_only= */ false);
        if (r == 0 && holds_something(rule, fd, 0)) {
                r = cover(p, fd, path, /* is_read_only= */ false, /* is_directory= */ true);
                (void) fd_close(fd);
                fd = r < 0 ? -EBADF : open_at(place->fd, name, O_RDONLY | O_DIRECTORY | O_NONBLOCK);
                r = r < 0 ? r : MIN_OF(fd, 0);
        }
        if (r >= 0)
                *ret_fd = TAKE_FD(fd);
        return r;
}

static int enter(Protect *p, const Place *place, const ProtectRule *rule, const char *name, const char *path,
                 Maker maker)
{
        Place below = {
                .rule = rule, .path = path, .maker = maker, .depth = place->depth + 1, .fd = -EBADF
        };
        _cleanup_close_ int fd = -EBADF, at = open_at(place->fd, name, O_PATH | O_DIRECTORY);
        mode_t mode = 0;
        bool is_changed;
        int r;

        if (at < 0)
                return at == -ENOENT ? 0 : at;
        is_changed = modes_open(at, &mode);
        r = open_above(p, place, rule, name, path, &fd);
        below.fd = fd;
        if (r >= 0 && p->watch)
                r = watch_add(p->watch, rule, fd, path);
        /* What is not watched is looked at all the same, once. */
        if (fd >= 0)
                r = first_error(r, visit_children(p, &below));
        modes_back(at, is_changed, mode);
        return r;
}

/* A directory of the session's that cannot be gone through is no directory above something protected. The
 * covers go with it. */
static int give_up(Protect *p, const Place *place, const char *name, const char *path)
{
        _cleanup_close_ int fd = open_at(place->fd, name, O_PATH | O_DIRECTORY);
        char link[32];
        int r;

        if (fd < 0)
                return fd == -ENOENT ? 0 : fd;
        r = str_printf(link, sizeof(link), "/proc/self/fd/%d", fd);
        if (r >= 0)
                r = is_covered(fd, /* is_read_only= */ false);
        if (r > 0 && syscall(SYS_umount2, link, MNT_DETACH) < 0)
                r = neg_errno();
        return r < 0 ? r
                     : take_away(p, place->fd, path, name, MAKER_SESSION_MOVED, /* is_directory= */ true);
}

static Maker maker_of(const Protect *p, const Place *place, const char *name)
{
        if (p->is_first)
                return MAKER_HOST;
        return p->watch ? watch_maker(p->watch, place->path, name, place->maker) : MAKER_UNKNOWN;
}

static int keep(Protect *p, const Place *place, const ProtectRule *rule, const char *name, const char *path)
{
        _cleanup_close_ int fd = open_at(place->fd, name, O_PATH);
        struct stat st;
        int r;

        if (fd < 0 || fstat(fd, &st) < 0)
                return fd == -ENOENT ? 0 : -EIO;
        if (S_ISLNK(st.st_mode)) {
                r = follow_link(p, place, rule, name);
                if (r < 0)
                        return r;
        }
        r = is_covered(fd, /* is_read_only= */ true);
        if (r != 0)
                return r < 0 ? r : 0;
        r = cover(p, fd, path, /* is_read_only= */ true, S_ISDIR(st.st_mode));
        if (r >= 0 && !p->is_first)
                protect_note(p, GUARD_COVERED, path);
        return r;
}

static int visit(Protect *p, const Place *place, const ProtectRule *rule, const char *name)
{
        _cleanup_close_ int fd = open_at(place->fd, name, O_PATH);
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
        r = is_covered(fd, rule->is_protected);
        if (r < 0)
                return r;
        maker = maker_of(p, place, name);
        is_wrong = rule->is_protected || !S_ISDIR(st.st_mode);
        is_theirs = r == 0 && (maker == MAKER_SESSION || maker == MAKER_SESSION_MOVED);
        if (is_theirs && is_wrong) {
                r = take_away(p, place->fd, path, name, maker, S_ISDIR(st.st_mode));
                if (r >= 0)
                        return 0;
                protect_note(p, GUARD_LEFT, path);
        }
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
        Place top = { .rule = &p->root, .fd = p->workspace_fd, .path = "", .maker = MAKER_HOST };
        int r;

        do {
                p->has_new_alias = false;
                r = visit_children(p, &top);
        } while (r >= 0 && p->has_new_alias);
        return r;
}

void protect_note(Protect *p, PrivGuardNote note, const char *path)
{
        PrivGuarded m = { .note = note };

        if (str_copy(m.path, sizeof(m.path), path) >= 0)
                (void) !write(p->init_fd, &m, sizeof(m));
}
