#include <errno.h>
#include <linux/stat.h>
#include <sys/stat.h>

#include "daemon/init/setup.h"
#include "daemon/isolate/kernel.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

/*
 * A persistent home is a directory of the daemon's state that earlier sessions of the same profile and
 * workspace have written. Whatever they left there is entered with the session's rights only, name by name
 * and never through a link; mount points are made in it, as nobody outside sees it.
 */

int home_clone(Setup *s)
{
        struct mount_attr attr = { .attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
                                   .propagation = MS_PRIVATE };
        struct stat st;

        if (s->home_fd < 0)
                return 0;
        setup_step(s, "home");
        if (SETUP_LEAVES_OUT(s, LAYER_MOUNTS))
                attr.attr_set = 0;
        if (fstat(s->home_fd, &st) < 0)
                return setup_fail(s, neg_errno(), "stat");
        if (!S_ISDIR(st.st_mode) || st.st_uid != s->start.uid)
                return setup_fail(s, -EPERM, "it is no directory of the session's user");
        s->home_mount_fd = kernel_open_tree(s->home_fd, "", AT_EMPTY_PATH | OPEN_TREE_CLONE);
        if (s->home_mount_fd < 0 || kernel_mount_setattr(s->home_mount_fd, 0, &attr) < 0)
                return setup_fail(s, neg_errno(), "clone");
        s->home_fd = fd_close(s->home_fd);
        return 0;
}

static int mount_id(int fd, uint64_t *ret)
{
        struct statx st;

        if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &st) < 0)
                return neg_errno();
        if (!(st.stx_mask & STATX_MNT_ID))
                return -EOPNOTSUPP;
        *ret = st.stx_mnt_id;
        return 0;
}

static int attach_given(Setup *s, const char *path)
{
        _cleanup_close_ int fd = -EBADF;
        int r;

        r = target_attach(s, s->home_mount_fd, path, /* is_directory= */ true);
        if (r == 0)
                r = layers_allow_write(s, s->home_mount_fd, /* is_directory= */ true);
        if (r == 0)
                r = mount_id(s->home_mount_fd, &s->home_mount_id);
        if (r == 0)
                r = target_make_directory(s, path, &fd);
        return r < 0 ? setup_fail(s, r, "%s", path) : 0;
}

int home_attach(Setup *s)
{
        const PlanHeader *h = s->plan.header;
        const char *path = plan_string(&s->plan, h->home);

        if (h->home_kind == PLAN_HOME_GIVEN && s->home_mount_fd >= 0)
                return attach_given(s, path);
        if (h->home_kind == PLAN_HOME_GIVEN)
                setup_missing(s, "a persistent home (this user has too many of them): the home is empty");
        if (h->home_kind == PLAN_HOME_SHOWN)
                return target_attach_sealed(s, path, "0700", h->home_size_bytes);
        return target_attach_tmpfs(s, path, "0700", h->home_size_bytes);
}

/* A session may have closed what is its own; the next one has to come in. */
int home_open_up(Setup *s, int fd)
{
        struct stat st;
        char link[32];
        int r;

        if (!home_holds(s, fd) || fstat(fd, &st) < 0 || !S_ISDIR(st.st_mode) || (st.st_mode & 0700) == 0700)
                return 0;
        r = str_printf(link, sizeof(link), "/proc/self/fd/%d", fd);
        if (r >= 0)
                r = identity_walk_as_session(s);
        if (r >= 0 && chmod(link, (st.st_mode | 0700) & 07777) < 0)
                r = neg_errno();
        return r;
}

bool home_holds(const Setup *s, int fd)
{
        uint64_t id;

        return s->home_mount_id != 0 && mount_id(fd, &id) == 0 && id == s->home_mount_id;
}

int home_clear(int directory_fd, const char *name)
{
        struct stat st;

        if (fstatat(directory_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return errno == ENOENT ? 0 : neg_errno();
        if (S_ISDIR(st.st_mode))
                return 0;
        return unlinkat(directory_fd, name, 0) < 0 ? neg_errno() : 1;
}
