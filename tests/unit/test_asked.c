/* What a session was let ask for, read back from as many segments as it has lived in. */

#include <dirent.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "daemon/audit/segment.h"
#include "daemon/audit/store.h"
#include "proto/base/clock.h"
#include "proto/base/str.h"

#define N_NAMES  400U
#define N_COMMIT 20U /* a disk may be slow */

typedef struct Found {
        unsigned n;
        unsigned next;
        bool is_wrong;
} Found;

static const RowSession sessions[] = {
        { .id = "00000000000000000000000000000001",
          .uid = 1000,
          .user = "ann",
          .profile = "p",
          .degraded = "" },
        { .id = "00000000000000000000000000000002",
          .uid = 1000,
          .user = "ann",
          .profile = "p",
          .degraded = "" },
};

static void append(Store *s, const RowSession *session, const char *action, Verdict verdict,
                   const char *host, const char *type)
{
        Row row = ROW_INIT(AUDIT_KIND_NET, action);

        row.session = session;
        row.uid = session->uid;
        row.verdict = verdict;
        row.host = host;
        row.method = type;
        ASSERT_OK(store_append(s, &row));
}

/* Each name twice, among what does not count. */
static void fill(Store *s, RowSession *session)
{
        for (unsigned i = 0; i < N_NAMES; i++) {
                char host[32], other[32];
                int r;

                if (i % N_COMMIT == 0)
                        ASSERT_OK(store_begin(s));
                ASSERT_OK(str_printf(host, sizeof(host), "n%u.test", i));
                ASSERT_OK(str_printf(other, sizeof(other), "o%u.test", i));
                append(s, session, i % 2 ? "connect" : "query", VERDICT_ALLOW, host, i % 2 ? NULL : "AAAA");
                append(s, session, i % 2 ? "connect" : "query", VERDICT_ALLOW, host, i % 2 ? NULL : "AAAA");
                append(s, session, "query", VERDICT_ALLOW, other, "HTTPS");
                append(s, session, "connect", VERDICT_DENY, other, NULL);
                append(s, session, "request", VERDICT_ALLOW, other, "GET");
                append(s, &sessions[1], "connect", VERDICT_ALLOW, other, NULL);
                if ((i + 1) % N_COMMIT != 0)
                        continue;
                ASSERT_OK(store_commit(s));
                r = store_maintain(s);
                assert_true(r >= 0);
                if (r > 0)
                        ASSERT_OK(store_enter_session(s, session));
        }
}

static void on_asked(void *userdata, const char *host, const char *type, uint64_t realtime_usec)
{
        Found *f = userdata;
        char expected[32];

        ASSERT_OK(str_printf(expected, sizeof(expected), "n%u.test", f->next));
        if (!str_equal(host, expected) || (type == NULL) != (f->next % 2 == 1) || realtime_usec == 0)
                f->is_wrong = true;
        f->n++;
        f->next++;
}

static void remove_all(const char *directory)
{
        DIR *d = opendir(directory);

        assert_non_null(d);
        for (const struct dirent *e = readdir(d); e; e = readdir(d))
                (void) unlinkat(dirfd(d), e->d_name, 0);
        (void) closedir(d);
        assert_int_equal(rmdir(directory), 0);
}

static int truncate_segment(const char *directory, uint64_t number)
{
        char path[PRIV_PATH_SIZE];

        ASSERT_OK(segment_path(directory, number, path));
        return truncate(path, 100);
}

static void test_asked(void **state)
{
        char directory[] = "/tmp/sandboxd-asked-XXXXXX";
        RowSession session = sessions[0];
        StoreSpec spec = {
                .directory = directory, .machine_id = "m", .boot_id = "b", .segment_bytes_max = 64 * 1024
        };
        uint64_t *numbers;
        Found f = { .n = 0 };
        StoreGap gap;
        size_t n;
        Store *s;

        (void) state;
        assert_non_null(mkdtemp(directory));
        ASSERT_OK(store_open(&spec, &s, &gap));
        session.started_usec = clock_realtime_usec();
        fill(s, &session);
        s = store_close(s);
        ASSERT_OK(segment_list(directory, &numbers, &n));
        assert_true(n > 3);
        ASSERT_OK(store_open(&spec, &s, &gap));
        ASSERT_OK(store_list_asked(s, session.id, session.started_usec, on_asked, &f));
        assert_false(f.is_wrong);
        assert_int_equal(f.n, N_NAMES);
        /* One that has begun now has asked for nothing in older segments, whatever they say. */
        f = (Found){ .next = 0 };
        ASSERT_OK(store_list_asked(s, "00000000000000000000000000000003", clock_realtime_usec(), on_asked,
                                   &f));
        assert_int_equal(f.n, 0);
        /* What has been retired is gone; what is damaged is an error. */
        assert_int_equal(truncate_segment(directory, numbers[1]), 0);
        assert_true(store_list_asked(s, session.id, session.started_usec, on_asked, &f) < 0);
        s = store_close(s);
        free(numbers);
        remove_all(directory);
}

int main(void)
{
        const struct CMUnitTest tests[] = { cmocka_unit_test(test_asked) };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
