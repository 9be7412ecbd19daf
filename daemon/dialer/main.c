#include <errno.h>
#include <seccomp.h>
#include <sys/resource.h>
#include <unistd.h>

#include "daemon/dialer/dialer.h"
#include "daemon/isolate/worker.h"
#include "proto/base/clock.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

#define LAUNCHER_FD 3
#define FILES_MAX   262144U

/* The launcher brings a new audit within this time, or has not seen that the channel ended. */
#define ORPHAN_USEC (10 * USEC_PER_SEC)

static const int dialer_syscalls[] = {
        SCMP_SYS(bind),
        SCMP_SYS(brk),
        SCMP_SYS(clock_gettime),
        SCMP_SYS(close),
        SCMP_SYS(connect),
        SCMP_SYS(epoll_create1),
        SCMP_SYS(epoll_ctl),
        SCMP_SYS(epoll_pwait),
        SCMP_SYS(epoll_pwait2),
        SCMP_SYS(epoll_wait),
        SCMP_SYS(eventfd2),
        SCMP_SYS(fcntl),
        SCMP_SYS(fstat),
        SCMP_SYS(futex),
        SCMP_SYS(getpeername),
        SCMP_SYS(getpid),
        SCMP_SYS(getrandom),
        SCMP_SYS(getsockname),
        SCMP_SYS(getsockopt),
        SCMP_SYS(gettid),
        SCMP_SYS(gettimeofday),
        SCMP_SYS(ioctl),
        SCMP_SYS(madvise),
        SCMP_SYS(mmap),
        SCMP_SYS(mremap),
        SCMP_SYS(munmap),
        SCMP_SYS(newfstatat),
        SCMP_SYS(pipe2),
        SCMP_SYS(read),
        SCMP_SYS(recvfrom),
        SCMP_SYS(recvmsg),
        SCMP_SYS(rt_sigaction),
        SCMP_SYS(rt_sigprocmask),
        SCMP_SYS(sendmsg),
        SCMP_SYS(sendto),
        SCMP_SYS(setsockopt),
        SCMP_SYS(shutdown),
        SCMP_SYS(socket),
        SCMP_SYS(tgkill),
        SCMP_SYS(timerfd_create),
        SCMP_SYS(timerfd_settime),
        SCMP_SYS(write),
        SCMP_SYS(writev),
};

void dialer_report_closed(Dialer *d, const PrivDialClosed *closed)
{
        if (d->audit)
                (void) priv_link_send(d->audit, PRIV_DIAL_CLOSED, closed, sizeof(*closed), NULL, 0);
}

/* ---- audit ---- */

static void on_resolve(Dialer *d, const PrivResolve *order)
{
        Session *s = session_find(d, &order->session);

        /* Without one nobody waits. */
        if (s)
                question_start(s, order);
}

static int on_audit_message(void *owner, _unused_ PrivLink *link, Imsg *m)
{
        Dialer *d = owner;
        PrivDial order;
        Session *s;

        if (m->type == PRIV_RESOLVE) {
                on_resolve(d, m->body);
                return 0;
        }
        if (m->type != PRIV_DIAL)
                return -EPROTO;
        memcpy(&order, m->body, sizeof(order));
        s = session_find(d, &order.session);
        if (s) {
                dial_start(s, &order);
                return 0;
        }
        /* The launcher closed it while the decision was on its way. */
        dialer_report_closed(d, &(PrivDialClosed){ .session = order.session,
                                                   .sequence = order.sequence,
                                                   .port = order.port,
                                                   .reason = CLOSE_SESSION_ENDED });
        return 0;
}

static void detach_audit(Dialer *d)
{
        size_t cursor = 0;

        d->audit = priv_link_free(d->audit);
        /* Nothing runs on that could not be recorded. */
        for (Session *s; (s = map_next(&d->sessions, &cursor));)
                session_cut(s, CLOSE_DAEMON_RESTART);
}

static void on_audit_closed(void *owner, _unused_ PrivLink *link, int reason)
{
        Dialer *d = owner;

        (void) log_warning(reason, "the audit channel closed");
        detach_audit(d);
        if (loop_timer_set(d->orphan, ORPHAN_USEC) < 0)
                loop_stop(d->loop, -EIO);
}

/* Without audit we are of no use to anybody: our successor gets a new channel. */
static void on_orphaned(void *userdata)
{
        Dialer *d = userdata;

        loop_stop(d->loop, log_error(-EPIPE, "no audit has come"));
}

static int attach_audit(Dialer *d, int take_fd)
{
        int r;

        detach_audit(d);
        loop_timer_stop(d->orphan);
        r = priv_link_new(d->loop, take_fd, CHANNEL_AUDIT_DIALER, ROLE_DIALER, &d->audit);
        if (r < 0)
                return r;
        priv_link_set_handler(d->audit, on_audit_message, on_audit_closed, d);
        return 0;
}

/* ---- launcher ---- */

static void on_egress_attach(Dialer *d, Imsg *m)
{
        PrivEgressRef ref;
        Session *s;
        int r = -ENOENT;

        memcpy(&ref, m->body, sizeof(ref));
        s = session_find(d, &ref.session);
        if (s)
                r = session_attach(s, ref.number, TAKE_FD(m->fds[0]));
        if (r < 0)
                (void) log_warning(r, "cannot attach an egress worker");
}

static void on_session_message(Dialer *d, const Imsg *m)
{
        PrivSessionRef ref;
        Session *s;
        int r = 0;

        memcpy(&ref, m->body, sizeof(ref));
        s = session_find(d, &ref.session);
        if (m->type == PRIV_DIALER_SESSION_OPEN)
                r = session_open(d, &ref.session, m->fds[0]);
        else if (s)
                session_close(s, CLOSE_SESSION_ENDED);
        else
                (void) log_warning(-ENOENT, "message for a session that is not open, ignoring");
        /* Without a session all its dials are refused; the others go on. */
        if (r < 0)
                (void) log_warning(r, "cannot open a session");
}

/* The launcher says it once: without memory for it our successor has to hear it. */
static int on_resolver(Dialer *d, const Imsg *m)
{
        PrivResolver servers;
        int r;

        memcpy(&servers, m->body, sizeof(servers));
        r = resolver_configure(d->resolver, &servers, m->fds[0]);
        if (r == -ENOMEM)
                return r;
        if (r < 0)
                (void) log_warning(r, "cannot use the resolver settings, keeping the old ones");
        return 0;
}

static int on_launcher_message(void *owner, _unused_ PrivLink *link, Imsg *m)
{
        Dialer *d = owner;

        if (m->type == PRIV_DIALER_LOG_LEVEL) {
                log_set_level((LogLevel) ((const PrivLogLevel *) m->body)->level);
                return 0;
        }
        if (m->type == PRIV_DIALER_AUDIT_ATTACH)
                return attach_audit(d, TAKE_FD(m->fds[0]));
        if (m->type == PRIV_DIALER_PROXY)
                return proxy_set(d, m->body);
        if (m->type == PRIV_DIALER_INBOUND) {
                const PrivDialerInbound *inbound = m->body;
                int fds[2] = { TAKE_FD(m->fds[0]), TAKE_FD(m->fds[1]) };

                inbound_take(d, session_find(d, &inbound->session), inbound, fds);
                return 0;
        }
        if (m->type == PRIV_DIALER_EGRESS_ATTACH) {
                on_egress_attach(d, m);
                return 0;
        }
        if (m->type == PRIV_DIALER_SESSION_OPEN || m->type == PRIV_DIALER_SESSION_CLOSE) {
                on_session_message(d, m);
                return 0;
        }
        return m->type == PRIV_DIALER_RESOLVER ? on_resolver(d, m) : -EPROTO;
}

static void on_launcher_closed(void *owner, _unused_ PrivLink *link, int reason)
{
        Dialer *d = owner;

        if (reason != -EPIPE)
                (void) log_warning(reason, "the launcher's channel closed");
        loop_stop(d->loop, reason == -EPIPE ? 0 : reason);
}

static int serve(Dialer *d)
{
        int r = loop_new(&d->loop);

        if (r >= 0)
                r = loop_timer_new(d->loop, on_orphaned, d, &d->orphan);
        if (r >= 0)
                r = connection_watch_open(d);
        if (r >= 0)
                r = expiry_open(d);
        if (r >= 0)
                r = resolver_start(d->resolver, d->loop);
        if (r >= 0)
                r = local_addresses_start(d->local, d->loop);
        if (r >= 0)
                r = priv_link_new(d->loop, LAUNCHER_FD, CHANNEL_LAUNCHER_DIALER, ROLE_DIALER, &d->launcher);
        if (r < 0)
                return log_error(r, "cannot start");
        priv_link_set_handler(d->launcher, on_launcher_message, on_launcher_closed, d);
        r = priv_link_send(d->launcher, PRIV_DIALER_READY, NULL, 0, NULL, 0);
        if (r < 0)
                return r;
        priv_link_set_phase(d->launcher, PHASE_RUN);
        return loop_run(d->loop);
}

static void dialer_done(Dialer *d)
{
        for (;;) {
                size_t cursor = 0;
                Session *s = map_next(&d->sessions, &cursor);

                if (!s)
                        break;
                session_close(s, CLOSE_DAEMON_RESTART);
        }
        map_done(&d->sessions);
        map_done(&d->policies.shares);
        d->resolver = resolver_free(d->resolver);
        d->local = local_addresses_free(d->local);
        d->orphan = loop_timer_free(d->orphan);
        d->watch_io = loop_io_free(d->watch_io);
        if (d->watch_fd >= 0)
                d->watch_fd = fd_close(d->watch_fd);
        expiry_done(d);
        d->audit = priv_link_free(d->audit);
        d->launcher = priv_link_free(d->launcher);
        d->loop = loop_free(d->loop);
}

/* Each session has one descriptor and comes with more: connections leave room for them. */
static int files_for_connections(void)
{
        struct rlimit limit;
        rlim_t n;

        if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
                return 0;
        n = MIN_OF(limit.rlim_max, (rlim_t) FILES_MAX);
        return (int) (n - n / 4);
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
        Dialer d = { .watch_fd = -EBADF,
                     .clock_fd = -EBADF,
                     .sessions = MAP_INIT,
                     .files_max = files_for_connections() };
        WorkerSpec spec = { .name = "sandboxd-dialer",
                            .syscalls = dialer_syscalls,
                            .n_syscalls = ELEMENTSOF(dialer_syscalls),
                            .may_open_inet_sockets = true,
                            .files_max = FILES_MAX };
        int r;

        log_open("sandboxd-dialer");
        r = parse_arguments(argc, argv, &spec);
        if (r < 0) {
                (void) log_error(r, "usage: sandboxd-dialer --uid N --gid N");
                return EXIT_FAILURE;
        }
        /* Both need what confinement takes away: /dev/urandom, and a netlink socket. Nothing is read yet. */
        r = resolver_new(&d.resolver);
        if (r >= 0)
                r = local_addresses_open(&d.local);
        if (r < 0) {
                (void) log_error(r, "cannot prepare");
                return EXIT_FAILURE;
        }
        if (geteuid() == 0) {
                r = worker_confine(&spec);
                if (r < 0)
                        return EXIT_FAILURE;
        }
        r = serve(&d);
        dialer_done(&d);
        return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
