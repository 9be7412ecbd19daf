#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/fd.h"
#include "tests/unit/check.h"
#include "tests/unit/init_fixture.h"

static Fixture fixture;
static const char *arg_program;
static const char *arg_program_leave_out;
static Output out;

static void start_plain(Session *s)
{
        Options o;

        options_init(&o);
        assert_int_equal(session_start(&fixture, &o, s), 0);
}

static void assert_shell(Session *s, const char *script, uint32_t status, const char *text)
{
        session_shell(s, script, &out);
        if (out.status != status || out.is_signal || (text && strcmp(out.text, text) != 0))
                fail_msg("%s: status %u%s, output: %s", script, out.status, out.is_signal ? " (signal)" : "",
                         out.text);
}

static void test_exit_status(void **state)
{
        char *const missing[] = { (char *) (uintptr_t) "no-such-program", NULL };
        char *const directory[] = { (char *) (uintptr_t) "/usr", NULL };
        char *const yes[] = { (char *) (uintptr_t) "/bin/true", NULL };
        Session s;

        (void) state;
        start_plain(&s);
        session_run(&s, yes, &out);
        assert_int_equal(out.status, 0);
        assert_shell(&s, "exit 37", 37, "");
        session_shell(&s, "kill -9 $$", &out);
        assert_true(out.is_signal);
        assert_int_equal(out.status, SIGKILL);
        session_run(&s, missing, &out);
        assert_int_equal(out.error, -ENOENT);
        assert_int_equal(out.stage, 1);
        session_run(&s, directory, &out);
        assert_int_equal(out.error, -EACCES);
        session_end(&s);
}

static void test_tools(void **state)
{
        static const char *const scripts[] = {
                "python3 -c 'print(6*7)' | grep 42",
                "node -e 'console.log(6*7)' | grep 42",
                "printf 'int main(void){return 0;}' >t.c && gcc -o t t.c && ./t",
                "git init -q g && cd g && git -c user.name=a -c user.email=b commit -q --allow-empty -m x && git log | grep x",
                "test \"$(id -u):$(id -g):$(id -un)\" = 61234:61234:tester",
                "touch ~/a /tmp/b /var/tmp/c /dev/shm/d ./e",
                "test \"$(hostname)\" = sandbox-test",
                "test \"$(stat -c %u:%g .)\" = 61234:61234",
                "perl -e 'print 1' && ssh -V && openssl version && npm --version",
                "java -version",
        };
        Session s;

        (void) state;
        start_plain(&s);
        for (size_t i = 0; i < ELEMENTSOF(scripts); i++)
                assert_shell(&s, scripts[i], 0, NULL);
        session_end(&s);
}

static void test_contained(void **state)
{
        static const struct {
                const char *script;
                const char *text;
        } checks[] = {
                { "for d in / /usr /etc /var /opt /home /run /run/sandbox /dev /proc/sys; do (echo x >$d/x) 2>/dev/null && echo $d; done; true",
                  "" },
                { "ls /proc/self/fd | tr '\\n' ' '", "0 1 2 3 " },
                { "grep -c '^Cap.*0000000000000000$' /proc/self/status", "5\n" },
                { "grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status", "NoNewPrivs:\t1\nSeccomp:\t2\n" },
                { "id -G", "61234\n" },
                { "cat /proc/self/uid_map | tr -s ' '", " 61234 61234 1\n" },
                { "cat /proc/sys/user/max_user_namespaces", "0\n" },
                { "ls /dev | tr '\\n' ' '",
                  "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero " },
                { "wc -c </proc/kallsyms; wc -c </proc/cmdline; ls /proc/bus | wc -l", "0\n0\n0\n" },
                { "cat /proc/1/environ 2>/dev/null | wc -c; cat /proc/1/maps 2>/dev/null | wc -c",
                  "0\n0\n" },
                { "awk '$6!~/nosuid/||($6!~/nodev/&&$5!~\"^/dev\")' /proc/self/mountinfo", "" },
                { "ls /etc/shadow /etc/ssl/private /root/.ssh /home 2>/dev/null; true", "/home:\ntester\n" },
                { "unshare -U true 2>/dev/null || echo no", "no\n" },
                { "chmod u+s . 2>/dev/null || echo no", "no\n" },
                { "mknod n c 0 0 2>/dev/null || echo no; mkfifo f && echo yes; rm -f f n", "no\nyes\n" },
                { "awk '/core/{print $5,$6}/open/{print $4,$5}' /proc/self/limits", "1 1\n4096 4096\n" },
                { "grep -c '^0::/e' /proc/self/cgroup", "1\n" },
                { "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '", "lo\n" },
                { "readlink /proc/self/cwd | grep -c sandboxd-test-init", "1\n" },
                { "umask", "0022\n" },
        };
        Session s;

        (void) state;
        start_plain(&s);
        for (size_t i = 0; i < ELEMENTSOF(checks); i++)
                assert_shell(&s, checks[i].script, 0, checks[i].text);
        session_end(&s);
}

static void test_zombies(void **state)
{
        Session s;

        (void) state;
        start_plain(&s);
        assert_shell(&s, "python3 -c 'import os\nfor i in range(1000):\n if os.fork() == 0:\n  os._exit(0)'",
                     0, "");
        assert_shell(&s,
                     "for i in $(seq 200); do (sleep 0 &) ; done; sleep 0.5; grep -l '^State:.Z' /proc/[0-9]*/status | wc -l",
                     0, "0\n");
        session_end(&s);
}

static void wait_exit(Session *s, uint32_t process, PrivExecExited *ret)
{
        _cleanup_imsg_ Imsg m = { 0 };

        session_wait_message(s, &m);
        assert_int_equal(m.type, PRIV_EXEC_EXITED);
        memcpy(ret, m.body, sizeof(*ret));
        assert_int_equal(ret->process, process);
}

static void test_signals(void **state)
{
        char *const sleeper[] = { (char *) (uintptr_t) "sh", (char *) (uintptr_t) "-c",
                                  (char *) (uintptr_t) "sleep 600 & echo x; wait", NULL };
        PrivExecExited exited;
        Session s;

        (void) state;
        start_plain(&s);
        for (uint32_t scope = 0; scope < 3; scope++) {
                _cleanup_close_ int fd = -EBADF;
                _cleanup_imsg_ Imsg m = { 0 };
                uint32_t process;
                char c;
                int r;

                process = session_exec(&s, sleeper, "", /* has_pty= */ false, &fd);
                session_wait_message(&s, &m);
                assert_int_equal(read(fd, &c, 1), 1);
                session_signal(&s, process, SIGTERM, scope, &r);
                assert_int_equal(r, 0);
                wait_exit(&s, process, &exited);
                assert_true(exited.is_signal);
                assert_int_equal(exited.status, scope == 2 ? SIGKILL : SIGTERM);
                /* The leader alone: its child lives on, and goes with the group. */
                session_signal(&s, process, SIGTERM, 0, &r);
                assert_int_equal(r, -ESRCH);
                if (scope == 0) {
                        session_signal(&s, process, 0, 2, &r);
                        assert_int_equal(r, 0);
                }
        }
        session_end(&s);
}

/* What the next api worker asks about those that a former one asked for. */
static void test_probes(void **state)
{
        char *const sleeper[] = { (char *) (uintptr_t) "sleep", (char *) (uintptr_t) "600", NULL };
        char *const missing[] = { (char *) (uintptr_t) "no-such-program", NULL };
        _cleanup_close_ int fd = -EBADF;
        _cleanup_imsg_ Imsg m = { 0 };
        PrivExecExited exited;
        uint32_t process;
        Session s;
        int r;

        (void) state;
        start_plain(&s);
        process = s.next_process;
        assert_int_equal(session_probe(&s, process), EXEC_STATE_NEVER);
        assert_shell(&s, "true", 0, "");
        assert_int_equal(session_probe(&s, process), EXEC_STATE_OVER);
        assert_int_equal(session_probe(&s, ++process), EXEC_STATE_NEVER);
        session_run(&s, missing, &out);
        assert_int_equal(out.error, -ENOENT);
        assert_int_equal(session_probe(&s, process), EXEC_STATE_OVER);
        process = session_exec(&s, sleeper, "", /* has_pty= */ false, &fd);
        session_wait_message(&s, &m);
        assert_int_equal(session_probe(&s, process), EXEC_STATE_RUNNING);
        session_signal(&s, process, SIGKILL, SIGNAL_LEADER, &r);
        assert_int_equal(r, 0);
        wait_exit(&s, process, &exited);
        assert_int_equal(session_probe(&s, process), EXEC_STATE_OVER);
        assert_int_equal(session_probe(&s, process + 1), EXEC_STATE_NEVER);
        session_end(&s);
}

static void test_pty(void **state)
{
        char *const argv[] = { (char *) (uintptr_t) "sh", (char *) (uintptr_t) "-c",
                               (char *) (uintptr_t) "tty; stty size; : >/dev/tty && echo ctty", NULL };
        _cleanup_close_ int master = -EBADF;
        PrivExecExited exited;
        uint32_t process;
        char text[512] = "";
        size_t n = 0;
        ssize_t got;
        Session s;

        (void) state;
        start_plain(&s);
        process = session_exec(&s, argv, "/tmp", /* has_pty= */ true, NULL);
        {
                _cleanup_imsg_ Imsg m = { 0 };

                session_wait_message(&s, &m);
                assert_int_equal(m.type, PRIV_EXEC_STARTED);
                assert_int_equal(m.n_fds, 2);
                master = TAKE_FD(m.fds[1]);
        }
        while ((got = read(master, text + n, sizeof(text) - n - 1)) > 0)
                n += (size_t) got;
        wait_exit(&s, process, &exited);
        assert_int_equal(exited.status, 0);
        assert_string_equal(text, "/dev/pts/0\r\n24 80\r\nctty\r\n");
        session_end(&s);
}

static void test_refused_paths(void **state)
{
        static const struct {
                const char *source;
                uint32_t flags;
                int error;
        } checks[] = {
                { "/root", 0, -EACCES },         { "/proc", 0, -EPERM },
                { "/proc/self/cwd", 0, -EPERM }, { "/bin/ls", 0, -ELOOP },
                { "/no/such/path", 0, -ENOENT }, { "/dev/null", 0, -EPERM },
                { "/sys/kernel", 0, -EPERM },    { "/no/such/path", PLAN_OPTIONAL, 0 },
                { "/etc/shadow", 0, -EACCES },
        };

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(checks); i++) {
                Options o;
                Session s;

                options_init(&o);
                assert_int_equal(plan_builder_mount(o.builder, PLAN_BIND, checks[i].flags, checks[i].source,
                                                    "/mnt/x", 0),
                                 0);
                assert_int_equal(session_start(&fixture, &o, &s), checks[i].error);
                if (checks[i].flags)
                        assert_string_equal(s.result.missing, "/no/such/path\n");
                session_end(&s);
        }
}

static void make_file(const char *name, const char *text, uid_t uid)
{
        char path[128];
        int fd;

        (void) snprintf(path, sizeof(path), "%s/%s", fixture.workspace, name);
        fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
        assert_int_equal(fchown(fd, uid, uid), 0);
        (void) fd_close(fd);
}

static void test_masks_and_mounts(void **state)
{
        char path[128];
        Options o;
        Session s;

        (void) state;
        make_file("secret.pem", "canary", FIXTURE_UID);
        options_init(&o);
        /* Plan order: the workspace is shown by the fixture at the end, so this one comes by itself first.
         */
        o.has_workspace = false;
        options_set_string(&o, &o.header.workspace, "/data/w");
        assert_int_equal(plan_builder_mount(o.builder, PLAN_BIND, PLAN_WRITABLE | PLAN_WORKSPACE,
                                            fixture.workspace, "/data/w", 0),
                         0);
        assert_int_equal(plan_builder_mount(o.builder, PLAN_MASK, 0, NULL, "/data/w/secret.pem", 0), 0);
        assert_int_equal(plan_builder_mount(o.builder, PLAN_MASK, 0, NULL, "/data/w/absent", 0), 0);
        assert_int_equal(plan_builder_mount(o.builder, PLAN_TMPFS, 0, NULL, "/srv/t/u", 1U << 20), 0);
        assert_int_equal(
                        plan_builder_mount(o.builder, PLAN_BIND, 0, "/usr/share", "/home/tester/a/share", 0),
                        0);
        assert_int_equal(session_start(&fixture, &o, &s), 0);
        assert_shell(&s,
                     "pwd; cat secret.pem 2>/dev/null || echo hidden; mv secret.pem y 2>/dev/null || echo stays",
                     0, "/data/w\nhidden\nstays\n");
        assert_shell(&s,
                     "touch /srv/t/u/x ~/a/y && ! touch ~/a/share/x 2>/dev/null && ls ~/a/share | grep -q doc",
                     0, "");
        assert_shell(&s, "test -e absent || echo none", 0, "none\n");
        session_end(&s);
        (void) snprintf(path, sizeof(path), "%s/secret.pem", fixture.workspace);
        assert_int_equal(unlink(path), 0);
}

static void test_root_caller(void **state)
{
        char path[128];
        struct stat st;
        Options o;
        Session s;

        (void) state;
        assert_int_equal(chown(fixture.workspace, 0, 0), 0);
        options_init(&o);
        o.start.caller_uid = o.start.caller_gid = 0;
        o.start.is_idmapped = 1;
        assert_int_equal(session_start(&fixture, &o, &s), 0);
        assert_shell(&s, "id -u; echo x >of-root; stat -c %u of-root; cat /etc/shadow 2>/dev/null | wc -l",
                     0, "61234\n61234\n0\n");
        session_end(&s);
        (void) snprintf(path, sizeof(path), "%s/of-root", fixture.workspace);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_uid, 0);
        assert_int_equal(st.st_gid, 0);
        assert_int_equal(chown(fixture.workspace, FIXTURE_UID, FIXTURE_UID), 0);
}

/* Audit closed its end: the row was not committed. */
static void test_closed_gate(void **state)
{
        static char shell[] = "/bin/sh", option[] = "-c", line[] = "echo x >ran";
        char *const argv[] = { shell, option, line, NULL };
        Session s;

        (void) state;
        start_plain(&s);
        s.keeps_gates_closed = true;
        session_run(&s, argv, &out);
        assert_int_equal(out.error, -ECANCELED);
        assert_int_equal(out.stage, EXEC_STAGE_GATE);
        s.keeps_gates_closed = false;
        assert_shell(&s, "ls ran 2>/dev/null", 2, "");
        session_end(&s);
}

/* Another api worker goes on with the same socket, counting from 0. */
static void test_next_api(void **state)
{
        Session s;
        int fd;

        (void) state;
        start_plain(&s);
        for (int i = 0; i < 3; i++) {
                assert_shell(&s, "true", 0, "");
                fd = fcntl(s.api.fd, F_DUPFD_CLOEXEC, 3);
                assert_true(fd >= 0);
                imsg_channel_done(&s.api);
                assert_int_equal(imsg_channel_init(&s.api, fd, CHANNEL_API_INIT, ROLE_API), 0);
        }
        session_end(&s);
}

/* What the caller hands over as stdio may not be a way out. */
static void test_stdio(void **state)
{
        static const char strings[] = "\0/bin/true";
        PrivExec e = { .process = 1, .n_arguments = 1 };
        PrivExecStarted started;
        _cleanup_imsg_ Imsg m = { 0 };
        int fds[4], pair[2];
        Session s;

        (void) state;
        start_plain(&s);
        assert_int_equal(imsg_pair(pair), 0);
        fds[0] = fds[1] = fds[2] = fds[3] = pair[0];
        assert_int_equal(imsg_send_tail(&s.api, PRIV_EXEC, &e, sizeof(e), strings, sizeof(strings), fds, 4),
                         0);
        session_wait_message(&s, &m);
        memcpy(&started, m.body, sizeof(started));
        assert_int_equal(started.error, -EPERM);
        fd_close_many(pair, 2);
        session_end(&s);
}

static void test_own_workspace(void **state)
{
        static const char *const paths[] = { "/home/tester/w", "/work/w" };

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(paths); i++) {
                Options o;
                Session s;

                options_init(&o);
                o.has_workspace = false;
                o.header.has_tmp_workspace = 1;
                options_set_string(&o, &o.header.workspace, paths[i]);
                assert_int_equal(session_start(&fixture, &o, &s), 0);
                assert_shell(&s, "touch x && ls", 0, "x\n");
                session_end(&s);
        }
}

static void test_refused_starts(void **state)
{
        Options o;
        Session s;

        (void) state;
        options_init(&o);
        o.start.uid = 0;
        assert_int_equal(session_start(&fixture, &o, &s), -EPERM);
        session_end(&s);
        options_init(&o);
        o.start.caller_uid = 1;
        assert_int_equal(session_start(&fixture, &o, &s), -EPERM);
        session_end(&s);
        options_init(&o);
        o.start.leave_out = LAYER_SECCOMP;
        assert_int_equal(session_start(&fixture, &o, &s), -EINVAL);
        session_end(&s);
}

/* A start without one of the layers must not succeed. */
static void test_left_out_layers(void **state)
{
        static const uint32_t layers[] = { LAYER_SECCOMP,        LAYER_LANDLOCK, LAYER_MOUNTS,
                                           LAYER_USER_NAMESPACE, LAYER_CGROUP,   LAYER_NETWORK };
        Fixture f = fixture;

        (void) state;
        f.program_fd = open(arg_program_leave_out, O_RDONLY | O_CLOEXEC);
        assert_true(f.program_fd >= 0);
        for (size_t i = 0; i < ELEMENTSOF(layers); i++) {
                Options o;
                Session s;

                options_init(&o);
                o.start.leave_out = layers[i];
                /* Without its user namespace init may not even drop what it holds. */
                assert_int_equal(session_start(&f, &o, &s),
                                 layers[i] == LAYER_USER_NAMESPACE ? -EPERM : -ENOTRECOVERABLE);
                session_end(&s);
        }
        (void) fd_close(f.program_fd);
}

static int group_setup(void **state)
{
        (void) state;
        return fixture_open(&fixture, arg_program) ? 0 : -1;
}

static int group_teardown(void **state)
{
        (void) state;
        fixture_close(&fixture);
        return 0;
}

int main(int argc, char **argv)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_exit_status),      cmocka_unit_test(test_tools),
                cmocka_unit_test(test_contained),        cmocka_unit_test(test_zombies),
                cmocka_unit_test(test_signals),          cmocka_unit_test(test_pty),
                cmocka_unit_test(test_probes),           cmocka_unit_test(test_refused_paths),
                cmocka_unit_test(test_masks_and_mounts), cmocka_unit_test(test_root_caller),
                cmocka_unit_test(test_own_workspace),    cmocka_unit_test(test_refused_starts),
                cmocka_unit_test(test_next_api),         cmocka_unit_test(test_stdio),
                cmocka_unit_test(test_closed_gate),      cmocka_unit_test(test_left_out_layers),
        };

        if (argc != 3 || geteuid() != 0)
                return 77;
        arg_program = argv[1];
        arg_program_leave_out = argv[2];
        return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
