/*
 * Rows of the audit log there and back: what the input says is written to a store, committed, and read by
 * the reader of a query; each record comes back with the bytes that went in. Then a query with filters from
 * the input: it yields at most those rows, and its stream is whole.
 */

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/audit/reader.h"
#include "daemon/audit/store.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "tests/fuzz/channel.h"
#include "tests/fuzz/fuzz.h"

#define ROWS_MAX   6U
#define TEXT_MAX   600U
#define STORE_ROWS 4000U /* then the next store begins */
#define STREAM_MAX (4U * 1024U * 1024U)
#define USER_ID    1000U

int LLVMFuzzerInitialize(int *argc, char ***argv);

typedef struct Written {
        char host[TEXT_MAX + 1];
        char action[TEXT_MAX + 1];
        char path[TEXT_MAX];
        size_t n_path;
        char raw[TEXT_MAX];
        size_t n_raw;
        uint32_t kind;
        int64_t verdict;
} Written;

static char directory[] = "/dev/shm/sandboxd-fuzz-XXXXXX";
static Store *store;
static uint64_t n_stored;

static int remove_one(const char *path, _unused_ const struct stat *st, _unused_ int type,
                      _unused_ struct FTW *walk)
{
        return remove(path);
}

static void open_store(void)
{
        static const StoreSpec spec = { .directory = directory,
                                        .machine_id = "00000000000000000000000000000000",
                                        .boot_id = "00000000000000000000000000000000",
                                        .segment_bytes_max = UINT64_MAX / 2 };
        StoreGap gap;

        (void) nftw(directory, remove_one, 8, FTW_DEPTH | FTW_PHYS);
        sb_assert(mkdir(directory, 0700) == 0);
        sb_assert(store_open(&spec, &store, &gap) >= 0);
        n_stored = 0;
}

static void close_store(void)
{
        store = store_close(store);
        (void) nftw(directory, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

int LLVMFuzzerInitialize(_unused_ int *argc, _unused_ char ***argv)
{
        log_open("fuzz");
        sb_assert(mkdtemp(directory) && atexit(close_store) == 0);
        open_store();
        return 0;
}

static size_t take_bytes(const uint8_t **data, size_t *size, char *to)
{
        size_t n = (size_t) fuzz_take_byte(data, size) * 3 % TEXT_MAX;

        n = MIN_OF(n, *size);
        memcpy(to, *data, n);
        *data += n;
        *size -= n;
        return n;
}

/* A string of a column: no NUL. */
static void take_string(const uint8_t **data, size_t *size, char *to)
{
        to[take_bytes(data, size, to)] = '\0';
}

static void write_row(const RowSession *session, Written *w, const uint8_t **data, size_t *size)
{
        Row row;

        w->kind = fuzz_take_byte(data, size) % (AUDIT_KIND_ADMIN + 1U);
        w->kind = MAX_OF(w->kind, 1U);
        w->verdict = (int64_t) (fuzz_take_byte(data, size) % 4U) - 1;
        take_string(data, size, w->action);
        take_string(data, size, w->host);
        w->n_path = take_bytes(data, size, w->path);
        w->n_raw = take_bytes(data, size, w->raw);
        row = ROW_INIT((AuditKind) w->kind, w->action);
        row.verdict = w->verdict;
        row.uid = USER_ID;
        row.session = session;
        row.host = w->host;
        row.path = (RowBytes){ w->n_path > 0 ? w->path : NULL, w->n_path };
        row.raw = (RowBytes){ w->n_raw > 0 ? w->raw : NULL, w->n_raw };
        sb_assert(store_append(store, &row) >= 0);
        n_stored++;
}

/* The whole stream of a query; the caller frees it. */
static char *read_stream(const PrivQuery *query, uint32_t uid, size_t *ret_size)
{
        ReaderRequest request = { .query = *query, .uid = uid };
        int fd = memfd_create("records", MFD_CLOEXEC);
        char *stream;
        off_t n;

        sb_assert(fd >= 0 && reader_run(directory, &request, fd, -EBADF) >= 0);
        n = lseek(fd, 0, SEEK_END);
        sb_assert(n >= 0 && (uint64_t) n <= STREAM_MAX);
        stream = malloc((size_t) n + 1);
        sb_assert(stream && pread(fd, stream, (size_t) n, 0) == (ssize_t) n);
        fd = fd_close(fd);
        *ret_size = (size_t) n;
        return stream;
}

static void check_record(const AuditRecord *r, const char *strings, const Written *w)
{
        const struct {
                unsigned which;
                const char *data;
                size_t size;
        } fields[] = {
                { RECORD_ACTION, w->action, strlen(w->action) },
                { RECORD_HOST, w->host, strlen(w->host) },
                { RECORD_PATH, w->path, w->n_path },
                { RECORD_RAW, w->raw, w->n_raw },
        };

        sb_assert(r->kind == w->kind && r->verdict == w->verdict && r->uid == USER_ID);
        for (size_t i = 0; i < ELEMENTSOF(fields); i++) {
                const char *at = strings;
                uint32_t n = r->lengths[fields[i].which];

                for (unsigned k = 0; k < fields[i].which; k++)
                        at += r->lengths[k] == UINT32_MAX ? 0 : r->lengths[k];
                if (n == UINT32_MAX)
                        n = 0;
                sb_assert(n == fields[i].size && memcmp(at, fields[i].data, n) == 0);
        }
}

/* Records that were read; with rows given they are those, in order. */
static size_t check_stream(const char *stream, size_t size, const Written *rows, size_t n_rows)
{
        size_t n = 0;
        uint64_t last = 0;

        while (size > 0) {
                AuditRecord r;
                size_t length = 0;

                sb_assert(size >= sizeof(r));
                memcpy(&r, stream, sizeof(r));
                sb_assert(r.n_bytes >= sizeof(r) && r.n_bytes <= AUDIT_RECORD_MAX && r.n_bytes <= size);
                for (unsigned i = 0; i < _RECORD_STRING_MAX; i++)
                        length += r.lengths[i] == UINT32_MAX ? 0 : r.lengths[i];
                sb_assert(length == r.n_bytes - sizeof(r) && r.sequence > last);
                last = r.sequence;
                if (rows) {
                        sb_assert(n < n_rows);
                        check_record(&r, stream + sizeof(r), &rows[n]);
                }
                n++;
                stream += r.n_bytes;
                size -= r.n_bytes;
        }
        return n;
}

static void ask_anything(uint64_t after, size_t n_rows, const uint8_t **data, size_t *size)
{
        PrivQuery q = { .uid = -1, .after_sequence = after };
        size_t n;
        char *stream;

        q.kinds = fuzz_take_byte(data, size);
        q.decisions = fuzz_take_byte(data, size) & 7U;
        q.limit = fuzz_take_byte(data, size) % 8U;
        q.has_all_users = fuzz_take_byte(data, size) & 1U;
        n = MIN_OF(*size, sizeof(q.host) - 1);
        memcpy(q.host, *data, n);
        if (q.has_all_users)
                memcpy(q.session, q.host, sizeof(q.session) - 1);
        stream = read_stream(&q, USER_ID, &n);
        sb_assert(check_stream(stream, n, NULL, 0) <= n_rows);
        free(stream);
        /* Nobody else's rows. */
        stream = read_stream(&q, USER_ID + 1, &n);
        sb_assert(n == 0);
        free(stream);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static Written rows[ROWS_MAX];
        static const RowSession session = { .id = "11111111111111111111111111111111",
                                            .uid = USER_ID,
                                            .user = "fuzz",
                                            .name = "work",
                                            .profile = "agent",
                                            .agent = "",
                                            .agent_session = "",
                                            .workspace = "/",
                                            .cgroup = "/",
                                            .degraded = "" };
        uint64_t head = store_head(store);
        PrivQuery q = { .uid = -1, .after_sequence = head };
        size_t n = fuzz_take_byte(&data, &size) % ROWS_MAX + 1U, n_bytes;
        char *stream;

        sb_assert(store_begin(store) >= 0);
        for (size_t i = 0; i < n; i++)
                write_row(&session, &rows[i], &data, &size);
        sb_assert(store_commit(store) >= 0);
        stream = read_stream(&q, USER_ID, &n_bytes);
        sb_assert(check_stream(stream, n_bytes, rows, n) == n);
        free(stream);
        ask_anything(head, n, &data, &size);
        if (n_stored > STORE_ROWS) {
                store = store_close(store);
                open_store();
        }
        return 0;
}
