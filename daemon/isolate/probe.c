#include "daemon/isolate/probe.h"

#include <errno.h>
#include <linux/fanotify.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>

#include "daemon/isolate/devices.h"
#include "daemon/isolate/fuse.h"
#include "daemon/isolate/kernel.h"
#include "daemon/isolate/netns.h"
#include "daemon/isolate/spawn.h"
#include "daemon/isolate/userns.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/id.h"
#include "proto/base/log.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif
#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif

#define LANDLOCK_ABI_NEEDED 2
#define KILL_MSEC           5000
#define ID_OF_NOBODY        65534U

static int probe_landlock(uint32_t *ret_abi)
{
        int abi = kernel_landlock_create(NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

        if (abi < 0)
                return neg_errno();
        *ret_abi = (uint32_t) abi;
        return abi >= LANDLOCK_ABI_NEEDED ? 0 : -EOPNOTSUPP;
}

static int probe_landlock_scoping(void)
{
        KernelLandlockRuleset ruleset = { .scoped = KERNEL_LANDLOCK_SCOPE_ABSTRACT |
                                                    KERNEL_LANDLOCK_SCOPE_SIGNAL };
        _cleanup_close_ int fd = kernel_landlock_create(&ruleset, sizeof(ruleset), 0);

        return fd < 0 ? neg_errno() : 0;
}

static int probe_openat2(void)
{
        _cleanup_close_ int fd = kernel_openat2(AT_FDCWD, "/", O_PATH | O_DIRECTORY | O_CLOEXEC,
                                                RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);

        return fd < 0 ? neg_errno() : 0;
}

/* move_mount() is behind the template, which was made before. */
static int probe_mount_api(void)
{
        struct mount_attr attr = { .attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV };
        _cleanup_close_ int fd = kernel_open_tree(AT_FDCWD, "/proc", OPEN_TREE_CLONE);

        if (fd < 0 || kernel_mount_setattr(fd, 0, &attr) < 0)
                return neg_errno();
        return 0;
}

static int wait_for_kill(int group_fd, int pidfd)
{
        struct pollfd p = { .fd = pidfd, .events = POLLIN };
        int r;

        r = cgroup_kill(group_fd);
        if (r < 0)
                return r;
        return poll(&p, 1, KILL_MSEC) == 1 ? 0 : -ETIMEDOUT;
}

/* A child that only waits is born in a group of its own, which is then killed. */
static void probe_cgroup(const CgroupBase *base, PrivProbe *ret_clone, PrivProbe *ret_kill)
{
        _cleanup_close_ int group_fd = -EBADF;
        int pidfd = -EBADF, r;
        Id id;

        ret_kill->error = -ENOTRECOVERABLE;
        r = id_random(&id);
        if (r >= 0)
                r = cgroup_make(base, &id, &(PrivLimits){ 0 }, &group_fd);
        ret_clone->error = r;
        if (r < 0)
                return;
        ret_clone->error = spawn_waiter_into(group_fd, &pidfd);
        if (ret_clone->error >= 0)
                ret_kill->error = wait_for_kill(group_fd, pidfd);
        spawn_reap(pidfd);
        if (cgroup_remove(base, &id) < 0)
                (void) log_warning(0, "cannot remove a control group, leaving it to the next start");
}

static int probe_seccomp(void)
{
        uint32_t action = SECCOMP_RET_KILL_PROCESS;

        return syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) < 0 ? neg_errno() : 0;
}

static int probe_user_namespace(void)
{
        _cleanup_close_ int fd = -EBADF;

        return userns_new(ID_OF_NOBODY, ID_OF_NOBODY, &fd);
}

/* Each is tried as sessions use it: the later ones are for kernels without the first. */
static int probe_redirect(int home_fd, uint32_t *ret_kind, Steering **ret)
{
        static const struct {
                enum PrivRedirect kind;
                bool has_log;
        } kinds[] = { { REDIRECT_TPROXY, true }, { REDIRECT_TPROXY, false }, { REDIRECT_SK_LOOKUP, true } };
        int r = 0;

        for (size_t i = 0; i < ELEMENTSOF(kinds); i++) {
                _cleanup_(steering_freep) Steering *s = NULL;

                r = steering_new(kinds[i].kind, kinds[i].has_log, &s);
                if (r >= 0)
                        r = netns_try(home_fd, s);
                if (r >= 0) {
                        *ret_kind = kinds[i].kind | (kinds[i].has_log ? REDIRECT_LOGS : 0U);
                        *ret = TAKE_PTR(s);
                        return 0;
                }
        }
        return r;
}

static int probe_pings(const CgroupBase *base, int home_fd, Steering *steering, Pings **ret)
{
        _cleanup_(pings_freep) Pings *p = NULL;
        int r;

        if (!steering)
                return -EOPNOTSUPP;
        r = pings_new(base, &p);
        if (r < 0)
                return r;
        steering_set_pings(steering, true);
        r = pings_try(p, base, home_fd, steering);
        if (r < 0) {
                steering_set_pings(steering, false);
                return r;
        }
        *ret = TAKE_PTR(p);
        return 0;
}

static int probe_network_namespace(int home_fd)
{
        NetworkNamespace n = NETNS_INIT;
        int r;

        r = netns_new(home_fd, /* steering= */ NULL, &n);
        netns_done(&n);
        return r;
}

static void probe_sockets(PrivProbe *ret_pidfd, PrivProbe *ret_rights)
{
        int pair[2], pidfd = -EBADF, zero = 0;
        socklen_t size = sizeof(pidfd);

        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
                ret_pidfd->error = ret_rights->error = neg_errno();
                return;
        }
        if (getsockopt(pair[0], SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size) < 0)
                ret_pidfd->error = neg_errno();
        if (setsockopt(pair[0], SOL_SOCKET, SO_PASSRIGHTS, &zero, sizeof(zero)) < 0)
                ret_rights->error = neg_errno();
        (void) fd_close(pidfd);
        fd_close_many(pair, ELEMENTSOF(pair));
}

static int probe_fanotify(void)
{
        _cleanup_close_ int fd = (int) syscall(SYS_fanotify_init,
                                               FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK |
                                                               FAN_REPORT_DIR_FID | FAN_REPORT_NAME,
                                               0);

        return fd < 0 ? neg_errno() : 0;
}

static int probe_fuse(void)
{
        _cleanup_close_ int device = -EBADF, mount = -EBADF;

        return fuse_mount_new(&device, &mount);
}

static int probe_controller(const CgroupBase *base, uint32_t bit)
{
        return cgroup_base_controllers(base) & bit ? 0 : -EOPNOTSUPP;
}

void probe_all(const CgroupBase *base, int home_fd, PrivProbe probes[_PROBE_MAX], Steering **ret_steering,
               Pings **ret_pings)
{
        PrivProbe *redirect = &probes[PROBE_REDIRECT];

        memset(probes, 0, sizeof(probes[0]) * _PROBE_MAX);
        probes[PROBE_LANDLOCK].error = probe_landlock(&probes[PROBE_LANDLOCK].value);
        probes[PROBE_LANDLOCK_SCOPING].error = probe_landlock_scoping();
        probes[PROBE_OPENAT2].error = probe_openat2();
        probes[PROBE_MOUNT_API].error = probe_mount_api();
        probe_cgroup(base, &probes[PROBE_CLONE_INTO_CGROUP], &probes[PROBE_CGROUP_KILL]);
        probes[PROBE_SECCOMP].error = probe_seccomp();
        probes[PROBE_USER_NAMESPACE].error = probe_user_namespace();
        probes[PROBE_NETWORK_NAMESPACE].error = probe_network_namespace(home_fd);
        redirect->error = probe_redirect(home_fd, &redirect->value, ret_steering);
        probes[PROBE_PINGS].error = probe_pings(base, home_fd, *ret_steering, ret_pings);
        probes[PROBE_DEVICES].error = devices_refuse(base);
        probe_sockets(&probes[PROBE_PEER_PIDFD], &probes[PROBE_PASS_RIGHTS]);
        probes[PROBE_CGROUP_MEMORY].error = probe_controller(base, CONTROLLER_MEMORY);
        probes[PROBE_CGROUP_PIDS].error = probe_controller(base, CONTROLLER_PIDS);
        probes[PROBE_CGROUP_CPU].error = probe_controller(base, CONTROLLER_CPU);
        probes[PROBE_CGROUP_IO].error = probe_controller(base, CONTROLLER_IO);
        probes[PROBE_FANOTIFY].error = probe_fanotify();
        probes[PROBE_FUSE].error = probe_fuse();
        probes[PROBE_BPF_LSM].error = probe_bpf_lsm();
        probes[PROBE_FEXIT].error = probe_fexit();
}

const char *probe_layer(uint32_t name)
{
        static const char *const layers[_PROBE_MAX] = {
                [PROBE_LANDLOCK] = "landlock",        [PROBE_LANDLOCK_SCOPING] = "landlock-scoping",
                [PROBE_DEVICES] = "cgroup-devices",   [PROBE_PEER_PIDFD] = "peer-pidfd",
                [PROBE_PASS_RIGHTS] = "pass-rights",  [PROBE_CGROUP_MEMORY] = "cgroup-memory",
                [PROBE_CGROUP_PIDS] = "cgroup-pids",  [PROBE_CGROUP_CPU] = "cgroup-cpu",
                [PROBE_CGROUP_IO] = "cgroup-io",      [PROBE_FUSE] = "fuse",
                [PROBE_BPF_LSM] = "bpf-lsm",          [PROBE_FEXIT] = "fexit",
                [PROBE_FANOTIFY] = "protected-paths",
        };

        return name < _PROBE_MAX ? layers[name] : NULL;
}
