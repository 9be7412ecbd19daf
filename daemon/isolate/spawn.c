#include "daemon/isolate/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

/*
 * Between clone3 and execveat only system calls are made: no allocation, no log, no return. The descriptors
 * asked for are first copied above all targets, because a target number may be in use by a later source.
 */

#define SPAWN_EXIT_FAILED 127
#define SPAWN_FIRST_FD    3

/* Who computes little and is waited for much asks for short turns, and gets them sooner. */
#define SPAWN_SLICE_NSEC UINT64_C(100000)

/* SCHED_FLAG_RESET_ON_FORK */
#define SPAWN_RESET_ON_FORK UINT64_C(1)

/* unistd.h has no wrapper in this C library. */
static int do_clone3(struct clone_args *arguments)
{
        return (int) syscall(SYS_clone3, arguments, sizeof(*arguments));
}

static bool move_fds(const SpawnSpec *spec, int *ret_program_fd)
{
        int copies[SPAWN_FDS_MAX], first = SPAWN_FIRST_FD + (int) spec->n_fds;
        int output_fd = spec->output_fd >= 0 ? spec->output_fd : spec->null_fd;

        *ret_program_fd = fcntl(spec->program_fd, F_DUPFD_CLOEXEC, first);
        if (*ret_program_fd < 0)
                return false;
        for (size_t i = 0; i < spec->n_fds; i++) {
                copies[i] = fcntl(spec->fds[i], F_DUPFD_CLOEXEC, first);
                if (copies[i] < 0)
                        return false;
        }
        if (dup2(spec->null_fd, STDIN_FILENO) < 0 || dup2(output_fd, STDOUT_FILENO) < 0)
                return false;
        for (size_t i = 0; i < spec->n_fds; i++) {
                if (dup2(copies[i], SPAWN_FIRST_FD + (int) i) < 0)
                        return false;
        }
        return close_range((unsigned) first, ~0U, CLOSE_RANGE_CLOEXEC) >= 0;
}

static bool reset_signals(void)
{
        struct sigaction ignored = { .sa_handler = SIG_DFL };
        sigset_t none;

        if (sigemptyset(&none) < 0 || sigaction(SIGPIPE, &ignored, NULL) < 0)
                return false;
        return sigprocmask(SIG_SETMASK, &none, NULL) >= 0;
}

static bool drop_rights(const SpawnSpec *spec)
{
        if (spec->uid == 0)
                return true;
        if (setgroups(0, NULL) < 0 || setresgid(spec->gid, spec->gid, spec->gid) < 0 ||
            setresuid(spec->uid, spec->uid, spec->uid) < 0)
                return false;
        return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) >= 0 && prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) >= 0;
}

/* struct sched_attr of the kernel's first version; this C library has none. */
typedef struct SchedulerAttributes {
        uint32_t size;
        uint32_t policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime_nsec; /* of an ordinary process: its slice, 0 for the default; ignored before
                                  Linux 6.12 */
        uint64_t deadline_nsec;
        uint64_t period_nsec;
} SchedulerAttributes;

/* Where the kernel groups processes by session (autogroup), each group has a nice value, and that of a
 * process counts within its group only. */
static void set_group_nice(int nice)
{
        const char text[] = { '-', (char) ('0' + -nice / 10), (char) ('0' + -nice % 10) };
        int fd;

        if (getsid(0) != getpid())
                return;
        fd = open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC);
        if (fd < 0)
                return;
        (void) !write(fd, text, sizeof(text));
        (void) close(fd);
}

static void set_priority(int nice, bool is_prompt, uint64_t flags)
{
        SchedulerAttributes attributes = { .size = sizeof(attributes),
                                           .flags = flags,
                                           .nice = nice,
                                           .runtime_nsec = is_prompt ? SPAWN_SLICE_NSEC : 0 };

        (void) syscall(SYS_sched_setattr, 0, &attributes, 0);
        if (nice < 0)
                set_group_nice(nice);
}

void spawn_set_priority(int nice, bool is_prompt)
{
        set_priority(nice, is_prompt, 0);
}

static _noreturn_ void run_child(const SpawnSpec *spec)
{
        static char *const nothing[] = { NULL };
        int program_fd;

        /* A session of its own: Ctrl-C at the launcher's terminal is the launcher's business. */
        if (spec->nice >= 0)
                (void) setsid();
        /* Where the kernel groups by session it has the launcher's rank in the launcher's group only. */
        else
                (void) setpgid(0, 0);
        /* Nobody inherits our own, nor the child's; what fails here leaves the child slower, not worse. */
        set_priority(spec->nice, spec->is_prompt, SPAWN_RESET_ON_FORK);
        if (move_fds(spec, &program_fd) && reset_signals() && drop_rights(spec))
                (void) syscall(SYS_execveat, program_fd, "", spec->arguments,
                               spec->environment ? spec->environment : nothing, AT_EMPTY_PATH);
        _exit(SPAWN_EXIT_FAILED);
}

int spawn(const SpawnSpec *spec, pid_t *ret_pid, int *ret_pidfd)
{
        struct clone_args arguments = { .flags = spec->namespaces | CLONE_PIDFD, .exit_signal = SIGCHLD };
        int pidfd = -EBADF;
        pid_t pid;

        sb_assert(spec->n_fds <= SPAWN_FDS_MAX);
        arguments.pidfd = (uint64_t) (uintptr_t) &pidfd;
        if (spec->cgroup_fd >= 0) {
                arguments.flags |= CLONE_INTO_CGROUP;
                arguments.cgroup = (unsigned) spec->cgroup_fd;
        }
        pid = do_clone3(&arguments);
        if (pid < 0)
                return neg_errno();
        if (pid == 0)
                run_child(spec);
        *ret_pid = pid;
        *ret_pidfd = pidfd;
        return 0;
}

/* Nobody knows of this process but its parent, so it goes with it; a parent that went before the signal was
 * asked for is seen by its number. */
static _noreturn_ void wait_for_end(pid_t parent)
{
        if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0 || getppid() != parent)
                _exit(SPAWN_EXIT_FAILED);
        for (;;)
                (void) pause();
}

static int start_waiter(struct clone_args *arguments, pid_t *ret_pid, int *ret_pidfd)
{
        pid_t pid, parent = getpid();
        int pidfd = -EBADF;

        arguments->flags |= CLONE_PIDFD;
        arguments->exit_signal = SIGCHLD;
        arguments->pidfd = (uint64_t) (uintptr_t) &pidfd;
        pid = do_clone3(arguments);
        if (pid < 0)
                return neg_errno();
        if (pid == 0)
                wait_for_end(parent);
        *ret_pid = pid;
        *ret_pidfd = pidfd;
        return 0;
}

int spawn_waiter(uint64_t namespaces, pid_t *ret_pid, int *ret_pidfd)
{
        struct clone_args arguments = { .flags = namespaces };

        return start_waiter(&arguments, ret_pid, ret_pidfd);
}

int spawn_waiter_into(int cgroup_fd, int *ret_pidfd)
{
        struct clone_args arguments = { .flags = CLONE_INTO_CGROUP, .cgroup = (unsigned) cgroup_fd };
        pid_t pid;

        return start_waiter(&arguments, &pid, ret_pidfd);
}

int spawn_trial_into(int cgroup_fd, SpawnTrial trial, const void *userdata, int *ret_pidfd)
{
        struct clone_args arguments = { .flags = CLONE_INTO_CGROUP | CLONE_PIDFD,
                                        .exit_signal = SIGCHLD,
                                        .cgroup = (unsigned) cgroup_fd };
        int pidfd = -EBADF;
        pid_t pid;

        arguments.pidfd = (uint64_t) (uintptr_t) &pidfd;
        pid = do_clone3(&arguments);
        if (pid < 0)
                return neg_errno();
        if (pid == 0)
                _exit(trial(userdata));
        *ret_pidfd = pidfd;
        return 0;
}

int spawn_wait(int take_pidfd, int timeout_msec)
{
        struct pollfd p = { .fd = take_pidfd, .events = POLLIN };
        siginfo_t info = { 0 };
        int r = poll(&p, 1, timeout_msec);

        if (r == 1)
                r = waitid(P_PIDFD, (id_t) take_pidfd, &info, WEXITED | WNOWAIT);
        else
                r = r < 0 ? r : -ETIMEDOUT;
        if (r == -1)
                r = neg_errno();
        spawn_reap(take_pidfd);
        if (r < 0)
                return r;
        return info.si_code == CLD_EXITED ? info.si_status : -ECHILD;
}

int spawn_open_namespace(pid_t pid, const char *kind, int *ret_fd)
{
        char path[sizeof("/proc/2147483648/ns/cgroup")];
        int fd, r;

        r = str_printf(path, sizeof(path), "/proc/%d/ns/%s", (int) pid, kind);
        if (r < 0)
                return r;
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return neg_errno();
        *ret_fd = fd;
        return 0;
}

int spawn_reap_within(int pidfd, int msec)
{
        struct pollfd p = { .fd = pidfd, .events = POLLIN };
        siginfo_t info = { 0 };
        int r;

        (void) syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
        do
                r = poll(&p, 1, msec);
        while (r < 0 && errno == EINTR);
        if (r <= 0)
                return -ETIMEDOUT;
        (void) waitid(P_PIDFD, (id_t) pidfd, &info, WEXITED | WNOHANG);
        return 0;
}

void spawn_reap(int take_pidfd)
{
        _cleanup_close_ int pidfd = take_pidfd;
        siginfo_t info = { 0 };

        if (pidfd < 0)
                return;
        (void) syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
        while (waitid(P_PIDFD, (id_t) pidfd, &info, WEXITED) < 0 && errno == EINTR)
                ;
}
