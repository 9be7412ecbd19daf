#include "daemon/isolate/ebpf.h"

#include <errno.h>
#include <string.h>

#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/id.h"
#include "proto/base/log.h"

#define TRY_MSEC 5000

int ebpf_load(enum bpf_prog_type type, enum bpf_attach_type attach_type, const struct bpf_insn *code,
              size_t n, int *ret_fd)
{
        union bpf_attr attr;
        long fd;

        memset(&attr, 0, sizeof(attr));
        attr.prog_type = type;
        attr.expected_attach_type = attach_type;
        attr.insns = (uint64_t) (uintptr_t) code;
        attr.insn_cnt = (uint32_t) n;
        attr.license = (uint64_t) (uintptr_t) "GPL";
        fd = ebpf_call(BPF_PROG_LOAD, &attr);
        if (fd < 0)
                return neg_errno();
        *ret_fd = (int) fd;
        return 0;
}

int ebpf_attach(int group_fd, int program_fd, enum bpf_attach_type type)
{
        union bpf_attr attr;

        memset(&attr, 0, sizeof(attr));
        attr.target_fd = (uint32_t) group_fd;
        attr.attach_bpf_fd = (uint32_t) program_fd;
        attr.attach_type = type;
        return ebpf_call(BPF_PROG_ATTACH, &attr) < 0 ? neg_errno() : 0;
}

int ebpf_try(const CgroupBase *base, SpawnTrial trial, const void *userdata)
{
        _cleanup_close_ int group_fd = -EBADF;
        int pidfd, r;
        Id id;

        r = id_random(&id);
        if (r >= 0)
                r = cgroup_make(base, &id, &(PrivLimits){ 0 }, &group_fd);
        if (r < 0)
                return r;
        r = spawn_trial_into(group_fd, trial, userdata, &pidfd);
        if (r >= 0)
                r = spawn_wait(pidfd, TRY_MSEC);
        if (cgroup_remove(base, &id) < 0)
                (void) log_warning(0, "cannot remove a control group, leaving it to the next start");
        return r > 0 ? -EOPNOTSUPP : r;
}
