/*
 * Processes, messages between them, and what they can use up: doors of the groups R, I, Q and L.
 */

#include <dirent.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <mqueue.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "doors.h"

/* A process of the machine outside, by the number that it has there. */
static pid_t outsider(void)
{
        return argument ? (pid_t) strtol(argument, NULL, 10) : 1;
}

static void r03(void)
{
        pid_t pid = outsider();
        int ends[2];
        struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGTERM };
        timer_t timer;

        if (pipe2(ends, O_CLOEXEC) == 0) {
                FAILS(fcntl(ends[0], F_SETOWN, pid));
                FAILS(fcntl(ends[0], F_SETOWN, -pid));
        }
        event._sigev_un._tid = pid;
        FAILS(syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &timer));
        FAILS(syscall(SYS_tgkill, pid, pid, 0));
        FAILS(syscall(SYS_tkill, pid, 0));
        FAILS(kill(pid, 0));
        FAILS(kill(-pid, 0));
        FAILS(sigqueue(pid, 0, (union sigval){ 0 }));
}

static void r04(void)
{
        FAILS(ptrace(PTRACE_ATTACH, outsider(), 0, 0));
        FAILS(ptrace(PTRACE_SEIZE, outsider(), 0, 0));
}

static void r06(void)
{
        char byte;
        struct iovec local = { &byte, 1 }, remote = { &byte, 1 };

        FAILS(process_vm_readv(outsider(), &local, 1, &remote, 1, 0));
        FAILS(process_vm_writev(outsider(), &local, 1, &remote, 1, 0));
        FAILS(syscall(SYS_pidfd_open, outsider(), 0));
}

/* A program of the host gives a reference to a process of the host over a socket in the workspace. */
static void r08(void)
{
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        char byte, control[CMSG_SPACE(sizeof(int))];
        struct iovec vector = { &byte, 1 };
        struct msghdr message = { .msg_iov = &vector,
                                  .msg_iovlen = 1,
                                  .msg_control = control,
                                  .msg_controllen = sizeof(control) };
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), process;

        strncpy(address.sun_path, argument, sizeof(address.sun_path) - 1);
        if (connect(fd, (struct sockaddr *) &address, sizeof(address)) < 0 ||
            recvmsg(fd, &message, 0) != 1 || !CMSG_FIRSTHDR(&message))
                return;
        memcpy(&process, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(process));
        FAILS(syscall(SYS_pidfd_send_signal, process, 0, NULL, 0));
        FAILS(syscall(SYS_pidfd_getfd, process, 0, 0));
        FAILS(setns(process, CLONE_NEWNS));
        FAILS(syscall(SYS_process_madvise, process, NULL, 0, 0, 0));
}

static void r09(void)
{
        unsigned long mask = 1;
        void *head, *page = &mask;
        size_t size;
        int status;

        FAILS(syscall(SYS_kcmp, getpid(), outsider(), 0, 0, 0));
        FAILS(syscall(SYS_get_robust_list, outsider(), &head, &size));
        FAILS(syscall(SYS_migrate_pages, outsider(), 8, &mask, &mask));
        FAILS(syscall(SYS_move_pages, outsider(), 1UL, &page, NULL, &status, 0));
}

static void r10(void)
{
        cpu_set_t cpus;
        struct sched_param parameters = { 0 };

        CPU_ZERO(&cpus);
        CPU_SET(0, &cpus);
        FAILS(setpriority(PRIO_PROCESS, (id_t) outsider(), 10));
        FAILS(syscall(SYS_ioprio_set, 1, outsider(), 3 << 13));
        FAILS(sched_setaffinity(outsider(), sizeof(cpus), &cpus));
        FAILS(sched_setscheduler(outsider(), SCHED_IDLE, &parameters));
        FAILS(prlimit(outsider(), RLIMIT_NOFILE, NULL, &(struct rlimit){ 0 }));
}

static void r12(void)
{
        FAILS(prctl(PR_SET_DUMPABLE, 2, 0, 0, 0));
        FAILS(prctl(PR_SET_MM, PR_SET_MM_BRK, 0x10000, 0, 0));
        prctl(PR_SET_PTRACER, outsider(), 0, 0, 0);
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
        FAILS(kill(outsider(), 0));
        if (getppid() == outsider())
                door_open("adopted a process of the host");
}

static void lock_below(const char *folder)
{
        DIR *d = opendir(folder);
        const struct dirent *entry;
        char path[512];

        while (d && (entry = readdir(d))) {
                int fd;

                snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
                fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
                /* Kept open: the locks last as long as the process. */
                if (fd >= 0) {
                        flock(fd, LOCK_EX | LOCK_NB);
                        fcntl(fd, F_SETLEASE, F_RDLCK);
                }
        }
}

/* All that it sees is stopped, locked and leased; whoever is outside sees whether the daemon cares. */
static void r16(void)
{
        DIR *d = opendir("/proc");
        const struct dirent *entry;

        lock_below(".");
        lock_below("/etc");
        lock_below("/run");
        lock_below("/dev");
        while (d && (entry = readdir(d))) {
                pid_t pid = (pid_t) strtol(entry->d_name, NULL, 10);

                if (pid > 0 && pid != getpid())
                        kill(pid, SIGSTOP);
        }
        printf("stopped\n");
        fflush(stdout);
        sleep(600);
}

static unsigned zombies(void)
{
        DIR *d = opendir("/proc");
        const struct dirent *entry;
        unsigned n = 0;

        while (d && (entry = readdir(d))) {
                char path[300], text[300] = "";
                int fd;

                snprintf(path, sizeof(path), "/proc/%s/stat", entry->d_name);
                fd = open(path, O_RDONLY | O_CLOEXEC);
                if (fd < 0)
                        continue;
                if (read(fd, text, sizeof(text) - 1) > 0 && strstr(text, ") Z "))
                        n++;
                close(fd);
        }
        if (d)
                closedir(d);
        return n;
}

static void r18(void)
{
        for (int i = 0; i < 1000; i++) {
                pid_t pid = fork();

                if (pid == 0)
                        _exit(fork() < 0 ? 1 : 0);
                waitpid(pid, NULL, 0);
        }
        for (int tries = 0; tries < 500 && zombies() > 0; tries++)
                usleep(10000);
        if (zombies() > 0)
                door_open("%u zombies", zombies());
}

static void i01(void)
{
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        socklen_t size = (socklen_t) (offsetof(struct sockaddr_un, sun_path) + 1 + strlen(argument));
        static const int types[] = { SOCK_STREAM, SOCK_DGRAM };

        memcpy(address.sun_path + 1, argument, strlen(argument));
        for (size_t i = 0; i < 2; i++) {
                int fd = socket(AF_UNIX, types[i] | SOCK_CLOEXEC, 0);

                FAILS(connect(fd, (struct sockaddr *) &address, size));
                FAILS(sendto(fd, "x", 1, MSG_NOSIGNAL, (struct sockaddr *) &address, size));
                close(fd);
        }
}

/* Datagrams without connecting, by each of the calls. */
static void i03(void)
{
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        struct iovec vector = { (void *) "x", 1 };
        struct mmsghdr message = { .msg_hdr = { .msg_name = &address,
                                                .msg_namelen = sizeof(address),
                                                .msg_iov = &vector,
                                                .msg_iovlen = 1 } };
        int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        char *path, *rest = strdup(argument);

        while ((path = strsep(&rest, ","))) {
                strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
                must_fail(path,
                          sendto(fd, "x", 1, MSG_DONTWAIT, (struct sockaddr *) &address, sizeof(address)),
                          ERRNO_ANY, 0);
                must_fail(path, sendmsg(fd, &message.msg_hdr, MSG_DONTWAIT), ERRNO_ANY, 0);
                must_fail(path, sendmmsg(fd, &message, 1, MSG_DONTWAIT), ERRNO_ANY, 0);
        }
        close(fd);
}

static void i17(void)
{
        char path[128];

        snprintf(path, sizeof(path), "/%s", argument);
        FAILS(mq_open(path, O_RDONLY));
        snprintf(path, sizeof(path), "/dev/shm/%s", argument);
        FAILS(open(path, O_RDONLY | O_CLOEXEC));
        snprintf(path, sizeof(path), "/dev/shm/sem.%s", argument);
        FAILS(open(path, O_RDONLY | O_CLOEXEC));
}

static void q06(void)
{
        struct rlimit limit;
        rlim_t n = 0;

        if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_max > 1024 * 1024) {
                door_open("%llu descriptors may be open", (unsigned long long) limit.rlim_max);
                return;
        }
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
        while (n <= limit.rlim_max && dup(0) >= 0)
                n++;
        if (n > limit.rlim_max)
                door_open("more descriptors than the limit says");
        limit.rlim_max++;
        FAILS(setrlimit(RLIMIT_NOFILE, &limit));
}

/* Sends a descriptor into a socket that nobody reads, again and again. */
static unsigned fill_with_descriptors(void)
{
        char control[CMSG_SPACE(sizeof(int))] = { 0 };
        struct iovec vector = { (void *) "x", 1 };
        struct msghdr message = { .msg_iov = &vector,
                                  .msg_iovlen = 1,
                                  .msg_control = control,
                                  .msg_controllen = sizeof(control) };
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        unsigned n = 0;
        int ends[2];

        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof(int));
        while (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0) {
                memcpy(CMSG_DATA(head), &ends[0], sizeof(int));
                while (sendmsg(ends[0], &message, MSG_DONTWAIT | MSG_NOSIGNAL) == 1)
                        n++;
                if (errno == ETOOMANYREFS)
                        break;
        }
        return n;
}

/* Uses up what the kernel counts for a user, then waits; the user outside tries to live. */
static void q07(void)
{
        struct rlimit limit;
        unsigned n_pipes = 0, n_watchers = 0, n_passed;
        int ends[2];

        getrlimit(RLIMIT_NOFILE, &limit);
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
        while (inotify_init1(IN_CLOEXEC) >= 0)
                n_watchers++;
        for (; n_pipes < 6000 && pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0; n_pipes++)
                fcntl(ends[1], F_SETPIPE_SZ, 1 << 20);
        n_passed = fill_with_descriptors();
        printf("used %u %u %u\n", n_watchers, n_pipes, n_passed);
        fflush(stdout);
        sleep(600);
}

/* As many terminals as there are, then waits. */
static void q22(void)
{
        unsigned n = 0;

        while (n < 100000 && open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC) >= 0)
                n++;
        printf("terminals %u\n", n);
        fflush(stdout);
        sleep(600);
}

/* The first program of all that reads where it is. */
static void l01(void)
{
        char line[512];
        FILE *f = fopen("/proc/self/cgroup", "re");
        bool found = false;

        while (f && fgets(line, sizeof(line), f))
                if (strncmp(line, "0::/e", 5) == 0)
                        found = true;
        if (!found)
                door_open("the first instruction runs in another control group");
}

const Probe process_probes[] = {
        { "R03", r03 }, { "R04", r04 }, { "R06", r06 }, { "R08", r08 }, { "R09", r09 }, { "R10", r10 },
        { "R12", r12 }, { "R16", r16 }, { "R18", r18 }, { "I01", i01 }, { "I03", i03 }, { "I17", i17 },
        { "Q06", q06 }, { "Q07", q07 }, { "Q22", q22 }, { "L01", l01 },
};
const size_t n_process_probes = sizeof(process_probes) / sizeof(process_probes[0]);
