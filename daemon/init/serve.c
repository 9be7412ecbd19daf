#include "daemon/init/serve.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

#define RETRY_MSEC 1000
#define SPARE_MSEC 20
#define SIGNAL_MAX 64

/* ---- answers: an api that is gone or does not read loses them ---- */

static void answer(Server *s, PrivMessage type, const void *body, size_t size, const int *fds, size_t n_fds)
{
        int r;

        if (!s->has_api)
                return;
        r = imsg_send(&s->api, type, body, size, fds, n_fds);
        if (r < 0)
                (void) log_warning(r, "Answer to api lost, ignoring");
}

static void answer_started(Server *s, uint32_t process, const CommandError *e)
{
        PrivExecStarted m = { .process = process, .error = e->error, .stage = e->stage };

        answer(s, PRIV_EXEC_STARTED, &m, sizeof(m), NULL, 0);
}

static void answer_running(Server *s, Command *c)
{
        PrivExecStarted m = { .process = c->process, .pid = (uint32_t) c->pid };
        int fds[2] = { c->pidfd, c->master_fd };

        answer(s, PRIV_EXEC_STARTED, &m, sizeof(m), fds, c->master_fd >= 0 ? 2 : 1);
}

static void answer_exited(Server *s, const Command *c, const siginfo_t *info)
{
        PrivExecExited m = { .process = c->process,
                             .is_signal = info->si_code != CLD_EXITED,
                             .status = (uint32_t) info->si_status,
                             .has_core = info->si_code == CLD_DUMPED };

        answer(s, PRIV_EXEC_EXITED, &m, sizeof(m), NULL, 0);
}

/* ---- commands ---- */

static Command *find_process(Server *s, uint32_t process)
{
        LIST_FOREACH (c, &s->commands, Command, link) {
                if (c->process == process)
                        return c;
        }
        return NULL;
}

static Command *find_leader(Server *s, pid_t pid)
{
        LIST_FOREACH (c, &s->commands, Command, link) {
                if (c->pid == pid && c->state != COMMAND_ENDED)
                        return c;
        }
        return NULL;
}

/* The pipe is closed or has brought something: the program runs, or will not. */
static void command_started(Server *s, Command *c)
{
        CommandError e = { 0 };
        ssize_t n;

        do
                n = read(c->error_fd, &e, sizeof(e));
        while (n < 0 && errno == EINTR);
        if (n == 0) {
                c->state = COMMAND_RUNNING;
                answer_running(s, c);
        } else {
                if (n != (ssize_t) sizeof(e))
                        e = (CommandError){ .error = -EIO };
                c->state = COMMAND_FAILED;
                answer_started(s, c->process, &e);
        }
        c->error_fd = fd_close(c->error_fd);
        c->pidfd = fd_close(c->pidfd);
        c->master_fd = fd_close(c->master_fd);
}

static void command_ended(Server *s, Command *c, const siginfo_t *info)
{
        if (c->state == COMMAND_STARTING)
                command_started(s, c);
        if (c->state == COMMAND_RUNNING)
                answer_exited(s, c, info);
        c->state = COMMAND_ENDED;
}

static void remove_empty_groups(Server *s)
{
        LIST_FOREACH (c, &s->commands, Command, link) {
                if (c->state != COMMAND_ENDED || command_group_remove(s, c) < 0)
                        continue;
                (void) command_free(c);
                s->n_commands--;
        }
}

static void reap(Server *s)
{
        for (;;) {
                siginfo_t info = { 0 };
                Command *c;

                if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | __WALL) < 0 || info.si_pid == 0)
                        break;
                c = find_leader(s, info.si_pid);
                if (c)
                        command_ended(s, c, &info);
                else
                        spare_reaped(s, info.si_pid);
        }
        remove_empty_groups(s);
}

/* ---- requests ---- */

/* A socket would be a way out, whoever let it through. */
static int check_stdio(const Imsg *m)
{
        for (size_t i = 1; i < m->n_fds; i++) {
                if (!fd_is_stdio(m->fds[i]))
                        return -EPERM;
        }
        return 0;
}

static int start_command(Server *s, const Imsg *m, const CommandRequest *request, Command **ret)
{
        int r = spare_take(s, m, request, ret);

        return r == -EAGAIN ? command_start(s, request, ret) : r;
}

static int start(Server *s, Imsg *m)
{
        CommandRequest request;
        Command *c;
        int r;

        r = command_request_parse(s, m, &request);
        if (r < 0)
                return r;
        if (m->n_fds != (request.has_pty ? 1U : 4U))
                return -EINVAL;
        r = check_stdio(m);
        if (r < 0)
                return r;
        if (s->n_commands >= SERVE_COMMANDS_MAX)
                return -EAGAIN;
        if (find_process(s, request.process))
                return -EEXIST;
        request.gate_fd = m->fds[0];
        request.fds = m->fds + 1;
        r = start_command(s, m, &request, &c);
        if (r < 0)
                return r;
        list_append(&s->commands, &c->link);
        s->n_commands++;
        s->n_started++;
        return 0;
}

static void on_exec(Server *s, Imsg *m)
{
        CommandError e = { .error = start(s, m) };
        PrivExec head;

        memcpy(&head, m->body, sizeof(head));
        s->last_process = MAX_OF(s->last_process, head.process);
        if (e.error != 0)
                answer_started(s, head.process, &e);
}

static int signal_session(Server *s, const PrivExecSignal *m)
{
        if (m->scope == SIGNAL_KILL_GROUP) {
                int r = 0;

                LIST_FOREACH (c, &s->commands, Command, link) {
                        int e = command_group_kill(s, c);

                        if (e < 0 && e != -ESRCH)
                                r = e;
                }
                return r;
        }
        if (m->scope != SIGNAL_ALL)
                return -EINVAL;
        /* Everybody in the pid namespace but us. */
        /* The kernel counts the guard, too, which no signal of ours reaches. */
        if (s->guard_fd >= 0 && list_is_empty(&s->commands) && !s->spare)
                return -ESRCH;
        return kill(-1, (int) m->signal) < 0 ? neg_errno() : 0;
}

static int signal_command(Server *s, const PrivExecSignal *m)
{
        const Command *c = find_process(s, m->process);

        if (!c)
                return -ESRCH;
        switch ((enum PrivSignalScope) m->scope) {
        case SIGNAL_LEADER:
                if (c->state == COMMAND_ENDED)
                        return -ESRCH;
                return kill(c->pid, (int) m->signal) < 0 ? neg_errno() : 0;
        case SIGNAL_ALL:
                return command_group_signal(s, c, (int) m->signal);
        case SIGNAL_KILL_GROUP:
                return command_group_kill(s, c);
        }
        return -EINVAL;
}

/* Of whom nothing is left, only the number. */
static ExecState state_of(Server *s, uint32_t process)
{
        const Command *c = find_process(s, process);

        if (!c)
                return process > s->last_process || process == 0 ? EXEC_STATE_NEVER : EXEC_STATE_OVER;
        return c->state == COMMAND_STARTING  ? EXEC_STATE_STARTING
               : c->state == COMMAND_RUNNING ? EXEC_STATE_RUNNING
                                             : EXEC_STATE_OVER;
}

static void on_signal(Server *s, const Imsg *m)
{
        PrivExecSignal request;
        PrivExecSignalled reply = { 0 };

        memcpy(&request, m->body, sizeof(request));
        reply.process = request.process;
        if (request.signal > SIGNAL_MAX)
                reply.error = -EINVAL;
        else if (request.process == 0)
                reply.error = signal_session(s, &request);
        else
                reply.error = signal_command(s, &request);
        reply.state = state_of(s, request.process);
        answer(s, PRIV_EXEC_SIGNALLED, &reply, sizeof(reply), NULL, 0);
}

/* The channel outlives the api worker (the launcher keeps a duplicate for the next one); when it closes all
 * the same, or somebody talks nonsense, nobody starts anything here any more. */
static void on_api(Server *s)
{
        for (;;) {
                _cleanup_imsg_ Imsg m = { 0 };
                int r = imsg_receive(&s->api, &m);

                if (r == 0)
                        return;
                if (r < 0) {
                        imsg_channel_done(&s->api);
                        s->has_api = false;
                        return;
                }
                if (m.type == PRIV_EXEC)
                        on_exec(s, &m);
                else if (m.type == PRIV_EXEC_SIGNAL)
                        on_signal(s, &m);
        }
}

/* ---- the loop ---- */

static void drain_signals(Server *s)
{
        struct signalfd_siginfo info[16];
        ssize_t n;

        while ((n = read(s->signal_fd, info, sizeof(info))) > 0)
                for (size_t i = 0; i < (size_t) n / sizeof(info[0]); i++)
                        s->is_ending = s->is_ending || ending_is_asked(&info[i]);
}

static size_t collect(Server *s, struct pollfd *fds)
{
        size_t n = 3;

        fds[2] = (struct pollfd){ .fd = s->guard_fd, .events = POLLIN };
        fds[0] = (struct pollfd){ .fd = s->signal_fd, .events = POLLIN };
        fds[1] = (struct pollfd){ .fd = s->has_api ? s->api.fd : -1, .events = POLLIN };
        if (s->has_api && imsg_has_queue(&s->api))
                fds[1].events |= POLLOUT;
        LIST_FOREACH (c, &s->commands, Command, link) {
                if (c->state == COMMAND_STARTING)
                        fds[n++] = (struct pollfd){ .fd = c->error_fd, .events = POLLIN };
        }
        return n;
}

static bool has_ended_commands(Server *s)
{
        LIST_FOREACH (c, &s->commands, Command, link) {
                if (c->state == COMMAND_ENDED)
                        return true;
        }
        return false;
}

static void dispatch_starting(Server *s, const struct pollfd *fds, size_t n)
{
        for (size_t i = 0; i < n; i++) {
                if (fds[i].revents == 0)
                        continue;
                LIST_FOREACH (c, &s->commands, Command, link) {
                        if (c->state == COMMAND_STARTING && c->error_fd == fds[i].fd)
                                command_started(s, c);
                }
        }
}

static int open_signals(Server *s)
{
        sigset_t set;

        if (sigemptyset(&set) < 0 || sigaddset(&set, SIGCHLD) < 0 || sigaddset(&set, SIGTERM) < 0 ||
            sigprocmask(SIG_SETMASK, &set, NULL) < 0)
                return neg_errno();
        s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        return s->signal_fd < 0 ? neg_errno() : 0;
}

/* Milliseconds, -1 for ever. A spare is made when nobody is in a hurry: after the last command's end, or
 * beside those that run on. */
static int pause_of(Server *s)
{
        if (spare_is_wanted(s))
                return s->n_commands == 0 ? 0 : SPARE_MSEC;
        /* A group may be emptied without a death that we hear of. */
        return has_ended_commands(s) ? RETRY_MSEC : -1;
}

int serve_run(Server *s)
{
        static struct pollfd fds[SERVE_COMMANDS_MAX + 3];
        int n_ready, r;

        r = open_signals(s);
        if (r < 0)
                return r;
        for (;;) {
                size_t n = collect(s, fds);

                n_ready = poll(fds, n, pause_of(s));
                if (n_ready < 0 && errno != EINTR)
                        return neg_errno();
                if (n_ready == 0 && spare_is_wanted(s) && spare_make(s) < 0)
                        (void) log_warning(0, "The next command starts slower");
                dispatch_starting(s, fds + 3, n - 3);
                drain_signals(s);
                if (fds[2].revents && (r = ending_pass_on(s)) < 0)
                        return r;
                if (s->is_ending)
                        return s->guard_fd >= 0 ? ending_run(s) : 0;
                reap(s);
                if (s->has_api && imsg_has_queue(&s->api) && imsg_flush(&s->api) < 0)
                        (void) log_warning(0, "Answers to api lost, ignoring");
                if (s->has_api && (fds[1].revents & (POLLIN | POLLHUP | POLLERR)))
                        on_api(s);
        }
}
