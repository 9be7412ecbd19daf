/* Connections into a session: the launcher has made them, egress moves their bytes, and we count and cut. */

#include <errno.h>

#include "daemon/dialer/dialer.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"

static void report(Dialer *d, const PrivDialerInbound *m, CloseReason reason)
{
        dialer_report_closed(d, &(PrivDialClosed){ .session = m->session,
                                                   .sequence = m->sequence,
                                                   .address = m->address,
                                                   .port = m->port,
                                                   .reason = reason });
}

void inbound_take(Dialer *d, Session *s, const PrivDialerInbound *m, int take_fds[2])
{
        Connection c = {
                .sequence = m->sequence, .address = m->address, .port = m->port, .is_inbound = true
        };
        PrivInbound message = { .sequence = m->sequence };
        int r = -ENOBUFS;

        if (!s || !s->egress)
                report(d, m, s ? CLOSE_EGRESS_GONE : CLOSE_SESSION_ENDED);
        else {
                if (session_used(s) < MIN_OF(session_share(s), (size_t) DIALER_INBOUND_MAX))
                        r = take_fds[0] < d->files_max ? connection_add(s, &c, take_fds[0]) : -EMFILE;
                if (r < 0)
                        report(d, m, CLOSE_ERROR);
                else {
                        (void) priv_link_send(s->egress, PRIV_INBOUND, &message, sizeof(message), take_fds,
                                              2);
                        take_fds[0] = -EBADF;
                }
        }
        fd_close_many(take_fds, 2);
}
