#include "daemon/audit/verify.h"

#include <errno.h>

#include "daemon/audit/segment.h"
#include "proto/base/str.h"

static const char decisions_text[] =
                "SELECT d.seq,d.ts_us,d.boot_us,d.kind,d.action,d.verdict,d.uid,d.exec,p.sha256,d.generation,r.layer,r.name,"
                "r.text,d.entry,d.protocol,h.name,d.ip,d.port,d.method,d.status,d.pid,e.path,e.sha256,d.cred,d.ref_seq,"
                "d.reason,d.priv_hash,d.hash,v.salt,v.path,v.raw,v.detail,p.body,s.id,s.uid,s.user,s.name,s.profile,s.agent,"
                "s.agent_session,CAST(s.workspace AS TEXT),s.cgroup,s.degraded,s.started_us"
                " FROM decision d LEFT JOIN policy p USING(policy_id) LEFT JOIN rule r USING(rule_id)"
                " LEFT JOIN host h USING(host_id) LEFT JOIN exe e USING(exe_id) LEFT JOIN priv v ON v.seq=d.seq"
                " LEFT JOIN session s USING(session_id) WHERE d.seq=?1";

static const char close_text[] =
                "SELECT f.seq,f.ts_us,f.conn_seq,f.ip,f.port,f.dur_us,f.bytes_up,f.bytes_dn,f.reason,f.hash,s.id"
                " FROM flow f LEFT JOIN session s USING(session_id) WHERE f.seq=?1";

typedef struct Verifier {
        Chain *chain;
        Segment *segment;
        SqlStatement *decision;
        SqlStatement *close;
        Verification *result;
        bool has_head;
} Verifier;

static int bad(Verifier *v, uint64_t sequence, const char *message)
{
        v->result->bad_sequence = sequence;
        v->result->message = message;
        return 1;
}

static RowBytes bytes_of(const SqlStatement *t, int i)
{
        RowBytes b;

        b.data = sql_blob(t, i, &b.size);
        return b;
}

static void read_address(const SqlStatement *t, int i, PrivAddress *ret)
{
        RowBytes b = bytes_of(t, i);

        if (!b.data || (b.size != 4 && b.size != 16))
                return;
        ret->family = b.size == 4 ? 4 : 6;
        memcpy(ret->bytes, b.data, b.size);
}

static void read_session(const SqlStatement *t, int i, RowSession *ret)
{
        *ret = (RowSession){ .id = sql_text(t, i),
                             .uid = (uint32_t) sql_integer(t, i + 1),
                             .user = sql_text(t, i + 2),
                             .name = sql_text(t, i + 3),
                             .profile = sql_text(t, i + 4),
                             .agent = sql_text(t, i + 5),
                             .agent_session = sql_text(t, i + 6),
                             .workspace = sql_text(t, i + 7),
                             .cgroup = sql_text(t, i + 8),
                             .degraded = sql_text(t, i + 9),
                             .started_usec = (uint64_t) sql_integer(t, i + 10) };
}

static void read_decision(const SqlStatement *t, Row *row, RowPolicy *policy, RowSession *session)
{
        RowBytes digest = bytes_of(t, 8);

        *row = ROW_INIT((AuditKind) sql_integer(t, 3), sql_text(t, 4));
        row->sequence = (uint64_t) sql_integer(t, 0);
        row->realtime_usec = (uint64_t) sql_integer(t, 1);
        row->boottime_usec = (uint64_t) sql_integer(t, 2);
        row->verdict = sql_number(t, 5);
        row->uid = (uint32_t) sql_integer(t, 6);
        row->process = sql_number(t, 7);
        *policy = (RowPolicy){ .digest = digest.data, .generation = (uint64_t) sql_integer(t, 9) };
        row->policy = digest.size == DIGEST_SIZE ? policy : NULL;
        row->rule = (RowRule){ .layer = sql_text(t, 10), .name = sql_text(t, 11), .text = sql_text(t, 12) };
        row->entry = sql_text(t, 13);
        row->protocol = sql_text(t, 14);
        row->host = sql_text(t, 15);
        read_address(t, 16, &row->address);
        row->port = sql_number(t, 17);
        row->method = sql_text(t, 18);
        row->status = sql_number(t, 19);
        row->pid = sql_number(t, 20);
        row->executable = bytes_of(t, 21);
        row->executable_digest = bytes_of(t, 22);
        row->credential = sql_text(t, 23);
        row->refers_to = sql_number(t, 24);
        row->reason = sql_text(t, 25);
        row->path = bytes_of(t, 29);
        row->raw = bytes_of(t, 30);
        row->detail = sql_text(t, 31);
        read_session(t, 33, session);
        row->session = session->id ? session : NULL;
        row->is_start = row->kind == AUDIT_KIND_SESSION && row->action && str_equal(row->action, "start");
}

/* Is the text of the policy the one that the digest in the chain names? */
static int check_policy(Verifier *v, const RowPolicy *policy, const char *body, uint64_t sequence)
{
        uint8_t digest[DIGEST_SIZE];
        int r;

        if (!body)
                return bad(v, sequence, "the policy has no text");
        r = chain_digest(v->chain, body, strlen(body), digest);
        if (r < 0)
                return r;
        return memcmp(digest, policy->digest, sizeof(digest)) == 0
                               ? 0
                               : bad(v, sequence, "the policy was changed");
}

static int compare(Verifier *v, const Row *row, const uint8_t *private_hash, RowBytes hash)
{
        uint8_t computed[DIGEST_SIZE];
        int r;

        r = chain_row(v->chain, row, v->result->head, private_hash, computed);
        if (r < 0)
                return r;
        if (hash.size != DIGEST_SIZE || memcmp(hash.data, computed, sizeof(computed)) != 0)
                return bad(v, row->sequence, "the row was changed");
        memcpy(v->result->head, computed, sizeof(computed));
        return 0;
}

static int check_decision(Verifier *v, const SqlStatement *t)
{
        RowBytes private_hash = bytes_of(t, 26), salt = bytes_of(t, 28);
        uint8_t computed[DIGEST_SIZE];
        RowSession session;
        RowPolicy policy;
        Row row;
        int r = 0;

        read_decision(t, &row, &policy, &session);
        if (private_hash.data && private_hash.size != DIGEST_SIZE)
                return bad(v, row.sequence, "the row was changed");
        if (row.policy)
                r = check_policy(v, &policy, sql_text(t, 32), row.sequence);
        if (r != 0)
                return r;
        if (salt.data) {
                r = chain_private(v->chain, &row, salt, computed);
                if (r < 0)
                        return r;
                if (!private_hash.data || memcmp(private_hash.data, computed, sizeof(computed)) != 0)
                        return bad(v, row.sequence, "private values were changed");
        }
        return compare(v, &row, private_hash.data, bytes_of(t, 27));
}

static int check_close(Verifier *v, const SqlStatement *t)
{
        RowSession session = { .id = sql_text(t, 10) };
        Row row = { .is_close = true,
                    .sequence = (uint64_t) sql_integer(t, 0),
                    .realtime_usec = (uint64_t) sql_integer(t, 1),
                    .connection = sql_integer(t, 2),
                    .port = sql_number(t, 4),
                    .duration_usec = sql_integer(t, 5),
                    .sent_bytes = sql_number(t, 6),
                    .received_bytes = sql_number(t, 7),
                    .reason = sql_text(t, 8),
                    .session = session.id ? &session : NULL };

        read_address(t, 3, &row.address);
        return compare(v, &row, NULL, bytes_of(t, 9));
}

/* 1: found and handled as *ret_result says. */
static int check_one(Verifier *v, SqlStatement *t, uint64_t sequence, int *ret_result)
{
        int r;

        sql_bind_integer(t, 1, (int64_t) sequence);
        r = sql_step(t);
        if (r <= 0)
                return r;
        *ret_result = t == v->close ? check_close(v, t) : check_decision(v, t);
        sql_reset(t);
        return 1;
}

static int check_rows(Verifier *v)
{
        for (uint64_t i = v->segment->first_sequence; i <= v->segment->head_sequence; i++) {
                int result = 0, r;

                r = check_one(v, v->decision, i, &result);
                if (r == 0)
                        r = check_one(v, v->close, i, &result);
                if (r < 0 || result != 0)
                        return r < 0 ? r : result;
                if (r == 0)
                        return bad(v, i, "the row is missing");
                v->result->n_checked++;
                v->result->head_sequence = i;
        }
        return 0;
}

/* The genesis names the head of the segment before. */
static int check_link(Verifier *v)
{
        _cleanup_(sql_finalizep) SqlStatement *t = NULL;
        RowBytes previous;
        int r;

        if (v->has_head && v->segment->first_sequence != v->result->head_sequence + 1)
                return bad(v, v->segment->first_sequence, "rows between two segments are missing");
        r = sql_prepare(v->segment->sql, "SELECT prev_head FROM segment", &t);
        if (r >= 0)
                r = sql_step(t);
        if (r <= 0)
                return r < 0 ? r : -EBADMSG;
        previous = bytes_of(t, 0);
        if (v->has_head &&
            (previous.size != DIGEST_SIZE || memcmp(previous.data, v->result->head, DIGEST_SIZE) != 0))
                return bad(v, v->segment->first_sequence, "the segment does not follow the one before");
        memcpy(v->result->head, v->segment->genesis, DIGEST_SIZE);
        v->has_head = true;
        return 0;
}

static int check_segment(Verifier *v, const char *directory, uint64_t number)
{
        int r;

        r = segment_open(directory, number, SQL_READ, v->chain, &v->segment);
        if (r >= 0)
                r = sql_prepare(v->segment->sql, decisions_text, &v->decision);
        if (r >= 0)
                r = sql_prepare(v->segment->sql, close_text, &v->close);
        if (r >= 0)
                r = check_link(v);
        if (r == 0)
                r = check_rows(v);
        v->decision = sql_finalize(v->decision);
        v->close = sql_finalize(v->close);
        v->segment = segment_close(v->segment);
        return r;
}

int verify_directory(const char *directory, Verification *ret)
{
        _cleanup_free_ uint64_t *numbers = NULL;
        Verification result = { 0 };
        Verifier v = { .result = &result };
        size_t n;
        int r;

        r = chain_new(&v.chain);
        if (r < 0)
                return r;
        r = segment_list(directory, &numbers, &n);
        for (size_t i = 0; r == 0 && i < n; i++)
                r = check_segment(&v, directory, numbers[i]);
        v.chain = chain_free(v.chain);
        if (r < 0)
                return r;
        *ret = result;
        return 0;
}
