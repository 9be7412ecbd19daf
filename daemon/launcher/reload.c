#include "daemon/launcher/reload.h"

#include <errno.h>
#include <stdio.h>
#include <systemd/sd-daemon.h>

#include "daemon/launcher/load.h"
#include "daemon/launcher/manager.h"
#include "daemon/launcher/profiles.h"
#include "daemon/launcher/service.h"
#include "daemon/launcher/worker.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

#define CALLERS_MAX 16U

/* Audit does not begin with the row later than this; whoever waits hears a little later that it did not
 * answer. */
#define RECORD_USEC (5 * USEC_PER_SEC)
#define ANSWER_USEC (6 * USEC_PER_SEC)

typedef enum ReloadState {
        RELOAD_IDLE = 0,
        RELOAD_READING,   /* a child reads settings and profiles */
        RELOAD_RESOLVING, /* another one resolv.conf and hosts */
        RELOAD_RECORDING, /* audit commits: from here on only it says how this ends */
        _RELOAD_STATE_MAX,
} ReloadState;

typedef struct Caller {
        ListLink link;
        uint32_t uid;
        uint64_t token;
        bool is_signal;
        bool is_answered;
} Caller;

struct Reload {
        Loading *loading;
        Lookup *lookup; /* of the resolvers */
        LoopTimer *timer;
        ReloadState state;
        ListLink callers; /* the first is being served */
        unsigned n_callers;
        PrivResolver resolver;
        int hosts_fd;
        uint64_t token;          /* of the row */
        bool has_unknown_record; /* audit ended meanwhile: the row may be there */
        uint32_t unknown_uid;
};

static void begin(Launcher *l);

/* There is one unless the state is idle. */
static Caller *first(const Reload *x)
{
        return list_entry(x->callers.next, Caller, link);
}

/* ---- rows ---- */

static void report(Launcher *l, uint32_t uid, const char *reason, const char *detail)
{
        PrivReport body = { .kind = AUDIT_KIND_POLICY, .uid = uid, .is_denial = true, .action = "reload" };

        if (str_copy(body.reason, sizeof(body.reason), reason) < 0)
                return;
        if (str_copy(body.detail, sizeof(body.detail), detail) < 0)
                (void) !str_copy(body.detail, sizeof(body.detail), "see the log of the daemon");
        worker_send(l->audit, PRIV_AUDIT_REPORT, &body, sizeof(body), NULL, 0);
}

static void report_failure(Launcher *l, int error)
{
        const Reload *x = l->reload;
        const PrivDiagnostic *d = &x->loading->loaded.diagnostics[0];
        char detail[sizeof(((PrivReport *) NULL)->detail)];

        if (x->loading->loaded.n_diagnostics == 0 || d->severity != DIAGNOSTIC_FAILURE)
                (void) !str_printf(detail, sizeof(detail), "%s", error_name(error));
        else if (str_printf(detail, sizeof(detail), "%s:%u:%u: %s%s%s", d->file, d->line, d->column, d->key,
                            d->key[0] ? ": " : "", d->message) < 0)
                (void) !str_printf(detail, sizeof(detail), "%s:%u:%u", d->file, d->line, d->column);
        report(l, first(x)->uid, error == -EINVAL ? "invalid" : "failed", detail);
}

void reload_refuse(User *u)
{
        if (quota_take_row(u))
                report(u->launcher, u->uid, "not-permitted",
                       "only root and sandboxd-admins load policy anew");
}

/* ---- answers ---- */

static void answer(Launcher *l, Caller *c, int error, bool is_changed)
{
        const PrivLoaded *loaded = &l->reload->loading->loaded;
        User *u = map_get(&l->users, &c->uid, sizeof(c->uid));
        PrivManagerAnswer a = { .token = c->token, .error = error };
        _cleanup_free_ PrivReload *body = calloc(1, sizeof(*body));

        if (u && !c->is_signal && !c->is_answered) {
                if (body) {
                        body->generation = l->generation;
                        body->is_changed = is_changed;
                        body->n_diagnostics = loaded->n_diagnostics;
                        memcpy(body->diagnostics, loaded->diagnostics, sizeof(body->diagnostics));
                }
                manager_answer(u, &a, body, body ? sizeof(*body) : 0);
        }
        c->is_answered = true;
}

static void finish(Launcher *l, int error, bool is_changed)
{
        Reload *x = l->reload;
        Caller *c = first(x);

        loop_timer_stop(x->timer);
        x->hosts_fd = fd_close(x->hosts_fd);
        x->loading->profiles_fd = fd_close(x->loading->profiles_fd);
        x->state = RELOAD_IDLE;
        answer(l, c, error, is_changed);
        list_unlink(&c->link);
        x->n_callers--;
        free(c);
        (void) sd_notify(0, "READY=1");
        if (!list_is_empty(&x->callers) && !l->is_stopping)
                begin(l);
}

static void fail(Launcher *l, int error)
{
        (void) log_warning(error, "settings and profiles are not loaded, the old ones stay in force");
        report_failure(l, error);
        finish(l, error, /* is_changed= */ false);
}

/* ---- the steps ---- */

/* The row is there: from now on this is what counts. */
static void apply(Launcher *l)
{
        Reload *x = l->reload;
        const PrivLoaded *loaded = &x->loading->loaded;
        bool is_changed = memcmp(l->digest, loaded->digest, sizeof(l->digest)) != 0;
        size_t cursor = 0;

        l->settings = loaded->settings;
        resolver_use(l, &x->resolver, TAKE_FD(x->hosts_fd));
        if (is_changed) {
                (void) fd_close(l->profiles_fd);
                l->profiles_fd = TAKE_FD(x->loading->profiles_fd);
                memcpy(l->digest, loaded->digest, sizeof(l->digest));
                l->loaded_usec = clock_realtime_usec();
                l->generation++;
                for (User *u = map_next(&l->users, &cursor); u; u = map_next(&l->users, &cursor))
                        user_send_settings(u);
        }
        log_info("settings and profiles were loaded: generation %llu", (unsigned long long) l->generation);
        finish(l, 0, is_changed);
}

int reload_on_recorded(Launcher *l, const PrivRecorded *body)
{
        Reload *x = l->reload;

        if (x->state != RELOAD_RECORDING || body->token != x->token)
                return -EPROTO;
        if (body->error >= 0)
                apply(l);
        else
                fail(l, body->error == -EINVAL || body->error == -EPERM ? -EIO : body->error);
        return 0;
}

static int record(Launcher *l)
{
        Reload *x = l->reload;
        const PrivLoaded *loaded = &x->loading->loaded;
        bool is_changed = memcmp(l->digest, loaded->digest, sizeof(l->digest)) != 0;
        char digest[2 * PRIV_DIGEST_SIZE + 1];
        PrivAuditLoad body = { .token = ++x->token,
                               .deadline_usec = clock_monotonic_usec() + RECORD_USEC,
                               .uid = first(x)->uid };
        int r;

        str_hex(digest, loaded->digest, sizeof(loaded->digest));
        r = str_printf(body.detail, sizeof(body.detail),
                       "{\"generation\":%llu,\"changed\":%s,\"digest\":\"%s\",\"signal\":%s}",
                       (unsigned long long) l->generation + is_changed, is_changed ? "true" : "false",
                       digest, first(x)->is_signal ? "true" : "false");
        if (r < 0)
                return r;
        if (!worker_is_ready(l->audit))
                return -EPIPE;
        body.settings = worker_audit_settings(&loaded->settings);
        r = loop_timer_set(x->timer, ANSWER_USEC);
        if (r < 0)
                return r;
        x->state = RELOAD_RECORDING;
        worker_send(l->audit, PRIV_AUDIT_LOAD, &body, sizeof(body), NULL, 0);
        return 0;
}

static void on_resolver(Launcher *l, int error, const PrivResolver *resolver, int take_hosts_fd)
{
        Reload *x = l->reload;
        PrivLoaded *loaded = &x->loading->loaded;
        int r = error;

        x->resolver = *resolver;
        x->hosts_fd = take_hosts_fd;
        if (r < 0) {
                fault_set(&loaded->diagnostics[0], "/etc/resolv.conf", "it, or /etc/hosts, cannot be read");
                loaded->n_diagnostics = 1;
        } else {
                r = record(l);
        }
        if (r < 0)
                fail(l, r);
}

static void on_loaded(Launcher *l, int error)
{
        Reload *x = l->reload;
        int r = error;

        if (r >= 0 && !x->loading->loaded.is_valid)
                r = -EINVAL;
        if (r >= 0) {
                x->state = RELOAD_RESOLVING;
                r = resolver_look_up(l, on_resolver, &x->lookup);
        }
        if (r < 0)
                fail(l, r);
}

/* All else is about the files: what one is, or who may write it, is as wrong as what it says. */
static bool is_our_own(int error)
{
        return error == -ENOMEM || error == -EMFILE || error == -ENFILE || error == -EAGAIN;
}

/* From a call of its own: what fails at once must not answer before the caller has said that it waits. */
static void begin_deferred(void *userdata)
{
        Launcher *l = userdata;
        char text[96];
        int r;

        /* At the end nothing begins. */
        if (l->is_stopping || !l->reload)
                return;
        if (str_printf(text, sizeof(text), "RELOADING=1\nMONOTONIC_USEC=%llu",
                       (unsigned long long) clock_monotonic_usec()) >= 0)
                (void) sd_notify(0, text);
        r = loading_begin(l->reload->loading, /* is_running= */ true);
        if (r < 0)
                fail(l, is_our_own(r) ? r : -EINVAL);
}

static void begin(Launcher *l)
{
        l->reload->state = RELOAD_READING;
        if (loop_defer(l->loop, begin_deferred, l) < 0)
                begin_deferred(l);
}

/* Who waits hears that there was no answer. Should the row be committed after all, it counts: the log is
 * never ahead of what holds. */
static void on_timer(void *userdata)
{
        Launcher *l = userdata;
        Caller *c = first(l->reload);

        if (l->reload->state != RELOAD_RECORDING || c->is_answered)
                return;
        (void) log_warning(-ETIMEDOUT,
                           "the audit writer does not answer: nothing is loaded without its row");
        answer(l, c, -ETIMEDOUT, /* is_changed= */ false);
}

/* ---- audit comes and goes ---- */

void reload_on_audit_gone(Launcher *l)
{
        Reload *x = l->reload;

        if (x->state != RELOAD_RECORDING || l->is_stopping)
                return;
        x->has_unknown_record = true;
        x->unknown_uid = first(x)->uid;
        fail(l, -EPIPE);
}

void reload_on_audit_ready(Launcher *l)
{
        Reload *x = l->reload;

        if (x->has_unknown_record)
                report(l, x->unknown_uid, "failed",
                       "the audit writer ended while it wrote the row of a load: that one did not count");
        x->has_unknown_record = false;
}

/* ---- who asks ---- */

static int add_caller(Launcher *l, uint32_t uid, uint64_t token, bool is_signal)
{
        Reload *x = l->reload;
        Caller *c;

        if (x->n_callers >= CALLERS_MAX)
                return -EBUSY;
        c = calloc(1, sizeof(*c));
        if (!c)
                return -ENOMEM;
        *c = (Caller){ .uid = uid, .token = token, .is_signal = is_signal };
        list_append(&x->callers, &c->link);
        x->n_callers++;
        if (x->state == RELOAD_IDLE)
                begin(l);
        return 0;
}

int reload_ask(User *u, uint64_t token)
{
        int r = add_caller(u->launcher, u->uid, token, /* is_signal= */ false);

        return r < 0 ? r : 1;
}

void reload_signal(Launcher *l)
{
        const Caller *served = first(l->reload); /* where there is one */
        int r;

        if (!l->is_serving || l->is_stopping)
                return;
        LIST_FOREACH (c, &l->reload->callers, Caller, link) {
                /* It has not begun: it will see what this one is about. */
                if (c != served && c->is_signal)
                        return;
        }
        r = add_caller(l, 0, 0, /* is_signal= */ true);
        if (r < 0)
                (void) log_warning(r, "SIGHUP: settings and profiles are not loaded");
}

void reload_forget(const User *u)
{
        LIST_FOREACH (c, &u->launcher->reload->callers, Caller, link) {
                if (c->uid == u->uid)
                        c->is_answered = true;
        }
}

int reload_new(Launcher *l)
{
        Reload *x = calloc(1, sizeof(*x));

        if (!x)
                return -ENOMEM;
        x->hosts_fd = -EBADF;
        list_init(&x->callers);
        l->reload = x;
        x->loading = loading_new(l, on_loaded);
        return x->loading ? loop_timer_new(l->loop, on_timer, l, &x->timer) : -ENOMEM;
}

void reload_free(Launcher *l)
{
        Reload *x = l->reload;

        if (!x)
                return;
        x->lookup = lookup_free(x->lookup);
        x->loading = loading_free(x->loading);
        x->timer = loop_timer_free(x->timer);
        x->hosts_fd = fd_close(x->hosts_fd);
        LIST_FOREACH (c, &x->callers, Caller, link) {
                list_unlink(&c->link);
                free(c);
        }
        free(x);
        l->reload = NULL;
}
