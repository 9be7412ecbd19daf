/*
 * Commands. The way of one: checked, its row asked for (RECORD_EXEC), and at once init makes its process
 * (EXEC), which waits at a gate until audit, with the row committed, opens it. init answers EXEC_STARTED
 * and, at its end, EXEC_EXITED. Each step has a deadline: audit may be down, and the user can freeze init
 * from outside.
 */

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "daemon/api/context.h"
#include "daemon/api/events.h"
#include "daemon/api/store.h"
#include "daemon/api/streams.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

#define ARGUMENTS_MAX 4096U

static int invalid(Client *c, const char *field)
{
        client_invalid(c, field);
        return 0;
}

static int invalid_command(Client *c, const char *field)
{
        char path[80];

        (void) snprintf(path, sizeof(path), "command.%s", field);
        return invalid(c, path);
}

static int check_arguments(Client *c, const Json *command)
{
        const Json *list = get_value(command, "commandLine");

        if (!list)
                return 1;
        if (json_n(list) == 0 || json_n(list) > ARGUMENTS_MAX)
                return invalid_command(c, "commandLine");
        return *json_string(json_at(list, 0)) ? 1 : invalid_command(c, "commandLine[0]");
}

static int check_terminal(Client *c, const Json *command)
{
        const Json *terminal = get_value(command, "terminal");
        const char *term = terminal ? get_string(terminal, "term") : NULL;

        if (!terminal)
                return 1;
        if (term && (strlen(term) > 64 || strspn(term, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                                       "0123456789-+._") != strlen(term)))
                return invalid_command(c, "terminal.term");
        if (get_integer(terminal, "columns") < 0 || get_integer(terminal, "columns") > UINT16_MAX)
                return invalid_command(c, "terminal.columns");
        if (get_integer(terminal, "rows") < 0 || get_integer(terminal, "rows") > UINT16_MAX)
                return invalid_command(c, "terminal.rows");
        return 1;
}

int command_check(Client *c, const Json *parameters, const Json *command)
{
        const Json *environment = get_value(command, "environment");
        const char *directory = get_string(command, "workingDirectory");
        char canonical[PLAN_PATH_MAX], field[64];
        size_t i;
        int r;

        if ((r = check_arguments(c, command)) <= 0 || (r = check_terminal(c, command)) <= 0 ||
            (r = streams_check(c, parameters, command)) <= 0)
                return r;
        if (environment && environment_check(environment, &i) < 0) {
                (void) snprintf(field, sizeof(field), "environment[%zu]", i);
                return invalid_command(c, field);
        }
        if (directory && directory_parse(directory, canonical, sizeof(canonical)) < 0)
                return invalid_command(c, "workingDirectory");
        if (get_value(command, "timeoutUSec") && get_integer(command, "timeoutUSec") <= 0)
                return invalid_command(c, "timeoutUSec");
        return 1;
}

/* ---- making ---- */

static int take_command_line(Process *p, const Json *command)
{
        const Json *list = get_value(command, "commandLine");
        const char *shell = p->session->api->start.identity.shell;
        int r;

        r = json_new_array(&p->command_line);
        if (r >= 0 && !list)
                r = json_append_string(p->command_line, shell[0] ? shell : "/bin/sh");
        for (size_t i = 0; list && r >= 0 && i < json_n(list); i++)
                r = json_append_string(p->command_line, json_string(json_at(list, i)));
        return r;
}

/* cwd, argv, environment. */
static int take_strings(Process *p, const Json *command)
{
        const char *directory = get_string(command, "workingDirectory");
        char canonical[PLAN_PATH_MAX];
        int r = 0;

        p->strings = BUF_INIT(PRIV_EXEC_MAX - sizeof(PrivExec));
        if (directory)
                r = policy_path_canonical(directory, canonical, sizeof(canonical));
        else
                directory = p->session->working_directory;
        if (r >= 0 && directory != p->session->working_directory)
                directory = canonical;
        if (r >= 0)
                r = buf_put(&p->strings, directory, strlen(directory) + 1);
        for (size_t i = 0; r >= 0 && i < json_n(p->command_line); i++) {
                const char *s = json_string(json_at(p->command_line, i));

                r = buf_put(&p->strings, s, strlen(s) + 1);
        }
        p->exec.n_arguments = (uint32_t) json_n(p->command_line);
        return r < 0 ? r : environment_build(p->session, command, &p->strings, &p->exec.n_environment);
}

static int process_new(Session *s, const Json *parameters, const Json *command, const int *fds,
                       Process **ret)
{
        _cleanup_(process_freep) Process *p = NULL;
        int64_t timeout = get_integer(command, "timeoutUSec");
        int r;

        p = calloc(1, sizeof(*p));
        if (!p)
                return -ENOMEM;
        *p = (Process){ .session = s, .number = s->next_process };
        list_init(&p->link);
        p->timeout_usec = timeout > 0 ? (uint64_t) timeout : s->timeout_usec;
        p->exec.process = p->number;
        if ((r = take_command_line(p, command)) < 0 || (r = take_strings(p, command)) < 0 ||
            (r = streams_take(p, parameters, command, fds)) < 0 ||
            (r = loop_timer_new(s->api->loop, process_on_timer, p, &p->timer)) < 0)
                return r;
        *ret = TAKE_PTR(p);
        return 0;
}

void processes_make_room(Session *s)
{
        LIST_FOREACH (p, &s->processes, Process, link) {
                if (s->n_processes < API_PROCESSES_KEPT_MAX)
                        return;
                if (process_has_ended(p))
                        process_free(p);
        }
}

static void process_add(Session *s, Client *c, Process *p)
{
        p->connection = c->peer.connection;
        p->wants_result = c->call.is_more;
        p->is_spawned = s->is_spawn && s->next_process == 1;
        request_set_command(p->is_spawned ? TAKE_PTR(s->request) : TAKE_PTR(c->request), p);
        s->next_process++;
        processes_make_room(s);
        list_append(&s->processes, &p->link);
        s->n_processes++;
}

int session_exec(Session *s, Client *c, const Json *parameters, const Json *command, const int *fds)
{
        _cleanup_(process_freep) Process *p = NULL;
        int r;

        if (!s->api->audit) {
                client_error(c, SESSION_ERROR "AuditUnavailable", NULL);
                return 0;
        }
        if (!s->init) {
                client_error(c, SESSION_ERROR "SetupFailed",
                             exec_setup_failed("exec", -ESRCH, "the session is ending"));
                return 0;
        }
        if (!streams_check_limit(s, c, command))
                return 0;
        r = process_new(s, parameters, command, fds, &p);
        if (r >= 0) {
                process_add(s, c, p);
                r = process_start(p);
        }
        if (r == -ENOBUFS || r == -E2BIG) {
                client_invalid(c, "command.commandLine");
                return 0;
        }
        if (r == -EDQUOT) {
                client_error_string(c, SESSION_ERROR "QuotaExceeded", "resource", "descriptors");
                return 0;
        }
        if (r < 0)
                return r;
        c->wait = WAIT_CREATE;
        p = NULL;
        session_update_idle(s);
        return 1;
}

/* ---- audit and init answer ---- */

static Process *find_record(Api *api, uint64_t token)
{
        LIST_FOREACH (s, &api->sessions, Session, link) {
                LIST_FOREACH (p, &s->processes, Process, link) {
                        if (p->record_token == token && token != 0)
                                return p;
                }
        }
        return NULL;
}

int on_recorded(Api *api, const PrivRecorded *m)
{
        Process *p = find_record(api, m->token);

        if (p && m->error == 0)
                p->audit_sequence = m->sequence;
        if (!p || p->state != PROCESS_STARTING)
                return 0; /* its deadline was faster, or init */
        if (m->error != 0) {
                process_record_failed(p, m->error);
                return 0;
        }
        p->record_token = 0;
        return loop_timer_set(p->timer, START_DEADLINE_USEC);
}

void processes_audit_lost(Api *api)
{
        LIST_FOREACH (s, &api->sessions, Session, link) {
                LIST_FOREACH (p, &s->processes, Process, link) {
                        if (p->state == PROCESS_STARTING && p->record_token != 0)
                                process_record_failed(p, -EPIPE);
                }
        }
}

/* Its row is there, or may be. */
static void start_not_made(Process *p, const char *error, Json *take_parameters)
{
        p->reason = END_SETUP_FAILED;
        p->is_unknown = true;
        process_record_exit(p);
        process_failed(p, error, take_parameters);
}

static void start_failed(Process *p, const PrivExecStarted *m)
{
        const char *name = json_string(json_at(p->command_line, 0));
        bool is_execve = m->stage == EXEC_STAGE_EXECVE;
        const char *error = SESSION_ERROR "SetupFailed";
        Json *o = NULL;

        /* Audit says why, before it closes the gate: that may be read after this. */
        if (m->stage == EXEC_STAGE_GATE && p->record_token != 0 && p->session->api->audit)
                return;
        if (m->stage == EXEC_STAGE_GATE) {
                process_failed(p, SESSION_ERROR "AuditUnavailable", NULL);
                return;
        }
        if (m->stage == EXEC_STAGE_DIRECTORY) {
                o = exec_setup_failed("working-directory", m->error,
                                      "the working directory cannot be entered");
        } else if (is_execve && (m->error == -ENOENT || m->error == -ENOTDIR)) {
                error = SESSION_ERROR "CommandNotFound";
        } else if (is_execve) {
                error = SESSION_ERROR "NotExecutable";
        } else {
                o = exec_setup_failed("exec", m->error, "the command could not be started");
        }
        if (!o && (json_new_object(&o) < 0 || json_set_string(o, "command", name) < 0))
                o = json_unref(o);
        if (is_execve && o && m->error != -ENOENT && json_set_string(o, "message", error_name(m->error)) < 0)
                o = json_unref(o);
        start_not_made(p, error, o);
}

static int set_started(const Process *p, bool has_pty, Json *o)
{
        const Session *s = p->session;
        _cleanup_json_ Json *runtime = NULL;
        char number[16];
        int r;

        process_number_text(p->number, number);
        if ((r = json_set_string(o, "id", s->id_text)) < 0 ||
            (r = json_set_string(o, "process", number)) < 0)
                return r;
        if (has_pty && (r = json_set_integer(o, "ptyFileDescriptor", 0)) < 0)
                return r;
        if (!p->is_spawned)
                return 0;
        r = session_runtime(s, /* is_full= */ true, &runtime);
        if (r >= 0)
                r = json_set(o, "runtime", TAKE_PTR(runtime));
        return r < 0 ? r : session_set_cursor(s, o);
}

/* The terminal goes along, but where a limit on output can only be kept here. */
static void answer_started(Process *p)
{
        Client *c = client_find(p->session->api, p->connection);
        bool has_pty = p->has_pty && p->session->output_max_bytes == 0;
        _cleanup_json_ Json *o = NULL;
        int fd = -EBADF, r;

        if (!c || c->wait != WAIT_CREATE) {
                p->connection = 0;
                return;
        }
        if (!p->wants_result)
                p->connection = 0;
        r = json_new_object(&o);
        if (r >= 0)
                r = set_started(p, has_pty, o);
        if (r < 0) {
                p->connection = 0;
                client_failure(c, r);
                return;
        }
        if (has_pty) {
                streams_lend(p->streams, c->peer.connection, p->has_exclusive_pty, /* hangs_up= */ false);
                fd = p->streams->outputs[0].fd;
        }
        client_reply(c, TAKE_PTR(o), p->wants_result, &fd, has_pty ? 1 : 0);
}

static int set_running(Process *p)
{
        p->state = PROCESS_RUNNING;
        p->started_usec = clock_realtime_usec();
        request_command_started(p);
        events_exec_started(p);
        return p->timeout_usec > 0 ? loop_timer_set(p->timer, p->timeout_usec) : 0;
}

static int on_exec_started(Session *s, Imsg *m)
{
        const PrivExecStarted *started = m->body;
        Process *p = process_find(s, started->process);
        int r = 0;

        if (!p || p->state != PROCESS_STARTING)
                return 0;
        loop_timer_stop(p->timer);
        p->record_token = 0;
        if (started->error != 0) {
                start_failed(p, started);
                return 0;
        }
        if (m->n_fds != 1 + (size_t) p->has_pty)
                return -EPROTO;
        r = set_running(p);
        if (r >= 0 && p->streams)
                r = streams_start(p->streams, p->has_pty ? TAKE_FD(m->fds[1]) : -EBADF);
        answer_started(p);
        session_store_process(p);
        return r;
}

static int on_exec_exited(Session *s, const PrivExecExited *m)
{
        Process *p = process_find(s, m->process);

        if (!p || (p->state != PROCESS_RUNNING && !(p->is_probed && p->state == PROCESS_STARTING)))
                return 0;
        /* That it started is the last that the former worker heard. */
        p->state = PROCESS_RUNNING;
        if (m->status > (m->is_signal ? 127U : 255U) || (m->is_signal && m->status == 0))
                return -EPROTO;
        p->is_signal = m->is_signal != 0;
        p->status = m->status;
        p->has_core = m->has_core != 0;
        process_finish(p, p->is_killed    ? p->reason
                          : p->is_hung_up ? END_CLIENT_GONE
                          : p->is_signal  ? END_SIGNAL
                                          : END_EXITED);
        return 0;
}

/* Of a command that a former worker asked for. What init had to say of it and that worker did not read stood
 * before this in the channel; what that worker read and did not store is lost: how it ended, then, nobody
 * knows. Only what init never heard of may be tried again. */
static int on_probed(Session *s, const PrivExecSignalled *m)
{
        Process *p = process_find(s, m->process);
        int r;

        if (m->state >= _EXEC_STATE_MAX)
                return -EPROTO;
        if (!p || !p->is_probed || process_has_ended(p))
                return 0;
        if (m->state == EXEC_STATE_NEVER && p->state == PROCESS_STARTING) {
                start_not_made(p, SESSION_ERROR "SetupFailed",
                               exec_setup_failed("exec", -ESRCH, "the daemon's worker ended"));
        } else if (m->state == EXEC_STATE_RUNNING && p->state == PROCESS_STARTING) {
                loop_timer_stop(p->timer);
                r = set_running(p);
                session_store_process(p);
                return r;
        } else if (m->state == EXEC_STATE_NEVER || m->state == EXEC_STATE_OVER) {
                p->state = PROCESS_RUNNING;
                p->is_unknown = true;
                process_finish(p, END_EXITED);
        }
        return 0;
}

int on_init_message(void *owner, _unused_ PrivLink *link, Imsg *m)
{
        Session *s = owner;

        if (m->type == PRIV_EXEC_STARTED)
                return on_exec_started(s, m);
        if (m->type == PRIV_EXEC_EXITED)
                return on_exec_exited(s, m->body);
        if (m->type == PRIV_GUARDED)
                return session_on_guarded(s, m->body);
        return m->type == PRIV_EXEC_SIGNALLED ? on_probed(s, m->body) : -EPROTO;
}

/* init is gone or lies; the launcher sees its end too, and says when all is torn down. */
void on_init_closed(void *owner, _unused_ PrivLink *link, int reason)
{
        Session *s = owner;

        if (reason != -EPIPE)
                (void) log_warning(reason, "session %s: its init broke the protocol", s->id_text);
        s->init = priv_link_free(s->init);
        session_end(s, END_TERMINATED);
}
