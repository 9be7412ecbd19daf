#include "daemon/launcher/watch.h"

#include <errno.h>

#include "daemon/isolate/fuse.h"
#include "daemon/isolate/spawn.h"
#include "daemon/launcher/blank.h"
#include "daemon/launcher/worker.h"
#include "proto/base/clock.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"

/*
 * The watch alone holds the connections: when it ends the kernel ends them, and whoever touches a mask of a
 * session that lives on gets an error, and never waits. Sessions that start later have its successor.
 */

#define WATCH_PAUSE_USEC (2 * USEC_PER_SEC)
#define WATCH_PING_USEC  (10 * USEC_PER_SEC)

/* Of an init that was killed before it was told anything. */
#define REAP_MSEC      3000
#define REAP_LAST_MSEC 5000

static void start(Launcher *l);

static void on_ready(void *owner, _unused_ Worker *w, _unused_ const Imsg *m)
{
        Launcher *l = owner;

        watch_attach_audit(l);
        /* What was made without it has plain masks. */
        blanks_renew(l);
        launcher_maybe_serve(l);
}

static void on_gone(void *owner, _unused_ Worker *w)
{
        Launcher *l = owner;

        l->watch = NULL;
        l->is_watch_pinged = false;
        loop_timer_stop(l->watch_ping_timer);
        blanks_renew(l);
        if (l->is_stopping)
                return;
        if (restart_guard_permits(&l->watch_guard)) {
                start(l);
                return;
        }
        (void) log_error(-ECHILD,
                         "the watch ends again and again: attempts on denied paths are not recorded "
                         "until the next one");
        if (loop_timer_set(l->watch_timer_again, WATCH_PAUSE_USEC) < 0)
                (void) log_error(-ENOMEM, "cannot start the watch again");
        launcher_maybe_serve(l);
}

/* Audit is dying, or has thrown the channel away: either way another one comes, not at once. */
static int on_message(void *owner, _unused_ Worker *w, Imsg *m)
{
        Launcher *l = owner;

        if (m->type == PRIV_WATCH_PONG) {
                l->is_watch_pinged = false;
                loop_timer_stop(l->watch_ping_timer);
                return 0;
        }
        if (m->type != PRIV_WATCH_AUDIT_LOST)
                return -EPROTO;
        return loop_timer_set(l->watch_timer_again, WATCH_PAUSE_USEC);
}

static const WorkerEvents events = { on_ready, on_message, on_gone };

static void start(Launcher *l)
{
        int r = worker_new(l, WORKER_WATCH, 0, &events, l, &l->watch);

        if (r < 0) {
                (void) log_error(r, "cannot start the watch, trying again later");
                (void) !loop_timer_set(l->watch_timer_again, WATCH_PAUSE_USEC);
        }
}

static void on_timer(void *userdata)
{
        Launcher *l = userdata;

        if (l->is_stopping)
                return;
        if (!l->watch)
                start(l);
        else
                watch_attach_audit(l);
}

static void on_no_answer(void *userdata)
{
        Launcher *l = userdata;

        l->is_watch_pinged = false;
        if (!l->watch)
                return;
        (void) log_error(-ETIMEDOUT, "the watch does not answer: killed, another is started");
        worker_kill(l->watch);
}

static bool has_fuse(const Launcher *l)
{
        return l->kernel->probes[PROBE_FUSE].error >= 0;
}

int watch_start(Launcher *l)
{
        int r;

        if (!has_fuse(l))
                return 0;
        r = loop_timer_new(l->loop, on_timer, l, &l->watch_timer_again);
        if (r >= 0)
                r = loop_timer_new(l->loop, on_no_answer, l, &l->watch_ping_timer);
        if (r >= 0)
                start(l);
        return r;
}

bool watch_is_settled(const Launcher *l)
{
        return !has_fuse(l) || !l->watch || worker_is_ready(l->watch);
}

void watch_attach_audit(Launcher *l)
{
        int pair[2], r;

        if (!worker_is_ready(l->audit) || !worker_is_ready(l->watch))
                return;
        r = imsg_pair(pair);
        if (r < 0) {
                (void) log_error(r, "cannot connect the watch to the audit");
                worker_kill(l->watch);
                return;
        }
        worker_send(l->audit, PRIV_AUDIT_WATCH_ATTACH, NULL, 0, &pair[0], 1);
        worker_send(l->watch, PRIV_WATCH_AUDIT_ATTACH, NULL, 0, &pair[1], 1);
        fd_close_many(pair, ELEMENTSOF(pair));
}

int watch_mount(Launcher *l, const Id *session)
{
        PrivWatchMount body = { .session = *session };
        int fds[2], r;

        if (!worker_is_ready(l->watch))
                return -EBADF;
        r = fuse_mount_new(&fds[0], &fds[1]);
        if (r < 0) {
                (void) log_warning(r, "cannot mount a file system for masks, a session has plain ones");
                return -EBADF;
        }
        worker_send(l->watch, PRIV_WATCH_MOUNT, &body, sizeof(body), fds, ELEMENTSOF(fds));
        (void) fd_close(fds[0]);
        return fds[1];
}

void watch_over(Launcher *l, const Id *session)
{
        PrivWatchOver body = { .session = *session };

        worker_send(l->watch, PRIV_WATCH_OVER, &body, sizeof(body), NULL, 0);
}

/* Not ended for that: a user may make a session wait in many ways. */
void watch_suspect(const Session *s)
{
        Launcher *l = s->launcher;

        if (!s->is_watched || !worker_is_ready(l->watch) || l->is_watch_pinged)
                return;
        l->is_watch_pinged = loop_timer_set(l->watch_ping_timer, WATCH_PING_USEC) >= 0;
        if (l->is_watch_pinged)
                worker_send(l->watch, PRIV_WATCH_PING, NULL, 0, NULL, 0);
}

void watch_reap_init(Launcher *l, int take_pidfd)
{
        if (take_pidfd < 0)
                return;
        if (spawn_reap_within(take_pidfd, REAP_MSEC) < 0) {
                /* It has seen nothing but what the watch answers for: that it stands, or is not ours any
                 * more. */
                (void) log_error(-ETIMEDOUT, "sandbox-init waits for the watch: another is started");
                worker_kill(l->watch);
                if (spawn_reap_within(take_pidfd, REAP_LAST_MSEC) < 0)
                        (void) log_error(-ETIMEDOUT, "sandbox-init was killed and does not end");
        }
        (void) fd_close(take_pidfd);
}

bool watch_is_missed(const Session *s)
{
        return has_fuse(s->launcher) && !(s->is_watched && worker_is_ready(s->launcher->watch));
}

void watch_open_session(const Session *s)
{
        PrivWatchSession body = { .session = s->id, .init_pid = (uint32_t) s->init_pid };

        if (s->is_watched)
                worker_send(s->launcher->watch, PRIV_WATCH_SESSION, &body, sizeof(body), &s->plan_fd, 1);
}
