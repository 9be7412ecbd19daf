#include <errno.h>
#include <sys/socket.h>

#include "daemon/egress/egress.h"
#include "daemon/egress/park.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"

#define HEAD_TIMEOUT_USEC        (10 * USEC_PER_SEC)
#define SERVER_HEAD_TIMEOUT_USEC (60 * USEC_PER_SEC)
#define IDLE_TIMEOUT_USEC        (60 * USEC_PER_SEC)
#define VERDICT_TIMEOUT_USEC     (6 * USEC_PER_SEC)
#define CONNECT_TIMEOUT_USEC     (20 * USEC_PER_SEC)
#define ENDING_TIMEOUT_USEC      (2 * USEC_PER_SEC)
#define FIRST_TIMEOUT_USEC       (1 * USEC_PER_SEC) /* then it waits for the server */
#define GONE_TIMEOUT_USEC        (5 * 60 * USEC_PER_SEC)
/* So many steps a turn, then the others have theirs. */
#define STEPS_MAX 16U
#define FILL_MAX  16384U

static void on_client_io(void *userdata, _unused_ int fd, unsigned events)
{
        Client *c = userdata;

        c->may_read |= (events & LOOP_READ) != 0;
        client_pump(c);
}

/* One side may have ended its direction only, and still wait for the other. */
static uint64_t idle_timeout(const Client *c)
{
        bool is_half = c->is_eof || c->server.is_eof;
        uint64_t idle = server_is_there(c) && c->server.idle_usec > 0 ? c->server.idle_usec
                                                                      : c->egress->idle_usec;

        return is_half ? MIN_OF(GONE_TIMEOUT_USEC, idle) : idle;
}

/* Between requests, and before the first byte of a tunnel. */
static uint64_t waiting_timeout(const Client *c)
{
        bool has_own = c->server.fd >= 0 && c->server.idle_usec > 0;

        return has_own ? MIN_OF(IDLE_TIMEOUT_USEC, c->server.idle_usec) : IDLE_TIMEOUT_USEC;
}

/* A head that has begun, at one byte now and then. */
static uint64_t left_for_head(const Client *c)
{
        uint64_t since = clock_monotonic_usec() - c->server.head_usec;
        uint64_t timeout = MIN_OF(SERVER_HEAD_TIMEOUT_USEC, c->egress->idle_usec);

        if (c->state != CLIENT_EXCHANGE || c->has_response_head || buf_size(&c->server.in) == 0)
                return timeout;
        return timeout - MIN_OF(timeout, since);
}

/* The timer is not moved with each byte: when it has run out, it is set to what is left. */
static void on_maybe_idle(Client *c)
{
        uint64_t timeout = idle_timeout(c), idle = clock_monotonic_usec() - c->active_usec;

        if (left_for_head(c) == 0 && exchange_on_slow_head(c) >= 0)
                client_pump(c);
        else if (idle >= timeout)
                client_close(c, CLOSE_IDLE);
        else
                client_set_timeout(c, timeout - idle);
}

static void on_client_timer(void *userdata)
{
        Client *c = userdata;
        int r = 0;

        switch (c->state) {
        case CLIENT_HEAD:
                if (buf_size(&c->in) == 0) {
                        client_close(c, CLOSE_IDLE);
                        return;
                }
                c->is_last = true;
                r = answer_error(c, 408, "the request head took too long");
                break;
        case CLIENT_DECIDING:
        case CLIENT_CONNECTING:
                request_on_timeout(c);
                return;
        case CLIENT_EXCHANGE:
        case CLIENT_TUNNEL:
                on_maybe_idle(c);
                return;
        case CLIENT_REFUSED:
                r = transparent_reset(c);
                break;
        case CLIENT_PEEK:
                r = tunnel_on_silence(c);
                break;
        case CLIENT_NAMING:
                r = transparent_on_silence(c);
                break;
        case CLIENT_SOCKS:
        case CLIENT_ENDING:
                client_close(c, CLOSE_IDLE);
                return;
        }
        if (r < 0)
                client_close(c, CLOSE_IDLE);
        else
                client_pump(c);
}

static int send_all(int fd, Buf *buf, int flags)
{
        while (buf_size(buf) > 0) {
                ssize_t n = send(fd, buf_front(buf), buf_size(buf), MSG_NOSIGNAL | MSG_DONTWAIT | flags);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EAGAIN)
                        return 0;
                if (n < 0)
                        return neg_errno();
                buf_consume(buf, (size_t) n);
        }
        return 1;
}

int buf_send(int fd, Buf *buf)
{
        return send_all(fd, buf, 0);
}

int buf_send_more(int fd, Buf *buf)
{
        return send_all(fd, buf, MSG_MORE);
}

int buf_receive(int fd, Buf *to, size_t n)
{
        ssize_t got;
        char *tail;
        int r = buf_reserve(to, n, &tail);

        if (r < 0)
                return r;
        do
                got = recv(fd, tail, n, MSG_DONTWAIT);
        while (got < 0 && errno == EINTR);
        if (got < 0)
                return neg_errno();
        buf_commit(to, (size_t) got);
        return (int) got;
}

int egress_receive(const Egress *e, int fd, Buf *to, size_t n)
{
        ssize_t got;
        int r;

        do
                got = recv(fd, e->scratch, MIN_OF(n, (size_t) EGRESS_SCRATCH_SIZE), MSG_DONTWAIT);
        while (got < 0 && errno == EINTR);
        if (got < 0)
                return neg_errno();
        r = buf_put(to, e->scratch, (size_t) got);
        return r < 0 ? r : (int) got;
}

static uint64_t state_timeout(const Client *c)
{
        switch (c->state) {
        case CLIENT_PEEK:
                if (c->allows_tcp && buf_size(&c->in) > 0)
                        return FIRST_TIMEOUT_USEC;
                return buf_size(&c->in) > 0 ? HEAD_TIMEOUT_USEC : waiting_timeout(c);
        case CLIENT_HEAD:
                return buf_size(&c->in) > 0 ? HEAD_TIMEOUT_USEC : waiting_timeout(c);
        case CLIENT_SOCKS:
                return HEAD_TIMEOUT_USEC;
        case CLIENT_DECIDING:
                return VERDICT_TIMEOUT_USEC;
        case CLIENT_CONNECTING:
                return CONNECT_TIMEOUT_USEC;
        case CLIENT_NAMING:
        case CLIENT_REFUSED:
                return FIRST_TIMEOUT_USEC;
        case CLIENT_ENDING:
                return ENDING_TIMEOUT_USEC;
        case CLIENT_EXCHANGE:
        case CLIENT_TUNNEL:
                break;
        }
        return idle_timeout(c);
}

void client_set_timeout(Client *c, uint64_t timeout_usec)
{
        int r = loop_timer_set(c->timer, timeout_usec);

        if (r < 0)
                (void) log_warning(r, "cannot set a time-out, ignoring");
}

void client_note_head(Client *c)
{
        c->server.head_usec = clock_monotonic_usec();
        client_set_timeout(c, left_for_head(c));
}

void client_set_state(Client *c, ClientState state)
{
        c->state = state;
        c->active_usec = clock_monotonic_usec();
        client_set_timeout(c, state_timeout(c));
}

void server_close(Client *c, CloseReason reason)
{
        Server *s = &c->server;
        PrivConnectionDone done = { .sequence = s->sequence, .reason = reason };

        if (!server_is_there(c))
                return;
        if (s->is_parked)
                park_forget(c);
        else {
                s->io = loop_io_free(s->io);
                s->fd = fd_close(s->fd);
                c->egress->n_servers--;
        }
        buf_done(&s->in);
        s->scanned = 0;
        (void) priv_link_send(c->egress->dialer, PRIV_CONNECTION_DONE, &done, sizeof(done), NULL, 0);
}

void client_bury(Client *c)
{
        Egress *e = c->egress;

        request_drop(c);
        list_unlink(&c->link);
        list_append(&e->dead, &c->link);
        e->n_clients--;
        egress_update_listeners(e);
}

void client_close(Client *c, CloseReason reason)
{
        if (c->is_closed)
                return;
        c->is_closed = true;
        server_close(c, reason);
        c->io = loop_io_free(c->io);
        c->timer = loop_timer_free(c->timer);
        c->fd = fd_close(c->fd);
        /* Until then it counts: nobody leaves more of them than they may have connections. */
        if (!request_outlives(c))
                client_bury(c);
}

static void client_free(Client *c)
{
        list_unlink(&c->link);
        buf_done(&c->in);
        buf_done(&c->to_client);
        buf_done(&c->to_server);
        buf_done(&c->decide);
        buf_done(&c->server.in);
        free(c);
}

void egress_sweep(Egress *e)
{
        LIST_FOREACH (c, &e->dead, Client, link)
                client_free(c);
}

static int client_begin(Client *c, const Authority *door)
{
        client_set_state(c, CLIENT_HEAD);
        c->is_transparent = door != NULL;
        return door ? transparent_begin(c, door) : 0;
}

int client_add(Egress *e, int take_fd, Client **ret)
{
        _cleanup_close_ int fd = take_fd;
        Client *c = calloc(1, sizeof(*c));
        int r;

        if (!c)
                return -ENOMEM;
        *c = (Client){ .egress = e,
                       .fd = -EBADF,
                       .server = { .fd = -EBADF, .in = BUF_INIT(HTTP_HEAD_MAX + 1) },
                       .in = BUF_INIT(HTTP_HEAD_MAX + 1),
                       .to_client = BUF_INIT(8U * EGRESS_SCRATCH_SIZE),
                       .to_server = BUF_INIT(8U * EGRESS_SCRATCH_SIZE),
                       .decide = BUF_INIT(PRIV_DECIDE_MAX) };
        list_init(&c->waiting);
        list_init(&c->wanting);
        r = loop_timer_new(e->loop, on_client_timer, c, &c->timer);
        if (r >= 0)
                r = loop_io_new(e->loop, fd, LOOP_READ, on_client_io, c, &c->io);
        if (r < 0) {
                c->timer = loop_timer_free(c->timer);
                free(c);
                return r;
        }
        c->fd = TAKE_FD(fd);
        list_init(&c->link);
        list_append(&e->clients, &c->link);
        e->n_clients++;
        *ret = c;
        return 0;
}

int client_new(Egress *e, int take_fd, const Authority *door)
{
        Client *c;
        int r = client_add(e, take_fd, &c);

        if (r < 0)
                return r;
        r = client_begin(c, door);
        if (r < 0)
                client_close(c, CLOSE_ERROR);
        return r;
}

int client_fill(Client *c)
{
        size_t room = MIN_OF(HTTP_HEAD_MAX - buf_size(&c->in), (size_t) FILL_MAX);
        bool was_empty = buf_size(&c->in) == 0;
        int r;

        if (c->is_eof || room == 0 || !c->may_read)
                return 0;
        r = egress_receive(c->egress, c->fd, &c->in, room);
        c->may_read = r == 0 || r == (int) room;
        if (r == -EAGAIN)
                return 0;
        if (r < 0)
                return r;
        if (r == 0)
                c->is_eof = true;
        /* Slow heads: the clock runs from the first byte on. */
        else if (was_empty && (c->state == CLIENT_HEAD || c->state == CLIENT_PEEK))
                client_set_timeout(c, state_timeout(c));
        return r > 0;
}

/* Between requests a server has nothing to say: what it says, or its end, ends the connection. */
static void watch_idle_server(Client *c)
{
        char byte;
        ssize_t n;

        if (c->server.fd < 0)
                return;
        n = recv(c->server.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
        if (n >= 0 || errno != EAGAIN)
                server_close(c, n == 0 ? CLOSE_SERVER : CLOSE_ERROR);
}

/* The answer goes out, then our end closes; what the client still sends is read and dropped for a while,
 * since a reset would take the answer away from it. */
static int step_ending(Client *c)
{
        int r = buf_send_more(c->fd, &c->to_client);

        if (r <= 0)
                return r;
        if (!c->is_shut) {
                c->is_shut = true;
                (void) shutdown(c->fd, SHUT_WR);
        }
        for (unsigned i = 0; i < STEPS_MAX; i++) {
                ssize_t n = recv(c->fd, c->egress->scratch, EGRESS_SCRATCH_SIZE, MSG_DONTWAIT);

                if (n < 0 && errno == EAGAIN)
                        return 0;
                if (n <= 0)
                        return -EPIPE;
        }
        return 0;
}

static int step(Client *c)
{
        int r;

        if (c->state == CLIENT_HEAD || c->state == CLIENT_SOCKS || c->state == CLIENT_DECIDING ||
            c->state == CLIENT_CONNECTING || c->state == CLIENT_PEEK || c->state == CLIENT_REFUSED ||
            c->state == CLIENT_NAMING) {
                r = client_fill(c);
                if (r < 0)
                        return r;
        }
        switch (c->state) {
        case CLIENT_HEAD:
                watch_idle_server(c);
                r = buf_send(c->fd, &c->to_client);
                return r <= 0 ? r : request_step_head(c);
        case CLIENT_SOCKS:
                return socks_step(c);
        case CLIENT_NAMING:
                return transparent_step_name(c);
        case CLIENT_DECIDING:
                if (!c->wants_connection)
                        watch_idle_server(c);
                return 0;
        case CLIENT_CONNECTING:
                return 0;
        case CLIENT_EXCHANGE:
                return exchange_step(c);
        case CLIENT_PEEK:
                return tunnel_step_peek(c);
        case CLIENT_TUNNEL:
                return tunnel_step(c);
        case CLIENT_REFUSED:
                return transparent_refuse(c);
        case CLIENT_ENDING:
                return step_ending(c);
        }
        return -EINVAL;
}

static bool wants_client_read(const Client *c)
{
        if (c->state == CLIENT_ENDING)
                return buf_size(&c->to_client) == 0;
        if (c->is_eof)
                return false;
        if (c->state == CLIENT_TUNNEL)
                return buf_size(&c->to_server) == 0 && !c->server.is_wanted;
        /* While the server takes nothing nobody reads here, and what is there would call again and again. */
        if (c->state == CLIENT_EXCHANGE && (buf_size(&c->to_server) > 0 || !c->request_body.is_done))
                return buf_size(&c->to_server) == 0;
        return buf_size(&c->in) < HTTP_HEAD_MAX;
}

static bool wants_server_read(const Client *c)
{
        if (c->server.is_eof || (c->state == CLIENT_DECIDING && c->wants_connection))
                return false;
        /* Who has begun to speak is heard out first. */
        if (c->state == CLIENT_PEEK && buf_size(&c->in) > 0)
                return false;
        return buf_size(&c->to_client) == 0;
}

/* is_busy: there is more to do without news from the sockets; a writable one calls us again. */
static int update_events(Client *c, bool is_busy)
{
        bool is_answering = buf_size(&c->to_client) > 0 && c->state != CLIENT_REFUSED;
        int r = loop_io_set_events(c->io, (wants_client_read(c) ? LOOP_READ : 0U) |
                                                          (is_busy || is_answering ? LOOP_WRITE : 0U));

        if (r >= 0 && c->server.io) {
                bool is_sending = (c->state == CLIENT_EXCHANGE || c->state == CLIENT_TUNNEL) &&
                                  buf_size(&c->to_server) > 0;

                r = loop_io_set_events(c->server.io, (wants_server_read(c) ? LOOP_READ : 0U) |
                                                                     (is_sending ? LOOP_WRITE : 0U));
        }
        return r;
}

void client_pump(Client *c)
{
        int r = 1;

        c->active_usec = clock_monotonic_usec();
        for (unsigned i = 0; i < STEPS_MAX && r > 0 && !c->is_closed; i++)
                r = step(c);
        if (c->is_closed)
                return;
        if (r >= 0)
                r = update_events(c, /* is_busy= */ r > 0);
        if (r < 0 && c->end != CLOSE_DONE)
                client_close(c, c->end);
        else if (r < 0)
                client_close(c, c->state == CLIENT_TUNNEL && c->server.is_eof ? CLOSE_SERVER : CLOSE_CLIENT);
}
