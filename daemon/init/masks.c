#include <errno.h>
#include <linux/stat.h>

#include "daemon/init/setup.h"
#include "daemon/isolate/kernel.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

#define CLOSED_FOLDER "run/sandbox/closed"

/*
 * A denied path is hidden by a node of the session's FUSE file system, which the watch answers for, or by an
 * empty file or directory that nobody may open. Both hide as much; only the first is noticed.
 */

/* What it is the watch says: it may be nothing but what was asked for, in its own file system. As the kernel
 * has it, without asking the watch. */
static bool is_node(const Setup *s, int fd, bool is_directory)
{
        const int flags = AT_EMPTY_PATH | AT_STATX_DONT_SYNC;
        struct statx node, root;

        if (syscall(SYS_statx, fd, "", flags, STATX_TYPE, &node) < 0 ||
            syscall(SYS_statx, s->watched_fd, "", flags, STATX_TYPE, &root) < 0)
                return false;
        return (is_directory ? S_ISDIR(node.stx_mode) : S_ISREG(node.stx_mode)) &&
               node.stx_dev_major == root.stx_dev_major && node.stx_dev_minor == root.stx_dev_minor;
}

static int clone_node(const Setup *s, uint32_t number, bool is_directory)
{
        _cleanup_close_ int fd = -EBADF;
        char name[8];

        if (str_printf(name, sizeof(name), "%c%u", is_directory ? 'd' : 'f', number) < 0)
                return -EBADF;
        /* A look-up, which the watch answers: a link of its making leads nowhere. */
        fd = kernel_open_tree(s->watched_fd, name, OPEN_TREE_CLONE | AT_SYMLINK_NOFOLLOW);
        return fd >= 0 && is_node(s, fd, is_directory) ? TAKE_FD(fd) : -EBADF;
}

bool mask_is_watched(const Setup *s, int fd)
{
        struct statx node;

        return s->watched_device[1] != 0 &&
               syscall(SYS_statx, fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &node) >= 0 &&
               node.stx_dev_major == s->watched_device[0] && node.stx_dev_minor == s->watched_device[1];
}

/* Before Linux 6.15 only what is attached in the own mount namespace can be cloned. It lies where no program
 * of the session comes to. */
static int attach(const Setup *s)
{
        _cleanup_close_ int closed = -EBADF, place = -EBADF;

        if (mkdirat(s->root_fd, CLOSED_FOLDER, 0700) < 0)
                return neg_errno();
        closed = openat(s->root_fd, CLOSED_FOLDER, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (closed < 0 || mkdirat(closed, "watched", 0700) < 0)
                return neg_errno();
        place = openat(closed, "watched", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (place < 0 || kernel_move_mount(s->watched_fd, place) < 0)
                return neg_errno();
        return 0;
}

void masks_prepare(Setup *s)
{
        struct statx root;

        if (s->watched_fd < 0)
                return;
        if (attach(s) < 0 || syscall(SYS_statx, s->watched_fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC,
                                     STATX_TYPE, &root) < 0) {
                s->watched_fd = fd_close(s->watched_fd);
                return;
        }
        s->watched_device[0] = root.stx_dev_major;
        s->watched_device[1] = root.stx_dev_minor;
        for (uint32_t i = 0; i < MASKS_READY; i++)
                s->ready_masks[i] = clone_node(s, i, /* is_directory= */ true);
}

static int take_node(Setup *s, uint32_t number, bool is_directory)
{
        if (s->watched_fd < 0 || number >= PLAN_MOUNTS_MAX)
                return -EBADF;
        if (is_directory && number < MASKS_READY && s->ready_masks[number] >= 0)
                return TAKE_FD(s->ready_masks[number]);
        return clone_node(s, number, is_directory);
}

int mask_clone(Setup *s, uint32_t number, bool is_directory, int *ret_fd)
{
        int fd = take_node(s, number, is_directory), r;

        if (fd >= 0 && !is_directory) {
                /* Otherwise writing would be refused before anybody hears of it. Below a folder a look-up
                 * comes first. */
                r = layers_allow_write(s, fd, is_directory);
                if (r < 0) {
                        (void) fd_close(fd);
                        return r;
                }
        }
        if (fd < 0)
                fd = kernel_open_tree(s->mask_fd, is_directory ? "denied.d" : "denied", OPEN_TREE_CLONE);
        if (fd < 0)
                return neg_errno();
        *ret_fd = fd;
        return 0;
}

void masks_done(Setup *s)
{
        for (uint32_t i = 0; i < MASKS_READY; i++)
                s->ready_masks[i] = fd_close(s->ready_masks[i]);
        s->watched_fd = fd_close(s->watched_fd);
}
