#include "daemon/launcher/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "daemon/launcher/door.h"
#include "daemon/launcher/inside.h"
#include "daemon/launcher/user.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

#define LISTEN_NAME        "io.sandboxd"
#define LISTEN_LOCK        "lock"
#define LISTEN_BACKLOG     128
#define LISTEN_BATCH       32U
#define LISTEN_GLANCE      8U
#define LISTEN_PAUSE_USEC  (100 * USEC_PER_MSEC)
#define LISTEN_REST_USEC   200U
#define LISTEN_SOCKET_NAME "varlink"

/* rw for all at the moment of bind(): the identity is the peer's credential. */
#define LISTEN_UMASK 0111

static int open_runtime_dir(Launcher *l)
{
        struct stat st;

        if (mkdir(l->config->runtime_dir, 0755) < 0 && errno != EEXIST)
                return neg_errno();
        l->runtime_fd = open(l->config->runtime_dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (l->runtime_fd < 0 || fstat(l->runtime_fd, &st) < 0)
                return neg_errno();
        if (st.st_uid != geteuid() || (st.st_mode & (S_IWGRP | S_IWOTH)))
                return log_error(-EPERM, "%s must be ours and writable by nobody else",
                                 l->config->runtime_dir);
        /* Users look the socket up in it; umask took that away. */
        if (fchmod(l->runtime_fd, 0755) < 0)
                return neg_errno();
        return 0;
}

/* Only root can open the file, so nobody else can hold the lock. */
static int lock_instance(Launcher *l)
{
        l->lock_fd = openat(l->runtime_fd, LISTEN_LOCK, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (l->lock_fd < 0)
                return neg_errno();
        if (flock(l->lock_fd, LOCK_EX | LOCK_NB) < 0)
                return errno == EWOULDBLOCK ? -EADDRINUSE : neg_errno();
        return 0;
}

static int refuse_if_served(int fd, const struct sockaddr_un *address)
{
        if (connect(fd, (const struct sockaddr *) address, sizeof(*address)) >= 0)
                return -EADDRINUSE;
        if (errno == ENOENT)
                return 0;
        if (errno != ECONNREFUSED)
                return neg_errno();
        return unlink(LISTEN_NAME) < 0 ? neg_errno() : 0;
}

/* In the runtime directory as the working directory: a path of any length fits into sun_path. */
static int bind_here(int *ret_fd)
{
        struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = LISTEN_NAME };
        _cleanup_close_ int probe = -EBADF, fd = -EBADF;
        mode_t old_mask;
        int r;

        probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (probe < 0 || fd < 0)
                return neg_errno();
        r = refuse_if_served(probe, &address);
        if (r < 0)
                return r;
        old_mask = umask(LISTEN_UMASK);
        r = bind(fd, (const struct sockaddr *) &address, sizeof(address)) < 0 ? neg_errno() : 0;
        (void) umask(old_mask);
        if (r < 0)
                return r;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static int take_from_systemd(Launcher *l)
{
        char **names = NULL;
        int n = sd_listen_fds_with_names(/* unset_environment= */ 1, &names);

        for (int i = 0; i < n; i++) {
                int fd = SD_LISTEN_FDS_START + i;

                if (l->listen_fd < 0 && str_equal(names[i], LISTEN_SOCKET_NAME) &&
                    sd_is_socket(fd, AF_UNIX, SOCK_STREAM, 1) > 0)
                        l->listen_fd = fd;
                else
                        (void) fd_close(fd);
        }
        for (int i = 0; names && names[i]; i++)
                free(names[i]);
        free(names);
        if (l->listen_fd < 0)
                return 0;
        return fd_set_nonblock(l->listen_fd, true);
}

int listen_open(Launcher *l)
{
        int r;

        r = open_runtime_dir(l);
        if (r < 0)
                return log_error(r, "cannot use the runtime directory %s", l->config->runtime_dir);
        r = lock_instance(l);
        if (r < 0)
                return log_error(r, "%s: is another instance running?", l->config->runtime_dir);
        r = take_from_systemd(l);
        if (r >= 0 && l->listen_fd < 0) {
                r = fchdir(l->runtime_fd) < 0 ? neg_errno() : bind_here(&l->listen_fd);
                if (chdir("/") < 0 && r >= 0)
                        r = neg_errno();
        }
        if (r < 0)
                return log_error(r, "cannot make %s/%s", l->config->runtime_dir, LISTEN_NAME);
        l->reserve_fd = fcntl(l->kernel->null_fd, F_DUPFD_CLOEXEC, 3);
        return l->reserve_fd < 0 ? log_error(neg_errno(), "cannot reserve a descriptor") : 0;
}

/* Without descriptors the queue would keep the loop spinning: the reserve takes one connection away, and
 * accepting pauses. */
static void shed_one(Launcher *l)
{
        int fd;

        l->reserve_fd = fd_close(l->reserve_fd);
        fd = accept4(l->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        (void) fd_close(fd);
        l->reserve_fd = fcntl(l->kernel->null_fd, F_DUPFD_CLOEXEC, 3);
        l->listen_io = loop_io_free(l->listen_io);
        (void) !loop_timer_set(l->accept_timer, LISTEN_PAUSE_USEC);
}

/* True: it was turned away, unread, because its user connects faster than anybody may. */
static bool serve_one(Launcher *l, int take_fd)
{
        _cleanup_close_ int fd = take_fd;
        uint32_t uid, over;
        Peer peer;
        User *u;
        int r;

        /* Whom the kernel does not name gets nothing, not even an answer. */
        if (l->is_stopping || peer_read_uid(fd, &uid) < 0)
                return false;
        /* First what is cheap: one process must not connect faster than we can turn it away. */
        u = user_of_peer(l, uid);
        if (!u || !quota_admit_connection(u, &over))
                return true;
        r = peer_read(l, fd, &peer);
        if (r == 0)
                user_add_connection(u, &peer, over, TAKE_FD(fd));
        else if (r > 0)
                inside_refuse(l, uid, TAKE_FD(fd));
        return false;
}

/* Whoever is turned away and not shut out comes again at once, and would wake us for each connection: they
 * are taken together, before they fill the queue for others. */
static void rest(Launcher *l)
{
        if (loop_io_set_events(l->listen_io, 0) < 0 || loop_timer_set(l->accept_timer, LISTEN_REST_USEC) < 0)
                (void) !loop_io_set_events(l->listen_io, LOOP_READ);
}

static void accept_some(Launcher *l, unsigned n_max)
{
        bool is_flooded = false;

        for (unsigned i = 0; i < n_max; i++) {
                int fd = accept4(l->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

                if (fd >= 0) {
                        is_flooded |= serve_one(l, fd);
                        continue;
                }
                if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                        shed_one(l);
                        return;
                }
                if (errno == EAGAIN) {
                        if (is_flooded)
                                rest(l);
                        return;
                }
        }
}

static void on_connection(void *userdata, _unused_ int listen_fd, _unused_ unsigned events)
{
        accept_some(userdata, LISTEN_BATCH);
}

void listen_glance(Launcher *l)
{
        if (l->listen_io)
                accept_some(l, LISTEN_GLANCE);
}

static void on_pause_over(void *userdata)
{
        Launcher *l = userdata;
        int r;

        if (l->is_stopping)
                return;
        r = l->listen_io ? loop_io_set_events(l->listen_io, LOOP_READ) : listen_start(l);
        if (r < 0) {
                (void) log_error(r, "cannot accept connections yet");
                (void) !loop_timer_set(l->accept_timer, LISTEN_PAUSE_USEC);
        }
}

int listen_start(Launcher *l)
{
        int r = 0;

        if (!l->accept_timer)
                r = loop_timer_new(l->loop, on_pause_over, l, &l->accept_timer);
        if (r >= 0 && !l->door)
                r = door_new(l, &l->door);
        if (r >= 0 && listen(l->listen_fd, LISTEN_BACKLOG) < 0)
                r = neg_errno();
        if (r >= 0 && !l->listen_io)
                r = loop_io_new(l->loop, l->listen_fd, LOOP_READ, on_connection, l, &l->listen_io);
        return r;
}

void listen_close(Launcher *l)
{
        l->listen_io = loop_io_free(l->listen_io);
        l->accept_timer = loop_timer_free(l->accept_timer);
        l->door = door_free(l->door);
        l->listen_fd = fd_close(l->listen_fd);
        l->reserve_fd = fd_close(l->reserve_fd);
        l->lock_fd = fd_close(l->lock_fd);
        l->runtime_fd = fd_close(l->runtime_fd);
}
