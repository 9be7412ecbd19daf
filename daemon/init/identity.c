#include <errno.h>
#include <linux/keyctl.h>
#include <linux/securebits.h>
#include <sched.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "daemon/init/setup.h"
#include "daemon/isolate/kernel.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"

/* Instances of one session. */
#define INOTIFY_MAX "32"

#define CAPABILITY(c)    (UINT64_C(1) << (c))
#define CAPABILITIES_MAX 64
#define SECUREBITS                                                                                       \
        (SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED | \
         SECBIT_KEEP_CAPS_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED)

/* uint32_t and gid_t are the same thing on Linux. */
_Static_assert(sizeof(gid_t) == sizeof(uint32_t), "groups are passed on as they came");

/* The C library's setgroups() is for several threads; the system call is all that is needed here. */
static int set_groups(uint32_t n, const uint32_t *groups)
{
        return syscall(SYS_setgroups, (size_t) n, groups) < 0 ? neg_errno() : 0;
}

/* The real and saved ids stay root's, and with them the permitted capabilities: only what opening a path
 * looks at becomes the caller's. The same uid outside cannot signal us meanwhile. */
int identity_become_caller(Setup *s)
{
        int r;

        r = set_groups(s->start.n_groups, s->start.groups);
        if (r < 0)
                return r;
        if (setresgid((gid_t) -1, s->start.caller_gid, (gid_t) -1) < 0)
                return neg_errno();
        if (setresuid((uid_t) -1, s->start.caller_uid, (uid_t) -1) < 0)
                return neg_errno();
        return 0;
}

/* Each time before a path is opened: a caller who is root keeps capabilities through setresuid(). */
int identity_lower(Setup *s)
{
        uint64_t effective, permitted, inheritable;

        if (s->is_lowered)
                return 0;
        if (kernel_capset(0, s->capabilities, 0) < 0)
                return neg_errno();
        if (kernel_capget(&effective, &permitted, &inheritable) < 0)
                return neg_errno();
        s->is_lowered = effective == 0 && geteuid() == s->start.caller_uid &&
                        getegid() == s->start.caller_gid;
        return s->is_lowered ? 0 : -EPERM;
}

int identity_raise(Setup *s)
{
        s->is_lowered = false;
        return kernel_capset(CAPABILITY(CAP_SYS_ADMIN) | CAPABILITY(CAP_SYS_CHROOT), s->capabilities, 0) < 0
                               ? neg_errno()
                               : 0;
}

int identity_return(Setup *s)
{
        s->is_lowered = false;
        if (kernel_capset(s->capabilities, s->capabilities, 0) < 0)
                return neg_errno();
        if (setresuid((uid_t) -1, 0, (uid_t) -1) < 0 || setresgid((gid_t) -1, 0, (gid_t) -1) < 0)
                return neg_errno();
        return 0;
}

/* setfsuid() tells no errors: ask again. Nothing else changes these ids while paths are walked. */
static int set_fs_ids(Setup *s, uid_t uid, gid_t gid)
{
        if (s->has_fs_ids && s->fs_uid == uid && s->fs_gid == gid)
                return 0;
        s->has_fs_ids = false;
        (void) setfsgid(gid);
        (void) setfsuid(uid);
        if ((uid_t) setfsuid((uid_t) -1) != uid || (gid_t) setfsgid((gid_t) -1) != gid)
                return -EPERM;
        s->has_fs_ids = true;
        s->fs_uid = uid;
        s->fs_gid = gid;
        return 0;
}

int identity_walk_as_session(Setup *s)
{
        return set_fs_ids(s, s->start.uid, s->start.gid);
}

int identity_walk_as_root(Setup *s)
{
        return set_fs_ids(s, 0, 0);
}

int identity_become_guard(Setup *s)
{
        const uint64_t keep = CAPABILITY(CAP_SYS_ADMIN);
        int r;

        r = set_groups(s->start.n_kept_groups, s->start.kept_groups);
        if (r < 0)
                return r;
        if (setresgid((gid_t) -1, s->start.gid, (gid_t) -1) < 0 ||
            setresuid((uid_t) -1, s->start.uid, (uid_t) -1) < 0)
                return neg_errno();
        if (kernel_capset(keep, keep, 0) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
            prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
                return neg_errno();
        return 0;
}

static int become_session(Setup *s)
{
        const uint64_t keep = CAPABILITY(CAP_SYS_ADMIN);
        int r;

        setup_step(s, "identity");
        if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
                return setup_fail(s, neg_errno(), "keepcaps");
        if (!SETUP_LEAVES_OUT(s, LAYER_GROUPS)) {
                r = set_groups(s->start.n_kept_groups, s->start.kept_groups);
                if (r < 0)
                        return setup_fail(s, r, "setgroups");
        }
        if (setresgid(s->start.gid, s->start.gid, s->start.gid) < 0)
                return setup_fail(s, neg_errno(), "setresgid");
        if (setresuid(s->start.uid, s->start.uid, s->start.uid) < 0)
                return setup_fail(s, neg_errno(), "setresuid");
        if (kernel_capset(keep, keep, 0) < 0)
                return setup_fail(s, neg_errno(), "capset");
        /* Changing ids may have set it to what coredumps follow. */
        if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
                return setup_fail(s, neg_errno(), "dumpable");
        if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 && errno != ENOSYS)
                return setup_fail(s, neg_errno(), "keyring");
        return 0;
}

/* Opened only inside: a knob is that of the namespace of whoever opens it. */
static int set_knob(Setup *s, const char *name, const char *value)
{
        _cleanup_close_ int proc = openat(s->proc_fd, "sys/user", O_PATH | O_DIRECTORY | O_CLOEXEC);
        _cleanup_close_ int knob = -EBADF;
        int r;

        if (proc < 0)
                return setup_fail(s, neg_errno(), "/proc/sys/user");
        knob = openat(proc, name, O_WRONLY | O_CLOEXEC);
        if (knob < 0)
                return setup_fail(s, neg_errno(), "%s", name);
        r = fd_write_all(knob, value, strlen(value));
        return r < 0 ? setup_fail(s, r, "%s", name) : 0;
}

/* Nobody outside root's user namespace owns it: a process of the same user outside can neither trace nor
 * enter. What the kernel counts for each user it counts for root as well then: a session takes a part of
 * root's 128 inotify instances, never all. */
static int enter_user_namespace(Setup *s)
{
        int r;

        setup_step(s, "user-namespace");
        if (SETUP_LEAVES_OUT(s, LAYER_USER_NAMESPACE))
                return 0;
        if (setns(s->user_fd, CLONE_NEWUSER) < 0)
                return setup_fail(s, neg_errno(), "setns");
        r = set_knob(s, "max_inotify_instances", INOTIFY_MAX);
        return r < 0 ? r : set_knob(s, "max_user_namespaces", "0");
}

static int drop_capabilities(Setup *s)
{
        setup_step(s, "capabilities");
        /* Without a user namespace of its own init has not the right to the first two. */
        for (int c = 0; c < CAPABILITIES_MAX && !SETUP_LEAVES_OUT(s, LAYER_CAPABILITIES); c++) {
                if (prctl(PR_CAPBSET_DROP, c, 0, 0, 0) < 0) {
                        if (errno == EINVAL && c > CAP_LAST_CAP)
                                break;
                        return setup_fail(s, neg_errno(), "bounding set, %d", c);
                }
        }
        if (!SETUP_LEAVES_OUT(s, LAYER_CAPABILITIES) && prctl(PR_SET_SECUREBITS, SECUREBITS, 0, 0, 0) < 0)
                return setup_fail(s, neg_errno(), "securebits");
        if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
                return setup_fail(s, neg_errno(), "ambient");
        if (kernel_capset(0, 0, 0) < 0)
                return setup_fail(s, neg_errno(), "capset");
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
                return setup_fail(s, neg_errno(), "no_new_privs");
        return 0;
}

/* Hard limits; a lower one that the launcher runs under stays. The number of files is set in each command:
 * init itself needs some. */
static int set_limits(Setup *s)
{
        static const struct {
                int resource;
                rlim_t soft;
                rlim_t hard;
        } limits[] = {
                { RLIMIT_CORE, 1, 1 },
                { RLIMIT_RTPRIO, 0, 0 },
                { RLIMIT_NICE, 0, 0 },
                { RLIMIT_MEMLOCK, 8U << 20, 8U << 20 },
                { RLIMIT_STACK, 8U << 20, RLIM_INFINITY },
                /* Counted in each user namespace on its own, so for this session alone: what stops a fork
                 * bomb where the pids controller is missing. */
                { RLIMIT_NPROC, 8192, 8192 },
        };

        setup_step(s, "limits");
        if (SETUP_LEAVES_OUT(s, LAYER_LIMITS))
                return 0;
        for (size_t i = 0; i < ELEMENTSOF(limits); i++) {
                struct rlimit now, l = { .rlim_cur = limits[i].soft, .rlim_max = limits[i].hard };

                if (getrlimit(limits[i].resource, &now) < 0)
                        return setup_fail(s, neg_errno(), "getrlimit");
                l.rlim_max = MIN_OF(l.rlim_max, now.rlim_max);
                l.rlim_cur = MIN_OF(l.rlim_cur, l.rlim_max);
                if (setrlimit(limits[i].resource, &l) < 0)
                        return setup_fail(s, neg_errno(), "setrlimit %d", limits[i].resource);
        }
        return 0;
}

int identity_drop(Setup *s)
{
        int r;

        r = become_session(s);
        if (r == 0)
                r = set_limits(s);
        if (r == 0)
                r = enter_user_namespace(s);
        if (r == 0)
                r = drop_capabilities(s);
        return r;
}
