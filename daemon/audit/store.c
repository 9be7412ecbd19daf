#include "daemon/audit/store.h"

#include <errno.h>
#include <sys/random.h>

#include "daemon/audit/asked.h"
#include "daemon/audit/dictionary.h"
#include "daemon/audit/leftover.h"
#include "daemon/audit/segment.h"
#include "daemon/audit/signer.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/log.h"

#define WAL_PAGES_MAX 920 /* of 4 KiB, what sql_reserve_log() makes: cut beyond it */
#define DAY_USEC      (UINT64_C(86400) * USEC_PER_SEC)
#define RETRY_USEC    (10 * USEC_PER_SEC)

enum StoreStatement {
        BEGIN = 0,
        COMMIT,
        COUNT_PAGES,
        INSERT_DECISION,
        INSERT_CLOSE,
        INSERT_PRIVATE,
        _STORE_STATEMENT_MAX,
};

static const char *const statements[] = {
        [BEGIN] = "BEGIN IMMEDIATE",
        [COMMIT] = "COMMIT",
        [COUNT_PAGES] = "PRAGMA page_count",
        [INSERT_DECISION] =
                        "INSERT INTO decision(seq,ts_us,boot_us,kind,action,verdict,session_id,uid,exec,policy_id,"
                        "generation,rule_id,entry,protocol,host_id,ip,port,method,status,pid,exe_id,cred,ref_seq,"
                        "reason,priv_hash,hash) VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,"
                        "?17,?18,?19,?20,?21,?22,?23,?24,?25,?26)",
        [INSERT_CLOSE] =
                        "INSERT INTO flow(seq,ts_us,conn_seq,session_id,ip,port,dur_us,bytes_up,bytes_dn,reason,hash)"
                        " VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11)",
        [INSERT_PRIVATE] = "INSERT INTO priv(seq,salt,path,raw,detail) VALUES(?1,?2,?3,?4,?5)",
};
ASSERT_TABLE(statements, _STORE_STATEMENT_MAX);

struct Store {
        StoreSpec spec;
        Chain *chain;
        Signer *signer;
        Segment *segment;
        Dictionary *dictionary; /* of the segment, as are the statements */
        SqlStatement *statements[_STORE_STATEMENT_MAX];
        uint64_t signed_sequence; /* rows up to here have a checkpoint */
        uint64_t committed_sequence;
        uint8_t committed_head[DIGEST_SIZE];
        uint64_t rotate_after_usec; /* of CLOCK_MONOTONIC: not at once again where it failed */
        int checkpoint_pages;
        uint64_t page_bytes;
        uint64_t n_pages; /* of the database, with the last commit */
};

static void drop_statements(Store *s)
{
        for (size_t i = 0; i < ELEMENTSOF(s->statements); i++)
                s->statements[i] = sql_finalize(s->statements[i]);
        s->dictionary = dictionary_close(s->dictionary);
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

static int read_number(SqlStatement *t, uint64_t *ret)
{
        int r = sql_step(t);

        if (r < 0)
                return r;
        *ret = r > 0 ? (uint64_t) sql_integer(t, 0) : 0;
        sql_reset(t);
        return 0;
}

static int read_page_bytes(Sql *sql, uint64_t *ret)
{
        _cleanup_(sql_finalizep) SqlStatement *t = NULL;
        int r = sql_prepare(sql, "PRAGMA page_size", &t);

        return r < 0 ? r : read_number(t, ret);
}

/* Takes the segment on success. */
static int use_segment(Store *s, Segment *segment)
{
        SqlStatement *fresh[_STORE_STATEMENT_MAX] = { NULL };
        Dictionary *dictionary = NULL;
        uint64_t page_bytes = 0, n_pages = 0;
        int r;

        r = prepare_statements(segment->sql, fresh);
        if (r >= 0)
                r = read_page_bytes(segment->sql, &page_bytes);
        if (r >= 0)
                r = read_number(fresh[COUNT_PAGES], &n_pages);
        if (r >= 0)
                r = dictionary_open(segment->sql, &dictionary);
        if (r < 0) {
                for (size_t i = 0; i < ELEMENTSOF(fresh); i++)
                        (void) sql_finalize(fresh[i]);
                return r;
        }
        drop_statements(s);
        s->segment = segment_close(s->segment);
        s->segment = segment;
        s->dictionary = dictionary;
        memcpy(s->statements, fresh, sizeof(fresh));
        s->committed_sequence = segment->head_sequence;
        memcpy(s->committed_head, segment->head, DIGEST_SIZE);
        s->signed_sequence = MAX_OF(segment->signed_sequence, segment->first_sequence - 1);
        s->checkpoint_pages = WAL_PAGES_MAX;
        s->page_bytes = page_bytes;
        s->n_pages = n_pages;
        return 0;
}

static int new_segment(Store *s, uint64_t number, uint64_t first_sequence, const uint8_t *previous)
{
        _cleanup_(segment_closep) Segment *segment = NULL;
        SegmentHeader header = { .number = number,
                                 .first_sequence = first_sequence,
                                 .previous = previous,
                                 .public_key = signer_public_key(s->signer),
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

/* The newest checkpoint of the file, if it is one of ours. */
static bool last_signed(const Store *s, Checkpoint *ret)
{
        return signer_last(s->signer, ret) > 0 && checkpoint_verify(ret, signer_public_key(s->signer)) > 0;
}

/* The segment cannot be trusted to the end: what can still be read of its head, else that of the one before.
 */
static int replace_damaged(Store *s, const uint64_t *numbers, size_t n)
{
        uint8_t head[DIGEST_SIZE] = { 0 };
        uint64_t sequence = 0;
        Checkpoint last;
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
        /* No number is used twice. */
        if (last_signed(s, &last))
                sequence = MAX_OF(sequence, last.sequence);
        return new_segment(s, numbers[n - 1] + 1, sequence + 1, head);
}

/* Does the segment end before what was signed, or otherwise? */
static bool lacks_rows(const Store *s, const Segment *g, uint64_t *ret_sequence)
{
        Checkpoint last;

        if (!last_signed(s, &last) || last.sequence < g->head_sequence)
                return false;
        /* The head of an empty segment is no row's hash. */
        if (last.sequence == g->head_sequence &&
            (g->head_sequence < g->first_sequence || memcmp(last.head, g->head, DIGEST_SIZE) == 0))
                return false;
        *ret_sequence = last.sequence;
        return true;
}

/* A sound segment goes on, unless something about it wants another one to begin. */
static int continue_segment(Store *s, Segment **segment, StoreGap *ret_gap)
{
        const Segment *g = *segment;
        const uint8_t *key = signer_public_key(s->signer);
        uint64_t sequence = g->head_sequence;
        int r;

        if (lacks_rows(s, g, &sequence)) {
                (void) log_error(-EBADMSG,
                                 "The audit ends with row %llu, a checkpoint says %llu:"
                                 " rows are missing, see `sandboxctl audit verify`",
                                 (unsigned long long) g->head_sequence, (unsigned long long) sequence);
                *ret_gap = STORE_GAP_MISSING;
        } else if (g->has_public_key && memcmp(g->public_key, key, KEY_SIZE) != 0) {
                (void) log_error(-EBADMSG, "The audit's signing key is another than before");
                *ret_gap = STORE_GAP_KEY;
        } else if (g->has_public_key && !g->is_closed) {
                r = use_segment(s, *segment);
                if (r >= 0)
                        *segment = NULL;
                return r;
        }
        return new_segment(s, g->number + 1, sequence + 1, g->head);
}

static int open_newest(Store *s, StoreGap *ret_gap)
{
        _cleanup_(segment_closep) Segment *segment = NULL;
        _cleanup_free_ uint64_t *numbers = NULL;
        uint8_t none[DIGEST_SIZE] = { 0 };
        size_t n;
        int r;

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
                *ret_gap = STORE_GAP_DAMAGED;
                return replace_damaged(s, numbers, n);
        }
        return r < 0 ? r : continue_segment(s, &segment, ret_gap);
}

int store_open(const StoreSpec *spec, Store **ret, StoreGap *ret_gap)
{
        _cleanup_(store_closep) Store *s = calloc(1, sizeof(*s));
        StoreGap gap = STORE_GAP_NONE;
        int r;

        if (!s)
                return -ENOMEM;
        s->spec = *spec;
        r = chain_new(&s->chain);
        if (r >= 0)
                r = signer_open(spec->directory, &s->signer);
        if (r >= 0)
                r = open_newest(s, &gap);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(s);
        *ret_gap = gap;
        return 0;
}

Store *store_close(Store *s)
{
        if (!s)
                return NULL;
        drop_statements(s);
        s->segment = segment_close(s->segment);
        s->signer = signer_close(s->signer);
        s->chain = chain_free(s->chain);
        free(s);
        return NULL;
}

void store_set_sizes(Store *s, uint64_t segment_bytes_max, uint64_t retention_bytes)
{
        s->spec.segment_bytes_max = segment_bytes_max;
        s->spec.retention_bytes = retention_bytes;
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
        dictionary_rollback(s->dictionary, s->committed_sequence);
}

int store_begin(Store *s)
{
        /* What an earlier rollback could not end would refuse every transaction after it. */
        if (sql_in_transaction(s->segment->sql))
                store_rollback(s);
        return sql_run(s->statements[BEGIN]);
}

int store_commit(Store *s)
{
        uint64_t n_pages = s->n_pages;
        int r;

        /* Where the transaction is open, nobody is asked for it. */
        r = read_number(s->statements[COUNT_PAGES], &n_pages);
        if (r >= 0)
                r = sql_run(s->statements[COMMIT]);
        if (r < 0) {
                store_rollback(s);
                return r;
        }
        s->n_pages = n_pages;
        s->committed_sequence = s->segment->head_sequence;
        memcpy(s->committed_head, s->segment->head, DIGEST_SIZE);
        return 0;
}

int store_enter_session(Store *s, const RowSession *session)
{
        int64_t id;

        return dictionary_enter_session(s->dictionary, session, &id);
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
        row->has_session_columns = false;
        if (row->session) {
                r = dictionary_is_first(s->dictionary, ids->session, &row->has_session_columns);
                if (r < 0)
                        return r;
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
        dictionary_mark(s->dictionary, ids->session, row->sequence);
        return 0;
}

static int append_load(Store *s, const RowPolicy *policy, int64_t id)
{
        Row load = ROW_INIT(AUDIT_KIND_POLICY, "load");
        RowIds ids = ROW_IDS_NONE;

        ids.policy = id;
        load.policy = policy;
        load.uid = policy->by_uid < 0 ? 0 : (uint32_t) policy->by_uid;
        return append_resolved(s, &load, &ids);
}

int store_append(Store *s, Row *row)
{
        RowIds ids = ROW_IDS_NONE;
        bool is_new_policy;
        int r;

        r = dictionary_resolve(s->dictionary, row, &ids, &is_new_policy);
        if (r >= 0 && is_new_policy)
                r = append_load(s, row->policy, ids.policy);
        if (r < 0)
                return r;
        return append_resolved(s, row, &ids);
}

uint64_t store_unsigned(const Store *s)
{
        return s->segment->head_sequence - s->signed_sequence;
}

int store_sign(Store *s)
{
        Checkpoint c = { .sequence = s->segment->head_sequence, .realtime_usec = clock_realtime_usec() };
        int r;

        if (c.sequence == s->signed_sequence)
                return 0;
        memcpy(c.head, s->segment->head, sizeof(c.head));
        r = signer_sign(s->signer, &c);
        if (r >= 0)
                r = segment_add_checkpoint(s->segment, &c, signer_key_id(s->signer));
        /* Not before: the file must never know more than the database. */
        if (r >= 0)
                r = signer_append(s->signer, &c);
        if (r < 0)
                return r;
        s->signed_sequence = c.sequence;
        return 0;
}

static bool is_rotation_due(const Store *s, uint64_t size_bytes)
{
        const Segment *g = s->segment;

        if (g->head_sequence < g->first_sequence || clock_monotonic_usec() < s->rotate_after_usec)
                return false;
        return size_bytes >= s->spec.segment_bytes_max ||
               g->opened_usec / DAY_USEC != clock_realtime_usec() / DAY_USEC;
}

/* The new segment exists, with the head of the old one in its header, before the old one is closed: a crash
 * in between leaves two sound files. */
static int rotate(Store *s)
{
        Segment *old = s->segment;
        int r;

        r = store_sign(s);
        if (r < 0)
                (void) log_warning(r, "Segment %llu ends without a checkpoint, ignoring",
                                   (unsigned long long) old->number);
        s->segment = NULL;
        r = new_segment(s, old->number + 1, old->head_sequence + 1, old->head);
        if (r < 0) {
                s->rotate_after_usec = clock_monotonic_usec() + RETRY_USEC;
                s->segment = old;
                (void) log_warning(r, "A new audit segment cannot be made, the old one goes on");
                return 0;
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
        int r;

        if (sql_wal_pages(s->segment->sql) >= s->checkpoint_pages) {
                r = sql_checkpoint(s->segment->sql, /* is_last= */ false);
                /* A reader holds it up, or the disk is full: again when the log has grown. */
                s->checkpoint_pages =
                                r < 0 ? sql_wal_pages(s->segment->sql) + WAL_PAGES_MAX / 8 : WAL_PAGES_MAX;
        }
        return is_rotation_due(s, s->n_pages * s->page_bytes) ? rotate(s) : 0;
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

int store_list_asked(Store *s, const char *session, uint64_t since_usec, StoreAskedCallback callback,
                     void *userdata)
{
        const AskedSpec spec = { .directory = s->spec.directory,
                                 .chain = s->chain,
                                 .newest = s->segment,
                                 .session = session,
                                 .since_usec = since_usec };

        return asked_list(&spec, callback, userdata);
}
