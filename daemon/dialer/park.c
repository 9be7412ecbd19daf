/*
 * Connections that rest. A worker with few descriptors closes its own; ours is watched for it then, and goes
 * to it again when it asks. Nothing is read here, and it gets nothing that it has not had.
 */

#include <errno.h>
#include <sys/epoll.h>

#include "daemon/dialer/dialer.h"
#include "proto/base/error.h"

static int watch_for(Connection *c, uint32_t events)
{
        struct epoll_event event = { .events = EPOLLET | events, .data = { .ptr = c } };

        return epoll_ctl(c->session->dialer->watch_fd, EPOLL_CTL_MOD, c->fd, &event) < 0 ? neg_errno() : 0;
}

void park_stirs(Connection *c)
{
        PrivConnectionRef ref = { .sequence = c->sequence };

        if (!c->is_parked || c->is_stirring)
                return;
        c->is_stirring = true;
        /* Once is enough. */
        if (c->fd >= 0 && watch_for(c, 0) < 0)
                c->is_stirring = false;
        if (c->session->egress)
                (void) priv_link_send(c->session->egress, PRIV_CONNECTION_STIRS, &ref, sizeof(ref), NULL, 0);
}

int park_on_park(Session *s, const PrivConnectionRef *m)
{
        Connection *c = map_get(&s->connections, &m->sequence, sizeof(m->sequence));

        if (!c || c->is_parked || c->is_inbound || c->n_parked >= PRIV_PARKS_MAX)
                return -EPROTO;
        c->n_parked++;
        c->is_parked = true;
        c->is_stirring = false;
        /* Over, or never to be heard of otherwise. */
        if (c->fd < 0 || watch_for(c, EPOLLIN | EPOLLRDHUP) < 0)
                park_stirs(c);
        return 0;
}

/* Answers are read in order. Before the first with a new token is, no more than PRIV_WANTED_MAX go with it
 * to a worker that counts; and one that does not read them all does not learn the token. */
static int count_back(Session *s, const Id *seen)
{
        if (id_equal(seen, &s->token)) {
                int r = id_random(&s->token);

                if (r < 0)
                        return r;
                s->n_back = 0;
        }
        if (s->n_back >= PRIV_WANTED_MAX)
                return -EPROTO;
        s->n_back++;
        return 0;
}

int park_on_wanted(Session *s, const PrivConnectionReturn *m)
{
        Connection *c = map_get(&s->connections, &m->sequence, sizeof(m->sequence));
        PrivConnectionRef gone = { .sequence = m->sequence };
        PrivConnectionReturn back = { .sequence = m->sequence };
        int r;

        if (!c || !c->is_parked)
                return -EPROTO;
        c->is_parked = false;
        if (c->fd < 0) {
                (void) priv_link_send(s->egress, PRIV_CONNECTION_GONE, &gone, sizeof(gone), NULL, 0);
                return 0;
        }
        r = count_back(s, &m->token);
        if (r < 0)
                return r;
        back.token = s->token;
        (void) watch_for(c, 0);
        (void) priv_link_send(s->egress, PRIV_CONNECTION_BACK, &back, sizeof(back), &c->fd, 1);
        return 0;
}
