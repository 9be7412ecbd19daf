#include <errno.h>

#include "daemon/dialer/dialer.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"

static int on_done(Session *s, const PrivConnectionDone *m)
{
        Connection *c = map_get(&s->connections, &m->sequence, sizeof(m->sequence));

        /* A number that this session was never given. */
        if (!c || m->reason >= _CLOSE_REASON_MAX)
                return -EPROTO;
        connection_end(c, (CloseReason) m->reason);
        (void) connection_free(c);
        return 0;
}

static int on_egress_message(void *owner, _unused_ PrivLink *link, Imsg *m)
{
        PrivConnectionDone body;

        if (m->type == PRIV_CONNECTION_PARK)
                return park_on_park(owner, m->body);
        if (m->type == PRIV_CONNECTION_WANTED)
                return park_on_wanted(owner, m->body);
        if (m->type != PRIV_CONNECTION_DONE)
                return -EPROTO;
        memcpy(&body, m->body, sizeof(body));
        return on_done(owner, &body);
}

static void forget_connections(Session *s, CloseReason reason)
{
        size_t cursor = 0;

        for (Connection *c; (c = map_next(&s->connections, &cursor)); map_stay(&cursor)) {
                connection_end(c, reason);
                (void) connection_free(c);
        }
}

static void detach(Session *s, CloseReason reason)
{
        LIST_FOREACH (d, &s->dials, Dial, link)
                dial_cancel(d, reason);
        questions_drop(s);
        s->egress = priv_link_free(s->egress);
        forget_connections(s, reason);
}

/* It keeps what it was given for as long as it lives. */
static void tell_launcher(const Session *s)
{
        PrivEgressRef over = { .session = s->id, .number = s->egress_number };

        if (s->dialer->launcher)
                (void) priv_link_send(s->dialer->launcher, PRIV_DIALER_EGRESS_OVER, &over, sizeof(over),
                                      NULL, 0);
}

static void on_egress_closed(void *owner, _unused_ PrivLink *link, int reason)
{
        if (reason != -EPIPE)
                (void) log_warning(reason, "an egress worker broke the rules");
        tell_launcher(owner);
        detach(owner, CLOSE_EGRESS_GONE);
}

int session_attach(Session *s, uint64_t number, int take_fd)
{
        int r;

        /* Before the new worker: what the old one had is not its. */
        detach(s, CLOSE_EGRESS_GONE);
        s->egress_number = number;
        s->token = (Id){ .bytes = { 0 } };
        s->n_back = 0;
        r = priv_link_new(s->dialer->loop, take_fd, CHANNEL_DIALER_EGRESS, ROLE_DIALER, &s->egress);
        if (r < 0)
                return r;
        priv_link_set_handler(s->egress, on_egress_message, on_egress_closed, s);
        return 0;
}

void session_cut(Session *s, CloseReason reason)
{
        size_t cursor = 0;

        LIST_FOREACH (d, &s->dials, Dial, link)
                dial_cancel(d, reason);
        for (Connection *c; (c = map_next(&s->connections, &cursor));)
                connection_end(c, reason);
}

static size_t left_for_all(const Dialer *d)
{
        size_t all = (size_t) d->files_max;

        return all - MIN_OF(all, d->n_connections + d->n_attempts);
}

size_t session_used(const Session *s)
{
        return s->connections.n + MAX_OF(s->n_dials, s->n_attempts);
}

bool session_has_room(const Session *s)
{
        return session_used(s) < left_for_all(s->dialer);
}

/* However many sessions take all they can get, there is something for the next one. */
size_t session_share(const Session *s)
{
        return MIN_OF(MAX_OF(2 * left_for_all(s->dialer), (size_t) DIALER_CONNECTIONS_MIN),
                      (size_t) DIALER_CONNECTIONS_MAX);
}

Session *session_find(Dialer *d, const Id *id)
{
        return map_get(&d->sessions, id, sizeof(*id));
}

static void take_policy(Session *s, PolicyShare *take)
{
        s->policy_share = policy_share_close(s->policy_share);
        s->policy_share = take;
        s->policy = policy_share_block(take);
}

int session_open(Dialer *d, const Id *id, int policy_fd)
{
        _cleanup_(policy_share_closep) PolicyShare *policy = NULL;
        Session *s;
        int r;

        if (d->sessions.n >= DIALER_SESSIONS_MAX)
                return -ENOBUFS;
        r = policy_shelf_open(&d->policies, policy_fd, &policy);
        if (r < 0)
                return r;
        s = session_find(d, id);
        if (s) {
                /* A new generation of the policy. */
                take_policy(s, TAKE_PTR(policy));
                return 0;
        }
        s = calloc(1, sizeof(*s));
        if (!s)
                return -ENOMEM;
        *s = (Session){ .dialer = d, .id = *id };
        list_init(&s->dials);
        list_init(&s->questions);
        r = map_put(&d->sessions, &s->id, sizeof(s->id), s);
        if (r < 0) {
                free(s);
                return r;
        }
        take_policy(s, TAKE_PTR(policy));
        return 0;
}

void session_close(Session *s, CloseReason reason)
{
        detach(s, reason);
        (void) map_remove(&s->dialer->sessions, &s->id, sizeof(s->id));
        s->policy_share = policy_share_close(s->policy_share);
        map_done(&s->connections);
        free(s);
}
