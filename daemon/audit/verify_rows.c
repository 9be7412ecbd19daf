/*
 * The rows of one segment in their order, decisions and closes merged, a page at a time: a page is one short
 * transaction, so that the writer's log can be cut in between.
 */

#include <errno.h>

#include "daemon/audit/verify_impl.h"
#include "proto/base/str.h"

#define PAGE_ROWS 1000

enum DecisionColumn {
        D_POLICY_DIGEST = 8,
        D_GENERATION = 9,
        D_ADDRESS = 16,
        D_PRIVATE_HASH = 26,
        D_HASH = 27,
        D_PRIVATE = 28,
        D_POLICY = 33,
        D_SESSION = 34,
};

enum CloseColumn {
        F_ADDRESS = 3,
        F_HASH = 9,
        F_SESSION = 10,
};

/* A number that stands in a Map. */
typedef struct Number {
        int64_t value;
} Number;

void numbers_done(Map *m)
{
        size_t cursor = 0;
        Number *n;

        while ((n = map_next(m, &cursor)))
                free(n);
        map_done(m);
        *m = MAP_INIT;
}

static int number_add(Map *m, int64_t value, bool *ret_is_new)
{
        Number *n;
        int r;

        *ret_is_new = !map_get(m, &value, sizeof(value));
        if (!*ret_is_new)
                return 0;
        n = malloc(sizeof(*n));
        if (!n)
                return -ENOMEM;
        n->value = value;
        r = map_put(m, &n->value, sizeof(n->value), n);
        if (r < 0)
                free(n);
        return r;
}

RowBytes bytes_of(const SqlStatement *t, int i)
{
        RowBytes b;

        b.data = sql_blob(t, i, &b.size);
        return b;
}

/* A query shows what is behind a NUL, too. */
static const char *text_of(Verifier *v, const SqlStatement *t, int i)
{
        RowBytes b = bytes_of(t, i);

        if (b.data && memchr(b.data, '\0', b.size))
                v->is_odd = true;
        return sql_text(t, i);
}

static uint32_t number_of(Verifier *v, const SqlStatement *t, int i, int64_t max)
{
        int64_t n = sql_integer(t, i);

        if (n < 0 || n > max)
                v->is_odd = true;
        return (uint32_t) n;
}

static void read_address(const SqlStatement *t, int i, PrivAddress *ret)
{
        RowBytes b = bytes_of(t, i);

        if (!b.data || (b.size != 4 && b.size != 16))
                return;
        ret->family = b.size == 4 ? 4 : 6;
        memcpy(ret->bytes, b.data, b.size);
}

/* From column i on: the number, then the columns of the session. */
static int read_session(Verifier *v, const SqlStatement *t, int i, RowSession *session, Row *row)
{
        int r;

        *session = (RowSession){ .id = text_of(v, t, i + 1),
                                 .uid = number_of(v, t, i + 2, UINT32_MAX),
                                 .user = text_of(v, t, i + 3),
                                 .name = text_of(v, t, i + 4),
                                 .profile = text_of(v, t, i + 5),
                                 .agent = text_of(v, t, i + 6),
                                 .agent_session = text_of(v, t, i + 7),
                                 .workspace = text_of(v, t, i + 8),
                                 .cgroup = text_of(v, t, i + 9),
                                 .degraded = text_of(v, t, i + 10),
                                 .started_usec = (uint64_t) sql_integer(t, i + 11) };
        row->session = session->id ? session : NULL;
        r = 0;
        if (!sql_is_null(t, i))
                r = number_add(&v->sessions, sql_integer(t, i), &row->has_session_columns);
        row->has_session_columns = row->has_session_columns && row->session;
        return r;
}

static void read_decision(Verifier *v, const SqlStatement *t, Row *row, RowPolicy *policy)
{
        RowBytes digest = bytes_of(t, D_POLICY_DIGEST);

        *row = ROW_INIT((AuditKind) number_of(v, t, 3, _AUDIT_KIND_MAX - 1), text_of(v, t, 4));
        row->sequence = (uint64_t) sql_integer(t, 0);
        row->realtime_usec = (uint64_t) sql_integer(t, 1);
        row->boottime_usec = (uint64_t) sql_integer(t, 2);
        row->verdict = sql_is_null(t, 5) ? -1 : (int64_t) number_of(v, t, 5, VERDICT_ALLOW);
        row->uid = number_of(v, t, 6, UINT32_MAX);
        row->process = sql_number(t, 7);
        *policy = (RowPolicy){ .digest = digest.data, .generation = (uint64_t) sql_number(t, D_GENERATION) };
        row->policy = digest.size == DIGEST_SIZE ? policy : NULL;
        if ((row->policy != NULL) == sql_is_null(t, D_GENERATION))
                v->is_odd = true;
        row->rule = (RowRule){ .layer = text_of(v, t, 10),
                               .name = text_of(v, t, 11),
                               .text = text_of(v, t, 12) };
        row->entry = text_of(v, t, 13);
        row->protocol = text_of(v, t, 14);
        row->host = text_of(v, t, 15);
        read_address(t, D_ADDRESS, &row->address);
        row->port = sql_number(t, 17);
        row->method = text_of(v, t, 18);
        row->status = sql_number(t, 19);
        row->pid = sql_number(t, 20);
        row->executable = bytes_of(t, 21);
        row->executable_digest = bytes_of(t, 22);
        row->credential = text_of(v, t, 23);
        row->refers_to = sql_number(t, 24);
        row->reason = text_of(v, t, 25);
        row->path = bytes_of(t, D_PRIVATE + 2);
        row->raw = bytes_of(t, D_PRIVATE + 3);
        row->detail = text_of(v, t, D_PRIVATE + 4);
}

/* Is the text of the policy the one that the digest in the chain names? */
static int check_policy(Verifier *v, const SqlStatement *row)
{
        RowBytes digest = bytes_of(row, D_POLICY_DIGEST), body;
        _cleanup_(sql_finalizep) SqlStatement *t = NULL;
        uint8_t computed[DIGEST_SIZE];
        bool is_new;
        int r;

        r = number_add(&v->policies, sql_integer(row, D_POLICY), &is_new);
        if (r < 0 || !is_new)
                return r;
        r = sql_prepare(v->segment->sql, "SELECT body FROM policy WHERE policy_id=?1", &t);
        if (r < 0)
                return r;
        sql_bind_integer(t, 1, sql_integer(row, D_POLICY));
        r = sql_step(t);
        if (r < 0)
                return r;
        body = r > 0 ? bytes_of(t, 0) : (RowBytes){ .data = NULL };
        if (!body.data)
                return bad(v, v->expected, "the policy has no text");
        r = chain_digest(v->chain, body.data, body.size, computed);
        if (r < 0)
                return r;
        return memcmp(digest.data, computed, sizeof(computed)) == 0
                               ? 0
                               : bad(v, v->expected, "the policy was changed");
}

/* Values may be erased with their salt, all or nothing. */
static int check_private(Verifier *v, const SqlStatement *t, const Row *row)
{
        RowBytes hash = bytes_of(t, D_PRIVATE_HASH), salt = bytes_of(t, D_PRIVATE + 1);
        uint8_t computed[DIGEST_SIZE];
        int r;

        if (hash.data && hash.size != DIGEST_SIZE)
                return bad(v, row->sequence, "the row was changed");
        if (sql_is_null(t, D_PRIVATE)) {
                v->result->n_erased += hash.data != NULL;
                return 0;
        }
        /* Of another size it could take in what the values begin with. */
        if (salt.size != SALT_SIZE)
                return bad(v, row->sequence, "private values of the row were changed");
        r = chain_private(v->chain, row, salt, computed);
        if (r < 0)
                return r;
        return hash.data && memcmp(hash.data, computed, sizeof(computed)) == 0
                               ? 0
                               : bad(v, row->sequence, "private values of the row were changed");
}

static int compare(Verifier *v, const Row *row, const uint8_t *private_hash, RowBytes hash)
{
        uint8_t computed[DIGEST_SIZE];
        int r;

        r = chain_row(v->chain, row, v->result->head, private_hash, computed);
        if (r < 0)
                return r;
        if (v->is_odd || hash.size != DIGEST_SIZE || memcmp(hash.data, computed, sizeof(computed)) != 0)
                return bad(v, row->sequence, "the row was changed");
        memcpy(v->result->head, computed, sizeof(computed));
        return 0;
}

/* A row before those that were asked for: its hash is taken as it stands. */
static bool is_before(Verifier *v, RowBytes hash)
{
        if (v->expected >= v->spec->from || hash.size != DIGEST_SIZE)
                return false;
        memcpy(v->result->head, hash.data, DIGEST_SIZE);
        return true;
}

static int check_decision(Verifier *v, const SqlStatement *t)
{
        RowSession session;
        RowPolicy policy;
        Row row;
        int r;

        v->is_odd = false;
        read_decision(v, t, &row, &policy);
        r = read_session(v, t, D_SESSION, &session, &row);
        if (r < 0 || is_before(v, bytes_of(t, D_HASH)))
                return r;
        if (row.policy)
                r = check_policy(v, t);
        if (r == 0)
                r = check_private(v, t, &row);
        return r != 0 ? r : compare(v, &row, bytes_of(t, D_PRIVATE_HASH).data, bytes_of(t, D_HASH));
}

static int check_close(Verifier *v, const SqlStatement *t)
{
        Row row = { .is_close = true,
                    .sequence = (uint64_t) sql_integer(t, 0),
                    .realtime_usec = (uint64_t) sql_integer(t, 1),
                    .connection = sql_number(t, 2),
                    .port = sql_number(t, 4),
                    .duration_usec = sql_number(t, 5),
                    .sent_bytes = sql_number(t, 6),
                    .received_bytes = sql_number(t, 7) };
        RowSession session;
        int r;

        v->is_odd = false;
        row.reason = text_of(v, t, 8);
        read_address(t, F_ADDRESS, &row.address);
        r = read_session(v, t, F_SESSION, &session, &row);
        if (r < 0 || is_before(v, bytes_of(t, F_HASH)))
                return r;
        return compare(v, &row, NULL, bytes_of(t, F_HASH));
}

/* The row that comes next, of whichever table. */
static int check_one(Verifier *v, const SqlStatement *t)
{
        uint64_t sequence = (uint64_t) sql_integer(t, 0);
        int r;

        if (sequence != v->expected)
                return bad(v, MIN_OF(sequence, v->expected),
                           sequence < v->expected ? "two rows have this number" : "the row is missing");
        r = t == v->closes ? check_close(v, t) : check_decision(v, t);
        if (r != 0)
                return r;
        v->expected++;
        if (sequence < v->spec->from)
                return 0;
        v->result->n_checked++;
        v->result->head_sequence = sequence;
        return marks_check(v, sequence);
}

static bool is_done(const Verifier *v)
{
        return v->spec->to > 0 && v->expected > v->spec->to;
}

/* *ret_n: how many rows there were. */
static int merge(Verifier *v, unsigned *ret_n)
{
        SqlStatement *const tables[] = { v->decisions, v->closes };
        int has[ELEMENTSOF(tables)], r = 0;
        unsigned n[ELEMENTSOF(tables)] = { 0 };

        for (size_t i = 0; i < ELEMENTSOF(tables); i++) {
                sql_bind_integer(tables[i], 1, (int64_t) v->expected);
                sql_bind_integer(tables[i], 2, PAGE_ROWS);
                has[i] = sql_step(tables[i]);
                if (has[i] < 0)
                        return has[i];
        }
        while (r == 0 && (has[0] > 0 || has[1] > 0) && !is_done(v)) {
                size_t i = has[0] > 0 && (has[1] == 0 ||
                                          sql_integer(tables[0], 0) <= sql_integer(tables[1], 0))
                                           ? 0
                                           : 1;

                r = check_one(v, tables[i]);
                if (r != 0)
                        break;
                has[i] = sql_step(tables[i]);
                r = MIN_OF(has[i], 0);
                if (++n[i] == PAGE_ROWS)
                        break;
        }
        *ret_n = n[0] + n[1];
        return r;
}

/* One transaction: a statement that has come to its end would leave the other one to see what was written
 * since, and rows of the first were missing. */
static int merge_page(Verifier *v, unsigned *ret_n)
{
        Sql *sql = v->segment->sql;
        int r = sql_execute(sql, "BEGIN"), e;

        if (r < 0)
                return r;
        r = merge(v, ret_n);
        sql_reset(v->decisions);
        sql_reset(v->closes);
        e = sql_execute(sql, "COMMIT");
        return r == 0 ? e : r;
}

/* Marks of rows that were read before the mark was written, while the daemon runs: the next verification's.
 * In a log that rests the next mark never is of a row before the next. */
static int fetch_mark(Verifier *v, uint64_t first)
{
        int r = marks_fetch(v);

        while (r == 0 && v->has_mark && v->mark.sequence >= first && v->mark.sequence < v->expected) {
                v->has_mark = false;
                r = marks_fetch(v);
        }
        return r;
}

int verify_rows(Verifier *v)
{
        uint64_t first = v->expected;
        unsigned n = 1;
        int r = 0;

        while (r == 0 && n > 0 && !is_done(v)) {
                r = fetch_mark(v, first);
                if (r == 0)
                        r = merge_page(v, &n);
                if (r == 0 && v->spec->progress)
                        r = v->spec->progress(v->spec->userdata, v->result);
        }
        return r;
}
