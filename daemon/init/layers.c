#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>

#include "daemon/init/setup.h"
#include "daemon/isolate/kernel.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"

/*
 * Landlock is the second layer for writes: what the mounts already make read-only, and signals and abstract
 * sockets across sessions. Reading is left to the mounts: handling it would cost a third on warm opens.
 * Devices are in no rule, so nobody makes one, whiteouts included.
 */

#define FILTER_BYTES_MAX (BPF_MAXINSNS * sizeof(struct sock_filter))
#define RIGHTS_OF_FILES  LANDLOCK_ACCESS_FS_WRITE_FILE
#define RIGHTS_GRANTED                                                                                    \
        (LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE | \
         LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK |       \
         LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_SYM | LANDLOCK_ACCESS_FS_REFER)
#define RIGHTS_HANDLED (RIGHTS_GRANTED | LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_BLOCK)

int layers_prepare_landlock(Setup *s)
{
        static const char *const proof[] = { "source", "sandbox", "mode", "0777", "size", "4k", NULL };
        KernelLandlockRuleset ruleset = { .handled_access_fs = RIGHTS_HANDLED };
        size_t size = sizeof(ruleset.handled_access_fs);
        int abi, r;

        setup_step(s, "landlock");
        abi = kernel_landlock_create(NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
        if (abi < 2)
                return setup_fail(s, abi < 0 ? neg_errno() : -EOPNOTSUPP, "the kernel has ABI %d, not 2",
                                  abi);
        if (abi >= 6) {
                ruleset.scoped = KERNEL_LANDLOCK_SCOPE_ABSTRACT | KERNEL_LANDLOCK_SCOPE_SIGNAL;
                size = sizeof(ruleset);
        }
        s->ruleset_fd = kernel_landlock_create(&ruleset, size, 0);
        if (s->ruleset_fd < 0)
                return setup_fail(s, neg_errno(), "ruleset");
        r = root_tmpfs_new(s, proof, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, &s->proof_fd);
        if (r < 0)
                return setup_fail(s, r, "proof");
        return 0;
}

int layers_allow(Setup *s, int fd, uint64_t rights)
{
        return kernel_landlock_add_path(s->ruleset_fd, fd, rights & RIGHTS_GRANTED) < 0 ? neg_errno() : 0;
}

int layers_allow_write(Setup *s, int fd, bool is_directory)
{
        return layers_allow(s, fd, is_directory ? RIGHTS_GRANTED : RIGHTS_OF_FILES);
}

int layers_load_filter(int fd)
{
        const void *data;
        struct sock_fprog program;
        size_t size;
        int r;

        r = fd_map_sealed(fd, FILTER_BYTES_MAX, &data, &size);
        if (r < 0)
                return r;
        if (size % sizeof(struct sock_filter) != 0) {
                (void) munmap((void *) (uintptr_t) data, size);
                return -EBADMSG;
        }
        program = (struct sock_fprog){ .len = (unsigned short) (size / sizeof(struct sock_filter)),
                                       .filter = (struct sock_filter *) (uintptr_t) data };
        r = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0 ? neg_errno() : 0;
        (void) munmap((void *) (uintptr_t) data, size);
        return r;
}

int layers_enforce(Setup *s)
{
        int r;

        setup_step(s, "landlock");
        if (!SETUP_LEAVES_OUT(s, LAYER_LANDLOCK)) {
                if (kernel_landlock_restrict(s->ruleset_fd) < 0)
                        return setup_fail(s, neg_errno(), "restrict");
        }
        s->ruleset_fd = fd_close(s->ruleset_fd);
        setup_step(s, "seccomp");
        if (SETUP_LEAVES_OUT(s, LAYER_SECCOMP))
                return 0;
        r = layers_load_filter(s->filter_fd);
        return r < 0 ? setup_fail(s, r, "load") : 0;
}
