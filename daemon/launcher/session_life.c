#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/isolate/spawn.h"
#include "daemon/launcher/admin.h"
#include "daemon/launcher/manager.h"
#include "daemon/launcher/pings.h"
#include "daemon/launcher/service.h"
#include "daemon/launcher/session.h"
#include "daemon/launcher/watch.h"
#include "daemon/launcher/worker.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

/*
 * From the answer to the end. The end is always the same: the group is killed; when init was reaped its
 * whole pid namespace is dead; when the group is empty too, the rest is closed. A session is freed from a
 * deferred call.
 */

#define SESSION_POLL_USEC       (2 * USEC_PER_MSEC)
#define SESSION_POLLS_MAX       2500U
#define SESSION_API_RETURN_USEC (30 * USEC_PER_SEC)
#define SESSION_KILL_USEC       (3 * USEC_PER_SEC)
#define SESSION_SWEEP_USEC      (3 * USEC_PER_SEC)

static void session_free(Session *s)
{
        s->init_io = loop_io_free(s->init_io);
        s->init_link = priv_link_free(s->init_link);
        s->timer = loop_timer_free(s->timer);
        s->stop_timer = loop_timer_free(s->stop_timer);
        session_forget_freeze(s);
        worker_retire(s->egress);
        s->plan_fd = fd_close(s->plan_fd);
        s->policy_fd = fd_close(s->policy_fd);
        s->cgroup_fd = fd_close(s->cgroup_fd);
        s->user_fd = fd_close(s->user_fd);
        s->idmap_fd = fd_close(s->idmap_fd);
        s->home_fd = fd_close(s->home_fd);
        s->api_fd = fd_close(s->api_fd);
        s->init_pidfd = fd_close(s->init_pidfd);
        inbounds_drop(s);
        publish_close(s);
        netns_done(&s->network);
        s->names_fd = fd_close(s->names_fd);
        free(s);
}

static void send_end(Session *s)
{
        PrivSessionEnd end = { .session = s->id, .reason = s->reason };
        PrivSessionRef ref = { .session = s->id };

        if (s->is_end_sent)
                return;
        s->is_end_sent = true;
        pings_end(s);
        if (s->is_row_asked)
                worker_send(s->launcher->audit, PRIV_AUDIT_SESSION_END, &end, sizeof(end), NULL, 0);
        worker_send(s->launcher->dialer, PRIV_DIALER_SESSION_CLOSE, &ref, sizeof(ref), NULL, 0);
        if (s->answer.error != 0)
                user_send(s->user, PRIV_SESSION_CREATED, &s->answer, sizeof(s->answer), NULL, 0);
        else
                user_send_end(s->user, &end);
        user_note_ended(s->user, &s->id);
        admin_session_over(s);
}

static void finish(void *userdata)
{
        Session *s = userdata;
        Launcher *l = s->launcher;
        User *u = s->user;
        int r = 0;

        worker_release(TAKE_PTR(s->egress));
        send_end(s);
        if (s->cgroup_fd >= 0)
                r = cgroup_remove(l->kernel->cgroups, &s->id);
        if (r < 0)
                (void) log_warning(r, "cannot remove a control group, leaving it to the next start");
        else if (s->is_prevented)
                prevention_leave(l->kernel->prevention, s->cgroup_fd);
        if (s->is_watched)
                watch_over(l, &s->id);
        (void) map_remove(&l->sessions, &s->id, sizeof(s->id));
        session_free(s);
        user_count_session(u, -1);
        manager_session_ended(l);
        if (l->is_stopping && l->sessions.n == 0)
                launcher_stop(l, 0);
}

static void finish_later(Session *s)
{
        if (s->is_over)
                return;
        s->is_over = true;
        loop_timer_stop(s->timer);
        if (loop_defer(s->launcher->loop, finish, s) < 0)
                (void) log_error(-ENOMEM, "cannot end a session");
}

/* Once init was reaped: processes that somebody else put into the group would still be there. Where that
 * cannot be read it is asked again. */
static void wait_for_empty(Session *s)
{
        int r = s->cgroup_fd < 0 ? 0 : cgroup_is_populated(s->cgroup_fd);

        if (r != 0 && s->n_polls++ < SESSION_POLLS_MAX) {
                (void) !cgroup_kill(s->cgroup_fd);
                if (loop_timer_set(s->timer, SESSION_POLL_USEC) >= 0)
                        return;
        }
        if (r != 0)
                (void) log_error(r, "the control group of a session does not become empty");
        finish_later(s);
}

static void on_init_ended(void *userdata, int fd, _unused_ unsigned events)
{
        Session *s = userdata;
        siginfo_t info = { 0 };

        if (waitid(P_PIDFD, (id_t) fd, &info, WEXITED | WNOHANG) < 0 || info.si_pid == 0)
                return;
        s->init_io = loop_io_free(s->init_io);
        s->init_pidfd = fd_close(s->init_pidfd);
        if (s->state == SESSION_STARTING)
                session_fail(s, -ECHILD, "init",
                             info.si_code == CLD_EXITED && info.si_status == 127
                                             ? "sandbox-init cannot be executed"
                                             : "sandbox-init ended while it made the session");
        else
                session_stop(s, s->state == SESSION_RUNNING ? END_TERMINATED : s->reason);
}

void session_watch_init(Session *s, int *ret_error)
{
        *ret_error = loop_io_new(s->launcher->loop, s->init_pidfd, LOOP_READ, on_init_ended, s, &s->init_io);
}

static void kill_all(Session *s)
{
        int r = s->cgroup_fd >= 0 ? cgroup_kill(s->cgroup_fd) : 0;

        if (r < 0)
                (void) log_error(r, "cannot kill the control group of a session");
        /* Its end takes the whole pid namespace along. */
        if (s->init_pidfd >= 0)
                (void) syscall(SYS_pidfd_send_signal, s->init_pidfd, SIGKILL, NULL, 0);
}

/* What was killed may wait in the kernel for a file system that its user does not let answer. It will run no
 * further instruction of its own, so nobody has to wait for it; the record stays, and counts for the user.
 */
static void give_up(Session *s)
{
        (void) log_warning(0, "init of a session of uid %u was killed and does not end", s->user->uid);
        watch_suspect(s);
        worker_release(TAKE_PTR(s->egress));
        send_end(s);
}

/* The commands die now. What they left at protected places init's guard takes away before it ends, too. Init
 * is told first: it would report the end of what we kill as the command's own. */
static bool end_in_order(Session *s)
{
        if (!s->has_guard || s->init_pidfd < 0 || !s->init_io ||
            syscall(SYS_pidfd_send_signal, s->init_pidfd, SIGTERM, NULL, 0) < 0 ||
            cgroup_kill_commands(s->cgroup_fd, s->uid, s->gid) < 0 ||
            loop_timer_set(s->timer, SESSION_SWEEP_USEC) < 0)
                return false;
        s->is_sweeping = true;
        return true;
}

static void end_now(Session *s)
{
        s->is_sweeping = false;
        kill_all(s);
        if (s->init_io)
                (void) !loop_timer_set(s->timer, SESSION_KILL_USEC);
}

/* Again while stopping: goes on where it stands. */
void session_stop(Session *s, EndReason reason)
{
        if (s->is_over)
                return;
        if (s->state != SESSION_STOPPING) {
                s->state = SESSION_STOPPING;
                s->reason = reason;
                s->wants_egress = false;
                publish_close(s);
                inbounds_drop(s);
                loop_timer_stop(s->timer);
                if (s->stop_timer)
                        loop_timer_stop(s->stop_timer);
                session_forget_freeze(s);
                if (!end_in_order(s))
                        end_now(s);
        }
        if (s->init_pidfd >= 0 && !s->init_io) {
                /* Never watched: its start failed halfway. */
                watch_reap_init(s->launcher, TAKE_FD(s->init_pidfd));
        }
        if (s->init_pidfd < 0)
                wait_for_empty(s);
}

void session_hurry(Session *s)
{
        if (s->is_sweeping)
                end_now(s);
        else
                give_up(s);
}

void session_fail(Session *s, int error, const char *step, const char *detail)
{
        char id[ID_TEXT_SIZE];

        if (s->state != SESSION_STARTING)
                return;
        id_format(&s->id, id);
        if (error != -EDQUOT)
                (void) log_warning(error, "session %s of uid %u failed at %s (%s)", id, s->user->uid, step,
                                   detail);
        s->answer.error = error < 0 ? error : -EPROTO;
        (void) !str_copy(s->answer.step, sizeof(s->answer.step), step);
        (void) !str_copy(s->answer.detail, sizeof(s->answer.detail), detail);
        session_stop(s, END_SETUP_FAILED);
}

void session_maybe_answer(Session *s)
{
        int fds[2] = { s->api_fd, s->init_pidfd };

        if (s->state != SESSION_STARTING || !s->is_init_ready || !s->is_recorded || !s->had_egress)
                return;
        s->state = SESSION_RUNNING;
        loop_timer_stop(s->timer);
        s->answer.init_pid = (uint32_t) s->init_pid;
        user_send(s->user, PRIV_SESSION_CREATED, &s->answer, sizeof(s->answer), fds, 2);
        s->answer.token = 0;
        publish_start(s);
}

void sessions_on_recorded(Launcher *l, const PrivSessionOpened *body)
{
        Session *s = map_get(&l->sessions, &body->session, sizeof(body->session));

        if (!s || s->state == SESSION_STOPPING)
                return;
        if (body->error != 0) {
                if (s->state == SESSION_RUNNING)
                        session_stop(s, END_TERMINATED);
                else
                        session_fail(s, body->error < 0 ? body->error : -EIO,
                                     body->error == -EDQUOT ? "rows" : "audit",
                                     "the start could not be recorded");
                return;
        }
        s->is_recorded = true;
        session_maybe_answer(s);
}

/* The successor of an api worker gets what the first one got. */
void sessions_adopt(User *u)
{
        Map *sessions = &u->launcher->sessions;
        size_t cursor = 0;

        for (Session *s = map_next(sessions, &cursor); s; s = map_next(sessions, &cursor)) {
                int fds[2] = { s->api_fd, s->init_pidfd };

                if (s->user != u || s->state != SESSION_RUNNING || s->init_pidfd < 0)
                        continue;
                loop_timer_stop(s->timer);
                user_send(u, PRIV_API_ADOPT, &s->answer, sizeof(s->answer), fds, 2);
                if (s->frozen_usec > 0 && !s->is_freezing)
                        session_send_frozen(s, 0);
                if (!s->claims.is_detached)
                        (void) !loop_timer_set(s->timer, SESSION_API_RETURN_USEC);
        }
}

/* A start that nobody waits for is given up; what runs goes on under its last policy. */
void sessions_lose_api(User *u)
{
        Map *sessions = &u->launcher->sessions;
        size_t cursor = 0;

        inbounds_forget_api(u);
        for (Session *s = map_next(sessions, &cursor); s; s = map_next(sessions, &cursor)) {
                if (s->user != u)
                        continue;
                if (s->state == SESSION_STARTING)
                        session_fail(s, -EPIPE, "api", "the api worker is gone");
                else if (s->state == SESSION_RUNNING && !s->claims.is_detached)
                        (void) !loop_timer_set(s->timer, SESSION_API_RETURN_USEC);
        }
}

void sessions_stop_all(Launcher *l)
{
        size_t cursor = 0;

        for (Session *s = map_next(&l->sessions, &cursor); s; s = map_next(&l->sessions, &cursor))
                session_stop(s, END_DAEMON_RESTART);
}

void sessions_free(Launcher *l)
{
        size_t cursor = 0;

        for (Session *s = map_next(&l->sessions, &cursor); s; s = map_next(&l->sessions, &cursor))
                session_free(s);
        map_done(&l->sessions);
        map_done(&l->inbounds);
}
