#include "tests/unit/audit_fixture.h"

#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
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

#define POLICY_TEXT "{\"version\":1}"

const char *arg_program;

int channel_receive(ImsgChannel *c, Imsg *m, int timeout_msec)
{
        struct pollfd p = { .fd = c->fd, .events = POLLIN };

        c->phase = PHASE_RUN;
        if (!imsg_has_more(c) && poll(&p, 1, timeout_msec) <= 0)
                return 0;
        return imsg_receive(c, m);
}

void channel_expect(ImsgChannel *c, PrivMessage type, Imsg *m)
{
        ASSERT_EQ(channel_receive(c, m, WAIT_MSEC), 1);
        ASSERT_EQ(m->type, type);
}

void channel_pair(ImsgChannel *ours, PrivChannel channel, PrivRole role, int *ret_theirs)
{
        int fds[2];

        ASSERT_OK(imsg_pair(fds));
        ASSERT_OK(imsg_channel_init(ours, fds[0], channel, role));
        *ret_theirs = fds[1];
}

void channel_say(ImsgChannel *c, PrivMessage type, const void *body, size_t size, int take_fd)
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
                           .leftover_usec = w->leftover_usec ? w->leftover_usec : 100 * USEC_PER_MSEC };
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

void world_start(World *w)
{
        _cleanup_imsg_ Imsg m = { .n_fds = 0 };
        int theirs;

        channel_pair(&w->launcher, CHANNEL_LAUNCHER_AUDIT, ROLE_LAUNCHER, &theirs);
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

int world_stop(World *w)
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

void world_crash(World *w)
{
        ASSERT_EQ(kill(w->pid, SIGKILL), 0);
        (void) world_stop(w);
}

void world_init(World *w)
{
        char path[80];

        *w = (World){ .segment_bytes_max = 256 * 1024 * 1024 };
        ASSERT_OK(str_copy(w->directory, sizeof(w->directory), "/tmp/test-audit-XXXXXX"));
        ASSERT_TRUE(mkdtemp(w->directory) != NULL);
        ASSERT_OK(str_printf(path, sizeof(path), "%s/audit", w->directory));
        ASSERT_EQ(mkdir(path, 0700), 0);
        ASSERT_OK(id_random(&w->session));
}

const char *world_audit_path(const World *w)
{
        static char path[80];

        ASSERT_OK(str_printf(path, sizeof(path), "%s/audit", w->directory));
        return path;
}

void world_done(World *w)
{
        static const char *const others[] = { "key", "key.pub", "checkpoints" };
        char command[PRIV_PATH_SIZE];
        uint64_t *numbers = NULL;
        size_t n = 0;

        if (w->pid > 0)
                (void) world_stop(w);
        if (segment_list(world_audit_path(w), &numbers, &n) >= 0)
                for (size_t i = 0; i < n; i++)
                        for (int j = 0; j < 3; j++) {
                                static const char *const suffixes[] = { "", "-wal", "-shm" };

                                ASSERT_OK(str_printf(command, sizeof(command), "%s/audit-%06llu.db%s",
                                                     world_audit_path(w), (unsigned long long) numbers[i],
                                                     suffixes[j]));
                                (void) unlink(command);
                        }
        free(numbers);
        for (size_t i = 0; i < ELEMENTSOF(others); i++) {
                ASSERT_OK(str_printf(command, sizeof(command), "%s/%s", world_audit_path(w), others[i]));
                (void) unlink(command);
        }
        (void) rmdir(world_audit_path(w));
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

int world_open_session(World *w, Verdict default_verdict, bool is_forged, uint32_t is_known)
{
        _cleanup_imsg_ Imsg m = { .n_fds = 0 };
        PrivSessionOpen o = { .session = w->session, .uid = 1000, .is_known = is_known };

        ASSERT_OK(str_copy(o.user, sizeof(o.user), "ann"));
        ASSERT_OK(str_copy(o.claims.name, sizeof(o.claims.name), "work"));
        ASSERT_OK(str_copy(o.claims.profile, sizeof(o.claims.profile), "agent"));
        ASSERT_OK(str_copy(o.claims.workspace, sizeof(o.claims.workspace), "/home/ann/w\xff"));
        channel_say(&w->launcher, PRIV_AUDIT_SESSION_OPEN, &o, sizeof(o),
                    make_policy(default_verdict, is_forged));
        channel_expect(&w->launcher, PRIV_AUDIT_SESSION_OPENED, &m);
        return ((const PrivSessionOpened *) m.body)->error;
}

void world_attach(World *w, bool with_dialer)
{
        PrivApiAttach api = { .uid = 1000 };
        PrivEgressRef ref = { .session = w->session, .number = 1 };
        int theirs;

        if (with_dialer) {
                channel_pair(&w->dialer, CHANNEL_AUDIT_DIALER, ROLE_DIALER, &theirs);
                channel_say(&w->launcher, PRIV_AUDIT_DIALER_ATTACH, NULL, 0, theirs);
        }
        channel_pair(&w->api, CHANNEL_API_AUDIT, ROLE_API, &theirs);
        channel_say(&w->launcher, PRIV_AUDIT_API_ATTACH, &api, sizeof(api), theirs);
        channel_pair(&w->egress, CHANNEL_EGRESS_AUDIT, ROLE_EGRESS, &theirs);
        channel_say(&w->launcher, PRIV_AUDIT_EGRESS_ATTACH, &ref, sizeof(ref), theirs);
}

void world_begin(World *w, Verdict default_verdict)
{
        world_start(w);
        ASSERT_EQ(world_open_session(w, default_verdict, /* is_forged= */ false, 0), 0);
        world_attach(w, /* with_dialer= */ true);
}

PrivDecide question(uint64_t number, const char *host)
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

PrivVerdict world_ask(World *w, const PrivDecide *d)
{
        _cleanup_imsg_ Imsg m = { .n_fds = 0 };

        channel_say(&w->egress, PRIV_DECIDE, d, sizeof(*d), -EBADF);
        channel_expect(&w->egress, PRIV_VERDICT, &m);
        return *(const PrivVerdict *) m.body;
}

void world_wait_for_leftovers(void)
{
        (void) poll(NULL, 0, arg_program ? 2500 : 400);
}

int64_t world_number(World *w, const char *sql)
{
        SqlStatement *t;
        Segment *s;
        Chain *chain;
        uint64_t *numbers;
        size_t n;
        int64_t v = -1;

        ASSERT_OK(chain_new(&chain));
        ASSERT_OK(segment_list(world_audit_path(w), &numbers, &n));
        ASSERT_TRUE(n > 0);
        ASSERT_OK(segment_open(world_audit_path(w), numbers[n - 1], SQL_READ, chain, &s));
        ASSERT_OK(sql_prepare(s->sql, sql, &t));
        if (sql_step(t) > 0)
                v = sql_number(t, 0);
        (void) sql_finalize(t);
        (void) segment_close(s);
        (void) chain_free(chain);
        free(numbers);
        return v;
}

void world_assert_chain(World *w, uint64_t n_min)
{
        Verification v;

        ASSERT_OK(verify_directory(world_audit_path(w), &(VerifySpec){ .from = 0 }, &v));
        if (v.bad_sequence > 0)
                fprintf(stderr, "row %llu: %s\n", (unsigned long long) v.bad_sequence, v.message);
        ASSERT_EQ(v.bad_sequence, 0);
        ASSERT_TRUE(v.n_checked >= n_min);
}
