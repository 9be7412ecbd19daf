#include "daemon/launcher/admin.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>

#include "daemon/launcher/service.h"
#include "daemon/launcher/worker.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

#define ENDINGS_MAX     256U
#define ENDINGS_OF_ROOT 64U /* of them, that other administrators cannot have */

/* How long the owner's worker has to say that it began with the orderly end. */
#define STOPPING_USEC (1 * USEC_PER_SEC)

/* An administrator's call that waits for the end of sessions. */
struct Ending {
        ListLink link;
        const User *user;
        uint64_t token;
        uint32_t scope;
        uint32_t uid; /* of ADMIN_USER */
        uint32_t n_left;
        uint32_t n_sessions;
        Id sessions[];
};

/* < 0: the call is refused. */
static int check_connection(const User *u, uint64_t number)
{
        const Connection *c = user_find_connection(u, number);

        if (!c)
                return -ENOTCONN;
        return c->peer.is_admin ? 0 : -EPERM;
}

/* The names of methods; what a worker says goes into the log. */
static bool method_is_sound(const char method[32])
{
        size_t n = strnlen(method, 32);

        if (n == 0 || n == 32)
                return false;
        for (size_t i = 0; i < n; i++) {
                char c = method[i];

                if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')))
                        return false;
        }
        return true;
}

static void report(const User *u, const Id *session, uint32_t owner, const char *method)
{
        char detail[PRIV_TEXT_SIZE], id[ID_TEXT_SIZE] = "";
        int r;

        if (session)
                id_format(session, id);
        r = str_printf(detail, sizeof(detail), "{\"owner\":%u%s%s%s}", owner,
                       session ? ",\"session\":\"" : "", id, session ? "\"" : "");
        if (r >= 0)
                service_report_act(u->launcher, u->uid, session, method, detail);
}

/* ---- a way to another user's worker ---- */

static User *owner_of(const Launcher *l, const Id *id)
{
        const Session *s = map_get(&l->sessions, id, sizeof(*id));
        size_t cursor = 0;
        User *u;

        if (s)
                return s->user;
        while ((u = map_next(&l->users, &cursor)))
                if (user_has_ended(u, id))
                        return u;
        return NULL;
}

/* The next one by number, so that each is asked once. */
static User *next_user(const User *asking, uint32_t after, bool is_first)
{
        size_t cursor = 0;
        User *found = NULL, *u;

        while ((u = map_next(&asking->launcher->users, &cursor))) {
                if (u == asking || !u->is_started || (!is_first && u->uid <= after))
                        continue;
                if (!found || u->uid < found->uid)
                        found = u;
        }
        return found;
}

static User *find_owner(const User *asking, const PrivAdminOpen *o)
{
        const Launcher *l = asking->launcher;

        switch (o->what) {
        case ADMIN_SESSION:
                return owner_of(l, &o->session);
        case ADMIN_USER:
                return map_get(&l->users, &o->uid, sizeof(o->uid));
        case ADMIN_FIRST:
        case ADMIN_NEXT:
                return next_user(asking, o->uid, o->what == ADMIN_FIRST);
        default:
                return NULL;
        }
}

/* Nothing of the administrator's but what the call itself carries reaches that worker. */
static int open_way(const User *asking, User *owner, int *ret_fd)
{
        Launcher *l = asking->launcher;
        PrivClient client = { .connection = ++l->last_connection,
                              .uid = owner->uid,
                              .gid = owner->identity.gid,
                              .is_relayed = true };
        int pair[2];

        if (!owner->is_started)
                return -EAGAIN;
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
                return neg_errno();
        user_send(owner, PRIV_API_CLIENT, &client, sizeof(client), &pair[1], 1);
        (void) fd_close(pair[1]);
        *ret_fd = pair[0];
        return 0;
}

int admin_open(User *u, const PrivAdminOpen *body)
{
        PrivAdminOpened answer = { .token = body->token };
        _cleanup_close_ int fd = -EBADF;
        User *owner = NULL;

        if (body->what >= _ADMIN_WHAT_MAX || !method_is_sound(body->method))
                return -EPROTO;
        answer.error = check_connection(u, body->connection);
        if (answer.error >= 0) {
                owner = find_owner(u, body);
                answer.error = !owner || owner == u ? -ENOENT : open_way(u, owner, &fd);
        }
        if (answer.error >= 0) {
                answer.uid = owner->uid;
                report(u, body->what == ADMIN_SESSION ? &body->session : NULL, owner->uid, body->method);
        }
        user_send(u, PRIV_ADMIN_OPENED, &answer, sizeof(answer), &fd, fd >= 0 ? 1 : 0);
        return 0;
}

/* ---- the end of sessions ---- */

static void answer_ending(Ending *e, int error)
{
        PrivAdminTerminated answer = { .token = e->token, .error = error, .n_sessions = e->n_sessions };

        worker_send(e->user->api, PRIV_ADMIN_TERMINATED, &answer, sizeof(answer), NULL, 0);
        list_unlink(&e->link);
        e->user->launcher->n_endings--;
        free(e);
}

void admin_session_over(const Session *s)
{
        LIST_FOREACH (e, &s->launcher->endings, Ending, link) {
                bool is_one = false;

                for (uint32_t i = 0; i < e->n_sessions && !is_one; i++)
                        is_one = id_equal(&e->sessions[i], &s->id);
                if (is_one && --e->n_left == 0)
                        answer_ending(e, 0);
        }
}

bool admin_is_ending(const User *u)
{
        LIST_FOREACH (e, &u->launcher->endings, Ending, link)
                if (e->scope == ADMIN_ALL || (e->scope == ADMIN_USER && e->uid == u->uid))
                        return true;
        return false;
}

void admin_forget(const User *u)
{
        LIST_FOREACH (e, &u->launcher->endings, Ending, link) {
                if (e->user != u)
                        continue;
                list_unlink(&e->link);
                u->launcher->n_endings--;
                free(e);
        }
}

static void on_stopping_over(void *userdata)
{
        session_stop(userdata, END_TERMINATED);
}

/* The owner's worker says SIGTERM through init, and says that it did. If it does not, or the grace time is
 * over, the kernel kills the group: nothing here waits for a worker or for init. */
static void end_one(Session *s, uint64_t grace_usec)
{
        PrivSessionStop stop = { .session = s->id, .grace_usec = grace_usec };

        if (s->state == SESSION_STARTING) {
                session_fail(s, -ECANCELED, "terminate", "an administrator ended it");
                return;
        }
        if (s->state != SESSION_RUNNING)
                return;
        s->grace_usec = grace_usec;
        s->has_grace = false;
        if (grace_usec == 0 || !s->user->is_started ||
            (!s->stop_timer && loop_timer_new(s->launcher->loop, on_stopping_over, s, &s->stop_timer) < 0) ||
            loop_timer_set(s->stop_timer, STOPPING_USEC) < 0) {
                session_stop(s, END_TERMINATED);
                return;
        }
        user_send(s->user, PRIV_SESSION_STOP, &stop, sizeof(stop), NULL, 0);
}

int admin_on_stopping(const User *u, const PrivSessionRef *body)
{
        Session *s = map_get(&u->launcher->sessions, &body->session, sizeof(body->session));

        if (!s || s->user != u || !s->stop_timer || s->state != SESSION_RUNNING)
                return 0;
        /* Said again it puts off nothing. */
        if (s->has_grace)
                return 0;
        s->has_grace = true;
        if (loop_timer_set(s->stop_timer, s->grace_usec) < 0)
                session_stop(s, END_TERMINATED);
        return 0;
}

static bool is_meant(const Session *s, const PrivAdminTerminate *t)
{
        if (s->is_end_sent)
                return false;
        return t->scope == ADMIN_ALL || (t->scope == ADMIN_USER && s->user->uid == t->uid) ||
               (t->scope == ADMIN_SESSION && id_equal(&s->id, &t->session));
}

static int list_meant(const User *u, const PrivAdminTerminate *t, Ending **ret)
{
        const Launcher *l = u->launcher;
        size_t cursor = 0;
        const Session *s;
        Ending *e;

        if (l->n_endings >= ENDINGS_MAX - (u->uid == 0 ? 0 : ENDINGS_OF_ROOT))
                return -EBUSY;
        e = calloc(1, sizeof(*e) + l->sessions.n * sizeof(Id));
        if (!e)
                return -ENOMEM;
        *e = (Ending){ .user = u, .token = t->token, .scope = t->scope, .uid = t->uid };
        list_init(&e->link);
        while ((s = map_next(&l->sessions, &cursor)))
                if (is_meant(s, t))
                        e->sessions[e->n_sessions++] = s->id;
        e->n_left = e->n_sessions;
        *ret = e;
        return 0;
}

/* Ends may come at once, and free what waits for them. */
static void end_all(User *u, Ending *e, uint64_t grace_usec)
{
        _cleanup_free_ Id *ids = calloc(e->n_sessions, sizeof(*ids));
        uint32_t n = e->n_sessions;

        if (!ids) {
                answer_ending(e, -ENOMEM);
                return;
        }
        memcpy(ids, e->sessions, n * sizeof(*ids));
        for (uint32_t i = 0; i < n; i++) {
                Session *s = map_get(&u->launcher->sessions, &ids[i], sizeof(ids[i]));

                if (!s)
                        continue;
                report(u, &s->id, s->user->uid, "Terminate");
                end_one(s, grace_usec);
        }
}

int admin_terminate(User *u, const PrivAdminTerminate *body)
{
        PrivAdminTerminated answer = { .token = body->token };
        Ending *e = NULL;

        if (body->scope != ADMIN_SESSION && body->scope != ADMIN_USER && body->scope != ADMIN_ALL)
                return -EPROTO;
        answer.error = check_connection(u, body->connection);
        if (answer.error >= 0)
                answer.error = list_meant(u, body, &e);
        if (answer.error >= 0 && e->n_sessions == 0 && body->scope == ADMIN_SESSION &&
            !owner_of(u->launcher, &body->session))
                answer.error = -ENOENT;
        if (answer.error < 0 || e->n_sessions == 0) {
                free(e);
                user_send(u, PRIV_ADMIN_TERMINATED, &answer, sizeof(answer), NULL, 0);
                return 0;
        }
        list_append(&u->launcher->endings, &e->link);
        u->launcher->n_endings++;
        end_all(u, e, body->grace_usec);
        return 0;
}
