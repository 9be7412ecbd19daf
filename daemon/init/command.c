#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "daemon/init/child.h"
#include "daemon/isolate/kernel.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

#define PIDS_BUFFER 4096U

int command_open_pty(const CommandRequest *q, int *ret_master, int *ret_slave)
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
        if (mkdirat(s->cgroup_fd, name, 0755) < 0 && (errno != EEXIST || !spare_has_group(s, process)))
                return neg_errno();
        r = group_open(s, process, ret_fd);
        if (r < 0)
                (void) unlinkat(s->cgroup_fd, name, AT_REMOVEDIR);
        return r;
}

int command_new(uint32_t process, Command **ret, int *ret_write_fd)
{
        Command *c = calloc(1, sizeof(*c));
        int fds[2];

        if (!c)
                return -ENOMEM;
        *c = (Command){
                .process = process, .pid = -1, .pidfd = -EBADF, .master_fd = -EBADF, .error_fd = -EBADF
        };
        list_init(&c->link);
        if (pipe2(fds, O_CLOEXEC) < 0) {
                (void) command_free(c);
                return neg_errno();
        }
        c->error_fd = fds[0];
        *ret_write_fd = fds[1];
        *ret = c;
        return 0;
}

int command_clone(const Server *s, Command *c, Child *child)
{
        _cleanup_close_ int group = -EBADF;
        struct clone_args args = { .exit_signal = SIGCHLD };
        int r;

        r = group_make(s, c->process, &group);
        if (r < 0)
                return r;
        args.flags = CLONE_PIDFD | CLONE_INTO_CGROUP;
        args.pidfd = (uint64_t) (uintptr_t) &c->pidfd;
        args.cgroup = (unsigned) group;
        c->pid = kernel_clone3(&args);
        if (c->pid == 0 && child->request)
                child_run(child);
        if (c->pid == 0)
                child_run_spare(child);
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
        Child child = { .request = request, .server = s };
        int r;

        r = command_new(request->process, &c, &write_fd);
        if (r >= 0 && request->has_pty)
                r = command_open_pty(request, &c->master_fd, &slave);
        if (r < 0)
                return r;
        child.slave_fd = slave;
        child.error_fd = write_fd;
        r = command_clone(s, c, &child);
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
