#include "daemon/isolate/userns.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include "daemon/isolate/spawn.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

#define USERNS_TEXT_SIZE 64U

static int write_proc(pid_t pid, const char *name, const char *text)
{
        _cleanup_close_ int fd = -EBADF;
        char path[USERNS_TEXT_SIZE];
        int r;

        r = str_printf(path, sizeof(path), "/proc/%d/%s", (int) pid, name);
        if (r < 0)
                return r;
        fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
                return neg_errno();
        return fd_write_all(fd, text, strlen(text));
}

static int write_map(pid_t pid, const char *name, uint32_t inside, uint32_t outside)
{
        char text[USERNS_TEXT_SIZE];
        int r;

        r = str_printf(text, sizeof(text), "%u %u 1", inside, outside);
        if (r < 0)
                return r;
        return write_proc(pid, name, text);
}

static int open_namespace(pid_t pid, int *ret_fd)
{
        char path[USERNS_TEXT_SIZE];
        int fd, r;

        r = str_printf(path, sizeof(path), "/proc/%d/ns/user", (int) pid);
        if (r < 0)
                return r;
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return neg_errno();
        *ret_fd = fd;
        return 0;
}

/* The pid is that of our own child, which we have not reaped: it cannot be anybody else's. */
static int make(uint32_t inside_uid, uint32_t uid, uint32_t inside_gid, uint32_t gid, int *ret_fd)
{
        int pidfd = -EBADF, r;
        pid_t pid;

        if (uid == UINT32_MAX || gid == UINT32_MAX)
                return -EINVAL;
        r = spawn_waiter(CLONE_NEWUSER, &pid, &pidfd);
        if (r < 0)
                return r;
        /* Denied before the map is written: the kernel takes no gid map otherwise from us later. */
        r = write_proc(pid, "setgroups", "deny");
        if (r >= 0)
                r = write_map(pid, "uid_map", inside_uid, uid);
        if (r >= 0)
                r = write_map(pid, "gid_map", inside_gid, gid);
        if (r >= 0)
                r = open_namespace(pid, ret_fd);
        spawn_reap(pidfd);
        return r;
}

int userns_new(uint32_t uid, uint32_t gid, int *ret_fd)
{
        return make(uid, uid, gid, gid, ret_fd);
}

int userns_new_idmap(uint32_t uid, uint32_t gid, int *ret_fd)
{
        return make(0, uid, 0, gid, ret_fd);
}
