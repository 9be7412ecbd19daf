#include "daemon/launcher/worker.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/isolate/spawn.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

#define WORKER_ARGUMENTS_MAX 32U
#define WORKER_NAMESPACES    (CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS)

/* Audit may have to check a whole segment of the log first. */
#define WORKER_READY_USEC       (15 * USEC_PER_SEC)
#define WORKER_AUDIT_READY_USEC (120 * USEC_PER_SEC)

/* So long a worker that is told to end may take. */
#define WORKER_LEFT_USEC (2 * USEC_PER_SEC)

/* Messages a turn. A user's worker asks for sessions, each some milliseconds of work: one, then others. */
#define WORKER_BATCH      64U
#define WORKER_USER_BATCH 1U

/* Those who work for all users come before what one user's processes do. */
#define WORKER_SHARED_NICE (-10)

struct Worker {
        Launcher *launcher;
        const WorkerEvents *events;
        void *owner; /* NULL: retired */
        ListLink workers;
        WorkerKind kind;
        PrivLink *link;
        LoopIo *pidfd_io;
        int pidfd;
        pid_t pid;
        LoopTimer *timer; /* of its first message; then of a pause */
        bool is_ready;
        bool is_dying;
};

typedef struct KindInfo {
        const char *name;
        Program program;
        PrivChannel channel;
        PrivMessage ready;
        uint64_t namespaces;
        uint64_t ready_usec; /* a worker that has not said READY by then is killed */
        unsigned batch;
        int nice;
        PrivMessage log_level; /* _PRIV_MESSAGE_MAX: has it with its state */
} KindInfo;

static const KindInfo kinds[] = {
        [WORKER_AUDIT] = { "sandboxd-audit", PROGRAM_AUDIT, CHANNEL_LAUNCHER_AUDIT, PRIV_AUDIT_READY,
                           WORKER_NAMESPACES | CLONE_NEWNET, WORKER_AUDIT_READY_USEC, WORKER_BATCH,
                           WORKER_SHARED_NICE, PRIV_AUDIT_LOG_LEVEL },
        /* The way out: the only worker in the host's network. */
        [WORKER_DIALER] = { "sandboxd-dialer", PROGRAM_DIALER, CHANNEL_LAUNCHER_DIALER, PRIV_DIALER_READY,
                            WORKER_NAMESPACES, WORKER_READY_USEC, WORKER_BATCH, WORKER_SHARED_NICE,
                            PRIV_DIALER_LOG_LEVEL },
        [WORKER_EGRESS] = { "sandboxd-egress", PROGRAM_EGRESS, CHANNEL_LAUNCHER_EGRESS, PRIV_EGRESS_READY,
                            WORKER_NAMESPACES | CLONE_NEWNET, WORKER_READY_USEC, WORKER_BATCH, 0,
                            PRIV_EGRESS_LOG_LEVEL },
        [WORKER_API] = { "sandboxd-api", PROGRAM_API, CHANNEL_LAUNCHER_API, PRIV_API_READY,
                         WORKER_NAMESPACES | CLONE_NEWNET, WORKER_READY_USEC, WORKER_USER_BATCH, 0,
                         _PRIV_MESSAGE_MAX },
        [WORKER_WATCH] = { "sandboxd-watch", PROGRAM_WATCH, CHANNEL_LAUNCHER_WATCH, PRIV_WATCH_READY,
                           WORKER_NAMESPACES | CLONE_NEWNET, WORKER_READY_USEC, WORKER_BATCH,
                           WORKER_SHARED_NICE, PRIV_WATCH_LOG_LEVEL },
};
ASSERT_TABLE(kinds, _WORKER_KIND_MAX);

bool restart_guard_permits(RestartGuard *g)
{
        uint64_t now = clock_monotonic_usec(), oldest = g->times_usec[g->next];

        g->times_usec[g->next] = now;
        g->next = (g->next + 1) % RESTARTS_MAX;
        return oldest == 0 || now - oldest > RESTARTS_USEC;
}

static void worker_ids(const Launcher *l, WorkerKind kind, uint32_t *ret_uid, uint32_t *ret_gid)
{
        const PrivWorkerIds *ids = &l->ids;

        *ret_uid = kind == WORKER_API      ? ids->api_uid
                   : kind == WORKER_AUDIT  ? ids->audit_uid
                   : kind == WORKER_DIALER ? ids->dialer_uid
                   : kind == WORKER_WATCH  ? ids->watch_uid
                                           : ids->egress_uid;
        *ret_gid = kind == WORKER_API      ? ids->api_gid
                   : kind == WORKER_AUDIT  ? ids->audit_gid
                   : kind == WORKER_DIALER ? ids->dialer_gid
                   : kind == WORKER_WATCH  ? ids->watch_gid
                                           : ids->egress_gid;
}

static void end_process(Worker *w)
{
        w->is_dying = true;
        if (w->pidfd >= 0)
                (void) syscall(SYS_pidfd_send_signal, w->pidfd, SIGKILL, NULL, 0);
}

static void free_deferred(void *userdata)
{
        Worker *w = userdata;

        list_unlink(&w->workers);
        w->pidfd_io = loop_io_free(w->pidfd_io);
        w->timer = loop_timer_free(w->timer);
        w->link = priv_link_free(w->link);
        w->pidfd = fd_close(w->pidfd);
        free(w);
}

static void log_end(const Worker *w, const siginfo_t *info)
{
        const char *name = kinds[w->kind].name;

        if (!w->owner || w->launcher->is_stopping)
                return;
        if (info->si_code == CLD_EXITED)
                (void) log_warning(0, "%s[%d] ended with status %d", name, (int) w->pid, info->si_status);
        else
                (void) log_warning(0, "%s[%d] was killed by signal %d", name, (int) w->pid, info->si_status);
}

static void on_pidfd(void *userdata, int fd, _unused_ unsigned events)
{
        Worker *w = userdata;
        siginfo_t info = { 0 };

        if (waitid(P_PIDFD, (id_t) fd, &info, WEXITED | WNOHANG) < 0 || info.si_pid == 0)
                return;
        log_end(w, &info);
        w->is_dying = true;
        w->pidfd_io = loop_io_free(w->pidfd_io);
        if (w->owner)
                w->events->on_gone(w->owner, w);
        w->owner = NULL;
        if (loop_defer(w->launcher->loop, free_deferred, w) < 0)
                free_deferred(w);
}

static void send_log_level(Worker *w)
{
        PrivLogLevel body = { .level = w->launcher->log_level };

        if (kinds[w->kind].log_level != _PRIV_MESSAGE_MAX)
                worker_send(w, kinds[w->kind].log_level, &body, sizeof(body), NULL, 0);
}

void workers_set_log_level(Launcher *l)
{
        LIST_FOREACH (w, &l->workers, Worker, workers)
                send_log_level(w);
}

static int on_worker_message(void *owner, PrivLink *link, Imsg *m)
{
        Worker *w = owner;

        if (!w->owner || w->is_dying)
                return 0;
        if (m->type != kinds[w->kind].ready)
                return w->events->on_message ? w->events->on_message(w->owner, w, m) : -EPROTO;
        if (w->is_ready)
                return -EPROTO;
        w->is_ready = true;
        loop_timer_stop(w->timer);
        priv_link_set_phase(link, PHASE_RUN);
        if (w->launcher->log_level != LOG_LEVEL_INFO)
                send_log_level(w);
        w->events->on_ready(w->owner, w, m);
        return 0;
}

static void on_worker_closed(void *owner, _unused_ PrivLink *link, int reason)
{
        Worker *w = owner;

        if (w->owner && !w->is_dying && !w->launcher->is_stopping && reason != -EPIPE)
                (void) log_error(reason, "%s[%d] broke the protocol", kinds[w->kind].name, (int) w->pid);
        end_process(w);
}

static void on_timer(void *userdata)
{
        Worker *w = userdata;
        const KindInfo *kind = &kinds[w->kind];

        if (w->is_dying) {
                end_process(w);
                return;
        }
        if (w->is_ready) {
                if (priv_link_set_reading(w->link, true) < 0)
                        end_process(w);
                return;
        }
        (void) log_error(-ETIMEDOUT, "%s[%d] was not ready after %llu s: killed, another is started",
                         kind->name, (int) w->pid, (unsigned long long) (kind->ready_usec / USEC_PER_SEC));
        end_process(w);
}

static int watch(Worker *w)
{
        Loop *loop = w->launcher->loop;
        int r;

        priv_link_set_handler(w->link, on_worker_message, on_worker_closed, w);
        priv_link_set_batch(w->link, kinds[w->kind].batch);
        r = loop_timer_new(loop, on_timer, w, &w->timer);
        if (r >= 0)
                r = loop_timer_set(w->timer, kinds[w->kind].ready_usec);
        return r < 0 ? r : loop_io_new(loop, w->pidfd, LOOP_READ, on_pidfd, w, &w->pidfd_io);
}

static void add(const char **arguments, size_t *n, const char *name, const char *value)
{
        sb_assert(*n + 3 <= WORKER_ARGUMENTS_MAX);
        arguments[(*n)++] = name;
        if (value)
                arguments[(*n)++] = value;
        arguments[*n] = NULL;
}

PrivAuditSettings worker_audit_settings(const PrivSettings *s)
{
        return (PrivAuditSettings){ .segment_bytes_max = s->audit_segment_bytes_max,
                                    .retention_bytes = s->audit_retention_bytes,
                                    .rows_per_second = s->rows_per_second,
                                    .rows_share_percent = s->rows_share_percent };
}

/* Of audit: how large its files get, and when the oldest go. The texts live as long as the arguments. */
static int add_sizes(const char **arguments, size_t *n, const PrivSettings *s, char texts[4][24])
{
        if (str_printf(texts[0], 24, "%llu", (unsigned long long) s->audit_segment_bytes_max) < 0 ||
            str_printf(texts[1], 24, "%llu", (unsigned long long) s->audit_retention_bytes) < 0)
                return -EINVAL;
        add(arguments, n, "--segment-bytes", texts[0]);
        add(arguments, n, "--retention-bytes", texts[1]);
        if (str_printf(texts[2], 24, "%u", s->rows_per_second) < 0 ||
            str_printf(texts[3], 24, "%u", s->rows_share_percent) < 0)
                return -EINVAL;
        add(arguments, n, "--rows-per-second", texts[2]);
        add(arguments, n, "--rows-share", texts[3]);
        return 0;
}

static int spawn_worker(Worker *w, uint32_t uid, int channel_fd)
{
        static const char *const environment[] = { "LANG=C.UTF-8", "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                                                   NULL };
        const KindInfo *kind = &kinds[w->kind];
        const Config *config = w->launcher->config;
        const char *arguments[WORKER_ARGUMENTS_MAX + 1];
        char texts[3][16], sizes[4][24];
        const Kernel *k = w->launcher->kernel;
        /* The second one: only watch looks at processes. */
        int fds[] = { channel_fd, k->proc_fd >= 0 ? k->proc_fd : k->null_fd };
        uint32_t worker_uid, worker_gid;
        size_t n = 0;

        worker_ids(w->launcher, w->kind, &worker_uid, &worker_gid);
        if (str_printf(texts[0], sizeof(texts[0]), "%u", worker_uid) < 0 ||
            str_printf(texts[1], sizeof(texts[1]), "%u", worker_gid) < 0 ||
            str_printf(texts[2], sizeof(texts[2]), "%u", uid) < 0)
                return -EINVAL;
        add(arguments, &n, kind->name, NULL);
        if (w->kind == WORKER_API)
                add(arguments, &n, "--uid", texts[2]);
        if (w->kind == WORKER_API || w->kind == WORKER_AUDIT)
                add(arguments, &n, "--state-dir", config->state_dir);
        if (w->kind == WORKER_AUDIT && add_sizes(arguments, &n, &w->launcher->settings, sizes) < 0)
                return -EINVAL;
        /* api's --uid is the user that it serves. */
        add(arguments, &n, w->kind == WORKER_API ? "--worker-uid" : "--uid", texts[0]);
        add(arguments, &n, w->kind == WORKER_API ? "--worker-gid" : "--gid", texts[1]);
        SpawnSpec spec = { .program_fd = w->launcher->kernel->program_fds[kind->program],
                           .arguments = (char *const *) (uintptr_t) arguments,
                           .environment = (char *const *) (uintptr_t) environment,
                           .namespaces = kind->namespaces,
                           .cgroup_fd = -EBADF,
                           .null_fd = w->launcher->kernel->null_fd,
                           .output_fd = -EBADF,
                           .nice = kind->nice,
                           .is_prompt = w->kind != WORKER_EGRESS,
                           .fds = fds,
                           .n_fds = w->kind == WORKER_WATCH ? 2 : 1 };

        return spawn(&spec, &w->pid, &w->pidfd);
}

int worker_new(Launcher *l, WorkerKind kind, uint32_t uid, const WorkerEvents *events, void *owner,
               Worker **ret)
{
        Worker *w = calloc(1, sizeof(*w));
        int pair[2] = { -EBADF, -EBADF }, r;

        if (!w)
                return -ENOMEM;
        *w = (Worker){ .launcher = l, .events = events, .owner = owner, .kind = kind, .pidfd = -EBADF };
        list_append(&l->workers, &w->workers);
        r = imsg_pair(pair);
        if (r >= 0)
                r = spawn_worker(w, uid, pair[1]);
        pair[1] = fd_close(pair[1]);
        if (r >= 0)
                r = priv_link_new(l->loop, TAKE_FD(pair[0]), kinds[kind].channel, ROLE_LAUNCHER, &w->link);
        if (r >= 0)
                r = watch(w);
        if (r < 0) {
                (void) fd_close(pair[0]);
                spawn_reap(TAKE_FD(w->pidfd));
                free_deferred(w);
                return r;
        }
        *ret = w;
        return 0;
}

void worker_set_owner(Worker *w, const WorkerEvents *events, void *owner)
{
        w->events = events;
        w->owner = owner;
}

bool worker_is_ready(const Worker *w)
{
        return w && w->is_ready && !w->is_dying;
}

void worker_send(Worker *w, PrivMessage type, const void *body, size_t size, const int *fds, size_t n_fds)
{
        if (worker_is_ready(w))
                (void) priv_link_send(w->link, type, body, size, fds, n_fds);
}

void worker_pause(Worker *w, uint64_t usec)
{
        if (usec > 0 && worker_is_ready(w) && loop_timer_set(w->timer, usec) >= 0 &&
            priv_link_set_reading(w->link, false) < 0)
                end_process(w);
}

void worker_kill(Worker *w)
{
        if (w)
                end_process(w);
}

void worker_retire(Worker *w)
{
        if (!w)
                return;
        w->owner = NULL;
        end_process(w);
}

void worker_release(Worker *w)
{
        if (!w)
                return;
        w->owner = NULL;
        worker_close(w);
        if (loop_timer_set(w->timer, WORKER_LEFT_USEC) < 0)
                end_process(w);
}

void worker_close(Worker *w)
{
        if (!w)
                return;
        w->is_dying = true;
        w->link = priv_link_free(w->link);
}

void workers_end(Launcher *l)
{
        LIST_FOREACH (w, &l->workers, Worker, workers) {
                /* Reaped, and to be freed with the loop. */
                if (!w->pidfd_io)
                        continue;
                w->pidfd_io = loop_io_free(w->pidfd_io);
                spawn_reap(TAKE_FD(w->pidfd));
                free_deferred(w);
        }
}
