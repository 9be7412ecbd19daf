#include "tests/unit/init_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/isolate/filter.h"
#include "daemon/isolate/netns.h"
#include "daemon/isolate/spawn.h"
#include "daemon/isolate/template.h"
#include "daemon/isolate/userns.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"
#include "tests/unit/check.h"

#define WAIT_MSEC 30000

static bool make_group(Fixture *f)
{
        static const char *const tops[] = { "/sys/fs/cgroup/unified", "/sys/fs/cgroup" };

        for (size_t i = 0; i < ELEMENTSOF(tops); i++) {
                char probe[128];

                (void) snprintf(probe, sizeof(probe), "%s/cgroup.procs", tops[i]);
                if (faccessat(AT_FDCWD, probe, W_OK, 0) < 0)
                        continue;
                (void) snprintf(f->group, sizeof(f->group), "%s/sandboxd-test-init-%d", tops[i],
                                (int) getpid());
                if (mkdir(f->group, 0755) < 0)
                        return false;
                f->group_fd = open(f->group, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                return f->group_fd >= 0;
        }
        return false;
}

bool fixture_open(Fixture *f, const char *program)
{
        *f = (Fixture){ .group_fd = -EBADF };
        if (geteuid() != 0 || !make_group(f))
                return false;
        (void) snprintf(f->workspace, sizeof(f->workspace), "/var/tmp/sandboxd-test-init-%d",
                        (int) getpid());
        assert_int_equal(mkdir(f->workspace, 0700), 0);
        assert_int_equal(chown(f->workspace, FIXTURE_UID, FIXTURE_UID), 0);
        f->program_fd = open(program, O_RDONLY | O_CLOEXEC);
        assert_true(f->program_fd >= 0);
        assert_int_equal(template_new(&f->template_fd), 0);
        assert_int_equal(filter_session_new(/* lets_pings= */ false, &f->filter_fd), 0);
        assert_int_equal(filter_command_new(&f->command_filter_fd), 0);
        return true;
}

void fixture_close(Fixture *f)
{
        char command[160];

        (void) fd_close(f->template_fd);
        (void) fd_close(f->filter_fd);
        (void) fd_close(f->command_filter_fd);
        (void) fd_close(f->program_fd);
        (void) fd_close(f->group_fd);
        (void) rmdir(f->group);
        (void) snprintf(command, sizeof(command), "rm -rf %s", f->workspace);
        assert_int_equal(system(command), 0); /* banned:ok */
}

void options_set_string(Options *o, uint32_t *ret_offset, const char *s)
{
        assert_int_equal(plan_builder_string(o->builder, s, ret_offset), 0);
}

void options_init(Options *o)
{
        *o = (Options){
                .start = { .uid = FIXTURE_UID,
                           .gid = FIXTURE_UID,
                           .caller_uid = FIXTURE_UID,
                           .caller_gid = FIXTURE_UID },
                .header = { .files_max = 4096, .tmp_size_bytes = 64U << 20, .home_size_bytes = 64U << 20 },
                .has_workspace = true
        };
        assert_int_equal(plan_builder_new(&o->builder), 0);
        options_set_string(o, &o->header.home, "/home/tester");
        options_set_string(o, &o->header.user, "tester");
        options_set_string(o, &o->header.group, "testers");
        options_set_string(o, &o->header.shell, "/bin/sh");
        options_set_string(o, &o->header.hostname, "sandbox-test");
}

static int seal_plan(const Fixture *f, Options *o)
{
        int fd;

        if (o->has_workspace) {
                uint32_t flags = PLAN_WRITABLE | PLAN_WORKSPACE | (o->start.is_idmapped ? PLAN_IDMAP : 0U);

                assert_int_equal(plan_builder_mount(o->builder, PLAN_BIND, flags, f->workspace, f->workspace,
                                                    0),
                                 0);
                options_set_string(o, &o->header.workspace, f->workspace);
        }
        assert_int_equal(plan_builder_seal(o->builder, &o->header, &fd), 0);
        o->builder = plan_builder_free(o->builder);
        return fd;
}

static int wait_channel(ImsgChannel *c, Imsg *m)
{
        struct pollfd p = { .fd = c->fd, .events = POLLIN };

        for (;;) {
                int r = imsg_receive(c, m);

                if (r != 0)
                        return r;
                if (poll(&p, 1, WAIT_MSEC) <= 0)
                        return -ETIMEDOUT;
        }
}

static void spawn_init(Session *s, int child_fd, int netns_fd)
{
        _cleanup_close_ int host = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
        _cleanup_close_ int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        char *const arguments[] = { (char *) (uintptr_t) "sandbox-init", NULL };
        const int fds[] = { child_fd, s->fixture->template_fd, netns_fd, host, host };
        const SpawnSpec spec = { .program_fd = s->fixture->program_fd,
                                 .arguments = arguments,
                                 .namespaces = CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS,
                                 .cgroup_fd = s->cgroup_fd,
                                 .null_fd = null,
                                 .output_fd = -EBADF,
                                 .fds = fds,
                                 .n_fds = ELEMENTSOF(fds) };

        assert_true(host >= 0 && null >= 0);
        assert_int_equal(spawn(&spec, &s->pid, &s->pidfd), 0);
}

static void send_start(Session *s, Options *o, int api_fd)
{
        _cleanup_close_ int plan = seal_plan(s->fixture, o), user = -EBADF, idmap = -EBADF;
        int fds[7];

        assert_int_equal(userns_new(o->start.uid, o->start.gid, &user), 0);
        if (o->start.is_idmapped)
                assert_int_equal(userns_new_idmap(o->start.uid, o->start.gid, &idmap), 0);
        fds[0] = plan;
        fds[1] = user;
        fds[2] = s->cgroup_fd;
        fds[3] = s->fixture->filter_fd;
        fds[4] = s->fixture->command_filter_fd;
        fds[5] = api_fd;
        fds[6] = idmap;
        assert_int_equal(imsg_send(&s->launcher, PRIV_INIT_START, &o->start, sizeof(o->start), fds,
                                   o->start.is_idmapped ? 7 : 6),
                         0);
}

static void make_session_group(Session *s, uint32_t uid)
{
        static unsigned n;
        char name[32];

        (void) snprintf(name, sizeof(name), "s%u", ++n);
        assert_int_equal(mkdirat(s->fixture->group_fd, name, 0755), 0);
        s->cgroup_fd = openat(s->fixture->group_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(s->cgroup_fd >= 0);
        assert_int_equal(fchown(s->cgroup_fd, uid, uid), 0);
        assert_int_equal(fchownat(s->cgroup_fd, "cgroup.procs", uid, uid, 0), 0);
}

int session_start(const Fixture *f, Options *o, Session *s)
{
        NetworkNamespace network = NETNS_INIT;
        _cleanup_imsg_ Imsg m = { 0 };
        int launcher[2], api[2], home, r;

        *s = (Session){ .fixture = f, .pidfd = -EBADF, .cgroup_fd = -EBADF, .next_process = 1 };
        make_session_group(s, o->start.uid);
        assert_int_equal(imsg_pair(launcher), 0);
        assert_int_equal(imsg_pair(api), 0);
        assert_int_equal(netns_open_home(&home), 0);
        assert_int_equal(netns_new(home, /* steering= */ NULL, &network), 0);
        (void) fd_close(home);
        assert_int_equal(imsg_channel_init(&s->launcher, launcher[0], CHANNEL_LAUNCHER_INIT, ROLE_LAUNCHER),
                         0);
        assert_int_equal(imsg_channel_init(&s->api, api[0], CHANNEL_API_INIT, ROLE_API), 0);
        spawn_init(s, launcher[1], network.fd);
        (void) fd_close(launcher[1]);
        netns_done(&network);
        send_start(s, o, api[1]);
        (void) fd_close(api[1]);
        r = wait_channel(&s->launcher, &m);
        if (r < 0)
                return r;
        assert_int_equal(m.type, PRIV_INIT_RESULT);
        memcpy(&s->result, m.body, sizeof(s->result));
        if (s->result.error != 0)
                print_message("init: %s: %s (%d)\n", s->result.step, s->result.detail, s->result.error);
        return s->result.error;
}

void session_end(Session *s)
{
        struct pollfd p = { .fd = s->pidfd, .events = POLLIN };
        int status;

        (void) kill(s->pid, SIGKILL);
        (void) poll(&p, 1, WAIT_MSEC);
        (void) waitpid(s->pid, &status, 0);
        (void) fd_close(s->pidfd);
        imsg_channel_done(&s->launcher);
        imsg_channel_done(&s->api);
        for (uint32_t i = 1; i < s->next_process; i++) {
                char name[32];

                (void) snprintf(name, sizeof(name), "e%u", i);
                (void) unlinkat(s->cgroup_fd, name, AT_REMOVEDIR);
        }
        (void) fd_close(s->cgroup_fd);
        for (unsigned i = 1; i < 200; i++) {
                char name[32];

                (void) snprintf(name, sizeof(name), "s%u", i);
                (void) unlinkat(s->fixture->group_fd, name, AT_REMOVEDIR);
        }
}

void session_wait_message(Session *s, Imsg *m)
{
        assert_int_equal(wait_channel(&s->api, m), 1);
}

static size_t put_string(char *to, size_t at, const char *s)
{
        size_t n = strlen(s) + 1;

        memcpy(to + at, s, n);
        return at + n;
}

uint32_t session_exec(Session *s, char *const argv[], const char *directory, bool has_pty,
                      int *ret_output_fd)
{
        static const char *const environment[] = { "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
                                                   "HOME=/home/tester", "LANG=C.UTF-8", "TERM=xterm" };
        static char strings[PRIV_EXEC_MAX];
        PrivExec e = { .process = s->next_process++, .has_pty = has_pty, .columns = 80, .rows = 24 };
        int pipes[2] = { -EBADF, -EBADF }, gate[2], fds[4] = { -EBADF, -EBADF, -EBADF, -EBADF };
        size_t n = put_string(strings, 0, directory);
        char go = EXEC_GATE_OPEN;

        for (; argv[e.n_arguments]; e.n_arguments++)
                n = put_string(strings, n, argv[e.n_arguments]);
        for (; e.n_environment < ELEMENTSOF(environment); e.n_environment++)
                n = put_string(strings, n, environment[e.n_environment]);
        if (!has_pty) {
                assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
                fds[1] = open("/dev/null", O_RDONLY | O_CLOEXEC);
                fds[2] = fds[3] = pipes[1];
        }
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, gate), 0);
        fds[0] = gate[0];
        assert_int_equal(imsg_send_tail(&s->api, PRIV_EXEC, &e, sizeof(e), strings, n, fds, has_pty ? 1 : 4),
                         0);
        if (s->keeps_gates_closed)
                (void) shutdown(gate[1], SHUT_WR);
        else
                assert_int_equal(write(gate[1], &go, 1), 1);
        fd_close_many(gate, 2);
        if (!has_pty) {
                (void) fd_close(fds[1]);
                (void) fd_close(pipes[1]);
                *ret_output_fd = pipes[0];
        }
        return e.process;
}

void session_run(Session *s, char *const argv[], Output *out)
{
        _cleanup_close_ int fd = -EBADF;
        PrivExecStarted started;
        PrivExecExited exited;
        ssize_t n;

        *out = (Output){ .n = 0 };
        (void) session_exec(s, argv, "", /* has_pty= */ false, &fd);
        {
                _cleanup_imsg_ Imsg m = { 0 };

                session_wait_message(s, &m);
                assert_int_equal(m.type, PRIV_EXEC_STARTED);
                memcpy(&started, m.body, sizeof(started));
                out->error = started.error;
                out->stage = started.stage;
                assert_int_equal(m.n_fds, started.error ? 0 : 1);
        }
        while ((n = read(fd, out->text + out->n, sizeof(out->text) - out->n - 1)) > 0)
                out->n += (size_t) n;
        out->text[out->n] = '\0';
        if (out->error != 0)
                return;
        {
                _cleanup_imsg_ Imsg m = { 0 };

                session_wait_message(s, &m);
                assert_int_equal(m.type, PRIV_EXEC_EXITED);
                memcpy(&exited, m.body, sizeof(exited));
                assert_int_equal(exited.process, started.process);
                out->is_signal = exited.is_signal;
                out->status = exited.status;
        }
}

void session_shell(Session *s, const char *script, Output *out)
{
        char *const argv[] = { (char *) (uintptr_t) "sh", (char *) (uintptr_t) "-c",
                               (char *) (uintptr_t) script, NULL };

        session_run(s, argv, out);
}

static PrivExecSignalled send_signal(Session *s, const PrivExecSignal *m)
{
        _cleanup_imsg_ Imsg reply = { 0 };
        PrivExecSignalled body;

        assert_int_equal(imsg_send(&s->api, PRIV_EXEC_SIGNAL, m, sizeof(*m), NULL, 0), 0);
        session_wait_message(s, &reply);
        assert_int_equal(reply.type, PRIV_EXEC_SIGNALLED);
        memcpy(&body, reply.body, sizeof(body));
        assert_int_equal(body.process, m->process);
        return body;
}

void session_signal(Session *s, uint32_t process, int signal, uint32_t scope, int *ret_error)
{
        PrivExecSignal m = { .process = process, .signal = (uint32_t) signal, .scope = scope };

        *ret_error = send_signal(s, &m).error;
}

uint32_t session_probe(Session *s, uint32_t process)
{
        PrivExecSignal m = { .process = process, .scope = SIGNAL_LEADER };

        return send_signal(s, &m).state;
}
