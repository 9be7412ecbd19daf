/* How commands end: by themselves, by a time limit, with their session, or before they ran. */

#include <signal.h>

#include "daemon/api/events.h"
#include "daemon/api/store.h"
#include "daemon/api/streams.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/log.h"

#define KILL_DEADLINE_USEC (10 * USEC_PER_SEC)
/* What a command has to end itself, once nobody is there for whom it runs. */
#define HANG_UP_DEADLINE_USEC (5 * USEC_PER_SEC)

void process_set_ended(Process *p, EndReason reason)
{
        p->state = p->state == PROCESS_STARTING ? PROCESS_FAILED : PROCESS_EXITED;
        p->reason = reason;
        p->ended_usec = clock_realtime_usec();
        loop_timer_stop(p->timer);
        if (p->streams)
                streams_on_exit(p->streams);
        events_exec_ended(p);
}

void process_failed(Process *p, const char *error, Json *take_parameters)
{
        Client *c = client_find(p->session->api, p->connection);
        Session *s = p->session;

        process_set_ended(p, END_SETUP_FAILED);
        if (c && c->wait == WAIT_CREATE)
                client_error(c, error, take_parameters);
        else
                json_unref(take_parameters);
        p->connection = 0;
        answer_process_end(p);
        session_store_process(p);
        request_command_gone(p);
        if (p->is_spawned)
                session_end(s, END_SETUP_FAILED);
        else
                session_update_idle(s);
}

Json *exec_setup_failed(const char *step, int error, const char *message)
{
        Json *p = NULL;

        if (json_new_object(&p) < 0)
                return NULL;
        if (json_set_string(p, "step", step) < 0 || json_set_string(p, "errnoName", error_name(error)) < 0 ||
            json_set_string(p, "message", message) < 0)
                return json_unref(p);
        return p;
}

void process_record_exit(Process *p)
{
        PrivRecordExit exit_row = {
                .session = p->session->id,
                .process = p->number,
                .status = p->is_signal ? 128 + p->status : p->status,
                .reason = p->reason,
                .is_unknown = p->is_unknown,
        };

        if (p->session->api->audit)
                (void) priv_link_send(p->session->api->audit, PRIV_RECORD_EXIT, &exit_row, sizeof(exit_row),
                                      NULL, 0);
}

static void kill_group(const Process *p)
{
        PrivExecSignal m = { .process = p->number, .signal = SIGKILL, .scope = SIGNAL_KILL_GROUP };

        if (p->session->init)
                (void) priv_link_send(p->session->init, PRIV_EXEC_SIGNAL, &m, sizeof(m), NULL, 0);
}

/* Its process waits at the gate, which audit may still open. */
void process_record_failed(Process *p, int error)
{
        Json *o = NULL;

        p->record_token = 0;
        kill_group(p);
        if (error == -EDQUOT && json_new_object(&o) >= 0 && json_set_string(o, "resource", "rows") >= 0) {
                process_failed(p, SESSION_ERROR "QuotaExceeded", o);
                return;
        }
        json_unref(o);
        process_failed(p, SESSION_ERROR "AuditUnavailable", NULL);
}

/* A frozen init kills nobody; the launcher does. */
static void kill_now(Process *p, EndReason reason)
{
        Session *s = p->session;
        PrivSessionCommand kill_command = { .session = s->id, .process = p->number };

        p->is_killed = true;
        p->reason = reason;
        p->is_kill_passed = s->state == SESSION_FROZEN;
        if (p->is_kill_passed)
                (void) priv_link_send(s->api->launcher, PRIV_SESSION_KILL_COMMAND, &kill_command,
                                      sizeof(kill_command), NULL, 0);
        else
                kill_group(p);
        if (loop_timer_set(p->timer, KILL_DEADLINE_USEC) < 0)
                session_end(s, reason);
}

void process_kill(Process *p, EndReason reason)
{
        if (p->state == PROCESS_RUNNING && !p->is_killed)
                kill_now(p, reason);
}

static void signal_group(const Process *p, int number)
{
        PrivExecSignal m = { .process = p->number, .signal = (uint32_t) number, .scope = SIGNAL_ALL };

        (void) priv_link_send(p->session->init, PRIV_EXEC_SIGNAL, &m, sizeof(m), NULL, 0);
}

void process_hang_up(Process *p)
{
        if (p->state != PROCESS_RUNNING || p->is_killed || p->is_hung_up || !p->session->init)
                return;
        p->is_hung_up = true;
        signal_group(p, SIGHUP);
        signal_group(p, SIGCONT);
        if (loop_timer_set(p->timer, HANG_UP_DEADLINE_USEC) < 0)
                process_kill(p, END_CLIENT_GONE);
}

void process_signal(const Process *p, int number)
{
        PrivExecSignal m = { .process = p->number, .signal = (uint32_t) number, .scope = SIGNAL_LEADER };

        if (p->state == PROCESS_RUNNING && p->session->init)
                (void) priv_link_send(p->session->init, PRIV_EXEC_SIGNAL, &m, sizeof(m), NULL, 0);
}

/* Its start or its kill has a deadline; before the kill the timer is its own time limit. */
static void on_time_over(Process *p)
{
        Session *s = p->session;
        EndReason reason = p->is_hung_up ? END_CLIENT_GONE : END_TIMEOUT;

        if ((p->is_killed && (p->is_kill_passed || s->state != SESSION_FROZEN)) || !s->init) {
                /* init is stopped by other means or worse: the launcher ends the whole. */
                session_end(s, p->is_killed ? p->reason : reason);
                return;
        }
        kill_now(p, p->is_killed ? p->reason : reason);
}

void process_on_timer(void *userdata)
{
        Process *p = userdata;
        Session *s = p->session;

        if (p->state == PROCESS_STARTING && p->record_token != 0) {
                process_record_failed(p, -ETIMEDOUT);
        } else if (p->state == PROCESS_STARTING && s->state == SESSION_FROZEN) {
                /* init answers when it may go on. */
                if (loop_timer_set(p->timer, START_DEADLINE_USEC) < 0)
                        session_end(s, END_SETUP_FAILED);
        } else if (p->state == PROCESS_STARTING) {
                /* Of a former worker's it is not known whether it ran: that is told when the session is
                 * over. */
                if (!p->is_probed)
                        process_failed(p, SESSION_ERROR "SetupFailed",
                                       exec_setup_failed("exec", -ETIMEDOUT,
                                                         "the session's init does not answer"));
                session_end(s, END_SETUP_FAILED);
        } else {
                on_time_over(p);
        }
}

void process_finish(Process *p, EndReason reason)
{
        Session *s = p->session;

        process_set_ended(p, reason);
        if (!p->is_spawned)
                answer_process_end(p); /* first: somebody waits for it */
        process_record_exit(p);
        session_store_process(p);
        request_command_ended(p);
        if (!p->is_spawned) {
                session_update_idle(s);
                return;
        }
        session_end(s, END_EXITED);
        answer_process_end(p);
}

int on_command_killed(Api *api, const PrivSessionCommand *m)
{
        Session *s = session_find_id(api, &m->session);
        Process *p = s ? process_find(s, m->process) : NULL;

        if (!p || p->state != PROCESS_RUNNING || !p->is_kill_passed)
                return 0;
        if (m->error != 0) {
                (void) log_warning(m->error, "session %s: cannot kill a command while frozen", s->id_text);
                session_end(s, p->reason);
                return 0;
        }
        p->is_signal = true;
        p->status = SIGKILL;
        process_finish(p, p->reason);
        return 0;
}

void processes_session_ended(Session *s)
{
        LIST_FOREACH (p, &s->processes, Process, link) {
                if (process_has_ended(p))
                        continue;
                if (p->state == PROCESS_STARTING && !p->is_probed) {
                        p->record_token = 0;
                        process_failed(p, SESSION_ERROR "SetupFailed",
                                       exec_setup_failed("exec", -ESRCH, "the session has ended"));
                        continue;
                }
                p->is_unknown = p->state == PROCESS_STARTING;
                p->is_signal = !p->is_unknown;
                p->status = p->is_signal ? SIGKILL : 0;
                p->state = PROCESS_RUNNING;
                process_set_ended(p, p->is_killed ? p->reason : s->end_reason);
                process_record_exit(p);
                answer_process_end(p);
                session_store_process(p);
                request_command_ended(p);
        }
}
