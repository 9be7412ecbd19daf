#include "daemon/egress/park.h"

#include "proto/base/fd.h"

#define LOOK_MAX 64U  /* among so many connections the one to park is chosen */
#define OVER_MAX 256U /* what was begun when there was room may still come */

static size_t used(const Egress *e)
{
        return e->n_clients + e->n_servers + e->n_asked;
}

/* All that either end has said has been passed on, and neither has ended. */
static bool may_park(const Client *c)
{
        const Server *s = &c->server;

        return c->state == CLIENT_TUNNEL && !c->is_closed && !c->is_inbound && s->fd >= 0 &&
               s->n_parked < PRIV_PARKS_MAX && !c->is_eof && !s->is_eof && c->error == 0 && s->error == 0 &&
               !s->sent.is_over && !c->may_read && !s->may_read && buf_size(&c->to_server) == 0 &&
               buf_size(&c->to_client) == 0;
}

/* Of some, in turn, the one that has been silent for longest. Where none of them may be parked the next are
 * looked at, once round: nothing else would look at those that say no more. */
static Client *find_silent(Egress *e)
{
        Client *found = NULL;

        if (e->is_all_busy)
                return NULL;
        for (size_t i = 0; i < e->n_clients && !list_is_empty(&e->clients); i++) {
                if (found && i >= LOOK_MAX)
                        return found;
                Client *c = list_entry(e->clients.next, Client, link);

                list_unlink(&c->link);
                list_append(&e->clients, &c->link);
                if (may_park(c) && (!found || c->active_usec < found->active_usec))
                        found = c;
        }
        e->is_all_busy = !found;
        return found;
}

static bool park(Client *c)
{
        Server *s = &c->server;
        PrivConnectionRef ref = { .sequence = s->sequence };

        if (map_put(&c->egress->parked, &s->sequence, sizeof(s->sequence), c) < 0)
                return false;
        s->io = loop_io_free(s->io);
        s->fd = fd_close(s->fd);
        s->n_parked++;
        s->is_parked = true;
        c->egress->n_servers--;
        (void) priv_link_send(c->egress->dialer, PRIV_CONNECTION_PARK, &ref, sizeof(ref), NULL, 0);
        return true;
}

bool park_make_room(Egress *e)
{
        Client *c;

        if (used(e) < e->files_max)
                return true;
        c = find_silent(e);
        return c && park(c);
}

bool park_is_full(Egress *e)
{
        return !park_make_room(e) && used(e) >= e->files_max + OVER_MAX;
}

static void ask(Client *c)
{
        PrivConnectionReturn wanted = { .sequence = c->server.sequence, .token = c->egress->back_token };

        c->server.is_asked = true;
        c->egress->n_asked++;
        (void) priv_link_send(c->egress->dialer, PRIV_CONNECTION_WANTED, &wanted, sizeof(wanted), NULL, 0);
}

static void ask_next(Egress *e)
{
        while (!list_is_empty(&e->wanting) && e->n_asked < PRIV_WANTED_MAX && !park_is_full(e)) {
                Client *c = list_entry(e->wanting.next, Client, wanting);

                list_unlink(&c->wanting);
                ask(c);
        }
}

void park_on_turn_end(Egress *e)
{
        e->is_all_busy = false;
        ask_next(e);
}

void park_want(Client *c)
{
        if (c->server.is_wanted)
                return;
        c->server.is_wanted = true;
        list_append(&c->egress->wanting, &c->wanting);
        ask_next(c->egress);
}

void park_forget(Client *c)
{
        Server *s = &c->server;

        (void) map_remove(&c->egress->parked, &s->sequence, sizeof(s->sequence));
        list_unlink(&c->wanting);
        s->is_parked = s->is_wanted = s->is_asked = false;
}

static Client *find(Egress *e, uint64_t sequence)
{
        return map_get(&e->parked, &sequence, sizeof(sequence));
}

void park_on_stirs(Egress *e, const PrivConnectionRef *m)
{
        Client *c = find(e, m->sequence);

        if (!c)
                return;
        park_want(c);
        client_pump(c);
}

/* Each question has one answer, though its client may be gone. */
static Client *take_answer(Egress *e, uint64_t sequence)
{
        Client *c = find(e, sequence);

        e->n_asked -= MIN_OF(e->n_asked, (size_t) 1);
        if (!c || !c->server.is_asked)
                return NULL;
        park_forget(c);
        return c;
}

void park_on_back(Egress *e, const PrivConnectionReturn *m, int take_fd)
{
        _cleanup_close_ int fd = take_fd;
        Client *c = take_answer(e, m->sequence);

        e->back_token = m->token;
        if (c) {
                c->server.fd = TAKE_FD(fd);
                e->n_servers++;
                if (loop_io_new(e->loop, c->server.fd, 0, request_on_server_io, c, &c->server.io) < 0)
                        client_close(c, CLOSE_ERROR);
                else
                        client_pump(c);
        }
        ask_next(e);
}

void park_on_gone(Egress *e, const PrivConnectionRef *m)
{
        Client *c = take_answer(e, m->sequence);

        if (c) {
                c->server.is_parked = true;
                client_close(c, CLOSE_SERVER);
        }
        ask_next(e);
}
