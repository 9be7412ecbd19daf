#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "daemon/init/matches.h"
#include "daemon/init/protect.h"
#include "daemon/isolate/kernel.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

#define GUARD_LOOK_MSEC   500
#define GUARD_FREEZE_USEC (2 * USEC_PER_SEC)
#define GUARD_PATIENCE    20
#define GUARD_PASSES      3U

typedef struct Guard {
        Setup *setup;
        Protect protect;
        Matches *matches; /* what is denied by a pattern or a name; NULL: nothing */
        bool has_rules;
        bool is_of_first; /* init is the first process of its pid namespace */
        bool is_frozen;
} Guard;

/* ---- freezing ---- */

typedef void (*GroupCall)(void *userdata, int group_fd);

/* Each command's group. Those of commands that end meanwhile are no loss. */
static void for_each_group(int cgroup_fd, GroupCall call, void *userdata)
{
        const struct dirent *e;
        int fd = openat(cgroup_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *d = fd < 0 ? NULL : fdopendir(fd);

        if (!d) {
                (void) fd_close(fd);
                return;
        }
        while ((e = readdir(d))) {
                _cleanup_close_ int group = -EBADF;

                if (e->d_name[0] != 'e' || e->d_name[1] < '0' || e->d_name[1] > '9')
                        continue;
                group = openat(cgroup_fd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                if (group >= 0)
                        call(userdata, group);
        }
        (void) closedir(d);
}

static void write_freeze(void *userdata, int group_fd)
{
        const char *value = userdata;
        _cleanup_close_ int fd = openat(group_fd, "cgroup.freeze", O_WRONLY | O_CLOEXEC);

        if (fd >= 0)
                (void) !write(fd, value, 1);
}

/* The kernel freezes each process where it comes by. */
static void wait_frozen(void *userdata, int group_fd)
{
        const uint64_t *end = userdata;
        _cleanup_close_ int fd = openat(group_fd, "cgroup.events", O_RDONLY | O_CLOEXEC);

        while (fd >= 0 && clock_monotonic_usec() < *end) {
                struct pollfd p = { .fd = fd, .events = POLLPRI };
                char text[128];
                ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

                if (n <= 0)
                        return;
                text[n] = '\0';
                if (strstr(text, "frozen 1") || strstr(text, "populated 0"))
                        return;
                (void) !poll(&p, 1, GUARD_PATIENCE);
        }
}

static void freeze(const Guard *g)
{
        uint64_t end = clock_monotonic_usec() + GUARD_FREEZE_USEC;
        char one[] = "1";

        for_each_group(g->setup->cgroup_fd, write_freeze, one);
        for_each_group(g->setup->cgroup_fd, wait_frozen, &end);
}

/* Once, however much there is to be done then. */
static void stop_for_masks(void *userdata)
{
        Guard *g = userdata;

        if (!g->is_frozen)
                freeze(g);
        g->is_frozen = true;
}

static void thaw(const Guard *g)
{
        char zero[] = "0";

        for_each_group(g->setup->cgroup_fd, write_freeze, zero);
}

static void is_populated(void *userdata, int group_fd)
{
        _cleanup_close_ int fd = openat(group_fd, "cgroup.events", O_RDONLY | O_CLOEXEC);
        char text[128];
        ssize_t n = fd < 0 ? -1 : pread(fd, text, sizeof(text) - 1, 0);
        bool *is_any = userdata;

        if (n <= 0)
                return;
        text[n] = '\0';
        *is_any = *is_any || strstr(text, "populated 1");
}

/* All but init and this one, which the kernel spares. */
static void kill_commands(const Guard *g)
{
        uint64_t end = clock_monotonic_usec() + GUARD_FREEZE_USEC;
        /* Else -1 were the whole machine. */
        bool is_any = g->is_of_first && getppid() == 1;

        while (is_any && clock_monotonic_usec() < end) {
                is_any = false;
                (void) kill(-1, SIGKILL);
                for_each_group(g->setup->cgroup_fd, is_populated, &is_any);
                if (is_any)
                        (void) !poll(NULL, 0, GUARD_PATIENCE);
        }
}

/* ---- the loop ---- */

/* What came before the commands stood still is read, too. */
static int look(Guard *g, bool has_commands)
{
        Protect *p = &g->protect;
        int r = 0, pass = -EAGAIN;

        if (has_commands)
                freeze(g);
        if (p->watch)
                r = watch_read(p->watch);
        /* Once more: what does not stand still in time may change a mode under the first one. */
        for (unsigned i = 0; i < GUARD_PASSES && pass < 0; i++)
                pass = protect_pass(p);
        r = r < 0 ? r : pass;
        if (p->watch) {
                watch_clear(p->watch);
                watch_forget(p->watch);
        }
        if (has_commands)
                thaw(g);
        return r;
}

static int look_for_matches(Guard *g)
{
        int r = matches_look(g->matches);

        if (g->is_frozen)
                thaw(g);
        g->is_frozen = false;
        return r;
}

static int timeout_msec(const Guard *g)
{
        int timeout = g->matches ? matches_timeout_msec(g->matches) : -1;

        if (!g->has_rules || (g->protect.watch && !g->protect.is_partly_watched))
                return timeout;
        return timeout < 0 ? GUARD_LOOK_MSEC : MIN_OF(timeout, GUARD_LOOK_MSEC);
}

static int look_for_rules(Guard *g)
{
        Protect *p = &g->protect;
        int r;

        if (!g->has_rules)
                return 0;
        r = p->watch && !p->is_partly_watched ? watch_read(p->watch) : 1;
        if (r >= 0 && fresh_read(p->fresh))
                r = 1;
        return r > 0 ? look(g, /* has_commands= */ true) : r;
}

static int serve(Guard *g)
{
        Protect *p = &g->protect;

        for (;;) {
                struct pollfd fds[4] = {
                        { .fd = p->init_fd, .events = POLLIN },
                        { .fd = p->watch ? watch_fd(p->watch) : -1, .events = POLLIN },
                        { .fd = g->matches ? matches_fd(g->matches) : -1, .events = POLLIN },
                        { .fd = fresh_fd(p->fresh), .events = POLLIN },
                };
                int r = poll(fds, ELEMENTSOF(fds), timeout_msec(g));

                if (r < 0 && errno != EINTR)
                        return neg_errno();
                if (fds[0].revents) {
                        /* All commands are gone: a last look. */
                        r = g->has_rules ? look(g, /* has_commands= */ false) : 0;
                        protect_note(p, GUARD_SWEPT, "");
                        return r;
                }
                r = g->matches ? look_for_matches(g) : 0;
                if (r < 0)
                        return r;
                r = look_for_rules(g);
                if (r < 0)
                        return r;
        }
}

/* A session that ends because of its guard leaves no more than others: what can be put right is. */
static void fail_closed(Guard *g)
{
        kill_commands(g);
        if (g->has_rules)
                (void) look(g, /* has_commands= */ true);
}

/* ---- the start ---- */

/* Where it is not to be had, the guard looks again and again, and takes nothing away. */
static int open_watch(Guard *g)
{
        int r = watch_new(&g->protect.watch);

        if (r >= 0) {
                r = watch_add(g->protect.watch, &g->protect.root, g->protect.workspace_fd, "", 0);
                if (r >= 0 && g->protect.repository_fd >= 0)
                        r = watch_add(g->protect.watch, &g->protect.repository_root,
                                      g->protect.repository_fd, PROTECT_REPOSITORY, 0);
                if (r >= 0)
                        return 0;
                g->protect.watch = watch_free(g->protect.watch);
        }
        if (r == -ENOMEM)
                return r;
        protect_note(&g->protect, GUARD_UNATTRIBUTED, "");
        return 0;
}

static int compare_fds(const void *a, const void *b)
{
        return *(const int *) a - *(const int *) b;
}

static int close_others(Guard *g)
{
        int keep[] = { g->setup->cgroup_fd, g->protect.init_fd, g->setup->mask_fd, g->protect.rules_fd,
                       g->protect.marks_fd };
        unsigned first = 3;

        qsort(keep, ELEMENTSOF(keep), sizeof(keep[0]), compare_fds);
        for (size_t i = 0; i < ELEMENTSOF(keep); i++) {
                if (keep[i] == -EBADF)
                        continue;
                if (keep[i] < (int) first)
                        return -EBADF;
                if (keep[i] > (int) first && kernel_close_range(first, (unsigned) keep[i] - 1, 0) < 0)
                        return neg_errno();
                first = (unsigned) keep[i] + 1;
        }
        return kernel_close_range(first, UINT_MAX, 0) < 0 ? neg_errno() : 0;
}

/* init has masked what there was; what came since is found by this walk, and what comes by the watch. */
static int begin_matches(Guard *g)
{
        int r = g->matches ? matches_watch(g->matches, stop_for_masks, g) : 0;

        return r >= 0 && g->matches ? matches_walk(g->matches) : r;
}

static int open_top(const char *path, int *ret_fd)
{
        *ret_fd = kernel_openat2(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC,
                                 RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
        return *ret_fd < 0 ? neg_errno() : 0;
}

static int prepare(Guard *g)
{
        sigset_t all;
        int r;

        (void) prctl(PR_SET_NAME, "sandbox-guard");
        if (sigfillset(&all) < 0 || sigprocmask(SIG_SETMASK, &all, NULL) < 0)
                return neg_errno();
        r = close_others(g);
        if (r >= 0)
                r = identity_become_guard(g->setup);
        if (r < 0)
                return r;
        r = open_top(g->protect.workspace, &g->protect.workspace_fd);
        if (r >= 0 && g->protect.repository[0])
                r = open_top(g->protect.repository, &g->protect.repository_fd);
        if (r < 0)
                return r;
        r = g->has_rules ? open_watch(g) : 0;
        if (r >= 0)
                r = prevent_begin(&g->protect);
        return r < 0 ? r : begin_matches(g);
}

_noreturn_ static void run(Guard *g)
{
        PrivGuarded failed = { .note = GUARD_FAILED };
        int r = prepare(g);

        g->protect.is_first = true;
        if (r >= 0 && g->has_rules)
                r = protect_pass(&g->protect);
        g->protect.is_first = false;
        if (r >= 0) {
                if (g->matches)
                        matches_serve(g->matches);
                protect_note(&g->protect, GUARD_READY, "");
                if (g->protect.left[0])
                        protect_note(&g->protect, GUARD_BEYOND, g->protect.left);
                r = serve(g);
                if (r < 0)
                        fail_closed(g);
        }
        failed.error = r;
        (void) !write(g->protect.init_fd, &failed, sizeof(failed));
        _exit(r < 0);
}

/* What it says before it is ready, stays for init to read later, but for how it went. */
static int wait_ready(Setup *s, int fd)
{
        PrivGuarded m;

        for (;;) {
                ssize_t n = read(fd, &m, sizeof(m));

                if (n < 0 && errno == EINTR)
                        continue;
                if (n != (ssize_t) sizeof(m))
                        return setup_fail(s, -ECHILD, "the guard ended");
                if (m.note == GUARD_UNATTRIBUTED)
                        s->is_unattributed = true;
                if (m.note == GUARD_READY)
                        return 0;
                if (m.note == GUARD_FAILED)
                        return setup_fail(s, m.error < 0 ? m.error : -ECHILD,
                                          m.error == -E2BIG ? "cover what is protected: more directories "
                                                              "below .git than can be looked at"
                                                            : "cover what is protected");
        }
}

int guard_start(Setup *s, int *ret_fd)
{
        static Guard guard;
        struct clone_args args = { .exit_signal = SIGCHLD };
        _cleanup_close_ int fd = -EBADF, theirs = -EBADF;
        int pair[2], r;
        size_t n;
        pid_t pid;

        *ret_fd = -EBADF;
        setup_step(s, "protect");
        guard = (Guard){ .setup = s,
                         .is_of_first = getpid() == 1,
                         .protect = { .workspace = plan_string(&s->plan, s->plan.header->workspace),
                                      .workspace_fd = -EBADF,
                                      .repository = "",
                                      .repository_fd = -EBADF,
                                      .rules_fd = -EBADF,
                                      .marks_fd = -EBADF } };
        r = protect_rules(&guard.protect, &s->plan, &n);
        if (r >= 0 && (s->repository_flags & PLAN_WRITABLE))
                r = protect_repository_rules(&guard.protect, s->repository, s->worktree);
        if (r < 0)
                return setup_fail(s, r, "rules");
        guard.has_rules = n > 0;
        r = matches_new(s, &guard.matches);
        if (r < 0)
                return r;
        if (n == 0 && !guard.matches)
                return 0;
        if (guard.has_rules && s->marks_fd >= 0) {
                r = prevent_new(&s->rules_fd);
                if (r < 0)
                        return setup_fail(s, r, "the kernel's rules");
                guard.protect.rules_fd = s->rules_fd;
                guard.protect.marks_fd = s->marks_fd;
        }
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return setup_fail(s, neg_errno(), "socketpair");
        fd = pair[0];
        theirs = pair[1];
        guard.protect.init_fd = theirs;
        pid = kernel_clone3(&args);
        if (pid < 0)
                return setup_fail(s, neg_errno(), "clone3");
        if (pid == 0)
                run(&guard);
        theirs = fd_close(theirs);
        r = wait_ready(s, fd);
        if (r >= 0)
                r = fd_set_nonblock(fd, true);
        if (r < 0)
                return r;
        *ret_fd = TAKE_FD(fd);
        return 0;
}
