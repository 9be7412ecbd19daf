/*
 * System calls, and what they lead to: doors of the groups F, N, S and W that probe.c does not have.
 */

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/keyctl.h>
#include <linux/openat2.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/quota.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "doors.h"

#ifndef SYS_quotactl_fd
#define SYS_quotactl_fd 443
#endif
#ifndef AT_HANDLE_FID
#define AT_HANDLE_FID AT_REMOVEDIR
#endif

/* The number behind a name in /proc/self/status, or in that of a thread; -1 where there is none. */
static long long status_of(const char *path, const char *name, int base)
{
        char line[256];
        long long found = -1;
        FILE *f = fopen(path, "re");

        while (f && fgets(line, sizeof(line), f))
                if (strncmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ':')
                        found = strtoll(line + strlen(name) + 1, NULL, base);
        if (f)
                fclose(f);
        return found;
}

static void no_rights(void)
{
        static const char *const sets[] = { "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb" };

        for (size_t i = 0; i < sizeof(sets) / sizeof(sets[0]); i++)
                if (status_of("/proc/self/status", sets[i], 16) != 0)
                        door_open("%s %llx", sets[i], status_of("/proc/self/status", sets[i], 16));
}

/* Where it would succeed, it would do harm. */
static void not_for_root(void)
{
        if (geteuid() == 0)
                exit(77);
}

/* Started as a copy that belongs to root and has the setuid bit. */
static void f28(void)
{
        if (geteuid() != getuid() || getegid() != getgid())
                door_open("uid %u became %u", getuid(), geteuid());
        no_rights();
}

/* Started as a copy with capabilities in its file. */
static void f29(void)
{
        no_rights();
        FAILS(open("/etc/shadow", O_RDONLY | O_CLOEXEC));
}

static void n18(void)
{
        f28();
        if (getauxval(AT_SECURE) != 0)
                door_open("the kernel calls it privileged");
}

static void f37(void)
{
        for (unsigned flags = 0; flags <= 0x2c0; flags += 4)
                FAILS(syscall(SYS_fanotify_init, flags, O_RDONLY));
}

static void f38(void)
{
        int fd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct fstrim_range range = { .len = UINT64_MAX };
        char facts[256];

        not_for_root();
        FAILS(quotactl(QCMD(Q_SYNC, USRQUOTA), "/dev/vda", 0, facts));
        FAILS(quotactl(QCMD(Q_GETQUOTA, USRQUOTA), "/dev/vda", (int) getuid(), facts));
        FAILS(syscall(SYS_quotactl_fd, fd, QCMD(Q_GETQUOTA, USRQUOTA), getuid(), facts));
        FAILS(ioctl(fd, FIFREEZE, 0));
        FAILS(ioctl(fd, FITHAW, 0));
        FAILS(ioctl(fd, FITRIM, &range));
}

static void confined(void)
{
        if (status_of("/proc/self/status", "Seccomp", 10) != 2)
                door_open("no filter");
        if (status_of("/proc/self/status", "NoNewPrivs", 10) != 1)
                door_open("new privileges");
        DENIED(syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0));
}

/* A program that has no file: the copy is told so by an argument. */
static void f39(void)
{
        char *const argv[] = { (char *) "probe", (char *) "F39", (char *) "copy", NULL };
        char *const envp[] = { NULL };
        char block[65536];
        ssize_t n;
        int from, to;

        no_rights();
        confined();
        if (argument)
                return;
        from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        to = memfd_create("probe", 0);
        while ((n = read(from, block, sizeof(block))) > 0)
                if (write(to, block, (size_t) n) != n)
                        break;
        fflush(stdout);
        if (!is_open)
                fexecve(to, argv, envp);
        if (!is_open)
                door_open("a program without a file does not run, programs need it");
}

static void n16(void)
{
        struct timespec when;
        struct timeval now = { 0 };
        struct timex clock = { .modes = ADJ_FREQUENCY };

        not_for_root();
        clock_gettime(CLOCK_REALTIME, &when);
        clock.freq = 0;
        FAILS(sethostname("sbxt", 4));
        FAILS(setdomainname("sbxt", 4));
        now.tv_sec = when.tv_sec;
        FAILS(settimeofday(&now, NULL));
        FAILS(clock_settime(CLOCK_REALTIME, &when));
        FAILS(adjtimex(&clock));
        FAILS(reboot((int) 0x12345678));
        FAILS(swapon("/nonexistent", 0));
        FAILS(acct("/nonexistent"));
        FAILS(syscall(SYS_syslog, 3, NULL, 0));
        FAILS(syscall(SYS_vhangup));
}

static void n15(void)
{
        struct {
                uint64_t set, clear, propagation, userns;
        } attributes = { 0 };

        not_for_root();
        FAILS(mount("none", "/tmp", "tmpfs", 0, NULL));
        FAILS(mount("/", "/tmp", NULL, MS_BIND, NULL));
        FAILS(mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL));
        FAILS(umount2("/proc", MNT_DETACH));
        FAILS(chroot("/tmp"));
        FAILS(syscall(SYS_pivot_root, "/tmp", "/tmp"));
        ABSENT(syscall(428, AT_FDCWD, "/", 1));                /* open_tree */
        ABSENT(syscall(429, AT_FDCWD, "/", AT_FDCWD, "/", 0)); /* move_mount */
        ABSENT(syscall(430, "tmpfs", 0));                      /* fsopen */
        ABSENT(syscall(431, -1, 6, NULL, NULL, 0));            /* fsconfig */
        ABSENT(syscall(432, -1, 0, 0));                        /* fsmount */
        ABSENT(syscall(433, AT_FDCWD, "/", 0));                /* fspick */
        ABSENT(syscall(442, AT_FDCWD, "/", 0, &attributes, sizeof(attributes)));
}

static void s12(void)
{
        int terminal = open("/dev/tty", O_RDWR | O_CLOEXEC), number = 0;
        char byte = 3;

        for (int fd = 0; fd <= terminal || fd < 1; fd++) {
                DENIED(syscall(SYS_ioctl, fd, 0x541CUL, &byte)); /* TIOCLINUX */
                FAILS(ioctl(fd, TIOCCONS, 0));
                FAILS(ioctl(fd, TIOCSETD, &(int){ 15 }));
                FAILS(ioctl(fd, 0x5453, &number)); /* TIOCSERGSTRUCT */
        }
}

static void s19(void)
{
        struct {
                struct file_handle head;
                char bytes[128];
        } handle = { .head.handle_bytes = 128 };
        int mount;

        DENIED(name_to_handle_at(AT_FDCWD, "/", &handle.head, &mount, 0));
        DENIED(name_to_handle_at(AT_FDCWD, ".", &handle.head, &mount, AT_HANDLE_FID));
        DENIED(open_by_handle_at(AT_FDCWD, &handle.head, O_RDONLY));
}

static void s23(void)
{
        for (int family = 2; family < 64; family++)
                for (int type = 1; type <= 5; type++) {
                        int ends[2];

                        FAILS(socketpair(family, type, 0, ends));
                }
}

static void socketcall(void)
{
#ifdef __x86_64__
        long result;

        __asm__ volatile("int $0x80"
                         : "=a"(result)
                         : "a"(102L), "b"(1L), "c"(0L)
                         : "memory", "r8", "r9", "r10", "r11");
        _exit(result == -EFAULT ? 7 : 0);
#else
        _exit(128 - 128);
#endif
}

static void s24(void)
{
        if (in_child(socketcall) == 7)
                door_open("sockets by the 32-bit call");
}

static void s25(void)
{
        struct {
                uint16_t n;
                void *code;
        } filter = { 1, &(uint64_t){ 6 } };
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
        char table[84] = "nat";
        socklen_t size = sizeof(table);

        FAILS(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)));
        FAILS(setsockopt(fd, SOL_SOCKET, SO_ATTACH_BPF, &(int){ -1 }, sizeof(int)));
        FAILS(setsockopt(fd, SOL_SOCKET, SO_MARK, &one, sizeof(one)));
        FAILS(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3));
        FAILS(setsockopt(fd, IPPROTO_IP, 19 /* IP_TRANSPARENT */, &one, sizeof(one)));
        FAILS(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &one, sizeof(one)));
        FAILS(setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", 4));
        FAILS(setsockopt(fd, IPPROTO_IP, 64 /* IPT_SO_SET_REPLACE */, table, sizeof(table)));
        FAILS(getsockopt(fd, IPPROTO_IP, 64 /* IPT_SO_GET_INFO */, table, &size));
        close(fd);
}

/* What is behind descriptor fd, told apart by a sum that order matters for. */
static uint64_t sum_of(int fd)
{
        unsigned char block[65536];
        uint64_t sum = 1;
        ssize_t n;
        off_t at = 0;

        while ((n = pread(fd, block, sizeof(block), at)) > 0) {
                for (ssize_t i = 0; i < n; i++)
                        sum = sum * 31 + block[i];
                at += n;
        }
        return sum;
}

static void splice_round(int fd, unsigned *seed)
{
        int pipe_fds[2], other[2];
        loff_t at = rand_r(seed) % 4000;
        char bytes[8192];
        struct iovec vector = { bytes, 1 + (size_t) rand_r(seed) % sizeof(bytes) };

        if (pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK) < 0 || pipe2(other, O_CLOEXEC | O_NONBLOCK) < 0)
                return;
        memset(bytes, 'X', sizeof(bytes));
        /* All buffers of the pipe have once been merged into: the flag of old pages is what gave files away.
         */
        while (write(pipe_fds[1], bytes, sizeof(bytes)) > 0)
                ;
        while (read(pipe_fds[0], bytes, sizeof(bytes)) > 0)
                ;
        if (splice(fd, &at, pipe_fds[1], NULL, 1 + (size_t) rand_r(seed) % 64, SPLICE_F_NONBLOCK) > 0) {
                tee(pipe_fds[0], other[1], 64, SPLICE_F_NONBLOCK);
                (void) !write(pipe_fds[1], "XXXXXXXX", 8);
                (void) !write(other[1], "XXXXXXXX", 8);
                vmsplice(pipe_fds[1], &vector, 1,
                         SPLICE_F_NONBLOCK | (rand_r(seed) % 2 ? SPLICE_F_GIFT : 0));
                at = 0;
                splice(other[0], NULL, fd, &at, 64, SPLICE_F_NONBLOCK);
                splice(pipe_fds[0], NULL, fd, &at, 64, SPLICE_F_NONBLOCK);
        }
        for (size_t i = 0; i < 2; i++) {
                close(pipe_fds[i]);
                close(other[i]);
        }
}

static void s28(void)
{
        int fd = open("/usr/bin/env", O_RDONLY | O_CLOEXEC);
        uint64_t before = sum_of(fd);
        unsigned seed = 1;

        for (int i = 0; i < 200; i++)
                splice_round(fd, &seed);
        if (sum_of(fd) != before)
                door_open("a program of the system was changed through a pipe");
        close(fd);
}

static void *thread_main(void *unused)
{
        char path[64];

        (void) unused;
        snprintf(path, sizeof(path), "/proc/self/task/%ld/status", syscall(SYS_gettid));
        if (status_of(path, "Seccomp", 10) != 2)
                door_open("a thread without a filter");
        DENIED(syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0));
        return NULL;
}

static void s30(void)
{
        pthread_t threads[4];

        for (size_t i = 0; i < 4; i++)
                if (pthread_create(&threads[i], NULL, thread_main, NULL) != 0)
                        door_open("no thread");
        for (size_t i = 0; i < 4; i++)
                pthread_join(threads[i], NULL);
}

/* The program starts itself again, and counts the filters as it did before. */
static void s31(void)
{
        long long filters = status_of("/proc/self/status", "Seccomp_filters", 10);
        char text[32];
        char *const argv[] = { (char *) "probe", (char *) "S31", text, NULL };

        if (filters < 1 || (argument && filters < atoll(argument)))
                door_open("%lld filters", filters);
        FAILS(prctl(PR_SET_SECCOMP, 0, NULL));
        FAILS(prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0));
        confined();
        fflush(stdout);
        snprintf(text, sizeof(text), "%lld", filters);
        if (!argument && !is_open) {
                execv("/proc/self/exe", argv);
                door_open("the program cannot be started again");
        }
}

static void vsyscall(void)
{
#ifdef __x86_64__
        /* getcpu of the old page; a filter that allows the call lets it answer. */
        long (*getcpu)(unsigned *, unsigned *, void *) = (void *) 0xffffffffff600800UL;
        unsigned cpu;

        _exit(getcpu(&cpu, NULL, NULL) == 0 ? 0 : 7);
#endif
}

static void s32(void)
{
        int status = in_child(vsyscall);

        if (status != 0 && status != 128 + SIGSEGV && status != 128 + SIGSYS)
                door_open("the old page of calls answers with %d", status);
}

static void s33(void)
{
        prctl(65 /* PR_SET_MDWE */, 1, 0, 0, 0);
        confined();
#ifdef __x86_64__
        syscall(SYS_arch_prctl, 0x5002 /* ARCH_SHSTK_DISABLE */, 1);
        syscall(SYS_arch_prctl, 0x5004 /* ARCH_SHSTK_UNLOCK */, 1);
#endif
        confined();
}

static void s34(void)
{
        for (int i = 0; i < 300000; i++)
                if (syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0) >= 0) {
                        door_open("keyctl");
                        return;
                }
}

static void w33(void)
{
        struct sockaddr_in server = { .sin_family = AF_INET,
                                      .sin_port = htons((uint16_t) (argument ? strtol(argument, NULL, 10)
                                                                             : 80)),
                                      .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
        unsigned char route[] = { 131, 7, 4, 127, 0, 0, 1, 0 };

        FAILS(setsockopt(fd, SOL_SOCKET, SO_MARK, &one, sizeof(one)));
        FAILS(setsockopt(fd, SOL_SOCKET, SO_PRIORITY, &(int){ 7 }, sizeof(int)));
        FAILS(setsockopt(fd, IPPROTO_IP, IP_OPTIONS, route, sizeof(route)));
        /* With data before the handshake: whoever listens outside must not hear of it. */
        if (sendto(fd, "GET / HTTP/1.0\r\n\r\n", 18, MSG_FASTOPEN | MSG_NOSIGNAL,
                   (struct sockaddr *) &server, sizeof(server)) > 0)
                door_open("data before the handshake arrives at port %u", ntohs(server.sin_port));
        close(fd);
}

const Probe call_probes[] = {
        { "F28", f28 }, { "F29", f29 }, { "F37", f37 }, { "F38", f38 }, { "F39", f39 },
        { "N15", n15 }, { "N16", n16 }, { "N18", n18 }, { "S12", s12 }, { "S19", s19 },
        { "S23", s23 }, { "S24", s24 }, { "S25", s25 }, { "S28", s28 }, { "S30", s30 },
        { "S31", s31 }, { "S32", s32 }, { "S33", s33 }, { "S34", s34 }, { "W33", w33 },
};
const size_t n_call_probes = sizeof(call_probes) / sizeof(call_probes[0]);
