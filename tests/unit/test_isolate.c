/* Kernel objects of a session, each for real: needs root and a v2 control group tree. */

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/isolate/cgroup.h"
#include "daemon/isolate/netns.h"
#include "daemon/isolate/spawn.h"
#include "daemon/isolate/userns.h"
#include "daemon/isolate/worker.h"
#include "proto/base/clock.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"
#include "tests/unit/check.h"

#define TEST_UID         54321U
#define TEST_RUNTIME_DIR "/run/sandboxd-test-isolate"

/* Runs f in a child; its return value is the child's exit status. */
static int in_child(int (*f)(const void *data), const void *data)
{
        pid_t pid = (pid_t) syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
        int status = 0;

        if (pid == 0)
                _exit(f(data));
        assert_true(pid > 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

static ino_t inode_of(const char *path)
{
        struct stat st;

        assert_int_equal(stat(path, &st), 0);
        return st.st_ino;
}

static int look_at_network(const void *data)
{
        const NetworkNamespace *n = data;
        struct if_nameindex *all;
        unsigned n_up = 0;

        if (setns(n->fd, CLONE_NEWNET) < 0)
                return 1;
        all = if_nameindex();
        for (struct if_nameindex *i = all; i && i->if_index; i++) {
                struct ifreq request = { 0 };
                int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

                if (fd < 0 || str_copy(request.ifr_name, sizeof(request.ifr_name), i->if_name) < 0)
                        return 2;
                if (ioctl(fd, SIOCGIFFLAGS, &request) < 0)
                        return 3;
                if (request.ifr_flags & IFF_UP) {
                        n_up++;
                        if (!str_equal(i->if_name, "lo"))
                                return 4;
                }
                (void) close(fd);
        }
        return n_up == 1 ? 0 : 5;
}

static void test_netns(void **state)
{
        NetworkNamespace n = NETNS_INIT;
        ino_t home = inode_of("/proc/self/ns/net");
        unsigned before = count_fds();
        int home_fd;

        (void) state;
        assert_int_equal(netns_open_home(&home_fd), 0);
        assert_int_equal(netns_new(home_fd, /* steering= */ NULL, &n), 0);
        assert_true(inode_of("/proc/self/ns/net") == home);
        assert_true(n.socket_fds[EGRESS_PROXY4] >= 0 && n.socket_fds[EGRESS_DOOR4] >= 0);
        assert_int_equal(in_child(look_at_network, &n), 0);
        netns_done(&n);
        home_fd = fd_close(home_fd);
        assert_int_equal(count_fds(), before);
}

static void test_steering(void **state)
{
        static const enum PrivRedirect kinds[] = { REDIRECT_TPROXY, REDIRECT_SK_LOOKUP };
        ino_t home = inode_of("/proc/self/ns/net");
        unsigned before = count_fds();
        int home_fd;

        (void) state;
        assert_int_equal(netns_open_home(&home_fd), 0);
        for (size_t i = 0; i < ELEMENTSOF(kinds); i++) {
                Steering *s = NULL;

                assert_int_equal(steering_new(kinds[i], /* has_log= */ true, &s), 0);
                assert_int_equal(netns_try(home_fd, s), 0);
                assert_true(inode_of("/proc/self/ns/net") == home);
                s = steering_free(s);
        }
        /* What nothing steers does not arrive. */
        assert_int_equal(netns_try(home_fd, NULL), -ETIMEDOUT);
        home_fd = fd_close(home_fd);
        assert_int_equal(count_fds(), before);
}

static uint64_t cost_of_bare(int home_fd)
{
        struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING | IFF_LOOPBACK };
        uint64_t begin = clock_monotonic_usec();
        int fd;

        assert_int_equal(unshare(CLONE_NEWNET), 0);
        fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &request), 0);
        (void) close(fd);
        assert_int_equal(setns(home_fd, CLONE_NEWNET), 0);
        return clock_monotonic_usec() - begin;
}

static uint64_t cost_of_ours(int home_fd, const Steering *s)
{
        uint64_t begin = clock_monotonic_usec(), end;
        NetworkNamespace n;

        assert_int_equal(netns_new(home_fd, s, &n), 0);
        end = clock_monotonic_usec();
        netns_done(&n);
        return end - begin;
}

static int compare_costs(const void *a, const void *b)
{
        const uint64_t *x = a, *y = b;

        return (*x > *y) - (*x < *y);
}

/* The whole network of a session costs at most three times a namespace with lo up. The cheapest of each:
 * what else the machine does only adds. */
static void test_cost(void **state)
{
        uint64_t bare[31], ours[31];
        Steering *s = NULL;
        int home_fd;

        (void) state;
        assert_int_equal(netns_open_home(&home_fd), 0);
        assert_int_equal(steering_new(REDIRECT_TPROXY, /* has_log= */ true, &s), 0);
        steering_set_pings(s, true);
        for (size_t i = 0; i < ELEMENTSOF(bare); i++) {
                bare[i] = cost_of_bare(home_fd);
                ours[i] = cost_of_ours(home_fd, s);
        }
        qsort(bare, ELEMENTSOF(bare), sizeof(bare[0]), compare_costs);
        qsort(ours, ELEMENTSOF(ours), sizeof(ours[0]), compare_costs);
        print_message("bare %llu us, ours %llu us\n", (unsigned long long) bare[0],
                      (unsigned long long) ours[0]);
        assert_true(ours[0] <= 3 * bare[0]);
        s = steering_free(s);
        home_fd = fd_close(home_fd);
}

typedef struct Ids {
        int fd;
        uint32_t uid;
} Ids;

static int look_at_ids(const void *data)
{
        const Ids *ids = data;

        if (setresgid(ids->uid, ids->uid, ids->uid) < 0 || setresuid(ids->uid, ids->uid, ids->uid) < 0)
                return 1;
        /* Owned by root: not even its own user may enter. */
        if (setns(ids->fd, CLONE_NEWUSER) >= 0 || errno != EPERM)
                return 2;
        return 0;
}

static int enter_and_look(const void *data)
{
        const Ids *ids = data;
        char text[128] = "", expected[128];
        int fd;

        if (setns(ids->fd, CLONE_NEWUSER) < 0)
                return 1;
        fd = open("/proc/self/uid_map", O_RDONLY | O_CLOEXEC);
        if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
                return 2;
        if (str_printf(expected, sizeof(expected), "%10u %10u %10u\n", ids->uid, TEST_UID, 1U) < 0)
                return 3;
        return str_equal(text, expected) ? 0 : 4;
}

static void test_userns(void **state)
{
        Ids ids = { .uid = TEST_UID };
        unsigned before = count_fds();

        (void) state;
        assert_int_equal(userns_new(TEST_UID, TEST_UID, &ids.fd), 0);
        assert_int_equal(in_child(enter_and_look, &ids), 0);
        assert_int_equal(in_child(look_at_ids, &ids), 0);
        ids.fd = fd_close(ids.fd);
        assert_int_equal(userns_new_idmap(TEST_UID, TEST_UID, &ids.fd), 0);
        ids.uid = 0;
        assert_int_equal(in_child(enter_and_look, &ids), 0);
        ids.fd = fd_close(ids.fd);
        assert_int_equal(userns_new(UINT32_MAX, TEST_UID, &ids.fd), -EINVAL);
        assert_int_equal(count_fds(), before);
}

static void spawn_sleeper(int cgroup_fd, pid_t *ret_pid, int *ret_pidfd)
{
        static const char *const arguments[] = { "sleep", "1000", NULL };
        _cleanup_close_ int program_fd = open("/usr/bin/sleep", O_PATH | O_CLOEXEC);
        _cleanup_close_ int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        SpawnSpec spec = { .program_fd = program_fd,
                           .arguments = (char *const *) (uintptr_t) arguments,
                           .cgroup_fd = cgroup_fd,
                           .null_fd = null_fd,
                           .output_fd = -EBADF };

        assert_int_equal(spawn(&spec, ret_pid, ret_pidfd), 0);
}

static void wait_until_empty(int cgroup_fd)
{
        int r = 1;

        for (unsigned i = 0; i < 500 && r == 1; i++) {
                r = cgroup_is_populated(cgroup_fd);
                if (r == 1)
                        (void) poll(NULL, 0, 10);
        }
        assert_int_equal(r, 0);
}

static void test_cgroup(void **state)
{
        _cleanup_(cgroup_base_freep) CgroupBase *base = NULL;
        PrivLimits limits = { 0 };
        int fd, pidfd;
        pid_t pid;
        Id id;

        (void) state;
        assert_int_equal(cgroup_base_new(TEST_RUNTIME_DIR, &base), 0);
        assert_int_equal(id_random(&id), 0);
        assert_int_equal(cgroup_make(base, &id, &limits, &fd), 0);
        assert_int_equal(cgroup_is_populated(fd), 0);
        spawn_sleeper(fd, &pid, &pidfd);
        assert_int_equal(cgroup_is_populated(fd), 1);
        assert_int_equal(cgroup_base_holds(base, pid), 1);
        assert_int_equal(cgroup_base_holds(base, getpid()), 0);
        assert_int_equal(cgroup_give(fd, TEST_UID, TEST_UID), 0);
        /* A child group, and the worst that its user can do to the modes. */
        assert_int_equal(mkdirat(fd, "e1", 0755), 0);
        assert_int_equal(fchownat(fd, "e1", TEST_UID, TEST_UID, 0), 0);
        assert_int_equal(fchmodat(fd, "e1", 0, 0), 0);
        assert_int_equal(fchmod(fd, 0), 0);
        assert_int_equal(cgroup_kill(fd), 0);
        spawn_reap(pidfd);
        wait_until_empty(fd);
        fd = fd_close(fd);
        assert_int_equal(cgroup_remove(base, &id), 0);
        assert_int_equal(cgroup_remove(base, &id), 0);
}

static void test_cgroup_leftover(void **state)
{
        _cleanup_(cgroup_base_freep) CgroupBase *base = NULL;
        PrivLimits limits = { 0 };
        siginfo_t info = { 0 };
        int fd, pidfd;
        pid_t pid;
        Id id;

        (void) state;
        assert_int_equal(cgroup_base_new(TEST_RUNTIME_DIR, &base), 0);
        assert_int_equal(id_random(&id), 0);
        assert_int_equal(cgroup_make(base, &id, &limits, &fd), 0);
        spawn_sleeper(fd, &pid, &pidfd);
        assert_int_equal(cgroup_base_clean(base, NULL, NULL), 0);
        assert_int_equal(waitid(P_PIDFD, (id_t) pidfd, &info, WEXITED), 0);
        assert_int_equal(info.si_status, SIGKILL);
        pidfd = fd_close(pidfd);
        fd = fd_close(fd);
        assert_int_equal(cgroup_make(base, &id, &limits, &fd), 0);
        fd = fd_close(fd);
        assert_int_equal(cgroup_remove(base, &id), 0);
}

/* The group's user may make groups for commands, no tower of them and not any number; the limits on both are
 * not the user's to write. */
static void test_cgroup_depth(void **state)
{
        _cleanup_(cgroup_base_freep) CgroupBase *base = NULL;
        _cleanup_close_ int fd = -EBADF;
        const PrivLimits limits = { 0 };
        struct stat st;
        Id id;

        (void) state;
        assert_int_equal(cgroup_base_new(TEST_RUNTIME_DIR, &base), 0);
        assert_int_equal(id_random(&id), 0);
        assert_int_equal(cgroup_make(base, &id, &limits, &fd), 0);
        assert_int_equal(cgroup_give(fd, TEST_UID, TEST_UID), 0);
        assert_int_equal(mkdirat(fd, "e1", 0755), 0);
        assert_int_equal(mkdirat(fd, "e1/deeper", 0755), -1);
        assert_int_equal(errno, EAGAIN);
        for (unsigned i = 2; i <= 1024; i++) {
                char name[16];

                assert_true(snprintf(name, sizeof(name), "e%u", i) > 0);
                assert_int_equal(mkdirat(fd, name, 0755), 0);
        }
        assert_int_equal(mkdirat(fd, "one-more", 0755), -1);
        assert_int_equal(fstatat(fd, "cgroup.max.depth", &st, 0), 0);
        assert_int_equal(st.st_uid, 0);
        assert_int_equal(fstatat(fd, "cgroup.max.descendants", &st, 0), 0);
        assert_int_equal(st.st_uid, 0);
        assert_int_equal(cgroup_remove(base, &id), 0);
}

static void test_cgroup_missing_controller(void **state)
{
        _cleanup_(cgroup_base_freep) CgroupBase *base = NULL;
        PrivLimits limits = { .memory_bytes = 1 << 30, .tasks = 100 };
        int fd = -EBADF, r;
        Id id;

        (void) state;
        assert_int_equal(cgroup_base_new(TEST_RUNTIME_DIR, &base), 0);
        assert_int_equal(id_random(&id), 0);
        r = cgroup_make(base, &id, &limits, &fd);
        if ((cgroup_base_controllers(base) & (CONTROLLER_MEMORY | CONTROLLER_PIDS)) ==
            (CONTROLLER_MEMORY | CONTROLLER_PIDS))
                assert_int_equal(r, 0);
        else
                assert_int_equal(r, -EOPNOTSUPP);
        fd = fd_close(fd);
        assert_int_equal(cgroup_remove(base, &id), 0);
}

/* Descriptors arrive in the order asked for, whatever their numbers were, and no others. */
static void test_spawn_fds(void **state)
{
        static const char *const arguments[] = { "ls", "/proc/self/fd", NULL };
        _cleanup_close_ int program_fd = open("/usr/bin/ls", O_PATH | O_CLOEXEC);
        _cleanup_close_ int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        _cleanup_free_ char *text = NULL;
        int pipe_fds[2], pidfd, fds[2];
        size_t size;
        pid_t pid;

        (void) state;
        assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
        fds[0] = pipe_fds[1];
        fds[1] = program_fd;
        SpawnSpec spec = { .program_fd = program_fd,
                           .arguments = (char *const *) (uintptr_t) arguments,
                           .cgroup_fd = -EBADF,
                           .null_fd = null_fd,
                           .output_fd = pipe_fds[1],
                           .fds = fds,
                           .n_fds = 2,
                           .uid = TEST_UID,
                           .gid = TEST_UID };

        assert_int_equal(spawn(&spec, &pid, &pidfd), 0);
        pipe_fds[1] = fd_close(pipe_fds[1]);
        assert_int_equal(fd_read_all(pipe_fds[0], 4096, &text, &size), 0);
        /* 5 is the directory that ls itself reads. */
        assert_string_equal(text, "0\n1\n2\n3\n4\n5\n");
        spawn_reap(pidfd);
        pipe_fds[0] = fd_close(pipe_fds[0]);
}

static const int worker_calls[] = { SCMP_SYS(openat), SCMP_SYS(read),       SCMP_SYS(getuid),
                                    SCMP_SYS(mmap),   SCMP_SYS(newfstatat), SCMP_SYS(brk) };

static int confine(const void *data)
{
        static const WorkerDirectory directories[] = {
                { "/var/lib", /* is_writable= */ false, /* is_optional= */ false },
                { "/no/such/directory", /* is_writable= */ true, /* is_optional= */ true },
        };
        WorkerSpec spec = { .name = "test",
                            .uid = TEST_UID,
                            .gid = TEST_UID,
                            .directories = directories,
                            .n_directories = ELEMENTSOF(directories),
                            .syscalls = worker_calls,
                            .n_syscalls = ELEMENTSOF(worker_calls),
                            .files_max = 64 };

        (void) data;
        if (unshare(CLONE_NEWNS) < 0 || worker_confine(&spec) < 0)
                return 1;
        if (getuid() != TEST_UID || syscall(SYS_getppid) != -1)
                return 2;
        if (open("/var/lib", O_RDONLY | O_DIRECTORY | O_CLOEXEC) < 0)
                return 3;
        if (open("/usr", O_RDONLY | O_CLOEXEC) >= 0 ||
            open("/var/lib/x", O_RDWR | O_CREAT | O_CLOEXEC, 0600) >= 0)
                return 4;
        if (mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED)
                return 5;
        return 0;
}

static void test_worker_confine(void **state)
{
        (void) state;
        assert_int_equal(in_child(confine, NULL), 0);
}

/* What a sanitized worker may do beside its own calls (sanitizer.c), no other may. */
static int confine_and_try(const void *data)
{
        static const WorkerSpec spec = { .name = "test", .uid = TEST_UID, .gid = TEST_UID, .files_max = 64 };
        static const long extra[] = { SYS_sched_yield, SYS_gettid,      SYS_getpid,        SYS_mprotect,
                                      SYS_futex,       SYS_sigaltstack, SYS_rt_sigprocmask };

        (void) data;
        if (unshare(CLONE_NEWNS) < 0 || worker_confine(&spec) < 0)
                return 1;
        for (size_t i = 0; i < ELEMENTSOF(extra); i++) {
                errno = 0;
                (void) syscall(extra[i], 0, 0, 0, 0, 0, 0);
#if defined(__SANITIZE_ADDRESS__)
                if (errno == EPERM)
                        return 2;
#else
                if (errno != EPERM)
                        return 3;
#endif
        }
        return syscall(SYS_getppid) == -1 && errno == EPERM ? 0 : 4;
}

static void test_worker_sanitizer_calls(void **state)
{
        (void) state;
        assert_int_equal(in_child(confine_and_try, NULL), 0);
}

/* Root in its own namespace, unconfined: the proof must notice. */
static int prove_unconfined(const void *data)
{
        WorkerSpec spec = { .name = "test" };

        (void) data;
        return worker_prove(&spec) == -ENOTRECOVERABLE ? 0 : 1;
}

static int confine_with_socket(const void *data)
{
        static const int calls[] = { SCMP_SYS(socket) };
        WorkerSpec spec = { .name = "test",
                            .uid = TEST_UID,
                            .gid = TEST_UID,
                            .syscalls = calls,
                            .n_syscalls = ELEMENTSOF(calls),
                            .files_max = 64 };

        (void) data;
        if (unshare(CLONE_NEWNS) < 0)
                return 1;
        return worker_confine(&spec) == -ENOTRECOVERABLE ? 0 : 2;
}

static int confine_as_root(const void *data)
{
        WorkerSpec spec = { .name = "test", .files_max = 64 };

        (void) data;
        if (unshare(CLONE_NEWNS) < 0)
                return 1;
        return worker_confine(&spec) == -EINVAL ? 0 : 2;
}

static void test_worker_refuses(void **state)
{
        (void) state;
        assert_int_equal(in_child(prove_unconfined, NULL), 0);
        assert_int_equal(in_child(confine_with_socket, NULL), 0);
        assert_int_equal(in_child(confine_as_root, NULL), 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_netns),          cmocka_unit_test(test_steering),
                cmocka_unit_test(test_cost),           cmocka_unit_test(test_userns),
                cmocka_unit_test(test_cgroup),         cmocka_unit_test(test_cgroup_leftover),
                cmocka_unit_test(test_cgroup_depth),   cmocka_unit_test(test_cgroup_missing_controller),
                cmocka_unit_test(test_spawn_fds),      cmocka_unit_test(test_worker_confine),
                cmocka_unit_test(test_worker_refuses), cmocka_unit_test(test_worker_sanitizer_calls),
        };

        if (geteuid() != 0)
                return 77;
        return cmocka_run_group_tests(tests, NULL, NULL);
}
