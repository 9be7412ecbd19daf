#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "daemon/dialer/dialer.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

/*
 * From a decision to a connection: match, resolve once, judge all, then try the judged ones in turn, the
 * next one 250 ms after the last or as soon as that has failed (RFC 8305). The first that stands wins.
 */

#define DIAL_TIMEOUT_USEC (10 * USEC_PER_SEC)
#define STAGGER_USEC      (250 * USEC_PER_MSEC)

/* Its descriptor, which the caller owns then, or -EBADF. */
static int attempt_take(Attempt *a)
{
        Session *s = a->dial->session;

        a->io = loop_io_free(a->io);
        if (a->fd < 0)
                return -EBADF;
        s->n_attempts--;
        s->dialer->n_attempts--;
        return TAKE_FD(a->fd);
}

static void attempt_end(Attempt *a)
{
        (void) fd_close(attempt_take(a));
}

static void dial_free(Dial *d)
{
        if (d->lookup)
                lookup_cancel(d->lookup);
        for (size_t i = 0; i < d->n_started; i++)
                attempt_end(&d->attempts[i]);
        d->deadline = loop_timer_free(d->deadline);
        d->stagger = loop_timer_free(d->stagger);
        list_unlink(&d->link);
        d->session->n_dials--;
        free(d);
}

static void report_failed(Session *s, const PrivDial *order, CloseReason reason)
{
        PrivDialClosed closed = {
                .session = order->session, .sequence = order->sequence, .port = order->port, .reason = reason
        };
        PrivConnectFailed failed = { .request = order->request, .reason = reason };

        dialer_report_closed(s->dialer, &closed);
        if (s->egress)
                (void) priv_link_send(s->egress, PRIV_CONNECT_FAILED, &failed, sizeof(failed), NULL, 0);
}

static void report_refused(Session *s, const PrivDial *order, const PrivAddress *address)
{
        PrivDialRefused refused = { .session = order->session,
                                    .request = order->request,
                                    .sequence = order->sequence,
                                    .port = order->port };

        if (address)
                refused.address = *address;
        if (s->dialer->audit)
                (void) priv_link_send(s->dialer->audit, PRIV_DIAL_REFUSED, &refused, sizeof(refused), NULL,
                                      0);
}

void dial_cancel(Dial *d, CloseReason reason)
{
        report_failed(d->session, &d->order, reason);
        dial_free(d);
}

static CloseReason reason_of(int error)
{
        switch (error) {
        case ECONNREFUSED:
                return CLOSE_REFUSED;
        case ETIMEDOUT:
                return CLOSE_TIMEOUT;
        case ENETUNREACH:
        case EHOSTUNREACH:
        case EADDRNOTAVAIL:
        case EACCES:
        case EPERM:
                return CLOSE_UNREACHABLE;
        default:
                return CLOSE_ERROR;
        }
}

/* ---- connecting ---- */

/* 0: it stands; -EINPROGRESS: not yet. */
static int connect_to(int fd, const PrivAddress *a, uint32_t port)
{
        struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons((uint16_t) port) };
        struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons((uint16_t) port) };
        int r;

        if (a->family == 4) {
                memcpy(&v4.sin_addr, a->bytes, 4);
                r = connect(fd, (struct sockaddr *) &v4, sizeof(v4));
        } else {
                memcpy(&v6.sin6_addr, a->bytes, 16);
                r = connect(fd, (struct sockaddr *) &v6, sizeof(v6));
        }
        if (r < 0 && errno == EALREADY)
                return -EINPROGRESS;
        /* It was over at once, and this is the second question. */
        if (r < 0 && errno == EISCONN)
                return 0;
        return r < 0 ? neg_errno() : 0;
}

static void start_next(Dial *d);

static void on_attempt_failed(Dial *d, Attempt *a, int error)
{
        attempt_end(a);
        d->n_failed++;
        d->last_failure = reason_of(error);
        if (d->n_started < d->n_addresses)
                start_next(d);
        else if (d->n_failed == d->n_addresses)
                dial_cancel(d, d->last_failure);
}

void dial_hand_over(Dial *d, Attempt *a)
{
        int r = connection_new(d->session, d, attempt_take(a), &a->address);

        if (r < 0) {
                if (r != -ETIME)
                        (void) log_warning(r, "cannot hand over a connection");
                dial_cancel(d, r == -ETIME ? CLOSE_EXPIRED : CLOSE_ERROR);
                return;
        }
        dial_free(d);
}

/* To a proxy one connection is enough: the others are given up before it is asked. */
static void ask_proxy(Dial *d, Attempt *a)
{
        a->io = loop_io_free(a->io);
        loop_timer_stop(d->stagger);
        for (size_t i = 0; i < d->n_started; i++)
                if (&d->attempts[i] != a)
                        attempt_end(&d->attempts[i]);
        if (proxy_ask(a) < 0)
                dial_cancel(d, CLOSE_PROXY);
}

static void on_attempt_io(void *userdata, int fd, unsigned events);

/* To the kernel a socket is still connecting until it is asked again: one whose connection then ends could
 * be connected elsewhere by whoever holds it. May free the dial. */
static void go_on_connecting(Attempt *a)
{
        Dial *d = a->dial;
        int r = connect_to(a->fd, &a->address, d->port);

        if (r == -EINPROGRESS)
                r = a->io ? 0
                          : loop_io_new(d->session->dialer->loop, a->fd, LOOP_WRITE, on_attempt_io, a,
                                        &a->io);
        else if (r >= 0 && d->is_proxied)
                ask_proxy(d, a);
        else if (r >= 0)
                dial_hand_over(d, a);
        if (r < 0)
                on_attempt_failed(d, a, -r);
}

static void on_attempt_io(void *userdata, _unused_ int fd, _unused_ unsigned events)
{
        go_on_connecting(userdata);
}

static int start_attempt(Attempt *a)
{
        Dial *d = a->dial;
        int one = 1, r;

        r = dialer_check_file(d->session->dialer,
                              socket(a->address.family == 4 ? AF_INET : AF_INET6,
                                     SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP),
                              &a->fd);
        if (r < 0)
                return r;
        d->session->n_attempts++;
        d->session->dialer->n_attempts++;
        (void) setsockopt(a->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        (void) setsockopt(a->fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
        r = connect_to(a->fd, &a->address, d->port);
        return r == -EINPROGRESS ? 0 : r;
}

/* May free the dial. */
static void start_next(Dial *d)
{
        Attempt *a = &d->attempts[d->n_started];
        int r;

        *a = (Attempt){ .dial = d, .fd = -EBADF, .address = d->addresses[d->n_started] };
        d->n_started++;
        r = start_attempt(a);
        if (r < 0) {
                on_attempt_failed(d, a, -r);
                return;
        }
        if (d->n_started < d->n_addresses && loop_timer_set(d->stagger, STAGGER_USEC) < 0)
                (void) log_warning(0, "cannot set a timer, ignoring");
        /* What is near stands already. */
        go_on_connecting(a);
}

static void on_stagger(void *userdata)
{
        Dial *d = userdata;

        if (d->n_started >= d->n_addresses)
                return;
        /* Each address has its turn, if not beside the one before. */
        if (session_has_room(d->session))
                start_next(d);
        else if (loop_timer_set(d->stagger, STAGGER_USEC) < 0)
                (void) log_warning(0, "cannot set a timer, ignoring");
}

static void on_deadline(void *userdata)
{
        Dial *d = userdata;

        dial_cancel(d, d->lookup ? CLOSE_RESOLVE : CLOSE_TIMEOUT);
}

/* ---- judging ---- */

static void judge(Dial *d, const PrivAddress *addresses, size_t n)
{
        const LocalAddresses *local = d->session->dialer->local;

        for (size_t i = 0; i < n && d->n_addresses < DIAL_ADDRESSES_MAX; i++) {
                PrivAddress a = address_unmap(&addresses[i]);

                if (policy_match_address(d->session->policy, &d->request, &a,
                                         local_addresses_contain(local, &a)))
                        d->addresses[d->n_addresses++] = a;
        }
        if (d->n_addresses == 0) {
                report_refused(d->session, &d->order, n > 0 ? &addresses[0] : NULL);
                dial_free(d);
                return;
        }
        start_next(d);
}

void dial_addresses(Dial *d, const PrivAddress *addresses, size_t n)
{
        for (size_t i = 0; i < n && d->n_addresses < DIAL_ADDRESSES_MAX; i++)
                d->addresses[d->n_addresses++] = addresses[i];
        start_next(d);
}

static void on_resolved(void *userdata, const LookupResult *result)
{
        Dial *d = userdata;

        d->lookup = NULL;
        if (result->n == 0)
                dial_cancel(d, CLOSE_RESOLVE);
        else
                judge(d, result->addresses, result->n);
}

/* ---- orders ---- */

/* Audit's word is not taken either: exactly one destination, in canonical form. */
static bool is_sound(const PrivDial *order)
{
        char canonical[PRIV_HOST_SIZE];
        size_t n;

        if (!PRIV_STRING_OK(order->host) || order->port == 0 || order->port > UINT16_MAX)
                return false;
        /* Denials are not about the others: nobody connects for them. */
        if (order->protocol != PROTOCOL_ANY && order->protocol != PROTOCOL_HTTP &&
            order->protocol != PROTOCOL_TLS && order->protocol != PROTOCOL_TCP)
                return false;
        n = strlen(order->host);
        if (n == 0)
                return order->address.family == 4 || order->address.family == 6;
        return order->address.family == 0 && policy_host_canonical(order->host, n, canonical) >= 0 &&
               str_equal(canonical, order->host);
}

static int dial_new(Session *s, const PrivDial *order, Dial **ret)
{
        Dial *d = calloc(1, sizeof(*d));
        int r;

        if (!d)
                return -ENOMEM;
        *d = (Dial){ .session = s, .order = *order, .port = order->port };
        list_init(&d->link);
        list_append(&s->dials, &d->link);
        s->n_dials++;
        d->request = (PolicyRequest){ .host = d->order.host,
                                      .address = order->address,
                                      .port = order->port,
                                      .protocol = (Protocol) order->protocol,
                                      .now_usec = clock_latest_usec(&s->dialer->latest_usec) };
        r = loop_timer_new(s->dialer->loop, on_deadline, d, &d->deadline);
        if (r >= 0)
                r = loop_timer_new(s->dialer->loop, on_stagger, d, &d->stagger);
        if (r >= 0)
                r = loop_timer_set(d->deadline, DIAL_TIMEOUT_USEC);
        if (r < 0) {
                dial_free(d);
                return r;
        }
        *ret = d;
        return 0;
}

/* Audit knows better, with the method and the path; but later than this nothing is allowed in any case. */
static uint64_t expiry_of(const Session *s, const Dial *d)
{
        PolicyTerms terms = { .expires_usec = 0 };
        uint64_t ordered = d->order.expires_usec;

        if (policy_block_has_terms(s->policy))
                policy_match_terms(s->policy, &d->request, &terms);
        if (terms.expires_usec == 0 || ordered == 0)
                return MAX_OF(terms.expires_usec, ordered);
        return MIN_OF(terms.expires_usec, ordered);
}

/* Where a name leads only the proxy knows. */
static bool is_open(const Dial *d)
{
        const PrivAddress *a = &d->order.address;

        return a->family == 0 ||
               policy_match_address(d->session->policy, &d->request, a, /* is_local= */ false);
}

void dial_start(Session *s, const PrivDial *order)
{
        PolicyMatch match = { .verdict = VERDICT_DENY };
        Dial *d;

        if (!s->egress || s->n_dials >= DIALER_DIALS_MAX || session_used(s) >= session_share(s)) {
                report_failed(s, order, s->egress ? CLOSE_ERROR : CLOSE_EGRESS_GONE);
                return;
        }
        if (!is_sound(order)) {
                report_refused(s, order, NULL);
                return;
        }
        if (dial_new(s, order, &d) < 0) {
                report_failed(s, order, CLOSE_ERROR);
                return;
        }
        policy_match_request(s->policy, &d->request, &match);
        if (match.verdict != VERDICT_ALLOW) {
                report_refused(s, order, d->order.address.family ? &d->order.address : NULL);
                dial_free(d);
                return;
        }
        d->expires_usec = expiry_of(s, d);
        if (proxy_serves(s->dialer, s->policy, &d->request) && is_open(d))
                proxy_start(d);
        else if (d->order.address.family != 0)
                judge(d, &d->order.address, 1);
        else if (resolver_lookup(s->dialer->resolver, d->order.host, on_resolved, d, &d->lookup) < 0)
                dial_cancel(d, CLOSE_ERROR);
}
