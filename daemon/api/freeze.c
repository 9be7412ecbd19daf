/* Freeze() and Thaw(): the launcher holds the switch, and says when all processes stand or run. */

#include "daemon/api/events.h"
#include "proto/base/error.h"

static int freeze(Client *c, const Json *parameters, bool is_frozen)
{
        Session *s = session_find_or_answer(c, get_string(parameters, "id"));
        PrivSessionFreeze m = { .is_frozen = is_frozen };

        if (!s)
                return 0;
        if (!session_is_live(s))
                return session_answer_state(c, s);
        m.session = s->id;
        c->wait = WAIT_FREEZE;
        c->wait_session = s->id;
        c->wait_frozen = is_frozen;
        (void) priv_link_send(c->api->launcher, PRIV_SESSION_FREEZE, &m, sizeof(m), NULL, 0);
        return 0;
}

int method_freeze(Client *c, const Json *parameters)
{
        return freeze(c, parameters, /* is_frozen= */ true);
}

int method_thaw(Client *c, const Json *parameters)
{
        return freeze(c, parameters, /* is_frozen= */ false);
}

static int answer_not_frozen(Client *c, int error)
{
        _cleanup_json_ Json *p = NULL;
        int r;

        if (error != -ETIMEDOUT)
                return error;
        r = json_new_object(&p);
        if (r >= 0)
                r = json_set_string(p, "what", c->wait_frozen ? "freeze" : "thaw");
        if (r >= 0)
                r = json_set_string(
                                p, "message",
                                "a process waits in the kernel and does not come by in time; the session "
                                "is as it was");
        if (r < 0)
                return r;
        client_error(c, SESSION_ERROR "NotEnforceable", TAKE_PTR(p));
        return 0;
}

static void answer_freeze(Client *c, const Session *s, int error)
{
        int r = 0;

        if (error < 0)
                r = answer_not_frozen(c, error);
        else if (c->wait_frozen == (s->state == SESSION_FROZEN))
                client_reply(c, NULL, false, NULL, 0);
        else
                /* Somebody has asked for the opposite meanwhile. */
                r = session_answer_state(c, s);
        if (r < 0)
                client_failure(c, r);
}

static void answer_all(Session *s, int error)
{
        LIST_FOREACH (c, &s->api->clients, Client, link) {
                if (c->wait == WAIT_FREEZE && id_equal(&c->wait_session, &s->id))
                        answer_freeze(c, s, error);
        }
}

int session_on_frozen(Api *api, const PrivSessionFrozen *m)
{
        Session *s = session_find_id(api, &m->session);

        if (m->is_frozen > 1 || m->error > 0)
                return -EPROTO;
        if (!s || !session_is_live(s))
                return 0;
        s->state = m->is_frozen ? SESSION_FROZEN : SESSION_RUNNING;
        s->frozen_usec = m->since_usec;
        s->frozen_by = m->by_uid;
        events_session_state(s);
        answer_all(s, m->error);
        return 0;
}

void answer_freeze_end(Session *s)
{
        LIST_FOREACH (c, &s->api->clients, Client, link) {
                int r;

                if (c->wait != WAIT_FREEZE || !id_equal(&c->wait_session, &s->id))
                        continue;
                r = session_answer_state(c, s);
                if (r < 0)
                        client_failure(c, r);
        }
}
