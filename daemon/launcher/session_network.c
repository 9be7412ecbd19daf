#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/launcher/service.h"
#include "daemon/launcher/session.h"
#include "daemon/launcher/worker.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

/*
 * A session's egress worker holds copies of its sockets; the launcher keeps the originals, so that a
 * successor takes over what waits in their queues. Without both audit and dialer no egress worker is
 * attached.
 */

int session_open_audit(Session *s, bool is_known)
{
        PrivSessionOpen body = { .session = s->id,
                                 .uid = s->user->uid,
                                 .is_known = is_known,
                                 .has_no_network = s->has_no_network,
                                 .claims = s->claims };

        if (!worker_is_ready(s->launcher->audit))
                return -EAGAIN;
        memcpy(body.user, s->user->identity.user, sizeof(body.user));
        memcpy(body.cgroup, s->answer.cgroup, sizeof(body.cgroup));
        memcpy(body.degraded, s->launcher->kernel->degraded, sizeof(body.degraded));
        s->is_row_asked = true;
        worker_send(s->launcher->audit, PRIV_AUDIT_SESSION_OPEN, &body, sizeof(body), &s->policy_fd, 1);
        return 0;
}

void session_open_dialer(Session *s)
{
        PrivSessionRef ref = { .session = s->id };

        worker_send(s->launcher->dialer, PRIV_DIALER_SESSION_OPEN, &ref, sizeof(ref), &s->policy_fd, 1);
}

static void on_egress_ready(_unused_ void *owner, _unused_ Worker *w, _unused_ const Imsg *m) {}

static void on_egress_gone(void *owner, Worker *w)
{
        Session *s = owner;

        if (s->egress == w)
                s->egress = NULL;
        if (s->state == SESSION_STOPPING || s->launcher->is_stopping)
                return;
        s->wants_egress = true;
        if (!restart_guard_permits(&s->egress_guard)) {
                (void) log_error(0,
                                 "a session's egress workers end again and again: no network for a while");
                s->egress_after_usec = clock_monotonic_usec() + service_pause_pool(s->launcher);
                return;
        }
        session_attach_egress(s);
}

static const WorkerEvents egress_events = { on_egress_ready, NULL, on_egress_gone };

static void send_start(Session *s, Worker *egress, int audit_fd, int dialer_fd)
{
        PrivEgressStart body = { .is_offline = s->has_no_network };
        int fds[2 + _EGRESS_SOCKET_MAX] = { audit_fd, dialer_fd };
        size_t n = 2;

        for (unsigned i = 0; i < _EGRESS_SOCKET_MAX; i++) {
                if (s->network.socket_fds[i] < 0)
                        continue;
                body.sockets |= 1U << i;
                fds[n++] = s->network.socket_fds[i];
        }
        worker_send(egress, PRIV_EGRESS_START, &body, sizeof(body), fds, n);
}

/* A prefix that ends in zeros. */
static bool prefix_is_sound(const PrivPrefix *p, uint32_t family, uint32_t length_min, uint32_t length_max)
{
        if (p->address.family == 0)
                return true;
        if (p->address.family != family || p->length < length_min || p->length > length_max)
                return false;
        for (size_t bit = p->length; bit < sizeof(p->address.bytes) * 8; bit++)
                if (p->address.bytes[bit / 8] & 0x80 >> bit % 8)
                        return false;
        return true;
}

/* Which network it is makes no difference to anybody but the session. */
bool session_pool_is_sound(const PrivPool *p)
{
        return prefix_is_sound(&p->v4, 4, 8, 24) && prefix_is_sound(&p->v6, 6, 16, 112);
}

void session_choose_pool(Session *s, const PrivPool *p)
{
        if (p->v4.address.family != 0)
                s->pool.v4 = p->v4;
        if (p->v6.address.family != 0)
                s->pool.v6 = p->v6;
}

/* Whose size nobody can change: a worker that maps it is not killed by a smaller one. */
static int make_names(Session *s)
{
        _cleanup_close_ int fd = memfd_create("names", MFD_CLOEXEC | MFD_ALLOW_SEALING);

        if (fd < 0 || ftruncate(fd, PRIV_NAMES_BYTES) < 0 ||
            fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
                return neg_errno();
        s->names_fd = TAKE_FD(fd);
        return 0;
}

static int send_dns(Session *s, Worker *egress)
{
        PrivEgressDns body = { .pool = s->pool };
        int fds[1 + ELEMENTSOF(s->network.dns_fds)];
        size_t n = 1;
        int r = s->names_fd < 0 ? make_names(s) : 0;

        if (r < 0)
                return r;
        fds[0] = s->names_fd;
        for (size_t i = 0; i < ELEMENTSOF(s->network.dns_fds); i++)
                if (s->network.dns_fds[i] >= 0)
                        fds[n++] = s->network.dns_fds[i];
        worker_send(egress, PRIV_EGRESS_DNS, &body, sizeof(body), fds, n);
        return 0;
}

static int connect_egress(Session *s, Worker *egress)
{
        Launcher *l = s->launcher;
        PrivEgressRef ref = { .session = s->id, .number = ++l->n_egresses };
        int audit_pair[2] = { -EBADF, -EBADF }, dialer_pair[2] = { -EBADF, -EBADF }, r;

        s->egress_number = ref.number;
        r = imsg_pair(audit_pair);
        if (r >= 0)
                r = imsg_pair(dialer_pair);
        if (r >= 0) {
                /* The former worker may have ended because the dialer could not open the session. */
                if (s->had_egress)
                        session_open_dialer(s);
                worker_send(l->audit, PRIV_AUDIT_EGRESS_ATTACH, &ref, sizeof(ref), &audit_pair[1], 1);
                worker_send(l->dialer, PRIV_DIALER_EGRESS_ATTACH, &ref, sizeof(ref), &dialer_pair[0], 1);
                send_start(s, egress, audit_pair[0], dialer_pair[1]);
                r = send_dns(s, egress);
        }
        fd_close_many(audit_pair, 2);
        fd_close_many(dialer_pair, 2);
        return r;
}

void session_attach_egress(Session *s)
{
        Worker *egress;

        if (!s->wants_egress || s->network.fd < 0 || !service_is_up(s->launcher))
                return;
        if (clock_monotonic_usec() < s->egress_after_usec)
                return;
        egress = service_take_egress(s->launcher);
        if (!egress)
                return;
        s->wants_egress = false;
        s->egress = egress;
        worker_set_owner(egress, &egress_events, s);
        if (connect_egress(s, egress) < 0) {
                worker_kill(egress);
                return;
        }
        s->had_egress = true;
        session_maybe_answer(s);
}

void sessions_attach_egress(Launcher *l)
{
        size_t cursor = 0;

        for (Session *s = map_next(&l->sessions, &cursor); s; s = map_next(&l->sessions, &cursor))
                session_attach_egress(s);
}

bool sessions_wait_for_egress(const Launcher *l)
{
        size_t cursor = 0;

        for (const Session *s = map_next(&l->sessions, &cursor); s; s = map_next(&l->sessions, &cursor)) {
                if (s->wants_egress && s->state != SESSION_STOPPING)
                        return true;
        }
        return false;
}

void sessions_drop_egress(Launcher *l)
{
        size_t cursor = 0;

        inbounds_drop_all(l);
        for (Session *s = map_next(&l->sessions, &cursor); s; s = map_next(&l->sessions, &cursor)) {
                if (s->state == SESSION_STOPPING)
                        continue;
                worker_retire(TAKE_PTR(s->egress));
                s->wants_egress = s->network.fd >= 0;
        }
}

/* What it still holds goes with it. */
void sessions_on_egress_over(Launcher *l, const PrivEgressRef *ref)
{
        const Session *s = map_get(&l->sessions, &ref->session, sizeof(ref->session));

        if (s && s->egress && s->egress_number == ref->number)
                worker_kill(s->egress);
}

/* The row of a start is either committed or not: a new writer could not tell which. */
void sessions_lose_audit(Launcher *l)
{
        size_t cursor = 0;

        for (Session *s = map_next(&l->sessions, &cursor); s; s = map_next(&l->sessions, &cursor)) {
                if (s->state == SESSION_STARTING && !s->is_recorded)
                        session_fail(s, -EPIPE, "audit", "the audit writer is gone");
        }
}

void sessions_reopen_audit(Launcher *l)
{
        size_t cursor = 0;

        for (Session *s = map_next(&l->sessions, &cursor); s; s = map_next(&l->sessions, &cursor)) {
                if (s->is_row_asked && session_open_audit(s, /* is_known= */ true) < 0)
                        (void) log_error(0, "a session could not be made known to the audit writer");
        }
}

void sessions_reopen_dialer(Launcher *l)
{
        size_t cursor = 0;

        for (Session *s = map_next(&l->sessions, &cursor); s; s = map_next(&l->sessions, &cursor))
                session_open_dialer(s);
}
