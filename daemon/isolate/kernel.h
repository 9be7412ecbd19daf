#pragma once

/*
 * System calls that the C libraries lack (musl) or whose headers clash (glibc 2.36), and constants newer
 * than the headers we build with. Each returns what the kernel returns, with errno set. Files that include
 * this must not include <sys/mount.h>.
 */

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "proto/base/macro.h"

#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif
#ifndef MNT_DETACH
#define MNT_DETACH 2
#endif
#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif
#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC 4U
#endif

/* Landlock rights of later ABIs than the headers know. */
#define KERNEL_LANDLOCK_SCOPE_ABSTRACT (UINT64_C(1) << 0)
#define KERNEL_LANDLOCK_SCOPE_SIGNAL   (UINT64_C(1) << 1)

/* The ruleset of ABI 6; earlier kernels take a shorter one. */
typedef struct KernelLandlockRuleset {
        uint64_t handled_access_fs;
        uint64_t handled_access_net;
        uint64_t scoped;
} KernelLandlockRuleset;

static inline int kernel_openat2(int directory_fd, const char *path, uint64_t flags, uint64_t resolve)
{
        struct open_how how = { .flags = flags, .resolve = resolve };

        return (int) syscall(SYS_openat2, directory_fd, path, &how, sizeof(how));
}

static inline int kernel_open_tree(int directory_fd, const char *path, unsigned flags)
{
        return (int) syscall(SYS_open_tree, directory_fd, path, flags | OPEN_TREE_CLOEXEC);
}

/* Moves the mount that from_fd holds onto the object that to_fd holds. */
static inline int kernel_move_mount(int from_fd, int to_fd)
{
        return (int) syscall(SYS_move_mount, from_fd, "", to_fd, "",
                             MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

static inline int kernel_mount_setattr(int fd, unsigned flags, const struct mount_attr *attr)
{
        return (int) syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH | flags, attr, sizeof(*attr));
}

static inline int kernel_fsopen(const char *type)
{
        return (int) syscall(SYS_fsopen, type, FSOPEN_CLOEXEC);
}

static inline int kernel_fsconfig_string(int fd, const char *key, const char *value)
{
        return (int) syscall(SYS_fsconfig, fd, FSCONFIG_SET_STRING, key, value, 0);
}

static inline int kernel_fsconfig_flag(int fd, const char *key)
{
        return (int) syscall(SYS_fsconfig, fd, FSCONFIG_SET_FLAG, key, NULL, 0);
}

static inline int kernel_fsconfig_create(int fd)
{
        return (int) syscall(SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
}

static inline int kernel_fsmount(int fd, unsigned attributes)
{
        return (int) syscall(SYS_fsmount, fd, FSMOUNT_CLOEXEC, attributes);
}

static inline int kernel_pivot_root(const char *to, const char *old)
{
        return (int) syscall(SYS_pivot_root, to, old);
}

static inline int kernel_umount2(const char *path, int flags)
{
        return (int) syscall(SYS_umount2, path, flags);
}

static inline pid_t kernel_clone3(struct clone_args *args)
{
        return (pid_t) syscall(SYS_clone3, args, sizeof(*args));
}

static inline int kernel_close_range(unsigned first, unsigned last, unsigned flags)
{
        return (int) syscall(SYS_close_range, first, last, flags);
}

static inline int kernel_landlock_create(const KernelLandlockRuleset *ruleset, size_t size, unsigned flags)
{
        return (int) syscall(SYS_landlock_create_ruleset, ruleset, size, flags);
}

static inline int kernel_landlock_add_path(int ruleset_fd, int fd, uint64_t access)
{
        struct landlock_path_beneath_attr rule = { .allowed_access = access, .parent_fd = fd };

        return (int) syscall(SYS_landlock_add_rule, ruleset_fd, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
}

static inline int kernel_landlock_restrict(int ruleset_fd)
{
        return (int) syscall(SYS_landlock_restrict_self, ruleset_fd, 0);
}

/* All three sets as bits of capabilities 0 to 63. */
static inline int kernel_capset(uint64_t effective, uint64_t permitted, uint64_t inheritable)
{
        struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct data[2] = {
                { (uint32_t) effective, (uint32_t) permitted, (uint32_t) inheritable },
                { (uint32_t) (effective >> 32), (uint32_t) (permitted >> 32),
                  (uint32_t) (inheritable >> 32) },
        };

        return (int) syscall(SYS_capset, &header, data);
}

static inline int kernel_capget(uint64_t *ret_effective, uint64_t *ret_permitted, uint64_t *ret_inheritable)
{
        struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct data[2] = { 0 };

        if (syscall(SYS_capget, &header, data) < 0)
                return -1;
        *ret_effective = data[0].effective | (uint64_t) data[1].effective << 32;
        *ret_permitted = data[0].permitted | (uint64_t) data[1].permitted << 32;
        *ret_inheritable = data[0].inheritable | (uint64_t) data[1].inheritable << 32;
        return 0;
}
