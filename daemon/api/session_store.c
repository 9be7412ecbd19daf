/*
 * A session's file: what it is, its context, then a line for each change of a command, then how it ended.
 *
 * Sessions that go with their client and leave no result are written only once they have lived for a second:
 * most do not.
 */

#include "daemon/api/session.h"
#include "daemon/api/store.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

#define STORE_FORMAT    1
#define STORE_SOON_USEC USEC_PER_SEC
/* So many lines make a file that is written anew, with what is known of its commands alone. */
#define STORE_LINES_MAX (4U * API_PROCESSES_KEPT_MAX)

/* ---- writing ---- */

static int describe_numbers(const Session *s, Json *o)
{
        char instance[ID_TEXT_SIZE];
        int r;

        id_format(&s->api->start.instance, instance);
        if ((r = json_set_integer(o, "format", STORE_FORMAT)) < 0 ||
            (r = json_set_string(o, "instance", instance)) < 0 ||
            (r = json_set_integer(o, "createdAtUSec", (int64_t) s->created_usec)) < 0 ||
            (r = json_set_integer(o, "runtimeUSec", (int64_t) s->runtime_usec)) < 0 ||
            (r = json_set_integer(o, "idleUSec", (int64_t) s->idle_usec)) < 0 ||
            (r = json_set_integer(o, "timeoutUSec", (int64_t) s->timeout_usec)) < 0 ||
            (r = json_set_boolean(o, "isSpawn", s->is_spawn)) < 0 ||
            (r = json_set_boolean(o, "isDetached", s->is_detached)) < 0)
                return r;
        return json_set_boolean(o, "removeOnExit", s->has_remove_on_exit);
}

static int describe_session(const Session *s, Json **ret)
{
        _cleanup_json_ Json *o = NULL;
        int r;

        if ((r = json_new_object(&o)) < 0 || (r = describe_numbers(s, o)) < 0 ||
            (r = json_set_string(o, "name", s->name)) < 0 ||
            (r = json_set_string(o, "profile", s->profile)) < 0 ||
            (r = json_set_string(o, "workspace", s->workspace)) < 0 ||
            (r = json_set_string(o, "workingDirectory", s->working_directory)) < 0 ||
            (r = json_set_string(o, "digest", s->digest)) < 0 ||
            (r = json_set_string(o, "cgroup", s->cgroup)) < 0 ||
            (r = json_set(o, "warnings", json_ref(s->warnings))) < 0 ||
            (r = json_set(o, "environment", json_ref(s->environment))) < 0)
                return r;
        *ret = TAKE_PTR(o);
        return 0;
}

static int put_end(const Session *s, Json **ret)
{
        _cleanup_json_ Json *o = NULL;
        int r;

        r = json_new_object(&o);
        if (r >= 0)
                r = json_set_string(o, "end", end_reason_to_string(s->end_reason));
        if (r >= 0)
                r = json_set_integer(o, "endedAtUSec", (int64_t) s->ended_usec);
        if (r >= 0)
                *ret = TAKE_PTR(o);
        return r;
}

static int put_take(Buf *b, Json *take_line)
{
        int r = store_put(b, take_line);

        json_unref(take_line);
        return r;
}

static int put_session(const Session *s, Buf *b)
{
        _cleanup_json_ Json *context = NULL;
        Json *line = NULL;
        int r;

        r = describe_session(s, &line);
        if (r >= 0)
                r = put_take(b, line);
        if (r >= 0)
                r = json_new_object(&context);
        if (r >= 0)
                r = json_set(context, "context", json_ref(s->context));
        if (r >= 0)
                r = store_put(b, context);
        LIST_FOREACH (p, &s->processes, Process, link) {
                if (r >= 0)
                        r = process_store(p, &line);
                if (r >= 0)
                        r = put_take(b, line);
        }
        if (r >= 0 && session_has_ended(s))
                r = put_end(s, &line);
        return r < 0 || !session_has_ended(s) ? r : put_take(b, line);
}

void session_store(Session *s)
{
        Buf b = BUF_INIT(STORE_FILE_MAX);
        int r;

        s->store_timer = loop_timer_free(s->store_timer);
        r = put_session(s, &b);
        if (r >= 0)
                r = store_write(s->api, s->id_text, &b);
        buf_done(&b);
        s->is_stored = r >= 0;
        s->n_store_lines = 0;
        if (r < 0) {
                (void) log_warning(r, "session %s cannot be stored", s->id_text);
                session_warn(s, "not-stored",
                             "what becomes of this session is not known any more after a "
                             "restart of the daemon");
        }
}

static void on_soon(void *userdata)
{
        session_store(userdata);
}

void session_store_soon(Session *s)
{
        if (loop_timer_new(s->api->loop, on_soon, s, &s->store_timer) < 0 ||
            loop_timer_set(s->store_timer, STORE_SOON_USEC) < 0)
                session_store(s);
}

static void append(Session *s, Json *take_line, int r)
{
        _cleanup_json_ Json *line = take_line;

        if (r >= 0 && ++s->n_store_lines < STORE_LINES_MAX)
                r = store_append(s->api, s->id_text, line);
        /* Written whole it holds this line too. */
        if (r < 0 || s->n_store_lines >= STORE_LINES_MAX)
                session_store(s);
}

void session_store_process(const Process *p)
{
        Json *line = NULL;
        int r;

        if (!p->session->is_stored)
                return;
        r = process_store(p, &line);
        append(p->session, line, r);
}

void session_store_end(Session *s)
{
        Json *line = NULL;
        int r;

        if (!s->is_stored)
                return;
        r = put_end(s, &line);
        append(s, line, r);
}

void session_store_remove(Session *s)
{
        if (s->is_stored)
                store_remove(s->api, s->id_text);
        s->is_stored = false;
}

/* ---- reading ---- */

typedef struct Loading {
        Api *api;
        Session *session;
} Loading;

static int take_text(char **to, const Json *line, const char *key)
{
        const char *value = get_string(line, key);

        if (value && (value[0] != '/' || strlen(value) >= PRIV_PATH_SIZE))
                return -EBADMSG;
        return value ? str_dup(value, to) : 0;
}

bool store_is_list(const Json *list, JsonType of)
{
        if (!list || json_type(list) != JSON_ARRAY)
                return false;
        for (size_t i = 0; i < json_n(list); i++) {
                if (json_type(json_at(list, i)) != of)
                        return false;
        }
        return true;
}

static int take_list(Json **to, const Json *line, const char *key, JsonType of)
{
        const Json *list = get_value(line, key);

        if (!store_is_list(list, of))
                return -EBADMSG;
        json_unref(*to);
        *to = json_keep(list);
        return 0;
}

static int take_number(const Json *line, const char *key, uint64_t *to)
{
        int64_t v = get_integer(line, key);

        *to = (uint64_t) v;
        return v < 0 ? -EBADMSG : 0;
}

static int load_words(Session *s, const Json *line)
{
        const struct {
                const char *key;
                char *to;
                size_t size;
        } words[] = {
                { "name", s->name, sizeof(s->name) },
                { "profile", s->profile, sizeof(s->profile) },
                { "digest", s->digest, sizeof(s->digest) },
                { "cgroup", s->cgroup, sizeof(s->cgroup) },
        };

        for (size_t i = 0; i < ELEMENTSOF(words); i++) {
                const char *value = get_string(line, words[i].key);

                if (!value || str_copy(words[i].to, words[i].size, value) < 0)
                        return -EBADMSG;
        }
        return s->name[0] && !name_is_sound(s->name) ? -EBADMSG : 0;
}

static int load_head(Session *s, const Json *line)
{
        const char *instance = get_string(line, "instance");
        Id id;
        int r;

        if (get_integer(line, "format") != STORE_FORMAT || !instance || id_parse(instance, &id) < 0)
                return -EBADMSG;
        s->is_of_this_run = id_equal(&id, &s->api->start.instance);
        s->is_spawn = get_boolean(line, "isSpawn");
        s->is_detached = get_boolean(line, "isDetached");
        s->has_remove_on_exit = get_boolean(line, "removeOnExit");
        if ((r = load_words(s, line)) < 0 ||
            (r = take_number(line, "createdAtUSec", &s->created_usec)) < 0 ||
            (r = take_number(line, "runtimeUSec", &s->runtime_usec)) < 0 ||
            (r = take_number(line, "idleUSec", &s->idle_usec)) < 0 ||
            (r = take_number(line, "timeoutUSec", &s->timeout_usec)) < 0 ||
            (r = take_text(&s->workspace, line, "workspace")) < 0 ||
            (r = take_text(&s->working_directory, line, "workingDirectory")) < 0 ||
            (r = take_list(&s->warnings, line, "warnings", JSON_OBJECT)) < 0)
                return r;
        return s->working_directory ? take_list(&s->environment, line, "environment", JSON_STRING)
                                    : -EBADMSG;
}

/* It goes out again in Describe(), so it is what Create() would take. */
static int load_context(Session *s, const Json *line)
{
        char field[IDL_FIELD_SIZE];

        if (idl_check_parameters(idl_set_find_method(s->api->idl, SESSION_ERROR "Create"), line, field) < 0)
                return -EBADMSG;
        s->context = json_keep(get_value(line, "context"));
        return s->context ? 0 : -EBADMSG;
}

static int load_end(Session *s, const Json *line)
{
        int reason = end_reason_from_string(get_string(line, "end"));

        if (reason < 0)
                return -EBADMSG;
        s->end_reason = (EndReason) reason;
        s->has_end_reason = true;
        s->state = SESSION_EXITED;
        return take_number(line, "endedAtUSec", &s->ended_usec);
}

static int load_line(void *userdata, size_t number, const Json *line)
{
        Loading *l = userdata;
        Session *s = l->session;

        if (number == 0)
                return load_head(s, line);
        if (number == 1)
                return load_context(s, line);
        s->n_store_lines++;
        return get_value(line, "end") ? load_end(s, line) : process_load(s, line);
}

static void load_session(Api *api, const char *name)
{
        _cleanup_(session_freep) Session *s = NULL;
        Loading l = { .api = api };
        Id id;
        int r;

        if (strlen(name) != ID_TEXT_SIZE - 1 || id_parse(name, &id) < 0)
                return;
        r = session_new(api, &s);
        if (r < 0) {
                (void) log_error(r, "session %s cannot be read back", name);
                return;
        }
        s->id = id;
        id_format(&s->id, s->id_text);
        l.session = s;
        if (store_read(api, name, load_line, &l) < 0)
                return;
        /* A file of one line: cut by a crash of the machine. */
        if (!s->context) {
                store_remove(api, name);
                return;
        }
        s->is_stored = true;
        if (session_has_ended(s))
                session_add(TAKE_PTR(s));
        else
                list_append(&api->orphans, &TAKE_PTR(s)->link);
}

int sessions_load(Api *api)
{
        return store_each(api, load_session);
}
