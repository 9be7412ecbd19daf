/* Connections into the session: a tunnel whose "client" is outside and whose "server" is a program inside.
 * Others have decided about it, and neither side is asked for anything. */

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "daemon/egress/egress.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"

static int give_back(Egress *e, uint64_t sequence)
{
        PrivConnectionDone done = { .sequence = sequence, .reason = CLOSE_ERROR };

        return priv_link_send(e->dialer, PRIV_CONNECTION_DONE, &done, sizeof(done), NULL, 0);
}

int inbound_new(Egress *e, const PrivInbound *m, int take_fds[2])
{
        _cleanup_close_ int inside = TAKE_FD(take_fds[0]);
        int one = 1, r;
        Client *c;

        r = client_add(e, TAKE_FD(take_fds[1]), &c);
        if (r < 0)
                return give_back(e, m->sequence);
        c->server.sequence = m->sequence;
        c->server.fd = TAKE_FD(inside);
        c->is_inbound = true;
        e->n_servers++;
        (void) setsockopt(c->server.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        (void) setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        r = loop_io_new(e->loop, c->server.fd, 0, request_on_server_io, c, &c->server.io);
        if (r < 0) {
                client_close(c, CLOSE_ERROR);
                return 0;
        }
        egress_update_listeners(e);
        c->has_answer_begun = true;
        client_set_state(c, CLIENT_TUNNEL);
        client_pump(c);
        return 0;
}
