#include <errno.h>
#include <sys/socket.h>

#include "daemon/launcher/session.h"
#include "daemon/launcher/worker.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"

/*
 * Connections into a session: its owner's, by Forward() or by a published port. First the row, then the
 * connection to the session's own loopback, then both ends go by way of the dialer to the session's egress
 * worker, so that they end with it, and with the session.
 */

#define INBOUND_USEC       (10 * USEC_PER_SEC)
#define INBOUND_REFUSE_ROW 0U /* token of rows that nobody waits for */

typedef struct Inbound {
        ListLink link;
        Session *session;
        uint64_t token;
        uint64_t api_token; /* Forward(): of the call */
        uint64_t sequence;  /* of the row; 0: not committed yet */
        Entry entry;
        uint32_t port;
        int inside_fd;
        int outside_fd;
        int client_fd; /* Forward(): what the caller gets */
        LoopIo *io;
        LoopTimer *timer;
        bool is_v6;
} Inbound;

static void inbound_free(Inbound *i)
{
        Launcher *l = i->session->launcher;

        i->io = loop_io_free(i->io);
        i->timer = loop_timer_free(i->timer);
        i->inside_fd = fd_close(i->inside_fd);
        i->outside_fd = fd_close(i->outside_fd);
        i->client_fd = fd_close(i->client_fd);
        (void) map_remove(&l->inbounds, &i->token, sizeof(i->token));
        list_unlink(&i->link);
        i->session->n_inbounds--;
        i->session->user->n_inbounds--;
        free(i);
}

static void answer(User *u, uint64_t token, int error, int fd)
{
        PrivSessionForwarded body = { .token = token, .error = error };

        user_send(u, PRIV_SESSION_FORWARDED, &body, sizeof(body), &fd, fd >= 0 ? 1 : 0);
}

static void send_over(Launcher *l, const Id *session, uint64_t sequence, CloseReason reason)
{
        PrivInboundOver over = { .session = *session, .sequence = sequence, .reason = reason };

        worker_send(l->audit, PRIV_AUDIT_INBOUND_OVER, &over, sizeof(over), NULL, 0);
}

/* Whoever waits is told, and a row that is there gets its close. */
static void fail(Inbound *i, int error, CloseReason reason)
{
        Session *s = i->session;

        if (i->sequence > 0)
                send_over(s->launcher, &s->id, i->sequence, reason);
        if (i->entry == ENTRY_FORWARD)
                answer(s->user, i->api_token, error, -EBADF);
        inbound_free(i);
}

static void hand_over(Inbound *i)
{
        Session *s = i->session;
        PrivDialerInbound body = {
                .session = s->id,
                .sequence = i->sequence,
                .address = { .family = 4, .bytes = { 127, [3] = 1 } },
                .port = i->port,
        };
        int fds[2] = { i->inside_fd, i->outside_fd };

        if (i->is_v6)
                body.address = (PrivAddress){ .family = 6, .bytes = { [15] = 1 } };
        if (!s->egress || !worker_is_ready(s->launcher->dialer)) {
                fail(i, -EAGAIN, CLOSE_EGRESS_GONE);
                return;
        }
        worker_send(s->launcher->dialer, PRIV_DIALER_INBOUND, &body, sizeof(body), fds, 2);
        if (i->entry == ENTRY_FORWARD)
                answer(s->user, i->api_token, 0, i->client_fd);
        inbound_free(i);
}

static void try_next(Inbound *i, int error);

static void on_connected(void *userdata, int fd, _unused_ unsigned events)
{
        Inbound *i = userdata;
        int r = netns_go_on_connecting(fd, i->is_v6, (uint16_t) i->port);

        i->io = loop_io_free(i->io);
        if (r < 0)
                try_next(i, r);
        else
                hand_over(i);
}

static int begin(Inbound *i)
{
        Session *s = i->session;
        int r;

        i->inside_fd = fd_close(i->inside_fd);
        r = netns_connect(s->launcher->kernel->network_fd, &s->network, i->is_v6, (uint16_t) i->port,
                          &i->inside_fd);
        return r < 0 ? r : loop_io_new(s->launcher->loop, i->inside_fd, LOOP_WRITE, on_connected, i, &i->io);
}

/* A program may listen on one of the two loopback addresses only. */
static void try_next(Inbound *i, int error)
{
        bool has_v6 = i->session->network.socket_fds[EGRESS_PROXY6] >= 0;
        int r = error;

        if (!i->is_v6 && has_v6 && error == -ECONNREFUSED) {
                i->is_v6 = true;
                r = begin(i);
        }
        if (r < 0)
                fail(i, r, r == -ECONNREFUSED ? CLOSE_REFUSED : CLOSE_ERROR);
}

static void on_deadline(void *userdata)
{
        Inbound *i = userdata;

        fail(i, i->sequence > 0 ? -ECONNREFUSED : -EIO, CLOSE_TIMEOUT);
}

void inbounds_on_row(Launcher *l, const PrivInboundRow *row)
{
        Inbound *i = map_get(&l->inbounds, &row->token, sizeof(row->token));
        int r;

        /* Nobody waits any more: it is over before it began. */
        if (!i) {
                if (row->sequence > 0 && row->error >= 0)
                        send_over(l, &row->session, row->sequence, CLOSE_CLIENT);
                return;
        }
        if (row->error != 0) {
                fail(i, row->error < 0 ? row->error : -EIO, CLOSE_ERROR);
                return;
        }
        i->sequence = row->sequence;
        r = begin(i);
        if (r < 0)
                try_next(i, r);
}

static void ask_audit(const Session *s, const PrivAuditInbound *body)
{
        worker_send(s->launcher->audit, PRIV_AUDIT_INBOUND, body, sizeof(*body), NULL, 0);
}

bool inbound_is_full(const Session *s)
{
        return s->n_inbounds >= INBOUNDS_MAX || s->user->n_inbounds >= INBOUNDS_PER_USER_MAX;
}

/* Takes the descriptors. */
static int inbound_new(Session *s, Entry entry, uint32_t port, int take_outside_fd, int take_client_fd,
                       Inbound **ret)
{
        _cleanup_close_ int outside = take_outside_fd, client = take_client_fd;
        Launcher *l = s->launcher;
        Inbound *i;
        int r;

        if (s->state != SESSION_RUNNING || !s->egress || !worker_is_ready(l->audit))
                return -EAGAIN;
        if (inbound_is_full(s))
                return -EDQUOT;
        i = calloc(1, sizeof(*i));
        if (!i)
                return -ENOMEM;
        *i = (Inbound){ .session = s,
                        .token = ++l->last_inbound,
                        .entry = entry,
                        .port = port,
                        .inside_fd = -EBADF,
                        .outside_fd = TAKE_FD(outside),
                        .client_fd = TAKE_FD(client) };
        list_init(&i->link);
        list_append(&s->inbounds, &i->link);
        s->n_inbounds++;
        s->user->n_inbounds++;
        r = map_put(&l->inbounds, &i->token, sizeof(i->token), i);
        if (r >= 0)
                r = loop_timer_new(l->loop, on_deadline, i, &i->timer);
        if (r >= 0)
                r = loop_timer_set(i->timer, INBOUND_USEC);
        if (r < 0) {
                inbound_free(i);
                return r;
        }
        *ret = i;
        return 0;
}

static int forward(Session *s, const PrivSessionForward *body)
{
        PrivAuditInbound row = {
                .session = s->id, .entry = ENTRY_FORWARD, .port = body->port, .uid = s->user->uid
        };
        Inbound *i;
        int pair[2], r;

        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
                return neg_errno();
        r = fd_set_nonblock(pair[1], false);
        if (r < 0) {
                fd_close_many(pair, 2);
                return r;
        }
        r = inbound_new(s, ENTRY_FORWARD, body->port, pair[0], pair[1], &i);
        if (r < 0)
                return r;
        i->api_token = body->token;
        row.token = i->token;
        ask_audit(s, &row);
        return 0;
}

int inbound_forward(User *u, const PrivSessionForward *body)
{
        Session *s = map_get(&u->launcher->sessions, &body->session, sizeof(body->session));
        int r;

        if (body->port == 0 || body->port > UINT16_MAX)
                return -EPROTO;
        /* A session of somebody else does not exist for this channel. */
        r = s && s->user == u && s->state == SESSION_RUNNING ? forward(s, body) : -ENOENT;
        if (r < 0)
                answer(u, body->token, r, -EBADF);
        return 0;
}

void inbound_publish(Session *s, uint32_t port, uint32_t uid, int take_fd)
{
        PrivAuditInbound row = { .session = s->id, .entry = ENTRY_PUBLISH, .port = port, .uid = uid };
        Inbound *i;

        if (inbound_new(s, ENTRY_PUBLISH, port, take_fd, -EBADF, &i) < 0)
                return;
        row.token = i->token;
        ask_audit(s, &row);
}

void inbound_refuse(Session *s, uint32_t port, uint32_t uid)
{
        PrivAuditInbound row = { .token = INBOUND_REFUSE_ROW,
                                 .session = s->id,
                                 .entry = ENTRY_PUBLISH,
                                 .port = port,
                                 .is_denied = true,
                                 .uid = uid };

        ask_audit(s, &row);
}

void inbounds_drop(Session *s)
{
        LIST_FOREACH (i, &s->inbounds, Inbound, link)
                fail(i, -ENOENT, CLOSE_SESSION_ENDED);
}

void inbounds_drop_all(Launcher *l)
{
        size_t cursor = 0;

        for (Session *s = map_next(&l->sessions, &cursor); s; s = map_next(&l->sessions, &cursor))
                LIST_FOREACH (i, &s->inbounds, Inbound, link)
                        fail(i, -EAGAIN, CLOSE_EGRESS_GONE);
}

/* Its successor did not ask for them. */
void inbounds_forget_api(User *u)
{
        Map *sessions = &u->launcher->sessions;
        size_t cursor = 0;

        for (Session *s = map_next(sessions, &cursor); s; s = map_next(sessions, &cursor))
                LIST_FOREACH (i, &s->inbounds, Inbound, link)
                        if (s->user == u && i->entry == ENTRY_FORWARD)
                                fail(i, -EPIPE, CLOSE_CLIENT);
}
