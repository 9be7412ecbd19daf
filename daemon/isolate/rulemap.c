#include "daemon/isolate/rulemap.h"

#include <errno.h>
#include <linux/bpf.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "proto/base/error.h"

static int call_bpf(int command, union bpf_attr *attr)
{
        long r = syscall(SYS_bpf, command, attr, sizeof(*attr));

        return r < 0 ? neg_errno() : (int) r;
}

static int map_call(int command, int map_fd, const void *key, const void *value, uint64_t flags)
{
        union bpf_attr attr;

        memset(&attr, 0, sizeof(attr));
        attr.map_fd = (uint32_t) map_fd;
        attr.key = (uint64_t) (uintptr_t) key;
        attr.value = (uint64_t) (uintptr_t) value;
        attr.flags = flags;
        return call_bpf(command, &attr);
}

int rulemap_open(const char *path, int *ret_fd)
{
        union bpf_attr attr;
        int fd;

        memset(&attr, 0, sizeof(attr));
        attr.pathname = (uint64_t) (uintptr_t) path;
        fd = call_bpf(BPF_OBJ_GET, &attr);
        if (fd < 0)
                return fd;
        *ret_fd = fd;
        return 0;
}

/* As the programs declare it: the kernel compares. */
int rulemap_new(uint32_t entries_max, int *ret_fd)
{
        union bpf_attr attr;
        int fd;

        memset(&attr, 0, sizeof(attr));
        attr.map_type = BPF_MAP_TYPE_HASH;
        attr.key_size = sizeof(PreventKey);
        attr.value_size = sizeof(PreventNode);
        attr.max_entries = entries_max;
        attr.map_flags = BPF_F_NO_PREALLOC;
        fd = call_bpf(BPF_MAP_CREATE, &attr);
        if (fd < 0)
                return fd;
        *ret_fd = fd;
        return 0;
}

int rulemap_put(int rules_fd, const PreventKey *key, const PreventNode *node)
{
        return map_call(BPF_MAP_UPDATE_ELEM, rules_fd, key, node, BPF_ANY);
}

/* Sessions in one workspace share it; who comes second finds the first one's. */
static int token_of(int marks_fd, int inode_fd, uint64_t *ret_token)
{
        uint64_t token;
        int r = map_call(BPF_MAP_LOOKUP_ELEM, marks_fd, &inode_fd, ret_token, 0);

        if (r != -ENOENT)
                return r;
        if (getrandom(&token, sizeof(token), 0) != (ssize_t) sizeof(token))
                return neg_errno();
        token |= PREVENT_TOKEN;
        r = map_call(BPF_MAP_UPDATE_ELEM, marks_fd, &inode_fd, &token, BPF_NOEXIST);
        if (r == -EEXIST)
                return map_call(BPF_MAP_LOOKUP_ELEM, marks_fd, &inode_fd, ret_token, 0);
        *ret_token = token;
        return r;
}

int rulemap_mark(int rules_fd, int marks_fd, int inode_fd, const PreventNode *node)
{
        PreventKey key = { 0 };
        uint64_t token = 0;
        int r;

        r = token_of(marks_fd, inode_fd, &token);
        if (r < 0)
                return r;
        key.parent = token;
        return rulemap_put(rules_fd, &key, node);
}

int rulemap_enter(int sessions_fd, uint64_t session, int rules_fd)
{
        uint32_t fd = (uint32_t) rules_fd;

        return map_call(BPF_MAP_UPDATE_ELEM, sessions_fd, &session, &fd, BPF_ANY);
}

int rulemap_leave(int sessions_fd, uint64_t session)
{
        return map_call(BPF_MAP_DELETE_ELEM, sessions_fd, &session, NULL, 0);
}

int rulemap_is_empty(int sessions_fd)
{
        uint64_t first = 0;
        int r = map_call(BPF_MAP_GET_NEXT_KEY, sessions_fd, NULL, &first, 0);

        return r == -ENOENT ? 1 : r;
}
