#include "daemon/init/matches.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>

#include "daemon/init/modes.h"
#include "daemon/isolate/kernel.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/glob.h"
#include "proto/base/str.h"

#define ENTRIES_MAX 500000U
#define MATCHES_MAX 4096U
#define DEPTH_MAX   48U
#define WATCHES_MAX 131072U
#define WATCH_MASK  (IN_CREATE | IN_MOVED_TO | IN_ONLYDIR | IN_EXCL_UNLINK)
#define LOOK_MSEC   500
#define LOOK_SHARE  20 /* of the time, where there is no watch */
#define RESOLVE     (RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_BENEATH)

struct Matches {
        Setup *setup;
        Glob globs[PLAN_MATCHES_MAX];
        unsigned n_globs;
        unsigned n_entries; /* of this walk */
        unsigned n_found;
        size_t n_workspace;
        dev_t mask_device;
        int watch_fd;
        char **directories; /* below the workspace, by number of the watch */
        size_t n_directories;
        bool is_guard;
        bool is_serving;
        bool is_blind; /* not everything is watched */
        bool has_lost; /* what happened is not known */
        uint64_t walk_usec;
        void (*stop)(void *userdata);
        void *userdata;
        char path[PLAN_PATH_MAX]; /* of what is looked at */
};

typedef struct Places {
        uint32_t of[PLAN_MATCHES_MAX];
} Places;

/* ---- masks ---- */

static int put_mask(Matches *m, int fd)
{
        Setup *s = m->setup;
        _cleanup_close_ int mask = -EBADF;
        struct stat st;

        if (mask_is_watched(s, fd))
                return 0;
        if (fstat(fd, &st) < 0)
                return setup_fail(s, neg_errno(), "%s", m->path);
        if (st.st_dev == m->mask_device)
                return 0;
        if (++m->n_found > MATCHES_MAX)
                return setup_fail(s, -E2BIG, "more than %u files match what is denied", MATCHES_MAX);
        if (m->is_serving)
                m->stop(m->userdata);
        mask = kernel_open_tree(s->mask_fd, S_ISDIR(st.st_mode) ? "denied.d" : "denied", OPEN_TREE_CLONE);
        if (mask < 0 || kernel_move_mount(mask, fd) < 0)
                return setup_fail(s, neg_errno(), "mask %s", m->path);
        return 0;
}

/* A link's name can carry no mask: it goes where the link leads, within the session's root. */
static int mask_behind(Matches *m)
{
        _cleanup_close_ int fd = -EBADF;
        int r;

        if (!m->is_guard) {
                r = target_mask(m->setup, m->path, UINT32_MAX);
                return r < 0 && r != -ENOENT ? r : identity_walk_as_session(m->setup);
        }
        fd = kernel_openat2(AT_FDCWD, m->path, O_PATH | O_CLOEXEC, RESOLVE_NO_MAGICLINKS);
        return fd < 0 ? 0 : put_mask(m, fd);
}

static int mask_entry(Matches *m, int directory_fd, const char *name)
{
        _cleanup_close_ int fd = kernel_openat2(directory_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC,
                                                RESOLVE_NO_MAGICLINKS | RESOLVE_BENEATH);
        struct stat st;

        if (fd >= 0 && mask_is_watched(m->setup, fd))
                return 0;
        if (fd < 0 || fstat(fd, &st) < 0)
                return errno == ENOENT ? 0 : setup_fail(m->setup, neg_errno(), "%s", m->path);
        return S_ISLNK(st.st_mode) ? mask_behind(m) : put_mask(m, fd);
}

/* ---- watches ---- */

static int remember(Matches *m, int number, const char *path)
{
        size_t i = (size_t) number;
        char *copy;

        if (i >= m->n_directories) {
                size_t n = MAX_OF(i + 1, 2 * m->n_directories);
                char **list = reallocarray(m->directories, n, sizeof(*list));

                if (!list)
                        return -ENOMEM;
                memset(list + m->n_directories, 0, (n - m->n_directories) * sizeof(*list));
                m->directories = list;
                m->n_directories = n;
        }
        if (str_dup(path, &copy) < 0)
                return -ENOMEM;
        free(m->directories[i]);
        m->directories[i] = copy;
        return 0;
}

/* Before it is read: what appears meanwhile is seen by one of the two. */
static int watch_directory(Matches *m, int fd)
{
        const char *below = m->path + m->n_workspace;
        char link[32];
        int number, r;

        if (m->watch_fd < 0 || m->is_blind)
                return 0;
        r = str_printf(link, sizeof(link), "/proc/self/fd/%d", fd);
        if (r < 0)
                return r;
        number = inotify_add_watch(m->watch_fd, link, WATCH_MASK);
        if (number < 0 || (unsigned) number >= WATCHES_MAX) {
                m->is_blind = true;
                return 0;
        }
        return remember(m, number, *below ? below + 1 : "");
}

/* ---- the walk ---- */

/* 1: it matches; 0: something below it may; else -ENOENT. */
static int step(const Matches *m, const Places *from, const char *name, Places *to)
{
        bool goes_on = false;

        for (unsigned i = 0; i < m->n_globs; i++) {
                to->of[i] = glob_step(&m->globs[i], from->of[i], name);
                if (glob_is_match(&m->globs[i], to->of[i]))
                        return 1;
                goes_on = goes_on || to->of[i] != 0;
        }
        return goes_on ? 0 : -ENOENT;
}

static int walk(Matches *m, int directory_fd, const Places *places, unsigned depth);

static int look_below(Matches *m, int directory_fd, const char *name, const Places *places, unsigned depth)
{
        _cleanup_close_ int fd = -EBADF;
        int r;

        if (depth >= DEPTH_MAX && m->is_serving)
                return mask_entry(m, directory_fd, name);
        if (depth >= DEPTH_MAX)
                return setup_fail(m->setup, -E2BIG,
                                  "%s: patterns are denied, and it is too deep to look below", m->path);
        fd = kernel_openat2(directory_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC,
                            RESOLVE);
        r = fd < 0 ? neg_errno() : 0;
        if (r == -ENOENT || (m->is_serving && (r == -ENOTDIR || r == -ELOOP)))
                return 0;
        if (r == -ENOTDIR || r == -ELOOP)
                return setup_fail(m->setup, -EAGAIN, "%s became something else while it was looked at",
                                  m->path);
        if (r == -EACCES || r == -EPERM)
                return mask_entry(m, directory_fd, name);
        if (r < 0)
                return setup_fail(m->setup, r, "%s", m->path);
        return walk(m, TAKE_FD(fd), places, depth + 1);
}

static int is_directory(int directory_fd, const char *name, unsigned char type)
{
        struct stat st;

        if (type != DT_UNKNOWN)
                return type == DT_DIR;
        if (fstatat(directory_fd, name, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0)
                return errno == ENOENT ? 0 : neg_errno();
        return S_ISDIR(st.st_mode);
}

typedef struct NameSeen {
        const char *name;
        unsigned char type;
} NameSeen;

static int look_at(Matches *m, int directory_fd, const NameSeen *e, const Places *places, unsigned depth)
{
        size_t n = strlen(m->path);
        Places below;
        int r;

        r = step(m, places, e->name, &below);
        if (r < 0)
                return 0;
        if (str_printf(m->path + n, sizeof(m->path) - n, "/%s", e->name) < 0)
                return setup_fail(m->setup, -ENAMETOOLONG, "%s", m->path);
        if (r > 0) {
                r = mask_entry(m, directory_fd, e->name);
        } else {
                r = is_directory(directory_fd, e->name, e->type);
                if (r > 0)
                        r = look_below(m, directory_fd, e->name, &below, depth);
        }
        m->path[n] = '\0';
        return r;
}

static int read_entries(Matches *m, DIR *d, const Places *places, unsigned depth)
{
        const struct dirent *e;
        int r = watch_directory(m, dirfd(d));

        while (r >= 0) {
                errno = 0;
                e = readdir(d);
                if (!e)
                        return errno ? setup_fail(m->setup, neg_errno(), "%s", m->path) : 0;
                if (str_equal(e->d_name, ".") || str_equal(e->d_name, ".."))
                        continue;
                if (++m->n_entries > ENTRIES_MAX)
                        return setup_fail(m->setup, -E2BIG,
                                          "patterns are denied, and more than %u files are to be looked at",
                                          ENTRIES_MAX);
                r = look_at(m, dirfd(d), &(NameSeen){ e->d_name, e->d_type }, places, depth);
        }
        return r;
}

/* Takes the descriptor. */
static int walk(Matches *m, int directory_fd, const Places *places, unsigned depth)
{
        DIR *d = fdopendir(directory_fd);
        int r;

        if (!d) {
                (void) fd_close(directory_fd);
                return setup_fail(m->setup, -ENOMEM, "%s", m->path);
        }
        r = read_entries(m, d, places, depth);
        (void) closedir(d);
        return r;
}

static void begin(const Matches *m, Places *ret)
{
        for (unsigned i = 0; i < m->n_globs; i++)
                ret->of[i] = glob_begin(&m->globs[i]);
}

/* path: below the workspace. */
static int open_below(Matches *m, const char *path, int *ret_fd)
{
        _cleanup_close_ int top = -EBADF;
        int fd;

        m->path[m->n_workspace] = '\0';
        top = kernel_openat2(AT_FDCWD, m->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC,
                             RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
        if (top < 0)
                return neg_errno();
        if (*path == '\0') {
                *ret_fd = TAKE_FD(top);
                return 0;
        }
        if (str_printf(m->path + m->n_workspace, sizeof(m->path) - m->n_workspace, "/%s", path) < 0)
                return -ENAMETOOLONG;
        fd = kernel_openat2(top, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, RESOLVE);
        if (fd < 0)
                return neg_errno();
        *ret_fd = fd;
        return 0;
}

static int walk_all(Matches *m)
{
        uint64_t begin_usec = clock_monotonic_usec();
        Places places;
        int fd, r;

        m->n_entries = 0;
        r = open_below(m, "", &fd);
        if (r < 0)
                return setup_fail(m->setup, r, "%s", m->path);
        begin(m, &places);
        r = walk(m, fd, &places, 0);
        m->walk_usec = clock_monotonic_usec() - begin_usec;
        return r;
}

int matches_walk(Matches *m)
{
        int r;

        setup_step(m->setup, "deny-patterns");
        if (m->is_guard)
                return walk_all(m);
        r = identity_walk_as_session(m->setup);
        if (r < 0)
                return setup_fail(m->setup, r, "identity");
        r = walk_all(m);
        return identity_walk_as_root(m->setup) < 0 ? setup_fail(m->setup, -EPERM, "identity") : r;
}

/* ---- in the guard ---- */

int matches_watch(Matches *m, void (*stop)(void *userdata), void *userdata)
{
        m->is_guard = true;
        m->stop = stop;
        m->userdata = userdata;
        m->n_found = 0;
        m->watch_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
        m->is_blind = m->watch_fd < 0;
        return 0;
}

void matches_serve(Matches *m)
{
        m->is_serving = true;
}

int matches_fd(const Matches *m)
{
        return m->watch_fd;
}

int matches_timeout_msec(const Matches *m)
{
        uint64_t msec = LOOK_SHARE * m->walk_usec / USEC_PER_MSEC;

        return !m->is_blind ? -1 : (int) MIN_OF(MAX_OF(msec, (uint64_t) LOOK_MSEC), (uint64_t) 60000);
}

/* Where the walk stands in a directory; 1: something above it matches already. */
static int places_in(const Matches *m, const char *path, Places *ret, unsigned *ret_depth)
{
        char copy[PLAN_PATH_MAX], *rest = copy, *name;
        int r = 0;

        begin(m, ret);
        *ret_depth = 0;
        if (*path == '\0')
                return 0;
        if (str_copy(copy, sizeof(copy), path) < 0)
                return -ENAMETOOLONG;
        while (r == 0 && (name = strsep(&rest, "/"))) {
                Places next;

                r = step(m, ret, name, &next);
                *ret = next;
                (*ret_depth)++;
        }
        return r;
}

static int take_event(Matches *m, const struct inotify_event *e)
{
        const char *path;
        Places places;
        unsigned depth;
        int fd, r;

        if (e->mask & IN_Q_OVERFLOW)
                m->has_lost = true;
        if (e->wd < 0 || (size_t) e->wd >= m->n_directories || !m->directories[e->wd] || e->len == 0)
                return 0;
        path = m->directories[e->wd];
        r = places_in(m, path, &places, &depth);
        if (r != 0)
                return 0;
        r = open_below(m, path, &fd);
        if (r < 0) {
                /* It has another name now. */
                m->has_lost = true;
                return 0;
        }
        r = look_at(m, fd, &(NameSeen){ e->name, (e->mask & IN_ISDIR) ? DT_DIR : DT_REG }, &places, depth);
        (void) fd_close(fd);
        return r;
}

static int read_events(Matches *m)
{
        _Alignas(struct inotify_event) char buffer[8192];
        int r = 0;

        while (r >= 0) {
                ssize_t n = read(m->watch_fd, buffer, sizeof(buffer));

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return errno == EAGAIN ? 0 : neg_errno();
                for (ssize_t at = 0; r >= 0 && at < n;) {
                        const struct inotify_event *e = (const void *) (buffer + at);

                        r = take_event(m, e);
                        at += (ssize_t) (sizeof(*e) + e->len);
                }
        }
        return r;
}

/* Its modes are the session's to set, as are those of any directory below it: while nothing runs they stand
 * still, and what cannot be listed is masked as a whole. */
static int walk_stopped(Matches *m)
{
        _cleanup_close_ int fd = -EBADF;
        mode_t mode = 0;
        bool is_changed;
        int r;

        m->stop(m->userdata);
        m->path[m->n_workspace] = '\0';
        m->n_entries = 0;
        fd = kernel_openat2(AT_FDCWD, m->path, O_PATH | O_DIRECTORY | O_CLOEXEC,
                            RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
        if (fd < 0)
                return setup_fail(m->setup, neg_errno(), "%s", m->path);
        is_changed = modes_open(fd, &mode);
        r = walk_all(m);
        modes_back(fd, is_changed, mode);
        return r;
}

int matches_look(Matches *m)
{
        int r = 0;

        m->n_entries = 0;
        m->has_lost = m->is_blind;
        if (m->watch_fd >= 0)
                r = read_events(m);
        if (r >= 0 && m->has_lost)
                r = walk_all(m);
        return r == -EACCES ? walk_stopped(m) : r;
}

/* ---- begin and end ---- */

static int take_globs(Matches *m)
{
        const Plan *p = &m->setup->plan;

        for (uint32_t i = 0; i < p->header->n_mounts; i++) {
                const PlanMount *mount = &p->mounts[i];
                int r;

                if (mount->type != PLAN_MASK_MATCHES)
                        continue;
                r = m->n_globs < PLAN_MATCHES_MAX
                                    ? glob_parse(plan_string(p, mount->source), &m->globs[m->n_globs])
                                    : -E2BIG;
                if (r < 0)
                        return setup_fail(m->setup, r, "%s", plan_string(p, mount->source));
                m->n_globs++;
        }
        return 0;
}

int matches_new(Setup *s, Matches **ret)
{
        _cleanup_(matches_freep) Matches *m = calloc(1, sizeof(*m));
        struct stat st;
        int r;

        *ret = NULL;
        if (!m)
                return -ENOMEM;
        m->setup = s;
        m->watch_fd = -EBADF;
        r = take_globs(m);
        if (r < 0 || m->n_globs == 0)
                return r;
        if (fstat(s->mask_fd, &st) < 0)
                return setup_fail(s, neg_errno(), "masks");
        m->mask_device = st.st_dev;
        r = str_copy(m->path, sizeof(m->path), plan_string(&s->plan, s->plan.header->workspace));
        if (r < 0)
                return r;
        m->n_workspace = strlen(m->path);
        *ret = TAKE_PTR(m);
        return 0;
}

Matches *matches_free(Matches *m)
{
        if (!m)
                return NULL;
        for (size_t i = 0; i < m->n_directories; i++)
                free(m->directories[i]);
        free(m->directories);
        (void) fd_close(m->watch_fd);
        free(m);
        return NULL;
}
