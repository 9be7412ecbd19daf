#include "daemon/audit/gather.h"
#include "daemon/audit/queue.h"
#include "daemon/audit/quota.h"
#include "daemon/audit/readers.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"

#define SIGN_ROWS 1000U
#define SIGN_USEC USEC_PER_SEC

static int on_leftover(void *userdata, const StoreLeftover *l)
{
        Audit *a = userdata;
        Connection gone = { .sequence = l->connection, .since_usec = l->since_usec, .port = -1 };
        Connection *c;
        Id id;
        int r;

        if (!l->session.id || id_parse(l->session.id, &id) < 0)
                return 0;
        gone.session = session_find(a, &id);
        if (!gone.session) {
                r = session_new_leftover(a, &l->session, &gone.session);
                if (r < 0)
                        return r == -EBADMSG ? 0 : r;
                /* Only those without an end get one: those have connection 0. */
                gone.session->is_leftover = false;
        }
        if (l->connection == 0) {
                gone.session->is_leftover = true;
                return 0;
        }
        c = calloc(1, sizeof(*c));
        if (!c)
                return -ENOMEM;
        *c = gone;
        (void) session_ref(c->session);
        r = queue_close(a, c, NULL, CLOSE_DAEMON_RESTART);
        if (r < 0)
                (void) connection_free(c);
        return r;
}

/* Sessions that ended in order but had a connection open stay in the table as ended ones, for the sweep. */
static void mark_ended(Audit *a)
{
        size_t cursor = 0;
        Session *s;

        while ((s = map_next(&a->sessions, &cursor)))
                if (!s->is_leftover)
                        s->ended_usec = clock_monotonic_usec();
}

static void sign(Audit *a)
{
        int r = store_sign(a->store);

        if (r < 0 && !a->is_sign_failing)
                (void) log_warning(r, "No checkpoint can be written, rows stay unsigned until one can");
        a->is_sign_failing = r < 0;
}

static void on_sign(void *userdata)
{
        Audit *a = userdata;

        a->is_sign_set = false;
        sign(a);
        if (a->is_sign_failing)
                audit_sign_soon(a);
}

void audit_sign_soon(Audit *a)
{
        if (store_unsigned(a->store) >= SIGN_ROWS && !a->is_sign_failing)
                sign(a);
        if (store_unsigned(a->store) == 0 || a->is_sign_set || !a->sign)
                return;
        a->is_sign_set = loop_timer_set(a->sign, SIGN_USEC) >= 0;
        if (!a->is_sign_set)
                (void) log_warning(-EIO, "No timer for the next checkpoint, ignoring");
}

static int commit_first_rows(Audit *a, StoreGap why)
{
        static const char *const gaps[] = { [STORE_GAP_NONE] = NULL,
                                            [STORE_GAP_DAMAGED] = "damaged-segment",
                                            [STORE_GAP_MISSING] = "missing-rows",
                                            [STORE_GAP_KEY] = "key-replaced" };
        Row gap = ROW_INIT(AUDIT_KIND_ADMIN, "gap"), start = ROW_INIT(AUDIT_KIND_ADMIN, "start");
        int r = 0;

        gap.reason = gaps[why];
        if (why != STORE_GAP_NONE)
                r = queue_report(a, &gap, NULL, NULL);
        if (r >= 0)
                r = queue_report(a, &start, NULL, NULL);
        if (r >= 0)
                r = store_list_leftovers(a->store, on_leftover, a);
        if (r < 0)
                return r;
        mark_ended(a);
        while (!list_is_empty(&a->reports)) {
                queue_commit(a);
                if (a->is_failing)
                        return -EIO;
        }
        return 0;
}

static void on_retry(_unused_ void *userdata)
{
        /* The turn that it makes ends with a commit. */
}

static int say_ready(Audit *a)
{
        PrivAuditReady ready = { .head_sequence = store_head(a->store) };

        return priv_link_send(a->launcher, PRIV_AUDIT_READY, &ready, sizeof(ready), NULL, 0);
}

static int serve(Audit *a, const AuditSpec *spec, int take_launcher_fd)
{
        _cleanup_close_ int launcher_fd = take_launcher_fd;
        StoreGap gap;
        int r;

        r = loop_new(&a->loop);
        if (r >= 0)
                r = loop_timer_new(a->loop, on_retry, a, &a->retry);
        if (r >= 0)
                r = loop_timer_new(a->loop, on_retry, a, &a->hold);
        if (r >= 0)
                r = quotas_new(a, &spec->quota, spec->store.retention_bytes, &a->quotas);
        if (r >= 0)
                r = loop_timer_new(a->loop, on_sign, a, &a->sign);
        if (r >= 0)
                r = store_open(&spec->store, &a->store, &gap);
        if (r < 0)
                return log_error(r, "The audit store cannot be opened");
        r = commit_first_rows(a, gap);
        if (r < 0)
                return log_error(r, "The first rows cannot be written");
        r = launcher_attach(a, TAKE_FD(launcher_fd));
        if (r >= 0)
                r = sweep_arm(a, spec->leftover_usec);
        if (r >= 0)
                r = say_ready(a);
        if (r < 0)
                return r;
        loop_set_turn_end(a->loop, queue_commit, a);
        return loop_run(a->loop);
}

/* Last row of an orderly end; connections and sessions that are open now are the next start's. */
static void stop(Audit *a)
{
        Row row = ROW_INIT(AUDIT_KIND_ADMIN, "stop");

        if (queue_report(a, &row, NULL, NULL) >= 0) {
                /* All that is queued, a batch at a time. */
                do {
                        gather_no_more(a);
                        queue_commit(a);
                } while (!a->is_failing && a->n_reports > 0);
        }
        sign(a);
}

static void audit_done(Audit *a)
{
        size_t cursor = 0;
        Connection *c;
        Session *s;

        LIST_FOREACH (api, &a->apis, Api, link)
                (void) api_free(api);
        LIST_FOREACH (e, &a->egresses, Egress, link)
                (void) egress_free(e);
        a->dialer = priv_link_free(a->dialer);
        a->watch = priv_link_free(a->watch);
        LIST_FOREACH (p, &a->reports, Pending, link)
                (void) pending_free(p);
        while ((c = map_next(&a->connections, &cursor)))
                (void) connection_free(c);
        cursor = 0;
        while ((s = map_next(&a->sessions, &cursor)))
                (void) session_unref(s);
        map_done(&a->connections);
        map_done(&a->sessions);
        map_done(&a->policies.shares);
        a->launcher = priv_link_free(a->launcher);
        a->retry = loop_timer_free(a->retry);
        a->hold = loop_timer_free(a->hold);
        a->sweep = loop_timer_free(a->sweep);
        a->sign = loop_timer_free(a->sign);
        a->denials = loop_timer_free(a->denials);
        a->readers = readers_free(a->readers);
        a->quotas = quotas_free(a->quotas);
        a->store = store_close(a->store);
        a->loop = loop_free(a->loop);
}

int audit_run(const AuditSpec *spec, Readers *take_readers)
{
        Audit a = { .readers = take_readers,
                    .directory = spec->store.directory,
                    .started_usec = clock_monotonic_usec() };
        int r;

        list_init(&a.apis);
        list_init(&a.egresses);
        list_init(&a.reports);
        list_init(&a.decisions);
        list_init(&a.held);
        list_init(&a.committing);
        r = serve(&a, spec, spec->launcher_fd);
        if (a.launcher)
                stop(&a);
        audit_done(&a);
        return r;
}
