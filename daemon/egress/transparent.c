/*
 * Connections that a program made to some address, without a word about a proxy: what they are for is the
 * accepted socket's own address. Decided like CONNECT to that address, when the client has said nothing yet;
 * a refusal speaks the client's language, where its first bytes tell which: HTTP, TLS, or a reset.
 */

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "daemon/egress/answered.h"
#include "daemon/egress/egress.h"
#include "daemon/egress/sni.h"
#include "daemon/policy/compiled.h"
#include "proto/base/error.h"

#define RECORD_HANDSHAKE 0x16
#define RECORD_MAJOR     3

typedef union SocketAddress {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
} SocketAddress;

int transparent_address(int fd, Authority *ret)
{
        SocketAddress a = { .any.sa_family = AF_UNSPEC };
        socklen_t size = sizeof(a);

        if (getsockname(fd, &a.any, &size) < 0)
                return neg_errno();
        *ret = (Authority){ .port = 0 };
        if (a.any.sa_family == AF_INET) {
                ret->port = ntohs(a.v4.sin_port);
                ret->address.family = 4;
                memcpy(ret->address.bytes, &a.v4.sin_addr, sizeof(a.v4.sin_addr));
        } else if (a.any.sa_family == AF_INET6) {
                ret->port = ntohs(a.v6.sin6_port);
                ret->address.family = 6;
                memcpy(ret->address.bytes, &a.v6.sin6_addr, sizeof(a.v6.sin6_addr));
        }
        return ret->address.family != 0 ? 0 : -EAFNOSUPPORT;
}

/* What a program connects to on its own loopback is its own, and would mean the host's to the dialer; a
 * connection to the door itself is for nobody. */
static bool is_never_passed_on(const Client *c, const Authority *a)
{
        static const PrivAddress net127 = { .family = 4, .bytes = { 127 } };
        static const PrivAddress one = { .family = 6, .bytes = { [15] = 1 } };

        if (address_in_prefix(&a->address, &net127, 8) || address_equal(&a->address, &one))
                return true;
        for (size_t i = 0; i < c->egress->n_listeners; i++) {
                if (authority_equal(a, &c->egress->listeners[i].authority))
                        return true;
        }
        return a->port == DNS_PORT;
}

int transparent_begin(Client *c, const Authority *door)
{
        static const HttpSlice nothing = { "", 0 };

        c->authority = *door;
        c->is_connect = true;
        if (is_never_passed_on(c, &c->authority))
                return request_refuse(c, REFUSE_CLOSE, "", nothing);
        if (c->egress->answered && answered_count(c->egress->answered, &c->authority.address) > 1) {
                client_set_state(c, CLIENT_NAMING);
                return 0;
        }
        return request_tunnel(c, &c->authority, nothing);
}

/* The Host field of the request whose head is there. 1: authority; 0: more is needed; -EBADMSG: there is
 * none. */
static int find_host(Client *c, Authority *ret)
{
        const char *data = buf_front(&c->in);
        size_t size = 0;
        HttpHead h;
        int r = http_find_head(data, buf_size(&c->in), &c->scanned, &size);

        if (r <= 0)
                return r;
        c->scanned = 0;
        r = http_parse_request(&c->request_parser, data, size, &h);
        for (size_t i = 0; r >= 0 && i < h.n_fields; i++)
                if (http_slice_equal(h.fields[i].name, "host"))
                        return authority_parse(h.fields[i].value.data, h.fields[i].value.size, 80, ret) < 0
                                               ? -EBADMSG
                                               : 1;
        return -EBADMSG;
}

static int find_name(Client *c, Authority *ret)
{
        const char *data = buf_front(&c->in);
        char name[SNI_NAME_SIZE];
        size_t n = 0;
        int r;

        if (buf_size(&c->in) == 0)
                return 0;
        if (data[0] != RECORD_HANDSHAKE) {
                r = http_look(data, buf_size(&c->in));
                return r <= 0 ? r : find_host(c, ret);
        }
        r = sni_find(data, buf_size(&c->in), name, &n);
        if (r > 0 && policy_host_canonical(name, n, ret->host) < 0)
                return -EBADMSG;
        return r;
}

/* A name that was not told this address is not taken from here: what does not fit the newest is refused when
 * the first bytes are looked at again. */
int transparent_step_name(Client *c)
{
        static const HttpSlice nothing = { "", 0 };
        Authority named = { .port = 0 };
        int r = find_name(c, &named);

        if (r == 0 && !c->is_eof)
                return 0;
        if (r > 0 && answered_has(c->egress->answered, &c->authority.address, named.host)) {
                memcpy(c->authority.host, named.host, sizeof(named.host));
                c->authority.address = (PrivAddress){ .family = 0 };
        }
        r = request_tunnel(c, &c->authority, nothing);
        return r < 0 ? r : 1;
}

int transparent_on_silence(Client *c)
{
        static const HttpSlice nothing = { "", 0 };

        return request_tunnel(c, &c->authority, nothing);
}

int transparent_reset(Client *c)
{
        struct linger now = { .l_onoff = 1, .l_linger = 0 };

        (void) setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
        server_close(c, CLOSE_POLICY);
        return -ECONNREFUSED;
}

int transparent_refuse(Client *c)
{
        static const char access_denied[] = { 0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 49 };
        const char *data = buf_front(&c->in);
        size_t n = buf_size(&c->in);
        int r;

        if (n == 0 || (n == 1 && data[0] == RECORD_HANDSHAKE))
                return c->is_eof ? transparent_reset(c) : 0;
        r = http_look(data, n);
        if (r == 0)
                return c->is_eof ? transparent_reset(c) : 0;
        if (r < 0) {
                buf_consume(&c->to_client, buf_size(&c->to_client));
                if (data[0] != RECORD_HANDSHAKE || data[1] != RECORD_MAJOR)
                        return transparent_reset(c);
                r = buf_put(&c->to_client, access_denied, sizeof(access_denied));
                if (r < 0)
                        return r;
        }
        c->is_last = true;
        server_close(c, CLOSE_POLICY);
        client_set_state(c, CLIENT_ENDING);
        return 1;
}
