#include <errno.h>
#include <sys/socket.h>

#include "daemon/egress/egress.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"

/*
 * One request and its response. Each direction reads only when what it read before has been sent: a slow
 * reader at one end slows the sender at the other. Lengths are counted here; chunks are decoded and made
 * anew.
 */

#define CHUNKS_READ_MAX 32768U /* what lies behind the last chunk must fit into Client.in */

typedef struct Bytes {
        const char *data;
        size_t size;
        size_t n_used;
} Bytes;

/* What of b the body takes goes to fd, and to `out` what fd does not take now. is_last: the connection ends
 * with the body. */
static int forward_plain(BodyState *body, int fd, Buf *out, bool is_last, Bytes *b)
{
        size_t n = body->kind == HTTP_BODY_LENGTH ? (size_t) MIN_OF((uint64_t) b->size, body->left)
                                                  : b->size;
        ssize_t sent = 0;
        int r;

        if (buf_size(out) == 0) {
                bool is_end = is_last && body->kind == HTTP_BODY_LENGTH && body->left == n;

                sent = send(fd, b->data, n, MSG_NOSIGNAL | MSG_DONTWAIT | (is_end ? MSG_MORE : 0));
                if (sent < 0 && errno != EAGAIN && errno != EINTR)
                        return neg_errno();
                sent = MAX_OF(sent, (ssize_t) 0);
        }
        r = buf_put(out, b->data + sent, n - (size_t) sent);
        if (r < 0)
                return r;
        b->n_used = n;
        if (body->kind == HTTP_BODY_LENGTH) {
                body->left -= n;
                body->is_done = body->left == 0;
        }
        return 0;
}

static int forward_chunks(BodyState *body, HttpParser *p, Buf *out, bool is_rechunked, Bytes *b)
{
        int r = http_read_chunks(p, b->data, b->size, out, is_rechunked, &b->n_used);

        if (r > 0)
                body->is_done = true;
        return r < 0 ? -EBADMSG : 0;
}

typedef struct Source {
        int fd;
        Buf *kept;
        bool *may_read;
} Source;

/* Body bytes from `kept`, else from the socket. > 0: there are some; 0: the end; -EAGAIN: none now. */
static int next_bytes(Egress *e, const Source *from, size_t n_max, Bytes *ret)
{
        ssize_t n;

        if (buf_size(from->kept) > 0) {
                *ret = (Bytes){ .data = buf_front(from->kept), .size = buf_size(from->kept) };
                return 1;
        }
        if (!*from->may_read)
                return -EAGAIN;
        do
                n = recv(from->fd, e->scratch, n_max, MSG_DONTWAIT);
        while (n < 0 && errno == EINTR);
        if (n < 0) {
                *from->may_read = false;
                return neg_errno();
        }
        *ret = (Bytes){ .data = e->scratch, .size = (size_t) n };
        return n > 0;
}

/* ---- request ---- */

/* The server takes no more of the request; it may have answered already. */
static int stop_sending(Client *c)
{
        buf_consume(&c->to_server, buf_size(&c->to_server));
        c->is_last = true;
        c->request_body.is_done = true;
        return 0;
}

/* A server that has closed may have answered before; anything else means that it does not have the request.
 */
static int on_not_sent(Client *c, int error)
{
        if (error == -EPIPE || error == -ECONNRESET)
                return stop_sending(c);
        if (c->has_answer_begun)
                return error;
        server_close(c, CLOSE_ERROR);
        return answer_error(c, 502, "the request could not be sent");
}

static int on_bad_body(Client *c)
{
        server_close(c, CLOSE_CLIENT);
        return request_refuse(c, 400, "", (HttpSlice){ "body", 4 });
}

static int step_request_body(Client *c)
{
        BodyState *body = &c->request_body;
        bool is_kept = buf_size(&c->in) > 0;
        size_t n_max = body->kind == HTTP_BODY_CHUNKED
                                       ? CHUNKS_READ_MAX
                                       : (size_t) MIN_OF(body->left, (uint64_t) egress_read_max(c->egress));
        Bytes b;
        Source from = { .fd = c->fd, .kept = &c->in, .may_read = &c->may_read };
        int r = next_bytes(c->egress, &from, n_max, &b);

        if (r == -EAGAIN)
                return 0;
        if (r <= 0)
                return -EPIPE;
        if (body->kind == HTTP_BODY_CHUNKED) {
                r = forward_chunks(body, &c->request_parser, &c->to_server, /* is_rechunked= */ true, &b);
                bounds_count_sent(c, 0);
        } else
                r = forward_plain(body, c->server.fd, &c->to_server, /* is_last= */ false, &b);
        if (r == -EBADMSG)
                return on_bad_body(c);
        if (r < 0)
                return on_not_sent(c, r);
        c->has_sent = true;
        if (is_kept)
                buf_consume(&c->in, b.n_used);
        else
                r = buf_put(&c->in, b.data + b.n_used, b.size - b.n_used);
        return r < 0 ? r : 1;
}

static int step_request(Client *c)
{
        size_t n = buf_size(&c->to_server);
        bool was_eof = c->is_eof;
        int r = buf_send(c->server.fd, &c->to_server);

        c->has_sent |= buf_size(&c->to_server) < n;
        if (r < 0)
                return on_not_sent(c, r);
        if (r == 0)
                return 0;
        if (c->server.sent.is_over)
                return bounds_refuse_upload(c);
        if (!c->request_body.is_done)
                return step_request_body(c);
        /* A client that closes may only have ended its side: it gets a while to take its answer. */
        r = client_fill(c);
        if (r >= 0 && c->is_eof && !was_eof) {
                c->is_last = true;
                client_set_state(c, CLIENT_EXCHANGE);
        }
        return r < 0 ? r : 0;
}

/* ---- response ---- */

/* The server ended or broke the rules before its answer had begun. */
static int on_no_response(Client *c, const char *text)
{
        server_close(c, CLOSE_SERVER);
        return answer_error(c, 502, text);
}

static int put_head(Client *c, const HttpHead *h)
{
        HttpBody framing = c->is_head_method ? HTTP_BODY_NONE : h->body;

        if (h->status < 200)
                return c->is_old_client ? 0 : http_put_response(&c->to_client, h, HTTP_BODY_NONE, false);
        c->has_response_head = true;
        c->has_answer_begun = true;
        c->response_body = (BodyState){ .kind = framing,
                                        .left = h->length,
                                        .is_done = framing == HTTP_BODY_NONE };
        c->server.is_last = h->wants_close || framing == HTTP_BODY_UNTIL_CLOSE;
        if (framing == HTTP_BODY_CHUNKED && c->is_old_client)
                framing = HTTP_BODY_UNTIL_CLOSE;
        c->is_last |= framing == HTTP_BODY_UNTIL_CLOSE || !c->request_body.is_done || c->is_eof;
        return http_put_response(&c->to_client, h, framing, c->is_last);
}

static int receive_head(Client *c)
{
        Server *s = &c->server;
        size_t n = MIN_OF(HTTP_HEAD_MAX - buf_size(&s->in), 16384U);
        int r = s->may_read ? bounds_room(&s->received, s->fd, n, &n) : -EAGAIN;

        if (r >= 0)
                r = egress_receive(c->egress, s->fd, &s->in, n);
        if (r == -EAGAIN)
                s->may_read = false;
        if (r > 0)
                s->received.used += (uint64_t) r;
        return r;
}

static int step_response_head(Client *c)
{
        Server *s = &c->server;
        HttpHead h;
        bool is_first;
        size_t size = 0;
        int r = 1;

        if (buf_size(&s->in) <= s->scanned)
                r = receive_head(c);
        if (r == -EAGAIN)
                return 0;
        if (r == -EDQUOT)
                return bounds_refuse_download(c);
        if (r <= 0)
                return on_no_response(c, "the server closed the connection without an answer");
        is_first = s->scanned == 0;
        r = http_find_head(buf_front(&s->in), buf_size(&s->in), &s->scanned, &size);
        if (r == 0 && is_first)
                client_note_head(c);
        if (r == 0)
                return 1;
        if (r > 0)
                r = http_parse_response(&c->response_parser, buf_front(&s->in), size, &h);
        if (r < 0)
                return on_no_response(c, "the server's answer is malformed");
        r = put_head(c, &h);
        if (r < 0)
                return r;
        buf_consume(&s->in, size);
        s->scanned = 0;
        return 1;
}

int exchange_on_slow_head(Client *c)
{
        server_close(c, CLOSE_IDLE);
        return answer_error(c, 504, "the server's answer took too long to begin");
}

static int step_response_body(Client *c)
{
        BodyState *body = &c->response_body;
        Server *s = &c->server;
        bool is_kept = buf_size(&s->in) > 0;
        size_t n_max = body->kind == HTTP_BODY_LENGTH
                                       ? (size_t) MIN_OF(body->left, (uint64_t) egress_read_max(c->egress))
                                       : egress_read_max(c->egress);
        Bytes b;
        Source from = { .fd = s->fd, .kept = &s->in, .may_read = &s->may_read };
        int r = is_kept || !s->may_read ? 0 : bounds_room(&s->received, s->fd, n_max, &n_max);

        if (r >= 0)
                r = next_bytes(c->egress, &from, n_max, &b);
        if (r == -EAGAIN)
                return 0;
        if (r == -EDQUOT)
                return bounds_refuse_download(c);
        if (r > 0 && !is_kept)
                s->received.used += b.size;
        if (r == 0 && body->kind == HTTP_BODY_UNTIL_CLOSE) {
                body->is_done = true;
                return 1;
        }
        /* Cut short: the client must not take it for the whole. */
        if (r <= 0)
                return -EPIPE;
        if (body->kind == HTTP_BODY_CHUNKED)
                r = forward_chunks(body, &c->response_parser, &c->to_client, !c->is_old_client, &b);
        else
                r = forward_plain(body, c->fd, &c->to_client, c->is_last, &b);
        if (r < 0)
                return r;
        if (is_kept)
                buf_consume(&s->in, b.n_used);
        else if (b.n_used < b.size)
                s->is_last = true;
        return 1;
}

static int end_exchange(Client *c)
{
        c->is_last |= !c->request_body.is_done;
        /* Answered before it took the whole request: what comes next on this connection is still the body.
         */
        c->server.is_last |= buf_size(&c->to_server) > 0;
        if (c->is_last)
                server_close(c, CLOSE_DONE);
        else if (c->server.is_last || buf_size(&c->server.in) > 0) {
                server_close(c, CLOSE_SERVER);
                c->is_last = c->is_tunneled;
        }
        client_set_state(c, c->is_last ? CLIENT_ENDING : CLIENT_HEAD);
        return 1;
}

static int send_response(Client *c)
{
        bool is_more = c->has_response_head &&
                       (c->response_body.is_done ? c->is_last : buf_size(&c->server.in) > 0);

        return is_more ? buf_send_more(c->fd, &c->to_client) : buf_send(c->fd, &c->to_client);
}

static int step_response(Client *c)
{
        int r = send_response(c);

        if (r <= 0)
                return r;
        if (!c->has_response_head)
                return step_response_head(c);
        if (!c->response_body.is_done)
                return step_response_body(c);
        return end_exchange(c);
}

int exchange_begin(Client *c)
{
        if (bounds_count_request(c) < 0)
                return bounds_refuse_upload(c);
        client_set_state(c, CLIENT_EXCHANGE);
        return 1;
}

int exchange_step(Client *c)
{
        int sent = step_request(c), received;

        if (sent < 0 || c->state != CLIENT_EXCHANGE)
                return sent;
        received = step_response(c);
        return received < 0 ? received : sent | received;
}
