#include "daemon/audit/store.h"

#include <errno.h>
#include <sys/random.h>

#include "daemon/audit/leftover.h"
#include "daemon/audit/segment.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/log.h"

#define WAL_PAGES_MAX 920 /* of 4 KiB, what sql_reserve_log() makes: cut beyond it */
#define DAY_USEC      (UINT64_C(86400) * USEC_PER_SEC)
#define RETRY_USEC    (10 * USEC_PER_SEC)
#define SALT_SIZE     16U

enum StoreStatement {
        INSERT_DECISION = 0,
        INSERT_CLOSE,
        INSERT_PRIVATE,
        FIND_SESSION,
        INSERT_SESSION,
        FIND_POLICY,
        INSERT_POLICY,
        FIND_RULE,
        INSERT_RULE,
        FIND_HOST,
        INSERT_HOST,
        FIND_EXECUTABLE,
        INSERT_EXECUTABLE,
        _STORE_STATEMENT_MAX,
};

static const char *const statements[] = {
        [INSERT_DECISION] =
                        "INSERT INTO decision(seq,ts_us,boot_us,kind,action,verdict,session_id,uid,exec,policy_id,"
                        "generation,rule_id,entry,protocol,host_id,ip,port,method,status,pid,exe_id,cred,ref_seq,"
                        "reason,priv_hash,hash) VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,"
                        "?17,?18,?19,?20,?21,?22,?23,?24,?25,?26)",
        [INSERT_CLOSE] =
                        "INSERT INTO flow(seq,ts_us,conn_seq,session_id,ip,port,dur_us,bytes_up,bytes_dn,reason,hash)"
                        " VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11)",
        [INSERT_PRIVATE] = "INSERT INTO priv(seq,salt,path,raw,detail) VALUES(?1,?2,?3,?4,?5)",
        [FIND_SESSION] = "SELECT session_id FROM session WHERE id=?1",
        [INSERT_SESSION] =
                        "INSERT INTO session(id,uid,user,name,profile,agent,agent_session,workspace,cgroup,"
                        "degraded,started_us) VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11)",
        [FIND_POLICY] = "SELECT policy_id FROM policy WHERE sha256=?1",
        [INSERT_POLICY] =
                        "INSERT INTO policy(sha256,loaded_us,name,source,by_uid,body) VALUES(?1,?2,?3,?4,?5,?6)",
        [FIND_RULE] = "SELECT rule_id FROM rule WHERE layer=?1 AND name=?2 AND text=?3",
        [INSERT_RULE] = "INSERT INTO rule(layer,name,text) VALUES(?1,?2,?3)",
        [FIND_HOST] = "SELECT host_id FROM host WHERE name=?1",
        [INSERT_HOST] = "INSERT INTO host(name,first_us,first_session) VALUES(?1,?2,?3)",
        [FIND_EXECUTABLE] = "SELECT exe_id FROM exe WHERE path=?1 AND sha256 IS ?2",
        [INSERT_EXECUTABLE] = "INSERT INTO exe(path,sha256) VALUES(?1,?2)",
};
ASSERT_TABLE(statements, _STORE_STATEMENT_MAX);

/* The dictionary numbers of one row; -1 where it has none. */
typedef struct RowIds {
        int64_t session;
        int64_t policy;
        int64_t rule;
        int64_t host;
        int64_t executable;
} RowIds;

struct Store {
        StoreSpec spec;
        Chain *chain;
        Segment *segment;
        SqlStatement *statements[_STORE_STATEMENT_MAX];
        uint64_t committed_sequence;
        uint8_t committed_head[DIGEST_SIZE];
        uint64_t rotate_after_usec; /* of CLOCK_MONOTONIC: not at once again where it failed */
        int checkpoint_pages;
};

static void drop_statements(Store *s)
{
        for (size_t i = 0; i < ELEMENTSOF(s->statements); i++)
                s->statements[i] = sql_finalize(s->statements[i]);
}

static int prepare_statements(Sql *sql, SqlStatement **t)
{
        for (size_t i = 0; i < _STORE_STATEMENT_MAX; i++) {
                int r = sql_prepare(sql, statements[i], &t[i]);

                if (r < 0)
                        return r;
        }
        return 0;
}

/* Takes the segment on success. */
static int use_segment(Store *s, Segment *segment)
{
        SqlStatement *fresh[_STORE_STATEMENT_MAX] = { NULL };
        int r;

        r = prepare_statements(segment->sql, fresh);
        if (r < 0) {
                for (size_t i = 0; i < ELEMENTSOF(fresh); i++)
                        (void) sql_finalize(fresh[i]);
                return r;
        }
        drop_statements(s);
        s->segment = segment_close(s->segment);
        s->segment = segment;
        memcpy(s->statements, fresh, sizeof(fresh));
        s->committed_sequence = segment->head_sequence;
        memcpy(s->committed_head, segment->head, DIGEST_SIZE);
        s->checkpoint_pages = WAL_PAGES_MAX;
        return 0;
}

static int new_segment(Store *s, uint64_t number, uint64_t first_sequence, const uint8_t *previous)
{
        _cleanup_(segment_closep) Segment *segment = NULL;
        SegmentHeader header = { .number = number,
                                 .first_sequence = first_sequence,
                                 .previous = previous,
                                 .machine_id = s->spec.machine_id,
                                 .boot_id = s->spec.boot_id };
        int r;

        r = segment_create(s->spec.directory, &header, s->chain, &segment);
        if (r < 0)
                return r;
        r = use_segment(s, segment);
        if (r >= 0)
                segment = NULL;
        return r;
}

/* The segment cannot be trusted to the end: what can still be read of its head, else that of the one before.
 */
static int replace_damaged(Store *s, const uint64_t *numbers, size_t n)
{
        uint8_t head[DIGEST_SIZE] = { 0 };
        uint64_t sequence = 0;
        int r;

        for (size_t i = n; i > 0 && sequence == 0; i--) {
                _cleanup_(segment_closep) Segment *old = NULL;

                if (segment_open(s->spec.directory, numbers[i - 1], SQL_READ, s->chain, &old) < 0)
                        continue;
                sequence = old->head_sequence;
                memcpy(head, old->head, sizeof(head));
        }
        (void) log_error(-EBADMSG, "Segment %llu is damaged: it is set aside, a new one begins",
                         (unsigned long long) numbers[n - 1]);
        r = segment_set_aside(s->spec.directory, numbers[n - 1]);
        if (r < 0)
                return r;
        return new_segment(s, numbers[n - 1] + 1, sequence + 1, head);
}

static int open_newest(Store *s, bool *ret_was_damaged)
{
        _cleanup_(segment_closep) Segment *segment = NULL;
        _cleanup_free_ uint64_t *numbers = NULL;
        uint8_t none[DIGEST_SIZE] = { 0 };
        size_t n;
        int r;

        *ret_was_damaged = false;
        r = segment_list(s->spec.directory, &numbers, &n);
        if (r < 0)
                return r;
        if (n == 0)
                return new_segment(s, 1, 1, none);
        r = segment_open(s->spec.directory, numbers[n - 1], SQL_WRITE, s->chain, &segment);
        if (r >= 0)
                r = segment_check(segment);
        if (r == -EBADMSG) {
                segment = segment_close(segment);
                *ret_was_damaged = true;
                return replace_damaged(s, numbers, n);
        }
        if (r < 0)
                return r;
        if (segment->is_closed)
                return new_segment(s, segment->number + 1, segment->head_sequence + 1, segment->head);
        r = use_segment(s, segment);
        if (r >= 0)
                segment = NULL;
        return r;
}

int store_open(const StoreSpec *spec, Store **ret, bool *ret_was_damaged)
{
        _cleanup_(store_closep) Store *s = calloc(1, sizeof(*s));
        int r;

        if (!s)
                return -ENOMEM;
        s->spec = *spec;
        r = chain_new(&s->chain);
        if (r >= 0)
                r = open_newest(s, ret_was_damaged);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(s);
        return 0;
}

Store *store_close(Store *s)
{
        if (!s)
                return NULL;
        drop_statements(s);
        s->segment = segment_close(s->segment);
        s->chain = chain_free(s->chain);
        free(s);
        return NULL;
}

uint64_t store_head(const Store *s)
{
        return s->segment->head_sequence;
}

const uint8_t *store_head_hash(const Store *s)
{
        return s->segment->head;
}

void store_rollback(Store *s)
{
        /* After SQLITE_FULL and the like the transaction is gone already. */
        if (sql_in_transaction(s->segment->sql) && sql_execute(s->segment->sql, "ROLLBACK") < 0)
                (void) log_warning(-EIO, "The audit transaction cannot be rolled back, ignoring");
        s->segment->head_sequence = s->committed_sequence;
        memcpy(s->segment->head, s->committed_head, DIGEST_SIZE);
}

int store_begin(Store *s)
{
        /* What an earlier rollback could not end would refuse every transaction after it. */
        if (sql_in_transaction(s->segment->sql))
                store_rollback(s);
        return sql_execute(s->segment->sql, "BEGIN IMMEDIATE");
}

int store_commit(Store *s)
{
        int r = sql_execute(s->segment->sql, "COMMIT");

        if (r < 0) {
                store_rollback(s);
                return r;
        }
        s->committed_sequence = s->segment->head_sequence;
        memcpy(s->committed_head, s->segment->head, DIGEST_SIZE);
        return 0;
}

/* Runs the look-up; where it finds nothing, the insertion. Both are bound already. */
static int find_or_insert(SqlStatement *find, SqlStatement *insert, int64_t *ret_id, bool *ret_is_new)
{
        int r;

        *ret_is_new = false;
        r = sql_step(find);
        if (r < 0)
                return r;
        if (r > 0) {
                *ret_id = sql_integer(find, 0);
                sql_reset(find);
                return 0;
        }
        r = sql_run(insert);
        if (r < 0)
                return r;
        *ret_id = sql_last_id(insert);
        *ret_is_new = true;
        return 0;
}

static int session_id(Store *s, const RowSession *session, int64_t *ret)
{
        SqlStatement *find = s->statements[FIND_SESSION], *t = s->statements[INSERT_SESSION];
        size_t n_workspace = session->workspace ? strlen(session->workspace) : 0;
        bool is_new;

        sql_bind_text(find, 1, session->id);
        sql_bind_text(t, 1, session->id);
        sql_bind_integer(t, 2, session->uid);
        sql_bind_text(t, 3, session->user);
        sql_bind_text(t, 4, session->name);
        sql_bind_text(t, 5, session->profile);
        sql_bind_text(t, 6, session->agent);
        sql_bind_text(t, 7, session->agent_session);
        sql_bind_blob(t, 8, session->workspace, n_workspace);
        sql_bind_text(t, 9, session->cgroup);
        sql_bind_text(t, 10, session->degraded);
        sql_bind_integer(t, 11, (int64_t) session->started_usec);
        return find_or_insert(find, t, ret, &is_new);
}

int store_enter_session(Store *s, const RowSession *session)
{
        int64_t id;

        return session_id(s, session, &id);
}

static int policy_id(Store *s, const RowPolicy *policy, int64_t *ret, bool *ret_is_new)
{
        SqlStatement *find = s->statements[FIND_POLICY], *t = s->statements[INSERT_POLICY];

        sql_bind_blob(find, 1, policy->digest, DIGEST_SIZE);
        sql_bind_blob(t, 1, policy->digest, DIGEST_SIZE);
        sql_bind_integer(t, 2, (int64_t) clock_realtime_usec());
        sql_bind_text(t, 3, policy->name);
        sql_bind_text(t, 4, policy->source);
        sql_bind_number(t, 5, policy->by_uid);
        sql_bind_text(t, 6, policy->text);
        return find_or_insert(find, t, ret, ret_is_new);
}

static int rule_id(Store *s, const RowRule *rule, int64_t *ret)
{
        SqlStatement *pair[] = { s->statements[FIND_RULE], s->statements[INSERT_RULE] };
        bool is_new;

        for (size_t i = 0; i < ELEMENTSOF(pair); i++) {
                sql_bind_text(pair[i], 1, rule->layer);
                sql_bind_text(pair[i], 2, rule->name);
                sql_bind_text(pair[i], 3, rule->text);
        }
        return find_or_insert(pair[0], pair[1], ret, &is_new);
}

static int host_id(Store *s, const char *host, int64_t session, int64_t *ret)
{
        SqlStatement *find = s->statements[FIND_HOST], *t = s->statements[INSERT_HOST];
        bool is_new;

        sql_bind_text(find, 1, host);
        sql_bind_text(t, 1, host);
        sql_bind_integer(t, 2, (int64_t) clock_realtime_usec());
        sql_bind_number(t, 3, session);
        return find_or_insert(find, t, ret, &is_new);
}

static int executable_id(Store *s, const Row *row, int64_t *ret)
{
        SqlStatement *pair[] = { s->statements[FIND_EXECUTABLE], s->statements[INSERT_EXECUTABLE] };
        bool is_new;

        for (size_t i = 0; i < ELEMENTSOF(pair); i++) {
                sql_bind_blob(pair[i], 1, row->executable.data, row->executable.size);
                sql_bind_blob(pair[i], 2, row->executable_digest.data, row->executable_digest.size);
        }
        return find_or_insert(pair[0], pair[1], ret, &is_new);
}

static void bind_address(SqlStatement *t, int i, const PrivAddress *a)
{
        sql_bind_blob(t, i, a->family != 0 ? a->bytes : NULL, a->family == 4 ? 4 : 16);
}

static int insert_private(Store *s, const Row *row, RowBytes salt)
{
        SqlStatement *t = s->statements[INSERT_PRIVATE];

        sql_bind_integer(t, 1, (int64_t) row->sequence);
        sql_bind_blob(t, 2, salt.data, salt.size);
        sql_bind_blob(t, 3, row->path.data, row->path.size);
        sql_bind_blob(t, 4, row->raw.data, row->raw.size);
        sql_bind_text(t, 5, row->detail);
        return sql_run(t);
}

static int insert_close(Store *s, const Row *row, const RowIds *ids)
{
        SqlStatement *t = s->statements[INSERT_CLOSE];

        sql_bind_integer(t, 1, (int64_t) row->sequence);
        sql_bind_integer(t, 2, (int64_t) row->realtime_usec);
        sql_bind_integer(t, 3, row->connection);
        sql_bind_number(t, 4, ids->session);
        bind_address(t, 5, &row->address);
        sql_bind_number(t, 6, row->port);
        sql_bind_integer(t, 7, row->duration_usec);
        sql_bind_number(t, 8, row->sent_bytes);
        sql_bind_number(t, 9, row->received_bytes);
        sql_bind_text(t, 10, row->reason);
        sql_bind_blob(t, 11, row->hash, DIGEST_SIZE);
        return sql_run(t);
}

static int insert_decision(Store *s, const Row *row, const RowIds *ids, const uint8_t *private_hash)
{
        SqlStatement *t = s->statements[INSERT_DECISION];

        sql_bind_integer(t, 1, (int64_t) row->sequence);
        sql_bind_integer(t, 2, (int64_t) row->realtime_usec);
        sql_bind_integer(t, 3, (int64_t) row->boottime_usec);
        sql_bind_integer(t, 4, row->kind);
        sql_bind_text(t, 5, row->action);
        sql_bind_number(t, 6, row->verdict);
        sql_bind_number(t, 7, ids->session);
        sql_bind_integer(t, 8, row->uid);
        sql_bind_number(t, 9, row->process);
        sql_bind_number(t, 10, ids->policy);
        sql_bind_number(t, 11, row->policy ? (int64_t) row->policy->generation : -1);
        sql_bind_number(t, 12, ids->rule);
        sql_bind_text(t, 13, row->entry);
        sql_bind_text(t, 14, row->protocol);
        sql_bind_number(t, 15, ids->host);
        bind_address(t, 16, &row->address);
        sql_bind_number(t, 17, row->port);
        sql_bind_text(t, 18, row->method);
        sql_bind_number(t, 19, row->status);
        sql_bind_number(t, 20, row->pid);
        sql_bind_number(t, 21, ids->executable);
        sql_bind_text(t, 22, row->credential);
        sql_bind_number(t, 23, row->refers_to);
        sql_bind_text(t, 24, row->reason);
        sql_bind_blob(t, 25, private_hash, DIGEST_SIZE);
        sql_bind_blob(t, 26, row->hash, DIGEST_SIZE);
        return sql_run(t);
}

/* Hashes the row onto the head and inserts it; the head moves on only when all went well. */
static int append_resolved(Store *s, Row *row, const RowIds *ids)
{
        uint8_t salt_bytes[SALT_SIZE], private_hash[DIGEST_SIZE];
        RowBytes salt = { .data = salt_bytes, .size = sizeof(salt_bytes) };
        const uint8_t *hash_of_private = NULL;
        int r;

        row->sequence = s->segment->head_sequence + 1;
        row->realtime_usec = clock_realtime_usec();
        row->boottime_usec = clock_boottime_usec();
        if (!row->is_close && row_has_private(row)) {
                if (getrandom(salt_bytes, sizeof(salt_bytes), 0) != (ssize_t) sizeof(salt_bytes))
                        return -EIO;
                r = chain_private(s->chain, row, salt, private_hash);
                if (r < 0)
                        return r;
                hash_of_private = private_hash;
        }
        r = chain_row(s->chain, row, s->segment->head, hash_of_private, row->hash);
        if (r >= 0)
                r = row->is_close ? insert_close(s, row, ids)
                                  : insert_decision(s, row, ids, hash_of_private);
        if (r >= 0 && hash_of_private)
                r = insert_private(s, row, salt);
        if (r < 0)
                return r;
        s->segment->head_sequence = row->sequence;
        memcpy(s->segment->head, row->hash, DIGEST_SIZE);
        return 0;
}

static int append_load(Store *s, const RowPolicy *policy, int64_t id)
{
        Row load = ROW_INIT(AUDIT_KIND_POLICY, "load");
        RowIds ids = { .session = -1, .policy = id, .rule = -1, .host = -1, .executable = -1 };

        load.policy = policy;
        load.uid = policy->by_uid < 0 ? 0 : (uint32_t) policy->by_uid;
        return append_resolved(s, &load, &ids);
}

static int resolve(Store *s, const Row *row, RowIds *ids)
{
        bool is_new;
        int r = 0;

        if (row->session)
                r = session_id(s, row->session, &ids->session);
        if (r >= 0 && row->policy) {
                r = policy_id(s, row->policy, &ids->policy, &is_new);
                if (r >= 0 && is_new)
                        r = append_load(s, row->policy, ids->policy);
        }
        if (r >= 0 && row->rule.name)
                r = rule_id(s, &row->rule, &ids->rule);
        if (r >= 0 && row->host)
                r = host_id(s, row->host, ids->session, &ids->host);
        if (r >= 0 && row->executable.data)
                r = executable_id(s, row, &ids->executable);
        return r;
}

int store_append(Store *s, Row *row)
{
        RowIds ids = { .session = -1, .policy = -1, .rule = -1, .host = -1, .executable = -1 };
        int r;

        r = resolve(s, row, &ids);
        if (r < 0)
                return r;
        return append_resolved(s, row, &ids);
}

static bool is_rotation_due(const Store *s, uint64_t size_bytes)
{
        const Segment *g = s->segment;

        if (g->head_sequence < g->first_sequence || clock_monotonic_usec() < s->rotate_after_usec)
                return false;
        return size_bytes >= s->spec.segment_bytes_max ||
               g->opened_usec / DAY_USEC != clock_realtime_usec() / DAY_USEC;
}

static int database_bytes(Store *s, uint64_t *ret)
{
        _cleanup_(sql_finalizep) SqlStatement *t = NULL;
        int r;

        r = sql_prepare(s->segment->sql,
                        "SELECT page_count*page_size FROM pragma_page_count(), pragma_page_size()", &t);
        if (r >= 0)
                r = sql_step(t);
        if (r < 0)
                return r;
        *ret = r > 0 ? (uint64_t) sql_integer(t, 0) : 0;
        return 0;
}

/* The new segment exists, with the head of the old one in its header, before the old one is closed: a crash
 * in between leaves two sound files. */
static int rotate(Store *s)
{
        Segment *old = s->segment;
        int r;

        drop_statements(s);
        s->segment = NULL;
        r = new_segment(s, old->number + 1, old->head_sequence + 1, old->head);
        if (r < 0) {
                s->rotate_after_usec = clock_monotonic_usec() + RETRY_USEC;
                s->segment = old;
                (void) log_warning(r, "A new audit segment cannot be made, the old one goes on");
                return prepare_statements(old->sql, s->statements);
        }
        r = segment_finish(old);
        if (r >= 0)
                r = sql_checkpoint(old->sql, /* is_last= */ true);
        if (r < 0)
                (void) log_warning(r, "Segment %llu is not closed in order, ignoring",
                                   (unsigned long long) old->number);
        (void) segment_close(old);
        return 1;
}

int store_maintain(Store *s)
{
        uint64_t size_bytes = 0;
        int r;

        if (sql_wal_pages(s->segment->sql) >= s->checkpoint_pages) {
                r = sql_checkpoint(s->segment->sql, /* is_last= */ false);
                /* A reader holds it up, or the disk is full: again when the log has grown. */
                s->checkpoint_pages =
                                r < 0 ? sql_wal_pages(s->segment->sql) + WAL_PAGES_MAX / 8 : WAL_PAGES_MAX;
        }
        r = database_bytes(s, &size_bytes);
        if (r < 0 || !is_rotation_due(s, size_bytes))
                return r;
        return rotate(s);
}

size_t store_prune(const Store *s)
{
        size_t n = 0;
        int r = 0;

        if (s->spec.retention_bytes > 0)
                r = segment_prune(s->spec.directory, s->spec.retention_bytes, s->segment->number, &n);
        if (r < 0)
                (void) log_warning(r, "Old audit segments cannot be removed, ignoring");
        return n;
}

int store_list_leftovers(Store *s, StoreLeftoverCallback callback, void *userdata)
{
        _cleanup_(segment_closep) Segment *before = NULL;

        if (s->segment->number > 1 &&
            segment_open(s->spec.directory, s->segment->number - 1, SQL_READ, s->chain, &before) < 0)
                before = NULL;
        return leftover_list(s->segment, before, callback, userdata);
}
