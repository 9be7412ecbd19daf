/* SOCKS at the explicit door: one request, then a tunnel as behind CONNECT, or a refusal by code. */

#include <errno.h>

#include "daemon/egress/egress.h"
#include "daemon/egress/socks.h"

#define RAW_MAX 64U

static const char greeting_taken[] = { 5, 0 };
static const char greeting_refused[] = { 5, (char) 0xff };

bool socks_is_first_byte(char first)
{
        return first == 4 || first == 5;
}

static int end_with(Client *c, const char *data, size_t n)
{
        int r = buf_put(&c->to_client, data, n);

        if (r < 0)
                return r;
        c->is_last = true;
        server_close(c, CLOSE_CLIENT);
        client_set_state(c, CLIENT_ENDING);
        return 1;
}

int socks_answer(Client *c, unsigned reply)
{
        char text[SOCKS_REPLY_SIZE];
        size_t n = socks_put_reply(c->socks_version, (SocksReply) reply, text);

        return end_with(c, text, n);
}

static int greet(Client *c)
{
        int r = socks_parse_greeting(buf_front(&c->in), buf_size(&c->in));

        if (r == 0)
                return c->is_eof ? -EPIPE : 0;
        if (r < 0)
                return end_with(c, greeting_refused, sizeof(greeting_refused));
        buf_consume(&c->in, (size_t) r);
        c->has_greeted = true;
        r = buf_put(&c->to_client, greeting_taken, sizeof(greeting_taken));
        return r < 0 ? r : 1;
}

static int refuse(Client *c, const SocksRequest *q, int error)
{
        HttpSlice raw = { q->raw, q->n_raw };
        const char *method = "";

        c->socks_reply = SOCKS_DENIED;
        if (q->command != SOCKS_CONNECT) {
                c->socks_reply = SOCKS_NO_COMMAND;
                method = q->command == SOCKS_BIND            ? "BIND"
                         : q->command == SOCKS_UDP_ASSOCIATE ? "UDP-ASSOCIATE"
                                                             : "";
        } else if (error == -EAFNOSUPPORT) {
                c->socks_reply = SOCKS_NO_ADDRESS_TYPE;
        }
        if (raw.size == 0)
                raw = (HttpSlice){ buf_front(&c->in), MIN_OF(buf_size(&c->in), (size_t) RAW_MAX) };
        return request_refuse(c, REFUSE_SOCKS, method, raw);
}

int socks_step(Client *c)
{
        SocksRequest q;
        int r = buf_send(c->fd, &c->to_client);

        if (r < 0)
                return r;
        if (c->socks_version == 5 && !c->has_greeted)
                return greet(c);
        r = socks_parse_request(buf_front(&c->in), buf_size(&c->in), &q);
        if (r == 0)
                return c->is_eof ? -EPIPE : 0;
        c->is_connect = true;
        c->authority = q.authority;
        if (r < 0 || q.command != SOCKS_CONNECT)
                return refuse(c, &q, r);
        if (request_tunnel(c, &q.authority, (HttpSlice){ q.raw, q.n_raw }) < 0)
                return -EPIPE;
        buf_consume(&c->in, (size_t) r);
        return 1;
}
