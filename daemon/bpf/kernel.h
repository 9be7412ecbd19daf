#pragma once

/* Types of the kernel, only the fields that are used: where they lie is put right when the program is loaded
 * (CO-RE), so one object serves every kernel with BTF. The names are the kernel's. */

#include <linux/types.h>

#define KERNEL_FMODE_WRITE 0x2U
#define KERNEL_MAY_WRITE   0x2
#define KERNEL_MAY_APPEND  0x8
#define KERNEL_O_TRUNC     01000U
#define KERNEL_MAP_SHARED  0x1
#define KERNEL_EPERM       1

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct super_block {
        __u32 s_dev;
};

struct inode {
        struct super_block *i_sb;
};

struct qstr {
        const unsigned char *name;
};

struct dentry {
        struct dentry *d_parent;
        struct qstr d_name;
        struct inode *d_inode;
};

struct vfsmount;

struct path {
        struct vfsmount *mnt;
        struct dentry *dentry;
};

struct file {
        unsigned int f_mode;
        unsigned int f_flags;
        struct path f_path;
        struct inode *f_inode;
};

#pragma clang attribute pop
