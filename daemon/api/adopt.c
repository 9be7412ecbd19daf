/*
 * Sessions that outlived the worker that made them: the launcher hands over what it has of them, the store
 * knows the rest. Until the launcher has named all that live, stored sessions without an end wait in
 * api->orphans; those that nobody claims have ended while no worker looked, or with the daemon itself.
 */

#include "daemon/api/events.h"
#include "daemon/api/store.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

#define ADOPT_GRACE_USEC (30 * USEC_PER_SEC)

static Session *find_orphan(Api *api, const Id *id)
{
        LIST_FOREACH (s, &api->orphans, Session, link) {
                if (id_equal(&s->id, id))
                        return s;
        }
        return NULL;
}

static void on_grace_over(void *userdata)
{
        Session *s = userdata;

        LIST_FOREACH (c, &s->api->clients, Client, link) {
                if (!c->peer.is_relayed &&
                    (c->wait == WAIT_SESSION || c->wait == WAIT_PROCESS || c->wait == WAIT_RESULT) &&
                    id_equal(&c->wait_session, &s->id)) {
                        s->connection = c->peer.connection;
                        return;
                }
        }
        session_end(s, END_CLIENT_GONE);
}

/* What the launcher knows will have to do. */
static int fill_from_claims(Session *s, const PrivSessionClaims *claims)
{
        int r;

        r = str_copy(s->name, sizeof(s->name), claims->name);
        if (r >= 0)
                r = str_copy(s->profile, sizeof(s->profile), claims->profile);
        if (r >= 0 && claims->workspace[0])
                r = str_dup(claims->workspace, &s->workspace);
        if (r >= 0)
                r = str_dup(s->workspace ? s->workspace : "/", &s->working_directory);
        if (r >= 0)
                r = json_new_object(&s->context);
        if (r >= 0)
                r = json_new_array(&s->environment);
        return r;
}

/* Whether its commands are still there is init's to say; time limits go on where they stood. */
static int resume_processes(Session *s)
{
        uint64_t now = clock_realtime_usec();

        LIST_FOREACH (p, &s->processes, Process, link) {
                PrivExecSignal probe = { .process = p->number, .scope = SIGNAL_LEADER };
                uint64_t age = now > p->started_usec ? now - p->started_usec : 0;
                int r = 0;

                if (process_has_ended(p))
                        continue;
                p->is_probed = true;
                (void) priv_link_send(s->init, PRIV_EXEC_SIGNAL, &probe, sizeof(probe), NULL, 0);
                if (p->state == PROCESS_STARTING)
                        r = loop_timer_set(p->timer, START_DEADLINE_USEC);
                else if (p->timeout_usec > 0)
                        r = loop_timer_set(p->timer, age < p->timeout_usec ? p->timeout_usec - age : 0);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* The former worker died between the session and its answer. */
static void resume_request(Session *s, const Id *key)
{
        Request *q = request_find_key(s->api, key);

        if (!q || q->command)
                return;
        if (!q->is_spawn) {
                request_made(q, s, 0);
                return;
        }
        /* And before it asked for the command: the next call makes another session. */
        (void) request_give_up(q);
        session_end(s, END_SETUP_FAILED);
}

static int adopt(Session *s, const PrivSessionCreated *m, Imsg *message)
{
        uint32_t number = s->next_process;
        uint64_t age_msec;
        int r = 0;

        if (!s->context)
                r = fill_from_claims(s, &m->claims);
        if (r >= 0)
                r = session_open(s, m, message);
        if (r >= 0)
                r = resume_processes(s);
        if (r < 0)
                return r;
        s->is_detached = m->claims.is_detached != 0;
        /* Numbers are never used twice, and nobody started more than a command a millisecond. */
        age_msec = (clock_realtime_usec() - s->created_usec) / USEC_PER_MSEC;
        s->next_process = MAX_OF(number, (uint32_t) (age_msec & 0x3fffffff) + 2);
        session_update_idle(s);
        if (s->is_detached)
                return 0;
        r = loop_timer_new(s->api->loop, on_grace_over, s, &s->grace_timer);
        return r < 0 ? r : loop_timer_set(s->grace_timer, ADOPT_GRACE_USEC);
}

int session_on_adopt(Api *api, Imsg *m)
{
        _cleanup_(session_freep) Session *s = NULL;
        const PrivSessionCreated *created = m->body;
        int r = 0;

        if (!session_created_is_sound(created))
                return -EPROTO;
        s = find_orphan(api, &created->session);
        if (s)
                list_unlink(&s->link);
        else
                r = session_new(api, &s);
        if (r >= 0)
                r = adopt(s, created, m);
        if (r < 0)
                return r;
        session_add(s);
        resume_request(TAKE_PTR(s), &created->claims.request);
        return 0;
}

/* It has ended, and with it what ran in it: how, nobody knows. */
static void settle(Session *s, EndReason reason, uint64_t ended_usec)
{
        list_unlink(&s->link);
        LIST_FOREACH (p, &s->processes, Process, link) {
                if (process_has_ended(p))
                        continue;
                p->is_unknown = true;
                process_set_ended(p, reason);
                session_store_process(p);
                request_command_ended(p);
        }
        s->end_reason = reason;
        s->has_end_reason = true;
        s->state = SESSION_EXITED;
        s->ended_usec = ended_usec;
        session_store_end(s);
        session_add(s);
        events_session_ended(s);
}

bool session_settle_orphan(Api *api, const PrivSessionEnd *end)
{
        Session *s = find_orphan(api, &end->session);

        if (!s)
                return false;
        settle(s, (EndReason) end->reason, clock_realtime_usec());
        return true;
}

void sessions_settle(Api *api)
{
        LIST_FOREACH (s, &api->orphans, Session, link) {
                /* Of this run, and the launcher has lost sight of it: a worker died just as it heard of the
                 * end. */
                if (s->is_of_this_run)
                        settle(s, END_TERMINATED, clock_realtime_usec());
                else
                        settle(s, END_DAEMON_RESTART, api->start.started_usec);
        }
        requests_settle(api);
        (void) sessions_prune(api, UINT64_MAX);
}
