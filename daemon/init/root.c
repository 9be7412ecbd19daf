#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "daemon/init/setup.h"
#include "daemon/isolate/kernel.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

#define MASK_ATTRIBUTES (MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)

typedef struct OwnDirectory {
        const char *path;
        mode_t mode;
} OwnDirectory;

/* Below the root that the template's names made. */
static const OwnDirectory own_directories[] = {
        { "var/tmp", 0755 },   { "var/lib", 0755 },  { "var/cache", 0755 },   { "var/log", 0755 },
        { "var/spool", 0755 }, { "run/lock", 0755 }, { "run/sandbox", 0755 }, { "run/sandbox/mask", 0755 },
};

const char *const root_proc_empty[] = {
        "kallsyms",    "keys",         "key-users",     "kcore",         "kmsg",      "kpagecount",
        "kpageflags",  "kpagecgroup",  "timer_list",    "sched_debug",   "schedstat", "slabinfo",
        "vmallocinfo", "pagetypeinfo", "interrupts",    "softirqs",      "iomem",     "ioports",
        "modules",     "config.gz",    "latency_stats", "sysrq-trigger", "cmdline",   "acpi",
        "asound",      "scsi",         "driver",        "tty",           "bus",       NULL,
};

const char *const root_proc_read_only[] = { "sys", "irq", "fs", NULL };

int root_enter_namespaces(Setup *s)
{
        setup_step(s, "namespaces");
        if (setns(s->template_fd, CLONE_NEWNS) < 0)
                return setup_fail(s, neg_errno(), "template mount namespace");
        if (unshare(CLONE_NEWNS) < 0)
                return setup_fail(s, neg_errno(), "mount namespace");
        if (!SETUP_LEAVES_OUT(s, LAYER_CGROUP) && unshare(CLONE_NEWCGROUP) < 0)
                return setup_fail(s, neg_errno(), "cgroup namespace");
        if (!SETUP_LEAVES_OUT(s, LAYER_NETWORK) && setns(s->network_fd, CLONE_NEWNET) < 0)
                return setup_fail(s, neg_errno(), "network namespace");
        s->template_fd = fd_close(s->template_fd);
        s->network_fd = fd_close(s->network_fd);
        return 0;
}

static int context_mount(const char *type, const char *const options[], unsigned attributes, int *ret_fd)
{
        _cleanup_close_ int context = kernel_fsopen(type);
        int fd;

        if (context < 0)
                return neg_errno();
        for (size_t i = 0; options[i]; i += 2) {
                if (kernel_fsconfig_string(context, options[i], options[i + 1]) < 0)
                        return neg_errno();
        }
        if (kernel_fsconfig_create(context) < 0)
                return neg_errno();
        fd = kernel_fsmount(context, attributes);
        if (fd < 0)
                return neg_errno();
        *ret_fd = fd;
        return 0;
}

int root_tmpfs_new(Setup *s, const char *const options[], unsigned attributes, int *ret_fd)
{
        _cleanup_close_ int fd = -EBADF;
        struct stat st;
        int r;

        if (s->n_devices >= SETUP_DEVICES_MAX)
                return -E2BIG;
        r = context_mount("tmpfs", options, attributes, &fd);
        if (r < 0)
                return r;
        if (fstat(fd, &st) < 0)
                return neg_errno();
        s->devices[s->n_devices++] = st.st_dev;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static int attach_at(int mount_fd, int directory_fd, const char *name)
{
        _cleanup_close_ int target = openat(directory_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);

        if (target < 0 || kernel_move_mount(mount_fd, target) < 0)
                return neg_errno();
        return 0;
}

/* A link is made again, a directory too; a mount of the template moves over. */
static int take_over_entry(const Setup *s, int from_fd, const char *name, dev_t template_device)
{
        _cleanup_close_ int mount = -EBADF;
        char target[256];
        struct stat st;
        ssize_t n;

        if (fstatat(from_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return neg_errno();
        if (S_ISLNK(st.st_mode)) {
                n = readlinkat(from_fd, name, target, sizeof(target) - 1);
                if (n < 0)
                        return neg_errno();
                target[n] = '\0';
                return symlinkat(target, s->root_fd, name) < 0 ? neg_errno() : 0;
        }
        if (!S_ISDIR(st.st_mode))
                return 0;
        if (mkdirat(s->root_fd, name, 0755) < 0)
                return neg_errno();
        /* The new root itself stands on one of the template's directories. */
        if (st.st_dev == template_device || st.st_dev == s->root_device)
                return 0;
        mount = kernel_open_tree(from_fd, name, 0);
        if (mount < 0)
                return neg_errno();
        return attach_at(mount, s->root_fd, name);
}

static int take_over(const Setup *s)
{
        const struct dirent *e;
        struct stat st;
        int r = 0;
        DIR *d;

        d = opendir("/");
        if (!d)
                return neg_errno();
        if (fstat(dirfd(d), &st) < 0)
                r = neg_errno();
        while (r == 0 && (e = readdir(d))) {
                if (!str_equal(e->d_name, ".") && !str_equal(e->d_name, ".."))
                        r = take_over_entry(s, dirfd(d), e->d_name, st.st_dev);
        }
        (void) closedir(d);
        return r;
}

static int make_file(int directory_fd, const char *name, mode_t mode)
{
        _cleanup_close_ int fd = openat(directory_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);

        return fd < 0 ? neg_errno() : 0;
}

/* The mount of this directory is read-only, and so is every clone of what lies in it. */
static int build_masks(Setup *s)
{
        struct mount_attr attr = { .attr_set = MASK_ATTRIBUTES };
        _cleanup_close_ int directory = -EBADF;
        int r;

        directory = openat(s->root_fd, "run/sandbox/mask", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (directory < 0)
                return neg_errno();
        r = make_file(directory, "file", 0444);
        if (r == 0)
                r = make_file(directory, "denied", 0000);
        if (r < 0)
                return r;
        if (mkdirat(directory, "directory", 0555) < 0 || mkdirat(directory, "denied.d", 0000) < 0)
                return neg_errno();
        s->mask_fd = kernel_open_tree(directory, "", AT_EMPTY_PATH | OPEN_TREE_CLONE);
        if (s->mask_fd < 0 || kernel_mount_setattr(s->mask_fd, 0, &attr) < 0)
                return neg_errno();
        return kernel_move_mount(s->mask_fd, directory) < 0 ? neg_errno() : 0;
}

static int populate(Setup *s)
{
        for (size_t i = 0; i < ELEMENTSOF(own_directories); i++) {
                if (mkdirat(s->root_fd, own_directories[i].path, own_directories[i].mode) < 0)
                        return neg_errno();
        }
        if (symlinkat("/run", s->root_fd, "var/run") < 0 ||
            symlinkat("/run/lock", s->root_fd, "var/lock") < 0)
                return neg_errno();
        return build_masks(s);
}

/* The kernel counts terminals of all instances together: a session that took them all would take them from
 * others. */
#define TERMINALS_MAX "128"

static int build_pts(Setup *s)
{
        static const char *const options[] = {
                "ptmxmode", "0666", "mode", "0620", "max", TERMINALS_MAX, NULL
        };
        _cleanup_close_ int fd = -EBADF;
        int r;

        r = context_mount("devpts", options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, &fd);
        if (r < 0)
                return r;
        return attach_at(fd, s->root_fd, "dev/pts");
}

int root_build(Setup *s)
{
        static const char *const options[] = { "source", "sandbox", "mode", "0755", "size", "4m", NULL };
        int r;

        setup_step(s, "root");
        r = root_tmpfs_new(s, options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, &s->root_fd);
        if (r < 0)
                return setup_fail(s, r, "tmpfs");
        s->root_device = s->devices[s->n_devices - 1];
        r = attach_at(s->root_fd, AT_FDCWD, "/mnt");
        if (r < 0)
                return setup_fail(s, r, "attach");
        r = take_over(s);
        if (r < 0)
                return setup_fail(s, r, "template");
        r = populate(s);
        if (r < 0)
                return setup_fail(s, r, "own directories");
        r = build_pts(s);
        if (r < 0)
                return setup_fail(s, r, "devpts");
        if (fchdir(s->root_fd) < 0 || kernel_pivot_root(".", ".") < 0 || kernel_umount2(".", MNT_DETACH) < 0)
                return setup_fail(s, neg_errno(), "pivot_root");
        return 0;
}

static int mask_proc_entry(Setup *s, int proc_fd, const char *name)
{
        _cleanup_close_ int target = -EBADF, mask = -EBADF;
        struct stat st;

        target = openat(proc_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        if (target < 0)
                return errno == ENOENT ? 0 : neg_errno();
        if (fstat(target, &st) < 0)
                return neg_errno();
        mask = kernel_open_tree(s->mask_fd, S_ISDIR(st.st_mode) ? "directory" : "file", OPEN_TREE_CLONE);
        if (mask < 0 || kernel_move_mount(mask, target) < 0)
                return neg_errno();
        return 0;
}

static int close_proc_entry(int proc_fd, const char *name)
{
        struct mount_attr attr = { .attr_set = MASK_ATTRIBUTES };
        _cleanup_close_ int clone = kernel_open_tree(proc_fd, name, OPEN_TREE_CLONE);

        if (clone < 0)
                return errno == ENOENT ? 0 : neg_errno();
        if (kernel_mount_setattr(clone, 0, &attr) < 0)
                return neg_errno();
        return attach_at(clone, proc_fd, name);
}

int root_build_proc(Setup *s)
{
        static const char *const options[] = { NULL };
        const unsigned attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
        _cleanup_close_ int proc = -EBADF;
        int r;

        setup_step(s, "proc");
        r = context_mount("proc", options, attributes, &proc);
        if (r == 0)
                r = context_mount("proc", options, attributes, &s->proc_fd);
        if (r == 0)
                r = attach_at(proc, s->root_fd, "proc");
        if (r < 0)
                return setup_fail(s, r, "mount");
        for (size_t i = 0; root_proc_empty[i] && !SETUP_LEAVES_OUT(s, LAYER_MASKS); i++) {
                r = mask_proc_entry(s, proc, root_proc_empty[i]);
                if (r < 0)
                        return setup_fail(s, r, "/proc/%s", root_proc_empty[i]);
        }
        for (size_t i = 0; root_proc_read_only[i] && !SETUP_LEAVES_OUT(s, LAYER_MASKS); i++) {
                r = close_proc_entry(proc, root_proc_read_only[i]);
                if (r < 0)
                        return setup_fail(s, r, "/proc/%s", root_proc_read_only[i]);
        }
        s->own_fd = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
        if (s->own_fd < 0)
                return setup_fail(s, neg_errno(), "own namespace");
        return 0;
}

/* Existing files may be written to (terminals, /proc/self/comm); nothing is made there. */
int root_allow_fixed(Setup *s)
{
        static const char *const paths[] = { "/dev", "/proc" };

        setup_step(s, "landlock");
        for (size_t i = 0; i < ELEMENTSOF(paths); i++) {
                _cleanup_close_ int fd = open(paths[i], O_PATH | O_DIRECTORY | O_CLOEXEC);
                int r;

                if (fd < 0)
                        return setup_fail(s, neg_errno(), "%s", paths[i]);
                r = layers_allow(s, fd, LANDLOCK_ACCESS_FS_WRITE_FILE);
                if (r < 0)
                        return setup_fail(s, r, "%s", paths[i]);
        }
        return 0;
}

int root_seal(Setup *s)
{
        struct mount_attr attr = { .attr_set = MOUNT_ATTR_RDONLY };

        setup_step(s, "read-only root");
        if (SETUP_LEAVES_OUT(s, LAYER_MOUNTS))
                return 0;
        if (kernel_mount_setattr(s->root_fd, 0, &attr) < 0)
                return setup_fail(s, neg_errno(), "mount_setattr");
        for (size_t i = 0; i < s->n_sealed; i++) {
                if (kernel_mount_setattr(s->sealed[i], 0, &attr) < 0)
                        return setup_fail(s, neg_errno(), "mount_setattr");
                s->sealed[i] = fd_close(s->sealed[i]);
        }
        s->n_sealed = 0;
        return 0;
}
