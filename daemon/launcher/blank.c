#include "daemon/launcher/blank.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/isolate/spawn.h"
#include "daemon/isolate/userns.h"
#include "daemon/launcher/session.h"
#include "daemon/launcher/user.h"
#include "daemon/launcher/watch.h"
#include "daemon/launcher/worker.h"
#include "proto/base/clock.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"

/* What was just asked for has the processors first, and most commands are short. */
#define BLANK_REFILL_USEC (12 * USEC_PER_MSEC)
#define BLANK_NEXT_USEC   (3 * USEC_PER_MSEC)
#define BLANK_PAUSE_USEC  (10 * USEC_PER_SEC)

/* The steering of a kernel without nftables stays up as long as somebody holds it: init lives as long as the
 * session, whatever becomes of us. */
static int spawn_program(const Kernel *k, const InitSpec *init, int channel_fd, pid_t *ret_pid,
                         int *ret_pidfd)
{
        static const char *const plain[] = { "sandbox-init", NULL }, *const watched[] = { "sandbox-init",
                                                                                          "watched", NULL };
        int steer_fd = init->network->steer_fd >= 0 ? init->network->steer_fd : k->null_fd;
        const char *const *arguments = init->mask_fd >= 0 ? watched : plain;
        int fds[] = { channel_fd, k->template_fd, init->network->fd, k->mount_fd, steer_fd, init->mask_fd };
        SpawnSpec spec = { .program_fd = k->program_fds[PROGRAM_INIT],
                           .arguments = (char *const *) (uintptr_t) arguments,
                           .namespaces = CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS,
                           .cgroup_fd = init->cgroup_fd,
                           .null_fd = k->null_fd,
                           .output_fd = -EBADF,
                           .is_prompt = true,
                           .fds = fds,
                           .n_fds = ELEMENTSOF(fds) - (init->mask_fd < 0) };

        return spawn(&spec, ret_pid, ret_pidfd);
}

int init_spawn(Launcher *l, const InitSpec *spec, pid_t *ret_pid, int *ret_pidfd, PrivLink **ret_link)
{
        int pair[2], r;

        r = imsg_pair(pair);
        if (r < 0)
                return r;
        r = spawn_program(l->kernel, spec, pair[1], ret_pid, ret_pidfd);
        pair[1] = fd_close(pair[1]);
        if (r < 0) {
                (void) fd_close(pair[0]);
                return r;
        }
        return priv_link_new(l->loop, pair[0], CHANNEL_LAUNCHER_INIT, ROLE_LAUNCHER, ret_link);
}

Blank *blank_free(Blank *b)
{
        if (!b)
                return NULL;
        b->init_io = loop_io_free(b->init_io);
        b->init_link = priv_link_free(b->init_link);
        watch_reap_init(b->launcher, TAKE_FD(b->init_pidfd));
        netns_done(&b->network);
        if (b->cgroup_fd >= 0 && cgroup_remove(b->launcher->kernel->cgroups, &b->id) < 0)
                (void) log_warning(0, "cannot remove a control group, leaving it to the next start");
        b->cgroup_fd = fd_close(b->cgroup_fd);
        if (b->is_watched)
                watch_over(b->launcher, &b->id);
        free(b);
        return NULL;
}

static void refill_after(Launcher *l, uint64_t after_usec)
{
        if (l->is_blank_timer_set || l->is_stopping)
                return;
        l->is_blank_timer_set = loop_timer_set(l->blank_timer, after_usec) >= 0;
}

static void blank_lost(Blank *b)
{
        Launcher *l = b->launcher;

        for (size_t i = 0; i < ELEMENTSOF(l->blanks); i++) {
                if (l->blanks[i] == b)
                        l->blanks[i] = NULL;
        }
        (void) blank_free(b);
        (void) log_warning(0, "sandbox-init ended before its use");
        refill_after(l, restart_guard_permits(&l->blank_guard) ? BLANK_REFILL_USEC : BLANK_PAUSE_USEC);
}

static void on_init_ended(void *userdata, _unused_ int fd, _unused_ unsigned events)
{
        blank_lost(userdata);
}

/* It has nothing to say before it is told to start, but that it failed; its end says the same. */
static int on_init_message(_unused_ void *owner, _unused_ PrivLink *link, _unused_ Imsg *m)
{
        return -EPROTO;
}

/* Without its channel no session can be made of it. */
static void on_init_closed(void *owner, _unused_ PrivLink *link, _unused_ int reason)
{
        const Blank *b = owner;

        (void) syscall(SYS_pidfd_send_signal, b->init_pidfd, SIGKILL, NULL, 0);
}

static int make_cgroup(Blank *b)
{
        return cgroup_make(b->launcher->kernel->cgroups, &b->id, &(PrivLimits){ 0 }, &b->cgroup_fd);
}

static int make_network(Blank *b)
{
        const Kernel *k = b->launcher->kernel;

        return netns_new(k->network_fd, k->steering, &b->network);
}

static int make_init(Blank *b)
{
        _cleanup_close_ int mask = -EBADF;
        Launcher *l = b->launcher;
        int r;

        mask = watch_mount(l, &b->id);
        b->is_watched = mask >= 0;
        r = init_spawn(l, &(InitSpec){ .cgroup_fd = b->cgroup_fd, .network = &b->network, .mask_fd = mask },
                       &b->init_pid, &b->init_pidfd, &b->init_link);
        if (r < 0)
                return r;
        priv_link_set_handler(b->init_link, on_init_message, on_init_closed, b);
        return loop_io_new(l->loop, b->init_pidfd, LOOP_READ, on_init_ended, b, &b->init_io);
}

/* Each keeps the launcher for up to two milliseconds; whoever waits is served between them. */
static int (*const stages[])(Blank *b) = { make_cgroup, make_network, make_init };

static int blank_new(Launcher *l, Blank **ret)
{
        Blank *b = calloc(1, sizeof(*b));
        int r;

        if (!b)
                return -ENOMEM;
        *b = (Blank){ .launcher = l, .cgroup_fd = -EBADF, .init_pidfd = -EBADF, .network = NETNS_INIT };
        r = id_random(&b->id);
        if (r < 0) {
                free(b);
                return r;
        }
        *ret = b;
        return 0;
}

/* 1: there may be more to do. */
static int fill_blanks(Launcher *l)
{
        size_t i = 0;
        int r = 0;

        while (i < ELEMENTSOF(l->blanks) && l->blanks[i])
                i++;
        if (i == ELEMENTSOF(l->blanks))
                return 0;
        if (!l->unfinished)
                r = blank_new(l, &l->unfinished);
        if (r >= 0)
                r = stages[l->unfinished->n_stages++](l->unfinished);
        if (r < 0)
                l->unfinished = blank_free(l->unfinished);
        else if (l->unfinished->n_stages == ELEMENTSOF(stages))
                l->blanks[i] = TAKE_PTR(l->unfinished);
        return r < 0 ? r : 1;
}

static int fill_user_namespaces(Launcher *l)
{
        size_t cursor = 0;

        for (User *u = map_next(&l->users, &cursor); u; u = map_next(&l->users, &cursor)) {
                int r;

                if (u->spare_gid == 0 || u->spare_user_fd >= 0)
                        continue;
                r = userns_new(u->uid, u->spare_gid, &u->spare_user_fd);
                return r < 0 ? r : 1;
        }
        return 0;
}

/* What has ended but for a process that the kernel keeps may stay for as long as its user likes. */
static bool is_busy(const Launcher *l)
{
        size_t cursor = 0;

        for (const Session *s = map_next(&l->sessions, &cursor); s; s = map_next(&l->sessions, &cursor)) {
                if (s->state == SESSION_STARTING || (s->state == SESSION_STOPPING && !s->is_end_sent))
                        return true;
        }
        return false;
}

/* One thing at a time, and what else waits before the next. */
static void on_refill(void *userdata)
{
        Launcher *l = userdata;
        int r;

        l->is_blank_timer_set = false;
        if (l->is_stopping)
                return;
        if (is_busy(l)) {
                refill_after(l, BLANK_NEXT_USEC);
                return;
        }
        r = fill_user_namespaces(l);
        if (r == 0)
                r = fill_blanks(l);
        if (r < 0)
                (void) log_warning(r, "cannot prepare sessions, they start slower");
        if (r != 0)
                refill_after(l, r < 0 ? BLANK_PAUSE_USEC : l->unfinished ? 0 : BLANK_NEXT_USEC);
}

int blanks_start(Launcher *l)
{
        int r = loop_timer_new(l->loop, on_refill, l, &l->blank_timer);

        if (r >= 0)
                refill_after(l, 0);
        return r;
}

void blanks_stop(Launcher *l)
{
        l->blank_timer = loop_timer_free(l->blank_timer);
        /* Whoever waits for it would not end. */
        worker_kill(l->watch);
        l->unfinished = blank_free(l->unfinished);
        for (size_t i = 0; i < ELEMENTSOF(l->blanks); i++)
                l->blanks[i] = blank_free(l->blanks[i]);
}

void blanks_renew(Launcher *l)
{
        if (!l->blank_timer)
                return;
        for (size_t i = 0; i < ELEMENTSOF(l->blanks); i++)
                l->blanks[i] = blank_free(l->blanks[i]);
        refill_after(l, BLANK_REFILL_USEC);
}

Blank *blank_take(Launcher *l)
{
        Blank *b = NULL;

        for (size_t i = 0; i < ELEMENTSOF(l->blanks) && !b; i++)
                b = TAKE_PTR(l->blanks[i]);
        if (b)
                b->init_io = loop_io_free(b->init_io);
        refill_after(l, BLANK_REFILL_USEC);
        return b;
}
