#include "daemon/audit/asked.h"

#include <errno.h>

/* Questions of other types never look anything up (egress/dns.c): what they name went nowhere. */
static const char asked_text[] =
                "SELECT h.name,CASE d.action WHEN 'query' THEN d.method END AS type,min(d.ts_us) AS since"
                " FROM session s JOIN decision d USING(session_id) JOIN host h USING(host_id)"
                " WHERE s.id=?1 AND d.verdict=2 AND (d.action='connect' OR"
                " d.action='query' AND d.method IN('A','AAAA','TXT','SRV','MX','CAA'))"
                " GROUP BY d.host_id,type ORDER BY since";

static int list(const Segment *in, const char *session, StoreAskedCallback callback, void *userdata)
{
        _cleanup_(sql_finalizep) SqlStatement *t = NULL;
        int r;

        r = sql_prepare(in->sql, asked_text, &t);
        if (r < 0)
                return r;
        sql_bind_text(t, 1, session);
        while ((r = sql_step(t)) > 0) {
                const char *name = sql_text(t, 0);

                if (!name)
                        return -EBADMSG;
                callback(userdata, name, sql_text(t, 1), (uint64_t) sql_integer(t, 2));
        }
        return r;
}

/* Of those that are closed: the first that was open then, or n. */
static int find_segment(const AskedSpec *spec, const uint64_t *numbers, size_t n, size_t *ret)
{
        size_t i = n;

        while (i > 0) {
                _cleanup_(segment_closep) Segment *segment = NULL;
                int r = segment_open(spec->directory, numbers[i - 1], SQL_READ, spec->chain, &segment);

                if (r < 0)
                        return r;
                i--;
                if (segment->opened_usec <= spec->since_usec)
                        break;
        }
        *ret = i;
        return 0;
}

int asked_list(const AskedSpec *spec, StoreAskedCallback callback, void *userdata)
{
        _cleanup_free_ uint64_t *numbers = NULL;
        size_t n = 0, i = 0;
        int r = 0;

        if (spec->newest->opened_usec > spec->since_usec)
                r = segment_list(spec->directory, &numbers, &n);
        while (r >= 0 && n > 0 && numbers[n - 1] >= spec->newest->number)
                n--;
        if (r >= 0)
                r = find_segment(spec, numbers, n, &i);
        for (; r >= 0 && i < n; i++) {
                _cleanup_(segment_closep) Segment *segment = NULL;

                r = segment_open(spec->directory, numbers[i], SQL_READ, spec->chain, &segment);
                if (r >= 0)
                        r = list(segment, spec->session, callback, userdata);
        }
        return r < 0 ? r : list(spec->newest, spec->session, callback, userdata);
}
