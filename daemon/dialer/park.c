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

int park_on_wanted(Session *s, const PrivConnectionRef *m)
{
        Connection *c = map_get(&s->connections, &m->sequence, sizeof(m->sequence));

        if (!c || !c->is_parked)
                return -EPROTO;
        c->is_parked = false;
        if (c->fd < 0) {
                (void) priv_link_send(s->egress, PRIV_CONNECTION_GONE, m, sizeof(*m), NULL, 0);
                return 0;
        }
        (void) watch_for(c, 0);
        (void) priv_link_send(s->egress, PRIV_CONNECTION_BACK, m, sizeof(*m), &c->fd, 1);
        return 0;
}
