#include "daemon/isolate/template.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "daemon/isolate/etc_copy.h"
#include "daemon/isolate/kernel.h"
#include "daemon/isolate/spawn.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

/*
 * A child makes the namespace and waits; the parent takes its descriptor from /proc and lets the child go.
 * The child builds below a fresh tmpfs, with paths relative to it only, and turns it into the root at the
 * end, so that nothing of the host remains but the clones made here. init copies this namespace, builds the
 * session's own root and takes /usr, /opt, /etc and /dev over from here.
 */

typedef struct Node {
        const char *name;
        unsigned minor;
        unsigned major;
} Node;

static const Node nodes[] = {
        { "null", 3, 1 },   { "zero", 5, 1 },    { "full", 7, 1 },
        { "random", 8, 1 }, { "urandom", 9, 1 }, { "tty", 0, 5 },
};

static const char *const links_in_dev[][2] = {
        { "fd", "/proc/self/fd" },       { "stdin", "/proc/self/fd/0" }, { "stdout", "/proc/self/fd/1" },
        { "stderr", "/proc/self/fd/2" }, { "ptmx", "pts/ptmx" },
};

/* Shown as on the host: links to /usr, or directories where /usr is not merged. */
static const char *const system_directories[] = { "bin", "sbin", "lib", "lib32", "lib64", "libx32" };

static const char *const empty_directories[] = { "proc", "sys",  "tmp", "var", "run",
                                                 "home", "root", "mnt", "srv", "media" };

static int tmpfs_mount(const char *size, unsigned attributes, int *ret_fd)
{
        _cleanup_close_ int context = kernel_fsopen("tmpfs");
        int fd;

        if (context < 0)
                return neg_errno();
        if (kernel_fsconfig_string(context, "source", "sandboxd") < 0 ||
            kernel_fsconfig_string(context, "mode", "0755") < 0 ||
            kernel_fsconfig_string(context, "size", size) < 0 || kernel_fsconfig_create(context) < 0)
                return neg_errno();
        fd = kernel_fsmount(context, attributes);
        if (fd < 0)
                return neg_errno();
        *ret_fd = fd;
        return 0;
}

static int attach(int mount_fd, int root_fd, const char *name)
{
        _cleanup_close_ int target = -EBADF;

        if (mkdirat(root_fd, name, 0755) < 0 && errno != EEXIST)
                return neg_errno();
        target = openat(root_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        if (target < 0)
                return neg_errno();
        if (kernel_move_mount(mount_fd, target) < 0)
                return neg_errno();
        return 0;
}

/* Makes what lies at the host's path visible under the same name, read-only. */
static int show(int root_fd, const char *path)
{
        struct mount_attr attr = { .attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
                                   .propagation = MS_PRIVATE };
        _cleanup_close_ int fd = kernel_open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | AT_RECURSIVE);

        if (fd < 0)
                return neg_errno();
        if (kernel_mount_setattr(fd, AT_RECURSIVE, &attr) < 0)
                return neg_errno();
        return attach(fd, root_fd, path + 1);
}

static int show_system(int root_fd, const char *name)
{
        char path[16], target[64];
        struct stat st;
        ssize_t n;
        int r;

        r = str_printf(path, sizeof(path), "/%s", name);
        if (r < 0)
                return r;
        if (lstat(path, &st) < 0)
                return errno == ENOENT ? 0 : neg_errno();
        if (S_ISDIR(st.st_mode))
                return show(root_fd, path);
        if (!S_ISLNK(st.st_mode))
                return 0;
        n = readlink(path, target, sizeof(target) - 1);
        if (n < 0)
                return neg_errno();
        target[n] = '\0';
        if (symlinkat(target, root_fd, name) < 0)
                return neg_errno();
        return 0;
}

/* Without CAP_MKNOD the host's node is bound instead, if it is what it should be. */
static int bind_node(int dev_fd, const Node *node)
{
        _cleanup_close_ int source = -EBADF, clone = -EBADF, target = -EBADF;
        char path[32];
        struct stat st;
        int r;

        r = str_printf(path, sizeof(path), "/dev/%s", node->name);
        if (r < 0)
                return r;
        source = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        if (source < 0 || fstat(source, &st) < 0)
                return neg_errno();
        if (!S_ISCHR(st.st_mode) || st.st_rdev != makedev(node->major, node->minor))
                return -ENODEV;
        clone = kernel_open_tree(source, "", AT_EMPTY_PATH | OPEN_TREE_CLONE);
        target = openat(dev_fd, node->name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0666);
        if (clone < 0 || target < 0 || kernel_move_mount(clone, target) < 0)
                return neg_errno();
        return 0;
}

static int make_node(int dev_fd, const Node *node)
{
        if (mknodat(dev_fd, node->name, S_IFCHR | 0666, makedev(node->major, node->minor)) < 0)
                return errno == EPERM ? bind_node(dev_fd, node) : neg_errno();
        /* Created under the umask of whoever started us. */
        if (fchmodat(dev_fd, node->name, 0666, 0) < 0)
                return neg_errno();
        return 0;
}

static int make_dev(int root_fd)
{
        _cleanup_close_ int fd = -EBADF;
        struct mount_attr attr = { .attr_set = MOUNT_ATTR_RDONLY };
        int r;

        r = tmpfs_mount("64k", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, &fd);
        if (r < 0)
                return r;
        r = attach(fd, root_fd, "dev");
        if (r < 0)
                return r;
        for (size_t i = 0; i < ELEMENTSOF(nodes); i++) {
                r = make_node(fd, &nodes[i]);
                if (r < 0)
                        return r;
        }
        for (size_t i = 0; i < ELEMENTSOF(links_in_dev); i++) {
                if (symlinkat(links_in_dev[i][1], fd, links_in_dev[i][0]) < 0)
                        return neg_errno();
        }
        if (mkdirat(fd, "pts", 0755) < 0 || mkdirat(fd, "shm", 0755) < 0)
                return neg_errno();
        /* Devices are still written to: read-only concerns the names. */
        if (kernel_mount_setattr(fd, 0, &attr) < 0)
                return neg_errno();
        return 0;
}

static int make_etc(int root_fd)
{
        struct mount_attr attr = { .attr_set = MOUNT_ATTR_RDONLY };
        _cleanup_close_ int fd = -EBADF;
        int r;

        r = tmpfs_mount("64m", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, &fd);
        if (r < 0)
                return r;
        r = etc_copy(fd);
        if (r < 0)
                return r;
        if (kernel_mount_setattr(fd, 0, &attr) < 0)
                return neg_errno();
        return attach(fd, root_fd, "etc");
}

static int populate(int root_fd)
{
        struct stat st;
        int r;

        for (size_t i = 0; i < ELEMENTSOF(empty_directories); i++) {
                if (mkdirat(root_fd, empty_directories[i], 0755) < 0)
                        return neg_errno();
        }
        r = show(root_fd, "/usr");
        if (r < 0)
                return log_error(r, "template: /usr");
        if (stat("/opt", &st) == 0) {
                r = show(root_fd, "/opt");
                if (r < 0)
                        return log_error(r, "template: /opt");
        }
        for (size_t i = 0; i < ELEMENTSOF(system_directories); i++) {
                r = show_system(root_fd, system_directories[i]);
                if (r < 0)
                        return log_error(r, "template: /%s", system_directories[i]);
        }
        r = make_dev(root_fd);
        if (r < 0)
                return log_error(r, "template: /dev");
        r = make_etc(root_fd);
        if (r < 0)
                return log_error(r, "template: /etc");
        return 0;
}

/* Nothing of the host is left once the old root is detached from below the new one. */
static int enter_root(int root_fd)
{
        struct mount_attr attr = { .attr_set = MOUNT_ATTR_RDONLY };

        if (fchdir(root_fd) < 0 || kernel_pivot_root(".", ".") < 0 || kernel_umount2(".", MNT_DETACH) < 0)
                return neg_errno();
        if (kernel_mount_setattr(root_fd, 0, &attr) < 0)
                return neg_errno();
        return 0;
}

static int build(void)
{
        struct mount_attr private = { .propagation = MS_PRIVATE };
        _cleanup_close_ int host = -EBADF, place = -EBADF, root_fd = -EBADF;
        int r;

        (void) umask(0022);
        host = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (host < 0 || kernel_mount_setattr(host, AT_RECURSIVE, &private) < 0)
                return neg_errno();
        r = tmpfs_mount("1m", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, &root_fd);
        if (r < 0)
                return r;
        /* Attached before it is filled: kernels up to 6.12 take no mounts on a detached tree. */
        place = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (place < 0 || kernel_move_mount(root_fd, place) < 0)
                return neg_errno();
        r = populate(root_fd);
        if (r < 0)
                return r;
        return enter_root(root_fd);
}

_noreturn_ static void child(int pipe_fd)
{
        int r = build();
        char c;

        if (write(pipe_fd, &r, sizeof(r)) != (ssize_t) sizeof(r) || r < 0)
                _exit(1);
        /* The parent opens our namespace meanwhile, and then kills us. */
        while (read(pipe_fd, &c, 1) < 0 && errno == EINTR)
                ;
        _exit(0);
}

static int take_namespace(pid_t pid, int socket_fd, int *ret_fd)
{
        ssize_t n;
        int r;

        do
                n = read(socket_fd, &r, sizeof(r));
        while (n < 0 && errno == EINTR);
        if (n != (ssize_t) sizeof(r))
                return -EIO;
        if (r < 0)
                return r;
        return spawn_open_namespace(pid, "mnt", ret_fd);
}

int template_new(int *ret_fd)
{
        struct clone_args args = { .flags = CLONE_NEWNS, .exit_signal = SIGCHLD };
        int sockets[2], r;
        pid_t pid;

        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) < 0)
                return neg_errno();
        pid = kernel_clone3(&args);
        if (pid == 0) {
                (void) fd_close(sockets[0]);
                child(sockets[1]);
        }
        r = pid < 0 ? neg_errno() : 0;
        (void) fd_close(sockets[1]);
        if (r == 0)
                r = take_namespace(pid, sockets[0], ret_fd);
        (void) fd_close(sockets[0]);
        if (pid > 0)
                (void) waitpid(pid, NULL, 0);
        return r;
}
