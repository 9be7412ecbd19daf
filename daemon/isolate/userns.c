#include "daemon/isolate/userns.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include "daemon/isolate/spawn.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"
#include "proto/idl/privsep.h"

#define USERNS_TEXT_SIZE 64U
#define GROUP_MAP_SIZE   ((PRIV_GROUPS_MAX + 1) * sizeof("4294967295 4294967295 1"))

typedef struct Ids {
        uint32_t inside_uid;
        uint32_t uid;
        uint32_t inside_gid;
        uint32_t gid;
        const uint32_t *groups;
        size_t n_groups;
} Ids;

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

/* All lines in one write: there is no second. */
static int write_group_map(pid_t pid, const Ids *ids)
{
        char text[GROUP_MAP_SIZE];
        size_t n = 0;
        int r;

        r = str_printf(text, sizeof(text), "%u %u 1\n", ids->inside_gid, ids->gid);
        for (size_t i = 0; r >= 0 && i < ids->n_groups; i++) {
                n = strlen(text);
                r = str_printf(text + n, sizeof(text) - n, "%u %u 1\n", ids->groups[i], ids->groups[i]);
        }
        return r < 0 ? r : write_proc(pid, "gid_map", text);
}

/* The pid is that of our own child, which we have not reaped: it cannot be anybody else's. */
static int make(const Ids *ids, int *ret_fd)
{
        int pidfd = -EBADF, r;
        pid_t pid;

        if (ids->uid == UINT32_MAX || ids->gid == UINT32_MAX || ids->n_groups > PRIV_GROUPS_MAX)
                return -EINVAL;
        r = spawn_waiter(CLONE_NEWUSER, &pid, &pidfd);
        if (r < 0)
                return r;
        /* Denied before the map is written: the kernel takes no gid map otherwise from us later. */
        r = write_proc(pid, "setgroups", "deny");
        if (r >= 0)
                r = write_map(pid, "uid_map", ids->inside_uid, ids->uid);
        if (r >= 0)
                r = write_group_map(pid, ids);
        if (r >= 0)
                r = spawn_open_namespace(pid, "user", ret_fd);
        spawn_reap(pidfd);
        return r;
}

int userns_new(uint32_t uid, uint32_t gid, int *ret_fd)
{
        return userns_new_groups(uid, gid, NULL, 0, ret_fd);
}

int userns_new_groups(uint32_t uid, uint32_t gid, const uint32_t *groups, size_t n_groups, int *ret_fd)
{
        return make(&(Ids){ .inside_uid = uid,
                            .uid = uid,
                            .inside_gid = gid,
                            .gid = gid,
                            .groups = groups,
                            .n_groups = n_groups },
                    ret_fd);
}

int userns_new_idmap(uint32_t uid, uint32_t gid, int *ret_fd)
{
        return make(&(Ids){ .uid = uid, .gid = gid }, ret_fd);
}
