/* Connections into a session, by Forward() or a published port. Who may is known before: the launcher has it
 * from the kernel. The row comes first all the same, and the close row from whoever counts the bytes. */

#include <errno.h>

#include "daemon/audit/queue.h"
#include "daemon/audit/quota.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

static void answer(Audit *a, const PrivInboundRow *row)
{
        (void) priv_link_send(a->launcher, PRIV_AUDIT_INBOUND_ROW, row, sizeof(*row), NULL, 0);
}

void inbound_release(Audit *a, Pending *p, int error)
{
        PrivInboundRow row = { .token = p->request, .session = p->session->id, .error = error };
        Connection *c;

        if (error >= 0) {
                row.sequence = p->row.sequence;
                row.error = p->row.verdict == VERDICT_ALLOW ? connection_new(a, p, &c) : -EPERM;
        }
        answer(a, &row);
}

static bool is_sound(const PrivAuditInbound *m)
{
        return (m->entry == ENTRY_FORWARD || m->entry == ENTRY_PUBLISH) && m->port > 0 &&
               m->port <= UINT16_MAX && m->is_denied <= 1;
}

static void fill_row(Row *row, const Session *s, const PrivAuditInbound *m)
{
        bool is_offline = s->has_no_network;

        row->policy = &s->policy_row;
        row->entry = entry_to_string(m->entry);
        row->protocol = protocol_to_string(PROTOCOL_TCP);
        row->address = (PrivAddress){ .family = 4, .bytes = { 127, [3] = 1 } };
        row->port = m->port;
        row->verdict = m->is_denied || is_offline ? VERDICT_DENY : VERDICT_ALLOW;
        row->reason = decision_reason_to_string(is_offline ? REASON_NO_NETWORK : REASON_OWNER);
}

static int queue_row(Audit *a, Session *s, const PrivAuditInbound *m)
{
        Row row = ROW_INIT(AUDIT_KIND_NET, "connect");
        char detail[64];
        Pending *p;
        int r;

        fill_row(&row, s, m);
        r = str_printf(detail, sizeof(detail), "{\"peerUid\":%u}", m->uid);
        if (r >= 0)
                r = pending_new(PENDING_INBOUND, &row, s, sizeof(detail), &p);
        if (r < 0)
                return r;
        p->row.detail = pending_put(p, detail, strlen(detail));
        p->request = m->token;
        queue_put(a, p);
        return 0;
}

int inbound_on_ask(Audit *a, const PrivAuditInbound *m)
{
        Session *s = session_find(a, &m->session);
        int r = 0;

        if (!is_sound(m))
                return -EPROTO;
        if (!s || s->ended_usec > 0 || !s->policy)
                r = -ENOENT;
        else if (a->is_failing)
                r = -EIO;
        else if (!quota_take_request(a, s, 0))
                r = -EDQUOT;
        else
                r = queue_row(a, s, m);
        if (r < 0)
                answer(a, &(PrivInboundRow){ .token = m->token, .session = m->session, .error = r });
        return 0;
}

/* A dialer that died meanwhile has taken it along: then it is over already. */
int inbound_on_over(Audit *a, const PrivInboundOver *m)
{
        Connection *c = map_get(&a->connections, &m->sequence, sizeof(m->sequence));

        if (m->reason >= _CLOSE_REASON_MAX)
                return -EPROTO;
        if (!c || !id_equal(&c->session->id, &m->session))
                return 0;
        return queue_close(a, c, NULL, (CloseReason) m->reason);
}
