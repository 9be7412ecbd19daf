/* Answers to calls that waited. A reply may close its client, so each search starts from the table's own
 * walk. */

#include "daemon/api/session.h"
#include "proto/base/error.h"

/* {id, process, runtime or hasDenials, result} as far as the method has them. */
static int make_end(const Process *p, Json **ret)
{
        _cleanup_json_ Json *o = NULL, *result = NULL, *runtime = NULL;
        const Session *s = p->session;
        char number[16];
        int r;

        process_number_text(p->number, number);
        r = json_new_object(&o);
        if (r < 0 || (r = json_set_string(o, "id", s->id_text)) < 0 ||
            (r = json_set_string(o, "process", number)) < 0 || (r = process_result(p, &result)) < 0 ||
            (r = json_set(o, "result", TAKE_PTR(result))) < 0)
                return r;
        if (p->is_spawned && ((r = session_runtime(s, /* is_full= */ false, &runtime)) < 0 ||
                              (r = json_set(o, "runtime", TAKE_PTR(runtime))) < 0))
                return r;
        if (!p->is_spawned && s->knows_denials &&
            (r = json_set_boolean(o, "hasDenials", s->has_denials)) < 0)
                return r;
        *ret = TAKE_PTR(o);
        return 0;
}

/* Those who made the same call. */
static void answer_followers(Process *p)
{
        Session *s = p->session;

        LIST_FOREACH (c, &s->api->clients, Client, link) {
                Json *o = NULL;
                int r;

                if (c->wait != WAIT_RESULT || c->wait_process != p->number ||
                    !id_equal(&c->wait_session, &s->id))
                        continue;
                r = make_end(p, &o);
                if (r >= 0)
                        r = json_set_boolean(o, "existing", true);
                if (r >= 0) {
                        client_reply(c, o, false, NULL, 0);
                        continue;
                }
                json_unref(o);
                client_failure(c, r);
        }
}

static void answer_last(Process *p)
{
        Client *c = client_find(p->session->api, p->connection);
        Json *o = NULL;
        int r;

        p->connection = 0;
        answer_followers(p);
        if (!c || c->wait != WAIT_CREATE)
                return;
        r = make_end(p, &o);
        if (r < 0)
                client_failure(c, r);
        else
                client_reply(c, o, false, NULL, 0);
}

/* {result} of a process, or of a session where p is NULL. */
static void answer_wait(Client *c, const Session *s, const Process *p)
{
        _cleanup_json_ Json *o = NULL, *result = NULL;
        int r;

        r = json_new_object(&o);
        if (r >= 0 && p)
                r = process_result(p, &result);
        else if (r >= 0 && (r = json_new_object(&result)) >= 0)
                r = json_set_string(result, "reason", end_reason_to_string(s->end_reason));
        if (r >= 0)
                r = json_set(o, "result", TAKE_PTR(result));
        if (r < 0)
                client_failure(c, r);
        else
                client_reply(c, TAKE_PTR(o), false, NULL, 0);
}

void answer_process_end(Process *p)
{
        Session *s = p->session;

        LIST_FOREACH (c, &s->api->clients, Client, link) {
                if (c->wait == WAIT_PROCESS && c->wait_process == p->number &&
                    id_equal(&c->wait_session, &s->id))
                        answer_wait(c, s, p);
        }
        /* Spawn() is answered when its session is over. */
        if (!p->is_spawned || session_has_ended(s))
                answer_last(p);
}

void answer_spawn(Session *s)
{
        Process *p = process_spawned(s);

        if (p)
                answer_last(p);
}

static void answer_terminate(Client *c)
{
        Json *o = NULL;
        int r;

        for (size_t i = 0; i < c->n_wait_ids; i++) {
                const Session *s = session_find_id(c->api, &c->wait_ids[i]);

                if (s && !session_has_ended(s))
                        return;
        }
        r = json_new_object(&o);
        if (r >= 0)
                r = json_set_integer(o, "terminated", (int64_t) c->n_wait_ids);
        if (r < 0) {
                json_unref(o);
                client_failure(c, r);
                return;
        }
        client_reply(c, o, false, NULL, 0);
}

void answer_session_end(Session *s)
{
        LIST_FOREACH (c, &s->api->clients, Client, link) {
                if (c->wait == WAIT_SESSION && id_equal(&c->wait_session, &s->id))
                        answer_wait(c, s, NULL);
                else if (c->wait == WAIT_TERMINATE)
                        answer_terminate(c);
        }
}
