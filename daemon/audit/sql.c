#include "daemon/audit/sql.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"

/* How many virtual machine instructions pass between two looks at the clock. */
#define PROGRESS_STEPS 10000
#define READ_BUSY_MSEC 2000

/* Written once, overwritten from then on: a commit that does not grow the file waits for less. Those of two
 * segments fit into the 8 MiB that every process may lock. */
#define LOG_RESERVE_BYTES (UINT64_C(15) << 18)
#define LOG_FREE_BYTES    (UINT64_C(64) << 20)

struct Sql {
        sqlite3 *db;
        uint64_t deadline_usec;
        int wal_pages;
        void *log_map; /* of LOG_RESERVE_BYTES; never read */
};

struct SqlStatement {
        Sql *sql;
        sqlite3_stmt *statement;
        int error; /* of the first failed bind */
};

static int to_errno(int code)
{
        switch (code & 0xff) {
        case SQLITE_FULL:
                return -ENOSPC;
        case SQLITE_BUSY:
        case SQLITE_LOCKED:
                return -EBUSY;
        case SQLITE_CORRUPT:
        case SQLITE_NOTADB:
                return -EBADMSG;
        case SQLITE_NOMEM:
                return -ENOMEM;
        case SQLITE_INTERRUPT:
                return -ETIMEDOUT;
        case SQLITE_CONSTRAINT:
        case SQLITE_MISMATCH:
        case SQLITE_TOOBIG:
        case SQLITE_RANGE:
                return -EINVAL;
        case SQLITE_READONLY:
                return -EROFS;
        case SQLITE_CANTOPEN:
                return -ENOENT;
        default:
                return -EIO;
        }
}

static int report(const Sql *s, int code)
{
        int r = to_errno(code);

        log_debug("SQLite: %s", sqlite3_errmsg(s->db));
        return r;
}

static int on_progress(void *userdata)
{
        const Sql *s = userdata;

        return s->deadline_usec > 0 && clock_monotonic_usec() >= s->deadline_usec;
}

static int on_wal(void *userdata, _unused_ sqlite3 *db, _unused_ const char *name, int n_pages)
{
        Sql *s = userdata;

        s->wal_pages = n_pages;
        return SQLITE_OK;
}

static int harden(Sql *s)
{
        static const struct {
                int id;
                int value;
        } limits[] = {
                { SQLITE_LIMIT_LENGTH, 64 * 1024 * 1024 },
                { SQLITE_LIMIT_SQL_LENGTH, 100000 },
                { SQLITE_LIMIT_COLUMN, 100 },
                { SQLITE_LIMIT_EXPR_DEPTH, 40 },
                { SQLITE_LIMIT_ATTACHED, 0 },
                { SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 300 },
        };

        for (size_t i = 0; i < ELEMENTSOF(limits); i++)
                (void) sqlite3_limit(s->db, limits[i].id, limits[i].value);
        if (sqlite3_db_config(s->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL) != SQLITE_OK ||
            sqlite3_db_config(s->db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL) != SQLITE_OK)
                return -EIO;
        return sql_execute(s, "PRAGMA cell_size_check=ON; PRAGMA temp_store=MEMORY;");
}

int sql_open(const char *path, SqlMode mode, Sql **ret)
{
        _cleanup_(sql_closep) Sql *s = calloc(1, sizeof(*s));
        int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE |
                    SQLITE_OPEN_NOFOLLOW | (mode == SQL_CREATE ? SQLITE_OPEN_CREATE : 0);
        int code, r;

        if (!s)
                return -ENOMEM;
        code = sqlite3_open_v2(path, &s->db, flags, NULL);
        if (code != SQLITE_OK)
                return s->db ? report(s, code) : -ENOMEM;
        (void) sqlite3_extended_result_codes(s->db, 1);
        /* The writer has a file to itself for moments: when it makes one, and when it cuts its log. */
        if (mode == SQL_READ)
                (void) sqlite3_busy_timeout(s->db, READ_BUSY_MSEC);
        sqlite3_progress_handler(s->db, PROGRESS_STEPS, on_progress, s);
        r = harden(s);
        if (r < 0)
                return r;
        if (mode == SQL_READ)
                r = sql_execute(s, "PRAGMA query_only=ON; PRAGMA cache_size=-4096;");
        else
                r = sql_execute(s,
                                "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0;"
                                "PRAGMA cache_size=-16384; PRAGMA journal_size_limit=16777216;");
        if (r < 0)
                return r;
        if (mode != SQL_READ)
                (void) sqlite3_wal_hook(s->db, on_wal, s);
        *ret = TAKE_PTR(s);
        return 0;
}

Sql *sql_close(Sql *s)
{
        if (!s)
                return NULL;
        (void) sqlite3_close_v2(s->db);
        if (s->log_map)
                (void) munmap(s->log_map, LOG_RESERVE_BYTES);
        free(s);
        return NULL;
}

int sql_execute(Sql *s, const char *text)
{
        int code = sqlite3_exec(s->db, text, NULL, NULL, NULL);

        return code == SQLITE_OK ? 0 : report(s, code);
}

void sql_set_deadline(Sql *s, uint64_t deadline_usec)
{
        s->deadline_usec = deadline_usec;
}

bool sql_in_transaction(const Sql *s)
{
        return sqlite3_get_autocommit(s->db) == 0;
}

int sql_wal_pages(const Sql *s)
{
        return s->wal_pages;
}

/* Zeros from the end of the file on. They are no valid frames: SQLite begins at the start and stops at the
 * first. */
static int extend(int fd, uint64_t from, uint64_t to)
{
        static const char zeros[65536];

        while (from < to) {
                ssize_t n = pwrite(fd, zeros, MIN_OF(sizeof(zeros), (size_t) (to - from)), (off_t) from);

                if (n < 0)
                        return neg_errno();
                from += (uint64_t) n;
        }
        return fsync(fd) < 0 ? neg_errno() : 0;
}

/* Keeps the file's pages in memory: frames do not begin where pages do, so writing to a page that is not
 * there reads it first, while somebody waits for the commit. */
static int lock_log(Sql *s, int fd)
{
        void *map;

        if (s->log_map)
                return 0;
        map = mmap(NULL, LOG_RESERVE_BYTES, PROT_READ, MAP_SHARED, fd, 0);
        if (map == MAP_FAILED)
                return neg_errno();
        s->log_map = map;
        return mlock(map, LOG_RESERVE_BYTES) < 0 ? neg_errno() : 0;
}

void sql_reserve_log(Sql *s)
{
        const char *path = sqlite3_filename_wal(sqlite3_db_filename(s->db, "main"));
        _cleanup_close_ int fd = -EBADF;
        struct statfs fs;
        struct stat st;
        int r;

        /* No lock of SQLite's lies on this file: closing it gives none up. */
        fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0 || fstat(fd, &st) < 0 || fstatfs(fd, &fs) < 0)
                return;
        if ((uint64_t) st.st_size < LOG_RESERVE_BYTES &&
            (uint64_t) fs.f_bavail < LOG_FREE_BYTES / (uint64_t) fs.f_bsize)
                return;
        r = extend(fd, (uint64_t) st.st_size, LOG_RESERVE_BYTES);
        if (r >= 0)
                r = lock_log(s, fd);
        if (r < 0)
                (void) log_warning(r,
                                   "the log of the audit store cannot be made ahead, commits take longer");
}

int sql_checkpoint(Sql *s, bool is_last)
{
        int mode = is_last ? SQLITE_CHECKPOINT_TRUNCATE : SQLITE_CHECKPOINT_RESTART;
        int code = sqlite3_wal_checkpoint_v2(s->db, NULL, mode, NULL, NULL);

        if (code != SQLITE_OK)
                return report(s, code);
        s->wal_pages = 0;
        return 0;
}

static int check(Sql *s, const char *pragma)
{
        _cleanup_(sql_finalizep) SqlStatement *t = NULL;
        const char *text;
        int r;

        r = sql_prepare(s, pragma, &t);
        if (r < 0)
                return r;
        r = sql_step(t);
        if (r < 0)
                return r;
        text = r > 0 ? sql_text(t, 0) : NULL;
        if (!text || sqlite3_stricmp(text, "ok") != 0)
                return -EBADMSG;
        return 0;
}

int sql_check(Sql *s)
{
        return check(s, "PRAGMA quick_check(1)");
}

int sql_check_all(Sql *s)
{
        return check(s, "PRAGMA integrity_check(1)");
}

int sql_prepare(Sql *s, const char *text, SqlStatement **ret)
{
        _cleanup_(sql_finalizep) SqlStatement *t = calloc(1, sizeof(*t));
        int code;

        if (!t)
                return -ENOMEM;
        t->sql = s;
        code = sqlite3_prepare_v3(s->db, text, -1, SQLITE_PREPARE_PERSISTENT, &t->statement, NULL);
        if (code != SQLITE_OK)
                return log_error(to_errno(code), "SQLite does not take a statement (%s)",
                                 sqlite3_errmsg(s->db));
        *ret = TAKE_PTR(t);
        return 0;
}

SqlStatement *sql_finalize(SqlStatement *t)
{
        if (!t)
                return NULL;
        (void) sqlite3_finalize(t->statement);
        free(t);
        return NULL;
}

static void note(SqlStatement *t, int code)
{
        if (code != SQLITE_OK && t->error == SQLITE_OK)
                t->error = code;
}

void sql_bind_integer(SqlStatement *t, int i, int64_t v)
{
        note(t, sqlite3_bind_int64(t->statement, i, v));
}

void sql_bind_null(SqlStatement *t, int i)
{
        note(t, sqlite3_bind_null(t->statement, i));
}

void sql_bind_text(SqlStatement *t, int i, const char *v)
{
        note(t, v ? sqlite3_bind_text(t->statement, i, v, -1, SQLITE_STATIC)
                  : sqlite3_bind_null(t->statement, i));
}

void sql_bind_blob(SqlStatement *t, int i, const void *data, size_t size)
{
        note(t, data ? sqlite3_bind_blob64(t->statement, i, size > 0 ? data : "", size, SQLITE_STATIC)
                     : sqlite3_bind_null(t->statement, i));
}

void sql_bind_number(SqlStatement *t, int i, int64_t v)
{
        if (v < 0)
                sql_bind_null(t, i);
        else
                sql_bind_integer(t, i, v);
}

int sql_step(SqlStatement *t)
{
        int code = t->error;

        if (code == SQLITE_OK)
                code = sqlite3_step(t->statement);
        if (code == SQLITE_ROW)
                return 1;
        sql_reset(t);
        return code == SQLITE_DONE ? 0 : report(t->sql, code);
}

void sql_reset(SqlStatement *t)
{
        t->error = SQLITE_OK;
        (void) sqlite3_reset(t->statement);
}

int sql_run(SqlStatement *t)
{
        int r = sql_step(t);

        if (r > 0)
                sql_reset(t);
        return r < 0 ? r : 0;
}

int64_t sql_last_id(const SqlStatement *t)
{
        return sqlite3_last_insert_rowid(t->sql->db);
}

bool sql_is_null(const SqlStatement *t, int i)
{
        return sqlite3_column_type(t->statement, i) == SQLITE_NULL;
}

int64_t sql_integer(const SqlStatement *t, int i)
{
        return sqlite3_column_int64(t->statement, i);
}

int64_t sql_number(const SqlStatement *t, int i)
{
        return sql_is_null(t, i) ? -1 : sql_integer(t, i);
}

const char *sql_text(const SqlStatement *t, int i)
{
        return (const char *) sqlite3_column_text(t->statement, i);
}

const void *sql_blob(const SqlStatement *t, int i, size_t *ret_size)
{
        const void *data;

        if (sql_is_null(t, i)) {
                *ret_size = 0;
                return NULL;
        }
        data = sqlite3_column_blob(t->statement, i);
        *ret_size = (size_t) sqlite3_column_bytes(t->statement, i);
        return data ? data : "";
}
