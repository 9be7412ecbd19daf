#include "daemon/api/events.h"
#include "daemon/api/manager.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

#define ANSWER_DEADLINE_USEC (5 * USEC_PER_SEC)
/* Two children and a row, of those before it too. */
#define RELOAD_DEADLINE_USEC (60 * USEC_PER_SEC)

typedef enum ManagerCall {
        CALL_DESCRIBE = 0,
        CALL_DIAGNOSE,
        CALL_DRAIN, /* waits on for the last session */
        CALL_CANCEL,
        CALL_EMPTY, /* an answer without parameters */
        CALL_LOG_LEVEL,
        CALL_ENVIRONMENT,
        CALL_RELOAD,
} ManagerCall;

struct ManagerWait {
        Client *client;
        ManagerCall call;
        uint64_t token;
        uint64_t grace_usec; /* UINT64_MAX: without end */
        bool wants_audit;
        bool has_answer;
        bool has_state;
        PrivManagerAnswer answer;
        PrivAuditState state;
        Json *environment;
        PrivReload *reload; /* NULL: it was not tried */
        LoopTimer *timer;
};

ManagerWait *manager_wait_free(ManagerWait *w)
{
        if (!w)
                return NULL;
        w->timer = loop_timer_free(w->timer);
        w->environment = json_unref(w->environment);
        free(w->reload);
        free(w);
        return NULL;
}

/* ---- Describe ---- */

static int set_features(Json *p)
{
        static const char *const features[] = { "exec",        "pty",          "attach",       "logs",
                                                "audit-query", "audit-follow", "policy-check", "freeze",
                                                "events",      "drain",        "diagnose" };
        _cleanup_json_ Json *list = NULL;
        int r = json_new_array(&list);

        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(features); i++)
                r = json_append_string(list, features[i]);
        return r < 0 ? r : json_set(p, "features", TAKE_PTR(list));
}

static int set_ids(Json *p, const Api *api)
{
        const PrivApiStart *start = &api->start;
        char instance[ID_TEXT_SIZE], state[ID_TEXT_SIZE];
        int r;

        id_format(&start->instance, instance);
        id_format(&start->state, state);
        if ((r = json_set_string(p, "version", SANDBOXD_VERSION)) < 0 ||
            (r = json_set_string(p, "instanceId", instance)) < 0 ||
            (r = json_set_string(p, "stateId", state)) < 0 ||
            (r = json_set_string(p, "bootId", api->boot_id)) < 0)
                return r;
        return json_set_integer(p, "startedAtUSec", (int64_t) start->started_usec);
}

/* Nobody can answer questions in this version: there is no approver, and no question. */
static int set_caller(Json *p, const Client *c)
{
        int r;

        if ((r = json_set_integer(p, "callerUid", c->peer.uid)) < 0 ||
            (r = json_set_boolean(p, "callerIsAdmin", c->peer.is_admin != 0)) < 0 ||
            (r = json_set_boolean(p, "callerIsAuditor", c->peer.is_auditor != 0)) < 0 ||
            (r = json_set_boolean(p, "callerIsApprover", false)) < 0)
                return r;
        return json_set_integer(p, "pendingApprovals", 0);
}

static int describe(const ManagerWait *w, Json **ret)
{
        const Client *c = w->client;
        const PrivSettings *settings = &c->api->loaded.settings;
        _cleanup_json_ Json *p = NULL;
        int r;

        r = json_new_object(&p);
        if (r < 0 || (r = set_ids(p, c->api)) < 0 || (r = set_features(p)) < 0 ||
            (r = set_caller(p, c)) < 0 ||
            (r = json_set_integer(p, "messageBytesMax", CONN_MESSAGE_MAX)) < 0 ||
            (r = json_set_integer(p, "fileDescriptorsMax", CONN_FDS_MAX)) < 0 ||
            (r = json_set_integer(p, "connectionsPerUserMax", settings->connections_per_user_max)) < 0 ||
            (r = json_set_integer(p, "sessionsPerUserMax", settings->sessions_per_user_max)) < 0 ||
            (r = json_set_integer(p, "sessions", w->answer.n_sessions)) < 0 ||
            (r = json_set_integer(p, "policyGeneration", (int64_t) c->api->loaded.generation)) < 0 ||
            (r = json_set_boolean(p, "auditWritable", w->has_state && w->state.error == 0)) < 0 ||
            (r = json_set_boolean(p, "draining", w->answer.is_draining != 0)) < 0)
                return r;
        /* The channel may see all; whether this caller may, its own groups say. */
        if (w->has_state && w->state.head_sequence > 0 && c->peer.is_auditor &&
            (r = json_set_integer(p, "auditHeadSequence", (int64_t) w->state.head_sequence)) < 0)
                return r;
        *ret = TAKE_PTR(p);
        return 0;
}

/* ---- waiting ---- */

static int one_integer(const char *key, int64_t value, Json **ret)
{
        _cleanup_json_ Json *p = NULL;
        int r;

        r = json_new_object(&p);
        if (r >= 0)
                r = json_set_integer(p, key, value);
        if (r >= 0)
                *ret = TAKE_PTR(p);
        return r;
}

static int make_reply(ManagerWait *w, Json **ret)
{
        switch (w->call) {
        case CALL_DESCRIBE:
                return describe(w, ret);
        case CALL_DIAGNOSE:
                return diagnosis_format(&w->answer, w->has_state ? &w->state : NULL, ret);
        case CALL_DRAIN:
        case CALL_CANCEL:
                return one_integer("remaining", w->answer.n_sessions, ret);
        case CALL_LOG_LEVEL:
                return one_integer("level", w->answer.log_level, ret);
        case CALL_ENVIRONMENT:
                *ret = TAKE_PTR(w->environment);
                return 0;
        case CALL_RELOAD:
                return w->reload ? reload_format(w->reload, ret) : -EPROTO;
        case CALL_EMPTY:
        default:
                return 0;
        }
}

static void answer_error(Client *c, int error)
{
        if (error == -EPERM)
                client_error(c, SERVICE_ERROR "PermissionDenied", NULL);
        else
                client_failure(c, error);
}

static void finish(ManagerWait *w)
{
        Client *c = w->client;
        bool is_invalid = w->call == CALL_RELOAD && w->answer.error == -EINVAL && w->reload;
        int error = w->answer.error, r = 0;
        Json *p = NULL;

        if (error == 0 || is_invalid)
                r = is_invalid ? reload_format_invalid(w->reload, &p) : make_reply(w, &p);
        c->manager = manager_wait_free(w);
        if (is_invalid && r >= 0)
                client_error(c, POLICY_ERROR "InvalidPolicy", p);
        else if (error != 0 && !is_invalid)
                answer_error(c, error);
        else if (r < 0)
                client_failure(c, r);
        else
                client_reply(c, p, false, NULL, 0);
}

static void on_deadline(void *userdata)
{
        ManagerWait *w = userdata;

        /* The launcher serves everybody: without its answer there is nothing to say. */
        if (!w->has_answer)
                w->answer.error = -ETIMEDOUT;
        finish(w);
}

/* Both have answered: a drain waits on. */
static void proceed(ManagerWait *w)
{
        if (!w->has_answer || (w->wants_audit && !w->has_state && w->answer.error == 0))
                return;
        if (w->call != CALL_DRAIN || w->answer.error != 0 || w->answer.n_sessions == 0 ||
            w->grace_usec == 0) {
                finish(w);
                return;
        }
        loop_timer_stop(w->timer);
        if (w->grace_usec != UINT64_MAX && loop_timer_set(w->timer, w->grace_usec) < 0)
                finish(w);
}

static int ask_audit(ManagerWait *w)
{
        PrivAuditStateAsk ask = { .token = w->token, .has_probe = w->call == CALL_DIAGNOSE };
        PrivLink *audit = w->client->api->audit;

        w->wants_audit = audit != NULL;
        return audit ? priv_link_send(audit, PRIV_AUDIT_STATE_ASK, &ask, sizeof(ask), NULL, 0) : 0;
}

static int wait_new(Client *c, ManagerCall call, bool is_reload, ManagerWait **ret)
{
        ManagerWait *w = calloc(1, sizeof(*w));
        int r;

        if (!w)
                return -ENOMEM;
        *w = (ManagerWait){
                .client = c, .call = call, .token = ++c->api->next_token, .grace_usec = UINT64_MAX
        };
        r = loop_timer_new(c->api->loop, on_deadline, w, &w->timer);
        if (r >= 0)
                r = loop_timer_set(w->timer, is_reload ? RELOAD_DEADLINE_USEC : ANSWER_DEADLINE_USEC);
        if (r < 0) {
                (void) manager_wait_free(w);
                return r;
        }
        *ret = w;
        return 0;
}

static int ask(Client *c, ManagerCall call, PrivManagerVerb verb, uint32_t value, uint64_t grace_usec)
{
        PrivManagerAsk m = { .connection = c->peer.connection, .verb = verb, .value = value };
        ManagerWait *w;
        int r;

        r = wait_new(c, call, verb == MANAGER_RELOAD || verb == MANAGER_RELOAD_ROOT, &w);
        if (r < 0)
                return r;
        w->grace_usec = grace_usec;
        m.token = w->token;
        c->manager = w;
        c->wait = WAIT_MANAGER;
        if (call == CALL_DESCRIBE || call == CALL_DIAGNOSE)
                r = ask_audit(w);
        if (r >= 0)
                r = priv_link_send(c->api->launcher, PRIV_MANAGER_ASK, &m, sizeof(m), NULL, 0);
        if (r < 0)
                c->manager = manager_wait_free(w);
        return r;
}

static ManagerWait *find_wait(Api *api, uint64_t token)
{
        LIST_FOREACH (c, &api->clients, Client, link) {
                if (c->manager && c->manager->token == token)
                        return c->manager;
        }
        return NULL;
}

/* Strings with a NUL each, as `environment` of an object. */
static int take_environment(const char *text, size_t size, Json **ret)
{
        _cleanup_json_ Json *p = NULL, *list = NULL;
        int r;

        if (size > 0 && text[size - 1] != '\0')
                return -EPROTO;
        r = json_new_object(&p);
        if (r >= 0)
                r = json_new_array(&list);
        for (size_t at = 0; r >= 0 && at < size; at += strlen(text + at) + 1) {
                _cleanup_free_ char *shown = NULL;

                r = str_escape(text + at, strlen(text + at), &shown);
                if (r >= 0)
                        r = json_append_string(list, shown);
        }
        if (r >= 0)
                r = json_set(p, "environment", TAKE_PTR(list));
        if (r >= 0)
                *ret = TAKE_PTR(p);
        return r;
}

int on_manager_answer(Api *api, Imsg *m)
{
        const PrivManagerAnswer *answer = m->body;
        ManagerWait *w = find_wait(api, answer->token);
        int r;

        if (!w || w->has_answer)
                return 0; /* its client has gone, or its time was up */
        w->has_answer = true;
        w->answer = *answer;
        if (w->call == CALL_ENVIRONMENT && answer->error == 0) {
                r = take_environment((const char *) (answer + 1), m->size - sizeof(*answer),
                                     &w->environment);
                if (r == -EPROTO)
                        return r;
                if (r < 0)
                        w->answer.error = r;
        }
        if (m->size == sizeof(*answer) + sizeof(PrivReload)) {
                r = reload_take(answer + 1, &w->reload);
                if (r < 0)
                        return r;
        }
        proceed(w);
        return 0;
}

int on_audit_state(Api *api, const PrivAuditState *state)
{
        ManagerWait *w = find_wait(api, state->token);

        if (!w || w->has_state || !w->wants_audit)
                return 0;
        w->has_state = true;
        w->state = *state;
        proceed(w);
        return 0;
}

static void tell_drains(Api *api, const PrivApiState *state)
{
        LIST_FOREACH (c, &api->clients, Client, link) {
                ManagerWait *w = c->manager;

                if (!w || w->call != CALL_DRAIN || !w->has_answer)
                        continue;
                if (state->remaining != PRIV_REMAINING_UNKNOWN)
                        w->answer.n_sessions = state->remaining;
                if (w->answer.n_sessions == 0 || !state->is_draining)
                        finish(w);
        }
}

int on_api_state(Api *api, const PrivApiState *state)
{
        bool is_draining = state->is_draining != 0;

        log_set_level((LogLevel) state->log_level);
        if (is_draining != api->is_draining)
                events_draining(api, is_draining);
        api->is_draining = is_draining;
        tell_drains(api, state);
        return 0;
}

int on_api_settings(Api *api, const Imsg *m)
{
        bool is_first = api->loaded.generation == 0;
        Bundle *profiles;
        int r;

        r = bundle_open(m->fds[0], &profiles);
        if (r < 0)
                return r;
        (void) bundle_free(api->profiles);
        api->profiles = profiles;
        memcpy(&api->loaded, m->body, sizeof(api->loaded));
        if (!is_first)
                events_reloaded(api);
        return 0;
}

/* ---- the calls ---- */

int method_policy_reload(Client *c, _unused_ const Json *parameters)
{
        return ask(c, CALL_RELOAD, MANAGER_RELOAD, 0, UINT64_MAX);
}

int method_manager_describe(Client *c, _unused_ const Json *parameters)
{
        return ask(c, CALL_DESCRIBE, MANAGER_STATUS, 0, UINT64_MAX);
}

int method_manager_diagnose(Client *c, _unused_ const Json *parameters)
{
        return ask(c, CALL_DIAGNOSE, MANAGER_STATUS, 0, UINT64_MAX);
}

int method_manager_drain(Client *c, const Json *parameters)
{
        const Json *grace = get_value(parameters, "graceUSec");
        bool is_cancel = get_boolean(parameters, "cancel");

        if (grace && (json_integer(grace) < 0 || is_cancel)) {
                client_invalid(c, "graceUSec");
                return 0;
        }
        return ask(c, is_cancel ? CALL_CANCEL : CALL_DRAIN, is_cancel ? MANAGER_DRAIN_CANCEL : MANAGER_DRAIN,
                   0, grace ? (uint64_t) json_integer(grace) : UINT64_MAX);
}

int method_service_ping(Client *c, _unused_ const Json *parameters)
{
        client_reply(c, NULL, false, NULL, 0);
        return 0;
}

static int refuse_unless_root(Client *c)
{
        if (c->peer.uid == 0)
                return 1;
        client_error(c, SERVICE_ERROR "PermissionDenied", NULL);
        return 0;
}

int method_service_reload(Client *c, _unused_ const Json *parameters)
{
        return ask(c, CALL_EMPTY, MANAGER_RELOAD_ROOT, 0, UINT64_MAX);
}

int method_service_set_log_level(Client *c, const Json *parameters)
{
        int64_t level = get_integer(parameters, "level");

        if (!refuse_unless_root(c))
                return 0;
        if (level < 0 || level > LOG_LEVEL_DEBUG) {
                client_invalid(c, "level");
                return 0;
        }
        return ask(c, CALL_EMPTY, MANAGER_SET_LOG_LEVEL, (uint32_t) level, UINT64_MAX);
}

int method_service_get_log_level(Client *c, _unused_ const Json *parameters)
{
        return refuse_unless_root(c) ? ask(c, CALL_LOG_LEVEL, MANAGER_STATUS, 0, UINT64_MAX) : 0;
}

int method_service_get_environment(Client *c, _unused_ const Json *parameters)
{
        return refuse_unless_root(c) ? ask(c, CALL_ENVIRONMENT, MANAGER_ENVIRONMENT, 0, UINT64_MAX) : 0;
}
