#include <errno.h>
#include <linux/magic.h>
#include <sched.h>
#include <string.h>
#include <sys/vfs.h>

#include "daemon/init/setup.h"
#include "daemon/isolate/kernel.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

/*
 * A path is opened twice: by O_PATH to see what it is (opening a device or a FIFO has effects), then for
 * reading, which asks for the caller's right to it; both must be the same object. Cloned is what the second
 * open gave, never the name.
 */

#define RESOLVE (RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)

/* Kernel interfaces: a mount of them would undo the masks of /proc or give what no file should. */
static const uint32_t refused_types[] = {
        PROC_SUPER_MAGIC,
        SYSFS_MAGIC,
        CGROUP_SUPER_MAGIC,
        CGROUP2_SUPER_MAGIC,
        DEVPTS_SUPER_MAGIC,
        DEBUGFS_MAGIC,
        TRACEFS_MAGIC,
        SECURITYFS_MAGIC,
        SELINUX_MAGIC,
        SMACK_MAGIC,
        PSTOREFS_MAGIC,
        EFIVARFS_MAGIC,
        BPF_FS_MAGIC,
        NSFS_MAGIC,
        BINFMTFS_MAGIC,
        BINDERFS_SUPER_MAGIC,
        AUTOFS_SUPER_MAGIC,
        SOCKFS_MAGIC,
        ANON_INODE_FS_MAGIC,
        0x62656570 /* configfs */,
        0x50495045 /* pipefs */,
        0x65735543 /* fusectl */,
        0x19800202 /* mqueue */,
};

static bool is_or_below(const char *path, const char *directory)
{
        size_t n = strlen(directory);

        return strncmp(path, directory, n) == 0 && (path[n] == '\0' || path[n] == '/');
}

/* devtmpfs calls itself a tmpfs: known by its place. */
static bool path_refused(const char *path)
{
        return is_or_below(path, "/proc") || is_or_below(path, "/sys") ||
               (is_or_below(path, "/dev") && !is_or_below(path, "/dev/shm"));
}

static int check_type(int fd)
{
        struct statfs st;

        if (fstatfs(fd, &st) < 0)
                return neg_errno();
        for (size_t i = 0; i < ELEMENTSOF(refused_types); i++) {
                if ((uint32_t) st.f_type == refused_types[i])
                        return -EPERM;
        }
        return 0;
}

static int open_path(const char *path, int *ret_fd, bool *ret_is_directory)
{
        _cleanup_close_ int seen = -EBADF, fd = -EBADF;
        struct stat before, after;
        uint64_t flags = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW | O_CLOEXEC;

        seen = kernel_openat2(AT_FDCWD, path, O_PATH | O_NOFOLLOW | O_CLOEXEC, RESOLVE);
        if (seen < 0 || fstat(seen, &before) < 0)
                return neg_errno();
        if (S_ISLNK(before.st_mode))
                return -ELOOP;
        if (!S_ISDIR(before.st_mode) && !S_ISREG(before.st_mode))
                return -ENOTSUP;
        if (S_ISDIR(before.st_mode))
                flags |= O_DIRECTORY;
        fd = kernel_openat2(AT_FDCWD, path, flags, RESOLVE);
        if (fd < 0 || fstat(fd, &after) < 0)
                return neg_errno();
        if (before.st_dev != after.st_dev || before.st_ino != after.st_ino ||
            (before.st_mode & S_IFMT) != (after.st_mode & S_IFMT))
                return -EAGAIN;
        *ret_is_directory = S_ISDIR(after.st_mode);
        *ret_fd = TAKE_FD(fd);
        return 0;
}

/* Some file systems cannot be idmapped: then only the top one of the tree is shown, or none. */
static int clone_tree(Setup *s, int fd, uint32_t flags, unsigned recursive, int *ret_fd)
{
        struct mount_attr attr = { .attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
                                   .propagation = MS_PRIVATE };
        _cleanup_close_ int clone = -EBADF;

        clone = kernel_open_tree(fd, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | recursive);
        if (clone < 0)
                return neg_errno();
        if (!(flags & PLAN_WRITABLE))
                attr.attr_set |= MOUNT_ATTR_RDONLY;
        if (SETUP_LEAVES_OUT(s, LAYER_MOUNTS))
                attr.attr_set = 0;
        if (flags & PLAN_IDMAP) {
                if (!s->start.is_idmapped)
                        return -EINVAL;
                attr.attr_set |= MOUNT_ATTR_IDMAP;
                attr.userns_fd = (unsigned) s->idmap_fd;
        }
        if (kernel_mount_setattr(clone, recursive, &attr) < 0)
                return neg_errno();
        *ret_fd = TAKE_FD(clone);
        return 0;
}

/* A socket is not opened but connected to, for which one must be able to write to it. */
static int open_socket(const char *path, int *ret_fd)
{
        _cleanup_close_ int fd = kernel_openat2(AT_FDCWD, path, O_PATH | O_NOFOLLOW | O_CLOEXEC, RESOLVE);
        struct stat st;

        if (fd < 0 || fstat(fd, &st) < 0)
                return neg_errno();
        if (!S_ISSOCK(st.st_mode))
                return -ENOTSOCK;
        if (syscall(SYS_faccessat2, fd, "", W_OK, AT_EMPTY_PATH | AT_EACCESS) < 0)
                return neg_errno();
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int source_clone(Setup *s, const char *path, int *ret_fd, bool *ret_is_directory)
{
        _cleanup_close_ int fd = -EBADF;
        bool is_directory;
        int r;

        if (path_refused(path))
                return -EPERM;
        r = identity_lower(s);
        if (r == 0)
                r = open_path(path, &fd, &is_directory);
        if (r == 0)
                r = check_type(fd);
        if (r == 0)
                r = identity_raise(s);
        if (r == 0)
                r = clone_tree(s, fd, 0, AT_RECURSIVE, ret_fd);
        if (r == 0)
                *ret_is_directory = is_directory;
        return r;
}

int source_open_directory(Setup *s, const char *path, int *ret_fd)
{
        _cleanup_close_ int fd = -EBADF;
        bool is_directory;
        int r;

        r = identity_lower(s);
        if (r == 0)
                r = open_path(path, &fd, &is_directory);
        if (r == 0)
                r = is_directory ? check_type(fd) : -ENOTDIR;
        if (r == 0)
                *ret_fd = TAKE_FD(fd);
        return r;
}

/* Whether this file system can be idmapped or not. */
static int clone_all(Setup *s, int fd, uint32_t flags, int *ret_fd)
{
        int r = clone_tree(s, fd, flags, AT_RECURSIVE, ret_fd);

        return r == -EINVAL && (flags & PLAN_IDMAP) ? clone_tree(s, fd, flags, 0, ret_fd) : r;
}

int source_clone_directory(Setup *s, const char *path, int like_fd, uint32_t flags, int *ret_fd)
{
        _cleanup_close_ int fd = -EBADF;
        struct stat found, like;
        int r = path_refused(path) ? -EPERM : source_open_directory(s, path, &fd);

        if (r < 0)
                return r;
        if (fstat(fd, &found) < 0 || fstat(like_fd, &like) < 0)
                return neg_errno();
        if (found.st_dev != like.st_dev || found.st_ino != like.st_ino)
                return -ESTALE;
        r = identity_raise(s);
        return r < 0 ? r : clone_all(s, fd, flags, ret_fd);
}

static int open_and_clone(Setup *s, uint32_t i)
{
        const PlanMount *m = &s->plan.mounts[i];
        const char *path = plan_string(&s->plan, m->source);
        _cleanup_close_ int fd = -EBADF;
        int r;

        if (path_refused(path))
                return -EPERM;
        r = identity_lower(s);
        if (r < 0)
                return r;
        r = m->type == PLAN_SOCKET ? open_socket(path, &fd)
                                   : open_path(path, &fd, &s->source_is_directory[i]);
        if (r == 0)
                r = check_type(fd);
        if (r == 0 && (m->flags & PLAN_WORKSPACE) && !s->source_is_directory[i])
                r = -ENOTDIR;
        if (r < 0)
                return r;
        r = identity_raise(s);
        if (r < 0)
                return r;
        r = clone_all(s, fd, m->flags, &s->sources[i]);
        /* Then it has the owner that it has: whoever may not connect to it outside may not inside. */
        if (r == -EINVAL && m->type == PLAN_SOCKET)
                r = clone_tree(s, fd, m->flags & ~(uint32_t) PLAN_IDMAP, 0, &s->sources[i]);
        return r;
}

static int open_one(Setup *s, uint32_t i)
{
        const PlanMount *m = &s->plan.mounts[i];

        if (m->type == PLAN_COMPOSE)
                return compose_open(s, plan_string(&s->plan, m->source));
        if (m->type == PLAN_REPOSITORY)
                return repository_open(s, i);
        return m->type == PLAN_BIND || m->type == PLAN_SOCKET ? open_and_clone(s, i) : 0;
}

/* Whether the session may start without it. */
static bool may_skip(Setup *s, const PlanMount *m, int r)
{
        if (!(m->flags & (PLAN_OPTIONAL | PLAN_EXEC_TOOLS)))
                return false;
        if (r != -ENOENT && r != -ENOTDIR && r != -EACCES && r != -ELOOP)
                return false;
        if (!(m->flags & PLAN_EXEC_TOOLS))
                setup_missing(s, plan_string(&s->plan, m->source));
        return true;
}

static int open_sources(Setup *s)
{
        int e = identity_become_caller(s);

        if (e < 0)
                return setup_fail(s, e, "identity of the caller");
        for (uint32_t i = 0; i < s->plan.header->n_mounts; i++) {
                const PlanMount *m = &s->plan.mounts[i];
                int r;

                r = open_one(s, i);
                if (r < 0 && !may_skip(s, m, r))
                        return setup_fail(s, r, "%s", plan_string(&s->plan, m->source));
        }
        e = compose_resolve(s);
        return e < 0 ? setup_fail(s, e, "what links hide") : 0;
}

int source_open_all(Setup *s)
{
        int r;

        setup_step(s, "open-paths");
        if (setns(s->host_fd, CLONE_NEWNS) < 0)
                return setup_fail(s, neg_errno(), "host mount namespace");
        s->host_fd = fd_close(s->host_fd);
        r = open_sources(s);
        if (r < 0)
                return r;
        r = identity_return(s);
        if (r < 0)
                return setup_fail(s, r, "identity");
        r = home_clone(s);
        if (r < 0)
                return r;
        if (setns(s->own_fd, CLONE_NEWNS) < 0)
                return setup_fail(s, neg_errno(), "own mount namespace");
        s->own_fd = fd_close(s->own_fd);
        return 0;
}
