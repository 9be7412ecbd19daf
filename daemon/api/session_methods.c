/* io.sandboxd.Session: the calls. What takes time is answered in answer.c, exec.c and session.c. */

#include <signal.h>

#include "daemon/api/context.h"
#include "daemon/api/events.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

/* ---- making ---- */

static int fill_claims(const Session *s, PrivSessionCreate *m)
{
        const char *agent = get_string(s->context, "agent"),
                   *agent_session = get_string(s->context, "agentSession");
        PrivSessionClaims *claims = &m->claims;
        int r;

        claims->is_detached = s->is_detached;
        if (s->request)
                claims->request = s->request->key;
        r = str_copy(claims->name, sizeof(claims->name), s->name);
        if (r >= 0)
                r = str_copy(claims->profile, sizeof(claims->profile), s->profile);
        if (r >= 0 && agent)
                r = str_copy(claims->agent, sizeof(claims->agent), agent);
        if (r >= 0 && agent_session)
                r = str_copy(claims->agent_session, sizeof(claims->agent_session), agent_session);
        if (r >= 0 && s->workspace)
                r = str_copy(claims->workspace, sizeof(claims->workspace), s->workspace);
        return r;
}

static int ask_launcher(Session *s, int plan_fd, int policy_fd)
{
        PrivSessionCreate m = {
                .token = s->token,
                .connection = s->connection,
                .has_no_network = get_boolean(s->context, "noNetwork"),
                .limits = s->limits,
                .n_publish = s->n_publish,
                .pool = s->pool,
        };
        const int fds[] = { plan_fd, policy_fd };
        int r;

        m.has_home = s->has_home;
        memcpy(m.home_key, s->home_key, sizeof(m.home_key));
        m.n_kept_groups = s->n_kept_groups;
        memcpy(m.kept_groups, s->kept_groups, sizeof(m.kept_groups));
        memcpy(m.publish, s->publish, sizeof(m.publish));
        r = fill_claims(s, &m);
        if (r < 0)
                return r;
        return priv_link_send(s->api->launcher, PRIV_SESSION_CREATE, &m, sizeof(m), fds, ELEMENTSOF(fds));
}

static int create(Client *c, const Json *parameters, bool is_spawn)
{
        _cleanup_(session_freep) Session *s = NULL;
        _cleanup_close_ int plan_fd = -EBADF, policy_fd = -EBADF;
        uint32_t limit = c->api->loaded.settings.sessions_per_user_max;
        int r;

        r = request_begin(c, parameters);
        if (r <= 0)
                return r;
        if (c->api->is_draining) {
                client_error(c, SESSION_ERROR "ShuttingDown", NULL);
                return 0;
        }
        /* Root's are the launcher's to count. */
        if (c->peer.uid != 0 && c->api->n_sessions >= limit) {
                quota_note(c->api, API_QUOTA_SESSIONS);
                client_quota_error(c, "sessions", limit);
                return 0;
        }
        if (!c->api->audit) {
                client_error(c, SESSION_ERROR "AuditUnavailable", NULL);
                return 0;
        }
        r = session_new(c->api, &s);
        if (r < 0)
                return r;
        s->context = json_keep(get_value(parameters, "context"));
        s->connection = c->peer.connection;
        s->request = TAKE_PTR(c->request);
        s->is_spawn = is_spawn;
        s->knows_denials = true;
        s->token = ++c->api->next_token;
        s->events_before = events_last(c->api->events);
        r = context_compile(c, parameters, s, &plan_fd, &policy_fd);
        if (r <= 0)
                return r;
        r = ask_launcher(s, plan_fd, policy_fd);
        if (r == -ENOBUFS) {
                client_invalid(c, "context.agent");
                return 0;
        }
        if (r < 0)
                return r;
        c->wait = WAIT_CREATE;
        session_add(TAKE_PTR(s));
        return 0;
}

int method_create(Client *c, const Json *parameters)
{
        return create(c, parameters, /* is_spawn= */ false);
}

int method_spawn(Client *c, const Json *parameters)
{
        int r = command_check(c, parameters, get_value(parameters, "command"));

        return r <= 0 ? r : create(c, parameters, /* is_spawn= */ true);
}

/* ---- finding ---- */

Session *session_find_or_answer(Client *c, const char *id)
{
        Session *s = session_find(c->api, id);

        if (!s)
                client_error_string(c, SESSION_ERROR "NoSuchSession", "id", id);
        return s;
}

int session_answer_state(Client *c, const Session *s)
{
        _cleanup_json_ Json *p = NULL;
        int r;

        r = json_new_object(&p);
        if (r < 0 || (r = json_set_string(p, "id", s->id_text)) < 0 ||
            (r = json_set_string(p, "state", session_state_to_string(s))) < 0)
                return r;
        client_error(c, SESSION_ERROR "InvalidState", TAKE_PTR(p));
        return 0;
}

/* NULL: answered. */
Process *find_process_or_answer(Client *c, Session *s, const char *number)
{
        _cleanup_json_ Json *p = NULL;
        Process *found;
        uint32_t n;

        found = parse_u32(number, &n) < 0 ? NULL : process_find(s, n);
        if (found)
                return found;
        if (json_new_object(&p) < 0 || json_set_string(p, "id", s->id_text) < 0 ||
            json_set_string(p, "process", number) < 0)
                client_failure(c, -ENOMEM);
        else
                client_error(c, SESSION_ERROR "NoSuchProcess", TAKE_PTR(p));
        return NULL;
}

int answer_empty(Client *c)
{
        client_reply(c, NULL, false, NULL, 0);
        return 0;
}

static int answer_count(Client *c, const char *key, size_t n)
{
        _cleanup_json_ Json *p = NULL;
        int r;

        r = json_new_object(&p);
        if (r >= 0)
                r = json_set_integer(p, key, (int64_t) n);
        if (r < 0)
                return r;
        client_reply(c, TAKE_PTR(p), false, NULL, 0);
        return 0;
}

int session_answer_terminated(Client *c, size_t n)
{
        return answer_count(c, "terminated", n);
}

/* ---- commands ---- */

int method_exec(Client *c, const Json *parameters)
{
        const Json *command = get_value(parameters, "command");
        Session *s;
        int r;

        r = command_check(c, parameters, command);
        if (r <= 0)
                return r;
        r = request_begin(c, parameters);
        if (r <= 0)
                return r;
        s = session_find_or_answer(c, get_string(parameters, "id"));
        if (!s)
                return 0;
        if (s->state != SESSION_RUNNING || !s->init)
                return session_answer_state(c, s);
        r = session_exec(s, c, parameters, command, c->call.fds);
        return r < 0 ? r : 0;
}

static int answer_result(Client *c, Json *take_result)
{
        _cleanup_json_ Json *p = NULL;
        int r;

        r = json_new_object(&p);
        if (r < 0) {
                json_unref(take_result);
                return r;
        }
        r = json_set(p, "result", take_result);
        if (r < 0)
                return r;
        client_reply(c, TAKE_PTR(p), false, NULL, 0);
        return 0;
}

static int session_result(const Session *s, Json **ret)
{
        _cleanup_json_ Json *o = NULL;
        int r;

        r = json_new_object(&o);
        if (r >= 0)
                r = json_set_string(o, "reason", end_reason_to_string(s->end_reason));
        if (r >= 0)
                *ret = TAKE_PTR(o);
        return r;
}

int method_wait(Client *c, const Json *parameters)
{
        const char *number = get_string(parameters, "process");
        Session *s = session_find_or_answer(c, get_string(parameters, "id"));
        Process *p = NULL;
        Json *result = NULL;
        int r;

        if (!s)
                return 0;
        if (number) {
                p = find_process_or_answer(c, s, number);
                if (!p)
                        return 0;
        }
        if (p ? process_has_ended(p) : session_has_ended(s)) {
                r = p ? process_result(p, &result) : session_result(s, &result);
                return r < 0 ? r : answer_result(c, result);
        }
        c->wait = p ? WAIT_PROCESS : WAIT_SESSION;
        c->wait_session = s->id;
        c->wait_process = p ? p->number : 0;
        return 0;
}

int signal_from_name(const char *name)
{
        if (!str_has_prefix(name, "SIG"))
                return -EINVAL;
        for (int i = 1; i < SIGRTMIN; i++) {
                const char *abbreviation = sigabbrev_np(i);

                if (abbreviation && str_equal(name + 3, abbreviation))
                        return i;
        }
        return -EINVAL;
}

int method_signal(Client *c, const Json *parameters)
{
        const char *number = get_string(parameters, "process"), *scope = get_string(parameters, "scope");
        bool is_all = scope && str_equal(scope, "all");
        int signal_number = signal_from_name(get_string(parameters, "signal"));
        PrivExecSignal m = { .scope = is_all ? SIGNAL_ALL : SIGNAL_LEADER };
        Session *s = session_find_or_answer(c, get_string(parameters, "id"));
        Process *p = NULL;

        if (!s)
                return 0;
        if (signal_number < 0) {
                client_invalid(c, "signal");
                return 0;
        }
        if (number || !is_all) {
                p = number ? find_process_or_answer(c, s, number) : process_last(s);
                if (!p && number)
                        return 0;
                if (!p || p->state != PROCESS_RUNNING)
                        return session_answer_state(c, s);
        }
        if (!s->init || s->state == SESSION_FROZEN)
                return session_answer_state(c, s);
        m.process = p ? p->number : 0;
        m.signal = (uint32_t) signal_number;
        (void) priv_link_send(s->init, PRIV_EXEC_SIGNAL, &m, sizeof(m), NULL, 0);
        return answer_empty(c);
}

/* ---- ending ---- */

static int terminate_many(Client *c, uint64_t grace_usec)
{
        Id *ids = calloc(c->api->n_sessions + 1, sizeof(*ids));
        size_t n = 0;

        if (!ids)
                return -ENOMEM;
        LIST_FOREACH (s, &c->api->sessions, Session, link) {
                if (s->state != SESSION_STARTING && !session_has_ended(s) && n < c->api->n_sessions)
                        ids[n++] = s->id;
        }
        if (n == 0) {
                free(ids);
                return answer_count(c, "terminated", 0);
        }
        c->wait = WAIT_TERMINATE;
        c->wait_ids = ids;
        c->n_wait_ids = n;
        for (size_t i = 0; i < n; i++)
                session_terminate(session_find_id(c->api, &ids[i]), grace_usec);
        return 0;
}

static int terminate_one(Client *c, Session *s, uint64_t grace_usec)
{
        Id *ids;

        if (session_has_ended(s))
                return answer_count(c, "terminated", 0);
        ids = calloc(1, sizeof(*ids));
        if (!ids)
                return -ENOMEM;
        ids[0] = s->id;
        c->wait = WAIT_TERMINATE;
        c->wait_ids = ids;
        c->n_wait_ids = 1;
        session_terminate(s, grace_usec);
        return 0;
}

int method_terminate(Client *c, const Json *parameters)
{
        const char *id = get_string(parameters, "id");
        const Json *owner = get_value(parameters, "ownerUid"), *grace = get_value(parameters, "graceUSec");
        bool is_all = get_boolean(parameters, "all");
        uint64_t grace_usec = TERMINATE_GRACE_USEC;
        Session *s;

        if ((id != NULL) + (owner != NULL) + is_all != 1) {
                client_invalid(c, "id");
                return 0;
        }
        if (grace && json_integer(grace) < 0) {
                client_invalid(c, "graceUSec");
                return 0;
        }
        if (grace)
                grace_usec = (uint64_t) json_integer(grace);
        if (c->peer.is_admin &&
            (is_all || (owner && json_integer(owner) != (int64_t) c->peer.uid) || admin_names_other(c)))
                return admin_end_sessions(c, parameters);
        if (owner && json_integer(owner) != (int64_t) c->peer.uid) {
                client_error(c, SERVICE_ERROR "PermissionDenied", NULL);
                return 0;
        }
        if (!id)
                return terminate_many(c, grace_usec);
        s = session_find_or_answer(c, id);
        return s ? terminate_one(c, s, grace_usec) : 0;
}

int method_remove(Client *c, const Json *parameters)
{
        Session *s = session_find_or_answer(c, get_string(parameters, "id"));

        if (!s)
                return 0;
        if (!session_has_ended(s))
                return session_answer_state(c, s);
        session_remove(s);
        return answer_empty(c);
}

int method_prune(Client *c, const Json *parameters)
{
        int64_t older = get_integer(parameters, "olderThanUSec");

        if (older < 0) {
                client_invalid(c, "olderThanUSec");
                return 0;
        }
        return answer_count(c, "removed", sessions_prune(c->api, (uint64_t) older));
}

/* ---- looking ---- */

static bool has_state(const Session *s, const Json *states)
{
        if (!states)
                return true;
        for (size_t i = 0; i < json_n(states); i++) {
                if (str_equal(json_string(json_at(states, i)), session_state_to_string(s)))
                        return true;
        }
        return false;
}

static bool has_labels(const Session *s, const Json *labels)
{
        const Json *own = get_value(s->context, "labels"), *wanted;
        const char *key;
        void *cursor = NULL;

        while (labels && json_next(labels, &cursor, &key, &wanted)) {
                const char *value = own ? get_string(own, key) : NULL;

                if (!value || !str_equal(value, json_string(wanted)))
                        return false;
        }
        return true;
}

static int list_one(Client *c, const Session *s)
{
        _cleanup_json_ Json *p = NULL, *runtime = NULL;
        int r;

        r = json_new_object(&p);
        if (r < 0 || (r = json_set_string(p, "id", s->id_text)) < 0 ||
            (r = session_runtime(s, /* is_full= */ false, &runtime)) < 0 ||
            (r = json_set(p, "runtime", TAKE_PTR(runtime))) < 0)
                return r;
        client_reply(c, TAKE_PTR(p), /* has_continues= */ true, NULL, 0);
        return 0;
}

int method_list(Client *c, const Json *parameters)
{
        const Json *owner = get_value(parameters, "ownerUid"), *states = get_value(parameters, "states"),
                   *labels = get_value(parameters, "labels");
        bool is_own = !owner || json_integer(owner) == (int64_t) c->peer.uid,
             has_others = !is_own || (!owner && get_boolean(parameters, "allUsers"));
        int r = 0;

        if ((get_boolean(parameters, "allUsers") || has_others) && !c->peer.is_admin) {
                client_error(c, SERVICE_ERROR "PermissionDenied", NULL);
                return 0;
        }
        if (!is_own)
                return relay_list(c, parameters);
        LIST_FOREACH (s, &c->api->sessions, Session, link) {
                if (s->state == SESSION_STARTING || !has_state(s, states) || !has_labels(s, labels))
                        continue;
                r = list_one(c, s);
                if (r < 0 || c->is_closing)
                        return r;
        }
        return has_others ? relay_list(c, parameters) : answer_empty(c);
}

int method_describe(Client *c, const Json *parameters)
{
        Session *s = session_find_or_answer(c, get_string(parameters, "id"));
        _cleanup_json_ Json *p = NULL, *runtime = NULL;
        int r;

        if (!s)
                return 0;
        r = json_new_object(&p);
        if (r < 0 || (r = json_set_string(p, "id", s->id_text)) < 0 ||
            (r = json_set(p, "context", json_keep(s->context))) < 0 ||
            (r = session_runtime(s, /* is_full= */ true, &runtime)) < 0 ||
            (r = json_set(p, "runtime", TAKE_PTR(runtime))) < 0)
                return r;
        client_reply(c, TAKE_PTR(p), false, NULL, 0);
        return 0;
}
