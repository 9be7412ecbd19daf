#include "daemon/isolate/worktree.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/isolate/kernel.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

#define RESOLVE        (RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)
#define RESOLVE_INSIDE (RESOLVE | RESOLVE_BENEATH | RESOLVE_NO_XDEV)
#define GITDIR         "gitdir: "
#define FOLDER         "/worktrees"

static int open_at(int directory_fd, const char *path, uint64_t flags, uint64_t resolve)
{
        int fd = kernel_openat2(directory_fd, path, flags | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
                                resolve);

        return fd < 0 ? neg_errno() : fd;
}

static int open_path(int directory_fd, const char *path, uint64_t flags, uint64_t resolve)
{
        int fd = kernel_openat2(directory_fd, path, flags | O_PATH | O_NOFOLLOW | O_CLOEXEC, resolve);

        return fd < 0 ? neg_errno() : fd;
}

static bool is_same(int a, int b)
{
        struct stat x, y;

        return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* Of that type, and the owner's. */
static bool is_of(int fd, mode_t type, uid_t owner)
{
        struct stat st;

        return fstat(fd, &st) == 0 && (st.st_mode & S_IFMT) == type && st.st_uid == owner;
}

/* Where it is now, as the kernel says. What was removed has a name that is nobody's. */
static int path_of(int fd, char path[WORKTREE_PATH_MAX])
{
        char link[32];
        ssize_t n;
        int r = str_printf(link, sizeof(link), "/proc/self/fd/%d", fd);

        if (r < 0)
                return r;
        n = readlink(link, path, WORKTREE_PATH_MAX - 1);
        if (n < 0)
                return neg_errno();
        if (n >= (ssize_t) WORKTREE_PATH_MAX - 1 || path[0] != '/')
                return -ENAMETOOLONG;
        path[n] = '\0';
        return 0;
}

static int read_text(int fd, char line[WORKTREE_PATH_MAX])
{
        ssize_t n = read(fd, line, WORKTREE_PATH_MAX - 1);

        if (n < 0)
                return neg_errno();
        if (n >= (ssize_t) WORKTREE_PATH_MAX - 1)
                return -EFBIG;
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
                n--;
        line[n] = '\0';
        for (ssize_t i = 0; i < n; i++)
                if ((unsigned char) line[i] < ' ' || line[i] == 0x7f)
                        return -EBADMSG;
        return n > 0 ? 0 : -EBADMSG;
}

/* The one line of a file: seen first, as opening a FIFO or a device has effects. */
static int read_line(int directory_fd, const char *name, uid_t owner, char line[WORKTREE_PATH_MAX])
{
        _cleanup_close_ int seen = open_path(directory_fd, name, 0, RESOLVE_INSIDE), fd = -EBADF;

        if (seen < 0)
                return seen;
        if (!is_of(seen, S_IFREG, owner))
                return -EPERM;
        fd = open_at(directory_fd, name, O_RDONLY, RESOLVE_INSIDE);
        if (fd < 0)
                return fd;
        return is_same(seen, fd) ? read_text(fd, line) : -EAGAIN;
}

/* ---- the two sides ---- */

typedef struct Look {
        const char *folder;
        int file_fd; /* its .git */
        uid_t owner;
        char line[WORKTREE_PATH_MAX];
        char path[WORKTREE_PATH_MAX];
} Look;

/* From the directory of the worktree's to the repository that it lies in: by what the kernel calls it, not
 * by what any text says. */
static int open_repository(int entry_fd, Worktree *w)
{
        _cleanup_close_ int again = -EBADF;
        char below[sizeof(FOLDER) + WORKTREE_NAME_MAX];
        char *name;
        int r = path_of(entry_fd, w->repository);

        if (r < 0)
                return r;
        name = strrchr(w->repository, '/');
        *name++ = '\0';
        r = str_copy(w->name, sizeof(w->name), name);
        if (r < 0)
                return r;
        if (!str_has_suffix(w->repository, FOLDER) || str_equal(w->repository, FOLDER))
                return -ENOENT;
        w->repository[strlen(w->repository) - strlen(FOLDER)] = '\0';
        r = str_printf(below, sizeof(below), "%s/%s", &FOLDER[1], w->name);
        if (r < 0)
                return r;
        w->fd = open_path(AT_FDCWD, w->repository, O_DIRECTORY, RESOLVE);
        if (w->fd < 0)
                return w->fd;
        again = open_path(w->fd, below, O_DIRECTORY, RESOLVE_INSIDE);
        return again >= 0 && is_same(again, entry_fd) ? 0 : -ESTALE;
}

static bool names_repository(int entry_fd, const Worktree *w, Look *l)
{
        _cleanup_close_ int fd = -EBADF;

        if (read_line(entry_fd, "commondir", l->owner, l->line) < 0)
                return false;
        fd = open_path(entry_fd, l->line, O_DIRECTORY, RESOLVE);
        return fd >= 0 && is_same(fd, w->fd);
}

/* Also by its path: the same file may have another name elsewhere. */
static bool names_folder(int entry_fd, Look *l)
{
        _cleanup_close_ int fd = -EBADF;
        size_t n = strlen(l->folder);

        if (read_line(entry_fd, "gitdir", l->owner, l->line) < 0)
                return false;
        fd = open_path(entry_fd, l->line, 0, RESOLVE);
        return fd >= 0 && is_same(fd, l->file_fd) && path_of(fd, l->path) >= 0 &&
               strncmp(l->path, l->folder, n) == 0 && str_equal(l->path + n, "/.git");
}

static bool has(int directory_fd, const char *name, mode_t type, uid_t owner)
{
        _cleanup_close_ int fd = open_path(directory_fd, name, 0, RESOLVE_INSIDE);

        return fd >= 0 && is_of(fd, type, owner);
}

static bool is_repository(int fd, uid_t owner)
{
        return is_of(fd, S_IFDIR, owner) && has(fd, "HEAD", S_IFREG, owner) &&
               has(fd, "config", S_IFREG, owner) && has(fd, "objects", S_IFDIR, owner) &&
               has(fd, "refs", S_IFDIR, owner) && has(fd, &FOLDER[1], S_IFDIR, owner);
}

static int check(int entry_fd, const Worktree *w, Look *l, const char **ret_why)
{
        if (!is_of(entry_fd, S_IFDIR, l->owner) || !is_repository(w->fd, l->owner)) {
                *ret_why = "what .git names is no repository, or another user's";
                return -EPERM;
        }
        if (!names_repository(entry_fd, w, l)) {
                *ret_why = "its commondir does not name the repository that it lies in";
                return -EPERM;
        }
        if (!names_folder(entry_fd, l)) {
                *ret_why = "the repository does not name this folder as the worktree (git worktree repair)";
                return -EPERM;
        }
        return 1;
}

int worktree_resolve(const char *folder, uid_t owner, Worktree *ret, const char **ret_why)
{
        _cleanup_close_ int folder_fd = -EBADF, file = -EBADF, entry = -EBADF;
        Look l;
        struct stat st;
        int r;

        l.folder = folder;
        l.owner = owner;
        ret->fd = -EBADF;
        ret->repository[0] = ret->name[0] = '\0';
        *ret_why = NULL;
        folder_fd = open_path(AT_FDCWD, folder, O_DIRECTORY, RESOLVE);
        file = folder_fd < 0 ? folder_fd : open_path(folder_fd, ".git", 0, RESOLVE_INSIDE);
        if (file < 0 || fstat(file, &st) < 0 || !S_ISREG(st.st_mode))
                return 0;
        l.file_fd = file;
        r = read_line(folder_fd, ".git", owner, l.line);
        if (r < 0 || !str_has_prefix(l.line, GITDIR)) {
                *ret_why = "its .git is no file of git's, or another user's";
                return r < 0 ? r : -EBADMSG;
        }
        entry = open_path(folder_fd, l.line + strlen(GITDIR), O_DIRECTORY, RESOLVE);
        r = entry < 0 ? entry : open_repository(entry, ret);
        if (r < 0)
                *ret_why = r == -ENOENT ? "its .git names no worktree of a repository"
                                        : "what its .git names cannot be opened, or only through a link";
        else
                r = check(entry, ret, &l, ret_why);
        if (r < 0)
                ret->fd = fd_close(ret->fd);
        return r;
}
