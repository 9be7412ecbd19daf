/*
 * Doors of the kernel that a session must find closed: `probe ID` tries the one that the catalogue of
 * properties names so. Exit status 0: closed, 1: open (and what was possible), 77: cannot be told here.
 * Built static, so that it runs in any root.
 *
 * `probe caller COMMAND...` is what runs on the outside: a caller whose session keyring, descriptors and
 * limits have something to lose.
 */

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/keyctl.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <termios.h>
#include <unistd.h>

#include "doors.h"

#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447
#endif
#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

#define KEY_NAME "sbxt-canary"

int is_open;
const char *argument;

void door_open(const char *format, ...)
{
        va_list arguments;

        va_start(arguments, format);
        vprintf(format, arguments);
        va_end(arguments);
        printf("\n");
        is_open = 1;
}

void must_fail(const char *what, long result, int wanted, int also)
{
        int e = errno;

        if (result >= 0)
                door_open("%s: %ld", what, result);
        else if (wanted != ERRNO_ANY && e != wanted && e != also)
                door_open("%s: %s", what, strerror(e));
}

int in_child(void (*run)(void))
{
        int status;
        pid_t pid = fork();

        if (pid == 0) {
                run();
                _exit(0);
        }
        if (pid < 0 || waitpid(pid, &status, 0) != pid)
                return -1;
        return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

pid_t sleeping_child(void)
{
        pid_t pid = fork();

        if (pid == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                for (;;)
                        pause();
        }
        return pid;
}

static void f10(void)
{
        for (int fd = 3; fd < 1024; fd++)
                if (fcntl(fd, F_GETFD) >= 0)
                        door_open("descriptor %d is open", fd);
}

static void f11(void)
{
        char byte;

        if (read(9, &byte, 1) >= 0)
                door_open("descriptor 9 of the caller was read");
}

static void f16(void)
{
        struct {
                struct file_handle head;
                char bytes[128];
        } handle = { .head.handle_bytes = 128 };
        int mount;

        if (name_to_handle_at(AT_FDCWD, "/", &handle.head, &mount, 0) < 0)
                memset(handle.bytes, 1, sizeof(handle.bytes));
        DENIED(open_by_handle_at(AT_FDCWD, &handle.head, O_RDONLY));
}

static void f17(void)
{
        struct {
                struct file_handle head;
                char bytes[128];
        } handle = { .head.handle_bytes = 128 };
        int mount;

        DENIED(name_to_handle_at(AT_FDCWD, "/", &handle.head, &mount, 0));
}

static void f30(void)
{
        int fd = open("probe-f30", O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

        if (fd < 0)
                return;
        DENIED(fchmod(fd, 04755));
        DENIED(chmod("probe-f30", 02755));
        DENIED(mknod("probe-null", S_IFCHR | 0666, 0x103));
        DENIED(mknod("probe-whiteout", S_IFCHR | 0666, 0));
        close(fd);
        unlink("probe-f30");
}

static void f31(void)
{
        int fd = open("probe-f31", O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

        if (fd < 0)
                return;
        FAILS(fsetxattr(fd, "security.capability", "\1\0\0\2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20, 0));
        FAILS(fsetxattr(fd, "trusted.overlay.opaque", "y", 1, 0));
        close(fd);
        unlink("probe-f31");
}

static void f40(void)
{
        int fd = open("/usr/bin/env", O_RDONLY | O_CLOEXEC);

        if (mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED)
                door_open("a program of the system can be written through a mapping");
        FAILS(open("/usr/bin/env", O_RDWR | O_CLOEXEC));
}

static void p03(void)
{
        FAILS(ptrace(PTRACE_SEIZE, 1, 0, 0));
        FAILS(open("/proc/1/mem", O_RDWR | O_CLOEXEC));
        FAILS(open("/proc/1/environ", O_RDONLY | O_CLOEXEC));
        FAILS(open("/proc/1/maps", O_RDONLY | O_CLOEXEC));
}

static void r05(void)
{
        pid_t child = sleeping_child();

        FAILS(ptrace(PTRACE_SEIZE, child, 0, 0));
        kill(child, SIGKILL);
}

static void r07(void)
{
        int fd = (int) syscall(SYS_pidfd_open, 1, 0);
        int own = (int) syscall(SYS_pidfd_open, getpid(), 0);

        if (fd >= 0)
                DENIED(syscall(SYS_pidfd_getfd, fd, 0, 0));
        if (own >= 0)
                DENIED(syscall(SYS_pidfd_getfd, own, 0, 0));
}

static void r11(void)
{
        struct sched_param high = { .sched_priority = 50 };

        FAILS(sched_setscheduler(0, SCHED_FIFO, &high));
        FAILS(setpriority(PRIO_PROCESS, 0, -5));
}

static void r17(void)
{
        struct rlimit limit = { 0 };

        if (getrlimit(RLIMIT_CORE, &limit) != 0 || limit.rlim_max > 1)
                door_open("hard limit of core files: %llu", (unsigned long long) limit.rlim_max);
}

static void n03(void)
{
        int bits = prctl(PR_GET_SECUREBITS);

        if ((bits & 0x2f) != 0x2f)
                door_open("securebits %#x", (unsigned) bits);
}

static void n04(void)
{
        gid_t groups[256];
        int n = getgroups(256, groups);

        for (int i = 0; i < n; i++)
                if (groups[i] != getgid())
                        door_open("supplementary group %u", groups[i]);
}

static long raw_clone(unsigned long flags)
{
        long pid = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);

        if (pid == 0)
                _exit(0);
        return pid;
}

static void n05(void)
{
        DENIED(unshare(CLONE_NEWUSER));
}

static void n06(void)
{
        uint64_t arguments[11] = { CLONE_NEWUSER, 0, 0, 0, SIGCHLD };
        long pid = syscall(SYS_clone3, arguments, 64);

        if (pid == 0)
                _exit(0);
        must_fail("clone3(CLONE_NEWUSER)", pid, ENOSYS, EPERM);
        DENIED(raw_clone(CLONE_NEWUSER));
}

static void n07(void)
{
        static const unsigned long flags[] = { CLONE_NEWNS,  CLONE_NEWPID,    CLONE_NEWNET, CLONE_NEWIPC,
                                               CLONE_NEWUTS, CLONE_NEWCGROUP, 0x80 };

        for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
                DENIED(unshare((int) flags[i]));
}

static void n17(void)
{
        gid_t group = 0;

        FAILS(setuid(0));
        FAILS(setresuid(1, 1, 1));
        FAILS(setresgid(0, 0, 0));
        FAILS(setgroups(1, &group));
}

static void n20(void)
{
        long key = syscall(SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_SESSION_KEYRING, "user", KEY_NAME, 0);

        if (key >= 0)
                door_open("the caller's key is %ld", key);
        key = syscall(SYS_request_key, "user", KEY_NAME, NULL, 0);
        if (key >= 0)
                door_open("request_key finds the caller's key %ld", key);
}

static void s01(void)
{
        char line[256];
        bool found = false;
        FILE *f = fopen("/proc/self/status", "re");

        while (f && fgets(line, sizeof(line), f))
                if (strncmp(line, "Seccomp:\t2", 10) == 0)
                        found = true;
        if (!found)
                door_open("no filter");
}

static void int80(void)
{
#ifdef __x86_64__
        long result;

        __asm__ volatile("int $0x80" : "=a"(result) : "a"(20L) : "memory", "r8", "r9", "r10", "r11");
        _exit(result == getpid() ? 7 : 0);
#else
        _exit(0);
#endif
}

static void s02(void)
{
        int status = in_child(int80);

        if (status == 7)
                door_open("a 32-bit system call was answered");
        else if (status != 128 + SIGSYS && status != 128 + SIGSEGV)
                door_open("a 32-bit system call ends with %d", status);
}

static void x32(void)
{
        long result = syscall(0x40000000 | 39);

        _exit(result == getpid() ? 7 : 0);
}

static void s03(void)
{
        if (in_child(x32) == 7)
                door_open("an x32 system call was answered");
}

static void s05(void)
{
        char parameters[120] = { 0 };

        ABSENT(syscall(SYS_io_uring_setup, 4, parameters));
        ABSENT(syscall(SYS_io_uring_enter, -1, 0, 0, 0, NULL, 0));
        ABSENT(syscall(SYS_io_uring_register, -1, 0, NULL, 0));
}

static void s06(void)
{
        uint32_t attributes[18] = { 2, 4, 4, 1 };

        DENIED(syscall(SYS_bpf, 0, attributes, sizeof(attributes)));
}

static void s07(void)
{
        DENIED(syscall(SYS_userfaultfd, O_CLOEXEC));
        DENIED(syscall(SYS_userfaultfd, O_CLOEXEC | 1));
        FAILS(open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
}

static void s08(void)
{
        struct perf_event_attr event = { .type = PERF_TYPE_SOFTWARE,
                                         .size = sizeof(event),
                                         .config = PERF_COUNT_SW_TASK_CLOCK,
                                         .exclude_kernel = 1,
                                         .exclude_hv = 1 };

        DENIED(syscall(SYS_perf_event_open, &event, 0, -1, -1, 0));
}

static void s09(void)
{
        DENIED(syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0));
        DENIED(syscall(SYS_add_key, "user", "x", "y", 1, KEY_SPEC_PROCESS_KEYRING));
        DENIED(syscall(SYS_request_key, "user", "x", NULL, 0));
}

static void s10(void)
{
        char byte;
        struct iovec local = { &byte, 1 }, remote = { &byte, 1 };
        pid_t child = sleeping_child();

        DENIED(ptrace(PTRACE_SEIZE, child, 0, 0));
        DENIED(process_vm_readv(child, &local, 1, &remote, 1, 0));
        DENIED(process_vm_writev(child, &local, 1, &remote, 1, 0));
        DENIED(syscall(SYS_kcmp, getpid(), child, 0, 0, 0));
        kill(child, SIGKILL);
}

static void s11(void)
{
        char byte = 'x';

        DENIED(syscall(SYS_ioctl, 0, (unsigned long) TIOCSTI, &byte));
        DENIED(syscall(SYS_ioctl, 0, (unsigned long) TIOCSTI | (1UL << 32), &byte));
}

static void s12(void)
{
        char byte = 3;

        DENIED(syscall(SYS_ioctl, 0, 0x541CUL, &byte)); /* TIOCLINUX */
}

static void s13(void)
{
        DENIED(personality(ADDR_NO_RANDOMIZE));
        DENIED(personality(READ_IMPLIES_EXEC));
        if (personality(0xffffffff) < 0)
                door_open("asking for the personality fails");
}

static void s14(void)
{
        uint64_t arguments[11] = { 0, 0, 0, 0, SIGCHLD };
        long pid = syscall(SYS_clone3, arguments, 64);

        if (pid == 0)
                _exit(0);
        must_fail("clone3", pid, ENOSYS, ENOSYS);
}

static void s15(void)
{
        static const unsigned long flags[] = { CLONE_NEWNS,  CLONE_NEWUSER, CLONE_NEWPID,   CLONE_NEWNET,
                                               CLONE_NEWIPC, CLONE_NEWUTS,  CLONE_NEWCGROUP };

        for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
                DENIED(raw_clone(flags[i]));
                DENIED(raw_clone(flags[i] | (1UL << 40)));
        }
}

static void s16(void)
{
        int fd = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);

        DENIED(unshare(CLONE_NEWUSER));
        DENIED(unshare(CLONE_NEWNS));
        DENIED(unshare(CLONE_FILES));
        DENIED(setns(fd, 0));
}

static void s17(void)
{
        static const long numbers[] = {
                SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, 428, 429, 430, 431, 432, 433, 442
        };

        for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
                long result = syscall(numbers[i], "/", "/", 0L, 0L, 0L);
                char name[32];

                snprintf(name, sizeof(name), "call %ld", numbers[i]);
                must_fail(name, result, EPERM, ENOSYS);
        }
}

static void s18(void)
{
        ABSENT(syscall(SYS_init_module, NULL, 0, ""));
        ABSENT(syscall(SYS_finit_module, -1, "", 0));
        ABSENT(syscall(SYS_delete_module, "x", 0));
        ABSENT(syscall(SYS_kexec_load, 0, 0, NULL, 0));
        ABSENT(syscall(SYS_reboot, 0, 0, 0, NULL));
        ABSENT(syscall(SYS_swapon, "/x", 0));
#ifdef __x86_64__
        ABSENT(syscall(SYS_iopl, 3));
        ABSENT(syscall(SYS_ioperm, 0, 1, 1));
#endif
}

static void s20(void)
{
#ifdef __x86_64__
        char entry[64];

        ABSENT(syscall(SYS_modify_ldt, 0, entry, sizeof(entry)));
#endif
}

static void s21(void)
{
        unsigned long mask = 1;

        DENIED(syscall(SYS_set_mempolicy, 0, NULL, 0));
        DENIED(syscall(SYS_migrate_pages, getpid(), 8, &mask, &mask));
        DENIED(syscall(SYS_move_pages, getpid(), 0, NULL, NULL, NULL, 0));
}

static bool family_is_allowed(int family, int protocol)
{
        return family == AF_UNIX || family == AF_INET || family == AF_INET6 ||
               (family == AF_NETLINK && protocol == 0);
}

static void s22(void)
{
        for (int family = 1; family < 64; family++)
                for (int type = 1; type <= 5; type++) {
                        int fd = socket(family, type | SOCK_CLOEXEC, 0);

                        if (fd < 0)
                                continue;
                        if (!family_is_allowed(family, 0) ||
                            (type > 2 && family != AF_UNIX && family != AF_NETLINK))
                                door_open("socket(%d, %d)", family, type);
                        close(fd);
                }
}

static void s26(void)
{
        FAILS(syscall(SYS_fanotify_init, 0, O_RDONLY));
        must_fail("seccomp(NEW_LISTENER)", syscall(SYS_seccomp, 1, 8, NULL), EPERM, EFAULT);
}

static void s27(void)
{
        int fd = (int) syscall(SYS_memfd_create, "x", 1U);

        if (fd < 0)
                door_open("memfd_create fails, programs need it");
        must_fail("memfd_secret", syscall(SYS_memfd_secret, 0), EPERM, ENOSYS);
}

static void s29(void)
{
        for (long number = 470; number <= 1000; number++) {
                long result = syscall(number, 0, 0, 0, 0, 0, 0);

                if (result >= 0 || errno != ENOSYS)
                        door_open("call %ld: %s", number, strerror(errno));
        }
}

static void w06(void)
{
        FAILS(socket(AF_INET, SOCK_RAW, 1));
        FAILS(socket(AF_PACKET, SOCK_RAW, 0));
        FAILS(socket(AF_INET, SOCK_DGRAM, 1));
        FAILS(socket(AF_INET6, SOCK_DGRAM, 58));
        FAILS(socket(AF_INET6, SOCK_RAW, 58));
}

static void w07(void)
{
        FAILS(socket(40, SOCK_STREAM, 0));
        FAILS(socket(40, SOCK_DGRAM, 0));
}

static void w09(void)
{
        for (int protocol = 1; protocol < 32; protocol++) {
                int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);

                if (fd >= 0)
                        door_open("netlink protocol %d", protocol);
        }
}

static void w10(void)
{
        FAILS(socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP));
        FAILS(socket(AF_INET6, SOCK_STREAM, IPPROTO_MPTCP));
        FAILS(socket(AF_INET, SOCK_STREAM, 132));
        FAILS(socket(AF_INET, SOCK_DGRAM, 136));
}

static void q04(void)
{
        struct statvfs facts;

        if (statvfs("/dev/shm", &facts) != 0)
                return;
        if (facts.f_flag & ST_RDONLY)
                return;
        uint64_t bytes = (uint64_t) facts.f_blocks * facts.f_frsize;
        uint64_t memory = (uint64_t) sysconf(_SC_PHYS_PAGES) * (uint64_t) sysconf(_SC_PAGESIZE);

        if (facts.f_blocks == 0 || bytes > memory / 4)
                door_open("/dev/shm may hold %llu MiB of %llu", (unsigned long long) bytes >> 20,
                          (unsigned long long) memory >> 20);
}

static void x01(void)
{
        struct stat own, shown;
        const char *name = ttyname(0);

        if (!isatty(0)) {
                printf("standard input is no terminal\n");
                exit(77);
        }
        if (!name || fstat(0, &own) != 0 || stat(name, &shown) != 0 || own.st_dev != shown.st_dev ||
            own.st_ino != shown.st_ino)
                door_open("the terminal is not one of this session's own");
        /* Through the caller's terminal a command could be typed into the caller's shell. */
        if (tcgetsid(0) != getsid(0))
                door_open("the terminal belongs to another session of processes");
        if (getsid(0) == 0)
                door_open("the session of processes began outside");
}

static void connect_to(const char *path)
{
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int types[] = { SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET };

        if (strlen(path) >= sizeof(address.sun_path))
                exit(77);
        memcpy(address.sun_path, path, strlen(path));
        for (size_t i = 0; i < 3; i++) {
                int fd = socket(AF_UNIX, types[i] | SOCK_CLOEXEC, 0);

                if (connect(fd, (struct sockaddr *) &address, sizeof(address)) == 0)
                        door_open("%s answers", path);
                if (types[i] == SOCK_DGRAM && sendto(fd, "x", 1, MSG_NOSIGNAL | MSG_DONTWAIT,
                                                     (struct sockaddr *) &address, sizeof(address)) == 1)
                        door_open("%s takes a datagram", path);
                close(fd);
        }
}

static int run_as_caller(char **command)
{
        struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };
        int fd = open("/etc/hostname", O_RDONLY | O_CLOEXEC);

        setrlimit(RLIMIT_CORE, &unlimited);
        if (fd < 0 || dup2(fd, 9) != 9)
                return 125;
        if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, KEY_NAME) < 0 ||
            syscall(SYS_add_key, "user", KEY_NAME, "secret", 6, KEY_SPEC_SESSION_KEYRING) < 0)
                return 125;
        /* The next caller joins this keyring by its name: each new one would count against the user's quota.
         */
        syscall(SYS_keyctl, KEYCTL_SETPERM, KEY_SPEC_SESSION_KEYRING, 0x3f3f0000);
        execvp(command[0], command);
        return 127;
}

static const Probe probes[] = {
        { "F10", f10 }, { "F11", f11 }, { "F16", f16 }, { "F17", f17 }, { "F30", f30 }, { "F31", f31 },
        { "F40", f40 }, { "P03", p03 }, { "R05", r05 }, { "R07", r07 }, { "R11", r11 }, { "R17", r17 },
        { "N03", n03 }, { "N04", n04 }, { "N05", n05 }, { "N06", n06 }, { "N07", n07 }, { "N17", n17 },
        { "N20", n20 }, { "S01", s01 }, { "S02", s02 }, { "S03", s03 }, { "S05", s05 }, { "S06", s06 },
        { "S07", s07 }, { "S08", s08 }, { "S09", s09 }, { "S10", s10 }, { "S11", s11 }, { "S12", s12 },
        { "S13", s13 }, { "S14", s14 }, { "S15", s15 }, { "S16", s16 }, { "S17", s17 }, { "S18", s18 },
        { "S20", s20 }, { "S21", s21 }, { "S22", s22 }, { "S26", s26 }, { "S27", s27 }, { "S29", s29 },
        { "W06", w06 }, { "W07", w07 }, { "W09", w09 }, { "W10", w10 }, { "Q04", q04 }, { "X01", x01 },
};

static bool run_one(const Probe *table, size_t n, const char *id)
{
        for (size_t i = 0; i < n; i++)
                if (strcmp(id, table[i].id) == 0) {
                        table[i].run();
                        fflush(stdout);
                        return true;
                }
        return false;
}

int main(int argc, char **argv)
{
        if (argc < 2)
                return 125;
        if (strcmp(argv[1], "caller") == 0)
                return run_as_caller(argv + 2);
        if (strcmp(argv[1], "connect") == 0) {
                for (int i = 2; i < argc; i++)
                        connect_to(argv[i]);
                return is_open;
        }
        argument = argc > 2 ? argv[2] : NULL;
        if (run_one(probes, sizeof(probes) / sizeof(probes[0]), argv[1]) ||
            run_one(call_probes, n_call_probes, argv[1]) ||
            run_one(process_probes, n_process_probes, argv[1]))
                return is_open;
        return 125;
}
