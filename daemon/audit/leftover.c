#include "daemon/audit/leftover.h"

#include <stdio.h>

static const char connections_text[] =
                "SELECT d.seq,d.ts_us,s.id,s.uid,s.user,s.name,s.profile,s.agent,s.agent_session,s.workspace,s.cgroup,"
                "s.degraded,s.started_us FROM decision d JOIN session s USING(session_id)"
                " WHERE d.kind=2 AND d.action='connect' AND d.verdict=2"
                " AND NOT EXISTS(SELECT 1 FROM flow f WHERE f.conn_seq=d.seq)"
                " AND d.seq NOT IN (SELECT r.ref_seq FROM decision r WHERE r.kind=2 AND r.verdict=0"
                " AND r.action='refuse' AND r.ref_seq IS NOT NULL)";

static const char sessions_text[] =
                "SELECT 0,0,s.id,s.uid,s.user,s.name,s.profile,s.agent,s.agent_session,s.workspace,s.cgroup,s.degraded,"
                "s.started_us FROM session s WHERE NOT EXISTS(SELECT 1 FROM decision d WHERE d.session_id=s.session_id"
                " AND d.kind=1 AND d.action='end')";

static const char is_closed_text[] =
                "SELECT 1 FROM flow WHERE conn_seq=?1 UNION ALL SELECT 1 FROM decision WHERE kind=2 AND verdict=0"
                " AND action='refuse' AND ref_seq=?1 LIMIT 1";

static const char is_ended_text[] =
                "SELECT 1 FROM session s JOIN decision d USING(session_id) WHERE s.id=?1 AND d.kind=1 AND d.action='end'";

static void read_leftover(const SqlStatement *t, StoreLeftover *ret)
{
        size_t n;

        *ret = (StoreLeftover){
                .connection = (uint64_t) sql_integer(t, 0),
                .since_usec = (uint64_t) sql_integer(t, 1),
                .session = { .id = sql_text(t, 2),
                             .uid = (uint32_t) sql_integer(t, 3),
                             .user = sql_text(t, 4),
                             .name = sql_text(t, 5),
                             .profile = sql_text(t, 6),
                             .agent = sql_text(t, 7),
                             .agent_session = sql_text(t, 8),
                             .cgroup = sql_text(t, 10),
                             .degraded = sql_text(t, 11),
                             .started_usec = (uint64_t) sql_integer(t, 12) },
        };
        /* As text: SQLite then ends the bytes with a NUL. */
        if (sql_blob(t, 9, &n))
                ret->session.workspace = sql_text(t, 9);
}

/* Does the other segment have the row that this one lacks? */
static int is_settled(SqlStatement *t, const StoreLeftover *l)
{
        int r;

        if (!t)
                return 0;
        if (l->connection > 0)
                sql_bind_integer(t, 1, (int64_t) l->connection);
        else
                sql_bind_text(t, 1, l->session.id);
        r = sql_step(t);
        if (r > 0)
                sql_reset(t);
        return r;
}

static int list(Segment *in, Segment *other, bool connections, StoreLeftoverCallback callback,
                void *userdata)
{
        _cleanup_(sql_finalizep) SqlStatement *t = NULL, *settled = NULL;
        int r;

        r = sql_prepare(in->sql, connections ? connections_text : sessions_text, &t);
        if (r >= 0 && other)
                r = sql_prepare(other->sql, connections ? is_closed_text : is_ended_text, &settled);
        while (r >= 0 && (r = sql_step(t)) > 0) {
                StoreLeftover l;

                read_leftover(t, &l);
                r = is_settled(settled, &l);
                if (r == 0)
                        r = callback(userdata, &l);
        }
        return r;
}

int leftover_list(Segment *newest, Segment *before, StoreLeftoverCallback callback, void *userdata)
{
        int r = 0;

        if (before)
                r = list(before, newest, /* connections= */ true, callback, userdata);
        if (r >= 0)
                r = list(newest, NULL, /* connections= */ true, callback, userdata);
        if (r >= 0)
                r = list(newest, before, /* connections= */ false, callback, userdata);
        return r;
}
