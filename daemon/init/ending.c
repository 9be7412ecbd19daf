/*
 * A session that has a guard ends in order: nothing runs any more, then the guard looks a last time, then
 * init goes. What keeps this from being done, the launcher does not wait for: it kills all.
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/init/serve.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"

#define ENDING_ROUND_MSEC 50
#define ENDING_NOTES_MAX  256U /* what goes on happens at a session's will */

/* 0 and *ret, -EAGAIN, or the guard is gone. */
static int receive(const Server *s, PrivGuarded *ret)
{
        ssize_t n = read(s->guard_fd, ret, sizeof(*ret));

        if (n < 0)
                return errno == EINTR ? -EAGAIN : neg_errno();
        if (n != (ssize_t) sizeof(*ret) || ret->note == GUARD_FAILED)
                return -ECHILD;
        return memchr(ret->path, '\0', sizeof(ret->path)) ? 0 : -EPROTO;
}

static int pass_on(Server *s, bool *ret_swept)
{
        PrivGuarded m;
        int r;

        while ((r = receive(s, &m)) == 0) {
                if (m.note == GUARD_SWEPT)
                        *ret_swept = true;
                /* An api that is gone or does not read loses it. */
                if (m.note < _GUARD_NOTE_MAX && s->has_api &&
                    (m.note >= GUARD_LEFT || s->n_notes++ < ENDING_NOTES_MAX))
                        (void) !imsg_send(&s->api, PRIV_GUARDED, &m, sizeof(m), NULL, 0);
        }
        return r == -EAGAIN ? 0 : r;
}

int ending_pass_on(Server *s)
{
        bool is_swept = false;

        return pass_on(s, &is_swept);
}

/* Only the launcher, from outside of the pid namespace, has no number here. */
bool ending_is_asked(const struct signalfd_siginfo *info)
{
        return info->ssi_signo == SIGTERM && info->ssi_pid == 0;
}

/* A group can be removed once nobody is in it. The kernel counts the guard among those that kill() reached,
 * although it may not reach it. */
static int remove_groups(const Server *s)
{
        int fd = openat(s->cgroup_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
        DIR *d = fd < 0 ? NULL : fdopendir(fd);
        const struct dirent *e;

        if (!d) {
                (void) fd_close(fd);
                return -EIO;
        }
        while ((e = readdir(d))) {
                if (e->d_name[0] == 'e' && e->d_name[1] >= '0' && e->d_name[1] <= '9' &&
                    unlinkat(s->cgroup_fd, e->d_name, AT_REMOVEDIR) < 0 && errno != ENOENT)
                        r = neg_errno();
        }
        (void) closedir(d);
        return r;
}

static bool has_processes(const Server *s)
{
        (void) kill(-1, SIGKILL);
        while (waitpid(-1, NULL, WNOHANG | __WALL) > 0)
                ;
        return remove_groups(s) < 0;
}

int ending_run(Server *s)
{
        struct pollfd child = { .fd = s->signal_fd, .events = POLLIN };
        struct pollfd guard = { .fd = s->guard_fd, .events = POLLIN };
        bool is_swept = false;
        int r = 0;

        while (has_processes(s)) {
                struct signalfd_siginfo info;

                (void) !poll(&child, 1, ENDING_ROUND_MSEC);
                while (read(s->signal_fd, &info, sizeof(info)) > 0)
                        ;
        }
        if (shutdown(s->guard_fd, SHUT_WR) < 0)
                return neg_errno();
        while (r >= 0 && !is_swept) {
                (void) !poll(&guard, 1, -1);
                r = pass_on(s, &is_swept);
        }
        while (s->has_api && imsg_has_queue(&s->api) && imsg_flush(&s->api) > 0)
                ;
        return r;
}
