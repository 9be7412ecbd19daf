#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "daemon/api/relay.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"

#define LOOK_USEC (500 * USEC_PER_MSEC)

static bool has_data(const RelayWay *w)
{
        return w->end > w->begin;
}

/* < 0: one of both is gone. */
static int pull(RelayWay *w)
{
        ssize_t n;

        if (w->is_eof || has_data(w))
                return 0;
        n = recv(w->from, w->data, sizeof(w->data), MSG_DONTWAIT);
        if (n < 0)
                return errno == EAGAIN || errno == EINTR ? 0 : neg_errno();
        w->begin = 0;
        w->end = (size_t) n;
        w->is_eof = n == 0;
        return 0;
}

static int push(RelayWay *w)
{
        ssize_t n;

        if (has_data(w)) {
                n = send(w->to, w->data + w->begin, w->end - w->begin, MSG_DONTWAIT | MSG_NOSIGNAL);
                if (n < 0)
                        return errno == EAGAIN || errno == EINTR ? 0 : neg_errno();
                w->begin += (size_t) n;
        }
        if (!w->is_eof || has_data(w) || w->is_shut)
                return 0;
        w->is_shut = true;
        return shutdown(w->to, SHUT_WR) < 0 ? neg_errno() : 0;
}

/* i: 0 is the client's socket, 1 the worker's. */
static unsigned wanted(const RelayStream *s, size_t i)
{
        const RelayWay *in = &s->ways[i], *out = &s->ways[1 - i];

        return (!in->is_eof && !has_data(in) ? LOOP_READ : 0U) | (has_data(out) ? LOOP_WRITE : 0U);
}

static void on_timer(void *userdata)
{
        RelayStream *s = userdata;
        struct pollfd p = { .fd = s->ways[0].from };

        if (poll(&p, 1, 0) > 0 || loop_timer_set(s->timer, LOOK_USEC) < 0)
                client_close(s->client);
}

/* The end of input may be the end of everything: the other worker has to hear of it, and the pair stands
 * for as long as we do. */
static int look_after_client(RelayStream *s)
{
        int r;

        if (s->timer || !s->ways[0].is_eof)
                return 0;
        r = loop_timer_new(s->client->api->loop, on_timer, s, &s->timer);
        return r < 0 ? r : loop_timer_set(s->timer, LOOK_USEC);
}

static void on_io(void *userdata, _unused_ int fd, _unused_ unsigned events)
{
        RelayStream *s = userdata;
        int r = 0;

        for (size_t i = 0; i < ELEMENTSOF(s->ways) && r >= 0; i++) {
                r = pull(&s->ways[i]);
                if (r >= 0)
                        r = push(&s->ways[i]);
        }
        for (size_t i = 0; i < ELEMENTSOF(s->ios) && r >= 0; i++)
                r = loop_io_set_events(s->ios[i], wanted(s, i));
        if (r >= 0)
                r = look_after_client(s);
        if (r < 0 || (s->ways[0].is_shut && s->ways[1].is_shut))
                client_close(s->client);
}

int relay_stream_new(Client *c, Conn *other, RelayStream **ret)
{
        const int fds[] = { conn_fd(c->conn), conn_fd(other) };
        RelayStream *s = calloc(1, sizeof(*s));
        Buf *early = conn_input(other);
        int r = 0;

        if (!s)
                return -ENOMEM;
        s->client = c;
        for (size_t i = 0; i < ELEMENTSOF(fds); i++) {
                s->ways[i].from = fds[i];
                s->ways[i].to = fds[1 - i];
        }
        if (buf_size(early) > sizeof(s->ways[1].data))
                r = -ENOBUFS;
        else if (buf_size(early) > 0)
                memcpy(s->ways[1].data, buf_front(early), s->ways[1].end = buf_size(early));
        for (size_t i = 0; i < ELEMENTSOF(fds) && r >= 0; i++)
                r = loop_io_new(c->api->loop, fds[i], wanted(s, i), on_io, s, &s->ios[i]);
        if (r < 0) {
                (void) relay_stream_free(s);
                return r;
        }
        *ret = s;
        return 0;
}

RelayStream *relay_stream_free(RelayStream *s)
{
        if (!s)
                return NULL;
        for (size_t i = 0; i < ELEMENTSOF(s->ios); i++)
                s->ios[i] = loop_io_free(s->ios[i]);
        s->timer = loop_timer_free(s->timer);
        free(s);
        return NULL;
}
