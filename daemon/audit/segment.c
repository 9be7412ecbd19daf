#include "daemon/audit/segment.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

#define SEGMENTS_MAX   100000U
#define APPLICATION_ID 0x53424441
#define SCHEMA_VERSION 1

static const char schema[] =
                "PRAGMA application_id=0x53424441; PRAGMA user_version=1;"
                "CREATE TABLE segment(n INTEGER PRIMARY KEY, machine_id TEXT NOT NULL, boot_id TEXT NOT NULL,"
                " opened_us INTEGER NOT NULL, closed_us INTEGER, first_seq INTEGER NOT NULL, last_seq INTEGER,"
                " prev_head BLOB NOT NULL CHECK(length(prev_head)=32), head BLOB, pubkey BLOB NOT NULL) STRICT;"
                "CREATE TABLE policy(policy_id INTEGER PRIMARY KEY, sha256 BLOB NOT NULL UNIQUE CHECK(length(sha256)=32),"
                " loaded_us INTEGER NOT NULL, name TEXT NOT NULL, source TEXT NOT NULL, by_uid INTEGER, body TEXT NOT NULL)"
                " STRICT;"
                "CREATE TABLE rule(rule_id INTEGER PRIMARY KEY, layer TEXT NOT NULL, name TEXT NOT NULL, text TEXT NOT NULL,"
                " UNIQUE(layer,name,text)) STRICT;"
                "CREATE TABLE session(session_id INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, uid INTEGER NOT NULL,"
                " user TEXT NOT NULL, name TEXT, profile TEXT NOT NULL, agent TEXT, agent_session TEXT, workspace BLOB,"
                " cgroup TEXT, degraded TEXT NOT NULL, started_us INTEGER NOT NULL) STRICT;"
                "CREATE TABLE host(host_id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, first_us INTEGER NOT NULL,"
                " first_session INTEGER) STRICT;"
                "CREATE INDEX host_first ON host(first_us);"
                "CREATE TABLE exe(exe_id INTEGER PRIMARY KEY, path BLOB NOT NULL, sha256 BLOB, UNIQUE(path,sha256)) STRICT;"
                "CREATE TABLE decision(seq INTEGER PRIMARY KEY, ts_us INTEGER NOT NULL, boot_us INTEGER NOT NULL,"
                " kind INTEGER NOT NULL CHECK(kind BETWEEN 1 AND 10), action TEXT NOT NULL,"
                " verdict INTEGER CHECK(verdict BETWEEN 0 AND 2), session_id INTEGER REFERENCES session,"
                " uid INTEGER NOT NULL, exec INTEGER, policy_id INTEGER REFERENCES policy, generation INTEGER,"
                " rule_id INTEGER REFERENCES rule, entry TEXT, protocol TEXT, host_id INTEGER REFERENCES host,"
                " ip BLOB CHECK(length(ip) IN(4,16)), port INTEGER CHECK(port BETWEEN 0 AND 65535), method TEXT,"
                " status INTEGER, pid INTEGER, exe_id INTEGER REFERENCES exe, cred TEXT, ref_seq INTEGER, reason TEXT,"
                " priv_hash BLOB CHECK(length(priv_hash)=32), hash BLOB NOT NULL CHECK(length(hash)=32)) STRICT;"
                "CREATE TABLE priv(seq INTEGER PRIMARY KEY REFERENCES decision, salt BLOB NOT NULL, path BLOB, raw BLOB,"
                " detail TEXT) STRICT;"
                "CREATE INDEX d_sess ON decision(session_id) WHERE session_id IS NOT NULL;"
                "CREATE INDEX d_host ON decision(host_id) WHERE host_id IS NOT NULL;"
                "CREATE INDEX d_deny ON decision(kind) WHERE verdict=0;"
                "CREATE TABLE flow(seq INTEGER PRIMARY KEY, ts_us INTEGER NOT NULL, conn_seq INTEGER NOT NULL UNIQUE,"
                " session_id INTEGER REFERENCES session, ip BLOB CHECK(length(ip) IN(4,16)), port INTEGER,"
                " dur_us INTEGER NOT NULL, bytes_up INTEGER, bytes_dn INTEGER, reason TEXT NOT NULL,"
                " hash BLOB NOT NULL CHECK(length(hash)=32)) STRICT;"
                "CREATE TABLE git_op(seq INTEGER NOT NULL REFERENCES decision, n INTEGER NOT NULL, repo TEXT NOT NULL,"
                " op TEXT NOT NULL CHECK(op IN('fetch','create','update','delete','lfs')), ref TEXT, old TEXT, new TEXT,"
                " ff INTEGER, objects INTEGER, bytes INTEGER, result TEXT, PRIMARY KEY(seq,n)) STRICT, WITHOUT ROWID;"
                "CREATE TABLE checkpoint(upto_seq INTEGER PRIMARY KEY, ts_us INTEGER NOT NULL,"
                " head BLOB NOT NULL CHECK(length(head)=32), key_id TEXT NOT NULL,"
                " sig BLOB NOT NULL CHECK(length(sig)=64)) STRICT;"
                "CREATE TABLE sink(name TEXT PRIMARY KEY, last_seq INTEGER NOT NULL, last_us INTEGER, error TEXT)"
                " STRICT, WITHOUT ROWID;"
                "CREATE TABLE rollup_hour(hour INTEGER NOT NULL, uid INTEGER NOT NULL, host_id INTEGER NOT NULL,"
                " verdict INTEGER NOT NULL, n INTEGER NOT NULL, bytes_up INTEGER NOT NULL, bytes_dn INTEGER NOT NULL,"
                " PRIMARY KEY(hour,uid,host_id,verdict)) STRICT, WITHOUT ROWID;"
                "CREATE TRIGGER d_u BEFORE UPDATE ON decision BEGIN SELECT RAISE(ABORT,'append-only'); END;"
                "CREATE TRIGGER d_d BEFORE DELETE ON decision BEGIN SELECT RAISE(ABORT,'append-only'); END;"
                "CREATE TRIGGER f_u BEFORE UPDATE ON flow BEGIN SELECT RAISE(ABORT,'append-only'); END;"
                "CREATE TRIGGER f_d BEFORE DELETE ON flow BEGIN SELECT RAISE(ABORT,'append-only'); END;"
                "CREATE TRIGGER s_u BEFORE UPDATE ON session BEGIN SELECT RAISE(ABORT,'append-only'); END;"
                "CREATE TRIGGER c_u BEFORE UPDATE ON checkpoint BEGIN SELECT RAISE(ABORT,'append-only'); END;"
                "CREATE TRIGGER c_d BEFORE DELETE ON checkpoint BEGIN SELECT RAISE(ABORT,'append-only'); END;"
                "CREATE VIEW v_log AS SELECT d.seq, strftime('%Y-%m-%dT%H:%M:%fZ', d.ts_us/1e6, 'unixepoch') AS time,"
                " CASE d.kind WHEN 1 THEN 'session' WHEN 2 THEN 'net' WHEN 3 THEN 'dns' WHEN 4 THEN 'file'"
                " WHEN 5 THEN 'credential' WHEN 6 THEN 'git' WHEN 7 THEN 'approval' WHEN 8 THEN 'policy'"
                " WHEN 9 THEN 'limit' ELSE 'admin' END AS kind, d.action,"
                " CASE d.verdict WHEN 0 THEN 'deny' WHEN 1 THEN 'ask' WHEN 2 THEN 'allow' END AS decision,"
                " s.id AS session, d.uid, s.user, s.agent_session, d.exec, d.entry, d.protocol, h.name AS host,"
                " coalesce(f.ip,d.ip) AS ip, d.port, d.method, d.status, r.name AS rule, d.reason, d.generation,"
                " lower(hex(p.sha256)) AS policy, d.cred AS credential, e.path AS exe, d.ref_seq, f.bytes_up, f.bytes_dn,"
                " f.dur_us, f.reason AS close_reason"
                " FROM decision d LEFT JOIN session s USING(session_id) LEFT JOIN host h USING(host_id)"
                " LEFT JOIN rule r USING(rule_id) LEFT JOIN policy p USING(policy_id) LEFT JOIN exe e USING(exe_id)"
                " LEFT JOIN flow f ON f.conn_seq=d.seq;";

int segment_path(const char *directory, uint64_t number, char path[PRIV_PATH_SIZE])
{
        return str_printf(path, PRIV_PATH_SIZE, "%s/audit-%06llu.db", directory,
                          (unsigned long long) number);
}

/* 0 for what is not the name of a segment. */
static uint64_t number_of(const char *name)
{
        char digits[20] = { 0 };
        size_t n = strlen(name);
        uint64_t number;

        if (!str_has_prefix(name, "audit-") || !str_has_suffix(name, ".db") || n < 9 + 6 ||
            n - 9 >= sizeof(digits))
                return 0;
        memcpy(digits, name + 6, n - 9);
        return parse_u64(digits, &number) < 0 ? 0 : number;
}

static int compare(const void *a, const void *b)
{
        const uint64_t *x = a, *y = b;

        return (*x > *y) - (*x < *y);
}

int segment_list(const char *directory, uint64_t **ret, size_t *ret_n)
{
        _cleanup_free_ uint64_t *numbers = NULL;
        size_t n = 0, room = 0;
        const struct dirent *entry;
        DIR *d = opendir(directory);

        if (!d)
                return neg_errno();
        while ((entry = readdir(d))) {
                uint64_t number = number_of(entry->d_name);

                if (number == 0 || n >= SEGMENTS_MAX)
                        continue;
                if (n == room) {
                        uint64_t *more = reallocarray(numbers, room = 2 * room + 16, sizeof(*numbers));

                        if (!more) {
                                (void) closedir(d);
                                return -ENOMEM;
                        }
                        numbers = more;
                }
                numbers[n++] = number;
        }
        (void) closedir(d);
        if (n > 0)
                qsort(numbers, n, sizeof(*numbers), compare);
        *ret = TAKE_PTR(numbers);
        *ret_n = n;
        return 0;
}

static int write_header(Segment *s, const SegmentHeader *h)
{
        _cleanup_(sql_finalizep) SqlStatement *t = NULL;
        int r;

        r = sql_prepare(s->sql,
                        "INSERT INTO segment(n,machine_id,boot_id,opened_us,first_seq,prev_head,pubkey)"
                        " VALUES(?1,?2,?3,?4,?5,?6,?7)",
                        &t);
        if (r < 0)
                return r;
        sql_bind_integer(t, 1, (int64_t) h->number);
        sql_bind_text(t, 2, h->machine_id);
        sql_bind_text(t, 3, h->boot_id);
        sql_bind_integer(t, 4, (int64_t) s->opened_usec);
        sql_bind_integer(t, 5, (int64_t) h->first_sequence);
        sql_bind_blob(t, 6, h->previous, DIGEST_SIZE);
        sql_bind_blob(t, 7, h->public_key, KEY_SIZE);
        return sql_run(t);
}

static int fill_new(Segment *s, const char *path, const SegmentHeader *h, Chain *chain)
{
        int r;

        r = sql_open(path, SQL_CREATE, &s->sql);
        if (r >= 0)
                r = sql_execute(s->sql, "BEGIN IMMEDIATE");
        if (r >= 0)
                r = sql_execute(s->sql, schema);
        if (r >= 0)
                r = write_header(s, h);
        if (r >= 0)
                r = sql_execute(s->sql, "COMMIT");
        if (r >= 0)
                r = chain_genesis(chain, h->machine_id, h->number, h->previous,
                                  (RowBytes){ .data = h->public_key, .size = KEY_SIZE }, s->genesis);
        if (r >= 0)
                sql_reserve_log(s->sql);
        return r;
}

static const char *const suffixes[] = { "", "-wal", "-shm" };

static uint64_t size_of_segment(const char *directory, uint64_t number)
{
        char path[PRIV_PATH_SIZE];
        struct stat st;

        if (segment_path(directory, number, path) < 0 || lstat(path, &st) < 0)
                return 0;
        return (uint64_t) st.st_blocks * 512U;
}

/* With its log and index. */
static void remove_segment(const char *path)
{
        char name[PRIV_PATH_SIZE];

        for (size_t i = 0; i < ELEMENTSOF(suffixes); i++) {
                if (str_printf(name, sizeof(name), "%s%s", path, suffixes[i]) >= 0)
                        (void) unlink(name);
        }
}

int segment_create(const char *directory, const SegmentHeader *header, Chain *chain, Segment **ret)
{
        _cleanup_(segment_closep) Segment *s = calloc(1, sizeof(*s));
        char path[PRIV_PATH_SIZE];
        struct stat st;
        int r;

        if (!s)
                return -ENOMEM;
        r = segment_path(directory, header->number, path);
        if (r < 0)
                return r;
        if (lstat(path, &st) >= 0)
                return -EEXIST;
        s->number = header->number;
        s->opened_usec = clock_realtime_usec();
        s->first_sequence = header->first_sequence;
        s->head_sequence = header->first_sequence - 1;
        s->has_public_key = true;
        memcpy(s->public_key, header->public_key, KEY_SIZE);
        r = fill_new(s, path, header, chain);
        if (r < 0) {
                s = segment_close(s);
                remove_segment(path);
                return r;
        }
        memcpy(s->head, s->genesis, sizeof(s->head));
        *ret = TAKE_PTR(s);
        return 0;
}

static int pragma_is(Sql *sql, const char *text, int64_t value)
{
        _cleanup_(sql_finalizep) SqlStatement *t = NULL;
        int r;

        r = sql_prepare(sql, text, &t);
        if (r < 0)
                return r;
        r = sql_step(t);
        if (r < 0)
                return r;
        return r > 0 && sql_integer(t, 0) == value ? 0 : -EBADMSG;
}

static int read_header(Segment *s, Chain *chain)
{
        _cleanup_(sql_finalizep) SqlStatement *t = NULL;
        const void *previous, *key;
        size_t n_previous, n_key;
        int r;

        r = sql_prepare(s->sql,
                        "SELECT machine_id,opened_us,first_seq,closed_us,prev_head,pubkey FROM segment WHERE n=?1",
                        &t);
        if (r < 0)
                return -EBADMSG;
        sql_bind_integer(t, 1, (int64_t) s->number);
        r = sql_step(t);
        if (r <= 0)
                return r < 0 ? r : -EBADMSG;
        previous = sql_blob(t, 4, &n_previous);
        key = sql_blob(t, 5, &n_key);
        if (!previous || n_previous != DIGEST_SIZE || !key || (n_key != 0 && n_key != KEY_SIZE) ||
            !sql_text(t, 0) || sql_integer(t, 2) < 1)
                return -EBADMSG;
        s->has_public_key = n_key == KEY_SIZE;
        memcpy(s->public_key, key, n_key);
        s->opened_usec = (uint64_t) sql_integer(t, 1);
        s->first_sequence = (uint64_t) sql_integer(t, 2);
        s->is_closed = !sql_is_null(t, 3);
        return chain_genesis(chain, sql_text(t, 0), s->number, previous,
                             (RowBytes){ .data = key, .size = n_key }, s->genesis);
}

static int read_head(Segment *s)
{
        _cleanup_(sql_finalizep) SqlStatement *t = NULL;
        const void *hash;
        size_t n;
        int r;

        memcpy(s->head, s->genesis, sizeof(s->head));
        s->head_sequence = s->first_sequence - 1;
        r = sql_prepare(s->sql,
                        "SELECT * FROM (SELECT seq,hash FROM decision ORDER BY seq DESC LIMIT 1) UNION ALL"
                        " SELECT * FROM (SELECT seq,hash FROM flow ORDER BY seq DESC LIMIT 1) ORDER BY 1 DESC",
                        &t);
        if (r < 0)
                return -EBADMSG;
        r = sql_step(t);
        if (r <= 0)
                return r;
        hash = sql_blob(t, 1, &n);
        if (!hash || n != DIGEST_SIZE || sql_integer(t, 0) < (int64_t) s->first_sequence)
                return -EBADMSG;
        s->head_sequence = (uint64_t) sql_integer(t, 0);
        memcpy(s->head, hash, DIGEST_SIZE);
        return 0;
}

static int read_signed(Segment *s)
{
        _cleanup_(sql_finalizep) SqlStatement *t = NULL;
        int r;

        r = sql_prepare(s->sql, "SELECT max(upto_seq) FROM checkpoint", &t);
        if (r < 0)
                return -EBADMSG;
        r = sql_step(t);
        if (r > 0 && sql_integer(t, 0) > 0)
                s->signed_sequence = (uint64_t) sql_integer(t, 0);
        return r < 0 ? r : 0;
}

int segment_open(const char *directory, uint64_t number, SqlMode mode, Chain *chain, Segment **ret)
{
        _cleanup_(segment_closep) Segment *s = calloc(1, sizeof(*s));
        char path[PRIV_PATH_SIZE];
        int r;

        if (!s)
                return -ENOMEM;
        s->number = number;
        r = segment_path(directory, number, path);
        if (r >= 0)
                r = sql_open(path, mode, &s->sql);
        if (r >= 0)
                r = pragma_is(s->sql, "PRAGMA application_id", APPLICATION_ID);
        if (r >= 0)
                r = pragma_is(s->sql, "PRAGMA user_version", SCHEMA_VERSION);
        if (r >= 0)
                r = read_header(s, chain);
        if (r >= 0)
                r = read_head(s);
        if (r >= 0)
                r = read_signed(s);
        if (r < 0)
                return r;
        if (mode == SQL_WRITE)
                sql_reserve_log(s->sql);
        *ret = TAKE_PTR(s);
        return 0;
}

int segment_check(Segment *s)
{
        return sql_check(s->sql);
}

static int same_table(SqlStatement *ours, SqlStatement *theirs, const char *name)
{
        const char *a, *b;
        int r;

        sql_bind_text(ours, 1, name);
        sql_bind_text(theirs, 1, name);
        r = sql_step(ours);
        if (r <= 0)
                return r < 0 ? r : -EIO;
        r = sql_step(theirs);
        if (r > 0) {
                a = sql_text(ours, 0);
                b = sql_text(theirs, 0);
                r = a && b && str_equal(a, b);
                sql_reset(theirs);
        }
        sql_reset(ours);
        return r == 0 ? -EBADMSG : MIN_OF(r, 0);
}

int segment_check_tables(Segment *s)
{
        static const char text[] = "SELECT sql FROM sqlite_master WHERE type='table' AND name=?1";
        static const char *const names[] = { "segment", "policy",   "rule", "session", "host",
                                             "exe",     "decision", "priv", "flow",    "checkpoint" };
        _cleanup_(sql_finalizep) SqlStatement *ours = NULL, *theirs = NULL;
        _cleanup_(sql_closep) Sql *sample = NULL;
        int r;

        r = sql_open(":memory:", SQL_CREATE, &sample);
        if (r >= 0)
                r = sql_execute(sample, schema);
        if (r >= 0)
                r = sql_prepare(sample, text, &ours);
        if (r >= 0)
                r = sql_prepare(s->sql, text, &theirs);
        for (size_t i = 0; i < ELEMENTSOF(names) && r >= 0; i++)
                r = same_table(ours, theirs, names[i]);
        return r;
}

Segment *segment_close(Segment *s)
{
        if (!s)
                return NULL;
        (void) sql_close(s->sql);
        free(s);
        return NULL;
}

int segment_prune(const char *directory, uint64_t size_bytes_max, uint64_t newest, size_t *ret_n)
{
        _cleanup_free_ uint64_t *numbers = NULL;
        uint64_t total = 0;
        size_t n, n_gone = 0;
        int r;

        r = segment_list(directory, &numbers, &n);
        if (r < 0)
                return r;
        for (size_t i = 0; i < n; i++)
                total += size_of_segment(directory, numbers[i]);
        for (size_t i = 0; i < n && total > size_bytes_max && numbers[i] + 1 < newest; i++) {
                uint64_t size = size_of_segment(directory, numbers[i]);
                char path[PRIV_PATH_SIZE];

                r = segment_path(directory, numbers[i], path);
                if (r < 0)
                        return r;
                remove_segment(path);
                total -= MIN_OF(size, total);
                n_gone++;
        }
        *ret_n = n_gone;
        return 0;
}

int segment_add_checkpoint(Segment *s, const Checkpoint *c, const char *id_of_key)
{
        _cleanup_(sql_finalizep) SqlStatement *t = NULL;
        int r;

        r = sql_prepare(s->sql,
                        "INSERT OR IGNORE INTO checkpoint(upto_seq,ts_us,head,key_id,sig) VALUES(?1,?2,?3,?4,?5)",
                        &t);
        if (r < 0)
                return r;
        sql_bind_integer(t, 1, (int64_t) c->sequence);
        sql_bind_integer(t, 2, (int64_t) c->realtime_usec);
        sql_bind_blob(t, 3, c->head, sizeof(c->head));
        sql_bind_text(t, 4, id_of_key);
        sql_bind_blob(t, 5, c->signature, sizeof(c->signature));
        return sql_run(t);
}

int segment_finish(Segment *s)
{
        _cleanup_(sql_finalizep) SqlStatement *t = NULL;
        int r;

        r = sql_prepare(s->sql, "UPDATE segment SET closed_us=?2, last_seq=?3, head=?4 WHERE n=?1", &t);
        if (r < 0)
                return r;
        sql_bind_integer(t, 1, (int64_t) s->number);
        sql_bind_integer(t, 2, (int64_t) clock_realtime_usec());
        sql_bind_integer(t, 3, (int64_t) s->head_sequence);
        sql_bind_blob(t, 4, s->head, sizeof(s->head));
        return sql_run(t);
}

int segment_set_aside(const char *directory, uint64_t number)
{
        static const char *const parts[] = { "-wal", "-shm", "" };
        uint64_t now = clock_realtime_usec();
        char from[PRIV_PATH_SIZE], old[PRIV_PATH_SIZE], new[PRIV_PATH_SIZE];
        int r;

        r = segment_path(directory, number, from);
        if (r < 0)
                return r;
        for (size_t i = 0; i < ELEMENTSOF(parts); i++) {
                r = str_printf(old, sizeof(old), "%s%s", from, parts[i]);
                if (r >= 0)
                        r = str_printf(new, sizeof(new), "%s.corrupt-%llu%s", from, (unsigned long long) now,
                                       parts[i]);
                if (r < 0)
                        return r;
                if (rename(old, new) < 0 && errno != ENOENT)
                        return neg_errno();
        }
        return 0;
}
