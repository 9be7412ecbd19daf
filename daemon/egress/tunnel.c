#include <errno.h>
#include <sys/socket.h>

#include "daemon/egress/egress.h"
#include "daemon/egress/park.h"
#include "daemon/egress/sni.h"
#include "daemon/egress/socks.h"
#include "daemon/policy/compiled.h"
#include "proto/base/error.h"
#include "proto/base/str.h"

/*
 * Behind CONNECT and SOCKS, and on a transparent connection: the first bytes say what the tunnel is for. TLS
 * must name the host that was allowed and is then relayed; HTTP goes on as requests in origin form, each
 * with a decision of its own; all else is closed, unless a rule for tcp allows it.
 */

#define RECORD_HANDSHAKE 0x16
#define RAW_MAX          64U

static int put_granted(Client *c)
{
        char text[SOCKS_REPLY_SIZE];

        if (c->is_transparent)
                return 0;
        if (c->socks_version == 0)
                return buf_put_string(&c->to_client, "HTTP/1.1 200 Connection established\r\n\r\n");
        return buf_put(&c->to_client, text, socks_put_reply(c->socks_version, SOCKS_GRANTED, text));
}

/* Bytes as they are, from the first one on. */
static int relay_all(Client *c)
{
        int r = buf_put(&c->to_server, buf_front(&c->in), buf_size(&c->in));

        if (r < 0)
                return r;
        bounds_count_sent(c, 0);
        buf_done(&c->in);
        client_set_state(c, CLIENT_TUNNEL);
        return 1;
}

int tunnel_begin(Client *c)
{
        int r = put_granted(c);

        if (r < 0)
                return r;
        c->tunnel_authority = c->authority;
        c->has_answer_begun = true;
        if (c->allows_tcp && !c->allows_tls)
                return relay_all(c);
        client_set_state(c, CLIENT_PEEK);
        return 1;
}

/* With a protocol in which the server speaks first the client may wait for it. */
static bool server_has_spoken(const Client *c)
{
        char byte;

        return c->server.fd >= 0 && recv(c->server.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0;
}

static int end_tunnel(Client *c)
{
        c->is_last = true;
        server_close(c, CLOSE_POLICY);
        client_set_state(c, CLIENT_ENDING);
        return 1;
}

int tunnel_refuse(Client *c)
{
        static const char access_denied[] = { 0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 49 };
        int r = 0;

        if (c->is_transparent && c->refuse_status == REFUSE_CLOSE)
                return transparent_reset(c);
        if (c->refuse_status == REFUSE_TLS_ALERT)
                r = buf_put(&c->to_client, access_denied, sizeof(access_denied));
        return r < 0 ? r : end_tunnel(c);
}

static bool is_allowed_name(const Client *c, const char *name, size_t n)
{
        char canonical[PRIV_HOST_SIZE];

        /* No rule says which names belong to an address. */
        if (c->authority.address.family != 0)
                return n == 0;
        if (n == 0 || policy_host_canonical(name, n, canonical) < 0)
                return false;
        return str_equal(canonical, c->authority.host);
}

static int peek_tls(Client *c)
{
        char name[SNI_NAME_SIZE];
        size_t n = 0;
        int r = sni_find(buf_front(&c->in), buf_size(&c->in), name, &n);

        if (r == 0)
                return c->is_eof ? -EPIPE : 0;
        if (r < 0)
                n = 0;
        if (r < 0 || !c->allows_tls || !is_allowed_name(c, name, n))
                return request_refuse(c, REFUSE_TLS_ALERT, "", (HttpSlice){ name, n });
        return relay_all(c);
}

/* Neither HTTP nor TLS, or the server speaks first. */
static int go_on_opaque(Client *c)
{
        HttpSlice raw = { buf_front(&c->in), MIN_OF(buf_size(&c->in), (size_t) RAW_MAX) };

        return c->allows_tcp ? relay_all(c) : request_refuse(c, REFUSE_CLOSE, "", raw);
}

/* Who asked for a tunnel, and may not have one for everything, is told what is wrong with its request. */
static int look_for_http(Client *c)
{
        const char *data = buf_front(&c->in);

        if (!c->is_transparent && !c->allows_tcp)
                return data[0] >= 'A' && data[0] <= 'Z' ? 1 : -EBADMSG;
        return http_look(data, buf_size(&c->in));
}

int tunnel_on_silence(Client *c)
{
        return c->allows_tcp && buf_size(&c->in) > 0 ? relay_all(c) : -ETIMEDOUT;
}

int tunnel_step_peek(Client *c)
{
        int r = buf_send(c->fd, &c->to_client);

        if (r < 0)
                return r;
        if (buf_size(&c->in) == 0 && (c->is_eof || server_has_spoken(c)))
                return c->is_eof && !c->allows_tcp ? -EPIPE : go_on_opaque(c);
        if (buf_size(&c->in) == 0)
                return 0;
        if (buf_front(&c->in)[0] == RECORD_HANDSHAKE)
                return c->allows_any_tls ? relay_all(c) : peek_tls(c);
        r = look_for_http(c);
        if (r == 0 && !c->is_eof)
                return 0;
        if (r <= 0)
                return go_on_opaque(c);
        c->is_tunneled = true;
        client_set_state(c, CLIENT_HEAD);
        return 1;
}

/* One direction. */
typedef struct Direction {
        int from_fd;
        int to_fd;
        Buf *kept;
        bool *may_read;
        bool *is_eof;
        int *error;
        Volume *volume;
} Direction;

/* What is there, and whether that was all: then the end goes with it, in one packet. An error is told when
 * what came before it has gone. */
static size_t take(const Direction *d, char *to, size_t room)
{
        size_t n = 0;

        while (n < room && *d->may_read && !*d->is_eof && *d->error == 0) {
                ssize_t got = recv(d->from_fd, to + n, room - n, MSG_DONTWAIT);

                if (got > 0)
                        n += (size_t) got;
                else if (got == 0)
                        *d->is_eof = true;
                else if (errno == EAGAIN)
                        *d->may_read = false;
                else if (errno != EINTR)
                        *d->error = neg_errno();
        }
        return n;
}

static int relay(Egress *e, const Direction *d)
{
        size_t room, n;
        ssize_t sent;
        int r = buf_send(d->to_fd, d->kept);

        if (r <= 0)
                return r;
        if (d->volume->is_over)
                return -EDQUOT;
        if (*d->error < 0)
                return *d->error;
        if (*d->is_eof || !*d->may_read)
                return 0;
        r = bounds_room(d->volume, d->from_fd, egress_read_max(e), &room);
        if (r < 0)
                return r == -EAGAIN ? 0 : r;
        n = take(d, e->scratch, room);
        if (n == 0)
                return *d->error;
        d->volume->used += n;
        sent = send(d->to_fd, e->scratch, n, MSG_NOSIGNAL | MSG_DONTWAIT | (*d->is_eof ? MSG_MORE : 0));
        if (sent < 0 && errno != EAGAIN && errno != EINTR)
                return neg_errno();
        sent = MAX_OF(sent, (ssize_t) 0);
        r = buf_put(d->kept, e->scratch + sent, n - (size_t) sent);
        return r < 0 ? r : 1;
}

static void shut(int fd, bool *is_shut)
{
        if (!*is_shut)
                (void) shutdown(fd, SHUT_WR);
        *is_shut = true;
}

/* Once all before an end has been sent. Where both have ended, closing says so. */
static void pass_on_ends(Client *c)
{
        bool has_sent = c->is_eof && buf_size(&c->to_server) == 0;
        bool has_received = c->server.is_eof && buf_size(&c->to_client) == 0;

        if (has_sent && has_received)
                client_close(c, CLOSE_DONE);
        else if (has_sent)
                shut(c->server.fd, &c->server.is_shut);
        else if (has_received)
                shut(c->fd, &c->is_shut);
}

int tunnel_step(Client *c)
{
        Direction up = { .from_fd = c->fd,
                         .to_fd = c->server.fd,
                         .kept = &c->to_server,
                         .may_read = &c->may_read,
                         .is_eof = &c->is_eof,
                         .error = &c->error,
                         .volume = &c->server.sent };
        Direction down = { .from_fd = c->server.fd,
                           .to_fd = c->fd,
                           .kept = &c->to_client,
                           .may_read = &c->server.may_read,
                           .is_eof = &c->server.is_eof,
                           .error = &c->server.error,
                           .volume = &c->server.received };
        int sent, received;

        if (c->server.is_parked) {
                if (c->may_read)
                        park_want(c);
                return 0;
        }
        sent = relay(c->egress, &up);
        if (sent == -EDQUOT)
                c->end = CLOSE_MAX_UPLOAD;
        if (sent < 0)
                return sent;
        received = relay(c->egress, &down);
        if (received == -EDQUOT)
                c->end = CLOSE_MAX_DOWNLOAD;
        if (received < 0)
                return received;
        pass_on_ends(c);
        return c->is_closed ? 0 : sent | received;
}
