/* What sessions tried to ping: the kernel refused it, and the launcher says how often. */

#include <errno.h>

#include "daemon/audit/queue.h"
#include "daemon/audit/quota.h"
#include "proto/base/str.h"

#define COUNT_SIZE 32U

static void tell_api(Audit *a, Session *s, DecisionReason reason, uint32_t count, uint64_t sequence)
{
        denials_tell(a, s,
                     &(PrivDenied){ .session = s->id,
                                    .sequence = sequence,
                                    .count = count,
                                    .kind = AUDIT_KIND_NET,
                                    .reason = reason });
}

void pings_release(Audit *a, const Pending *p)
{
        if (p->session->ended_usec == 0)
                tell_api(a, p->session, REASON_PROTOCOL, p->count, p->row.sequence);
}

/* For which address is not known: who gets no socket does not say. */
static int queue_row(Audit *a, Session *s, uint32_t count)
{
        Row row = ROW_INIT(AUDIT_KIND_NET, "request");
        char detail[COUNT_SIZE];
        Pending *p;
        int r;

        row.policy = &s->policy_row;
        row.entry = entry_to_string(ENTRY_ICMP);
        row.protocol = protocol_to_string(PROTOCOL_ICMP);
        row.verdict = VERDICT_DENY;
        row.reason = decision_reason_to_string(s->has_no_network ? REASON_NO_NETWORK : REASON_PROTOCOL);
        r = pending_new(PENDING_PINGS, &row, s, sizeof(detail), &p);
        if (r < 0)
                return r;
        if (count > 1 && str_printf(detail, sizeof(detail), "{\"count\":%u}", count) >= 0)
                p->row.detail = pending_put(p, detail, strlen(detail));
        p->count = count;
        queue_put(a, p);
        return 0;
}

int pings_on_refused(Audit *a, const PrivAuditPings *m)
{
        Session *s = session_find(a, &m->session);

        if (m->count == 0)
                return -EPROTO;
        if (!s || s->ended_usec > 0 || !s->policy)
                return 0;
        if (!quota_take_request(a, s, 0)) {
                tell_api(a, s, REASON_LIMIT, m->count, 0);
                return 0;
        }
        return queue_row(a, s, m->count);
}
