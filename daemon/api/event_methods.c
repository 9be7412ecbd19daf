/*
 * io.sandboxd.Events.Subscribe. A subscriber has a place in the kept events and is sent what comes after it
 * as fast as it reads: nothing is queued for it but one reply. Who falls so far behind that the events at
 * its place are not kept any more is told how many it missed.
 */

#include <stdlib.h>

#include "daemon/api/events.h"
#include "proto/base/error.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

#define EVENTS_ERROR       "io.sandboxd.Events."
#define FILTER_ENTRIES_MAX 64U

struct Subscription {
        const Json *kinds; /* of the open call; NULL: all */
        char (*sessions)[ID_TEXT_SIZE];
        size_t n_sessions;
        bool has_sessions;
        uint64_t position; /* the last event that is done with */
        uint64_t dropped;
        bool is_following;
        bool is_ready;
};

Subscription *subscription_free(Subscription *s)
{
        if (s)
                free(s->sessions);
        free(s);
        return NULL;
}

/* ---- cursors ---- */

void event_cursor_format(const Api *api, uint64_t sequence, char text[EVENT_CURSOR_SIZE])
{
        char state[ID_TEXT_SIZE];

        id_format(&api->start.state, state);
        if (str_printf(text, EVENT_CURSOR_SIZE, "%s.%llu", state, (unsigned long long) sequence) < 0)
                text[0] = '\0';
}

static int cursor_parse(const Api *api, const char *text, uint64_t *ret)
{
        char state[ID_TEXT_SIZE], again[EVENT_CURSOR_SIZE];

        id_format(&api->start.state, state);
        if (!str_has_prefix(text, state) || text[strlen(state)] != '.' ||
            parse_u64(text + strlen(state) + 1, ret) < 0 || *ret > events_last(api->events))
                return -EINVAL;
        /* There is one way to write it. */
        event_cursor_format(api, *ret, again);
        return str_equal(text, again) ? 0 : -EINVAL;
}

/* ---- filters ---- */

static bool kind_matches(const Json *kinds, const char *kind)
{
        size_t n_family = strcspn(kind, ".");

        if (!kinds)
                return true;
        for (size_t i = 0; i < json_n(kinds); i++) {
                const char *wanted = json_string(json_at(kinds, i));

                if (str_equal(wanted, kind) ||
                    (strlen(wanted) == n_family && strncmp(wanted, kind, n_family) == 0))
                        return true;
        }
        return false;
}

static bool matches(const Subscription *s, const Event *e)
{
        bool has_session = !s->has_sessions;

        for (size_t i = 0; i < s->n_sessions && !has_session; i++)
                has_session = str_equal(s->sessions[i], e->session);
        return has_session && kind_matches(s->kinds, e->kind);
}

/* Names are those of now; what is neither one nor an id matches nothing. */
static int take_sessions(Subscription *s, Api *api, const Json *list)
{
        size_t n = list ? json_n(list) : 0;

        s->has_sessions = list != NULL;
        if (n == 0)
                return 0;
        s->sessions = calloc(n, sizeof(*s->sessions));
        if (!s->sessions)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                const char *wanted = json_string(json_at(list, i));
                const Session *session = session_find(api, wanted);
                int r = str_copy(s->sessions[s->n_sessions], ID_TEXT_SIZE,
                                 session ? session->id_text : wanted);

                s->n_sessions += r >= 0;
        }
        return 0;
}

/* ---- sending ---- */

static int set_cursor(const Client *c, Json *p)
{
        char cursor[EVENT_CURSOR_SIZE];

        event_cursor_format(c->api, c->subscription->position, cursor);
        return json_set_string(p, "cursor", cursor);
}

static int send_gap(Client *c)
{
        Subscription *s = c->subscription;
        _cleanup_json_ Json *p = NULL;
        int r;

        r = json_new_object(&p);
        if (r < 0 || (r = json_set_boolean(p, "gap", true)) < 0 ||
            (r = json_set_integer(p, "dropped", (int64_t) s->dropped)) < 0 || (r = set_cursor(c, p)) < 0)
                return r;
        s->dropped = 0;
        client_reply(c, TAKE_PTR(p), /* has_continues= */ true, NULL, 0);
        return 0;
}

static int send_event(Client *c, const Event *e)
{
        _cleanup_json_ Json *p = NULL, *event = NULL;
        int r;

        r = json_new_object(&p);
        if (r < 0 || (r = json_parse(e->text, strlen(e->text), JSON_STRING_MAX, &event)) < 0 ||
            (r = json_set(p, "event", TAKE_PTR(event))) < 0 || (r = set_cursor(c, p)) < 0)
                return r;
        client_reply(c, TAKE_PTR(p), /* has_continues= */ true, NULL, 0);
        return 0;
}

static int send_ready(Client *c)
{
        bool is_following = c->subscription->is_following;
        _cleanup_json_ Json *p = NULL;
        int r;

        r = json_new_object(&p);
        if (r < 0 || (r = json_set_boolean(p, "ready", true)) < 0 || (r = set_cursor(c, p)) < 0)
                return r;
        c->subscription->is_ready = true;
        if (!is_following)
                c->subscription = subscription_free(c->subscription);
        client_reply(c, TAKE_PTR(p), is_following, NULL, 0);
        return 0;
}

/* One step; 0: nothing to do. */
static int advance(Client *c)
{
        Subscription *s = c->subscription;
        const Event *e = events_after(c->api->events, s->position);
        int r;

        if (s->dropped > 0) {
                r = send_gap(c);
        } else if (e) {
                s->position = e->sequence;
                /* One that cannot be read back, from a file that somebody changed, is passed over. */
                r = matches(s, e) ? send_event(c, e) : 0;
                if (r == -EBADMSG || r == -E2BIG) {
                        s->dropped++;
                        r = 0;
                }
        } else if (!s->is_ready) {
                r = send_ready(c);
        } else {
                return 0;
        }
        return r < 0 ? r : 1;
}

void subscription_resume(Client *c)
{
        int r = 1;

        while (r > 0 && !c->is_closing && c->subscription && !conn_wants_write(c->conn))
                r = advance(c);
        if (r < 0 && !c->is_closing) {
                c->subscription = subscription_free(c->subscription);
                client_failure(c, r);
        }
}

void subscriptions_serve(Api *api)
{
        LIST_FOREACH (c, &api->clients, Client, link)
                subscription_resume(c);
}

void subscriptions_lose(Api *api, const Event *e)
{
        LIST_FOREACH (c, &api->clients, Client, link) {
                Subscription *s = c->subscription;

                if (!s || s->position >= e->sequence)
                        continue;
                s->position = e->sequence;
                s->dropped += matches(s, e);
        }
}

/* ---- the call ---- */

static int check(Client *c, const Json *parameters)
{
        static const char *const lists[] = { "sessions", "kinds" };

        for (size_t i = 0; i < ELEMENTSOF(lists); i++) {
                const Json *list = get_value(parameters, lists[i]);

                if (list && json_n(list) > FILTER_ENTRIES_MAX) {
                        client_invalid(c, lists[i]);
                        return 0;
                }
        }
        if (get_boolean(parameters, "allUsers")) {
                client_error(c, SERVICE_ERROR "PermissionDenied", NULL);
                return 0;
        }
        return 1;
}

/* 0: answered. */
static int take_cursor(Client *c, const char *text, uint64_t *ret)
{
        Api *api = c->api;
        uint64_t lost = events_lost_through(api->events);
        char oldest[EVENT_CURSOR_SIZE];

        *ret = 0;
        if (!text)
                return 1;
        if (cursor_parse(api, text, ret) < 0) {
                client_error(c, EVENTS_ERROR "InvalidCursor", NULL);
                return 0;
        }
        if (*ret >= lost)
                return 1;
        event_cursor_format(api, lost, oldest);
        client_error_string(c, EVENTS_ERROR "CursorExpired", "oldestCursor", oldest);
        return 0;
}

int method_events_subscribe(Client *c, const Json *parameters)
{
        const Json *follow = get_value(parameters, "follow");
        Subscription *s;
        uint64_t position;
        int r;

        if (check(c, parameters) == 0 || take_cursor(c, get_string(parameters, "cursor"), &position) == 0)
                return 0;
        s = calloc(1, sizeof(*s));
        if (!s)
                return -ENOMEM;
        *s = (Subscription){ .kinds = get_value(parameters, "kinds"),
                             .position = position,
                             .is_following = !follow || json_boolean(follow) };
        r = take_sessions(s, c->api, get_value(parameters, "sessions"));
        if (r < 0) {
                (void) subscription_free(s);
                return r;
        }
        c->wait = WAIT_EVENTS;
        c->subscription = s;
        subscription_resume(c);
        return 0;
}
