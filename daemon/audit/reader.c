/*
 * The reader of one query. It walks the segments twice where a number of newest rows was asked for: back, to
 * find where they begin, then forward. Each page of rows is one short transaction, over before anything is
 * written to the pipe, so that a slow peer does not hold up the writer's checkpoints.
 */

#include "daemon/audit/reader.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "daemon/audit/segment.h"
#include "daemon/policy/compiled.h"
#include "proto/base/buf.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

#define QUERY_USEC (10 * USEC_PER_SEC)
#define STALL_MSEC 30000
#define PAGE_BYTES (256U * 1024U)
#define PAGE_ROWS  1000

/* Between two looks of one that follows: under a load of commits it is not one look a commit. */
#define FOLLOW_PAUSE_MSEC 20

/* Parameters: 1 after, 2 since, 3 until, 4 kinds, 5 verdicts, 6 uid, 7 own uid, 8 session, 9 user, 10 host,
 * 11 pattern of subdomains, 12 address, 13 rule, 14 limit. */
#define JOIN_DECISION                                                                            \
        " FROM decision d LEFT JOIN session s USING(session_id) LEFT JOIN host h USING(host_id)" \
        " LEFT JOIN rule r USING(rule_id)"
#define JOIN_CLOSE                                                                                    \
        " FROM flow f LEFT JOIN session s USING(session_id) LEFT JOIN decision d ON d.seq=f.conn_seq" \
        " LEFT JOIN host h USING(host_id) LEFT JOIN rule r USING(rule_id)"
#define WHERE_ROW(x)                                                                      \
        " WHERE " x ".seq>?1 AND (?2=0 OR " x ".ts_us>=?2) AND (?3=0 OR " x ".ts_us<=?3)" \
        " AND (?9 IS NULL OR s.user=?9)"                                                  \
        " AND (?10 IS NULL OR h.name=?10 OR " x ".ip=?12)"                                \
        " AND (?11 IS NULL OR h.name LIKE ?11 ESCAPE '!') AND (?13 IS NULL OR r.name=?13)"
#define WHERE_DECISION                                                                              \
        WHERE_ROW("d")                                                                              \
        " AND (?4=0 OR (?4>>d.kind)&1) AND (?5=0 OR (d.verdict IS NOT NULL AND (?5>>d.verdict)&1))" \
        " AND (?6<0 OR d.uid=?6 OR s.uid=?6) AND (?7<0 OR d.uid=?7 OR s.uid=?7)"
#define WHERE_CLOSE \
        WHERE_ROW("f") " AND (?4=0 OR (?4>>2)&1) AND ?5=0 AND (?6<0 OR s.uid=?6) AND (?7<0 OR s.uid=?7)"
#define SESSIONS    "(SELECT session_id FROM session WHERE id=?8 OR name=?8)"
#define OF_DECISION " AND d.session_id IN " SESSIONS
/* By way of the connect rows, which have an index; those of an older segment one by one. */
#define OF_CLOSE       " AND f.conn_seq IN (SELECT seq FROM decision WHERE session_id IN " SESSIONS ")"
#define OF_CLOSE_OLDER " AND f.conn_seq<(SELECT first_seq FROM segment) AND f.session_id IN " SESSIONS

#define PREVIOUS(x)                                                                                      \
        "coalesce((SELECT hash FROM decision WHERE seq=" x ".seq-1),(SELECT hash FROM flow WHERE seq=" x \
        ".seq-1))"
#define COLUMNS_DECISION                                                                                        \
        "SELECT d.seq,d.ts_us,d.boot_us,d.kind,d.verdict,d.uid,d.exec,d.pid,d.port,d.status,d.generation,"      \
        "d.ref_seq,NULL,NULL,NULL,d.ip,d.hash," PREVIOUS(                                                       \
                        "d") ",s.id,d.action,s.user,s.agent_session,"                                           \
                             "(SELECT path FROM exe WHERE exe_id=d.exe_id),d.entry,d.protocol,h.name,d.method," \
                             "(SELECT path FROM priv WHERE seq=d.seq),d.cred,r.name,d.reason,"                  \
                             "(SELECT lower(hex(sha256)) FROM policy WHERE policy_id=d.policy_id),"             \
                             "(SELECT raw FROM priv WHERE seq=d.seq),(SELECT detail FROM priv WHERE seq=d.seq)"
#define COLUMNS_CLOSE                                                                                       \
        "SELECT f.seq,f.ts_us,0,2,NULL,coalesce(s.uid,0),NULL,NULL,f.port,NULL,NULL,f.conn_seq,f.bytes_up," \
        "f.bytes_dn,f.dur_us,f.ip,f.hash," PREVIOUS(                                                        \
                        "f") ",s.id,'close',s.user,s.agent_session,"                                        \
                             "NULL,d.entry,d.protocol,h.name,NULL,NULL,NULL,r.name,f.reason,NULL,NULL,NULL"
#define COLUMN_ADDRESS  15
#define COLUMN_HASH     16
#define COLUMN_PREVIOUS 17
#define COLUMN_STRINGS  18

#define FORWARD " ORDER BY 1 LIMIT ?14"
#define BACK    " ORDER BY 1 DESC LIMIT ?14"
#define UNION   " UNION ALL "

static const char rows_all[] =
                COLUMNS_DECISION JOIN_DECISION WHERE_DECISION UNION COLUMNS_CLOSE JOIN_CLOSE WHERE_CLOSE
                " AND ?8 IS NULL" FORWARD;
static const char rows_session[] = COLUMNS_DECISION JOIN_DECISION WHERE_DECISION OF_DECISION UNION
                COLUMNS_CLOSE JOIN_CLOSE WHERE_CLOSE OF_CLOSE UNION COLUMNS_CLOSE JOIN_CLOSE WHERE_CLOSE
                                OF_CLOSE_OLDER FORWARD;
static const char back_all[] = "SELECT d.seq" JOIN_DECISION WHERE_DECISION UNION
                               "SELECT f.seq" JOIN_CLOSE WHERE_CLOSE " AND ?8 IS NULL" BACK;
static const char back_session[] = "SELECT d.seq" JOIN_DECISION WHERE_DECISION OF_DECISION UNION
                                   "SELECT f.seq" JOIN_CLOSE WHERE_CLOSE OF_CLOSE UNION
                                   "SELECT f.seq" JOIN_CLOSE WHERE_CLOSE OF_CLOSE_OLDER BACK;

typedef struct Reader {
        const char *directory;
        const ReaderRequest *request;
        Chain *chain;
        Buf out;
        int fd;
        uint64_t deadline_usec; /* for the time spent in SQLite, not for waiting for the peer */
        uint64_t after;
        uint64_t segment; /* the newest that was read */
        int poke_fd;
        bool is_following;
        char pattern[PRIV_HOST_SIZE * 2];
        PrivAddress address;
} Reader;

/* *.NAME matches names below it only. LIKE knows % and _, which a name may have. */
static int make_pattern(Reader *r)
{
        const char *host = r->request->query.host;
        size_t n = 0;

        if (address_parse(host, &r->address) < 0)
                r->address = (PrivAddress){ 0 };
        if (!str_has_prefix(host, "*."))
                return 0;
        r->pattern[n++] = '%';
        for (const char *c = host + 1; *c; c++) {
                if (n + 3 > sizeof(r->pattern))
                        return -EINVAL;
                if (*c == '%' || *c == '_' || *c == '!')
                        r->pattern[n++] = '!';
                r->pattern[n++] = *c;
        }
        r->pattern[n] = '\0';
        return 0;
}

static void bind(const Reader *r, SqlStatement *t, uint64_t limit)
{
        const PrivQuery *q = &r->request->query;
        bool has_pattern = r->pattern[0] != '\0';
        const char *host = q->host[0] != '\0' && !has_pattern ? q->host : NULL;
        const PrivAddress *a = &r->address;

        sql_bind_integer(t, 1, (int64_t) r->after);
        sql_bind_integer(t, 2, (int64_t) q->since_usec);
        sql_bind_integer(t, 3, (int64_t) q->until_usec);
        sql_bind_integer(t, 4, q->kinds);
        sql_bind_integer(t, 5, q->decisions);
        sql_bind_integer(t, 6, q->uid);
        sql_bind_integer(t, 7, r->request->sees_all ? -1 : (int64_t) r->request->uid);
        sql_bind_text(t, 8, q->session[0] != '\0' ? q->session : NULL);
        sql_bind_text(t, 9, q->user[0] != '\0' ? q->user : NULL);
        sql_bind_text(t, 10, host);
        sql_bind_text(t, 11, has_pattern ? r->pattern : NULL);
        sql_bind_blob(t, 12, a->family != 0 ? a->bytes : NULL, a->family == 4 ? 4 : 16);
        sql_bind_text(t, 13, q->rule[0] != '\0' ? q->rule : NULL);
        sql_bind_integer(t, 14, (int64_t) limit);
}

static int write_out(Reader *r)
{
        while (buf_size(&r->out) > 0) {
                struct pollfd p = { .fd = r->fd, .events = POLLOUT };
                /* One that follows holds nothing but its place: it may wait for its peer, or for its end. */
                int n = poll(&p, 1, r->is_following ? -1 : STALL_MSEC);
                ssize_t written;

                if (n < 0 && errno == EINTR)
                        continue;
                if (n == 0)
                        return -ETIMEDOUT;
                written = write(r->fd, buf_front(&r->out), buf_size(&r->out));
                if (written >= 0)
                        buf_consume(&r->out, (size_t) written);
                else if (errno != EAGAIN && errno != EINTR)
                        return neg_errno();
        }
        return 0;
}

static void fill_numbers(const SqlStatement *t, AuditRecord *record)
{
        int64_t *const numbers[] = { &record->verdict,      &record->uid,
                                     &record->process,      &record->pid,
                                     &record->port,         &record->status,
                                     &record->generation,   &record->refers_to,
                                     &record->sent_bytes,   &record->received_bytes,
                                     &record->duration_usec };

        record->sequence = (uint64_t) sql_integer(t, 0);
        record->realtime_usec = (uint64_t) sql_integer(t, 1);
        record->boottime_usec = (uint64_t) sql_integer(t, 2);
        record->kind = (uint32_t) sql_integer(t, 3);
        for (size_t i = 0; i < ELEMENTSOF(numbers); i++)
                *numbers[i] = sql_number(t, 4 + (int) i);
}

static void fill_bytes(const SqlStatement *t, const Segment *segment, AuditRecord *record)
{
        size_t n;
        const void *data = sql_blob(t, COLUMN_ADDRESS, &n);

        if (data && (n == 4 || n == 16)) {
                record->address.family = n == 4 ? 4 : 6;
                memcpy(record->address.bytes, data, n);
        }
        data = sql_blob(t, COLUMN_HASH, &n);
        if (data && n == DIGEST_SIZE)
                memcpy(record->hash, data, n);
        data = sql_blob(t, COLUMN_PREVIOUS, &n);
        memcpy(record->previous_hash, data && n == DIGEST_SIZE ? data : segment->genesis, DIGEST_SIZE);
}

static int put_record(Reader *r, const SqlStatement *t, const Segment *segment)
{
        AuditRecord record = { 0 };
        size_t n_bytes = sizeof(record), n;
        int result;

        fill_numbers(t, &record);
        fill_bytes(t, segment, &record);
        for (int i = 0; i < _RECORD_STRING_MAX; i++) {
                const void *data = sql_blob(t, COLUMN_STRINGS + i, &n);

                if (n > AUDIT_RECORD_MAX - n_bytes)
                        return -EBADMSG;
                record.lengths[i] = data ? (uint32_t) n : UINT32_MAX;
                n_bytes += n;
        }
        record.n_bytes = (uint32_t) n_bytes;
        result = buf_put(&r->out, &record, sizeof(record));
        for (int i = 0; i < _RECORD_STRING_MAX && result >= 0; i++) {
                const void *data = sql_blob(t, COLUMN_STRINGS + i, &n);

                if (data && n > 0)
                        result = buf_put(&r->out, data, n);
        }
        return result;
}

/* 1: there may be more. */
static int read_page(Reader *r, SqlStatement *t, const Segment *segment)
{
        unsigned n = 0;
        int result;

        bind(r, t, PAGE_ROWS);
        while ((result = sql_step(t)) > 0) {
                result = put_record(r, t, segment);
                if (result < 0)
                        break;
                r->after = (uint64_t) sql_integer(t, 0);
                n++;
                if (buf_size(&r->out) >= PAGE_BYTES) {
                        n = PAGE_ROWS;
                        break;
                }
        }
        sql_reset(t);
        if (result < 0)
                return result;
        return n >= PAGE_ROWS;
}

static int open_segment(const Reader *r, uint64_t number, Segment **ret)
{
        int result = segment_open(r->directory, number, SQL_READ, r->chain, ret);

        if (result >= 0)
                sql_set_deadline((*ret)->sql, r->deadline_usec);
        return result;
}

static int put_mark(Reader *r, enum AuditMark mark, uint64_t sequence)
{
        AuditRecord record = { .n_bytes = sizeof(record), .sequence = sequence, .status = mark };
        int result;

        memset(record.lengths, 0xff, sizeof(record.lengths));
        result = buf_put(&r->out, &record, sizeof(record));
        return result < 0 ? result : write_out(r);
}

/* For the oldest segment that there is: whoever says where to go on, or follows and is slow, must not miss
 * what was retired meanwhile. */
static int check_retired(Reader *r, const Segment *segment)
{
        uint64_t place = r->after;
        int result;

        if (place == 0 || segment->first_sequence <= place + 1)
                return 0;
        result = put_mark(r, AUDIT_MARK_RETIRED, segment->first_sequence);
        return result < 0 ? result : -ENODATA;
}

static int read_segment(Reader *r, uint64_t number, bool is_oldest)
{
        uint64_t head;
        _cleanup_(segment_closep) Segment *segment = NULL;
        _cleanup_(sql_finalizep) SqlStatement *t = NULL;
        int result;

        result = open_segment(r, number, &segment);
        /* Rotated away and retired since the folder was read. */
        if (result == -ENOENT)
                return 0;
        if (result < 0)
                return result;
        result = is_oldest ? check_retired(r, segment) : 0;
        if (result < 0 || segment->head_sequence <= r->after)
                return result;
        head = segment->head_sequence;
        result = sql_prepare(segment->sql, r->request->query.session[0] != '\0' ? rows_session : rows_all,
                             &t);
        while (result >= 0) {
                uint64_t waited_usec;
                int more = read_page(r, t, segment);

                if (more < 0)
                        return more;
                waited_usec = clock_monotonic_usec();
                result = write_out(r);
                r->deadline_usec += clock_monotonic_usec() - waited_usec;
                sql_set_deadline(segment->sql, r->deadline_usec);
                if (!more)
                        break;
        }
        /* Those up to the head are there or do not match. */
        r->after = MAX_OF(r->after, head);
        return result;
}

/* Walks back through one segment; *left is how many are still to be found. */
static int skip_segment(Reader *r, uint64_t number, uint64_t *left, uint64_t *first)
{
        _cleanup_(segment_closep) Segment *segment = NULL;
        _cleanup_(sql_finalizep) SqlStatement *t = NULL;
        int result;

        result = open_segment(r, number, &segment);
        if (result == -ENOENT)
                return 0;
        if (result >= 0)
                result = sql_prepare(segment->sql,
                                     r->request->query.session[0] != '\0' ? back_session : back_all, &t);
        if (result < 0)
                return result;
        bind(r, t, *left);
        while ((result = sql_step(t)) > 0) {
                *first = (uint64_t) sql_integer(t, 0);
                (*left)--;
        }
        return result;
}

/* Where the newest rows that were asked for begin. */
static int skip_to_newest(Reader *r, const uint64_t *numbers, size_t n)
{
        uint64_t left = r->request->query.limit, first = 0;
        int result = 0;

        if (left == 0)
                return 0;
        left = MIN_OF(left, (uint64_t) INT32_MAX);
        for (size_t i = n; i > 0 && left > 0 && result >= 0; i--)
                result = skip_segment(r, numbers[i - 1], &left, &first);
        if (result >= 0 && first > 0)
                r->after = first - 1;
        return result;
}

/* All that is there after our place. */
static int look(Reader *r, bool is_first)
{
        _cleanup_free_ uint64_t *numbers = NULL;
        size_t n = 0;
        int result;

        r->deadline_usec = clock_monotonic_usec() + QUERY_USEC;
        result = segment_list(r->directory, &numbers, &n);
        if (result >= 0 && is_first)
                result = skip_to_newest(r, numbers, n);
        for (size_t i = 0; result >= 0 && i < n; i++) {
                if (numbers[i] < r->segment)
                        continue;
                result = read_segment(r, numbers[i], i == 0);
                r->segment = numbers[i];
        }
        return result;
}

/* 1: rows came; 0: the writer or the peer is gone. */
static int wait_for_rows(const Reader *r)
{
        char bytes[256];

        (void) poll(NULL, 0, FOLLOW_PAUSE_MSEC);
        for (;;) {
                struct pollfd p[] = { { .fd = r->poke_fd, .events = POLLIN }, { .fd = r->fd } };
                ssize_t n;

                if (poll(p, ELEMENTSOF(p), -1) < 0) {
                        if (errno == EINTR)
                                continue;
                        return neg_errno();
                }
                if (p[1].revents != 0)
                        return 0;
                n = read(r->poke_fd, bytes, sizeof(bytes));
                if (n > 0)
                        return 1;
                if (n == 0 || (errno != EAGAIN && errno != EINTR))
                        return 0;
        }
}

static int run(Reader *r)
{
        int result;

        result = chain_new(&r->chain);
        if (result >= 0)
                result = make_pattern(r);
        if (result >= 0)
                result = look(r, /* is_first= */ true);
        if (!r->is_following)
                return result;
        if (result >= 0)
                result = put_mark(r, AUDIT_MARK_READY, 0);
        while (result >= 0) {
                result = wait_for_rows(r);
                if (result == 0)
                        break;
                if (result > 0)
                        result = look(r, /* is_first= */ false);
        }
        return result;
}

int reader_run(const char *directory, const ReaderRequest *request, int out_fd, int poke_fd)
{
        static const uint32_t broken = AUDIT_RECORD_MAX;
        Reader r = { .directory = directory,
                     .request = request,
                     .fd = out_fd,
                     .out = BUF_INIT(PAGE_BYTES + AUDIT_RECORD_MAX),
                     .poke_fd = poke_fd,
                     .is_following = request->query.is_following != 0,
                     .after = request->query.after_sequence };
        int result;

        /* Else a write of more than there is room for waits without end. */
        result = fd_set_nonblock(out_fd, true);
        if (result >= 0)
                result = run(&r);
        if (result < 0 && result != -ENODATA && result != -EPIPE)
                (void) log_warning(result, "rows cannot be read");
        /* The mark has said it. */
        if (result == -ENODATA)
                result = 0;
        if (result < 0 && write(out_fd, &broken, sizeof(broken)) < 0)
                result = neg_errno();
        r.chain = chain_free(r.chain);
        buf_done(&r.out);
        return result;
}
