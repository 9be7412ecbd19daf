#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "daemon/isolate/filter.h"
#include "proto/base/fd.h"
#include "tests/unit/check.h"

/* Runs the exported programs in an interpreter of our own: also for ABIs that this kernel lacks. */

#define ARCH     AUDIT_ARCH_X86_64
#define ERRNO(e) (SECCOMP_RET_ERRNO | (uint32_t) (e))
#define ANY      0xdeadbeefcafe0000ULL

static const struct sock_filter *session_program, *command_program;
static size_t session_size, command_size;

static bool jump_taken(const struct sock_filter *f, uint32_t a)
{
        switch (BPF_OP(f->code)) {
        case BPF_JEQ:
                return a == f->k;
        case BPF_JGE:
                return a >= f->k;
        case BPF_JSET:
                return (a & f->k) != 0;
        default:
                fail_msg("jump 0x%x", f->code);
                return false;
        }
}

static uint32_t simulate(const struct sock_filter *program, size_t n, const struct seccomp_data *data)
{
        uint32_t a = 0;

        for (size_t pc = 0; pc < n; pc++) {
                const struct sock_filter *f = &program[pc];

                if (f->code == (BPF_LD | BPF_W | BPF_ABS)) {
                        assert_true(f->k + sizeof(a) <= sizeof(*data));
                        memcpy(&a, (const char *) data + f->k, sizeof(a));
                } else if (f->code == (BPF_ALU | BPF_AND | BPF_K)) {
                        a &= f->k;
                } else if (f->code == (BPF_RET | BPF_K)) {
                        return f->k;
                } else if (f->code == (BPF_JMP | BPF_JA)) {
                        pc += f->k;
                } else {
                        pc += jump_taken(f, a) ? f->jt : f->jf;
                }
        }
        fail_msg("the program has no end");
        return 0;
}

static uint32_t run(long nr, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3)
{
        struct seccomp_data d = { .nr = (int) nr, .arch = ARCH, .args = { a0, a1, a2, a3 } };

        return simulate(session_program, session_size, &d);
}

#define ALLOWED(...)    assert_int_equal(run(__VA_ARGS__), SECCOMP_RET_ALLOW)
#define REFUSED(e, ...) assert_int_equal(run(__VA_ARGS__), ERRNO(e))

static void test_architectures(void **state)
{
        struct seccomp_data d = { .nr = SYS_getpid, .arch = AUDIT_ARCH_I386 };

        (void) state;
        assert_int_equal(simulate(session_program, session_size, &d), SECCOMP_RET_KILL_PROCESS);
        assert_int_equal(simulate(command_program, command_size, &d), SECCOMP_RET_KILL_PROCESS);
        d = (struct seccomp_data){ .nr = SYS_getpid | 0x40000000, .arch = ARCH };
        assert_int_equal(simulate(session_program, session_size, &d), SECCOMP_RET_KILL_PROCESS);
        d.nr = SYS_getpid;
        assert_int_equal(simulate(session_program, session_size, &d), SECCOMP_RET_ALLOW);
}

static void test_lists(void **state)
{
        static const long refused[] = { SYS_ptrace,
                                        SYS_mount,
                                        SYS_bpf,
                                        SYS_keyctl,
                                        SYS_unshare,
                                        SYS_setns,
                                        SYS_chroot,
                                        SYS_reboot,
                                        SYS_userfaultfd,
                                        SYS_perf_event_open,
                                        SYS_pidfd_getfd,
                                        SYS_kcmp,
                                        SYS_open_by_handle_at,
                                        SYS_name_to_handle_at,
                                        SYS_mbind,
                                        SYS_modify_ldt,
                                        SYS_init_module,
                                        SYS_pivot_root,
                                        SYS_umount2,
                                        SYS_process_vm_readv,
                                        SYS_memfd_secret,
                                        SYS_fanotify_init };
        static const long absent[] = { SYS_io_uring_setup,
                                       SYS_io_uring_enter,
                                       SYS_io_uring_register,
                                       SYS_open_tree,
                                       SYS_fsopen,
                                       SYS_mount_setattr,
                                       SYS_move_mount,
                                       SYS_openat2,
                                       452,
                                       467,
                                       1023,
                                       5000 };

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(refused); i++)
                REFUSED(EPERM, refused[i], ANY, ANY, ANY, ANY);
        for (size_t i = 0; i < ELEMENTSOF(absent); i++)
                REFUSED(ENOSYS, absent[i], ANY, ANY, ANY, ANY);
        ALLOWED(SYS_read, 0, 0, 0, 0);
        ALLOWED(SYS_execve, 0, 0, 0, 0);
        ALLOWED(SYS_clone3, 0, 0, 0, 0);
        ALLOWED(SYS_landlock_restrict_self, 0, 0, 0, 0);
        ALLOWED(SYS_memfd_create, 0, 0, 0, 0);
}

static void test_clone(void **state)
{
        static const uint64_t flags[] = { CLONE_NEWNS,  CLONE_NEWUSER, CLONE_NEWPID,    CLONE_NEWNET,
                                          CLONE_NEWIPC, CLONE_NEWUTS,  CLONE_NEWCGROUP, 0x80 };

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(flags); i++) {
                REFUSED(EPERM, SYS_clone, flags[i] | 17, 0, 0, 0);
                REFUSED(EPERM, SYS_clone, flags[i] << 32 | 17, 0, 0, 0);
        }
        ALLOWED(SYS_clone, 17, 0, 0, 0);
        ALLOWED(SYS_clone, CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SETTLS,
                0, 0, 0);
}

static void test_arguments(void **state)
{
        static const uint64_t requests[] = { 0x5412, 0x541c, 0x541d, 0x5423 };

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(requests); i++) {
                REFUSED(EPERM, SYS_ioctl, 0, requests[i], 0, 0);
                REFUSED(EPERM, SYS_ioctl, 0, requests[i] | 1ULL << 32, 0, 0);
        }
        ALLOWED(SYS_ioctl, 0, 0x5401, 0, 0);
        ALLOWED(SYS_personality, 0, 0, 0, 0);
        ALLOWED(SYS_personality, 0xffffffff, 0, 0, 0);
        REFUSED(EPERM, SYS_personality, 0x0040000, 0, 0, 0);
        ALLOWED(SYS_prctl, PR_SET_NAME, 0, 0, 0);
        REFUSED(0, SYS_prctl, PR_SET_KEEPCAPS, 1, 0, 0);
        REFUSED(EPERM, SYS_seccomp, 1, 8, 0, 0);
        ALLOWED(SYS_seccomp, 1, 1, 0, 0);
        REFUSED(EPERM, SYS_setsockopt, 3, SOL_SOCKET, 36, 0);
        REFUSED(EPERM, SYS_setsockopt, 3, SOL_SOCKET, 26, 0);
        REFUSED(EPERM, SYS_setsockopt, 3, 0, 64, 0);
        REFUSED(EPERM, SYS_setsockopt, 3, 6, 31, 0);
        REFUSED(EPERM, SYS_setsockopt, 3, 41, 75, 0);
        ALLOWED(SYS_setsockopt, 3, SOL_SOCKET, SO_REUSEADDR, 0);
        ALLOWED(SYS_setsockopt, 3, 6, 1, 0);
}

static void look_at_sockets(bool lets_pings)
{
        for (uint64_t family = 0; family < 64; family++) {
                bool is_inet = family == AF_INET || family == AF_INET6;

                for (uint64_t type = 1; type < 8; type++) {
                        for (uint64_t protocol = 0; protocol < 300; protocol++) {
                                uint32_t r = run(SYS_socket, family, type | SOCK_CLOEXEC, protocol, 0);
                                bool ok = (is_inet && type == SOCK_STREAM &&
                                           (protocol == 0 || protocol == 6)) ||
                                          (is_inet && type == SOCK_DGRAM &&
                                           (protocol == 0 || protocol == 17)) ||
                                          (lets_pings && type == SOCK_DGRAM && is_inet &&
                                           protocol == (family == AF_INET ? 1 : 58)) ||
                                          (family == AF_UNIX && type <= 2 && protocol <= 1) ||
                                          (family == AF_NETLINK && (type == 2 || type == 3) &&
                                           protocol == 0);

                                assert_int_equal(r == SECCOMP_RET_ALLOW, ok);
                        }
                }
                assert_int_equal(run(SYS_socketpair, family, 5, 0, 0) == SECCOMP_RET_ALLOW,
                                 family == AF_UNIX);
        }
        REFUSED(EAFNOSUPPORT, SYS_socket, AF_VSOCK, 1, 0, 0);
}

static void load(int fd, const struct sock_filter **ret, size_t *ret_n)
{
        const void *data;
        size_t size;

        assert_int_equal(fd_map_sealed(fd, 65536, &data, &size), 0);
        *ret = data;
        *ret_n = size / sizeof(struct sock_filter);
        (void) fd_close(fd);
}

static void test_sockets(void **state)
{
        (void) state;
        look_at_sockets(/* lets_pings= */ false);
}

/* Where something else refuses pings, these sockets get that far, and nothing else does. */
static void test_pings(void **state)
{
        const struct sock_filter *usual = session_program;
        size_t n_usual = session_size;
        int fd;

        (void) state;
        assert_int_equal(filter_session_new(/* lets_pings= */ true, &fd), 0);
        load(fd, &session_program, &session_size);
        look_at_sockets(/* lets_pings= */ true);
        session_program = usual;
        session_size = n_usual;
}

static void test_modes(void **state)
{
        (void) state;
        REFUSED(EPERM, SYS_chmod, 0, 04755, 0, 0);
        REFUSED(EPERM, SYS_fchmod, 0, 02755, 0, 0);
        REFUSED(EPERM, SYS_fchmodat, 0, 0, 04755, 0);
        ALLOWED(SYS_fchmodat, 0, 0, 01755, 0);
        REFUSED(EPERM, SYS_openat, 0, 0, 0100 | 1, 04755);
        REFUSED(EPERM, SYS_openat, 0, 0, 020200000 | 1, 04755);
        ALLOWED(SYS_openat, 0, 0, 0200000, 04755);
        ALLOWED(SYS_open, 0, 0100, 0644, 0);
        REFUSED(EPERM, SYS_creat, 0, 04755, 0, 0);
        REFUSED(EPERM, SYS_mknod, 0, S_IFCHR | 0600, 0, 0);
        REFUSED(EPERM, SYS_mknodat, 0, 0, S_IFBLK | 0600, 0);
        REFUSED(EPERM, SYS_mknodat, 0, 0, S_IFREG | 04700, 0);
        ALLOWED(SYS_mknodat, 0, 0, S_IFIFO | 0600, 0);
}

static void test_command(void **state)
{
        struct seccomp_data d = { .nr = SYS_clone3, .arch = ARCH };

        (void) state;
        assert_int_equal(simulate(command_program, command_size, &d), ERRNO(ENOSYS));
        d.nr = SYS_clone;
        assert_int_equal(simulate(command_program, command_size, &d), SECCOMP_RET_ALLOW);
}

static int setup(void **state)
{
        int fd;

        (void) state;
        assert_int_equal(filter_session_new(/* lets_pings= */ false, &fd), 0);
        load(fd, &session_program, &session_size);
        assert_int_equal(filter_command_new(&fd), 0);
        load(fd, &command_program, &command_size);
        return 0;
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_architectures), cmocka_unit_test(test_lists),
                cmocka_unit_test(test_clone),         cmocka_unit_test(test_arguments),
                cmocka_unit_test(test_sockets),       cmocka_unit_test(test_modes),
                cmocka_unit_test(test_pings),         cmocka_unit_test(test_command),
        };

        return cmocka_run_group_tests(tests, setup, NULL);
}
