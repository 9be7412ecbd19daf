#include "daemon/isolate/devices.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>

#include "daemon/isolate/ebpf.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"

/* To try it: a machine has some of them, no session has any, and to open one does nothing. */
static const char *const others[] = { "/dev/kmsg", "/dev/fuse", "/dev/net/tun", "/dev/loop-control",
                                      "/dev/mem" };

#define CONTEXT(field) (int16_t) offsetof(struct bpf_cgroup_dev_ctx, field)

enum { TERMINALS = 17, NEITHER = 20, ALLOW = 22, DENY = 24, N_CODE = 26 };

/* Major numbers (admin-guide/devices.txt): 1 memory, 5 other terminals, 136 to 143 slaves of pseudo
 * terminals. Whiteouts of overlays, which are character devices 0:0, the kernel does not ask about. */
static const struct bpf_insn program[N_CODE] = {
        MOVE(6, 1),
        LOAD(2, CONTEXT(access_type)),
        INSTRUCTION(BPF_ALU | BPF_MOV | BPF_X, 3, 2, 0, 0),
        AND(3, 0xffff),
        UNLESS(4, 3, BPF_DEVCG_DEV_CHAR, DENY),
        SHIFT(2, 16),
        AND(2, BPF_DEVCG_ACC_MKNOD),
        UNLESS(7, 2, 0, DENY),
        LOAD(4, CONTEXT(major)),
        LOAD(5, CONTEXT(minor)),
        UNLESS(10, 4, 1, TERMINALS),
        IF(11, 5, 3, ALLOW), /* null */
        IF(12, 5, 5, ALLOW), /* zero */
        IF(13, 5, 7, ALLOW), /* full */
        IF(14, 5, 8, ALLOW), /* random */
        IF(15, 5, 9, ALLOW), /* urandom */
        GO(16, DENY),
        /* TERMINALS */
        UNLESS(17, 4, 5, NEITHER),
        IF(18, 5, 0, ALLOW), /* tty */
        IF(19, 5, 2, ALLOW), /* ptmx */
        /* NEITHER */
        AND(4, ~7),
        UNLESS(21, 4, 136, DENY),
        /* ALLOW */
        SET(0, 1),
        EXIT,
        /* DENY */
        SET(0, 0),
        EXIT,
};

static int try_open(const char *path, int flags)
{
        _cleanup_close_ int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK);

        return fd < 0 ? neg_errno() : 0;
}

static int run_trial(const void *userdata)
{
        const char *other = userdata;

        return try_open("/dev/null", O_RDWR) == 0 && try_open(other, O_RDONLY) == -EPERM ? EXIT_SUCCESS
                                                                                         : EXIT_FAILURE;
}

/* What we can open, so that it is the program that refuses it to others. */
static const char *find_other(void)
{
        for (size_t i = 0; i < ELEMENTSOF(others); i++) {
                if (try_open(others[i], O_RDONLY) == 0)
                        return others[i];
        }
        return NULL;
}

int devices_refuse(const CgroupBase *base)
{
        _cleanup_close_ int program_fd = -EBADF;
        const char *other = find_other();
        int r;

        r = ebpf_load(BPF_PROG_TYPE_CGROUP_DEVICE, BPF_CGROUP_DEVICE, program, N_CODE, &program_fd);
        if (r >= 0)
                r = ebpf_attach(cgroup_base_fd(base), program_fd, BPF_CGROUP_DEVICE);
        if (r >= 0)
                r = other ? ebpf_try(base, run_trial, other) : -ENODEV;
        return r;
}
