#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "daemon/egress/answered.h"
#include "daemon/egress/egress.h"
#include "daemon/egress/names.h"
#include "daemon/egress/park.h"
#include "daemon/egress/socks.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

/* How much of what broke the grammar goes into its row. */
#define RAW_MAX 1024U

/* ---- asking ---- */

static int ask(Client *c)
{
        Egress *e = c->egress;
        PrivDecide *d = (PrivDecide *) (void *) buf_front(&c->decide);
        int r;

        if (e->n_undecided >= EGRESS_UNDECIDED_MAX) {
                list_unlink(&c->waiting);
                list_append(&e->waiting, &c->waiting);
                return 0;
        }
        c->wants_connection = !d->is_malformed &&
                              (c->server.fd < 0 || !authority_equal(&c->server.authority, &c->authority));
        if (c->wants_connection)
                server_close(c, CLOSE_DONE);
        c->request = ++e->last_request;
        d->request = c->request;
        d->wants_connection = c->wants_connection;
        r = map_put(&e->requests, &c->request, sizeof(c->request), c);
        if (r < 0) {
                c->request = 0;
                return r;
        }
        c->is_undecided = true;
        e->n_undecided++;
        return priv_link_send(e->audit, PRIV_DECIDE, d, buf_size(&c->decide), NULL, 0);
}

static void release_turn(Client *c)
{
        Egress *e = c->egress;

        if (!c->is_undecided)
                return;
        c->is_undecided = false;
        e->n_undecided--;
        while (!list_is_empty(&e->waiting) && e->n_undecided < EGRESS_UNDECIDED_MAX) {
                Client *next = list_entry(e->waiting.next, Client, waiting);

                list_unlink(&next->waiting);
                if (ask(next) >= 0)
                        continue;
                if (next->is_closed)
                        client_bury(next);
                else
                        client_close(next, CLOSE_ERROR);
        }
}

bool request_outlives(const Client *c)
{
        return c->is_undecided || (c->refuse_status != 0 && !list_is_empty(&c->waiting));
}

void request_drop(Client *c)
{
        list_unlink(&c->waiting);
        if (c->request != 0) {
                (void) map_remove(&c->egress->requests, &c->request, sizeof(c->request));
                c->request = 0;
        }
        release_turn(c);
}

static int put_decide(Buf *to, PrivDecide *d, HttpSlice raw, HttpSlice path)
{
        int r;

        d->n_raw = (uint32_t) MIN_OF(raw.size, RAW_MAX);
        d->n_path = (uint32_t) path.size;
        buf_consume(to, buf_size(to));
        r = buf_put(to, d, sizeof(*d));
        if (r >= 0)
                r = buf_put(to, raw.data, d->n_raw);
        if (r >= 0)
                r = buf_put(to, path.data, d->n_path);
        return r;
}

/* ---- heads ---- */

static void reset_request(Client *c)
{
        buf_consume(&c->to_server, buf_size(&c->to_server));
        c->authority = c->is_tunneled ? c->tunnel_authority : (Authority){ .port = 0 };
        c->is_connect = c->is_head_method = c->is_last = c->is_old_client = false;
        c->has_answer_begun = c->has_sent = c->has_failed = c->has_response_head = false;
        c->refuse_status = 0;
        c->request_body = c->response_body = (BodyState){ .kind = HTTP_BODY_NONE };
}

Entry request_entry(const Client *c)
{
        if (c->is_transparent)
                return ENTRY_TRANSPARENT;
        if (c->socks_version != 0)
                return c->socks_version == 4 ? ENTRY_SOCKS4 : ENTRY_SOCKS5;
        return c->is_connect || c->is_tunneled ? ENTRY_CONNECT : ENTRY_ABSOLUTE;
}

int request_refuse(Client *c, unsigned status, const char *method, HttpSlice raw)
{
        PrivDecide d = { .entry = request_entry(c),
                         .protocol = status == REFUSE_TLS_ALERT ? PROTOCOL_TLS
                                     : c->is_connect            ? PROTOCOL_ANY
                                                                : PROTOCOL_HTTP,
                         .port = c->authority.port,
                         .is_malformed = 1 };
        int r;

        /* Nothing else says where it was going. */
        if (c->is_transparent) {
                d.address = c->authority.address;
                memcpy(d.host, c->authority.host, sizeof(d.host));
        }
        c->refuse_status = status;
        c->is_last = true;
        c->request_body.kind = HTTP_BODY_NONE;
        r = str_copy(d.method, sizeof(d.method), method);
        if (r >= 0)
                r = put_decide(&c->decide, &d, raw, (HttpSlice){ "", 0 });
        if (r < 0)
                return r;
        client_set_state(c, CLIENT_DECIDING);
        return ask(c);
}

static HttpSlice first_line(const char *data, size_t size)
{
        const char *end = memchr(data, '\r', size);

        return (HttpSlice){ data, end ? (size_t) (end - data) : size };
}

/* An address that stands for a name is that name, and nothing else. */
static bool take_name(Client *c, Authority *a)
{
        const Egress *e = c->egress;
        const char *name;

        if (!e->names || a->address.family == 0)
                return true;
        name = answered_find(e->answered, &a->address);
        if (name && !c->is_connect)
                return true;
        if (!name && !names_hold(e->names, &a->address))
                return true;
        if (!name)
                name = names_find(e->names, &a->address);
        /* In absolute form the server is told what the client wrote: an address that only we know. */
        if (!name || !c->is_connect || str_copy(a->host, sizeof(a->host), name) < 0)
                return false;
        a->address = (PrivAddress){ .family = 0 };
        return true;
}

static int decide(Client *c, const HttpTarget *t, const char *method, HttpSlice path)
{
        Authority authority = t->authority;
        PrivDecide d = { .entry = request_entry(c),
                         .protocol = c->is_connect ? PROTOCOL_ANY : PROTOCOL_HTTP,
                         .port = authority.port };
        int r;

        if (!take_name(c, &authority)) {
                c->socks_reply = SOCKS_DENIED;
                return request_refuse(c,
                                      c->socks_version    ? REFUSE_SOCKS
                                      : c->is_transparent ? REFUSE_CLOSE
                                                          : 403,
                                      method, t->raw_host);
        }
        c->authority = authority;
        d.address = authority.address;
        /* Audit knows that this session has no network; whatever it says, nothing is passed on. */
        if (c->egress->is_offline)
                c->refuse_status = 403;
        memcpy(d.host, authority.host, sizeof(d.host));
        r = str_copy(d.method, sizeof(d.method), method);
        if (r >= 0)
                r = put_decide(&c->decide, &d, t->raw_host, path);
        if (r < 0)
                return r;
        client_set_state(c, CLIENT_DECIDING);
        return ask(c);
}

int request_tunnel(Client *c, const Authority *a, HttpSlice raw)
{
        HttpTarget t = { .authority = *a, .raw_host = raw, .is_connect = true };

        c->is_connect = c->is_last = true;
        return decide(c, &t, "", (HttpSlice){ "", 0 });
}

static int decide_head(Client *c, const HttpHead *h, const HttpTarget *t)
{
        HttpSlice path = t->path;
        int r;

        c->is_connect = t->is_connect;
        c->is_last = h->wants_close || t->is_connect;
        c->is_old_client = h->minor == 0;
        c->is_head_method = str_equal(h->method, "HEAD");
        c->request_body = (BodyState){ .kind = h->body,
                                       .left = h->length,
                                       .is_done = h->body == HTTP_BODY_NONE };
        if (!t->is_connect) {
                r = http_put_request(&c->to_server, h, t);
                if (r < 0)
                        return r;
                if (path.size == 0)
                        path = (HttpSlice){ str_equal(h->method, "OPTIONS") ? "*" : "/", 1 };
        }
        return decide(c, t, h->method, path);
}

static int take_head(Client *c, size_t size)
{
        const char *data = buf_front(&c->in);
        HttpHead h;
        HttpTarget t;
        int r = http_parse_request(&c->request_parser, data, size, &h);

        if (r < 0)
                r = request_refuse(c, 400, "", first_line(data, size));
        else {
                r = http_judge_request(&h, c->is_tunneled ? &c->tunnel_authority : NULL, &t);
                if (r >= 0)
                        r = decide_head(c, &h, &t);
                else {
                        c->is_connect = t.is_connect;
                        r = request_refuse(c, r == -EPERM ? 403 : 400, h.method, t.raw_host);
                }
        }
        if (r < 0)
                return r;
        buf_consume(&c->in, size);
        c->scanned = 0;
        return 1;
}

int request_step_head(Client *c)
{
        size_t size = 0;
        int r;

        if (c->is_tunneled && !c->is_by_request && c->server.fd < 0)
                return -EPIPE;
        if (!c->has_begun && buf_size(&c->in) > 0) {
                c->has_begun = true;
                if (socks_is_first_byte(buf_front(&c->in)[0])) {
                        c->socks_version = (uint8_t) buf_front(&c->in)[0];
                        client_set_state(c, CLIENT_SOCKS);
                        return 1;
                }
        }
        /* Old clients send a line end behind a body. */
        if (c->scanned == 0 && buf_size(&c->in) >= 2 && memcmp(buf_front(&c->in), "\r\n", 2) == 0)
                buf_consume(&c->in, 2);
        if (buf_size(&c->in) == 0)
                return c->is_eof ? -EPIPE : 0;
        r = http_find_head(buf_front(&c->in), buf_size(&c->in), &c->scanned, &size);
        if (r >= 0)
                r = http_check_first_line(buf_front(&c->in), buf_size(&c->in)) < 0 ? -EBADMSG : r;
        if (r == 0)
                return c->is_eof ? -EPIPE : 0;
        reset_request(c);
        if (r > 0)
                return take_head(c, size);
        return request_refuse(c, r == -EMSGSIZE ? 431 : 400, "",
                              first_line(buf_front(&c->in), buf_size(&c->in)));
}

/* ---- answers ---- */

static void begin(Client *c)
{
        int r;

        request_drop(c);
        bounds_apply(c);
        r = c->is_connect ? tunnel_begin(c) : exchange_begin(c);
        if (r < 0)
                client_close(c, CLOSE_ERROR);
        else
                client_pump(c);
}

static void finish(Client *c, int r)
{
        if (r < 0)
                client_close(c, CLOSE_CLIENT);
        else
                client_pump(c);
}

static int answer_refused(Client *c)
{
        Denial d = { .rule = "",
                     .text = "",
                     .reason = c->egress->is_offline ? REASON_NO_NETWORK : REASON_MALFORMED };

        if (c->refuse_status == REFUSE_SOCKS)
                return socks_answer(c, c->socks_reply);
        if (c->refuse_status == REFUSE_TLS_ALERT || c->refuse_status == REFUSE_CLOSE)
                return tunnel_refuse(c);
        if (c->refuse_status == 403)
                return answer_denied(c, &d);
        return answer_error(c, c->refuse_status, "malformed request");
}

static const char *failure_text(uint32_t reason)
{
        switch (reason) {
        case CLOSE_RESOLVE:
                return "the host name does not resolve";
        case CLOSE_TIMEOUT:
                return "the server did not answer in time";
        case CLOSE_REFUSED:
                return "the server refused the connection";
        case CLOSE_UNREACHABLE:
                return "the server cannot be reached";
        case CLOSE_PROXY:
                return "the proxy that this machine goes through does not connect there";
        default:
                return "the connection could not be made";
        }
}

static SocksReply socks_failure(uint32_t reason)
{
        switch (reason) {
        case CLOSE_RESOLVE:
                return SOCKS_HOST_UNREACHABLE;
        case CLOSE_TIMEOUT:
                return SOCKS_TIMED_OUT;
        case CLOSE_REFUSED:
                return SOCKS_REFUSED;
        case CLOSE_UNREACHABLE:
                return SOCKS_NETWORK_UNREACHABLE;
        default:
                return SOCKS_FAILED;
        }
}

static int answer_failed(Client *c, uint32_t reason)
{
        if (socks_is_waiting(c))
                return socks_answer(c, socks_failure(reason));
        return answer_error(c, reason == CLOSE_TIMEOUT ? 504 : 502, failure_text(reason));
}

static void on_allowed(Client *c)
{
        if (!c->wants_connection) {
                if (c->server.fd >= 0 || (c->is_connect && c->is_by_request)) {
                        begin(c);
                        return;
                }
                /* The server went while audit was asked; nothing has been sent, so ask for a new connection.
                 */
                request_drop(c);
                finish(c, c->is_tunneled && !c->is_by_request ? -EPIPE : ask(c));
                return;
        }
        if (c->server.fd >= 0)
                begin(c);
        else if (c->has_failed) {
                request_drop(c);
                finish(c, answer_failed(c, c->fail_reason));
        } else
                client_set_state(c, CLIENT_CONNECTING);
}

/* As it was judged: no other name for the path, no other word for the method. */
static int request_rewrite(Client *c, const PrivVerdict *v)
{
        if (c->is_connect || (!v->has_methods && !v->has_paths))
                return 0;
        return http_rewrite_request(&c->to_server, v->has_methods != 0, v->has_paths != 0);
}

void request_on_verdict(Egress *e, const PrivVerdict *v)
{
        Client *c = map_get(&e->requests, &v->request, sizeof(v->request));
        Denial d = { .rule = v->rule, .text = v->text, .reason = v->reason };

        if (!c)
                return;
        if (c->is_closed) {
                client_bury(c);
                return;
        }
        release_turn(c);
        if (c->refuse_status != 0) {
                request_drop(c);
                finish(c, answer_refused(c));
        } else if (v->verdict != VERDICT_ALLOW) {
                request_drop(c);
                if (c->wants_connection)
                        server_close(c, CLOSE_POLICY);
                finish(c, answer_denied(c, &d));
        } else if (c->state == CLIENT_DECIDING) {
                c->allows_tls = v->allows_tls != 0;
                c->allows_tcp = v->allows_tcp != 0;
                c->allows_any_tls = v->allows_any_tls != 0;
                if (c->is_connect && v->is_by_request) {
                        c->is_by_request = true;
                        c->wants_connection = false;
                }
                c->bounds = (Bounds){ .max_upload_bytes = v->max_upload_bytes,
                                      .max_download_bytes = v->max_download_bytes,
                                      .idle_usec = v->idle_usec };
                if (request_rewrite(c, v) < 0)
                        client_close(c, CLOSE_ERROR);
                else
                        on_allowed(c);
        }
}

static void refuse_descriptor(Egress *e, uint64_t sequence)
{
        PrivConnectionDone done = { .sequence = sequence, .reason = CLOSE_UNUSED };

        (void) priv_link_send(e->dialer, PRIV_CONNECTION_DONE, &done, sizeof(done), NULL, 0);
}

void request_on_server_io(void *userdata, _unused_ int fd, unsigned events)
{
        Client *c = userdata;

        c->server.may_read |= (events & LOOP_READ) != 0;
        client_pump(c);
}

int request_on_connected(Egress *e, const PrivConnected *m, int take_fd)
{
        _cleanup_close_ int fd = take_fd;
        Client *c = map_get(&e->requests, &m->request, sizeof(m->request));
        int r;

        if (!c || c->is_closed || !c->wants_connection || c->server.fd >= 0) {
                refuse_descriptor(e, m->sequence);
                return 0;
        }
        if (park_is_full(e)) {
                refuse_descriptor(e, m->sequence);
                client_close(c, CLOSE_ERROR);
                return 0;
        }
        r = loop_io_new(e->loop, fd, 0, request_on_server_io, c, &c->server.io);
        if (r < 0) {
                refuse_descriptor(e, m->sequence);
                client_close(c, CLOSE_ERROR);
                return 0;
        }
        c->server.fd = TAKE_FD(fd);
        e->n_servers++;
        c->server.n_parked = 0;
        c->server.sequence = m->sequence;
        c->server.authority = c->authority;
        c->server.scanned = 0;
        c->server.error = 0;
        c->server.may_read = c->server.is_eof = c->server.is_shut = false;
        c->server.sent = c->server.received = (Volume){ .used = 0 };
        c->server.idle_usec = 0;
        /* The two channels are not in step: the verdict may still be on its way. */
        if (c->state == CLIENT_CONNECTING)
                begin(c);
        return 0;
}

void request_on_failed(Egress *e, const PrivConnectFailed *m)
{
        Client *c = map_get(&e->requests, &m->request, sizeof(m->request));

        if (!c || c->is_closed || !c->wants_connection || c->server.fd >= 0)
                return;
        c->has_failed = true;
        c->fail_reason = m->reason;
        if (c->state == CLIENT_CONNECTING) {
                request_drop(c);
                finish(c, answer_failed(c, m->reason));
        }
}

void request_on_timeout(Client *c)
{
        bool is_deciding = c->state == CLIENT_DECIDING;

        /* Its row is still to come. */
        if (!c->is_undecided && request_outlives(c)) {
                client_close(c, CLOSE_TIMEOUT);
                return;
        }
        request_drop(c);
        server_close(c, CLOSE_TIMEOUT);
        c->is_last = true;
        if (is_deciding)
                finish(c, answer_error(c, 503, "the decision could not be recorded in time"));
        else
                finish(c, answer_failed(c, CLOSE_TIMEOUT));
}
