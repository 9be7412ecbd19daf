/*
 * fuzz-calls SEED N [PATH]...: N system calls by chance, in children of which each lives as long as it can.
 * Whoever starts it looks from outside at what must not have changed. Numbers, flags and pointers are drawn
 * so that many calls get beyond their first check; paths lead everywhere, and to the ones that are given.
 */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHILD_SECONDS    2
#define CALLS_OF_A_CHILD 400
#define N_BUFFERS        8

static const char *const pieces[] = { "..",     ".",       "/",
                                      "proc",   "self",    "root",
                                      "1",      "fd",      "3",
                                      "etc",    "shadow",  "sys",
                                      "dev",    "null",    "tmp",
                                      "run",    "home",    "ns",
                                      "mnt",    "cwd",     "exe",
                                      "mem",    "usr",     "bin",
                                      "x",      "y",       "core",
                                      "maps",   "0",       "task",
                                      "attr",   "uid_map", ".git",
                                      "hooks",  "config",  ".env",
                                      "tries",  "kernel",  "core_pattern",
                                      "environ" };
/* They end the child or its parents at once, or make more children than are counted. */
static const long left_out[] = {
        SYS_exit,
        SYS_exit_group,
        SYS_kill,
        SYS_tkill,
        SYS_tgkill,
        SYS_rt_sigreturn,
        SYS_rt_sigqueueinfo,
        SYS_rt_tgsigqueueinfo,
        SYS_pidfd_send_signal,
        SYS_clone,
        SYS_setrlimit,
        SYS_prlimit64,
        SYS_pause,
        SYS_rt_sigsuspend,
        SYS_rt_sigtimedwait,
        SYS_munmap,
        SYS_mremap,
        SYS_brk,
#ifdef __x86_64__
        SYS_fork,
        SYS_vfork,
        SYS_arch_prctl,
#endif
};

#define BUFFER_SIZE 65536U

static char *buffers[N_BUFFERS];
static char **given;
static unsigned n_given;
static uint64_t state;

/* xorshift64*: the same on every machine. */
static uint64_t draw(void)
{
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        return state * UINT64_C(0x2545f4914f6cdd1d);
}

static unsigned below(unsigned n)
{
        return (unsigned) (draw() >> 33) % n;
}

static char *some_path(void)
{
        char *s = buffers[below(N_BUFFERS)];
        unsigned n = 1 + below(6);
        size_t size = 0;

        if (n_given > 0 && below(4) == 0) {
                snprintf(s, BUFFER_SIZE, "%s", given[below(n_given)]);
                return s;
        }
        size = (size_t) snprintf(s, BUFFER_SIZE, "%s", below(3) > 0 ? "/" : "");
        for (unsigned i = 0; i < n && size < BUFFER_SIZE; i++)
                size += (size_t) snprintf(s + size, BUFFER_SIZE - size, "%s/",
                                          pieces[below(sizeof(pieces) / sizeof(pieces[0]))]);
        if (below(2))
                s[strlen(s) - 1] = '\0';
        return s;
}

static uint64_t some_value(void)
{
        char *s;

        switch (below(10)) {
        case 0:
                return 0;
        case 1:
                return (uint64_t) -1;
        case 2:
                return (uint64_t) (int64_t) AT_FDCWD;
        case 3:
        case 4:
                return below(12);
        case 5:
                return UINT64_C(1) << below(64);
        case 6:
                return draw();
        case 7:
                s = buffers[below(N_BUFFERS)];
                for (unsigned i = 0; i < 128; i += 8)
                        *(uint64_t *) (void *) (s + i) = below(3) ? below(16) : draw();
                return (uint64_t) s;
        default:
                return (uint64_t) some_path();
        }
}

static bool is_left_out(long number)
{
        for (size_t i = 0; i < sizeof(left_out) / sizeof(left_out[0]); i++)
                if (left_out[i] == number)
                        return true;
        return false;
}

static void one_call(void)
{
        long number = below(16) ? (long) below(470) : (long) (draw() & 0x7fffffff);
        uint64_t v[6];

        if (is_left_out(number))
                return;
        for (size_t i = 0; i < 6; i++)
                v[i] = some_value();
        syscall(number, v[0], v[1], v[2], v[3], v[4], v[5]);
}

/* Calls on paths alone, which a random number rarely is. */
static void one_path(void)
{
        static const long numbers[] = { SYS_openat,     SYS_mkdirat,   SYS_unlinkat,          SYS_renameat2,
                                        SYS_linkat,     SYS_symlinkat, SYS_fchmodat,          SYS_fchownat,
                                        SYS_mknodat,    SYS_utimensat, SYS_setxattr,          SYS_truncate,
                                        SYS_chdir,      SYS_mount,     SYS_umount2,           SYS_chroot,
                                        SYS_readlinkat, SYS_faccessat, SYS_inotify_add_watch, SYS_execve };
        long number = numbers[below(sizeof(numbers) / sizeof(numbers[0]))];
        char first[4096], second[4096];

        snprintf(first, sizeof(first), "%s", some_path());
        snprintf(second, sizeof(second), "%s", some_path());
        if (number == SYS_renameat2 || number == SYS_linkat)
                syscall(number, AT_FDCWD, first, AT_FDCWD, second, below(5));
        else if (number == SYS_symlinkat)
                syscall(number, first, AT_FDCWD, second);
        else if (number == SYS_openat)
                syscall(number, AT_FDCWD, first, (O_NONBLOCK | below(1 << 22)) & ~(unsigned) O_ASYNC, 0777);
        else if (number == SYS_mount)
                syscall(number, first, second, below(2) ? "proc" : "tmpfs", 1UL << below(25), NULL);
        else if (number == SYS_execve)
                syscall(number, first, NULL, NULL);
        else if (number == SYS_setxattr || number == SYS_truncate || number == SYS_chdir ||
                 number == SYS_umount2 || number == SYS_chroot)
                syscall(number, first, below(4096), second, 8, 0);
        else
                syscall(number, AT_FDCWD, first, below(010000), below(2) ? 0 : below(65536), 0);
}

/* It may have put off its own alarm, or stopped itself. */
static void wait_for(pid_t pid, const sigset_t *ends)
{
        struct timespec patience = { .tv_sec = CHILD_SECONDS }, none = { 0 };

        while (sigtimedwait(ends, NULL, &patience) < 0 && errno == EINTR)
                ;
        (void) kill(pid, SIGKILL);
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
                ;
        /* What the end itself has said is not the next one's. */
        while (sigtimedwait(ends, NULL, &none) > 0)
                ;
}

static void child(uint64_t seed)
{
        state = seed | 1;
        for (int i = 0; i < CALLS_OF_A_CHILD; i++) {
                if (below(3) == 0)
                        one_path();
                else
                        one_call();
        }
        syscall(SYS_exit_group, 0);
}

int main(int argc, char **argv)
{
        uint64_t seed, n;
        sigset_t ends;

        if (argc < 3)
                return 125;
        sigemptyset(&ends);
        sigaddset(&ends, SIGCHLD);
        sigprocmask(SIG_BLOCK, &ends, NULL);
        seed = strtoull(argv[1], NULL, 0);
        n = strtoull(argv[2], NULL, 0);
        given = argv + 3;
        n_given = (unsigned) argc - 3;
        for (size_t i = 0; i < N_BUFFERS; i++) {
                buffers[i] = mmap(NULL, BUFFER_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                                  0);
                if (buffers[i] == MAP_FAILED)
                        return 125;
        }
        for (uint64_t i = 0; i < n / CALLS_OF_A_CHILD; i++) {
                pid_t pid = fork();

                if (pid == 0)
                        child(seed * UINT64_C(0x9e3779b97f4a7c15) + i);
                if (pid > 0)
                        wait_for(pid, &ends);
        }
        printf("done\n");
        return 0;
}
