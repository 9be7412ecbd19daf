/* What the launcher says: who exists, and the rows that only it can write. */

#include <errno.h>

#include "daemon/audit/queue.h"
#include "daemon/audit/quota.h"
#include "proto/base/clock.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

/* How long exits of an ended session are still taken. */
#define LINGER_USEC (10 * USEC_PER_SEC)

static void answer_open(Audit *a, const Id *session, int error, uint64_t sequence)
{
        PrivSessionOpened o = { .session = *session, .error = error, .sequence = sequence };

        (void) priv_link_send(a->launcher, PRIV_AUDIT_SESSION_OPENED, &o, sizeof(o), NULL, 0);
}

void start_release(Audit *a, Pending *p, int error)
{
        answer_open(a, &p->session->id, error, error < 0 ? 0 : p->row.sequence);
        if (error < 0)
                session_drop(a, p->session);
}

/* A session that the last run began and the launcher kept: its rows go on. */
static int readopt(Audit *a, const PrivSessionOpen *o, int policy_fd, Session *old)
{
        Session *s;
        int r;

        (void) map_remove(&a->sessions, &old->id, sizeof(old->id));
        /* Whose it is, the launcher knows, not a file. */
        r = old->row.uid == o->uid ? session_new_known(a, &old->row, o, policy_fd, &s)
                                   : session_new(a, o, policy_fd, &s);
        if (r < 0) {
                /* It is ours to end still. */
                if (map_put(&a->sessions, &old->id, sizeof(old->id), old) < 0)
                        (void) session_unref(old);
                return r;
        }
        (void) session_unref(old);
        s->has_former_names = true;
        answer_open(a, &s->id, 0, 0);
        return 0;
}

static int open_session(Audit *a, const PrivSessionOpen *o, int policy_fd)
{
        Session *s = session_find(a, &o->session);
        Row row = ROW_INIT(AUDIT_KIND_SESSION, "start");
        Pending *p;
        int r;

        if (s)
                return s->is_leftover && o->is_known ? readopt(a, o, policy_fd, s) : -EEXIST;
        r = session_new(a, o, policy_fd, &s);
        if (r < 0)
                return r;
        /* Each segment of the log that has rows of it keeps its policy's text. */
        if (!o->is_known && !quota_take(a, o->uid, sizeof(o->claims.name) + strlen(s->policy_row.text))) {
                session_drop(a, s);
                return -EDQUOT;
        }
        row.policy = &s->policy_row;
        r = pending_new(PENDING_START, &row, s, 0, &p);
        if (r < 0) {
                session_drop(a, s);
                return r;
        }
        queue_put(a, p);
        return 0;
}

static int on_session_open(Audit *a, Imsg *m)
{
        const PrivSessionOpen *o = m->body;
        int r;

        r = open_session(a, o, m->fds[0]);
        if (r == -EPROTO)
                return r;
        if (r < 0) {
                if (r != -EDQUOT)
                        (void) log_warning(r, "A session cannot be opened");
                answer_open(a, &o->session, r, 0);
        }
        return 0;
}

/* Never puts off what is set already: ends that keep coming must not keep it from running. */
int sweep_arm(Audit *a, uint64_t after_usec)
{
        if (a->is_sweep_set)
                return 0;
        a->is_sweep_set = true;
        return loop_timer_set(a->sweep, after_usec);
}

static void on_sweep(void *userdata)
{
        Audit *a = userdata;
        uint64_t now = clock_monotonic_usec();
        size_t cursor = 0;
        bool has_more = false;
        Session *s;

        a->is_sweep_set = false;
        while ((s = map_next(&a->sessions, &cursor))) {
                if (s->is_leftover && s->ended_usec == 0 && session_end(a, s, END_DAEMON_RESTART) < 0)
                        has_more = true;
                if (s->ended_usec == 0)
                        continue;
                if (now < s->ended_usec + LINGER_USEC) {
                        has_more = true;
                        continue;
                }
                session_drop(a, s);
                cursor = 0;
        }
        if (has_more && sweep_arm(a, LINGER_USEC / 5) < 0)
                (void) log_warning(-EIO, "No timer for ended sessions, ignoring");
}

int session_end(Audit *a, Session *s, uint32_t reason)
{
        Row row = ROW_INIT(AUDIT_KIND_SESSION, "end");
        int r;

        if (s->ended_usec > 0)
                return 0;
        quota_charge(a, s->row.uid, 0);
        row.reason = end_reason_to_string(reason);
        if (s->policy)
                row.policy = &s->policy_row;
        r = queue_report(a, &row, s, NULL);
        if (r < 0)
                return r;
        denials_flush(a, s);
        s->ended_usec = clock_monotonic_usec();
        return sweep_arm(a, LINGER_USEC);
}

static int on_session_end(Audit *a, const PrivSessionEnd *e)
{
        Session *s = session_find(a, &e->session);

        if (e->reason >= _END_REASON_MAX)
                return -EPROTO;
        if (!s) {
                log_info("The end of a session that is not known");
                return 0;
        }
        return session_end(a, s, e->reason);
}

static int on_session_frozen(Audit *a, const PrivSessionFreeze *f)
{
        Session *s = session_find(a, &f->session);
        Row row = ROW_INIT(AUDIT_KIND_SESSION, f->is_frozen ? "freeze" : "thaw");

        if (!s || s->ended_usec > 0)
                return 0;
        quota_charge(a, s->row.uid, 0);
        if (s->policy)
                row.policy = &s->policy_row;
        return queue_report(a, &row, s, NULL);
}

static int on_egress_attach(Audit *a, Imsg *m)
{
        const PrivEgressRef *ref = m->body;
        Session *s = session_find(a, &ref->session);
        int r;

        if (!s || s->ended_usec > 0 || !s->policy) {
                log_info("An egress worker for a session that is not there");
                return 0; /* its channel closes with the message */
        }
        r = egress_attach(a, s, ref, TAKE_FD(m->fds[0]));
        if (r < 0)
                (void) log_warning(r, "An egress worker cannot be attached");
        return 0;
}

static int on_dialer_attach(Audit *a, Imsg *m)
{
        int r = dialer_attach(a, TAKE_FD(m->fds[0]));

        if (r < 0)
                (void) log_warning(r, "The dialer cannot be attached");
        return 0;
}

static int on_watch_attach(Audit *a, Imsg *m)
{
        int r = watch_attach(a, TAKE_FD(m->fds[0]));

        if (r < 0)
                (void) log_warning(r, "The watch cannot be attached");
        return 0;
}

static int on_api_attach(Audit *a, Imsg *m)
{
        int r = api_attach(a, m->body, TAKE_FD(m->fds[0]));

        if (r < 0)
                (void) log_warning(r, "An api worker cannot be attached");
        return 0;
}

/* The text as it is where it is UTF-8, else escaped: the column takes no other bytes. */
static int to_column(const char *text, char **ret)
{
        if (str_is_utf8(text, strlen(text)))
                return str_dup(text, ret);
        return str_escape(text, strlen(text), ret);
}

/* *row->uid is who acted; a session that is named is somebody else's. */
static int queue_texts(Audit *a, const PrivReport *rep, Row *row)
{
        _cleanup_free_ char *action = NULL, *reason = NULL, *detail = NULL;
        size_t n_action, n_reason, n_detail;
        Pending *p;
        int r;

        r = to_column(rep->action, &action);
        if (r >= 0)
                r = to_column(rep->reason, &reason);
        if (r >= 0)
                r = to_column(rep->detail, &detail);
        if (r < 0)
                return r;
        n_action = strlen(action);
        n_reason = strlen(reason);
        n_detail = strlen(detail);
        r = pending_new(PENDING_REPORT, row, session_find(a, &rep->session),
                        n_action + n_reason + n_detail + 4, &p);
        if (r < 0)
                return r;
        p->row.uid = row->uid;
        p->row.action = pending_put(p, action, n_action);
        if (n_reason > 0)
                p->row.reason = pending_put(p, reason, n_reason);
        if (n_detail > 0)
                p->row.detail = pending_put(p, detail, n_detail);
        queue_put(a, p);
        return 0;
}

static int on_report(Audit *a, const PrivReport *rep)
{
        Row row = ROW_INIT((AuditKind) rep->kind, NULL);

        if (rep->kind != AUDIT_KIND_SESSION && rep->kind != AUDIT_KIND_POLICY &&
            rep->kind != AUDIT_KIND_LIMIT && rep->kind != AUDIT_KIND_ADMIN)
                return -EPROTO;
        if (!PRIV_STRING_OK(rep->action) || !PRIV_STRING_OK(rep->reason) || !PRIV_STRING_OK(rep->detail) ||
            rep->action[0] == '\0' || rep->is_denial > 1)
                return -EPROTO;
        /* What says how much was refused is one row a second already. */
        if (rep->is_denial && rep->kind != AUDIT_KIND_LIMIT && !quota_take(a, rep->uid, sizeof(rep->detail)))
                return 0;
        row.uid = rep->uid;
        row.verdict = rep->is_denial ? VERDICT_DENY : -1;
        return queue_texts(a, rep, &row);
}

/* Committed: what it says counts from here on, for the next row already. */
void load_release(Audit *a, Pending *p, int error)
{
        const PrivAuditSettings *s = &p->load->settings;
        PrivRecorded answer = { .token = p->request,
                                .error = error,
                                .sequence = error < 0 ? 0 : p->row.sequence };
        QuotaSpec quota = { .rows_per_second = s->rows_per_second, .share_percent = s->rows_share_percent };

        if (error >= 0) {
                store_set_sizes(a->store, s->segment_bytes_max, s->retention_bytes);
                quotas_set(a->quotas, &quota, s->retention_bytes);
        }
        (void) priv_link_send(a->launcher, PRIV_AUDIT_LOADED, &answer, sizeof(answer), NULL, 0);
}

/* detail is the launcher's own wording. */
static int on_load(Audit *a, const PrivAuditLoad *load)
{
        Row row = ROW_INIT(AUDIT_KIND_POLICY, "reload");
        _cleanup_(pending_freep) Pending *p = NULL;
        int r;

        if (!PRIV_STRING_OK(load->detail) || !str_is_utf8(load->detail, strlen(load->detail)) ||
            load->settings.segment_bytes_max == 0)
                return -EPROTO;
        row.uid = load->uid;
        r = pending_new(PENDING_LOAD, &row, NULL, sizeof(load->detail) + 1, &p);
        if (r < 0)
                return r;
        p->load = malloc(sizeof(*load));
        if (!p->load)
                return -ENOMEM;
        *p->load = *load;
        p->request = load->token;
        p->row.detail = pending_put(p, load->detail, strlen(load->detail));
        queue_put(a, TAKE_PTR(p));
        return 0;
}

static int on_launcher(void *owner, _unused_ PrivLink *link, Imsg *m)
{
        Audit *a = owner;

        if (m->type == PRIV_AUDIT_LOG_LEVEL) {
                log_set_level((LogLevel) ((const PrivLogLevel *) m->body)->level);
                return 0;
        }
        if (m->type == PRIV_AUDIT_DIALER_ATTACH)
                return on_dialer_attach(a, m);
        if (m->type == PRIV_AUDIT_WATCH_ATTACH)
                return on_watch_attach(a, m);
        if (m->type == PRIV_AUDIT_API_ATTACH)
                return on_api_attach(a, m);
        if (m->type == PRIV_AUDIT_SESSION_OPEN)
                return on_session_open(a, m);
        if (m->type == PRIV_AUDIT_EGRESS_ATTACH)
                return on_egress_attach(a, m);
        if (m->type == PRIV_AUDIT_SESSION_END)
                return on_session_end(a, m->body);
        if (m->type == PRIV_AUDIT_SESSION_FROZEN)
                return on_session_frozen(a, m->body);
        if (m->type == PRIV_AUDIT_REPORT)
                return on_report(a, m->body);
        if (m->type == PRIV_AUDIT_LOAD)
                return on_load(a, m->body);
        if (m->type == PRIV_AUDIT_PINGS)
                return pings_on_refused(a, m->body);
        if (m->type == PRIV_AUDIT_INBOUND)
                return inbound_on_ask(a, m->body);
        if (m->type == PRIV_AUDIT_INBOUND_OVER)
                return inbound_on_over(a, m->body);
        return -EPROTO;
}

/* Nobody is left to work for. */
static void on_launcher_closed(void *owner, _unused_ PrivLink *link, int reason)
{
        Audit *a = owner;

        loop_stop(a->loop, reason == -EPIPE ? 0 : reason);
}

int launcher_attach(Audit *a, int take_fd)
{
        int r = priv_link_new(a->loop, take_fd, CHANNEL_LAUNCHER_AUDIT, ROLE_AUDIT, &a->launcher);

        if (r < 0)
                return r;
        priv_link_set_handler(a->launcher, on_launcher, on_launcher_closed, a);
        priv_link_set_phase(a->launcher, PHASE_RUN);
        return loop_timer_new(a->loop, on_sweep, a, &a->sweep);
}
