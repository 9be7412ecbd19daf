#include <dirent.h>
#include <errno.h>
#include <string.h>

#include "daemon/init/setup.h"
#include "daemon/isolate/kernel.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/glob.h"
#include "proto/base/str.h"

/*
 * Denials by pattern: the workspace, as the session will see it, is walked before anything runs, and a mask
 * put over each match. The walk has the session's rights and bounds; what goes beyond them, or cannot be
 * listed, may hold a match: the first is no session, the second hidden as a whole (its owner could open it
 * later).
 */

#define ENTRIES_MAX 500000U
#define MATCHES_MAX 4096U
#define DEPTH_MAX   48U

typedef struct Walker {
        Setup *setup;
        Glob globs[PLAN_MATCHES_MAX];
        unsigned n_globs;
        unsigned n_entries;
        unsigned n_found;
        char path[PLAN_PATH_MAX]; /* of what is looked at */
} Walker;

typedef struct Places {
        uint32_t of[PLAN_MATCHES_MAX];
} Places;

/* What lies at fd, which may be a directory. */
static int cover(Walker *w, int fd, bool is_directory)
{
        Setup *s = w->setup;
        _cleanup_close_ int mask = -EBADF;

        if (++w->n_found > MATCHES_MAX)
                return setup_fail(s, -E2BIG, "more than %u files match the patterns that are denied",
                                  MATCHES_MAX);
        mask = kernel_open_tree(s->mask_fd, is_directory ? "denied.d" : "denied", OPEN_TREE_CLONE);
        if (mask < 0 || kernel_move_mount(mask, fd) < 0)
                return setup_fail(s, neg_errno(), "mask %s", w->path);
        return 0;
}

/* A link's name can carry no mask: it goes where the link leads. */
static int cover_entry(Walker *w, int directory_fd, const char *name)
{
        _cleanup_close_ int fd = kernel_openat2(directory_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC,
                                                RESOLVE_NO_MAGICLINKS | RESOLVE_BENEATH);
        struct stat st;
        int r;

        if (fd < 0 || fstat(fd, &st) < 0)
                return errno == ENOENT ? 0 : setup_fail(w->setup, neg_errno(), "%s", w->path);
        if (!S_ISLNK(st.st_mode))
                return cover(w, fd, S_ISDIR(st.st_mode));
        r = target_mask(w->setup, w->path);
        return r < 0 ? r : identity_walk_as_session(w->setup);
}

/* 1: it matches; 0: something below it may; else -ENOENT. */
static int step(const Walker *w, const Places *from, const char *name, Places *to)
{
        bool goes_on = false;

        for (unsigned i = 0; i < w->n_globs; i++) {
                to->of[i] = glob_step(&w->globs[i], from->of[i], name);
                if (glob_is_match(&w->globs[i], to->of[i]))
                        return 1;
                goes_on = goes_on || to->of[i] != 0;
        }
        return goes_on ? 0 : -ENOENT;
}

static int walk(Walker *w, int directory_fd, const Places *places, unsigned depth);

static int look_below(Walker *w, int directory_fd, const char *name, const Places *places, unsigned depth)
{
        _cleanup_close_ int fd = -EBADF;
        int r;

        if (depth >= DEPTH_MAX)
                return setup_fail(w->setup, -E2BIG,
                                  "%s: patterns are denied, and it is too deep to look below", w->path);
        fd = kernel_openat2(directory_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC,
                            RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_BENEATH);
        r = fd < 0 ? neg_errno() : 0;
        if (r == -ENOENT || r == -ENOTDIR || r == -ELOOP)
                return 0;
        if (r == -EACCES || r == -EPERM)
                return cover_entry(w, directory_fd, name);
        if (r < 0)
                return setup_fail(w->setup, r, "%s", w->path);
        return walk(w, TAKE_FD(fd), places, depth + 1);
}

static int is_directory(int directory_fd, const struct dirent *e)
{
        struct stat st;

        if (e->d_type != DT_UNKNOWN)
                return e->d_type == DT_DIR;
        if (fstatat(directory_fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0)
                return errno == ENOENT ? 0 : neg_errno();
        return S_ISDIR(st.st_mode);
}

static int look_at(Walker *w, int directory_fd, const struct dirent *e, const Places *places, unsigned depth)
{
        size_t n = strlen(w->path);
        Places below;
        int r;

        if (++w->n_entries > ENTRIES_MAX)
                return setup_fail(w->setup, -E2BIG,
                                  "patterns are denied, and the workspace has more than %u files to look at",
                                  ENTRIES_MAX);
        r = step(w, places, e->d_name, &below);
        if (r < 0)
                return 0;
        if (str_printf(w->path + n, sizeof(w->path) - n, "/%s", e->d_name) < 0)
                return setup_fail(w->setup, -ENAMETOOLONG, "%s", w->path);
        if (r > 0) {
                r = cover_entry(w, directory_fd, e->d_name);
        } else {
                r = is_directory(directory_fd, e);
                if (r > 0)
                        r = look_below(w, directory_fd, e->d_name, &below, depth);
        }
        w->path[n] = '\0';
        return r;
}

/* Takes the descriptor. */
static int walk(Walker *w, int directory_fd, const Places *places, unsigned depth)
{
        DIR *d = fdopendir(directory_fd);
        int r = 0;

        if (!d) {
                (void) fd_close(directory_fd);
                return setup_fail(w->setup, -ENOMEM, "%s", w->path);
        }
        while (r >= 0) {
                const struct dirent *e;

                errno = 0;
                e = readdir(d);
                if (!e) {
                        r = errno ? setup_fail(w->setup, neg_errno(), "%s", w->path) : 0;
                        break;
                }
                if (!str_equal(e->d_name, ".") && !str_equal(e->d_name, ".."))
                        r = look_at(w, dirfd(d), e, places, depth);
        }
        (void) closedir(d);
        return r;
}

static int take_globs(Walker *w, Places *begin)
{
        const Plan *p = &w->setup->plan;

        for (uint32_t i = 0; i < p->header->n_mounts; i++) {
                const PlanMount *m = &p->mounts[i];
                int r;

                if (m->type != PLAN_MASK_MATCHES)
                        continue;
                r = w->n_globs < PLAN_MATCHES_MAX
                                    ? glob_parse(plan_string(p, m->source), &w->globs[w->n_globs])
                                    : -E2BIG;
                if (r < 0)
                        return setup_fail(w->setup, r, "%s", plan_string(p, m->source));
                begin->of[w->n_globs] = glob_begin(&w->globs[w->n_globs]);
                w->n_globs++;
        }
        return 0;
}

int matches_mask(Setup *s)
{
        Walker w = { .setup = s };
        Places begin = { { 0 } };
        int fd, r;

        r = take_globs(&w, &begin);
        if (r < 0 || w.n_globs == 0)
                return r;
        setup_step(s, "deny-patterns");
        r = str_copy(w.path, sizeof(w.path), plan_string(&s->plan, s->plan.header->workspace));
        if (r >= 0)
                r = identity_walk_as_session(s);
        if (r < 0)
                return setup_fail(s, r, "identity");
        fd = kernel_openat2(AT_FDCWD, w.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC,
                            RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
        r = fd < 0 ? setup_fail(s, neg_errno(), "%s", w.path) : walk(&w, fd, &begin, 0);
        if (identity_walk_as_root(s) < 0)
                return setup_fail(s, -EPERM, "identity");
        return r < 0 ? r : 0;
}
