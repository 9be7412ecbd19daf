#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/watch/caller.h"
#include "daemon/watch/request.h"
#include "daemon/watch/watch.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"

/* A turn and connection: others get theirs. */
#define MOUNT_BATCH 16U

/* What a session may ask a second, and at once: a program that looks for files in a denied folder is not to
 * notice. */
#define REQUESTS_PER_SECOND 5000U
#define REQUESTS_BURST      20000U
#define PAUSE_USEC          (20 * USEC_PER_MSEC)

/* Beyond that audit does not keep up, and what is counted waits. */
#define AUDIT_BACKLOG_MAX 64U

static void on_timer(void *userdata);

static void set_timer(Watch *w, uint64_t after_usec)
{
        if (w->is_timer_set)
                return;
        if (!w->timer && loop_timer_new(w->loop, on_timer, w, &w->timer) < 0)
                return;
        w->is_timer_set = loop_timer_set(w->timer, after_usec) >= 0;
}

/* ---- to audit ---- */

static size_t format_path(const Mount *m, const Burst *x, char to[PRIV_PATH_SIZE + BURST_NAME_MAX + 2])
{
        const char *target = plan_string(&m->plan, m->plan.mounts[x->mount].target);
        size_t n = strlen(target);

        memcpy(to, target, n);
        if (x->n_name == 0)
                return n;
        to[n] = '/';
        memcpy(to + n + 1, x->name, x->n_name);
        return n + 1 + x->n_name;
}

/* False: not now. */
static bool tell(Mount *m, const Burst *x)
{
        const PlanMount *mask = &m->plan.mounts[x->mount];
        const char *layer = plan_string(&m->plan, mask->layer), *rule = plan_string(&m->plan, mask->rule);
        char tail[3 * PRIV_PATH_SIZE];
        PrivFileDenied d = { .session = m->session,
                             .operation = x->operation,
                             .count = x->count,
                             .is_mixed = x->is_mixed,
                             .process = x->process,
                             .pid = x->pid,
                             .n_layer = (uint32_t) strlen(layer),
                             .n_rule = (uint32_t) strlen(rule) };
        size_t n;

        if (!m->watch->audit || priv_link_queued(m->watch->audit) > AUDIT_BACKLOG_MAX)
                return false;
        memcpy(d.program, x->program, sizeof(d.program));
        n = format_path(m, x, tail);
        d.n_path = (uint32_t) n;
        if (d.n_layer >= PRIV_NAME_SIZE || n + d.n_layer + d.n_rule > sizeof(tail))
                return true;
        memcpy(tail + n, layer, d.n_layer);
        memcpy(tail + n + d.n_layer, rule, d.n_rule);
        return priv_link_send_tail(m->watch->audit, PRIV_FILE_DENIED, &d, sizeof(d), tail,
                                   n + d.n_layer + d.n_rule, NULL, 0) >= 0;
}

static void tell_due(Mount *m, bool is_end)
{
        uint64_t now = clock_monotonic_usec();

        for (Burst *x; (x = bursts_next(&m->bursts, now, is_end));) {
                if (!tell(m, x))
                        return;
                burst_told(x, now);
        }
}

static Attempt attempt_of(const Request *q)
{
        return (Attempt){ .mount = (uint32_t) request_mount_of(q->node),
                          .operation = q->operation,
                          .thread = q->pid,
                          .name = q->name,
                          .n_name = q->n_name };
}

/* Is it one of the daemon's own that asks, init or the guard? They are never counted: where many are counted
 * as one, a session's attempts would pass for theirs. */
static bool is_own(const Mount *m, const Request *q)
{
        Attempt a = attempt_of(q);

        return !bursts_has(&m->bursts, &a) && caller_is_host_root(m->watch->proc_fd, q->pid);
}

static void count(Mount *m, const Request *q)
{
        Attempt a = attempt_of(q);
        uint64_t now = clock_monotonic_usec();
        Caller caller;
        Burst *x = NULL;
        int r;

        r = bursts_take(&m->bursts, &a, now, &x);
        if (r < 0)
                (void) log_warning(r, "an attempt on a denied path is not recorded");
        if (r > 0) {
                caller_read(m->watch->proc_fd, q->pid, m->session_text, &caller);
                x->pid = caller.pid;
                x->process = caller.process;
                memcpy(x->program, caller.program, sizeof(x->program));
        }
        if (r == 1 && tell(m, x))
                burst_told(x, now);
        set_timer(m->watch, BURST_USEC);
}

/* ---- from the kernel ---- */

/* The mask that a node is; NULL: it is none of this session's programs that asks, or nobody knows yet. */
static const PlanMount *mask_of(const Mount *m, const Request *q)
{
        int i = request_mount_of(q->node);
        const PlanMount *mask;

        if (q->kind != REQUEST_ATTEMPT || !m->plan.header || i < 0 ||
            (uint32_t) i >= m->plan.header->n_mounts)
                return NULL;
        mask = &m->plan.mounts[i];
        /* Sessions are never root's, and init is done with the masks before a program runs. */
        return mask->type == PLAN_MASK && q->uid != 0 && q->pid != m->init_pid ? mask : NULL;
}

/* 1: go on. */
static int serve_one(Mount *m, char buffer[REQUEST_SIZE_MAX])
{
        char reply[REPLY_SIZE_MAX];
        const PlanMount *mask;
        bool is_ours = false;
        ssize_t n = read(m->fd, buffer, REQUEST_SIZE_MAX);
        Request q;
        size_t size;
        int r;

        if (n < 0)
                /* ENOENT: whoever asked was killed meanwhile. */
                return errno == EAGAIN ? 0 : errno == EINTR || errno == ENOENT ? 1 : neg_errno();
        r = request_parse(buffer, (size_t) n, &q);
        if (r < 0)
                return log_warning(r, "the kernel asked for what cannot be");
        mask = mask_of(m, &q);
        if (mask)
                is_ours = is_own(m, &q);
        if (mask && !is_ours)
                count(m, &q);
        /* Who makes the session looks at masks that it has put on others, and so does its guard. */
        size = request_answer(&q, !mask || is_ours || mask->flags & PLAN_QUIET, reply);
        if (size > 0 && write(m->fd, reply, size) < 0 && errno != ENOENT && errno != EINTR)
                return neg_errno();
        return 1;
}

/* In this order: closing the root waits for nobody then, us least of all. */
static void disconnect(Mount *m)
{
        m->io = loop_io_free(m->io);
        m->fd = fd_close(m->fd);
        m->root_fd = fd_close(m->root_fd);
}

static void mount_free(Mount *m)
{
        disconnect(m);
        bursts_done(&m->bursts);
        if (m->plan.header)
                (void) munmap((void *) (uintptr_t) m->plan.header, m->plan_size);
        free(m);
}

static void remove_mount(Mount *m)
{
        (void) map_remove(&m->watch->mounts, &m->session, sizeof(m->session));
        mount_free(m);
}

/* The session is gone, or the kernel has ended the connection. What is counted may still have to wait for
 * audit. */
static void end(Mount *m)
{
        m->is_over = true;
        m->is_paused = false;
        disconnect(m);
        tell_due(m, /* is_end= */ true);
        if (bursts_wait(&m->bursts))
                set_timer(m->watch, BURST_USEC);
        else
                remove_mount(m);
}

static bool has_news(const Watch *w)
{
        struct pollfd p = { .fd = w->launcher_fd, .events = POLLIN };

        return poll(&p, 1, 0) > 0 && p.revents & POLLIN;
}

static void on_device(void *userdata, _unused_ int fd, _unused_ unsigned events)
{
        const BucketRate rate = bucket_rate(REQUESTS_PER_SECOND, USEC_PER_SEC, REQUESTS_BURST);
        static char buffer[REQUEST_SIZE_MAX] __attribute__((aligned(8)));
        uint64_t now = clock_monotonic_usec();
        Mount *m = userdata;
        int r = 1;

        /* What its masks stand for may be on its way: that is to be known before a program asks. */
        if (!m->plan.header && has_news(m->watch))
                return;
        for (unsigned i = 0; r > 0 && i < MOUNT_BATCH; i++) {
                if (m->plan.header && !bucket_take(&m->requests, &rate, 1, now)) {
                        m->watch->is_timer_set = false;
                        set_timer(m->watch, PAUSE_USEC);
                        m->is_paused = m->watch->is_timer_set && loop_io_set_events(m->io, 0) >= 0;
                        return;
                }
                r = serve_one(m, buffer);
        }
        if (r < 0)
                end(m);
}

static void on_timer(void *userdata)
{
        Watch *w = userdata;
        bool is_left = false, is_paused = false;
        size_t cursor = 0;

        w->is_timer_set = false;
        for (Mount *m = map_next(&w->mounts, &cursor); m; m = map_next(&w->mounts, &cursor)) {
                tell_due(m, m->is_over);
                if (m->is_paused) {
                        m->is_paused = loop_io_set_events(m->io, LOOP_READ) < 0;
                        is_paused = is_paused || m->is_paused;
                }
                is_left = is_left || bursts_wait(&m->bursts);
                if (m->is_over && !bursts_wait(&m->bursts)) {
                        remove_mount(m);
                        cursor = 0;
                }
        }
        if (is_left || is_paused)
                set_timer(w, is_paused ? PAUSE_USEC : BURST_USEC);
}

/* ---- from the launcher ---- */

void mount_over(Watch *w, const Id *session)
{
        Mount *m = map_get(&w->mounts, session, sizeof(*session));

        if (m && !m->is_over)
                end(m);
}

int mount_open(Watch *w, const Id *session, int take_fd, int take_root_fd)
{
        Mount *m = calloc(1, sizeof(*m));
        int r = -ENOMEM;

        if (!m) {
                (void) fd_close(take_fd);
                (void) fd_close(take_root_fd);
                return r;
        }
        *m = (Mount){ .watch = w, .session = *session, .fd = take_fd, .root_fd = take_root_fd };
        bursts_init(&m->bursts);
        id_format(session, m->session_text);
        r = map_put(&w->mounts, &m->session, sizeof(m->session), m);
        if (r < 0) {
                mount_free(m);
                return r;
        }
        r = loop_io_new(w->loop, m->fd, LOOP_READ, on_device, m, &m->io);
        if (r < 0)
                remove_mount(m);
        return r;
}

int mount_assign(Watch *w, const PrivWatchSession *s, int plan_fd)
{
        Mount *m = map_get(&w->mounts, &s->session, sizeof(s->session));
        const void *data;
        size_t size;
        int r;

        if (!m || m->is_over)
                return -ENOENT;
        if (m->plan.header)
                return -EEXIST;
        r = fd_map_sealed(plan_fd, PLAN_SIZE_MAX, &data, &size);
        if (r < 0)
                return r;
        r = plan_open(data, size, &m->plan);
        if (r < 0) {
                (void) munmap((void *) (uintptr_t) data, size);
                m->plan = (Plan){ 0 };
                return r;
        }
        m->plan_size = size;
        m->init_pid = s->init_pid;
        return 0;
}

void mounts_tell(Watch *w)
{
        set_timer(w, 0);
}

void mounts_done(Watch *w)
{
        size_t cursor = 0;

        for (Mount *m = map_next(&w->mounts, &cursor); m; m = map_next(&w->mounts, &cursor))
                mount_free(m);
        map_done(&w->mounts);
        w->timer = loop_timer_free(w->timer);
}
