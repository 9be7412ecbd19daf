/*
 * A session's life here: STARTING until the launcher answers, RUNNING while commands may start, STOPPING
 * from the moment somebody wants its end, EXITED when the launcher has torn it down. Only the launcher's
 * word ends it.
 */

#include "daemon/api/events.h"
#include "daemon/api/store.h"
#include "daemon/api/streams.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

/* What a client has for its second connection. */
#define LINGER_USEC (10 * USEC_PER_SEC)

static const char *const states[] = {
        [SESSION_STARTING] = "starting", [SESSION_RUNNING] = "running", [SESSION_FROZEN] = "frozen",
        [SESSION_STOPPING] = "stopping", [SESSION_EXITED] = "exited",
};
ASSERT_TABLE(states, _SESSION_STATE_MAX);

const char *session_state_to_string(const Session *s)
{
        return s->state == SESSION_EXITED && s->end_reason == END_SETUP_FAILED ? "failed" : states[s->state];
}

bool session_has_ended(const Session *s)
{
        return s->state == SESSION_EXITED;
}

bool session_is_live(const Session *s)
{
        return s->state == SESSION_RUNNING || s->state == SESSION_FROZEN;
}

int session_new(Api *api, Session **ret)
{
        _cleanup_(session_freep) Session *s = NULL;
        int r;

        s = calloc(1, sizeof(*s));
        if (!s)
                return -ENOMEM;
        *s = (Session){ .api = api, .init_pidfd = -EBADF, .next_process = 1 };
        list_init(&s->link);
        list_init(&s->processes);
        r = json_new_array(&s->warnings);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(s);
        return 0;
}

static void count(Session *s, bool is_there)
{
        size_t *n = session_has_ended(s) ? &s->api->n_ended : &s->api->n_sessions;

        *n = is_there ? *n + 1 : *n - 1;
}

/* Oldest first: those that are read back come in any order, others are the youngest. */
void session_add(Session *s)
{
        ListLink *before = &s->api->sessions;

        while (before->prev != &s->api->sessions &&
               list_entry(before->prev, Session, link)->created_usec > s->created_usec &&
               s->created_usec > 0)
                before = before->prev;
        list_append(before, &s->link);
        count(s, true);
}

static void stop_timers(Session *s)
{
        s->runtime_timer = loop_timer_free(s->runtime_timer);
        s->idle_timer = loop_timer_free(s->idle_timer);
        s->grace_timer = loop_timer_free(s->grace_timer);
        s->store_timer = loop_timer_free(s->store_timer);
}

Session *session_free(Session *s)
{
        if (!s)
                return NULL;
        if (!list_is_empty(&s->link)) {
                list_unlink(&s->link);
                count(s, false);
        }
        while (!list_is_empty(&s->processes))
                process_free(list_entry(s->processes.next, Process, link));
        stop_timers(s);
        s->request = request_give_up(s->request);
        s->block = block_release(s->block);
        s->init = priv_link_free(s->init);
        s->init_pidfd = fd_close(s->init_pidfd);
        s->context = json_unref(s->context);
        s->warnings = json_unref(s->warnings);
        s->environment = json_unref(s->environment);
        free(s->denials);
        free(s->workspace);
        free(s->working_directory);
        free(s);
        return NULL;
}

Session *session_find_id(Api *api, const Id *id)
{
        LIST_FOREACH (s, &api->sessions, Session, link) {
                if (s->state != SESSION_STARTING && id_equal(&s->id, id))
                        return s;
        }
        return NULL;
}

/* Also one that is still starting: names are unique from the first moment. */
Session *session_find_name(Api *api, const char *name)
{
        LIST_FOREACH (s, &api->sessions, Session, link) {
                if (s->name[0] && str_equal(s->name, name))
                        return s;
        }
        return NULL;
}

Session *session_find(Api *api, const char *id_or_name)
{
        Session *s;
        Id id;

        if (id_parse(id_or_name, &id) >= 0)
                return session_find_id(api, &id);
        s = *id_or_name ? session_find_name(api, id_or_name) : NULL;
        return s && s->state != SESSION_STARTING ? s : NULL;
}

Session *session_find_token(Api *api, uint64_t token)
{
        LIST_FOREACH (s, &api->sessions, Session, link) {
                if (s->state == SESSION_STARTING && s->token == token)
                        return s;
        }
        return NULL;
}

void session_warn(Session *s, const char *code, const char *message)
{
        _cleanup_json_ Json *w = NULL;

        if (json_n(s->warnings) >= 64 || json_new_object(&w) < 0 || json_set_string(w, "code", code) < 0 ||
            json_set_escaped(w, "message", message, strlen(message)) < 0)
                return;
        if (json_append(s->warnings, TAKE_PTR(w)) < 0)
                log_debug("a warning was lost");
        else if (session_is_live(s))
                events_session_warning(s, code, message);
}

/* ---- ending ---- */

void session_end(Session *s, EndReason reason)
{
        PrivSessionEnd end = { .session = s->id, .reason = reason };
        bool is_new;

        if (s->is_ending || s->state == SESSION_STARTING || session_has_ended(s))
                return;
        is_new = s->state != SESSION_STOPPING;
        s->is_ending = true;
        s->request = request_give_up(s->request);
        s->state = SESSION_STOPPING;
        answer_freeze_end(s);
        if (!s->has_end_reason)
                s->end_reason = reason;
        s->has_end_reason = true;
        end.reason = s->end_reason;
        if (is_new)
                events_session_state(s);
        stop_timers(s);
        (void) priv_link_send(s->api->launcher, PRIV_SESSION_TERMINATE, &end, sizeof(end), NULL, 0);
}

static bool has_live_process(const Session *s)
{
        LIST_FOREACH (p, &s->processes, Process, link) {
                if (!process_has_ended(p))
                        return true;
        }
        return false;
}

static void on_grace_over(void *userdata)
{
        session_end(userdata, END_TERMINATED);
}

void session_terminate(Session *s, uint64_t grace_usec)
{
        PrivExecSignal signal_all = { .signal = 15, .scope = SIGNAL_ALL };
        /* What stands still cannot use the time, and is not let go on for its end. */
        bool can_clean_up = s->state != SESSION_FROZEN && s->init && has_live_process(s);

        if (s->is_ending || s->state == SESSION_STARTING || session_has_ended(s))
                return;
        if (!s->has_end_reason)
                s->end_reason = END_TERMINATED;
        s->has_end_reason = true;
        if (grace_usec == 0 || !can_clean_up) {
                session_end(s, END_TERMINATED);
                return;
        }
        s->state = SESSION_STOPPING;
        events_session_state(s);
        answer_freeze_end(s);
        (void) priv_link_send(s->init, PRIV_EXEC_SIGNAL, &signal_all, sizeof(signal_all), NULL, 0);
        s->grace_timer = loop_timer_free(s->grace_timer);
        if (loop_timer_new(s->api->loop, on_grace_over, s, &s->grace_timer) < 0 ||
            loop_timer_set(s->grace_timer, grace_usec) < 0)
                session_end(s, END_TERMINATED);
}

static void on_runtime_over(void *userdata)
{
        session_end(userdata, END_RUNTIME);
}

static void on_idle_over(void *userdata)
{
        session_end(userdata, END_IDLE);
}

void session_update_idle(Session *s)
{
        bool is_busy = has_live_process(s);

        if (s->state == SESSION_STOPPING && !is_busy) {
                session_end(s, s->end_reason);
                return;
        }
        if (s->idle_usec == 0 || !session_is_live(s))
                return;
        if (!s->idle_timer && loop_timer_new(s->api->loop, on_idle_over, s, &s->idle_timer) < 0)
                return;
        if (is_busy || session_n_attached(s) > 0)
                loop_timer_stop(s->idle_timer);
        else if (loop_timer_set(s->idle_timer, s->idle_usec) < 0)
                session_end(s, END_IDLE);
}

static int start_life(Session *s)
{
        uint64_t age = clock_realtime_usec() - s->created_usec;
        int r;

        if (s->runtime_usec > 0) {
                r = loop_timer_new(s->api->loop, on_runtime_over, s, &s->runtime_timer);
                if (r >= 0)
                        r = loop_timer_set(s->runtime_timer,
                                           age < s->runtime_usec ? s->runtime_usec - age : 0);
                if (r < 0)
                        return r;
        }
        session_update_idle(s);
        return 0;
}

/* ---- the launcher's answers ---- */

static void warn_one(Session *s, const char *missing)
{
        char text[PRIV_TEXT_SIZE * 4 + 128];
        bool is_repository = str_has_prefix(missing, PRIV_MISSING_REPOSITORY);

        if (str_printf(text, sizeof(text), "%s%s",
                       is_repository ? "the repository of this worktree is not shown, and git does not work: "
                                     : "does not exist: ",
                       missing + (is_repository ? strlen(PRIV_MISSING_REPOSITORY) : 0)) >= 0)
                session_warn(s, is_repository ? "repository-missing" : "path-missing", text);
}

/* One warning for each optional path that was absent. */
static void warn_missing(Session *s, const char *missing)
{
        const char *p = missing;

        while (*p) {
                size_t n = strcspn(p, "\n");
                char path[PRIV_TEXT_SIZE * 4];

                if (n > 0 && n < sizeof(path)) {
                        memcpy(path, p, n);
                        path[n] = '\0';
                        warn_one(s, path);
                }
                p += n + (p[n] == '\n');
        }
}

bool session_created_is_sound(const PrivSessionCreated *m)
{
        return PRIV_STRING_OK(m->step) && PRIV_STRING_OK(m->detail) && PRIV_STRING_OK(m->cgroup) &&
               PRIV_STRING_OK(m->missing) && PRIV_STRING_OK(m->claims.name) &&
               PRIV_STRING_OK(m->claims.profile) && PRIV_STRING_OK(m->claims.workspace) &&
               PRIV_STRING_OK(m->claims.agent) && PRIV_STRING_OK(m->claims.agent_session);
}

int session_open(Session *s, const PrivSessionCreated *m, Imsg *message)
{
        int r;

        s->id = m->session;
        id_format(&s->id, s->id_text);
        memcpy(s->cgroup, m->cgroup, sizeof(s->cgroup));
        s->init_pid = m->init_pid;
        s->created_usec = m->created_usec;
        s->state = SESSION_RUNNING;
        s->init_pidfd = TAKE_FD(message->fds[1]);
        r = priv_link_new(s->api->loop, TAKE_FD(message->fds[0]), CHANNEL_API_INIT, ROLE_API, &s->init);
        if (r < 0)
                return r;
        priv_link_set_handler(s->init, on_init_message, on_init_closed, s);
        priv_link_set_phase(s->init, PHASE_RUN);
        warn_missing(s, m->missing);
        if (m->is_unwatched)
                session_warn(s, "attempts-not-recorded",
                             "sandboxd-watch does not run: attempts on denied paths are refused, and not recorded");
        return start_life(s);
}

/* Which error a failed step is, and what it says besides its message. */
static int refusal_format(const Session *s, const PrivSessionCreated *m, const char **ret_error, Json *p)
{
        const char *message = m->detail[0] ? m->detail : error_name(m->error);
        int r;

        if (m->error == -ESHUTDOWN) {
                *ret_error = SESSION_ERROR "ShuttingDown";
                return 0;
        }
        if (m->error == -EDQUOT) {
                events_limit(s->api, m->step, -1);
                *ret_error = SESSION_ERROR "QuotaExceeded";
                r = json_set_escaped(p, "resource", m->step, strlen(m->step));
                if (r >= 0 && str_equal(m->step, "starts"))
                        r = json_set_integer(p, "limit", s->api->loaded.settings.starts_per_second);
                return r;
        }
        if (str_equal(m->step, "open-paths") && m->detail[0] == '/') {
                *ret_error = SESSION_ERROR "PathRefused";
                r = json_set_escaped(p, "path", m->detail, strlen(m->detail));
                return r < 0 ? r : json_set_string(p, "message", error_name(m->error));
        }
        if (str_equal(m->step, "audit")) {
                *ret_error = SESSION_ERROR "AuditUnavailable";
                return json_set_escaped(p, "message", message, strlen(message));
        }
        *ret_error = SESSION_ERROR "SetupFailed";
        if ((r = json_set_escaped(p, "step", m->step, strlen(m->step))) < 0 ||
            (r = json_set_string(p, "errnoName", error_name(m->error))) < 0)
                return r;
        return json_set_escaped(p, "message", message, strlen(message));
}

static void answer_refused(Session *s, const PrivSessionCreated *m)
{
        Client *c = client_find(s->api, s->connection);
        _cleanup_json_ Json *p = NULL;
        const char *error = NULL;
        int r;

        if (!c || c->wait != WAIT_CREATE)
                return;
        r = json_new_object(&p);
        if (r >= 0)
                r = refusal_format(s, m, &error, p);
        if (r < 0)
                client_failure(c, r);
        else
                client_error(c, error, TAKE_PTR(p));
}

static void answer_created(Session *s, Client *c)
{
        _cleanup_json_ Json *p = NULL, *runtime = NULL;
        int r;

        r = json_new_object(&p);
        if (r >= 0)
                r = json_set_string(p, "id", s->id_text);
        if (r >= 0)
                r = session_runtime(s, /* is_full= */ true, &runtime);
        if (r >= 0)
                r = json_set(p, "runtime", TAKE_PTR(runtime));
        if (r >= 0)
                r = session_set_cursor(s, p);
        if (r < 0) {
                client_failure(c, r);
                return;
        }
        client_reply(c, TAKE_PTR(p), false, NULL, 0);
}

/* Spawn(): the command, now that there is something to run it in. */
static void spawn_command(Session *s, Client *c)
{
        const Json *parameters = c->call.parameters;
        int r;

        r = session_exec(s, c, parameters, get_value(parameters, "command"), c->call.fds);
        if (r < 0)
                client_failure(c, r);
        if (r <= 0)
                session_end(s, END_SETUP_FAILED);
}

static void begin_to_store(Session *s)
{
        if (s->has_remove_on_exit && !s->is_detached && !s->request)
                session_store_soon(s);
        else
                session_store(s);
}

int session_on_created(Api *api, Imsg *m)
{
        const PrivSessionCreated *created = m->body;
        Session *s = session_find_token(api, created->token);
        Client *c;
        int r;

        if (!s || !session_created_is_sound(created) || (created->error == 0 && m->n_fds != 2))
                return -EPROTO;
        if (created->error != 0) {
                answer_refused(s, created);
                session_free(s);
                return 0;
        }
        c = client_find(api, s->connection);
        r = session_open(s, created, m);
        events_session_created(s);
        if (r < 0) {
                session_end(s, END_SETUP_FAILED);
                if (c)
                        client_failure(c, r);
        } else if (!c && (!s->is_detached || s->is_spawn)) {
                session_end(s, END_CLIENT_GONE);
        } else {
                begin_to_store(s);
                if (!s->is_spawn)
                        request_made(TAKE_PTR(s->request), s, 0);
                if (c && s->is_spawn)
                        spawn_command(s, c);
                else if (c)
                        answer_created(s, c);
        }
        return 0;
}

static void on_linger_over(void *userdata)
{
        session_remove(userdata);
}

/* At once, but where somebody reads what its commands wrote, or may be on his way. */
static void remove_on_exit(Session *s)
{
        if ((streams_are_awaited(s) || logs_are_awaited(s)) &&
            loop_timer_new(s->api->loop, on_linger_over, s, &s->grace_timer) >= 0 &&
            loop_timer_set(s->grace_timer, LINGER_USEC) >= 0)
                return;
        session_remove(s);
}

int session_on_ended(Api *api, const PrivSessionEnd *end)
{
        Session *s = session_find_id(api, &end->session);

        if (!end_reason_to_string(end->reason))
                return -EPROTO;
        /* Told twice where a worker of ours died in between. */
        if (!s || session_has_ended(s)) {
                (void) session_settle_orphan(api, end);
                return 0;
        }
        /* What the launcher acted on: the log says the same. */
        s->end_reason = end->reason;
        s->has_end_reason = true;
        count(s, false);
        s->state = SESSION_EXITED;
        count(s, true);
        answer_freeze_end(s);
        s->ended_usec = clock_realtime_usec();
        stop_timers(s);
        s->block = block_release(s->block);
        s->init = priv_link_free(s->init);
        s->init_pidfd = fd_close(s->init_pidfd);
        processes_session_ended(s);
        session_store_end(s);
        events_session_ended(s);
        answer_spawn(s);
        answer_session_end(s);
        logs_changed(api);
        if (s->has_remove_on_exit)
                remove_on_exit(s);
        else
                (void) sessions_prune(api, UINT64_MAX);
        return 0;
}

int session_on_denied(Api *api, const PrivDenied *m)
{
        Session *s = session_find_id(api, &m->session);

        if (!PRIV_STRING_OK(m->host) || !PRIV_STRING_OK(m->rule) || !PRIV_STRING_OK(m->text) ||
            !PRIV_STRING_OK(m->path) || !decision_reason_to_string(m->reason) || m->port > UINT16_MAX ||
            m->sequence > INT64_MAX)
                return -EPROTO;
        if (s)
                session_note_denied(s, m);
        events_denied(api, m);
        return 0;
}

void sessions_audit_lost(Api *api)
{
        LIST_FOREACH (s, &api->sessions, Session, link)
                s->knows_denials = false;
}

/* ---- the table ---- */

/* Somebody else has made the same call: it is theirs from now on. */
static bool find_follower(Session *s)
{
        LIST_FOREACH (c, &s->api->clients, Client, link) {
                if (c->wait != WAIT_RESULT || !id_equal(&c->wait_session, &s->id))
                        continue;
                s->connection = c->peer.connection;
                return true;
        }
        return false;
}

void sessions_client_gone(Api *api, uint64_t connection)
{
        LIST_FOREACH (s, &api->sessions, Session, link) {
                if (s->connection != connection)
                        continue;
                s->connection = 0;
                if (!s->is_detached && !find_follower(s))
                        session_end(s, END_CLIENT_GONE);
        }
}

size_t sessions_prune(Api *api, uint64_t older_than_usec)
{
        uint64_t now = clock_realtime_usec();
        size_t n = 0;

        LIST_FOREACH (s, &api->sessions, Session, link) {
                uint64_t age;

                if (!session_has_ended(s))
                        continue;
                age = now > s->ended_usec ? now - s->ended_usec : 0;
                if (age < older_than_usec && age < api->loaded.settings.retention_usec &&
                    api->n_ended <= API_ENDED_SESSIONS_MAX)
                        continue;
                session_remove(s);
                n++;
        }
        return n;
}
