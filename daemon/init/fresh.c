/*
 * What git itself writes at protected places of a repository that begins in the session: `git init`, `git
 * submodule add`. Such a file stays the session's as long as it says nothing that anybody outside would run
 * or follow (harmless.h): each change of it is a look, and a file that somebody has open for writing is none
 * that was looked at, which a lease tells. Whoever has the name of such a file from the host's side is no
 * longer the session.
 */

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>

#include "daemon/init/harmless.h"
#include "daemon/init/protect.h"
#include "daemon/isolate/kernel.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

#define CHANGES (IN_OPEN | IN_MODIFY | IN_ATTRIB | IN_CLOSE_WRITE | IN_MOVE_SELF | IN_DELETE_SELF)

typedef struct FreshFile {
        char *path;
        int fd; /* to read, and to ask for a lease; -EBADF: a directory */
        int watch;
} FreshFile;

struct Fresh {
        int inotify_fd;
        FreshFile files[PROTECT_FRESH_MAX];
        size_t n;
};

int fresh_fd(const Fresh *f)
{
        return f ? f->inotify_fd : -EBADF;
}

bool fresh_is_known(const Fresh *f, const char *path)
{
        for (size_t i = 0; f && i < f->n; i++)
                if (str_equal(f->files[i].path, path))
                        return true;
        return false;
}

static void drop(Fresh *f, size_t i)
{
        FreshFile *file = &f->files[i];

        /* Of an inode that is gone it went by itself. */
        if (file->fd >= 0)
                (void) inotify_rm_watch(f->inotify_fd, file->watch);
        (void) fd_close(file->fd);
        free(file->path);
        *file = f->files[--f->n];
}

void fresh_forget(Fresh *f, const char *path)
{
        for (size_t i = 0; f && i < f->n; i++)
                if (str_equal(f->files[i].path, path)) {
                        drop(f, i);
                        return;
                }
}

/* The kernel gives a lease for reading only where nobody can write: no descriptor, no mapping. */
static bool is_being_written(int fd)
{
        if (fcntl(fd, F_SETLEASE, F_RDLCK) < 0)
                return true;
        return fcntl(fd, F_SETLEASE, F_UNLCK) < 0;
}

static int open_inotify(Protect *p)
{
        if (p->fresh)
                return 0;
        p->fresh = calloc(1, sizeof(*p->fresh));
        if (!p->fresh)
                return -ENOMEM;
        p->fresh->inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
        if (p->fresh->inotify_fd < 0) {
                free(p->fresh);
                p->fresh = NULL;
                return neg_errno();
        }
        return 0;
}

static int remember(Protect *p, const char *path, int take_fd)
{
        FreshFile *file;
        char link[32];
        int r = open_inotify(p);

        if (r >= 0 && p->fresh->n >= PROTECT_FRESH_MAX)
                r = -E2BIG;
        if (r >= 0)
                r = str_printf(link, sizeof(link), "/proc/self/fd/%d", take_fd);
        if (r >= 0) {
                file = &p->fresh->files[p->fresh->n];
                file->fd = take_fd;
                file->watch = take_fd < 0 ? -1 : inotify_add_watch(p->fresh->inotify_fd, link, CHANGES);
                r = take_fd >= 0 && file->watch < 0 ? neg_errno() : str_dup(path, &file->path);
        }
        if (r < 0) {
                (void) fd_close(take_fd);
                return r;
        }
        p->fresh->n++;
        return 0;
}

static int judge(const Protect *p, const Place *place, const ProtectRule *rule, const char *path, int fd)
{
        static char text[HARMLESS_SIZE_MAX + 1];
        char full[PLAN_PATH_MAX];
        ssize_t n = is_being_written(fd) ? -1 : pread(fd, text, sizeof(text), 0);
        int r = protect_full(p, path, full, sizeof(full));

        if (n < 0 || r < 0)
                return -EPERM;
        return rule->fresh == FRESH_MODULES ? harmless_modules(text, (size_t) n, p->plan)
                                            : harmless_config(text, (size_t) n, p->plan,
                                                              place->is_in_modules ? full : NULL);
}

/* Watched first, then read: what changes from then on is another look. Of the last one's watch nothing is
 * left, which would tell of this one. */
static int take_config(Protect *p, const Place *place, const ProtectRule *rule, const char *name,
                       const char *path)
{
        struct stat st;
        int fd, r;

        fresh_forget(p->fresh, path);
        fd = protect_open(place->fd, name, O_RDONLY | O_NONBLOCK | O_NOCTTY);
        if (fd < 0)
                return fd;
        if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_nlink != 1 || (st.st_mode & 07000)) {
                (void) fd_close(fd);
                return -EPERM;
        }
        r = remember(p, path, fd);
        if (r < 0)
                return r;
        r = judge(p, place, rule, path, fd);
        if (r < 0)
                fresh_forget(p->fresh, path);
        return r;
}

/* git runs none whose name ends so; with its own templates come some. */
static int look_at_hooks(int directory_fd)
{
        const struct dirent *e;
        DIR *d;
        int r = protect_list(directory_fd, &d);

        if (r < 0)
                return r;
        while (r >= 0 && (e = readdir(d)))
                if (!str_equal(e->d_name, ".") && !str_equal(e->d_name, "..") &&
                    (e->d_type != DT_REG || !str_has_suffix(e->d_name, FRESH_SAMPLE)))
                        r = -EPERM;
        (void) closedir(d);
        return r;
}

static int take_hooks(Protect *p, const Place *place, const ProtectRule *rule, const char *name,
                      const char *path)
{
        _cleanup_close_ int fd = protect_open(place->fd, name, O_RDONLY | O_DIRECTORY | O_NONBLOCK);
        int r;

        if (fd < 0)
                return fd;
        r = watch_add(p->watch, rule, fd, path, 0);
        if (r >= 0)
                r = look_at_hooks(fd);
        if (r >= 0 && !fresh_is_known(p->fresh, path))
                r = remember(p, path, -EBADF);
        if (r < 0)
                fresh_forget(p->fresh, path);
        return r;
}

int fresh_take(Protect *p, const Place *place, const ProtectRule *rule, const char *name, const char *path)
{
        /* Without a watch nobody knows whose it is. */
        if (!p->watch)
                return -EPERM;
        return rule->fresh == FRESH_HOOKS ? take_hooks(p, place, rule, name, path)
                                          : take_config(p, place, rule, name, path);
}

/* What was opened to be read changes nothing: git does it all the time. */
bool fresh_read(Fresh *f)
{
        char events[4096];
        bool is_changed = false, is_opened = false;
        ssize_t n;

        while (f && (n = read(f->inotify_fd, events, sizeof(events))) > 0)
                for (ssize_t at = 0; at + (ssize_t) sizeof(struct inotify_event) <= n;) {
                        struct inotify_event e;

                        memcpy(&e, events + at, sizeof(e));
                        at += (ssize_t) sizeof(e) + e.len;
                        is_changed = is_changed || (e.mask & ~(uint32_t) IN_OPEN & ~(uint32_t) IN_IGNORED);
                        is_opened = is_opened || (e.mask & IN_OPEN);
                }
        for (size_t i = 0; is_opened && !is_changed && i < f->n; i++)
                is_changed = f->files[i].fd >= 0 && is_being_written(f->files[i].fd);
        return is_changed;
}
