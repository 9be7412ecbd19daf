/*
 * Stands before the C library in test builds of the programs, whose object files are the product's: counts
 * calls, and lets the n-th one of a class fail, or stops the process there for the test to kill it. A
 * program cannot kill itself: as pid 1 of its namespace it is spared its own signals.
 */

#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tests/fault/page.h"

#define EXPORT      __attribute__((visibility("default")))
#define STOP_CYCLES (100ULL * 1000 * 1000 * 1000)
#define PATH_SIZE   4096
#define WAIT_MSEC   100
#define KILLED      137
/* Five deaths in ten seconds are too many for the launcher. */
#define LADDER_PAUSE_NSEC 2100000000

enum {
        PROGRAM_LAUNCHER = 1,
        PROGRAM_API = 2,
        PROGRAM_AUDIT = 3,
        PROGRAM_INIT = 7,
        PROGRAM_READER = 9,
        PROGRAM_LAUNCHER_CHILD = 10,
        PROGRAM_INIT_CHILD = 11,
        PROGRAM_WATCH = 12,
};

static const char *const programs[] = { "",
                                        "sandboxd",
                                        "sandboxd-api",
                                        "sandboxd-audit",
                                        "sandboxd-dialer",
                                        "sandboxd-egress",
                                        "sandboxd-lookup",
                                        "sandbox-init",
                                        "sandboxctl",
                                        [PROGRAM_WATCH] = "sandboxd-watch" };

enum {
        LINE_none,
        LINE_malloc,
        LINE_calloc,
        LINE_realloc,
        LINE_aligned,
        LINE_fork,
        LINE_syscall,
        LINE_fcntl,
        LINE_epoll_ctl,
        LINE_recvmsg,
        LINE_epoll_wait,
        LINE_waitid,
        LINE_poll,
#define CALL(name, class, failure, error) LINE_##name,
#define GNU                               CALL
#include "tests/fault/calls.def"
#undef CALL
#undef GNU
};

static FaultPage *page;
static uint32_t program;
static int32_t host_pid;
static uintptr_t base;
static uint32_t own_at, own_count; /* of a ladder */

static long raw(long number, long a, long b, long c, long d, long e, long f)
{
        register long r10 __asm__("r10") = d;
        register long r8 __asm__("r8") = e;
        register long r9 __asm__("r9") = f;
        long result = number;

        __asm__ volatile("syscall"
                         : "+a"(result)
                         : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                         : "rcx", "r11", "memory");
        return result;
}

static void stop(void)
{
        unsigned long long since = __builtin_ia32_rdtsc();

        page->own_pid = (int32_t) raw(SYS_getpid, 0, 0, 0, 0, 0, 0);
        page->pid = host_pid;
        __atomic_store_n(&page->is_stopped, 1U, __ATOMIC_RELEASE);
        while (__atomic_load_n(&page->is_stopped, __ATOMIC_ACQUIRE) &&
               __builtin_ia32_rdtsc() - since < STOP_CYCLES)
                __builtin_ia32_pause();
}

/* The call that this process has taken for its own, once. */
static bool hit_rung(const void *caller)
{
        FaultRung *rung = &page->rungs[own_at];

        if (__atomic_add_fetch(&own_count, 1U, __ATOMIC_ACQ_REL) != own_at)
                return false;
        rung->caller = (uintptr_t) caller - base;
        __atomic_store_n(&rung->state, FAULT_RUNG_FIRED, __ATOMIC_RELEASE);
        return true;
}

static void take_rung(void)
{
        uint32_t at;

        if (!page->is_ladder || page->target != program)
                return;
        at = __atomic_fetch_add(&page->next, page->stride, __ATOMIC_ACQ_REL);
        if (at > page->last || at >= FAULT_RUNGS)
                return;
        page->rungs[at].pid = host_pid;
        own_at = at;
        __atomic_store_n(&page->rungs[at].state, FAULT_RUNG_STARTED, __ATOMIC_RELEASE);
}

/* Whether this call is to fail. */
static bool hit(FaultClass class, uint32_t line, const void *caller)
{
        uint32_t n;

        if (!page)
                return false;
        (void) __atomic_add_fetch(&page->counts[program][class], 1U, __ATOMIC_RELAXED);
        if (page->target != program || !(page->classes & (1U << class)))
                return false;
        if (page->is_ladder) {
                if (!hit_rung(caller))
                        return false;
                /* As if it were killed: nothing more of it runs. */
                if (page->action == FAULT_STOP)
                        (void) raw(SYS_exit_group, KILLED, 0, 0, 0, 0, 0);
                return page->action == FAULT_FAIL;
        }
        n = __atomic_add_fetch(&page->count, 1U, __ATOMIC_ACQ_REL);
        if (n != page->at || page->action == FAULT_COUNT)
                return false;
        page->call = line;
        page->caller = (uintptr_t) caller - base;
        __atomic_store_n(&page->fired, 1U, __ATOMIC_RELEASE);
        if (page->action == FAULT_FAIL)
                return true;
        stop();
        return false;
}

#define HIT(class, line) hit(class, LINE_##line, __builtin_return_address(0))

/* Every argument and result of these calls is an integer or a pointer, so each passes through unchanged. */
#define SIX_TYPES long, long, long, long, long, long
#define SIX_NAMES long a, long b, long c, long d, long e, long f

#if defined(FAULT_STATIC)
/* The linker's --wrap gives the names. */
#define STAND_BEFORE(name)                                    \
        long real_##name(SIX_TYPES) __asm__("__real_" #name); \
        EXPORT long fault_##name(SIX_TYPES) __asm__("__wrap_" #name);
#else
/* The loader finds this library before the C library. */
#include <dlfcn.h>
typedef long (*Any)(SIX_TYPES);
#define STAND_BEFORE(name)                      \
        static long real_##name(SIX_NAMES)      \
        {                                       \
                static Any found;               \
                if (!found)                     \
                        found = find(#name);    \
                return found(a, b, c, d, e, f); \
        }                                       \
        EXPORT long fault_##name(SIX_TYPES) __asm__(#name);

static Any find(const char *name)
{
        void *found = dlsym(RTLD_NEXT, name);
        Any call;

        memcpy(&call, &found, sizeof(call));
        return call;
}
#endif

#define CALL(name, class, failure, error)             \
        STAND_BEFORE(name)                            \
        long fault_##name(SIX_NAMES)                  \
        {                                             \
                if (HIT(FAULT_##class, name)) {       \
                        errno = error;                \
                        return failure;               \
                }                                     \
                return real_##name(a, b, c, d, e, f); \
        }
#if defined(FAULT_STATIC)
#define GNU(name, class, failure, error)
#else
#define GNU CALL
#endif
#include "tests/fault/calls.def"

static void count_live(int n)
{
        if (page)
                (void) __atomic_add_fetch(&page->live[program], n, __ATOMIC_RELAXED);
}

#if defined(FAULT_STATIC)
void *real_malloc(size_t n) __asm__("__real_malloc");
void *real_calloc(size_t n, size_t size) __asm__("__real_calloc");
void *real_realloc(void *p, size_t n) __asm__("__real_realloc");
void real_free(void *p) __asm__("__real_free");
EXPORT void *fault_malloc(size_t n) __asm__("__wrap_malloc");
EXPORT void *fault_calloc(size_t n, size_t size) __asm__("__wrap_calloc");
EXPORT void *fault_realloc(void *p, size_t n) __asm__("__wrap_realloc");
EXPORT void fault_free(void *p) __asm__("__wrap_free");
#else
/* By their other names: dlsym() itself needs memory. */
void *real_malloc(size_t n) __asm__("__libc_malloc");
void *real_calloc(size_t n, size_t size) __asm__("__libc_calloc");
void *real_realloc(void *p, size_t n) __asm__("__libc_realloc");
void real_free(void *p) __asm__("__libc_free");
void *real_memalign(size_t alignment, size_t n) __asm__("__libc_memalign");
EXPORT void *fault_malloc(size_t n) __asm__("malloc");
EXPORT void *fault_calloc(size_t n, size_t size) __asm__("calloc");
EXPORT void *fault_realloc(void *p, size_t n) __asm__("realloc");
EXPORT void *fault_reallocarray(void *p, size_t n, size_t size) __asm__("reallocarray");
EXPORT int fault_posix_memalign(void **ret, size_t alignment, size_t n) __asm__("posix_memalign");
EXPORT void fault_free(void *p) __asm__("free");

void *fault_reallocarray(void *p, size_t n, size_t size)
{
        size_t bytes;

        if (__builtin_mul_overflow(n, size, &bytes)) {
                errno = ENOMEM;
                return NULL;
        }
        return fault_realloc(p, bytes);
}

int fault_posix_memalign(void **ret, size_t alignment, size_t n)
{
        void *p = HIT(FAULT_ALLOC, aligned) ? NULL : real_memalign(alignment, n);

        if (!p)
                return ENOMEM;
        count_live(1);
        *ret = p;
        return 0;
}
#endif

void *fault_malloc(size_t n)
{
        void *p;

        if (HIT(FAULT_ALLOC, malloc)) {
                errno = ENOMEM;
                return NULL;
        }
        p = real_malloc(n);
        count_live(p != NULL);
        return p;
}

void *fault_calloc(size_t n, size_t size)
{
        void *p;

        if (HIT(FAULT_ALLOC, calloc)) {
                errno = ENOMEM;
                return NULL;
        }
        p = real_calloc(n, size);
        count_live(p != NULL);
        return p;
}

void *fault_realloc(void *p, size_t n)
{
        void *q;

        if (HIT(FAULT_ALLOC, realloc)) {
                errno = ENOMEM;
                return NULL;
        }
        q = real_realloc(p, n);
        count_live(!p && q ? 1 : p && !q && n == 0 ? -1 : 0);
        return q;
}

void fault_free(void *p)
{
        count_live(p ? -1 : 0);
        real_free(p);
}

STAND_BEFORE(fcntl)
long fault_fcntl(SIX_NAMES)
{
        bool makes = b == F_DUPFD || b == F_DUPFD_CLOEXEC;

        if (HIT(makes ? FAULT_OPEN : FAULT_STEP, fcntl) && makes) {
                errno = EMFILE;
                return -1;
        }
        return real_fcntl(a, b, c, d, e, f);
}

/* Too many descriptors: the kernel drops them, and says so by a flag alone. */
static void lose_rights(struct msghdr *m)
{
        for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
                size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                int fds[64];

                if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || n > 64)
                        continue;
                memcpy(fds, CMSG_DATA(c), n * sizeof(int));
                for (size_t i = 0; i < n; i++)
                        (void) raw(SYS_close, fds[i], 0, 0, 0, 0, 0);
        }
        m->msg_controllen = 0;
        m->msg_flags |= MSG_CTRUNC;
}

STAND_BEFORE(recvmsg)
long fault_recvmsg(SIX_NAMES)
{
        struct msghdr *m = (struct msghdr *) b;
        long n;

        (void) HIT(FAULT_STEP, recvmsg);
        n = real_recvmsg(a, b, c, d, e, f);
        if (n >= 0 && m->msg_controllen >= sizeof(struct cmsghdr) && HIT(FAULT_OPEN, recvmsg))
                lose_rights(m);
        return n;
}

/* Its start is over. */
static void note_up(void)
{
        static bool is_waiting;

        if (is_waiting || !page || page->target != program || !page->is_ladder)
                return;
        is_waiting = true;
        page->up_count = own_count;
        if (own_at)
                __atomic_store_n(&page->rungs[own_at].state,
                                 page->rungs[own_at].state == FAULT_RUNG_FIRED ? FAULT_RUNG_UP
                                                                               : FAULT_RUNG_MISSED,
                                 __ATOMIC_RELEASE);
}

/* libevent takes this where it gets no memory for its descriptor of epoll. */
STAND_BEFORE(poll)
long fault_poll(SIX_NAMES)
{
        (void) HIT(FAULT_STEP, poll);
        if ((int) c != 0)
                note_up();
        return real_poll(a, b, c, d, e, f);
}

/* On a ladder one death follows the other: the launcher is to find each of them long ago. */
STAND_BEFORE(waitid)
long fault_waitid(SIX_NAMES)
{
        const siginfo_t *info = (const siginfo_t *) c;
        long r;

        (void) HIT(FAULT_STEP, waitid);
        r = real_waitid(a, b, c, d, e, f);
        if (page && program == PROGRAM_LAUNCHER && page->is_ladder && page->target && (int) r == 0 && info &&
            info->si_pid > 0)
                (void) __atomic_add_fetch(&page->clock_skew_nsec, LADDER_PAUSE_NSEC, __ATOMIC_RELAXED);
        return r;
}

static FaultClass class_of(long number)
{
        switch (number) {
        case SYS_openat2:
        case SYS_open_tree:
        case SYS_fsopen:
        case SYS_fsmount:
        case SYS_memfd_create:
        case SYS_pidfd_open:
        case SYS_landlock_create_ruleset:
        case SYS_socket:
                return FAULT_OPEN;
        case SYS_clone:
        case SYS_clone3:
                return FAULT_SPAWN;
        default:
                return FAULT_STEP;
        }
}

static void become_child(void)
{
        if (program == PROGRAM_LAUNCHER)
                program = PROGRAM_LAUNCHER_CHILD;
        else if (program == PROGRAM_AUDIT)
                program = PROGRAM_READER;
        else if (program == PROGRAM_INIT)
                program = PROGRAM_INIT_CHILD;
        host_pid = 0;
}

STAND_BEFORE(syscall)
long fault_syscall(SIX_NAMES)
{
        FaultClass class = class_of(a);
        long r;

        if (HIT(class, syscall) && class != FAULT_STEP) {
                errno = class == FAULT_SPAWN ? EAGAIN : EMFILE;
                return -1;
        }
        r = real_syscall(a, b, c, d, e, f);
        if (r == 0 && class == FAULT_SPAWN)
                become_child();
        return r;
}

#if !defined(FAULT_STATIC)
STAND_BEFORE(fork)
long fault_fork(SIX_NAMES)
{
        long r;

        if (HIT(FAULT_SPAWN, fork)) {
                errno = EAGAIN;
                return -1;
        }
        r = real_fork(a, b, c, d, e, f);
        if ((int) r == 0)
                become_child();
        return r;
}

STAND_BEFORE(epoll_ctl)
long fault_epoll_ctl(SIX_NAMES)
{
        bool adds = b == EPOLL_CTL_ADD;

        if (HIT(adds ? FAULT_OPEN : FAULT_STEP, epoll_ctl) && adds) {
                errno = ENOSPC;
                return -1;
        }
        return real_epoll_ctl(a, b, c, d, e, f);
}

STAND_BEFORE(clock_gettime)
long fault_clock_gettime(SIX_NAMES)
{
        struct timespec *t = (struct timespec *) b;
        long r = real_clock_gettime(a, b, c, d, e, f);

        if (page && (program == PROGRAM_LAUNCHER || program == PROGRAM_API) && a == CLOCK_MONOTONIC &&
            (int) r == 0) {
                int64_t nsec = t->tv_nsec + page->clock_skew_nsec % 1000000000;

                t->tv_sec += page->clock_skew_nsec / 1000000000 + nsec / 1000000000;
                t->tv_nsec = nsec % 1000000000;
        }
        return r;
}

/* A clock that was moved ahead ends a wait: what was waited for may be over. */
STAND_BEFORE(epoll_wait)
long fault_epoll_wait(SIX_NAMES)
{
        int64_t skew = page ? page->clock_skew_nsec : 0;
        int left = (int) d;
        long r;

        (void) HIT(FAULT_STEP, epoll_wait);
        note_up();
        if (!page || program != PROGRAM_LAUNCHER)
                return real_epoll_wait(a, b, c, d, e, f);
        do {
                int part = left < 0 || left > WAIT_MSEC ? WAIT_MSEC : left;

                r = real_epoll_wait(a, b, c, part, e, f);
                left -= left < 0 ? 0 : part;
        } while ((int) r == 0 && left != 0 && page->clock_skew_nsec == skew);
        return r;
}

/* The first one is the program itself. */
static int note_base(struct dl_phdr_info *info, size_t size, void *userdata)
{
        (void) size;
        (void) userdata;
        base = info->dlpi_addr;
        return 1;
}
#endif

static void map_page(char *path, size_t folder)
{
        long fd, found;

        memcpy(path + folder, "/page", 6);
        fd = raw(SYS_openat, AT_FDCWD, (long) path, O_RDWR | O_CLOEXEC, 0, 0, 0);
        if (fd < 0)
                return;
        found = raw(SYS_mmap, 0, sizeof(FaultPage), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        (void) raw(SYS_close, fd, 0, 0, 0, 0, 0);
        if (found > 0 || found < -4096)
                page = (FaultPage *) found;
}

__attribute__((constructor)) static void prepare(void)
{
        char path[PATH_SIZE + 8] = { 0 }, pid[16] = { 0 };
        const char *name = NULL;
        long n = raw(SYS_readlink, (long) "/proc/self/exe", (long) path, PATH_SIZE, 0, 0, 0);

        for (long i = 0; i < n; i++) {
                if (path[i] == '/')
                        name = path + i + 1;
        }
        for (uint32_t i = 1; name && i < sizeof(programs) / sizeof(programs[0]); i++) {
                if (programs[i] && strcmp(name, programs[i]) == 0)
                        program = i;
        }
        if (program == 0)
                return;
        (void) raw(SYS_readlink, (long) "/proc/self", (long) pid, sizeof(pid) - 1, 0, 0, 0);
        for (size_t i = 0; pid[i] >= '0' && pid[i] <= '9'; i++)
                host_pid = host_pid * 10 + (pid[i] - '0');
#if !defined(FAULT_STATIC)
        (void) dl_iterate_phdr(note_base, NULL);
#endif
        map_page(path, (size_t) (name - path) - 1);
        if (page) {
                page->live[program] = 0;
                take_rung();
        }
}
