#include <errno.h>

#include "daemon/launcher/session.h"
#include "daemon/launcher/worker.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

/*
 * Freezing: the group's switch is root's, so neither the session nor its user can turn it back. The kernel
 * freezes each process where it comes by; api hears of it when all stand. A process that waits in the kernel
 * for a file system that does not answer never comes by: then everything goes on, and api is told so.
 */

#define FREEZE_POLL_USEC (2 * USEC_PER_MSEC)
#define FREEZE_POLLS_MAX 2500U

void session_send_frozen(const Session *s, int error)
{
        PrivSessionFrozen body = { .session = s->id,
                                   .error = error,
                                   .is_frozen = s->frozen_usec > 0,
                                   .by_uid = s->frozen_by,
                                   .since_usec = s->frozen_usec };

        user_send(s->user, PRIV_SESSION_FROZEN, &body, sizeof(body), NULL, 0);
}

void session_forget_freeze(Session *s)
{
        s->freeze_timer = loop_timer_free(s->freeze_timer);
        s->is_freezing = false;
}

static void finish_change(Session *s)
{
        PrivSessionFreeze row = { .session = s->id, .is_frozen = s->wants_frozen };

        s->is_freezing = false;
        s->frozen_usec = s->wants_frozen ? clock_realtime_usec() : 0;
        worker_send(s->launcher->audit, PRIV_AUDIT_SESSION_FROZEN, &row, sizeof(row), NULL, 0);
        session_send_frozen(s, 0);
}

static void give_up(Session *s, int error)
{
        s->is_freezing = false;
        if (s->wants_frozen) {
                (void) log_warning(error, "a session of uid %u cannot be frozen, letting it go on",
                                   s->user->uid);
                s->frozen_usec = 0;
                if (cgroup_freeze(s->cgroup_fd, false, s->uid, s->gid) < 0)
                        session_stop(s, END_TERMINATED);
        }
        session_send_frozen(s, error);
}

static void look(void *userdata)
{
        Session *s = userdata;
        int r = cgroup_is_frozen(s->cgroup_fd, s->uid, s->gid);

        if (r >= 0 && (r > 0) == s->wants_frozen) {
                finish_change(s);
                return;
        }
        if (r >= 0 && s->n_freeze_polls++ >= FREEZE_POLLS_MAX)
                r = -ETIMEDOUT;
        if (r >= 0)
                r = loop_timer_set(s->freeze_timer, FREEZE_POLL_USEC);
        if (r < 0)
                give_up(s, r);
}

static int change(Session *s, bool is_frozen)
{
        int r = 0;

        if (!s->freeze_timer)
                r = loop_timer_new(s->launcher->loop, look, s, &s->freeze_timer);
        if (r >= 0)
                r = cgroup_freeze(s->cgroup_fd, is_frozen, s->uid, s->gid);
        if (r < 0)
                return r;
        s->wants_frozen = is_frozen;
        s->is_freezing = true;
        s->n_freeze_polls = 0;
        look(s);
        return 0;
}

static Session *find(User *u, const Id *id)
{
        Session *s = map_get(&u->launcher->sessions, id, sizeof(*id));

        return s && s->user == u && s->state == SESSION_RUNNING ? s : NULL;
}

int session_freeze(User *u, const PrivSessionFreeze *body)
{
        Session *s = find(u, &body->session);
        bool is_frozen = body->is_frozen != 0;
        int r;

        if (body->is_frozen > 1)
                return -EPROTO;
        /* Its end is under way, or it is somebody else's: api hears of the first anyway. */
        if (!s)
                return 0;
        if (!s->is_freezing && (s->frozen_usec > 0) == is_frozen) {
                session_send_frozen(s, 0);
                return 0;
        }
        if (is_frozen == s->wants_frozen && s->is_freezing)
                return 0;
        /* Each change has a row: too many of them are refused. */
        if (!quota_take_freeze(u)) {
                session_send_frozen(s, -EAGAIN);
                return 0;
        }
        if (is_frozen)
                s->frozen_by = u->uid;
        r = change(s, is_frozen);
        if (r < 0)
                session_send_frozen(s, log_error(r, "cannot freeze or thaw a session of uid %u", u->uid));
        return 0;
}

int session_kill_command(User *u, const PrivSessionCommand *body)
{
        Session *s = find(u, &body->session);
        PrivSessionCommand answer = *body;
        char name[16];

        if (!s)
                return 0;
        answer.error = str_printf(name, sizeof(name), "e%u", body->process);
        if (answer.error >= 0)
                answer.error = cgroup_kill_child(s->cgroup_fd, name, s->uid, s->gid);
        /* Gone already: what was wanted. */
        if (answer.error == -ENOENT)
                answer.error = 0;
        user_send(u, PRIV_SESSION_COMMAND_KILLED, &answer, sizeof(answer), NULL, 0);
        return 0;
}
