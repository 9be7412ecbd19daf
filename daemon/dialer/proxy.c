/*
 * Connections by way of a proxy of the daemon's settings: CONNECT, then its answer to the last byte and not
 * one further, since what comes behind is the session's. The proxy resolves names, so nobody here judges
 * where they lead.
 */

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "daemon/dialer/dialer.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

#define ANSWER_MAX 8192U

static bool is_name_of(const char *pattern, const char *host)
{
        size_t n = strlen(pattern), n_host = strlen(host);

        if (pattern[0] != '*')
                return str_equal(pattern, host);
        return n_host > n - 1 && str_equal(host + n_host - (n - 1), pattern + 1);
}

int proxy_set(Dialer *d, const PrivProxy *p)
{
        if (p->port > UINT16_MAX || p->n_bypass > PRIV_PROXY_BYPASS_MAX || !PRIV_STRING_OK(p->host) ||
            (p->address.family != 0 && p->address.family != 4 && p->address.family != 6) ||
            (p->port > 0 && (p->host[0] != '\0') == (p->address.family != 0)))
                return -EPROTO;
        for (uint32_t i = 0; i < p->n_bypass; i++)
                if (!PRIV_STRING_OK(p->bypass[i]) || p->bypass[i][0] == '\0')
                        return -EPROTO;
        d->proxy = *p;
        return 0;
}

bool proxy_serves(const Dialer *d, const PolicyBlock *policy, const PolicyRequest *q)
{
        const PrivProxy *p = &d->proxy;

        if (p->port == 0)
                return false;
        /* What is not outside is not for the proxy. */
        if (q->host[0] == '\0')
                return address_class(&q->address) == ADDRESS_GLOBAL &&
                       !local_addresses_contain(d->local, &q->address);
        if (resolver_has_name(d->resolver, q->host) || policy_match_pins(policy, q))
                return false;
        for (uint32_t i = 0; i < p->n_bypass; i++)
                if (is_name_of(p->bypass[i], q->host))
                        return false;
        return true;
}

static void on_resolved(void *userdata, const LookupResult *result)
{
        Dial *d = userdata;

        d->lookup = NULL;
        if (result->n == 0)
                dial_cancel(d, CLOSE_PROXY);
        else
                dial_addresses(d, result->addresses, result->n);
}

void proxy_start(Dial *d)
{
        Dialer *dialer = d->session->dialer;
        const PrivProxy *p = &dialer->proxy;

        d->is_proxied = true;
        d->port = p->port;
        if (p->address.family != 0)
                dial_addresses(d, &p->address, 1);
        else if (resolver_lookup(dialer->resolver, p->host, on_resolved, d, &d->lookup) < 0)
                dial_cancel(d, CLOSE_ERROR);
}

/* ---- the question ---- */

static int format_target(const PrivDial *order, char text[PRIV_HOST_SIZE + 16])
{
        char address[ADDRESS_TEXT_SIZE];

        if (order->host[0] != '\0')
                return str_printf(text, PRIV_HOST_SIZE + 16, "%s:%u", order->host, order->port);
        address_format(&order->address, address);
        return str_printf(text, PRIV_HOST_SIZE + 16, order->address.family == 6 ? "[%s]:%u" : "%s:%u",
                          address, order->port);
}

static size_t find_end(const char *data, size_t n)
{
        for (size_t i = 0; i + 4 <= n; i++)
                if (memcmp(data + i, "\r\n\r\n", 4) == 0)
                        return i + 4;
        return 0;
}

static bool is_good(const char *data, size_t n)
{
        return n >= 13 && memcmp(data, "HTTP/1.", 7) == 0 && (data[7] == '0' || data[7] == '1') &&
               data[8] == ' ' && data[9] == '2' && data[10] >= '0' && data[10] <= '9' && data[11] >= '0' &&
               data[11] <= '9' && (data[12] == ' ' || data[12] == '\r');
}

static int set_low_water(int fd, size_t n)
{
        int value = (int) n;

        return setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &value, sizeof(value)) < 0 ? neg_errno() : 0;
}

/* 1: all of it was taken; 0: there is more to come. */
static int take_answer(Dial *d, int fd)
{
        char data[ANSWER_MAX];
        ssize_t n = recv(fd, data, sizeof(data), MSG_PEEK | MSG_DONTWAIT);
        size_t end;

        if (n < 0)
                return errno == EAGAIN || errno == EINTR ? 0 : neg_errno();
        end = find_end(data, (size_t) n);
        if (end == 0) {
                /* Woken although nothing more came: that was the end. */
                if ((size_t) n <= d->n_peeked || (size_t) n == sizeof(data))
                        return -EPROTO;
                d->n_peeked = (size_t) n;
                return set_low_water(fd, (size_t) n + 1);
        }
        if (!is_good(data, end) || set_low_water(fd, 1) < 0 ||
            recv(fd, data, end, MSG_DONTWAIT) != (ssize_t) end)
                return -EPROTO;
        d->n_peeked = end;
        return 1;
}

static void on_answer(void *userdata, int fd, _unused_ unsigned events)
{
        Attempt *a = userdata;
        int r = take_answer(a->dial, fd);

        if (r < 0)
                dial_cancel(a->dial, CLOSE_PROXY);
        else if (r > 0)
                dial_hand_over(a->dial, a);
}

int proxy_ask(Attempt *a)
{
        Dial *d = a->dial;
        char target[PRIV_HOST_SIZE + 16], text[2 * sizeof(target) + 64];
        int r;

        r = format_target(&d->order, target);
        if (r >= 0)
                r = str_printf(text, sizeof(text), "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target,
                               target);
        if (r < 0)
                return r;
        d->n_asked = strlen(text);
        if (send(a->fd, text, d->n_asked, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t) d->n_asked)
                return -EPIPE;
        return loop_io_new(d->session->dialer->loop, a->fd, LOOP_READ, on_answer, a, &a->io);
}
