#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>

#include "daemon/init/protect.h"
#include "daemon/init/serve.h"
#include "daemon/init/setup.h"
#include "daemon/isolate/kernel.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"
#include "proto/wire/imsg.h"

/* Fixed by the launcher. */
enum InitFd {
        FD_LAUNCHER = 3,
        FD_TEMPLATE = 4,
        FD_NETWORK = 5,
        FD_HOST = 6,
        FD_STEERING = 7, /* held for as long as we live, no more */
        FD_FIRST_FREE = 8,
        FD_WATCHED = 8 /* where the launcher gave one */
};

enum StartFd {
        START_PLAN = 0,
        START_USER,
        START_CGROUP,
        START_FILTER,
        START_COMMAND_FILTER,
        START_API,
        START_OPTIONAL /* those that a session may have besides, one after the other */
};

#define MISSING_CUT "...\n"

#ifdef SANDBOXD_LEAVE_OUT
/* A test finds the mark in its copy of the program and writes the numbers behind it. */
static const volatile struct {
        char mark[24];
        uint32_t layers;
        uint32_t unchecked;
} leave_out = { .mark = "sandboxd-leave-out-mark" };
#endif

void setup_step(Setup *s, const char *step)
{
        if (str_copy(s->result.step, sizeof(s->result.step), step) < 0)
                s->result.step[0] = '?';
}

int setup_fail(Setup *s, int r, const char *format, ...)
{
        va_list ap;

        if (s->result.detail[0] == '\0') {
                va_start(ap, format);
                (void) vsnprintf(s->result.detail, sizeof(s->result.detail), format, ap);
                va_end(ap);
        }
        return r;
}

void setup_missing(Setup *s, const char *path)
{
        size_t n = strlen(path), at = s->n_missing_bytes;

        /* Room for the sign that something is left out stays. */
        if (at + n + 1 + sizeof(MISSING_CUT) > sizeof(s->result.missing)) {
                if (at == 0 || !str_has_suffix(s->result.missing, MISSING_CUT)) {
                        memcpy(s->result.missing + at, MISSING_CUT, sizeof(MISSING_CUT));
                        s->n_missing_bytes = sizeof(s->result.missing);
                }
                return;
        }
        memcpy(s->result.missing + at, path, n);
        s->result.missing[at + n] = '\n';
        s->n_missing_bytes = at + n + 1;
}

/* ---- stage 1 ---- */

/* Signals that the launcher ignores would stay ignored in every command. */
static int reset_signals(void)
{
        struct sigaction action = { .sa_handler = SIG_DFL };
        sigset_t none;

        for (int i = 1; i < _NSIG; i++) {
                if (i != SIGKILL && i != SIGSTOP)
                        (void) sigaction(i, &action, NULL);
        }
        if (sigemptyset(&none) < 0 || sigprocmask(SIG_SETMASK, &none, NULL) < 0)
                return neg_errno();
        return 0;
}

static int open_stdio(void)
{
        for (int i = 0; i < 3; i++) {
                if (fcntl(i, F_GETFD) < 0 &&
                    open("/dev/null", O_RDWR) != i) /* stays open across exec, as it should */
                        return -EBADF;
        }
        return 0;
}

static int prepare_process(Setup *s)
{
        const int n_given = FD_FIRST_FREE + (s->watched_fd >= 0);
        uint64_t effective, inheritable;
        int r;

        setup_step(s, "start");
        if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
                return setup_fail(s, neg_errno(), "dumpable");
        (void) umask(0022);
        r = open_stdio();
        if (r == 0)
                r = reset_signals();
        for (int fd = FD_TEMPLATE; r == 0 && fd < n_given; fd++)
                r = fd_set_cloexec(fd, true);
        if (r < 0)
                return setup_fail(s, r, "descriptors");
        if (kernel_close_range((unsigned) n_given, UINT_MAX, 0) < 0)
                return setup_fail(s, neg_errno(), "close_range");
        if (kernel_capget(&effective, &s->capabilities, &inheritable) < 0)
                return setup_fail(s, neg_errno(), "capabilities");
        if (getpid() != 1)
                return setup_fail(s, -EPERM, "not the first process of a pid namespace");
        return 0;
}

static int build_stage_1(Setup *s)
{
        int r;

        r = root_enter_namespaces(s);
        if (r == 0)
                r = layers_prepare_landlock(s);
        if (r == 0)
                r = root_build(s);
        if (r == 0)
                r = root_build_proc(s);
        if (r == 0)
                r = root_allow_fixed(s);
        masks_prepare(s);
        return r;
}

/* ---- INIT_START ---- */

static bool group_is_in(const PrivInitStart *m, uint32_t group)
{
        for (uint32_t i = 0; i < m->n_groups; i++) {
                if (m->groups[i] == group)
                        return true;
        }
        return group == m->caller_gid;
}

static int check_start(Setup *s, const PrivInitStart *m)
{
        if (m->uid == 0 || m->gid == 0 || m->uid == UINT32_MAX || m->gid == UINT32_MAX ||
            m->caller_uid == UINT32_MAX || m->caller_gid == UINT32_MAX)
                return setup_fail(s, -EPERM, "a session is never uid or gid 0");
        if (m->caller_uid != 0 && m->uid != m->caller_uid)
                return setup_fail(s, -EPERM, "a session of another user");
        if (m->n_groups > PRIV_GROUPS_MAX || m->n_kept_groups > PRIV_GROUPS_MAX || m->is_idmapped > 1 ||
            m->has_home > 1 || m->has_marks > 1)
                return setup_fail(s, -EINVAL, "numbers");
        for (uint32_t i = 0; i < m->n_kept_groups; i++) {
                if (m->kept_groups[i] == 0 || (m->caller_uid != 0 && !group_is_in(m, m->kept_groups[i])))
                        return setup_fail(s, -EPERM, "group %u", m->kept_groups[i]);
        }
#ifndef SANDBOXD_LEAVE_OUT
        if (m->leave_out != 0)
                return setup_fail(s, -EINVAL, "no layer can be left out");
#endif
        return 0;
}

/* Fails closed on what is not there: the plan's data stays mapped as long as we live. */
static int take_start(Setup *s, Imsg *m, int *ret_api_fd)
{
        const void *data;
        size_t size;
        int r;

        memcpy(&s->start, m->body, sizeof(s->start));
#ifdef SANDBOXD_LEAVE_OUT
        s->start.leave_out |= leave_out.layers;
        s->unchecked = leave_out.unchecked;
#endif
        r = check_start(s, &s->start);
        if (r < 0)
                return r;
        if (m->n_fds != START_OPTIONAL + s->start.is_idmapped + s->start.has_home + s->start.has_marks)
                return setup_fail(s, -EINVAL, "descriptors");
        r = fd_map_sealed(m->fds[START_PLAN], PLAN_SIZE_MAX, &data, &size);
        if (r == 0)
                r = plan_open(data, size, &s->plan);
        if (r < 0)
                return setup_fail(s, r, "plan");
        s->user_fd = TAKE_FD(m->fds[START_USER]);
        s->cgroup_fd = TAKE_FD(m->fds[START_CGROUP]);
        s->filter_fd = TAKE_FD(m->fds[START_FILTER]);
        s->command_filter_fd = TAKE_FD(m->fds[START_COMMAND_FILTER]);
        *ret_api_fd = TAKE_FD(m->fds[START_API]);
        if (s->start.is_idmapped)
                s->idmap_fd = TAKE_FD(m->fds[START_OPTIONAL]);
        if (s->start.has_home)
                s->home_fd = TAKE_FD(m->fds[START_OPTIONAL + s->start.is_idmapped]);
        if (s->start.has_marks)
                s->marks_fd = TAKE_FD(m->fds[m->n_fds - 1]);
        return 0;
}

static int receive_start(Setup *s, ImsgChannel *launcher, int *ret_api_fd)
{
        _cleanup_imsg_ Imsg m = { 0 };
        struct pollfd p = { .fd = launcher->fd, .events = POLLIN };
        int r;

        setup_step(s, "request");
        for (;;) {
                r = imsg_receive(launcher, &m);
                if (r != 0)
                        break;
                if (poll(&p, 1, -1) < 0 && errno != EINTR)
                        return setup_fail(s, neg_errno(), "poll");
        }
        if (r < 0)
                return setup_fail(s, r, "channel");
        if (m.type != PRIV_INIT_START)
                return setup_fail(s, -EPROTO, "message");
        return take_start(s, &m, ret_api_fd);
}

/* ---- stage 2 ---- */

/* No descriptor of the host stays, whatever it was. */
static int redirect_stdio(Setup *s)
{
        _cleanup_close_ int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

        setup_step(s, "stdio");
        if (fd < 0)
                return setup_fail(s, neg_errno(), "/dev/null");
        for (int i = 0; i < 3; i++) {
                if (dup2(fd, i) < 0)
                        return setup_fail(s, neg_errno(), "dup2");
        }
        return 0;
}

static int allow_groups(Setup *s)
{
        int r;

        setup_step(s, "cgroup");
        r = layers_allow(s, s->cgroup_fd,
                         LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_MAKE_DIR |
                                         LANDLOCK_ACCESS_FS_REMOVE_DIR);
        return r < 0 ? setup_fail(s, r, "landlock") : 0;
}

static int start_guard(Setup *s)
{
        return guard_start(s, &s->guard_fd);
}

static int build_stage_2(Setup *s)
{
        /* Files are written while nothing of the user's is attached: a mount over their folder would take
         * them. */
        int (*const steps[])(Setup *) = { files_write,     source_open_all, target_attach_all,
                                          submounts_check, root_seal,       start_guard,
                                          allow_groups,    identity_drop,   redirect_stdio,
                                          layers_enforce,  check_all };

        for (size_t i = 0; i < ELEMENTSOF(steps); i++) {
                int r = steps[i](s);

                if (r < 0)
                        return r;
        }
        return 0;
}

static void close_setup(Setup *s)
{
        int *const fds[] = { &s->user_fd, &s->filter_fd,     &s->idmap_fd, &s->root_fd, &s->mask_fd,
                             &s->proc_fd, &s->proof_fd,      &s->own_fd,   &s->host_fd, &s->ruleset_fd,
                             &s->home_fd, &s->home_mount_fd, &s->marks_fd, &s->rules_fd };

        for (size_t i = 0; i < ELEMENTSOF(fds); i++)
                *fds[i] = fd_close(*fds[i]);
        masks_done(s);
}

static void setup_init(Setup *s, bool is_watched)
{
        *s = (Setup){ .template_fd = FD_TEMPLATE,
                      .network_fd = FD_NETWORK,
                      .host_fd = FD_HOST,
                      .user_fd = -EBADF,
                      .cgroup_fd = -EBADF,
                      .filter_fd = -EBADF,
                      .command_filter_fd = -EBADF,
                      .idmap_fd = -EBADF,
                      .home_fd = -EBADF,
                      .marks_fd = -EBADF,
                      .rules_fd = -EBADF,
                      .guard_fd = -EBADF,
                      .repository_fd = -EBADF,
                      .home_mount_fd = -EBADF,
                      .own_fd = -EBADF,
                      .root_fd = -EBADF,
                      .mask_fd = -EBADF,
                      .watched_fd = is_watched ? FD_WATCHED : -EBADF,
                      .proc_fd = -EBADF,
                      .proof_fd = -EBADF,
                      .ruleset_fd = -EBADF };
        for (size_t i = 0; i < SETUP_SEALED_MAX; i++)
                s->sealed[i] = -EBADF;
        for (size_t i = 0; i < MASKS_READY; i++)
                s->ready_masks[i] = -EBADF;
        for (size_t i = 0; i < PLAN_MOUNTS_MAX; i++)
                s->sources[i] = -EBADF;
}

static int build(Setup *s, ImsgChannel *launcher, int *ret_api_fd)
{
        int r;

#ifdef SANDBOXD_LEAVE_OUT
        /* What to leave out must be known before. */
        r = receive_start(s, launcher, ret_api_fd);
        if (r == 0)
                r = build_stage_1(s);
#else
        r = build_stage_1(s);
        if (r == 0)
                r = receive_start(s, launcher, ret_api_fd);
#endif
        return r < 0 ? r : build_stage_2(s);
}

static int serve(Setup *s, int api_fd)
{
        static Server server;
        int r;

        server = (Server){ .has_api = true,
                           .cgroup_fd = s->cgroup_fd,
                           .filter_fd = s->command_filter_fd,
                           .workspace = plan_string(&s->plan, s->plan.header->workspace),
                           .files_max = s->plan.header->files_max,
                           .signal_fd = -EBADF,
                           .guard_fd = s->guard_fd };
        list_init(&server.commands);
        r = imsg_channel_init(&server.api, api_fd, CHANNEL_API_INIT, ROLE_INIT);
        return r < 0 ? r : serve_run(&server);
}

/* Nobody flushes this channel later. */
static int send_result(ImsgChannel *launcher, const PrivInitResult *result, int rules_fd)
{
        int r = imsg_send(launcher, PRIV_INIT_RESULT, result, sizeof(*result), &rules_fd, rules_fd >= 0);

        while (r >= 0 && imsg_has_queue(launcher)) {
                struct pollfd writable = { .fd = launcher->fd, .events = POLLOUT };

                if (poll(&writable, 1, -1) < 0 && errno != EINTR)
                        return neg_errno();
                r = imsg_flush(launcher);
        }
        return r;
}

int main(int argc, char **argv)
{
        static Setup s;
        ImsgChannel launcher;
        int api_fd = -EBADF, rules_fd, r;

        log_open("sandbox-init");
        setup_init(&s, argc == 2 && str_equal(argv[1], "watched"));
        r = prepare_process(&s);
        if (r < 0)
                return log_error(r, "%s: %s", s.result.step, s.result.detail) < 0;
        r = imsg_channel_init(&launcher, FD_LAUNCHER, CHANNEL_LAUNCHER_INIT, ROLE_INIT);
        if (r < 0)
                return 1;
        r = fd_set_cloexec(launcher.fd, true);
        if (r == 0)
                r = build(&s, &launcher, &api_fd);
        s.result.error = r;
        s.result.has_guard = s.guard_fd >= 0;
        rules_fd = r == 0 ? TAKE_FD(s.rules_fd) : -EBADF;
        s.result.has_rules = rules_fd >= 0;
        close_setup(&s);
        if (r == 0)
                s.result.step[0] = s.result.detail[0] = '\0';
        if (send_result(&launcher, &s.result, rules_fd) < 0 || r < 0)
                return 1;
        rules_fd = fd_close(rules_fd);
        /* The channel stays open: its end tells the launcher that we are gone. */
        return serve(&s, api_fd) < 0;
}
