/*
 * The audit worker as a child, with the test in the place of launcher, api, egress and dialer. With the
 * program as argument, and as root, the same against the confined program.
 */

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/audit/audit.h"
#include "daemon/audit/chain.h"
#include "daemon/audit/readers.h"
#include "daemon/audit/segment.h"
#include "daemon/audit/verify.h"
#include "daemon/policy/block.h"
#include "proto/base/clock.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"
#include "tests/unit/check.h"

#define ASSERT_EQ(a, b)    assert_int_equal((a), (b))
#define ASSERT_STREQ(a, b) assert_string_equal((a), (b))
#define ASSERT_TRUE(x)     assert_true(x)

#define WAIT_MSEC   15000
#define POLICY_TEXT "{\"version\":1}"

typedef struct World {
        char directory[64];
        pid_t pid;
        uint64_t segment_bytes_max;
        ImsgChannel launcher;
        ImsgChannel dialer;
        ImsgChannel api;
        ImsgChannel egress;
        Id session;
        uint64_t ready_head;
} World;

static const char *arg_program;

static int receive(ImsgChannel *c, Imsg *m, int timeout_msec)
{
        struct pollfd p = { .fd = c->fd, .events = POLLIN };

        c->phase = PHASE_RUN;
        if (poll(&p, 1, timeout_msec) <= 0)
                return 0;
        return imsg_receive(c, m);
}

static void expect(ImsgChannel *c, PrivMessage type, Imsg *m)
{
        ASSERT_EQ(receive(c, m, WAIT_MSEC), 1);
        ASSERT_EQ(m->type, type);
}

static void pair(ImsgChannel *ours, PrivChannel channel, PrivRole role, int *ret_theirs)
{
        int fds[2];

        ASSERT_OK(imsg_pair(fds));
        ASSERT_OK(imsg_channel_init(ours, fds[0], channel, role));
        *ret_theirs = fds[1];
}

static void say(ImsgChannel *c, PrivMessage type, const void *body, size_t size, int take_fd)
{
        ASSERT_OK(imsg_send(c, type, body, size, take_fd >= 0 ? &take_fd : NULL, take_fd >= 0 ? 1 : 0));
        (void) fd_close(take_fd);
}

_noreturn_ static void run_program(const World *w)
{
        if (fd_set_cloexec(3, false) >= 0 && unshare(CLONE_NEWNS | CLONE_NEWNET) == 0)
                (void) execl(arg_program, arg_program, "--state-dir", w->directory, "--uid", "64001",
                             "--gid", "64001", NULL);
        _exit(7);
}

_noreturn_ static void run_child(const World *w, int fd)
{
        char directory[80];
        AuditSpec spec = { .store = { .directory = directory,
                                      .machine_id = "0123456789abcdef",
                                      .boot_id = "boot",
                                      .segment_bytes_max = w->segment_bytes_max },
                           .launcher_fd = 3,
                           .leftover_usec = 100 * USEC_PER_MSEC };
        Readers *readers;

        if (dup3(fd, 3, 0) < 0 && fd != 3)
                _exit(9);
        (void) close_range(4, ~0U, 0);
        if (arg_program)
                run_program(w);
        if (str_printf(directory, sizeof(directory), "%s/audit", w->directory) < 0 ||
            readers_new(directory, &readers) < 0)
                _exit(8);
        _exit(audit_run(&spec, readers) < 0 ? 1 : 0);
}

static void start(World *w)
{
        _cleanup_imsg_ Imsg m = { .n_fds = 0 };
        int theirs;

        pair(&w->launcher, CHANNEL_LAUNCHER_AUDIT, ROLE_LAUNCHER, &theirs);
        w->pid = fork(); /* banned:ok */
        ASSERT_TRUE(w->pid >= 0);
        if (w->pid == 0)
                run_child(w, theirs);
        (void) fd_close(theirs);
        w->launcher.phase = PHASE_SETUP;
        ASSERT_EQ(poll(&(struct pollfd){ .fd = w->launcher.fd, .events = POLLIN }, 1, WAIT_MSEC), 1);
        ASSERT_EQ(imsg_receive(&w->launcher, &m), 1);
        ASSERT_EQ(m.type, PRIV_AUDIT_READY);
        w->ready_head = ((const PrivAuditReady *) m.body)->head_sequence;
}

static int stop(World *w)
{
        int status = -1;

        imsg_channel_done(&w->launcher);
        imsg_channel_done(&w->dialer);
        imsg_channel_done(&w->api);
        imsg_channel_done(&w->egress);
        ASSERT_EQ(waitpid(w->pid, &status, 0), w->pid);
        w->pid = 0;
        return status;
}

static void crash(World *w)
{
        ASSERT_EQ(kill(w->pid, SIGKILL), 0);
        (void) stop(w);
}

static void world_init(World *w)
{
        char path[80];

        *w = (World){ .segment_bytes_max = 256 * 1024 * 1024 };
        ASSERT_OK(str_copy(w->directory, sizeof(w->directory), "/tmp/test-audit-XXXXXX"));
        ASSERT_TRUE(mkdtemp(w->directory) != NULL);
        ASSERT_OK(str_printf(path, sizeof(path), "%s/audit", w->directory));
        ASSERT_EQ(mkdir(path, 0700), 0);
        ASSERT_OK(id_random(&w->session));
}

static const char *audit_path(const World *w)
{
        static char path[80];

        ASSERT_OK(str_printf(path, sizeof(path), "%s/audit", w->directory));
        return path;
}

static void world_done(World *w)
{
        static const char *const others[] = { "key", "key.pub", "checkpoints" };
        char command[PRIV_PATH_SIZE];
        uint64_t *numbers = NULL;
        size_t n = 0;

        if (w->pid > 0)
                (void) stop(w);
        if (segment_list(audit_path(w), &numbers, &n) >= 0)
                for (size_t i = 0; i < n; i++)
                        for (int j = 0; j < 3; j++) {
                                static const char *const suffixes[] = { "", "-wal", "-shm" };

                                ASSERT_OK(str_printf(command, sizeof(command), "%s/audit-%06llu.db%s",
                                                     audit_path(w), (unsigned long long) numbers[i],
                                                     suffixes[j]));
                                (void) unlink(command);
                        }
        free(numbers);
        for (size_t i = 0; i < ELEMENTSOF(others); i++) {
                ASSERT_OK(str_printf(command, sizeof(command), "%s/%s", audit_path(w), others[i]));
                (void) unlink(command);
        }
        (void) rmdir(audit_path(w));
        (void) rmdir(w->directory);
}

/* Default as given; 9.9.9.9 denied by rule "nine". */
static int make_policy(Verdict default_verdict, bool is_forged)
{
        static const char strings[] =
                        "\0test\0" POLICY_TEXT "\0profile\0nine\0{\"id\":\"nine\"}\0not nine\0";
        struct {
                PolicyBlock header;
                BlockSet set;
                uint64_t align;
                BlockRule rule;
                char strings[(sizeof(strings) + 7) / 8 * 8];
        } b = { .header = { .magic = BLOCK_MAGIC,
                            .generation = 7,
                            .n_sets = 1,
                            .n_rules = 1,
                            .name = 1,
                            .text = 6 } };
        uint32_t layer = 6 + sizeof(POLICY_TEXT), id = layer + 8, text = id + 5, reason = text + 14;
        Chain *chain;
        int fd;

        b.header.size = sizeof(b);
        b.header.sets = (uint32_t) offsetof(__typeof__(b), set);
        b.header.rules = (uint32_t) offsetof(__typeof__(b), rule);
        b.header.ports = b.header.buckets = b.header.strings = (uint32_t) offsetof(__typeof__(b), strings);
        b.header.terms = b.header.lists = b.header.strings;
        b.header.strings_size = sizeof(b.strings);
        memcpy(b.strings, strings, sizeof(strings));
        b.set = (BlockSet){ .default_verdict = default_verdict, .n_rules = 1, .n_linear = 1 };
        b.rule = (BlockRule){ .verdict = VERDICT_DENY,
                              .flags = BLOCK_RULE_CIDR,
                              .protocols = 0x3f,
                              .id = id,
                              .layer = layer,
                              .text = text,
                              .reason = reason,
                              .prefix_length = 32,
                              .network = { .family = 4, .bytes = { 9, 9, 9, 9 } } };
        ASSERT_OK(chain_new(&chain));
        ASSERT_OK(chain_digest(chain, POLICY_TEXT, strlen(POLICY_TEXT), b.header.digest));
        (void) chain_free(chain);
        b.header.digest[0] = (uint8_t) (b.header.digest[0] ^ (is_forged ? 1 : 0));
        ASSERT_OK(fd_memfd_sealed("policy", &b, sizeof(b), &fd));
        return fd;
}

static int try_open(World *w, Verdict default_verdict, bool is_forged, uint32_t is_known)
{
        _cleanup_imsg_ Imsg m = { .n_fds = 0 };
        PrivSessionOpen o = { .session = w->session, .uid = 1000, .is_known = is_known };

        ASSERT_OK(str_copy(o.user, sizeof(o.user), "ann"));
        ASSERT_OK(str_copy(o.claims.name, sizeof(o.claims.name), "work"));
        ASSERT_OK(str_copy(o.claims.profile, sizeof(o.claims.profile), "agent"));
        ASSERT_OK(str_copy(o.claims.workspace, sizeof(o.claims.workspace), "/home/ann/w\xff"));
        say(&w->launcher, PRIV_AUDIT_SESSION_OPEN, &o, sizeof(o), make_policy(default_verdict, is_forged));
        expect(&w->launcher, PRIV_AUDIT_SESSION_OPENED, &m);
        return ((const PrivSessionOpened *) m.body)->error;
}

static void attach(World *w, bool with_dialer)
{
        PrivApiAttach api = { .uid = 1000 };
        PrivEgressRef ref = { .session = w->session, .number = 1 };
        int theirs;

        if (with_dialer) {
                pair(&w->dialer, CHANNEL_AUDIT_DIALER, ROLE_DIALER, &theirs);
                say(&w->launcher, PRIV_AUDIT_DIALER_ATTACH, NULL, 0, theirs);
        }
        pair(&w->api, CHANNEL_API_AUDIT, ROLE_API, &theirs);
        say(&w->launcher, PRIV_AUDIT_API_ATTACH, &api, sizeof(api), theirs);
        pair(&w->egress, CHANNEL_EGRESS_AUDIT, ROLE_EGRESS, &theirs);
        say(&w->launcher, PRIV_AUDIT_EGRESS_ATTACH, &ref, sizeof(ref), theirs);
}

static void begin(World *w, Verdict default_verdict)
{
        start(w);
        ASSERT_EQ(try_open(w, default_verdict, /* is_forged= */ false, 0), 0);
        attach(w, /* with_dialer= */ true);
}

static PrivDecide request(uint64_t number, const char *host)
{
        PrivDecide d = { .request = number,
                         .entry = ENTRY_CONNECT,
                         .protocol = PROTOCOL_ANY,
                         .port = 443,
                         .wants_connection = 1 };

        ASSERT_OK(str_copy(d.host, sizeof(d.host), host));
        ASSERT_OK(str_copy(d.method, sizeof(d.method), "CONNECT"));
        return d;
}

static PrivVerdict ask(World *w, const PrivDecide *d)
{
        _cleanup_imsg_ Imsg m = { .n_fds = 0 };

        say(&w->egress, PRIV_DECIDE, d, sizeof(*d), -EBADF);
        expect(&w->egress, PRIV_VERDICT, &m);
        return *(const PrivVerdict *) m.body;
}

static void wait_for_leftovers(void)
{
        (void) poll(NULL, 0, arg_program ? 2500 : 400);
}

/* The only value of the first row, from whichever segment is the newest; -1: none. */
static int64_t number_in(World *w, const char *sql)
{
        SqlStatement *t;
        Segment *s;
        Chain *chain;
        uint64_t *numbers;
        size_t n;
        int64_t v = -1;

        ASSERT_OK(chain_new(&chain));
        ASSERT_OK(segment_list(audit_path(w), &numbers, &n));
        ASSERT_TRUE(n > 0);
        ASSERT_OK(segment_open(audit_path(w), numbers[n - 1], SQL_READ, chain, &s));
        ASSERT_OK(sql_prepare(s->sql, sql, &t));
        if (sql_step(t) > 0)
                v = sql_number(t, 0);
        (void) sql_finalize(t);
        (void) segment_close(s);
        (void) chain_free(chain);
        free(numbers);
        return v;
}

static void assert_chain(World *w, uint64_t n_min)
{
        Verification v;

        ASSERT_OK(verify_directory(audit_path(w), &(VerifySpec){ .from = 0 }, &v));
        if (v.bad_sequence > 0)
                fprintf(stderr, "row %llu: %s\n", (unsigned long long) v.bad_sequence, v.message);
        ASSERT_EQ(v.bad_sequence, 0);
        ASSERT_TRUE(v.n_checked >= n_min);
}

static void test_row_before_verdict(_unused_ void **state)
{
        PrivDecide d = request(1, "allowed.test");
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
        begin(&w, VERDICT_ALLOW);
        v = ask(&w, &d);
        ASSERT_EQ(v.verdict, VERDICT_ALLOW);
        ASSERT_EQ(number_in(&w, "SELECT seq FROM decision WHERE kind=2 AND action='connect' AND verdict=2"),
                  v.sequence);
        expect(&w.dialer, PRIV_DIAL, &m);
        ASSERT_EQ(((const PrivDial *) m.body)->sequence, v.sequence);
        ASSERT_STREQ(((const PrivDial *) m.body)->host, "allowed.test");
        closed.session = w.session;
        closed.sequence = v.sequence;
        say(&w.dialer, PRIV_DIAL_CLOSED, &closed, sizeof(closed), -EBADF);
        d = request(2, "");
        d.address = (PrivAddress){ .family = 4, .bytes = { 9, 9, 9, 9 } };
        v = ask(&w, &d);
        ASSERT_EQ(v.verdict, VERDICT_DENY);
        ASSERT_STREQ(v.rule, "nine");
        ASSERT_STREQ(v.text, "not nine");
        d = request(3, "");
        d.is_malformed = 1;
        v = ask(&w, &d);
        ASSERT_EQ(v.reason, REASON_MALFORMED);
        ASSERT_EQ(receive(&w.dialer, &m, 50), 0);
        ASSERT_EQ(stop(&w), 0);
        ASSERT_EQ(number_in(&w, "SELECT bytes_up FROM flow WHERE reason='done'"), 10);
        ASSERT_EQ(number_in(&w,
                            "SELECT count(*) FROM decision d JOIN rule r USING(rule_id) WHERE r.name='nine'"),
                  1);
        ASSERT_EQ(number_in(&w, "SELECT count(*) FROM decision WHERE kind=8 AND action='load'"), 1);
        assert_chain(&w, 8);
        world_done(&w);
}

static void test_ask_is_deny(_unused_ void **state)
{
        PrivDecide d = request(1, "open.test");
        PrivVerdict v;
        World w;

        world_init(&w);
        begin(&w, VERDICT_ASK);
        v = ask(&w, &d);
        ASSERT_EQ(v.verdict, VERDICT_DENY);
        ASSERT_EQ(v.reason, REASON_NO_APPROVER);
        ASSERT_EQ(number_in(&w, "SELECT count(*) FROM decision WHERE verdict=0 AND reason='no-approver'"),
                  1);
        world_done(&w);
}

static void test_refused_address(_unused_ void **state)
{
        PrivDecide d = request(5, "inside.test");
        PrivDialRefused refused = { .request = 5,
                                    .port = 443,
                                    .address = { .family = 4, .bytes = { 10, 0, 0, 1 } } };
        _cleanup_imsg_ Imsg m = { .n_fds = 0 }, again = { .n_fds = 0 };
        PrivVerdict v;
        World w;

        world_init(&w);
        begin(&w, VERDICT_ALLOW);
        v = ask(&w, &d);
        ASSERT_EQ(v.verdict, VERDICT_ALLOW);
        refused.session = w.session;
        refused.sequence = v.sequence;
        say(&w.dialer, PRIV_DIAL_REFUSED, &refused, sizeof(refused), -EBADF);
        expect(&w.egress, PRIV_VERDICT, &m);
        ASSERT_EQ(((const PrivVerdict *) m.body)->verdict, VERDICT_DENY);
        ASSERT_EQ(((const PrivVerdict *) m.body)->reason, REASON_ADDRESS);
        ASSERT_EQ(number_in(&w, "SELECT ref_seq FROM decision WHERE action='refuse' AND verdict=0"),
                  v.sequence);
        /* A second time the connection is no more: the dialer lies and is dropped. */
        ASSERT_EQ(receive(&w.dialer, &again, WAIT_MSEC), 1);
        say(&w.dialer, PRIV_DIAL_REFUSED, &refused, sizeof(refused), -EBADF);
        ASSERT_EQ(receive(&w.dialer, &again, WAIT_MSEC), -EPIPE);
        d = request(6, "allowed.test");
        v = ask(&w, &d);
        ASSERT_EQ(v.verdict, VERDICT_DENY);
        ASSERT_EQ(v.reason, REASON_AUDIT);
        ASSERT_EQ(stop(&w), 0);
        assert_chain(&w, 6);
        world_done(&w);
}

static void test_forged_messages(_unused_ void **state)
{
        PrivDecide d = request(1, "Allowed.Test");
        PrivEgressRef ref, over;
        _cleanup_imsg_ Imsg m = { .n_fds = 0 };
        World w;
        int theirs;

        world_init(&w);
        start(&w);
        ASSERT_EQ(try_open(&w, VERDICT_ALLOW, /* is_forged= */ true, 0), -EBADMSG);
        ASSERT_EQ(try_open(&w, VERDICT_ALLOW, false, 0), 0);
        ASSERT_EQ(try_open(&w, VERDICT_ALLOW, false, 0), -EEXIST);
        attach(&w, true);
        say(&w.egress, PRIV_DECIDE, &d, sizeof(d), -EBADF);
        ASSERT_EQ(receive(&w.egress, &m, WAIT_MSEC), -EPIPE);
        imsg_channel_done(&w.egress);
        expect(&w.launcher, PRIV_AUDIT_EGRESS_OVER, &m);
        for (int i = 0; i < 4; i++) {
                ref = (PrivEgressRef){ .session = w.session, .number = 2U + (unsigned) i };
                pair(&w.egress, CHANNEL_EGRESS_AUDIT, ROLE_EGRESS, &theirs);
                say(&w.launcher, PRIV_AUDIT_EGRESS_ATTACH, &ref, sizeof(ref), theirs);
                d = request(1, "allowed.test");
                if (i == 0)
                        d.n_raw = UINT32_MAX;
                else if (i == 1)
                        memset(d.host, 'a', sizeof(d.host));
                else if (i == 2)
                        d.entry = ENTRY_NONE;
                else
                        d.address.family = 4;
                say(&w.egress, PRIV_DECIDE, &d, sizeof(d), -EBADF);
                ASSERT_EQ(receive(&w.egress, &m, WAIT_MSEC), -EPIPE);
                imsg_channel_done(&w.egress);
                /* The launcher hears which worker it was. */
                expect(&w.launcher, PRIV_AUDIT_EGRESS_OVER, &m);
                memcpy(&over, m.body, sizeof(over));
                ASSERT_EQ(over.number, ref.number);
        }
        ASSERT_EQ(number_in(&w, "SELECT count(*) FROM decision WHERE kind=2"), 0);
        ASSERT_EQ(stop(&w), 0);
        assert_chain(&w, 3);
        world_done(&w);
}

static void test_crash_and_restart(_unused_ void **state)
{
        PrivDecide d = request(1, "allowed.test");
        PrivVerdict v;
        World w;

        world_init(&w);
        begin(&w, VERDICT_ALLOW);
        v = ask(&w, &d);
        crash(&w);
        start(&w);
        ASSERT_TRUE(w.ready_head > v.sequence);
        ASSERT_EQ(number_in(&w,
                            "SELECT conn_seq FROM flow WHERE bytes_up IS NULL AND reason='daemon-restart'"),
                  v.sequence);
        /* The launcher kept the session: it goes on, with no second start. */
        ASSERT_EQ(try_open(&w, VERDICT_ALLOW, false, 1), 0);
        attach(&w, true);
        d.request = 2;
        ASSERT_EQ(ask(&w, &d).verdict, VERDICT_ALLOW);
        wait_for_leftovers();
        ASSERT_EQ(number_in(&w, "SELECT count(*) FROM decision WHERE kind=1"), 1);
        crash(&w);
        start(&w);
        wait_for_leftovers();
        ASSERT_EQ(number_in(&w,
                            "SELECT count(*) FROM decision WHERE action='end' AND reason='daemon-restart'"),
                  1);
        ASSERT_EQ(stop(&w), 0);
        assert_chain(&w, 10);
        world_done(&w);
}

static Verification verify(World *w)
{
        Verification v;

        ASSERT_OK(verify_directory(audit_path(w), &(VerifySpec){ .from = 0 }, &v));
        return v;
}

static void change(World *w, uint64_t number, const char *sql)
{
        Segment *s;
        Chain *chain;

        ASSERT_OK(chain_new(&chain));
        ASSERT_OK(segment_open(audit_path(w), number, SQL_WRITE, chain, &s));
        ASSERT_OK(sql_execute(s->sql, sql));
        (void) segment_close(s);
        (void) chain_free(chain);
}

static void remove_segment(World *w, uint64_t number)
{
        char path[PRIV_PATH_SIZE];

        ASSERT_OK(segment_path(audit_path(w), number, path));
        ASSERT_EQ(unlink(path), 0);
}

/* A session that lives on is vouched for by each segment; old segments may go, others not. */
static void test_segments(_unused_ void **state)
{
        PrivDecide d = request(1, "denied.test");
        Verification v;
        World w;

        if (arg_program)
                skip(); /* its segments are larger */
        world_init(&w);
        w.segment_bytes_max = 256 * 1024;
        begin(&w, VERDICT_DENY);
        for (unsigned i = 0; i < 4000; i++) {
                ASSERT_OK(str_printf(d.host, sizeof(d.host), "h%u.test", i));
                ASSERT_EQ(ask(&w, &d).verdict, VERDICT_DENY);
        }
        ASSERT_EQ(stop(&w), 0);
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

static void test_rotation(_unused_ void **state)
{
        PrivDecide d = request(1, "denied.test");
        uint64_t *numbers;
        size_t n;
        World w;

        if (arg_program)
                skip(); /* its segments are larger */
        world_init(&w);
        w.segment_bytes_max = 256 * 1024;
        begin(&w, VERDICT_DENY);
        for (unsigned i = 0; i < 3000; i++) {
                ASSERT_OK(str_printf(d.host, sizeof(d.host), "h%u.test", i));
                ASSERT_EQ(ask(&w, &d).verdict, VERDICT_DENY);
        }
        ASSERT_OK(segment_list(audit_path(&w), &numbers, &n));
        free(numbers);
        ASSERT_TRUE(n >= 2);
        crash(&w);
        start(&w);
        wait_for_leftovers();
        ASSERT_EQ(number_in(&w, "SELECT count(*) FROM decision WHERE action='end'"), 1);
        ASSERT_EQ(stop(&w), 0);
        assert_chain(&w, 3000);
        world_done(&w);
}

/* Reads the stream of a query; the number of records, and the first and last sequence. */
static unsigned query(World *w, PrivQuery *q, AuditRecord *ret_first, AuditRecord *ret_last)
{
        _cleanup_imsg_ Imsg m = { .n_fds = 0 };
        _cleanup_free_ char *data = NULL;
        size_t size, at = 0;
        unsigned n = 0;

        say(&w->api, PRIV_QUERY, q, sizeof(*q), -EBADF);
        expect(&w->api, PRIV_QUERY_STARTED, &m);
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

                expect(&w->api, PRIV_DENIED, &m);
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
        PrivDecide d = request(1, "a.denied.test");
        PrivQuery q = { .uid = -1 };
        PrivApiAttach other = { .uid = 1001, .sees_all = 0 }, root = { .uid = 0, .sees_all = 1 };
        AuditRecord first, last;
        World w;
        int theirs;

        world_init(&w);
        begin(&w, VERDICT_DENY);
        for (unsigned i = 0; i < 20; i++)
                (void) ask(&w, &d);
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
        pair(&w.api, CHANNEL_API_AUDIT, ROLE_API, &theirs);
        say(&w.launcher, PRIV_AUDIT_API_ATTACH, &other, sizeof(other), theirs);
        ASSERT_EQ(query(&w, &q, &first, &last), 0);
        imsg_channel_done(&w.api);
        pair(&w.api, CHANNEL_API_AUDIT, ROLE_API, &theirs);
        say(&w.launcher, PRIV_AUDIT_API_ATTACH, &root, sizeof(root), theirs);
        ASSERT_EQ(query(&w, &q, &first, &last), 24); /* with the row about this very look */
        ASSERT_EQ(number_in(&w, "SELECT count(*) FROM decision WHERE kind=10 AND action='read' AND uid=0"),
                  1);
        ASSERT_EQ(stop(&w), 0);
        assert_chain(&w, 24);
        world_done(&w);
}

/* Of an ended session: a datagram that was refused before has its row, nothing else an answer. */
static void decide_late(World *w)
{
        PrivDecide d = request(90, "late.test");
        _cleanup_imsg_ Imsg m = { .n_fds = 0 };

        for (int i = 0; i < 500 && number_in(w, "SELECT count(*) FROM decision WHERE action='end'") == 0;
             i++)
                (void) poll(NULL, 0, 20);
        say(&w->egress, PRIV_DECIDE, &d, sizeof(d), -EBADF);
        d = (PrivDecide){ .request = 91,
                          .entry = ENTRY_UDP,
                          .protocol = PROTOCOL_UDP,
                          .port = 443,
                          .count = 1,
                          .address = { .family = 4, .bytes = { 9, 9, 9, 9 } } };
        say(&w->egress, PRIV_DECIDE, &d, sizeof(d), -EBADF);
        expect(&w->egress, PRIV_VERDICT, &m);
        ASSERT_EQ(((const PrivVerdict *) m.body)->request, 91);
        ASSERT_EQ(((const PrivVerdict *) m.body)->verdict, VERDICT_DENY);
        ASSERT_EQ(number_in(w, "SELECT count(*) FROM decision WHERE action='connect'"), 0);
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
        begin(&w, VERDICT_DENY);
        x.session = e.session = end.session = w.session;
        ASSERT_OK(imsg_pair(gate));
        ASSERT_OK(imsg_send_tail(&w.api, PRIV_RECORD_EXEC, &x, sizeof(x), "ls\0-l", 6, &gate[1], 1));
        (void) fd_close(gate[1]);
        expect(&w.api, PRIV_RECORDED, &m);
        ASSERT_EQ(((const PrivRecorded *) m.body)->error, 0);
        ASSERT_EQ(read(gate[0], go, sizeof(go)), 1);
        ASSERT_EQ(go[0], EXEC_GATE_OPEN);
        (void) fd_close(gate[0]);
        ASSERT_EQ(number_in(&w, "SELECT length(raw) FROM priv"), 6);
        ASSERT_OK(imsg_pair(gate));
        x.process = 2;
        say(&w.api, PRIV_RECORD_EXEC, &x, sizeof(x), gate[1]);
        expect(&w.api, PRIV_RECORDED, &m);
        (void) fd_close(gate[0]);
        ASSERT_OK(id_random(&x.session));
        ASSERT_OK(imsg_pair(gate));
        say(&w.api, PRIV_RECORD_EXEC, &x, sizeof(x), gate[1]);
        expect(&w.api, PRIV_RECORDED, &m);
        ASSERT_EQ(((const PrivRecorded *) m.body)->error, -ENOENT);
        /* Its end closes after the answer. */
        ASSERT_EQ(poll(&(struct pollfd){ .fd = gate[0], .events = POLLIN }, 1, WAIT_MSEC), 1);
        ASSERT_EQ(read(gate[0], go, sizeof(go)), 0);
        (void) fd_close(gate[0]);
        say(&w.launcher, PRIV_AUDIT_SESSION_END, &end, sizeof(end), -EBADF);
        decide_late(&w);
        say(&w.api, PRIV_RECORD_EXIT, &e, sizeof(e), -EBADF);
        /* How it ended is not known: no number says that it went well. */
        e = (PrivRecordExit){
                .session = w.session, .process = 2, .reason = END_SETUP_FAILED, .is_unknown = 1
        };
        say(&w.api, PRIV_RECORD_EXIT, &e, sizeof(e), -EBADF);
        /* No third one has begun. */
        e.process = 3;
        say(&w.api, PRIV_RECORD_EXIT, &e, sizeof(e), -EBADF);
        (void) poll(NULL, 0, 200);
        ASSERT_EQ(number_in(&w, "SELECT count(*) FROM decision WHERE action='exit'"), 2);
        ASSERT_EQ(number_in(&w, "SELECT status FROM decision WHERE action='exit' AND reason='exited'"), 3);
        ASSERT_EQ(number_in(&w, "SELECT count(*) FROM decision WHERE action='exit' AND status IS NULL AND "
                                "reason='setup-failed'"),
                  1);
        ASSERT_EQ(number_in(&w, "SELECT count(*) FROM decision WHERE action='end' AND reason='terminated'"),
                  1);
        ASSERT_EQ(stop(&w), 0);
        assert_chain(&w, 8);
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
        PrivDecide d = request(1, "allowed.test");
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
        ASSERT_EQ(mkdir(audit_path(&w), 0700), 0);
        begin(&w, VERDICT_ALLOW);
        ASSERT_EQ(ask(&w, &d).verdict, VERDICT_ALLOW);
        fill_disk(w.directory, path, sizeof(path));
        for (unsigned i = 0; i < 200; i++) {
                d.request++;
                v = ask(&w, &d);
                if (v.verdict == VERDICT_DENY) {
                        ASSERT_EQ(v.reason, REASON_AUDIT);
                        n_denied++;
                }
        }
        ASSERT_TRUE(n_denied > 0);
        ASSERT_EQ(unlink(path), 0);
        (void) poll(NULL, 0, 300);
        d.request++;
        ASSERT_EQ(ask(&w, &d).verdict, VERDICT_ALLOW);
        (void) poll(NULL, 0, 300);
        ASSERT_EQ(number_in(&w, "SELECT count(*) FROM decision WHERE kind=10 AND action='gap'"), 1);
        ASSERT_EQ(stop(&w), 0);
        assert_chain(&w, 5);
        ASSERT_EQ(umount2(w.directory, MNT_DETACH), 0);
        world_done(&w);
}

static void test_change_is_found(_unused_ void **state)
{
        PrivDecide d = request(1, "denied.test");
        Verification v;
        Segment *s;
        Chain *chain;
        World w;

        world_init(&w);
        begin(&w, VERDICT_DENY);
        (void) ask(&w, &d);
        ASSERT_EQ(stop(&w), 0);
        assert_chain(&w, 5);
        ASSERT_OK(chain_new(&chain));
        ASSERT_OK(segment_open(audit_path(&w), 1, SQL_WRITE, chain, &s));
        ASSERT_TRUE(sql_execute(s->sql, "UPDATE decision SET verdict=2") < 0);
        ASSERT_TRUE(sql_execute(s->sql, "DELETE FROM decision") < 0);
        ASSERT_OK(sql_execute(s->sql, "UPDATE host SET name='other.test'"));
        (void) segment_close(s);
        (void) chain_free(chain);
        ASSERT_OK(verify_directory(audit_path(&w), &(VerifySpec){ .from = 0 }, &v));
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
