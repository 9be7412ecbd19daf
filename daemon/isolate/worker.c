#include "daemon/isolate/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"

#if defined(__SANITIZE_ADDRESS__)
#include "daemon/isolate/sanitizer.h"
#endif

/*
 * A worker starts as root in namespaces of its own and becomes nobody in particular before it reads its
 * first byte. Each step needs rights that a later one takes away, so the order matters:
 * - directories are cloned by descriptor while the host's tree is still there, then the tree goes;
 * - the bounding set and securebits need CAP_SETPCAP, so they come before the ids;
 * - SECBIT_NO_SETUID_FIXUP keeps the kernel from clearing capabilities at setresuid(): capset() does it;
 * - changing ids clears the parent-death signal, so that comes after;
 * - the filter comes last, because the steps before it are what it forbids.
 */

#define WORKER_DIRECTORIES_MAX 8U
#define WORKER_SECUREBITS                                                                                \
        (SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED | \
         SECBIT_KEEP_CAPS_LOCKED)

/* Any existing directory of the host: the new root sits on it until it becomes the root. */
#define WORKER_MOUNT_POINT "/usr"

/* What the C library needs to end, to return from signals and to say why. */
static const int worker_syscalls[] = {
        SCMP_SYS(exit),  SCMP_SYS(exit_group), SCMP_SYS(rt_sigreturn), SCMP_SYS(restart_syscall),
        SCMP_SYS(write), SCMP_SYS(close),
};

static int set_limit(__rlimit_resource_t resource, uint64_t value)
{
        struct rlimit limit;

        if (getrlimit(resource, &limit) < 0)
                return neg_errno();
        limit.rlim_max = MIN_OF(limit.rlim_max, (rlim_t) value);
        limit.rlim_cur = limit.rlim_max;
        return setrlimit(resource, &limit) < 0 ? neg_errno() : 0;
}

static int limit_resources(const WorkerSpec *spec)
{
        int r;

        r = set_limit(RLIMIT_CORE, 0);
        if (r >= 0)
                r = set_limit(RLIMIT_NOFILE, spec->files_max);
#if !defined(__SANITIZE_ADDRESS__)
        /* A sanitizer maps all of the address space. */
        if (r >= 0 && spec->memory_max > 0)
                r = set_limit(RLIMIT_DATA, spec->memory_max);
#endif
        if (r >= 0 && !spec->may_fork)
                r = set_limit(RLIMIT_NPROC, 0);
        if (r >= 0 && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
                r = neg_errno();
        return r;
}

static int clone_directory(const WorkerDirectory *d, int *ret_fd)
{
        struct mount_attr attributes = { .attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
                                                     MOUNT_ATTR_NOEXEC,
                                         .propagation = MS_PRIVATE };
        _cleanup_close_ int fd = -EBADF;

        if (d->path[0] != '/' || strlen(d->path) >= PATH_MAX)
                return -EINVAL;
        fd = open_tree(AT_FDCWD, d->path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
        if (fd < 0)
                return neg_errno();
        if (!d->is_writable)
                attributes.attr_set |= MOUNT_ATTR_RDONLY;
        if (mount_setattr(fd, "", AT_EMPTY_PATH, &attributes, sizeof(attributes)) < 0)
                return neg_errno();
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static int clone_directories(const WorkerSpec *spec, int *fds)
{
        if (spec->n_directories > WORKER_DIRECTORIES_MAX)
                return -E2BIG;
        for (size_t i = 0; i < spec->n_directories; i++) {
                const WorkerDirectory *d = &spec->directories[i];
                int r = clone_directory(d, &fds[i]);

                if (r == -ENOENT && d->is_optional)
                        continue;
                if (r < 0)
                        return log_error(r, "%s: cannot show directory %s", spec->name, d->path);
        }
        return 0;
}

static int make_root(int *ret_fd)
{
        _cleanup_close_ int context = -EBADF, fd = -EBADF;

        context = fsopen("tmpfs", FSOPEN_CLOEXEC);
        if (context < 0)
                return neg_errno();
        if (fsconfig(context, FSCONFIG_SET_STRING, "size", "64k", 0) < 0 ||
            fsconfig(context, FSCONFIG_SET_STRING, "mode", "0755", 0) < 0 ||
            fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
                return neg_errno();
        fd = fsmount(context, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
        if (fd < 0)
                return neg_errno();
        if (move_mount(fd, "", AT_FDCWD, WORKER_MOUNT_POINT, MOVE_MOUNT_F_EMPTY_PATH) < 0)
                return neg_errno();
        *ret_fd = TAKE_FD(fd);
        return 0;
}

/* Below a directory that is already shown the real one exists, and nothing is made. */
static int make_mount_point(int root_fd, const char *path)
{
        char part[PATH_MAX];

        for (size_t i = 1; path[i] != '\0'; i++) {
                if (path[i + 1] != '/' && path[i + 1] != '\0')
                        continue;
                memcpy(part, path + 1, i);
                part[i] = '\0';
                if (mkdirat(root_fd, part, 0755) < 0 && errno != EEXIST)
                        return neg_errno();
        }
        return 0;
}

static int enter_root(int root_fd)
{
        struct mount_attr attributes = { .attr_set = MOUNT_ATTR_RDONLY };

        if (fchdir(root_fd) < 0)
                return neg_errno();
        /* Both the same directory: the old root lies on top of the new one and is then taken away. */
        if (syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0)
                return neg_errno();
        if (chdir("/") < 0)
                return neg_errno();
        if (mount_setattr(AT_FDCWD, "/", 0, &attributes, sizeof(attributes)) < 0)
                return neg_errno();
        return 0;
}

static int attach_directories(const WorkerSpec *spec, int root_fd, const int *fds)
{
        int r;

        for (size_t i = 0; i < spec->n_directories; i++) {
                const char *path = spec->directories[i].path;

                if (fds[i] < 0)
                        continue;
                r = make_mount_point(root_fd, path);
                if (r < 0)
                        return r;
                if (move_mount(fds[i], "", root_fd, path + 1, MOVE_MOUNT_F_EMPTY_PATH) < 0)
                        return neg_errno();
        }
        return 0;
}

static int change_root(const WorkerSpec *spec)
{
        int fds[WORKER_DIRECTORIES_MAX];
        _cleanup_close_ int root_fd = -EBADF;
        mode_t old_mask;
        int r;

        for (size_t i = 0; i < ELEMENTSOF(fds); i++)
                fds[i] = -EBADF;
        if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
                return neg_errno();
        r = clone_directories(spec, fds);
        if (r >= 0)
                r = make_root(&root_fd);
        /* The worker walks through what is made here as somebody else. */
        old_mask = umask(0022);
        if (r >= 0)
                r = attach_directories(spec, root_fd, fds);
        (void) umask(old_mask);
        if (r >= 0)
                r = enter_root(root_fd);
        fd_close_many(fds, ELEMENTSOF(fds));
        return r;
}

static int drop_bounding_set(void)
{
        for (unsigned long capability = 0; capability <= CAP_LAST_CAP; capability++) {
                /* EINVAL: newer than this kernel. */
                if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0 && errno != EINVAL)
                        return neg_errno();
        }
        if (prctl(PR_SET_SECUREBITS, WORKER_SECUREBITS, 0, 0, 0) < 0)
                return neg_errno();
        if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
                return neg_errno();
        return 0;
}

static int change_ids(const WorkerSpec *spec)
{
        if (spec->uid == 0 || spec->gid == 0 || spec->uid == UINT32_MAX || spec->gid == UINT32_MAX)
                return -EINVAL;
        if (setgroups(0, NULL) < 0)
                return neg_errno();
        if (setresgid(spec->gid, spec->gid, spec->gid) < 0)
                return neg_errno();
        if (setresuid(spec->uid, spec->uid, spec->uid) < 0)
                return neg_errno();
        return 0;
}

static int drop_capabilities(void)
{
        struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { 0 };

        if (syscall(SYS_capset, &header, data) < 0)
                return neg_errno();
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
                return neg_errno();
        /* Again: an id change makes a process dumpable as fs.suid_dumpable says. */
        if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
                return neg_errno();
        if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
                return neg_errno();
        return 0;
}

/* Anonymous memory that is shared is counted by no limit: files may be, or what is private. */
static int allow_mmap(scmp_filter_ctx filter)
{
        int r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 2,
                                 SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0),
                                 SCMP_A3(SCMP_CMP_MASKED_EQ, MAP_SHARED, 0));

        if (r >= 0)
                r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 2,
                                     SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0),
                                     SCMP_A3(SCMP_CMP_MASKED_EQ, MAP_ANONYMOUS, 0));
        return r;
}

static int allow(scmp_filter_ctx filter, int number)
{
        /* No page becomes executable any more. */
        if (number == SCMP_SYS(mmap))
                return allow_mmap(filter);
        if (number == SCMP_SYS(mprotect))
                return seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 1,
                                        SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
        return seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 0);
}

static int allow_call(scmp_filter_ctx filter, const WorkerCall *call)
{
        struct scmp_arg_cmp compare[ELEMENTSOF(call->arguments)];
        unsigned n = 0;

        /* The kernel reads 32 bits of what is an int: the others may be anything. */
        for (size_t i = 0; i < ELEMENTSOF(compare); i++) {
                const WorkerArgument *a = &call->arguments[i];

                if (a->mask != 0)
                        compare[n++] = (struct scmp_arg_cmp){ .arg = a->index,
                                                              .op = SCMP_CMP_MASKED_EQ,
                                                              .datum_a = a->mask,
                                                              .datum_b = a->value };
        }
        return seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, call->number, n, compare);
}

static int fill_filter(scmp_filter_ctx filter, const WorkerSpec *spec)
{
        int r;

        r = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
        if (r >= 0)
                r = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(worker_syscalls); i++)
                r = allow(filter, worker_syscalls[i]);
        for (size_t i = 0; r >= 0 && i < spec->n_syscalls; i++)
                r = allow(filter, spec->syscalls[i]);
        for (size_t i = 0; r >= 0 && i < spec->n_calls; i++)
                r = allow_call(filter, &spec->calls[i]);
#if defined(__SANITIZE_ADDRESS__)
        for (size_t i = 0; r >= 0 && i < sanitizer_n_syscalls; i++)
                r = allow(filter, sanitizer_syscalls[i]);
#endif
        return r;
}

static int load_filter(const WorkerSpec *spec)
{
        scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
        int r;

        if (!filter)
                return -ENOMEM;
        r = fill_filter(filter, spec);
        if (r >= 0)
                r = seccomp_load(filter);
        seccomp_release(filter);
        return r;
}

int worker_prove(const WorkerSpec *spec)
{
        static const char *const nothing[] = { NULL };
        int fd;

        /* By number, so that the libc's functions are in no program that has no use for them. */
        if (setuid(0) >= 0)
                return log_error(-ENOTRECOVERABLE, "%s: setuid(0) succeeded", spec->name);
        fd = (int) syscall(SYS_openat, AT_FDCWD, "/etc/passwd", O_RDONLY | O_CLOEXEC);
        if (fd >= 0)
                return log_error(-ENOTRECOVERABLE, "%s: /etc/passwd opened", spec->name);
        /* Without a filter the root directory is EACCES: only EPERM proves that the call itself is gone. */
        (void) syscall(SYS_execve, "/", nothing, nothing);
        if (errno != EPERM)
                return log_error(-ENOTRECOVERABLE, "%s: execve is not refused", spec->name);
        if (spec->may_open_inet_sockets)
                return 0;
        fd = (int) syscall(SYS_socket, AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0)
                return log_error(-ENOTRECOVERABLE, "%s: an internet socket was made", spec->name);
        return 0;
}

int worker_confine(const WorkerSpec *spec)
{
        int r;

#if defined(__SANITIZE_ADDRESS__)
        sanitizer_prepare();
#endif
        r = limit_resources(spec);
        if (r < 0)
                return log_error(r, "%s: cannot set limits", spec->name);
        r = change_root(spec);
        if (r < 0)
                return log_error(r, "%s: cannot change the root directory", spec->name);
        r = drop_bounding_set();
        if (r < 0)
                return log_error(r, "%s: cannot drop the bounding set", spec->name);
        r = change_ids(spec);
        if (r < 0)
                return log_error(r, "%s: cannot become %u:%u", spec->name, spec->uid, spec->gid);
        r = drop_capabilities();
        if (r < 0)
                return log_error(r, "%s: cannot drop capabilities", spec->name);
        r = load_filter(spec);
        if (r < 0)
                return log_error(r, "%s: cannot load the system call filter", spec->name);
        return worker_prove(spec);
}
