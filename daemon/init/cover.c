#include <errno.h>
#include <linux/stat.h>
#include <string.h>
#include <sys/vfs.h>

#include "daemon/init/protect.h"
#include "daemon/isolate/kernel.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

#define STATFS_READ_ONLY 1

static int mount_of(int fd, uint64_t *ret_id, bool *ret_is_top)
{
        struct statx st;

        if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &st) < 0)
                return neg_errno();
        if (!(st.stx_mask & STATX_MNT_ID) || !(st.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT))
                return -EOPNOTSUPP;
        *ret_id = st.stx_mnt_id;
        *ret_is_top = (st.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
        return 0;
}

int cover_is_there(int fd, bool is_read_only)
{
        struct statfs st;
        uint64_t id;
        bool is_top;
        int r;

        r = mount_of(fd, &id, &is_top);
        if (r < 0 || !is_top)
                return r;
        if (fstatfs(fd, &st) < 0)
                return neg_errno();
        return !is_read_only || (st.f_flags & STATFS_READ_ONLY) != 0;
}

/* A grant below it, which stays writable. */
static bool has_grant_below(const Protect *p, const char *path)
{
        char full[PLAN_PATH_MAX];
        size_t n;

        if (protect_full(p, path, full, sizeof(full) - 1) < 0)
                return false;
        n = strlen(full);
        full[n++] = '/';
        full[n] = '\0';
        for (uint32_t i = 0; i < p->plan->header->n_mounts; i++) {
                const PlanMount *m = &p->plan->mounts[i];

                if (m->type == PLAN_BIND && (m->flags & PLAN_WRITABLE) &&
                    strncmp(plan_string(p->plan, m->target), full, n) == 0)
                        return true;
        }
        return false;
}

int cover_put(const Protect *p, int fd, const char *path, bool is_read_only, bool is_directory)
{
        struct mount_attr attr = { .attr_set = is_read_only ? MOUNT_ATTR_RDONLY : 0,
                                   .propagation = MS_PRIVATE };
        unsigned recursive = is_directory ? AT_RECURSIVE : 0;
        _cleanup_close_ int clone = kernel_open_tree(fd, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | recursive);

        if (clone < 0)
                return neg_errno();
        if (kernel_mount_setattr(clone, has_grant_below(p, path) ? 0 : recursive, &attr) < 0)
                return neg_errno();
        return kernel_move_mount(clone, fd) < 0 ? neg_errno() : 0;
}
