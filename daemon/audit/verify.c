#include "daemon/audit/verify.h"

#include <errno.h>

#include "daemon/audit/verify_impl.h"

#define SESSION_COLUMNS                                                                                  \
        "s.id,s.uid,s.user,s.name,s.profile,s.agent,s.agent_session,CAST(s.workspace AS TEXT),s.cgroup," \
        "s.degraded,s.started_us"

static const char decisions_text[] =
                "SELECT d.seq,d.ts_us,d.boot_us,d.kind,d.action,d.verdict,d.uid,d.exec,p.sha256,d.generation,r.layer,r.name,"
                "r.text,d.entry,d.protocol,h.name,d.ip,d.port,d.method,d.status,d.pid,e.path,e.sha256,d.cred,d.ref_seq,"
                "d.reason,d.priv_hash,d.hash,v.seq,v.salt,v.path,v.raw,v.detail,d.policy_id,d.session_id," SESSION_COLUMNS
                " FROM decision d LEFT JOIN policy p USING(policy_id) LEFT JOIN rule r USING(rule_id)"
                " LEFT JOIN host h USING(host_id) LEFT JOIN exe e USING(exe_id) LEFT JOIN priv v ON v.seq=d.seq"
                " LEFT JOIN session s USING(session_id) WHERE d.seq>=?1 ORDER BY d.seq LIMIT ?2";

static const char closes_text[] =
                "SELECT f.seq,f.ts_us,f.conn_seq,f.ip,f.port,f.dur_us,f.bytes_up,f.bytes_dn,f.reason,f.hash,"
                "f.session_id," SESSION_COLUMNS
                " FROM flow f LEFT JOIN session s USING(session_id) WHERE f.seq>=?1 ORDER BY f.seq LIMIT ?2";

static const char marks_text[] = "SELECT upto_seq,ts_us,head,key_id,sig FROM checkpoint WHERE upto_seq>?1"
                                 " ORDER BY upto_seq LIMIT 1";

/* The head of the one before; the end, where it is closed; how many headers and too early rows there are. */
static const char header_text[] =
                "SELECT prev_head,last_seq,(SELECT count(*) FROM segment),"
                "(SELECT count(*) FROM decision WHERE seq<first_seq)+(SELECT count(*) FROM flow WHERE seq<first_seq),"
                "closed_us FROM segment WHERE n=?1";

int bad(Verifier *v, uint64_t sequence, const char *message)
{
        v->result->bad_sequence = MAX_OF(sequence, UINT64_C(1));
        v->result->message = message;
        return 1;
}

/* The genesis names the head of the segment before. */
static int check_link(Verifier *v, RowBytes previous)
{
        const Segment *s = v->segment;
        Verification *result = v->result;

        if (v->has_head && s->first_sequence != v->expected)
                return bad(v, MIN_OF(s->first_sequence, v->expected),
                           "rows before this segment are missing");
        if (previous.size != DIGEST_SIZE ||
            (v->has_head && memcmp(previous.data, result->head, DIGEST_SIZE) != 0))
                return bad(v, s->first_sequence, "the segment does not follow the one before");
        if (v->spec->head_sequence == s->first_sequence - 1 && !v->has_head && s->first_sequence > 1 &&
            memcmp(previous.data, v->spec->head_hash, DIGEST_SIZE) != 0)
                return bad(v, s->first_sequence - 1, "the row is not the one that was given");
        return 0;
}

static int check_key(Verifier *v)
{
        const Segment *s = v->segment;
        Verification *result = v->result;

        if (result->has_key &&
            (!s->has_public_key || memcmp(s->public_key, result->public_key, KEY_SIZE) != 0))
                return bad(v, s->first_sequence, "the signing key was replaced");
        if (s->has_public_key && v->spec->key && memcmp(s->public_key, v->spec->key, KEY_SIZE) != 0)
                return bad(v, s->first_sequence, "the log names another key than the one given");
        result->has_key = s->has_public_key;
        memcpy(result->public_key, s->public_key, KEY_SIZE);
        return 0;
}

/* *ret_last: what the header says about the last row; 0: the segment is not closed. */
static int check_header(Verifier *v, uint64_t *ret_last)
{
        _cleanup_(sql_finalizep) SqlStatement *t = NULL;
        int r;

        r = sql_prepare(v->segment->sql, header_text, &t);
        if (r < 0)
                return r;
        sql_bind_integer(t, 1, (int64_t) v->segment->number);
        r = sql_step(t);
        if (r <= 0)
                return r < 0 ? r : -EBADMSG;
        if (sql_integer(t, 2) != 1 || sql_integer(t, 3) != 0)
                return bad(v, v->segment->first_sequence, "the segment was changed before its first row");
        *ret_last = sql_is_null(t, 4) ? 0 : (uint64_t) sql_integer(t, 1);
        r = check_link(v, bytes_of(t, 0));
        return r == 0 ? check_key(v) : r;
}

static int check_end(Verifier *v, uint64_t last)
{
        bool is_whole = v->spec->to == 0 || v->expected <= v->spec->to;
        int r;

        if (is_whole && last >= v->expected)
                return bad(v, v->expected, "rows at the end of the segment are missing");
        r = marks_end_segment(v);
        if (r == 0)
                r = segment_check_tables(v->segment);
        if (r == -EBADMSG)
                return bad(v, v->segment->first_sequence, "the tables of the segment were made anew");
        if (r == 0)
                r = sql_check_all(v->segment->sql);
        return r == -EBADMSG ? bad(v, v->segment->first_sequence, "the indexes of the segment are damaged")
                             : r;
}

static int check_segment(Verifier *v)
{
        uint64_t last = 0;
        int r;

        r = check_header(v, &last);
        if (r != 0)
                return r;
        v->has_head = true;
        v->has_mark = false;
        v->mark.sequence = v->segment->first_sequence <= v->spec->from ? v->spec->from - 1 : 0;
        v->expected = v->segment->first_sequence;
        if (v->result->first_sequence == 0)
                v->result->first_sequence = v->expected;
        memcpy(v->result->head, v->segment->genesis, DIGEST_SIZE);
        r = verify_rows(v);
        return r == 0 ? check_end(v, last) : r;
}

static int open_segment(Verifier *v, const char *directory, uint64_t number)
{
        int r;

        r = segment_open(directory, number, SQL_READ, v->chain, &v->segment);
        if (r >= 0)
                r = sql_prepare(v->segment->sql, decisions_text, &v->decisions);
        if (r >= 0)
                r = sql_prepare(v->segment->sql, closes_text, &v->closes);
        if (r >= 0)
                r = sql_prepare(v->segment->sql, marks_text, &v->marks);
        return r;
}

static void close_segment(Verifier *v)
{
        v->decisions = sql_finalize(v->decisions);
        v->closes = sql_finalize(v->closes);
        v->marks = sql_finalize(v->marks);
        v->segment = segment_close(v->segment);
        numbers_done(&v->sessions);
        numbers_done(&v->policies);
}

static int visit(Verifier *v, const char *directory, uint64_t number)
{
        int r;

        r = open_segment(v, directory, number);
        if (r >= 0)
                r = check_segment(v);
        else if (r == -ENOENT) {
                /* Retired since the folder was read: what follows begins anew. */
                v->has_head = false;
                r = 0;
        }
        if (r == -EBADMSG || r == -EINVAL)
                r = bad(v, v->expected, "the file is damaged");
        close_segment(v);
        return r;
}

/* Segments that end before the first row asked for need not be read. */
static bool is_behind(const char *directory, Chain *chain, uint64_t next, uint64_t from)
{
        Segment *s;
        bool is_it;

        if (segment_open(directory, next, SQL_READ, chain, &s) < 0)
                return false;
        is_it = s->first_sequence <= from;
        (void) segment_close(s);
        return is_it;
}

static bool asks_for_retired(const Verifier *v)
{
        const VerifySpec *spec = v->spec;
        uint64_t first = v->result->first_sequence;

        return (spec->from > 0 && spec->from < first) ||
               (spec->head_sequence > 0 && spec->head_sequence + 1 < first);
}

static int visit_all(Verifier *v, const char *directory, const uint64_t *numbers, size_t n)
{
        int r = 0;

        for (size_t i = 0; r == 0 && i < n; i++) {
                if (v->spec->from > 0 && i + 1 < n &&
                    is_behind(directory, v->chain, numbers[i + 1], v->spec->from))
                        continue;
                r = visit(v, directory, numbers[i]);
                v->result->is_retired = asks_for_retired(v);
                if (v->result->is_retired)
                        return 0;
                if (v->spec->to > 0 && v->expected > v->spec->to)
                        break;
        }
        if (r == 0)
                r = marks_end(v);
        if (r == 0 && v->spec->key && v->result->n_checkpoints == 0 && v->result->n_checked > 0)
                r = bad(v, MAX_OF(v->result->first_sequence, v->spec->from),
                        "nothing is signed with the key given");
        return r;
}

int verify_directory(const char *directory, const VerifySpec *spec, Verification *ret)
{
        _cleanup_free_ uint64_t *numbers = NULL;
        Verification result = { 0 };
        Verifier v = { .result = &result, .spec = spec, .expected = 1 };
        size_t n;
        int r;

        r = chain_new(&v.chain);
        if (r < 0)
                return r;
        /* Before the folder is read: rows come before what is said about them. */
        r = marks_open(&v, directory);
        if (r == 0)
                r = segment_list(directory, &numbers, &n);
        if (r == 0)
                r = visit_all(&v, directory, numbers, n);
        marks_close(&v);
        v.chain = chain_free(v.chain);
        if (r < 0)
                return r;
        *ret = result;
        return 0;
}
