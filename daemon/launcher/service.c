#include "daemon/launcher/service.h"

#include <errno.h>

#include "daemon/launcher/reload.h"
#include "daemon/launcher/session.h"
#include "daemon/launcher/user.h"
#include "daemon/launcher/watch.h"
#include "daemon/launcher/worker.h"
#include "proto/base/clock.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

/*
 * When audit or the dialer dies every egress worker goes: nothing passes that could not be recorded or
 * judged. The dead one is started again, hears of all sessions, and each session gets a new egress worker on
 * its old listeners. What dies too often is started again after a pause; what runs stays contained
 * meanwhile.
 */

/* A session that starts just now needs the processor more than the pool does. */
#define POOL_REFILL_USEC (12 * USEC_PER_MSEC)
#define POOL_NEXT_USEC   (2 * USEC_PER_MSEC)
#define POOL_PAUSE_USEC  (2 * USEC_PER_SEC)

static void start_audit(Launcher *l);
static void start_dialer(Launcher *l);
static void fill_pool(Launcher *l);
static void fill_pool_after(Launcher *l, uint64_t after_usec);

bool service_is_up(const Launcher *l)
{
        return worker_is_ready(l->audit) && worker_is_ready(l->dialer);
}

/* Whoever of the two comes later brings them together. */
static void connect_audit_dialer(Launcher *l)
{
        int pair[2], r;

        if (!service_is_up(l))
                return;
        r = imsg_pair(pair);
        if (r < 0) {
                /* Nothing would ever bring them together: the next dialer gets another chance. */
                (void) log_error(r, "cannot connect the dialer to the audit");
                worker_kill(l->dialer);
                return;
        }
        worker_send(l->audit, PRIV_AUDIT_DIALER_ATTACH, NULL, 0, &pair[0], 1);
        worker_send(l->dialer, PRIV_DIALER_AUDIT_ATTACH, NULL, 0, &pair[1], 1);
        fd_close_many(pair, ELEMENTSOF(pair));
        sessions_attach_egress(l);
        launcher_maybe_serve(l);
}

/* A daemon that never served says so and ends: something is wrong with the machine. One that serves keeps
 * what runs contained and tries again. */
static void restart_later(Launcher *l, const char *name)
{
        if (!l->is_serving) {
                launcher_stop(l, log_error(-ECHILD, "%s ends again and again: giving up", name));
                return;
        }
        (void) log_error(-ECHILD, "%s ends again and again: nothing passes until the next attempt", name);
        fill_pool_after(l, POOL_PAUSE_USEC);
}

static void on_audit_ready(void *owner, _unused_ Worker *w, _unused_ const Imsg *m)
{
        Launcher *l = owner;

        sessions_reopen_audit(l);
        users_attach_audit(l);
        watch_attach_audit(l);
        reload_on_audit_ready(l);
        connect_audit_dialer(l);
}

static int on_audit_message(void *owner, _unused_ Worker *w, Imsg *m)
{
        if (m->type == PRIV_AUDIT_LOADED)
                return reload_on_recorded(owner, m->body);
        if (m->type == PRIV_AUDIT_INBOUND_ROW) {
                inbounds_on_row(owner, m->body);
                return 0;
        }
        if (m->type == PRIV_AUDIT_EGRESS_OVER) {
                sessions_on_egress_over(owner, m->body);
                return 0;
        }
        if (m->type != PRIV_AUDIT_SESSION_OPENED)
                return -EPROTO;
        sessions_on_recorded(owner, m->body);
        return 0;
}

static void on_audit_gone(void *owner, _unused_ Worker *w)
{
        Launcher *l = owner;

        l->audit = NULL;
        sessions_drop_egress(l);
        sessions_lose_audit(l);
        reload_on_audit_gone(l);
        if (l->is_stopping) {
                launcher_stop(l, 0);
                return;
        }
        if (restart_guard_permits(&l->audit_guard))
                start_audit(l);
        else
                restart_later(l, "the audit writer");
}

static const WorkerEvents audit_events = { on_audit_ready, on_audit_message, on_audit_gone };

static void start_audit(Launcher *l)
{
        int r = worker_new(l, WORKER_AUDIT, 0, &audit_events, l, &l->audit);

        if (r < 0)
                launcher_stop(l, log_error(r, "cannot start the audit writer"));
}

static void on_dialer_ready(void *owner, _unused_ Worker *w, _unused_ const Imsg *m)
{
        Launcher *l = owner;

        launcher_send_resolver(l);
        sessions_reopen_dialer(l);
        connect_audit_dialer(l);
}

static int on_dialer_message(void *owner, _unused_ Worker *w, Imsg *m)
{
        if (m->type != PRIV_DIALER_EGRESS_OVER)
                return -EPROTO;
        sessions_on_egress_over(owner, m->body);
        return 0;
}

static void on_dialer_gone(void *owner, _unused_ Worker *w)
{
        Launcher *l = owner;

        l->dialer = NULL;
        sessions_drop_egress(l);
        if (l->is_stopping)
                return;
        if (restart_guard_permits(&l->dialer_guard))
                start_dialer(l);
        else
                restart_later(l, "the dialer");
}

static const WorkerEvents dialer_events = { on_dialer_ready, on_dialer_message, on_dialer_gone };

static void start_dialer(Launcher *l)
{
        int r = worker_new(l, WORKER_DIALER, 0, &dialer_events, l, &l->dialer);

        if (r < 0)
                launcher_stop(l, log_error(r, "cannot start the dialer"));
}

static void on_pool_ready(void *owner, _unused_ Worker *w, _unused_ const Imsg *m)
{
        sessions_attach_egress(owner);
        launcher_maybe_serve(owner);
}

static void on_pool_gone(void *owner, Worker *w)
{
        Launcher *l = owner;

        for (size_t i = 0; i < ELEMENTSOF(l->pool); i++) {
                if (l->pool[i] == w)
                        l->pool[i] = NULL;
        }
        if (l->is_stopping)
                return;
        if (restart_guard_permits(&l->pool_guard)) {
                fill_pool(l);
                return;
        }
        (void) log_error(0, "egress workers end before their use: no new one for a while");
        (void) service_pause_pool(l);
}

static const WorkerEvents pool_events = { on_pool_ready, NULL, on_pool_gone };

/* One at a time: each keeps us from others for a millisecond or two. */
static void fill_pool(Launcher *l)
{
        size_t i = 0;
        int r;

        while (i < ELEMENTSOF(l->pool) && l->pool[i])
                i++;
        if (i == ELEMENTSOF(l->pool))
                return;
        r = worker_new(l, WORKER_EGRESS, 0, &pool_events, l, &l->pool[i]);
        if (r >= 0) {
                fill_pool_after(l, POOL_NEXT_USEC);
                return;
        }
        (void) log_error(r, "cannot start an egress worker, trying again later");
        (void) !loop_timer_set(l->pool_timer, POOL_PAUSE_USEC);
}

static void fill_pool_after(Launcher *l, uint64_t after_usec)
{
        if (loop_timer_set(l->pool_timer, after_usec) < 0)
                fill_pool(l);
}

static void on_pool_timer(void *userdata)
{
        Launcher *l = userdata;

        if (l->is_stopping)
                return;
        if (!l->audit)
                start_audit(l);
        if (!l->dialer)
                start_dialer(l);
        sessions_attach_egress(l);
        fill_pool(l);
        if (sessions_wait_for_egress(l))
                fill_pool_after(l, POOL_PAUSE_USEC);
}

uint64_t service_pause_pool(Launcher *l)
{
        fill_pool_after(l, POOL_PAUSE_USEC);
        return POOL_PAUSE_USEC;
}

bool service_pool_is_full(const Launcher *l)
{
        for (size_t i = 0; i < ELEMENTSOF(l->pool); i++) {
                if (!worker_is_ready(l->pool[i]))
                        return false;
        }
        return true;
}

Worker *service_take_egress(Launcher *l)
{
        Worker *w = NULL;
        bool has_next = false;

        for (size_t i = 0; i < ELEMENTSOF(l->pool); i++) {
                if (!w && worker_is_ready(l->pool[i]))
                        w = TAKE_PTR(l->pool[i]);
                else if (l->pool[i])
                        has_next = true;
        }
        if (has_next)
                fill_pool_after(l, POOL_REFILL_USEC);
        else
                fill_pool(l);
        return w;
}

int service_start(Launcher *l)
{
        int r = loop_timer_new(l->loop, on_pool_timer, l, &l->pool_timer);

        if (r < 0)
                return r;
        start_audit(l);
        start_dialer(l);
        fill_pool(l);
        return watch_start(l);
}

void service_report(Launcher *l, uint32_t kind, uint32_t uid, bool is_denial, const char *action,
                    const char *detail)
{
        PrivReport body = { .kind = kind, .uid = uid, .is_denial = is_denial };

        if (str_copy(body.action, sizeof(body.action), action) < 0)
                return;
        (void) !str_copy(body.detail, sizeof(body.detail), detail);
        worker_send(l->audit, PRIV_AUDIT_REPORT, &body, sizeof(body), NULL, 0);
}

void service_report_act(Launcher *l, uint32_t uid, const Id *session, const char *method, const char *detail)
{
        PrivReport body = { .kind = AUDIT_KIND_ADMIN, .uid = uid, .action = "act" };

        if (session)
                body.session = *session;
        if (str_copy(body.reason, sizeof(body.reason), method) >= 0 &&
            str_copy(body.detail, sizeof(body.detail), detail) >= 0)
                worker_send(l->audit, PRIV_AUDIT_REPORT, &body, sizeof(body), NULL, 0);
}

void service_report_limit(Launcher *l, uint32_t uid, const char *quota, const char *detail)
{
        PrivReport body = { .kind = AUDIT_KIND_LIMIT, .uid = uid, .is_denial = true, .action = "reached" };

        if (str_copy(body.reason, sizeof(body.reason), quota) >= 0 &&
            str_copy(body.detail, sizeof(body.detail), detail) >= 0)
                worker_send(l->audit, PRIV_AUDIT_REPORT, &body, sizeof(body), NULL, 0);
}

int service_report_of_user(Launcher *l, uint32_t uid, const PrivReport *claim)
{
        PrivReport body = *claim;

        if (!PRIV_STRING_OK(body.action) || !PRIV_STRING_OK(body.reason) || !PRIV_STRING_OK(body.detail))
                return -EPROTO;
        if (body.kind != AUDIT_KIND_SESSION && body.kind != AUDIT_KIND_POLICY &&
            body.kind != AUDIT_KIND_LIMIT && body.kind != AUDIT_KIND_ADMIN)
                return -EPROTO;
        body.uid = uid;
        body.is_denial = body.is_denial != 0;
        body.count = 0;
        body.session = (Id){ 0 };
        worker_send(l->audit, PRIV_AUDIT_REPORT, &body, sizeof(body), NULL, 0);
        return 0;
}
