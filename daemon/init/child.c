#include "daemon/init/child.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/init/setup.h"
#include "daemon/isolate/kernel.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

#define DEFAULT_PATH "/usr/local/bin:/usr/bin:/bin"

_noreturn_ static void child_fail(int error_fd, int error, uint32_t stage)
{
        CommandError e = { .error = error, .stage = stage };

        (void) !write(error_fd, &e, sizeof(e));
        _exit(127);
}

static int child_stdio(const Child *c)
{
        if (c->request->has_pty && ioctl(c->slave_fd, TIOCSCTTY, 0) < 0)
                return neg_errno();
        for (int i = 0; i < 3; i++) {
                if (dup2(c->request->has_pty ? c->slave_fd : c->request->fds[i], i) < 0)
                        return neg_errno();
        }
        return 0;
}

/* The last descriptor of ours becomes 3 and closes at execve; nothing above it is left. */
static int child_close(Child *c)
{
        if (c->error_fd != 3) {
                if (dup3(c->error_fd, 3, O_CLOEXEC) < 0)
                        return neg_errno();
                c->error_fd = 3;
        }
        return kernel_close_range(4, UINT_MAX, 0) < 0 ? neg_errno() : 0;
}

/* The row of this command is being written meanwhile. */
static int child_wait(const Child *c)
{
        char go = 0;
        ssize_t n;

        do
                n = read(c->request->gate_fd, &go, 1);
        while (n < 0 && errno == EINTR);
        return n == 1 && go == EXEC_GATE_OPEN ? 0 : -ECANCELED;
}

static int child_limits(const Child *c)
{
        struct rlimit now, files = { .rlim_cur = c->server->files_max, .rlim_max = c->server->files_max };

        if (getrlimit(RLIMIT_NOFILE, &now) < 0)
                return neg_errno();
        files.rlim_max = MIN_OF(files.rlim_max, now.rlim_max);
        files.rlim_cur = MIN_OF(files.rlim_cur, files.rlim_max);
        return setrlimit(RLIMIT_NOFILE, &files) < 0 ? neg_errno() : 0;
}

/* What is the same for every command. */
static int child_prepare(const Child *c)
{
        sigset_t none;
        int r;

        (void) umask(0022);
        if (setsid() < 0)
                return neg_errno();
        r = layers_load_filter(c->server->filter_fd);
        if (r < 0)
                return r;
        r = child_limits(c);
        if (r < 0)
                return r;
        return sigemptyset(&none) < 0 || sigprocmask(SIG_SETMASK, &none, NULL) < 0 ? neg_errno() : 0;
}

static const char *child_path(char *const *environment)
{
        for (; *environment; environment++) {
                if (str_has_prefix(*environment, "PATH="))
                        return *environment + strlen("PATH=");
        }
        return DEFAULT_PATH;
}

/* As a shell looks for it, but absolute directories only: the current one is the session's to write. -EACCES
 * where a file was there that may not be executed, else -ENOENT. */
static int child_search(const CommandRequest *q)
{
        const char *name = q->arguments[0], *path = child_path(q->environment), *end;
        char full[PATH_MAX];
        int result = -ENOENT;

        for (; *path; path = *end ? end + 1 : end) {
                end = strchrnul(path, ':');
                if (*path != '/' ||
                    str_printf(full, sizeof(full), "%.*s/%s", (int) (end - path), path, name) < 0)
                        continue;
                (void) execve(full, q->arguments, q->environment);
                if (errno == EACCES)
                        result = -EACCES;
                else if (errno != ENOENT && errno != ENOTDIR && errno != ENAMETOOLONG && errno != ELOOP)
                        return neg_errno();
        }
        return result;
}

_noreturn_ static void execute(Child *c)
{
        const CommandRequest *q = c->request;
        int r;

        r = child_stdio(c);
        if (r < 0)
                child_fail(c->error_fd, r, EXEC_STAGE_SETUP);
        r = child_wait(c);
        if (r < 0)
                child_fail(c->error_fd, r, EXEC_STAGE_GATE);
        r = child_close(c);
        if (r < 0)
                child_fail(c->error_fd, r, EXEC_STAGE_SETUP);
        if (chdir(q->directory) < 0)
                child_fail(c->error_fd, neg_errno(), EXEC_STAGE_DIRECTORY);
        if (q->arguments[0][0] == '\0')
                child_fail(c->error_fd, -ENOENT, EXEC_STAGE_EXECVE);
        if (!strchr(q->arguments[0], '/'))
                child_fail(c->error_fd, child_search(q), EXEC_STAGE_EXECVE);
        (void) execve(q->arguments[0], q->arguments, q->environment);
        child_fail(c->error_fd, neg_errno(), EXEC_STAGE_EXECVE);
}

void child_run(Child *c)
{
        int r = child_prepare(c);

        if (r < 0)
                child_fail(c->error_fd, r, EXEC_STAGE_SETUP);
        execute(c);
}

/* ---- ahead of its request ---- */

/* Only these two are left of what init has open: whoever waits for long should hold nothing. */
static int spare_close(Child *c)
{
        int error_fd = fcntl(c->error_fd, F_DUPFD_CLOEXEC, 5), channel_fd;

        if (error_fd < 0)
                return neg_errno();
        channel_fd = fcntl(c->channel_fd, F_DUPFD_CLOEXEC, 5);
        if (channel_fd < 0 || dup3(error_fd, 3, O_CLOEXEC) < 0 || dup3(channel_fd, 4, O_CLOEXEC) < 0)
                return neg_errno();
        c->error_fd = 3;
        c->channel_fd = 4;
        return kernel_close_range(5, UINT_MAX, 0) < 0 ? neg_errno() : 0;
}

static int spare_receive(ImsgChannel *channel, Imsg *ret)
{
        for (;;) {
                struct pollfd readable = { .fd = channel->fd, .events = POLLIN };
                int r = imsg_receive(channel, ret);

                if (r != 0)
                        return r;
                if (poll(&readable, 1, -1) < 0 && errno != EINTR)
                        return neg_errno();
        }
}

/* init has checked the message before it passed it on; with a pty the second descriptor is its slave. */
static int spare_wait(Child *c, CommandRequest *request, Imsg *m)
{
        ImsgChannel channel;
        int r;

        r = imsg_channel_init(&channel, c->channel_fd, CHANNEL_API_INIT, ROLE_INIT);
        if (r >= 0)
                r = spare_receive(&channel, m);
        if (r >= 0)
                r = command_request_parse(c->server, m, request);
        if (r < 0)
                return r;
        request->gate_fd = m->fds[0];
        request->fds = m->fds + 1;
        c->slave_fd = m->fds[1];
        c->request = request;
        return 0;
}

void child_run_spare(Child *c)
{
        CommandRequest request;
        Imsg m = { 0 };
        int r;

        r = child_prepare(c);
        if (r >= 0)
                r = spare_close(c);
        if (r >= 0)
                r = spare_wait(c, &request, &m);
        if (r < 0)
                child_fail(c->error_fd, r, EXEC_STAGE_SETUP);
        execute(c);
}
