/*
 * The orderly end of a session's group: its commands are killed first, so that what watches over protected
 * paths, beside init, can look a last time when nothing changes any more. Nothing here is waited for by
 * others without a bound: after it comes cgroup_kill().
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/isolate/cgroup.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

#define PROCS_MAX   4096U
#define STATUS_MAX  16384U
#define LEFT_ROUNDS 500U
#define LEFT_MSEC   10

int cgroup_kill_commands(int cgroup_fd, uint32_t uid, uint32_t gid)
{
        DIR *directory;
        int fd, result;

        result = cgroup_open_given(cgroup_fd, ".", O_RDONLY | O_DIRECTORY, uid, gid, &fd);
        if (result < 0)
                return result;
        directory = fdopendir(fd);
        if (!directory) {
                (void) fd_close(fd);
                return -ENOMEM;
        }
        for (struct dirent *e = readdir(directory); e; e = readdir(directory)) {
                int r;

                if (e->d_type != DT_DIR || e->d_name[0] == '.')
                        continue;
                r = cgroup_kill_child(cgroup_fd, e->d_name, uid, gid);
                if (r < 0 && r != -ENOENT && r != -ENODEV)
                        result = r;
        }
        (void) closedir(directory);
        return result < 0 ? result : cgroup_freeze(cgroup_fd, false, uid, gid);
}

/* The first process of a pid namespace below ours. */
static bool is_init(uint32_t pid)
{
        _cleanup_close_ int fd = -EBADF;
        _cleanup_free_ char *text = NULL;
        char path[32];
        const char *line;
        size_t size, n;

        if (str_printf(path, sizeof(path), "/proc/%u/status", pid) < 0)
                return false;
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || fd_read_all(fd, STATUS_MAX, &text, &size) < 0)
                return false;
        line = strstr(text, "\nNSpid:");
        if (!line)
                return false;
        line += strlen("\nNSpid:\t");
        n = strcspn(line, "\n");
        return n > 2 && line[n - 1] == '1' && line[n - 2] == '\t';
}

/* 1: an init of a session was told to end. */
static int signal_init(int cgroup_fd)
{
        _cleanup_close_ int fd = openat(cgroup_fd, "cgroup.procs", O_RDONLY | O_CLOEXEC);
        _cleanup_free_ char *text = NULL;
        size_t size;
        char *rest;
        int result = 0;

        if (fd < 0 || fd_read_all(fd, PROCS_MAX, &text, &size) < 0)
                return 0;
        rest = text;
        for (char *line = strsep(&rest, "\n"); line; line = strsep(&rest, "\n")) {
                _cleanup_close_ int pidfd = -EBADF;
                uint32_t pid;

                if (parse_u32(line, &pid) < 0 || pid == 0 || pid > INT32_MAX)
                        continue;
                pidfd = (int) syscall(SYS_pidfd_open, (pid_t) pid, 0);
                if (pidfd >= 0 && is_init(pid) &&
                    syscall(SYS_pidfd_send_signal, pidfd, SIGTERM, NULL, 0) == 0)
                        result = 1;
        }
        return result;
}

void cgroup_end_left(int cgroup_fd)
{
        if (cgroup_kill_commands(cgroup_fd, 0, 0) < 0)
                return;
        if (signal_init(cgroup_fd) == 0)
                return;
        for (unsigned i = 0; i < LEFT_ROUNDS && cgroup_is_populated(cgroup_fd) > 0; i++)
                (void) poll(NULL, 0, LEFT_MSEC);
}
