#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <stdlib.h>
#include <unistd.h>

#include "daemon/isolate/worker.h"
#include "daemon/watch/watch.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

#define LAUNCHER_FD 3
#define PROC_FD     4
#define FILES_MAX   65536U
#define MEMORY_MAX  (512U * 1024U * 1024U)

static const int watch_syscalls[] = {
        SCMP_SYS(brk),         SCMP_SYS(clock_gettime), SCMP_SYS(epoll_create1),  SCMP_SYS(epoll_ctl),
        SCMP_SYS(epoll_pwait), SCMP_SYS(epoll_pwait2),  SCMP_SYS(epoll_wait),     SCMP_SYS(eventfd2),
        SCMP_SYS(fcntl),       SCMP_SYS(fstat),         SCMP_SYS(futex),          SCMP_SYS(getpid),
        SCMP_SYS(getrandom),   SCMP_SYS(gettid),        SCMP_SYS(gettimeofday),   SCMP_SYS(getsockopt),
        SCMP_SYS(madvise),     SCMP_SYS(mmap),          SCMP_SYS(mremap),         SCMP_SYS(munmap),
        SCMP_SYS(newfstatat),  SCMP_SYS(pipe2),         SCMP_SYS(poll),           SCMP_SYS(ppoll),
        SCMP_SYS(read),        SCMP_SYS(recvmsg),       SCMP_SYS(rt_sigaction),   SCMP_SYS(rt_sigprocmask),
        SCMP_SYS(sendmsg),     SCMP_SYS(tgkill),        SCMP_SYS(timerfd_create), SCMP_SYS(timerfd_settime),
};

/* To read, of processes: nothing else is there. */
static const WorkerCall watch_calls[] = {
        { SCMP_SYS(openat), { { 2, O_ACCMODE | O_CREAT | O_PATH, O_RDONLY } } },
};

static void on_audit_closed(void *owner, _unused_ PrivLink *link, int reason)
{
        Watch *w = owner;

        if (reason != -EPIPE)
                (void) log_warning(reason, "the audit channel closed");
        w->audit = priv_link_free(w->audit);
        (void) priv_link_send(w->launcher, PRIV_WATCH_AUDIT_LOST, NULL, 0, NULL, 0);
}

static int on_audit_message(_unused_ void *owner, _unused_ PrivLink *link, _unused_ Imsg *m)
{
        return -EPROTO;
}

static int attach_audit(Watch *w, int take_fd)
{
        int r;

        w->audit = priv_link_free(w->audit);
        r = priv_link_new(w->loop, take_fd, CHANNEL_AUDIT_WATCH, ROLE_WATCH, &w->audit);
        if (r < 0)
                return r;
        priv_link_set_handler(w->audit, on_audit_message, on_audit_closed, w);
        mounts_tell(w);
        return 0;
}

static void on_mount(Watch *w, Imsg *m)
{
        const PrivWatchMount *body = m->body;
        Id session = body->session;
        int r = mount_open(w, &session, TAKE_FD(m->fds[0]), TAKE_FD(m->fds[1]));

        /* Its masks are closed for good: they say so to whoever touches them. */
        if (r < 0)
                (void) log_warning(r, "cannot serve the masks of a session");
}

static void on_session(Watch *w, const Imsg *m)
{
        int r = mount_assign(w, m->body, m->fds[0]);

        if (r < 0 && r != -ENOENT)
                (void) log_warning(r, "cannot record what is denied to a session");
}

static int on_launcher_message(void *owner, _unused_ PrivLink *link, Imsg *m)
{
        Watch *w = owner;

        if (m->type == PRIV_WATCH_LOG_LEVEL) {
                log_set_level((LogLevel) ((const PrivLogLevel *) m->body)->level);
                return 0;
        }
        if (m->type == PRIV_WATCH_PING)
                return priv_link_send(w->launcher, PRIV_WATCH_PONG, NULL, 0, NULL, 0);
        if (m->type == PRIV_WATCH_AUDIT_ATTACH)
                return attach_audit(w, TAKE_FD(m->fds[0]));
        if (m->type == PRIV_WATCH_MOUNT) {
                on_mount(w, m);
                return 0;
        }
        if (m->type == PRIV_WATCH_OVER) {
                mount_over(w, &((const PrivWatchOver *) m->body)->session);
                return 0;
        }
        if (m->type != PRIV_WATCH_SESSION)
                return -EPROTO;
        on_session(w, m);
        return 0;
}

static void on_launcher_closed(void *owner, _unused_ PrivLink *link, int reason)
{
        Watch *w = owner;

        if (reason != -EPIPE)
                (void) log_warning(reason, "the launcher's channel closed");
        loop_stop(w->loop, reason == -EPIPE ? 0 : reason);
}

static int serve(Watch *w)
{
        int r = loop_new(&w->loop);

        if (r >= 0)
                r = priv_link_new(w->loop, LAUNCHER_FD, CHANNEL_LAUNCHER_WATCH, ROLE_WATCH, &w->launcher);
        if (r < 0)
                return log_error(r, "cannot start");
        priv_link_set_handler(w->launcher, on_launcher_message, on_launcher_closed, w);
        r = priv_link_send(w->launcher, PRIV_WATCH_READY, NULL, 0, NULL, 0);
        if (r < 0)
                return r;
        priv_link_set_phase(w->launcher, PHASE_RUN);
        return loop_run(w->loop);
}

static int parse_arguments(int argc, char *argv[], WorkerSpec *spec)
{
        for (int i = 1; i + 1 < argc; i += 2) {
                int r = -EINVAL;

                if (str_equal(argv[i], "--uid"))
                        r = parse_u32(argv[i + 1], &spec->uid);
                else if (str_equal(argv[i], "--gid"))
                        r = parse_u32(argv[i + 1], &spec->gid);
                if (r < 0)
                        return r;
        }
        return argc % 2 == 1 ? 0 : -EINVAL;
}

int main(int argc, char *argv[])
{
        Watch w = { .launcher_fd = LAUNCHER_FD, .proc_fd = PROC_FD, .mounts = MAP_INIT };
        WorkerSpec spec = { .name = "sandboxd-watch",
                            .syscalls = watch_syscalls,
                            .n_syscalls = ELEMENTSOF(watch_syscalls),
                            .calls = watch_calls,
                            .n_calls = ELEMENTSOF(watch_calls),
                            .files_max = FILES_MAX,
                            .memory_max = MEMORY_MAX };
        int r;

        log_open("sandboxd-watch");
        r = parse_arguments(argc, argv, &spec);
        if (r < 0) {
                (void) log_error(r, "usage: sandboxd-watch --uid N --gid N");
                return EXIT_FAILURE;
        }
        if (geteuid() == 0) {
                r = worker_confine(&spec);
                if (r < 0)
                        return EXIT_FAILURE;
        }
        r = serve(&w);
        mounts_done(&w);
        w.audit = priv_link_free(w.audit);
        w.launcher = priv_link_free(w.launcher);
        w.loop = loop_free(w.loop);
        return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
