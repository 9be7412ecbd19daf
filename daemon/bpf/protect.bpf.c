/*
 * Refuses changes of protected paths to the processes of a session: those in its control group, at a level
 * that is fixed when the programs are loaded, and in the groups below.
 *
 * What decides is the name that a path has at that moment: each program climbs from the dentry towards the
 * workspace, keeps the last names, and goes down the session's tree of rules from there. So what is not
 * there yet, or what the host has put there meanwhile, is protected alike, and mounts, links and descriptors
 * make no difference. Marks on inodes add what had a protected name when the session began (or when its
 * guard saw the host make it): the host may rename it, and it stays what it was; absent names below it, too.
 *
 * A proper prefix of a rule may be made and removed as a directory, and is otherwise kept: else what lies
 * below could be prepared under another name and moved there, or a link be put there that leads to it.
 *
 * The inode hooks, and not those of paths: they are asked below overlayfs and by whoever else changes files
 * for a process. Processes outside of sessions pay for one look-up.
 */

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <stdbool.h>

#include "daemon/bpf/kernel.h"
#include "daemon/isolate/prevent.h"

#define DEPTH_MASK (PREVENT_DEPTH_MAX - 1)

char license_text[] SEC("license") = "GPL";

/* Set by who loads. */
const volatile int session_level = 1;

/* Sizes alone: the compiler does not describe types that only another map's values lead to. */
struct rules {
        __uint(type, BPF_MAP_TYPE_HASH);
        __uint(max_entries, 1);
        __uint(map_flags, BPF_F_NO_PREALLOC);
        __uint(key_size, sizeof(PreventKey));
        __uint(value_size, sizeof(PreventNode));
};

struct {
        __uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
        __uint(max_entries, 65536);
        __uint(map_flags, BPF_F_NO_PREALLOC);
        __type(key, __u64);
        __array(values, struct rules);
} sessions SEC(".maps");

struct {
        __uint(type, BPF_MAP_TYPE_INODE_STORAGE);
        __uint(map_flags, BPF_F_NO_PREALLOC);
        __type(key, int);
        __type(value, __u64);
} marks SEC(".maps");

struct {
        __uint(type, BPF_MAP_TYPE_ARRAY);
        __uint(max_entries, 1);
        __type(key, __u32);
        __type(value, PreventMade);
} made SEC(".maps");

enum { FREE = 0, ABOVE, PROTECTED };

/* at: the last dentries of the way up, as numbers; at[(n - 1) & DEPTH_MASK] lies right below `from`. */
struct trail {
        __u64 session;
        __u64 at[PREVENT_DEPTH_MAX];
        __u32 n;
        PreventNode from;
};

static void read_name(char *to, __u64 dentry)
{
        const unsigned char *name = NULL;
        __u32 offset = __builtin_preserve_field_info(((struct dentry *) 0)->d_name.name,
                                                     BPF_FIELD_BYTE_OFFSET);

        __builtin_memset(to, 0, PREVENT_NAME_SIZE);
        bpf_probe_read_kernel(&name, sizeof(name), (void *) (dentry + offset));
        bpf_probe_read_kernel_str(to, PREVENT_NAME_SIZE, name);
}

static __always_inline PreventNode *find(void *rules, PreventKey *key, __u32 flags)
{
        PreventNode *node = bpf_map_lookup_elem(rules, key);

        if (node || !(flags & PREVENT_HAS_ANY))
                return node;
        __builtin_memset(key->name, 0, sizeof(key->name));
        key->name[0] = '*';
        return bpf_map_lookup_elem(rules, key);
}

/* Down the rules, along the trail. Checked by the kernel on its own, so that what calls it stays small. */
__noinline int classify(struct trail *trail)
{
        PreventKey key = {};
        __u64 session;
        __u32 flags;
        void *rules;

        if (!trail)
                return FREE;
        session = trail->session;
        rules = bpf_map_lookup_elem(&sessions, &session);
        if (!rules)
                return FREE;
        key.parent = trail->from.number;
        flags = trail->from.flags;
        if (flags & PREVENT_PROTECTED)
                return PROTECTED;
        for (__u32 i = 0; i < PREVENT_DEPTH_MAX; i++) {
                PreventNode *node;

                if (i >= trail->n)
                        return i > 0 || !(flags & PREVENT_TOP) ? ABOVE : FREE;
                read_name(key.name, trail->at[(trail->n - 1 - i) & DEPTH_MASK]);
                node = find(rules, &key, flags);
                if (!node)
                        return FREE;
                flags = node->flags;
                if (flags & PREVENT_PROTECTED)
                        return PROTECTED;
                key.parent = node->number;
        }
        return FREE;
}

static __always_inline bool is_refused(struct trail *trail, bool keeps_above)
{
        int class = classify(trail);

        return class == PROTECTED || (class == ABOVE && keeps_above);
}

static __always_inline __u64 current_session(void)
{
        return bpf_get_current_ancestor_cgroup_id(session_level);
}

/* 0, or -EPERM. keeps_above: also where something protected would lie below. */
static __always_inline int check(struct dentry *dentry, bool keeps_above)
{
        struct trail trail = { .session = current_session() };
        void *rules = bpf_map_lookup_elem(&sessions, &trail.session);
        struct dentry *at = dentry;
        PreventKey key = {};

        if (!rules)
                return 0;
        for (__u32 i = 0; i < PREVENT_LEVELS_MAX; i++) {
                struct inode *inode = at->d_inode;
                struct dentry *parent;
                __u64 *token = inode ? bpf_inode_storage_get(&marks, inode, NULL, 0) : NULL;

                if (token) {
                        PreventNode *node;

                        key.parent = *token;
                        node = bpf_map_lookup_elem(rules, &key);
                        if (node) {
                                trail.from = *node;
                                if (is_refused(&trail, keeps_above))
                                        return -KERNEL_EPERM;
                                if (trail.from.flags & PREVENT_TOP)
                                        return 0;
                        }
                }
                parent = at->d_parent;
                if (parent == at)
                        return 0;
                trail.at[i & DEPTH_MASK] = (__u64) at;
                trail.n = i + 1;
                at = parent;
        }
        return -KERNEL_EPERM;
}

SEC("lsm/inode_create")
int BPF_PROG(on_create, struct inode *dir, struct dentry *dentry)
{
        return check(dentry, /* keeps_above= */ true);
}

SEC("lsm/inode_mkdir")
int BPF_PROG(on_mkdir, struct inode *dir, struct dentry *dentry)
{
        return check(dentry, /* keeps_above= */ false);
}

/* Sockets, too, which bind() makes. */
SEC("lsm/inode_mknod")
int BPF_PROG(on_mknod, struct inode *dir, struct dentry *dentry)
{
        return check(dentry, /* keeps_above= */ true);
}

SEC("lsm/inode_symlink")
int BPF_PROG(on_symlink, struct inode *dir, struct dentry *dentry)
{
        return check(dentry, /* keeps_above= */ true);
}

SEC("lsm/inode_link")
int BPF_PROG(on_link, struct dentry *old_dentry, struct inode *dir, struct dentry *new_dentry)
{
        int r = check(old_dentry, /* keeps_above= */ false);

        return r ? r : check(new_dentry, /* keeps_above= */ true);
}

SEC("lsm/inode_unlink")
int BPF_PROG(on_unlink, struct inode *dir, struct dentry *dentry)
{
        return check(dentry, /* keeps_above= */ true);
}

/* One that is above something protected is empty then, and what comes after it has the same name. */
SEC("lsm/inode_rmdir")
int BPF_PROG(on_rmdir, struct inode *dir, struct dentry *dentry)
{
        return check(dentry, /* keeps_above= */ false);
}

/* An exchange comes as two renames. */
SEC("lsm/inode_rename")
int BPF_PROG(on_rename, struct inode *old_dir, struct dentry *old_dentry, struct inode *new_dir,
             struct dentry *new_dentry)
{
        int r = check(old_dentry, /* keeps_above= */ true);

        return r ? r : check(new_dentry, /* keeps_above= */ true);
}

/* Linux 6.3 put an argument before the others: who loads picks one of the two. */
SEC("?lsm/inode_setattr")
int BPF_PROG(on_setattr_2, struct dentry *dentry)
{
        return check(dentry, /* keeps_above= */ false);
}

SEC("?lsm/inode_setattr")
int BPF_PROG(on_setattr_3, void *idmap, struct dentry *dentry)
{
        return check(dentry, /* keeps_above= */ false);
}

SEC("lsm/inode_setxattr")
int BPF_PROG(on_setxattr, void *idmap, struct dentry *dentry)
{
        return check(dentry, /* keeps_above= */ false);
}

SEC("lsm/inode_removexattr")
int BPF_PROG(on_removexattr, void *idmap, struct dentry *dentry)
{
        return check(dentry, /* keeps_above= */ false);
}

/* Access control lists have a hook of their own since Linux 6.2. */
SEC("?lsm/inode_set_acl")
int BPF_PROG(on_set_acl, void *idmap, struct dentry *dentry)
{
        return check(dentry, /* keeps_above= */ false);
}

/* A file of the layer below an overlay comes with the overlay's dentry: what it is called there nobody says
 * here. Where that layer is on the workspace's file system it is not written: a session that may mount could
 * have laid it there itself. */
static __always_inline int check_file(struct file *file)
{
        __u64 session = current_session();
        void *rules = bpf_map_lookup_elem(&sessions, &session);
        struct inode *inode = file->f_inode;
        PreventKey key = {};

        if (!rules)
                return 0;
        if (inode != file->f_path.dentry->d_inode) {
                PreventNode *device = bpf_map_lookup_elem(rules, &key);

                if (device && inode->i_sb->s_dev == device->number)
                        return -KERNEL_EPERM;
        }
        return check(file->f_path.dentry, /* keeps_above= */ false);
}

SEC("lsm/file_open")
int BPF_PROG(on_open, struct file *file)
{
        if (!(file->f_mode & KERNEL_FMODE_WRITE) && !(file->f_flags & KERNEL_O_TRUNC))
                return 0;
        return check_file(file);
}

/* Descriptors that were opened before the path became a protected one: the next two. */
SEC("lsm/file_permission")
int BPF_PROG(on_write, struct file *file, int mask)
{
        return mask & (KERNEL_MAY_WRITE | KERNEL_MAY_APPEND)
                               ? check(file->f_path.dentry, /* keeps_above= */ false)
                               : 0;
}

/* Whatever the mapping is to be at first: mprotect() makes a shared one writable if the descriptor is. */
SEC("lsm/mmap_file")
int BPF_PROG(on_mmap, struct file *file, unsigned long wanted, unsigned long protection, unsigned long flags)
{
        if (!file || !(file->f_mode & KERNEL_FMODE_WRITE) || !(flags & KERNEL_MAP_SHARED))
                return 0;
        return check(file->f_path.dentry, /* keeps_above= */ false);
}

/* btrfs makes, copies and removes directories by ioctl, and asks no hook of inodes: type and number,
 * whatever the size. */
static __always_inline bool is_about_subvolumes(unsigned command)
{
        switch (command & 0xffff) {
        case 0x9401: /* SNAP_CREATE, and with V2 */
        case 0x9417:
        case 0x940e: /* SUBVOL_CREATE */
        case 0x9418:
        case 0x940f: /* SNAP_DESTROY */
        case 0x943f:
                return true;
        default:
                return false;
        }
}

static __always_inline int check_ioctl(unsigned command)
{
        __u64 session = current_session();

        return is_about_subvolumes(command) && bpf_map_lookup_elem(&sessions, &session) ? -KERNEL_EPERM : 0;
}

SEC("lsm/file_ioctl")
int BPF_PROG(on_ioctl, struct file *file, unsigned int command)
{
        return check_ioctl(command);
}

SEC("?lsm/file_ioctl_compat")
int BPF_PROG(on_ioctl_compat, struct file *file, unsigned int command)
{
        return check_ioctl(command);
}
