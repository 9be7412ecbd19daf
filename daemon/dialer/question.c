/* Questions of DNS: a name that the policy allows is looked up. Whether it is there is said, and where the
 * policy wants real addresses, those that a connection to the name could be made to. */

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "daemon/dialer/dialer.h"
#include "daemon/dialer/records.h"
#include "proto/base/clock.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

#define QUESTION_TIMEOUT_USEC (8 * USEC_PER_SEC)

typedef struct Question {
        Session *session;
        ListLink link;
        uint64_t request;
        Lookup *lookup;
        LoopTimer *deadline;
        bool is_real; /* its addresses are told */
        char host[PRIV_HOST_SIZE];
        PolicyRequest best; /* the connection that may be made */
} Question;

static void question_free(Question *q)
{
        if (q->lookup)
                lookup_cancel(q->lookup);
        q->deadline = loop_timer_free(q->deadline);
        list_unlink(&q->link);
        q->session->n_questions--;
        free(q);
}

static void answer(Session *s, const PrivResolved *m)
{
        if (s->egress)
                (void) priv_link_send(s->egress, PRIV_RESOLVED, m, sizeof(*m), NULL, 0);
}

/* Is there a way for IPv6 at all? The kernel looks for one; a datagram socket sends nothing for it. */
static bool has_way_for_v6(void)
{
        _cleanup_close_ int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        struct sockaddr_in6 somewhere = { .sin6_family = AF_INET6,
                                          .sin6_port = htons(53),
                                          .sin6_addr = { .s6_addr = { 0x20, 0x01, [15] = 1 } } };

        return fd >= 0 && connect(fd, (struct sockaddr *) &somewhere, sizeof(somewhere)) == 0;
}

/* A loopback address would mean the session's own. */
static bool may_be_told(const Question *q, const PrivAddress *a)
{
        const LocalAddresses *local = q->session->dialer->local;

        return !address_is_loopback(a) &&
               policy_match_address(q->session->policy, &q->best, a, local_addresses_contain(local, a));
}

static int compare_addresses(const void *a, const void *b)
{
        return memcmp(a, b, sizeof(PrivAddress));
}

/* In an order that nobody outside chose. The records of PrivResolved. */
static size_t put_addresses(const Question *q, const LookupResult *result, bool has_v6,
                            uint8_t to[RESOLVE_ADDRESSES_MAX * 18])
{
        PrivAddress told[RESOLVE_ADDRESSES_MAX];
        size_t n = 0, size = 0;

        for (size_t i = 0; i < MIN_OF(result->n, (size_t) RESOLVE_ADDRESSES_MAX); i++) {
                PrivAddress a = address_unmap(&result->addresses[i]);

                if ((a.family == 4 || has_v6) && may_be_told(q, &a))
                        told[n++] = a;
        }
        qsort(told, n, sizeof(told[0]), compare_addresses);
        for (size_t i = 0; i < n; i++) {
                uint8_t n_bytes = told[i].family == 4 ? 4 : 16;

                to[size] = 0;
                to[size + 1] = n_bytes;
                memcpy(to + size + 2, told[i].bytes, n_bytes);
                size += 2U + n_bytes;
        }
        return size;
}

static void on_looked_up(void *userdata, const LookupResult *result)
{
        Question *q = userdata;
        PrivResolved m = { .request = q->request, .status = result->status, .has_addresses = result->n > 0 };
        uint8_t addresses[RESOLVE_ADDRESSES_MAX * 18];
        const void *records = result->records;
        size_t size = result->records_size;

        for (size_t i = 0; i < result->n && !m.has_v6; i++)
                m.has_v6 = result->addresses[i].family == 6 && has_way_for_v6();
        if (q->is_real) {
                size = put_addresses(q, result, m.has_v6, addresses);
                records = addresses;
                m.is_real = size > 0;
        }
        q->lookup = NULL;
        if (q->session->egress)
                (void) priv_link_send_tail(q->session->egress, PRIV_RESOLVED, &m, sizeof(m), records, size,
                                           NULL, 0);
        question_free(q);
}

static void on_deadline(void *userdata)
{
        Question *q = userdata;

        answer(q->session, &(PrivResolved){ .request = q->request, .status = RESOLVED_FAILED });
        question_free(q);
}

/* Audit's word is not taken: the name is canonical, and the policy has it, and the type. */
static bool may_ask(const Session *s, const PrivResolve *order, PolicyRequest *ret_best)
{
        char canonical[PRIV_HOST_SIZE];
        PolicyMatch match = { .verdict = VERDICT_DENY };

        if (!PRIV_STRING_OK(order->host) ||
            policy_host_canonical(order->host, strlen(order->host), canonical) < 0 ||
            !str_equal(order->host, canonical))
                return false;
        policy_match_name(s->policy, order->host, clock_latest_usec(&s->dialer->latest_usec), &match,
                          ret_best);
        return match.verdict == VERDICT_ALLOW && (order->type == 0 || records_type(order->type) >= 0) &&
               !(order->type & ~match.dns_types);
}

static int question_new(Session *s, const PrivResolve *order, const PolicyRequest *best)
{
        Question *q = calloc(1, sizeof(*q));
        int r;

        if (!q)
                return -ENOMEM;
        *q = (Question){ .session = s,
                         .request = order->request,
                         .is_real = order->type == 0 && policy_block_is_dns_real(s->policy),
                         .best = *best };
        memcpy(q->host, order->host, sizeof(q->host));
        q->best.host = q->host;
        list_init(&q->link);
        list_append(&s->questions, &q->link);
        s->n_questions++;
        r = loop_timer_new(s->dialer->loop, on_deadline, q, &q->deadline);
        if (r >= 0)
                r = loop_timer_set(q->deadline, QUESTION_TIMEOUT_USEC);
        if (r >= 0)
                r = resolver_lookup_records(s->dialer->resolver, order->host, order->type, on_looked_up, q,
                                            &q->lookup);
        if (r < 0)
                question_free(q);
        return r;
}

/* Who resolves the names is the proxy, when it connects: until then they are taken to exist. */
static bool is_for_proxy(const Session *s, const PrivResolve *order)
{
        PolicyRequest q = { .host = order->host };

        return order->type == 0 && proxy_serves(s->dialer, s->policy, &q);
}

void question_start(Session *s, const PrivResolve *order)
{
        PrivResolved none = { .request = order->request, .status = RESOLVED_NO_NAME };
        PolicyRequest best;
        int r = -EPERM;

        if (may_ask(s, order, &best) && is_for_proxy(s, order)) {
                answer(s, &(PrivResolved){ .request = order->request,
                                           .status = RESOLVED_NAME,
                                           .has_addresses = true });
                return;
        }
        if (may_ask(s, order, &best))
                r = s->n_questions >= DIALER_QUESTIONS_MAX ? -ENOBUFS : question_new(s, order, &best);
        if (r < 0 && r != -EPERM)
                none.status = RESOLVED_FAILED;
        if (r < 0)
                answer(s, &none);
}

void questions_drop(Session *s)
{
        LIST_FOREACH (q, &s->questions, Question, link)
                question_free(q);
}
