/*
 * The audit worker, message by message. With the program as argument, and as root, the same against the
 * confined program.
 */

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/audit/audit.h"
#include "daemon/audit/chain.h"
#include "daemon/audit/segment.h"
#include "daemon/audit/verify.h"
#include "proto/base/clock.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"
#include "tests/unit/audit_fixture.h"
#include "tests/unit/check.h"

static void test_row_before_verdict(_unused_ void **state)
{
        PrivDecide d = question(1, "allowed.test");
        PrivDialClosed closed = { .duration_usec = 5,
                                  .sent_bytes = 10,
                                  .received_bytes = 20,
                                  .port = 443,
                                  .address = { .family = 4, .bytes = { 1, 2, 3, 4 } },
                                  .reason = CLOSE_DONE };
        _cleanup_imsg_ Imsg m = { .n_fds = 0 };
        PrivVerdict v;
        World w;

        world_init(&w);
        world_begin(&w, VERDICT_ALLOW);
        v = world_ask(&w, &d);
        ASSERT_EQ(v.verdict, VERDICT_ALLOW);
        ASSERT_EQ(world_number(&w,
                               "SELECT seq FROM decision WHERE kind=2 AND action='connect' AND verdict=2"),
                  v.sequence);
        channel_expect(&w.dialer, PRIV_DIAL, &m);
        ASSERT_EQ(((const PrivDial *) m.body)->sequence, v.sequence);
        ASSERT_STREQ(((const PrivDial *) m.body)->host, "allowed.test");
        closed.session = w.session;
        closed.sequence = v.sequence;
        channel_say(&w.dialer, PRIV_DIAL_CLOSED, &closed, sizeof(closed), -EBADF);
        d = question(2, "");
        d.address = (PrivAddress){ .family = 4, .bytes = { 9, 9, 9, 9 } };
        v = world_ask(&w, &d);
        ASSERT_EQ(v.verdict, VERDICT_DENY);
        ASSERT_STREQ(v.rule, "nine");
        ASSERT_STREQ(v.text, "not nine");
        d = question(3, "");
        d.is_malformed = 1;
        v = world_ask(&w, &d);
        ASSERT_EQ(v.reason, REASON_MALFORMED);
        ASSERT_EQ(channel_receive(&w.dialer, &m, 50), 0);
        ASSERT_EQ(world_stop(&w), 0);
        ASSERT_EQ(world_number(&w, "SELECT bytes_up FROM flow WHERE reason='done'"), 10);
        ASSERT_EQ(world_number(&w,
                               "SELECT count(*) FROM decision d JOIN rule r USING(rule_id) WHERE r.name='nine'"),
                  1);
        ASSERT_EQ(world_number(&w, "SELECT count(*) FROM decision WHERE kind=8 AND action='load'"), 1);
        world_assert_chain(&w, 8);
        world_done(&w);
}

static void test_ask_is_deny(_unused_ void **state)
{
        PrivDecide d = question(1, "open.test");
        PrivVerdict v;
        World w;

        world_init(&w);
        world_begin(&w, VERDICT_ASK);
        v = world_ask(&w, &d);
        ASSERT_EQ(v.verdict, VERDICT_DENY);
        ASSERT_EQ(v.reason, REASON_NO_APPROVER);
        ASSERT_EQ(world_number(&w, "SELECT count(*) FROM decision WHERE verdict=0 AND reason='no-approver'"),
                  1);
        world_done(&w);
}

static void test_refused_address(_unused_ void **state)
{
        PrivDecide d = question(5, "inside.test");
        PrivDialRefused refused = { .request = 5,
                                    .port = 443,
                                    .address = { .family = 4, .bytes = { 10, 0, 0, 1 } } };
        _cleanup_imsg_ Imsg m = { .n_fds = 0 }, again = { .n_fds = 0 };
        PrivVerdict v;
        World w;

        world_init(&w);
        world_begin(&w, VERDICT_ALLOW);
        v = world_ask(&w, &d);
        ASSERT_EQ(v.verdict, VERDICT_ALLOW);
        refused.session = w.session;
        refused.sequence = v.sequence;
        channel_say(&w.dialer, PRIV_DIAL_REFUSED, &refused, sizeof(refused), -EBADF);
        channel_expect(&w.egress, PRIV_VERDICT, &m);
        ASSERT_EQ(((const PrivVerdict *) m.body)->verdict, VERDICT_DENY);
        ASSERT_EQ(((const PrivVerdict *) m.body)->reason, REASON_ADDRESS);
        ASSERT_EQ(world_number(&w, "SELECT ref_seq FROM decision WHERE action='refuse' AND verdict=0"),
                  v.sequence);
        /* A second time the connection is no more: the dialer lies and is dropped. */
        ASSERT_EQ(channel_receive(&w.dialer, &again, WAIT_MSEC), 1);
        channel_say(&w.dialer, PRIV_DIAL_REFUSED, &refused, sizeof(refused), -EBADF);
        ASSERT_EQ(channel_receive(&w.dialer, &again, WAIT_MSEC), -EPIPE);
        d = question(6, "allowed.test");
        v = world_ask(&w, &d);
        ASSERT_EQ(v.verdict, VERDICT_DENY);
        ASSERT_EQ(v.reason, REASON_AUDIT);
        ASSERT_EQ(world_stop(&w), 0);
        world_assert_chain(&w, 6);
        world_done(&w);
}

static void test_forged_messages(_unused_ void **state)
{
        PrivDecide d = question(1, "Allowed.Test");
        PrivEgressRef ref, over;
        _cleanup_imsg_ Imsg m = { .n_fds = 0 };
        World w;
        int theirs;

        world_init(&w);
        world_start(&w);
        ASSERT_EQ(world_open_session(&w, VERDICT_ALLOW, /* is_forged= */ true, 0), -EBADMSG);
        ASSERT_EQ(world_open_session(&w, VERDICT_ALLOW, false, 0), 0);
        ASSERT_EQ(world_open_session(&w, VERDICT_ALLOW, false, 0), -EEXIST);
        world_attach(&w, true);
        channel_say(&w.egress, PRIV_DECIDE, &d, sizeof(d), -EBADF);
        ASSERT_EQ(channel_receive(&w.egress, &m, WAIT_MSEC), -EPIPE);
        imsg_channel_done(&w.egress);
        channel_expect(&w.launcher, PRIV_AUDIT_EGRESS_OVER, &m);
        for (int i = 0; i < 4; i++) {
                ref = (PrivEgressRef){ .session = w.session, .number = 2U + (unsigned) i };
                channel_pair(&w.egress, CHANNEL_EGRESS_AUDIT, ROLE_EGRESS, &theirs);
                channel_say(&w.launcher, PRIV_AUDIT_EGRESS_ATTACH, &ref, sizeof(ref), theirs);
                d = question(1, "allowed.test");
                if (i == 0)
                        d.n_raw = UINT32_MAX;
                else if (i == 1)
                        memset(d.host, 'a', sizeof(d.host));
                else if (i == 2)
                        d.entry = ENTRY_NONE;
                else
                        d.address.family = 4;
                channel_say(&w.egress, PRIV_DECIDE, &d, sizeof(d), -EBADF);
                ASSERT_EQ(channel_receive(&w.egress, &m, WAIT_MSEC), -EPIPE);
                imsg_channel_done(&w.egress);
                /* The launcher hears which worker it was. */
                channel_expect(&w.launcher, PRIV_AUDIT_EGRESS_OVER, &m);
                memcpy(&over, m.body, sizeof(over));
                ASSERT_EQ(over.number, ref.number);
        }
        ASSERT_EQ(world_number(&w, "SELECT count(*) FROM decision WHERE kind=2"), 0);
        ASSERT_EQ(world_stop(&w), 0);
        world_assert_chain(&w, 3);
        world_done(&w);
}

static void test_crash_and_restart(_unused_ void **state)
{
        PrivDecide d = question(1, "allowed.test");
        PrivVerdict v;
        World w;

        world_init(&w);
        world_begin(&w, VERDICT_ALLOW);
        v = world_ask(&w, &d);
        world_crash(&w);
        world_start(&w);
        ASSERT_TRUE(w.ready_head > v.sequence);
        ASSERT_EQ(world_number(&w,
                               "SELECT conn_seq FROM flow WHERE bytes_up IS NULL AND reason='daemon-restart'"),
                  v.sequence);
        /* The launcher kept the session: it goes on, with no second start. */
        ASSERT_EQ(world_open_session(&w, VERDICT_ALLOW, false, 1), 0);
        world_attach(&w, true);
        d.request = 2;
        ASSERT_EQ(world_ask(&w, &d).verdict, VERDICT_ALLOW);
        world_wait_for_leftovers();
        ASSERT_EQ(world_number(&w, "SELECT count(*) FROM decision WHERE kind=1"), 1);
        world_crash(&w);
        world_start(&w);
        world_wait_for_leftovers();
        ASSERT_EQ(world_number(&w,
                               "SELECT count(*) FROM decision WHERE action='end' AND reason='daemon-restart'"),
                  1);
        ASSERT_EQ(world_stop(&w), 0);
        world_assert_chain(&w, 10);
        world_done(&w);
}

static Verification verify(World *w)
{
        Verification v;

        ASSERT_OK(verify_directory(world_audit_path(w), &(VerifySpec){ .from = 0 }, &v));
        return v;
}

static void change(World *w, uint64_t number, const char *sql)
{
        Segment *s;
        Chain *chain;

        ASSERT_OK(chain_new(&chain));
        ASSERT_OK(segment_open(world_audit_path(w), number, SQL_WRITE, chain, &s));
        ASSERT_OK(sql_execute(s->sql, sql));
        (void) segment_close(s);
        (void) chain_free(chain);
}

static void remove_segment(World *w, uint64_t number)
{
        char path[PRIV_PATH_SIZE];

        ASSERT_OK(segment_path(world_audit_path(w), number, path));
        ASSERT_EQ(unlink(path), 0);
}

/* A session that lives on is vouched for by each segment; old segments may go, others not. */
static void test_segments(_unused_ void **state)
{
        PrivDecide d = question(1, "denied.test");
        Verification v;
        World w;

        if (arg_program)
                skip(); /* its segments are larger */
        world_init(&w);
        w.segment_bytes_max = 256 * 1024;
        world_begin(&w, VERDICT_DENY);
        for (unsigned i = 0; i < 4000; i++) {
                ASSERT_OK(str_printf(d.host, sizeof(d.host), "h%u.test", i));
                ASSERT_EQ(world_ask(&w, &d).verdict, VERDICT_DENY);
        }
        ASSERT_EQ(world_stop(&w), 0);
        v = verify(&w);
        ASSERT_EQ(v.bad_sequence, 0);
        ASSERT_EQ(v.signed_sequence, v.head_sequence);
        ASSERT_TRUE(v.n_checkpoints >= 5);
        /* Of a session that began in an older segment. */
        change(&w, 2, "DROP TRIGGER s_u; UPDATE session SET user='bob'");
        ASSERT_TRUE(verify(&w).bad_sequence > 1);
        change(&w, 2, "UPDATE session SET user='ann'");
        ASSERT_EQ(verify(&w).bad_sequence, 0);
        remove_segment(&w, 1);
        v = verify(&w);
        ASSERT_EQ(v.bad_sequence, 0);
        ASSERT_TRUE(v.first_sequence > 1);
        change(&w, 2, "UPDATE session SET user='bob'");
        /* Its first row is the load of the policy. */
        ASSERT_EQ(verify(&w).bad_sequence, v.first_sequence + 1);
        change(&w, 2, "UPDATE session SET user='ann'");
        remove_segment(&w, 3);
        ASSERT_TRUE(verify(&w).bad_sequence > v.first_sequence);
        world_done(&w);
}

/* A session that goes on and chooses no names costs nothing of the log of before. */
static void assert_nothing_is_read_back(World *w)
{
        _cleanup_close_ int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
        PrivDecide d = question(1, "denied.test");
        char path[PRIV_PATH_SIZE];

        ASSERT_OK(segment_path(world_audit_path(w), 1, path));
        ASSERT_TRUE(fd >= 0 && inotify_add_watch(fd, path, IN_OPEN) >= 0);
        ASSERT_EQ(world_open_session(w, VERDICT_DENY, false, 1), 0);
        world_attach(w, true);
        ASSERT_EQ(world_ask(w, &d).verdict, VERDICT_DENY);
        ASSERT_EQ(poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, 0), 0);
}

static void test_rotation(_unused_ void **state)
{
        PrivDecide d = question(1, "denied.test");
        uint64_t *numbers;
        size_t n;
        World w;

        if (arg_program)
                skip(); /* its segments are larger */
        world_init(&w);
        w.segment_bytes_max = 256 * 1024;
        world_begin(&w, VERDICT_DENY);
        for (unsigned i = 0; i < 3000; i++) {
                ASSERT_OK(str_printf(d.host, sizeof(d.host), "h%u.test", i));
                ASSERT_EQ(world_ask(&w, &d).verdict, VERDICT_DENY);
        }
        ASSERT_OK(segment_list(world_audit_path(&w), &numbers, &n));
        free(numbers);
        ASSERT_TRUE(n >= 2);
        world_crash(&w);
        /* Until it is known, however busy this machine is. */
        w.leftover_usec = 60 * USEC_PER_SEC;
        world_start(&w);
        assert_nothing_is_read_back(&w);
        world_crash(&w);
        w.leftover_usec = 0;
        world_start(&w);
        world_wait_for_leftovers();
        ASSERT_EQ(world_number(&w, "SELECT count(*) FROM decision WHERE action='end'"), 1);
        ASSERT_EQ(world_stop(&w), 0);
        world_assert_chain(&w, 3000);
        world_done(&w);
}

/* Reads the stream of a query; the number of records, and the first and last sequence. */
static unsigned query(World *w, PrivQuery *q, AuditRecord *ret_first, AuditRecord *ret_last)
{
        _cleanup_imsg_ Imsg m = { .n_fds = 0 };
        _cleanup_free_ char *data = NULL;
        size_t size, at = 0;
        unsigned n = 0;

        channel_say(&w->api, PRIV_QUERY, q, sizeof(*q), -EBADF);
        channel_expect(&w->api, PRIV_QUERY_STARTED, &m);
        ASSERT_EQ(((const PrivRecorded *) m.body)->error, 0);
        ASSERT_EQ(m.n_fds, 1);
        ASSERT_OK(fd_read_all(m.fds[0], 64 * 1024 * 1024, &data, &size));
        while (at < size) {
                AuditRecord record;

                ASSERT_TRUE(size - at >= sizeof(record));
                memcpy(&record, data + at, sizeof(record));
                ASSERT_TRUE(record.n_bytes <= size - at);
                if (n > 0) {
                        ASSERT_TRUE(record.sequence > ret_last->sequence);
                        if (record.sequence == ret_last->sequence + 1)
                                ASSERT_EQ(memcmp(record.previous_hash, ret_last->hash, 32), 0);
                } else
                        *ret_first = record;
                *ret_last = record;
                at += record.n_bytes;
                n++;
        }
        return n;
}

/* Some one by one, the rest of a second counted together. */
static void expect_denials(World *w, uint32_t n)
{
        uint32_t n_messages = 0;
        uint64_t sequence = 0;

        for (uint32_t sum = 0; sum < n; n_messages++) {
                _cleanup_imsg_ Imsg m = { .n_fds = 0 };
                const PrivDenied *d;

                channel_expect(&w->api, PRIV_DENIED, &m);
                d = m.body;
                ASSERT_EQ(d->count == 1 || n_messages >= 16, true);
                ASSERT_EQ(d->sequence > sequence, true);
                ASSERT_STREQ(d->host, "a.denied.test");
                sequence = d->sequence;
                sum += d->count;
                ASSERT_EQ(sum <= n, true);
        }
        ASSERT_EQ(n_messages >= 2, true);
}

static void test_query(_unused_ void **state)
{
        PrivDecide d = question(1, "a.denied.test");
        PrivQuery q = { .uid = -1 };
        PrivApiAttach other = { .uid = 1001, .sees_all = 0 }, root = { .uid = 0, .sees_all = 1 };
        AuditRecord first, last;
        World w;
        int theirs;

        world_init(&w);
        world_begin(&w, VERDICT_DENY);
        for (unsigned i = 0; i < 20; i++)
                (void) world_ask(&w, &d);
        expect_denials(&w, 20);
        ASSERT_EQ(query(&w, &q, &first, &last), 22); /* load, start, 20 denials; not admin/start */
        q.limit = 5;
        ASSERT_EQ(query(&w, &q, &first, &last), 5);
        ASSERT_EQ(last.sequence, first.sequence + 4);
        q.limit = 0;
        q.decisions = 1U << VERDICT_DENY;
        ASSERT_OK(str_copy(q.session, sizeof(q.session), "work"));
        ASSERT_OK(str_copy(q.host, sizeof(q.host), "*.denied.test"));
        ASSERT_EQ(query(&w, &q, &first, &last), 20);
        ASSERT_OK(str_copy(q.host, sizeof(q.host), "*.a.denied.test"));
        ASSERT_EQ(query(&w, &q, &first, &last), 0);
        q = (PrivQuery){ .uid = -1, .kinds = 1U << AUDIT_KIND_SESSION };
        ASSERT_EQ(query(&w, &q, &first, &last), 1);
        imsg_channel_done(&w.api);
        q = (PrivQuery){ .uid = -1, .has_all_users = 1 };
        channel_pair(&w.api, CHANNEL_API_AUDIT, ROLE_API, &theirs);
        channel_say(&w.launcher, PRIV_AUDIT_API_ATTACH, &other, sizeof(other), theirs);
        ASSERT_EQ(query(&w, &q, &first, &last), 0);
        imsg_channel_done(&w.api);
        channel_pair(&w.api, CHANNEL_API_AUDIT, ROLE_API, &theirs);
        channel_say(&w.launcher, PRIV_AUDIT_API_ATTACH, &root, sizeof(root), theirs);
        ASSERT_EQ(query(&w, &q, &first, &last), 24); /* with the row about this very look */
        ASSERT_EQ(world_number(&w,
                               "SELECT count(*) FROM decision WHERE kind=10 AND action='read' AND uid=0"),
                  1);
        ASSERT_EQ(world_stop(&w), 0);
        world_assert_chain(&w, 24);
        world_done(&w);
}

/* Of an ended session: what was asked for before has its row, and is refused. */
static void decide_late(World *w)
{
        PrivDecide d = question(90, "late.test");
        _cleanup_imsg_ Imsg m = { .n_fds = 0 };

        for (int i = 0; i < 500 && world_number(w, "SELECT count(*) FROM decision WHERE action='end'") == 0;
             i++)
                (void) poll(NULL, 0, 20);
        channel_say(&w->egress, PRIV_DECIDE, &d, sizeof(d), -EBADF);
        d = (PrivDecide){ .request = 91,
                          .entry = ENTRY_UDP,
                          .protocol = PROTOCOL_UDP,
                          .port = 443,
                          .count = 1,
                          .address = { .family = 4, .bytes = { 9, 9, 9, 9 } } };
        channel_say(&w->egress, PRIV_DECIDE, &d, sizeof(d), -EBADF);
        for (unsigned request = 90; request <= 91; request++) {
                channel_expect(&w->egress, PRIV_VERDICT, &m);
                ASSERT_EQ(((const PrivVerdict *) m.body)->request, request);
                ASSERT_EQ(((const PrivVerdict *) m.body)->verdict, VERDICT_DENY);
        }
        ASSERT_EQ(world_number(w, "SELECT count(*) FROM decision WHERE action='connect' AND verdict=0"), 1);
}

static void test_exec_rows(_unused_ void **state)
{
        PrivRecordExec x = { .token = 4, .process = 1 };
        PrivRecordExit e = { .process = 1, .status = 3, .reason = END_EXITED };
        PrivSessionEnd end = { .reason = END_TERMINATED };
        _cleanup_imsg_ Imsg m = { .n_fds = 0 };
        int gate[2];
        char go[2];
        World w;

        world_init(&w);
        world_begin(&w, VERDICT_DENY);
        x.session = e.session = end.session = w.session;
        ASSERT_OK(imsg_pair(gate));
        ASSERT_OK(imsg_send_tail(&w.api, PRIV_RECORD_EXEC, &x, sizeof(x), "ls\0-l", 6, &gate[1], 1));
        (void) fd_close(gate[1]);
        channel_expect(&w.api, PRIV_RECORDED, &m);
        ASSERT_EQ(((const PrivRecorded *) m.body)->error, 0);
        ASSERT_EQ(read(gate[0], go, sizeof(go)), 1);
        ASSERT_EQ(go[0], EXEC_GATE_OPEN);
        (void) fd_close(gate[0]);
        ASSERT_EQ(world_number(&w, "SELECT length(raw) FROM priv"), 6);
        ASSERT_OK(imsg_pair(gate));
        x.process = 2;
        channel_say(&w.api, PRIV_RECORD_EXEC, &x, sizeof(x), gate[1]);
        channel_expect(&w.api, PRIV_RECORDED, &m);
        (void) fd_close(gate[0]);
        ASSERT_OK(id_random(&x.session));
        ASSERT_OK(imsg_pair(gate));
        channel_say(&w.api, PRIV_RECORD_EXEC, &x, sizeof(x), gate[1]);
        channel_expect(&w.api, PRIV_RECORDED, &m);
        ASSERT_EQ(((const PrivRecorded *) m.body)->error, -ENOENT);
        /* Its end closes after the answer. */
        ASSERT_EQ(poll(&(struct pollfd){ .fd = gate[0], .events = POLLIN }, 1, WAIT_MSEC), 1);
        ASSERT_EQ(read(gate[0], go, sizeof(go)), 0);
        (void) fd_close(gate[0]);
        channel_say(&w.launcher, PRIV_AUDIT_SESSION_END, &end, sizeof(end), -EBADF);
        decide_late(&w);
        channel_say(&w.api, PRIV_RECORD_EXIT, &e, sizeof(e), -EBADF);
        /* How it ended is not known: no number says that it went well. */
        e = (PrivRecordExit){
                .session = w.session, .process = 2, .reason = END_SETUP_FAILED, .is_unknown = 1
        };
        channel_say(&w.api, PRIV_RECORD_EXIT, &e, sizeof(e), -EBADF);
        /* No third one has begun. */
        e.process = 3;
        channel_say(&w.api, PRIV_RECORD_EXIT, &e, sizeof(e), -EBADF);
        (void) poll(NULL, 0, 200);
        ASSERT_EQ(world_number(&w, "SELECT count(*) FROM decision WHERE action='exit'"), 2);
        ASSERT_EQ(world_number(&w, "SELECT status FROM decision WHERE action='exit' AND reason='exited'"),
                  3);
        ASSERT_EQ(world_number(&w,
                               "SELECT count(*) FROM decision WHERE action='exit' AND status IS NULL AND "
                               "reason='setup-failed'"),
                  1);
        ASSERT_EQ(world_number(&w,
                               "SELECT count(*) FROM decision WHERE action='end' AND reason='terminated'"),
                  1);
        ASSERT_EQ(world_stop(&w), 0);
        world_assert_chain(&w, 9);
        world_done(&w);
}

static void fill_disk(const char *directory, char *path, size_t size)
{
        static const char zeros[4096];
        int fd;

        ASSERT_OK(str_printf(path, size, "%s/filler", directory));
        fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        ASSERT_TRUE(fd >= 0);
        while (write(fd, zeros, sizeof(zeros)) > 0)
                ;
        (void) fd_close(fd);
}

static void test_disk_full(_unused_ void **state)
{
        PrivDecide d = question(1, "allowed.test");
        char path[128];
        PrivVerdict v;
        unsigned n_denied = 0;
        World w;

        world_init(&w);
        if (geteuid() != 0 || mount("tmpfs", w.directory, "tmpfs", 0, "size=4m") < 0) {
                world_done(&w);
                skip();
                return;
        }
        ASSERT_EQ(mkdir(world_audit_path(&w), 0700), 0);
        world_begin(&w, VERDICT_ALLOW);
        ASSERT_EQ(world_ask(&w, &d).verdict, VERDICT_ALLOW);
        fill_disk(w.directory, path, sizeof(path));
        for (unsigned i = 0; i < 200; i++) {
                d.request++;
                v = world_ask(&w, &d);
                if (v.verdict == VERDICT_DENY) {
                        ASSERT_EQ(v.reason, REASON_AUDIT);
                        n_denied++;
                }
        }
        ASSERT_TRUE(n_denied > 0);
        ASSERT_EQ(unlink(path), 0);
        (void) poll(NULL, 0, 300);
        d.request++;
        ASSERT_EQ(world_ask(&w, &d).verdict, VERDICT_ALLOW);
        (void) poll(NULL, 0, 300);
        ASSERT_EQ(world_number(&w, "SELECT count(*) FROM decision WHERE kind=10 AND action='gap'"), 1);
        ASSERT_EQ(world_stop(&w), 0);
        world_assert_chain(&w, 5);
        ASSERT_EQ(umount2(w.directory, MNT_DETACH), 0);
        world_done(&w);
}

static void test_change_is_found(_unused_ void **state)
{
        PrivDecide d = question(1, "denied.test");
        Verification v;
        Segment *s;
        Chain *chain;
        World w;

        world_init(&w);
        world_begin(&w, VERDICT_DENY);
        (void) world_ask(&w, &d);
        ASSERT_EQ(world_stop(&w), 0);
        world_assert_chain(&w, 5);
        ASSERT_OK(chain_new(&chain));
        ASSERT_OK(segment_open(world_audit_path(&w), 1, SQL_WRITE, chain, &s));
        ASSERT_TRUE(sql_execute(s->sql, "UPDATE decision SET verdict=2") < 0);
        ASSERT_TRUE(sql_execute(s->sql, "DELETE FROM decision") < 0);
        ASSERT_OK(sql_execute(s->sql, "UPDATE host SET name='other.test'"));
        (void) segment_close(s);
        (void) chain_free(chain);
        ASSERT_OK(verify_directory(world_audit_path(&w), &(VerifySpec){ .from = 0 }, &v));
        ASSERT_TRUE(v.bad_sequence > 0);
        world_done(&w);
}

int main(int argc, char **argv)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_row_before_verdict), cmocka_unit_test(test_ask_is_deny),
                cmocka_unit_test(test_refused_address),    cmocka_unit_test(test_forged_messages),
                cmocka_unit_test(test_crash_and_restart),  cmocka_unit_test(test_rotation),
                cmocka_unit_test(test_segments),           cmocka_unit_test(test_query),
                cmocka_unit_test(test_exec_rows),          cmocka_unit_test(test_disk_full),
                cmocka_unit_test(test_change_is_found),
        };

        if (argc > 1 && geteuid() != 0)
                return 77;
        arg_program = argc > 1 ? argv[1] : NULL;
        return cmocka_run_group_tests(tests, NULL, NULL);
}
