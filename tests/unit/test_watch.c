/* What the watch makes of requests, how it counts them, and whom it takes for whom. */

#include <linux/fuse.h>
#include <sys/stat.h>

#include "check.h"
#include "daemon/init/plan.h"
#include "daemon/watch/burst.h"
#include "daemon/watch/caller.h"
#include "daemon/watch/request.h"
#include "proto/base/str.h"

#define DIRECTORY(i) (2U + 2U * (i) + 1U)

typedef struct Asked {
        struct fuse_in_header header;
        char body[64];
} Asked;

static Request ask(uint32_t opcode, uint64_t node, const char *body, size_t n_body)
{
        Asked a = { .header = { .len = (uint32_t) (sizeof(a.header) + n_body),
                                .opcode = opcode,
                                .unique = 7,
                                .nodeid = node,
                                .uid = 1000,
                                .pid = 12 } };
        static Asked kept;
        Request q;

        memcpy(a.body, body, n_body);
        kept = a;
        assert_int_equal(request_parse(&kept, a.header.len, &q), 0);
        return q;
}

static int answer(const Request *q, bool is_quiet)
{
        char reply[REPLY_SIZE_MAX];
        struct fuse_out_header h;
        size_t n = request_answer(q, is_quiet, reply);

        assert_in_range(n, sizeof(h), sizeof(reply));
        memcpy(&h, reply, sizeof(h));
        assert_int_equal(h.len, n);
        assert_int_equal(h.unique, 7);
        return h.error;
}

/* Whatever is asked of a mask, and whatever may come to the protocol: nothing is ever opened. */
static void test_answers(void **state)
{
        (void) state;
        for (uint32_t opcode = 0; opcode < 60; opcode++) {
                Request q;

                if (opcode == FUSE_INIT || opcode == FUSE_LOOKUP)
                        continue;
                q = ask(opcode, DIRECTORY(3), "", 0);
                if (q.kind == REQUEST_SILENT) {
                        char reply[REPLY_SIZE_MAX];

                        assert_int_equal(request_answer(&q, false, reply), 0);
                        continue;
                }
                assert_true(answer(&q, false) < 0 || opcode == FUSE_STATFS);
                assert_true(answer(&q, true) < 0 || opcode == FUSE_STATFS || opcode == FUSE_GETATTR);
        }
        Request q = ask(FUSE_LOOKUP, DIRECTORY(3), "id_rsa", 7);
        assert_int_equal(q.kind, REQUEST_ATTEMPT);
        assert_int_equal(q.n_name, 6);
        assert_int_equal(answer(&q, false), -EACCES);
        assert_int_equal(answer(&q, true), -ENOENT);
}

static void test_nodes(void **state)
{
        static const struct {
                const char *name;
                int mount;
        } names[] = { { "d0", 0 },   { "f7", 7 },   { "d12", 12 },    { "d", -1 },      { "x1", -1 },
                      { "d-1", -1 }, { "d1x", -1 }, { "d99999", -1 }, { "d65535", -1 }, { "..", -1 } };

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                char reply[REPLY_SIZE_MAX];
                struct fuse_entry_out entry;
                Request q;

                q = ask(FUSE_LOOKUP, FUSE_ROOT_ID, names[i].name, strlen(names[i].name) + 1);
                assert_int_equal(q.kind, REQUEST_ROOT_LOOKUP);
                if (names[i].mount < 0) {
                        assert_int_equal(answer(&q, true), -ENOENT);
                        continue;
                }
                assert_int_equal(answer(&q, true), 0);
                (void) request_answer(&q, true, reply);
                memcpy(&entry, reply + sizeof(struct fuse_out_header), sizeof(entry));
                assert_int_equal(request_mount_of(entry.nodeid), names[i].mount);
                assert_int_equal(entry.attr.mode, names[i].name[0] == 'd' ? S_IFDIR : S_IFREG);
        }
        assert_int_equal(request_mount_of(0), -1);
        assert_int_equal(request_mount_of(FUSE_ROOT_ID), -1);
        assert_int_equal(request_mount_of(2 + 2 * PLAN_MOUNTS_MAX), -1);
        assert_int_equal(request_mount_of(UINT64_MAX), -1);
}

static void test_broken(void **state)
{
        Asked a = { .header = { .opcode = FUSE_LOOKUP, .nodeid = 5 }, .body = "name" };
        Request q;

        (void) state;
        for (size_t n = 0; n < sizeof(a.header); n++)
                assert_int_equal(request_parse(&a, n, &q), -EPROTO);
        a.header.len = sizeof(a.header) + 5;
        assert_int_equal(request_parse(&a, sizeof(a.header) + 4, &q), -EPROTO);
        assert_int_equal(request_parse(&a, sizeof(a.header) + 5, &q), 0);
        /* A name without an end, and none. */
        a.header.len = sizeof(a.header) + 4;
        assert_int_equal(request_parse(&a, a.header.len, &q), -EPROTO);
        a.body[0] = '\0';
        assert_int_equal(request_parse(&a, a.header.len, &q), -EPROTO);
        a.header.opcode = FUSE_INIT;
        a.header.len = sizeof(a.header) + 8;
        assert_int_equal(request_parse(&a, a.header.len, &q), -EPROTO);
}

static Attempt attempt_of(uint32_t thread, const char *name)
{
        return (Attempt){
                .mount = 1, .operation = FILE_LOOKUP, .thread = thread, .name = name, .n_name = strlen(name)
        };
}

/* Everything is counted, whatever a session makes up, and little is kept of it. */
static void test_bursts(void **state)
{
        uint64_t now = 1000 * BURST_USEC, counted = 0;
        Attempt same = attempt_of(1, "key");
        unsigned told = 0;
        Bursts b;
        Burst *x;

        (void) state;
        bursts_init(&b);
        assert_false(bursts_has(&b, &same));
        assert_int_equal(bursts_take(&b, &same, now, &x), 1);
        assert_true(bursts_has(&b, &same));
        counted += x->count;
        burst_told(x, now);
        for (unsigned i = 0; i < 999; i++)
                assert_int_equal(bursts_take(&b, &same, now + i, &x), 0);
        assert_null(bursts_next(&b, now + BURST_USEC - 1, false));
        x = bursts_next(&b, now + BURST_USEC, false);
        assert_non_null(x);
        assert_int_equal(x->count, 999);
        counted += x->count;
        burst_told(x, now + BURST_USEC);
        now += 10 * BURST_USEC;
        for (uint32_t i = 0; i < 5000; i++) {
                char name[16];
                int r;

                ASSERT_OK(str_printf(name, sizeof(name), "%u", i));
                Attempt a = attempt_of(i, name);
                r = bursts_take(&b, &a, now, &x);
                assert_true(r >= 0);
                assert_in_range(b.n, 0, BURSTS_MAX);
                if (r == 1) {
                        told++;
                        assert_true(bursts_has(&b, &a));
                        counted += x->count;
                        burst_told(x, now);
                }
        }
        assert_in_range(told, 1, BURSTS_MAX + 1);
        while ((x = bursts_next(&b, now, true))) {
                counted += x->count;
                assert_true(x->is_mixed);
                /* Of many kinds: whose it was first says nothing of the others. */
                Attempt first = attempt_of(x->thread, "");
                first.name = x->name;
                first.n_name = x->n_name;
                assert_false(bursts_has(&b, &first));
                burst_told(x, now);
        }
        assert_int_equal(counted, 6000);
        bursts_done(&b);
        assert_false(bursts_wait(&b));
}

/* What a program calls itself says nothing about whose it is. */
static void test_callers(void **state)
{
        static const char session[] = "0123456789abcdef0123456789abcdef";
        Caller c = { 0 };

        (void) state;
        assert_int_equal(caller_command_of("0::/s/0123456789abcdef0123456789abcdef/e12\n", session), 12);
        assert_int_equal(caller_command_of("0::/s/0123456789abcdef0123456789abcdef\n", session), 0);
        assert_int_equal(caller_command_of("0::/s/0123456789abcdef0123456789abcdef/e\n", session), 0);
        assert_int_equal(caller_command_of("0::/s/0123456789abcdef0123456789abcdef/e99999999999\n", session),
                         0);
        assert_int_equal(caller_command_of("0::/s/1123456789abcdef0123456789abcdef/e12\n", session), 0);
        caller_parse_status(
                        "Name:\t\\nUid:\t0\\nTgid:\t1\nTgid:\t77\nPid:\t78\nUid:\t1000\t1000\t1000\t1000\n",
                        &c);
        assert_int_equal(c.pid, 77);
        assert_false(c.is_host_root);
        caller_parse_status("Name:\tsandbox-init\nTgid:\t77\nUid:\t0\t1000\t0\t1000\n", &c);
        assert_true(c.is_host_root);
        caller_parse_status("Name:\tx\nTgid:\t77\nUid:\t01\t0\t0\t0\n", &c);
        assert_false(c.is_host_root);
        c = (Caller){ 0 };
        caller_parse_status("", &c);
        assert_int_equal(c.pid, 0);
        assert_false(c.is_host_root);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_answers), cmocka_unit_test(test_nodes),
                cmocka_unit_test(test_broken),  cmocka_unit_test(test_bursts),
                cmocka_unit_test(test_callers),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
