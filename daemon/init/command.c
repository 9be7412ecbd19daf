#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "daemon/init/serve.h"
#include "daemon/init/setup.h"
#include "daemon/isolate/kernel.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

#define DEFAULT_PATH "/usr/local/bin:/usr/bin:/bin"
#define PIDS_BUFFER  4096U

/* ---- the child: no allocation, no return ---- */

typedef struct Child {
        const CommandRequest *request;
        const Server *server;
        int slave_fd;
        int error_fd;
} Child;

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

static int child_prepare(Child *c)
{
        sigset_t none;
        int r;

        (void) umask(0022);
        if (setsid() < 0)
                return neg_errno();
        r = child_stdio(c);
        if (r < 0)
                return r;
        r = layers_load_filter(c->server->filter_fd);
        if (r < 0)
                return r;
        r = child_limits(c);
        if (r < 0)
                return r;
        if (sigemptyset(&none) < 0 || sigprocmask(SIG_SETMASK, &none, NULL) < 0)
                return neg_errno();
        return 0;
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

_noreturn_ static void child_run(Child *c)
{
        const CommandRequest *q = c->request;
        int r;

        r = child_prepare(c);
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

/* ---- init's side ---- */

static int open_pty(const CommandRequest *q, int *ret_master, int *ret_slave)
{
        struct winsize size = { .ws_row = q->rows, .ws_col = q->columns };
        _cleanup_close_ int master = -EBADF, slave = -EBADF;
        int unlocked = 0;

        master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
        if (master < 0)
                return neg_errno();
        if (ioctl(master, TIOCSPTLCK, &unlocked) < 0 || ioctl(master, TIOCSWINSZ, &size) < 0)
                return neg_errno();
        slave = ioctl(master, (int) TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
        if (slave < 0)
                return neg_errno();
        *ret_master = TAKE_FD(master);
        *ret_slave = TAKE_FD(slave);
        return 0;
}

static int group_name(uint32_t process, char name[16])
{
        return str_printf(name, 16, "e%u", process);
}

static int group_open(const Server *s, uint32_t process, int *ret_fd)
{
        char name[16];
        int fd, r;

        r = group_name(process, name);
        if (r < 0)
                return r;
        fd = openat(s->cgroup_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return neg_errno();
        *ret_fd = fd;
        return 0;
}

static int group_make(const Server *s, uint32_t process, int *ret_fd)
{
        char name[16];
        int r;

        r = group_name(process, name);
        if (r < 0)
                return r;
        if (mkdirat(s->cgroup_fd, name, 0755) < 0)
                return neg_errno();
        r = group_open(s, process, ret_fd);
        if (r < 0)
                (void) unlinkat(s->cgroup_fd, name, AT_REMOVEDIR);
        return r;
}

static int clone_into(const Server *s, const CommandRequest *request, Command *c, int slave_fd, int write_fd)
{
        Child child = { .request = request, .server = s, .slave_fd = slave_fd, .error_fd = write_fd };
        _cleanup_close_ int group = -EBADF;
        struct clone_args args = { .exit_signal = SIGCHLD };
        int r;

        r = group_make(s, request->process, &group);
        if (r < 0)
                return r;
        args.flags = CLONE_PIDFD | CLONE_INTO_CGROUP;
        args.pidfd = (uint64_t) (uintptr_t) &c->pidfd;
        args.cgroup = (unsigned) group;
        c->pid = kernel_clone3(&args);
        if (c->pid == 0)
                child_run(&child);
        if (c->pid < 0) {
                r = neg_errno();
                c->pidfd = -EBADF;
                if (command_group_remove(s, c) < 0)
                        (void) log_warning(0, "An empty group stays, ignoring");
                return r;
        }
        return 0;
}

int command_start(Server *s, const CommandRequest *request, Command **ret)
{
        _cleanup_(command_freep) Command *c = NULL;
        _cleanup_close_ int slave = -EBADF, write_fd = -EBADF;
        int fds[2], r;

        c = calloc(1, sizeof(*c));
        if (!c)
                return -ENOMEM;
        *c = (Command){ .process = request->process,
                        .pid = -1,
                        .pidfd = -EBADF,
                        .master_fd = -EBADF,
                        .error_fd = -EBADF };
        list_init(&c->link);
        if (pipe2(fds, O_CLOEXEC) < 0)
                return neg_errno();
        c->error_fd = fds[0];
        write_fd = fds[1];
        if (request->has_pty) {
                r = open_pty(request, &c->master_fd, &slave);
                if (r < 0)
                        return r;
        }
        r = clone_into(s, request, c, slave, write_fd);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(c);
        return 0;
}

Command *command_free(Command *c)
{
        if (!c)
                return NULL;
        list_unlink(&c->link);
        (void) fd_close(c->pidfd);
        (void) fd_close(c->master_fd);
        (void) fd_close(c->error_fd);
        free(c);
        return NULL;
}

int command_group_remove(const Server *s, const Command *c)
{
        char name[16];
        int r;

        r = group_name(c->process, name);
        if (r < 0)
                return r;
        if (unlinkat(s->cgroup_fd, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
                return neg_errno();
        return 0;
}

/* Lines of numbers, possibly cut anywhere by the end of a buffer. */
static int signal_pids(int fd, int signal, size_t *n_sent)
{
        char buffer[PIDS_BUFFER];
        pid_t pid = 0;

        for (;;) {
                ssize_t n = read(fd, buffer, sizeof(buffer));

                if (n <= 0)
                        return n < 0 ? neg_errno() : 0;
                for (ssize_t i = 0; i < n; i++) {
                        if (buffer[i] >= '0' && buffer[i] <= '9') {
                                pid = pid * 10 + (buffer[i] - '0');
                                continue;
                        }
                        /* 0 is somebody in another pid namespace; 1 would be us. */
                        if (pid > 1 && kill(pid, signal) == 0)
                                (*n_sent)++;
                        pid = 0;
                }
        }
}

int command_group_signal(const Server *s, const Command *c, int signal)
{
        _cleanup_close_ int group = -EBADF, fd = -EBADF;
        size_t n_sent = 0;
        int r;

        r = group_open(s, c->process, &group);
        if (r < 0)
                return r == -ENOENT ? -ESRCH : r;
        fd = openat(group, "cgroup.procs", O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return neg_errno();
        r = signal_pids(fd, signal, &n_sent);
        if (r < 0)
                return r;
        return n_sent > 0 ? 0 : -ESRCH;
}

int command_group_kill(const Server *s, const Command *c)
{
        _cleanup_close_ int group = -EBADF, fd = -EBADF;
        int r;

        r = group_open(s, c->process, &group);
        if (r < 0)
                return r == -ENOENT ? -ESRCH : r;
        fd = openat(group, "cgroup.kill", O_WRONLY | O_CLOEXEC);
        if (fd < 0)
                return neg_errno();
        return fd_write_all(fd, "1", 1);
}
