/*
 * Group commit. Reports go first and whole: they are about what has happened, or precede the decisions of
 * their session. Of the decisions each session gets a share of every commit, so that one session cannot keep
 * the others waiting.
 */

#include "daemon/audit/queue.h"

#include "daemon/audit/bounds.h"
#include "daemon/audit/gather.h"
#include "daemon/audit/held.h"
#include "daemon/audit/quota.h"
#include "daemon/audit/readers.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

#define SESSION_BATCH_MAX 128U
#define BATCH_MAX         2048U
#define REPORTS_MAX       8192U
#define DECISION_AGE_MAX  (5 * USEC_PER_SEC)
#define RETRY_USEC        (200 * USEC_PER_MSEC)

int pending_new(PendingType type, const Row *row, Session *session, size_t room, Pending **ret)
{
        Pending *p = calloc(1, sizeof(*p) + room);

        if (!p)
                return -ENOMEM;
        *p = (Pending){ .type = type,
                        .row = *row,
                        .room = room,
                        .gate_fd = -EBADF,
                        .queued_usec = clock_monotonic_usec() };
        list_init(&p->link);
        if (session) {
                p->session = session_ref(session);
                p->row.session = &session->row;
                p->row.uid = session->row.uid;
        }
        *ret = p;
        return 0;
}

Pending *pending_free(Pending *p)
{
        if (!p)
                return NULL;
        list_unlink(&p->link);
        p->bounds = bounds_free(p->bounds);
        (void) session_unref(p->session);
        (void) fd_close(p->gate_fd);
        free(p->query);
        free(p->verify);
        free(p->load);
        free(p);
        return NULL;
}

const char *pending_put(Pending *p, const void *data, size_t size)
{
        char *to = p->tail + p->used;

        sb_assert(size < p->room - p->used);
        if (size > 0)
                memcpy(to, data, size);
        to[size] = '\0';
        p->used += size + 1;
        return to;
}

static bool is_kept(const Pending *p)
{
        return p->type == PENDING_REPORT || p->type == PENDING_REFUSE || p->type == PENDING_PINGS ||
               p->type == PENDING_FILE;
}

static void note_lost(Audit *a)
{
        a->lost_last_usec = clock_realtime_usec();
        if (a->n_lost++ == 0)
                a->lost_first_usec = a->lost_last_usec;
}

void queue_put(Audit *a, Pending *take)
{
        gather_note(a, take);
        if (take->type == PENDING_DECISION) {
                take->egress->n_undecided++;
                list_append(&a->decisions, &take->link);
                return;
        }
        list_append(&a->reports, &take->link);
        a->n_reports++;
}

int queue_report(Audit *a, const Row *row, Session *session, const char *detail)
{
        size_t n = detail ? strlen(detail) : 0;
        Pending *p;
        int r;

        r = pending_new(PENDING_REPORT, row, session, n + 1, &p);
        if (r < 0)
                return r;
        if (n > 0)
                p->row.detail = pending_put(p, detail, n);
        queue_put(a, p);
        return 0;
}

Connection *connection_free(Connection *c)
{
        if (c) {
                c->bounds = bounds_free(c->bounds);
                (void) session_unref(c->session);
                free(c);
        }
        return NULL;
}

static int64_t age_usec(uint64_t since_usec)
{
        uint64_t now = clock_realtime_usec();

        return now > since_usec ? (int64_t) (now - since_usec) : 0;
}

int queue_close(Audit *a, Connection *c, const PrivDialClosed *closed, CloseReason reason)
{
        Row row = { .is_close = true,
                    .connection = (int64_t) c->sequence,
                    .port = c->port,
                    .duration_usec = age_usec(c->since_usec),
                    .sent_bytes = -1,
                    .received_bytes = -1,
                    .reason = close_reason_to_string(reason) };
        int r;

        if (closed) {
                row.address = closed->address;
                row.port = closed->port > 0 ? (int64_t) closed->port : c->port;
                row.duration_usec = (int64_t) closed->duration_usec;
                row.sent_bytes = (int64_t) closed->sent_bytes;
                row.received_bytes = (int64_t) closed->received_bytes;
        }
        quota_charge_close(a, c->session);
        r = queue_report(a, &row, c->session, NULL);
        if (r < 0)
                return r;
        (void) map_remove(&a->connections, &c->sequence, sizeof(c->sequence));
        (void) connection_free(c);
        return 0;
}

void queue_forget_api(Audit *a, const Api *api)
{
        LIST_FOREACH (p, &a->reports, Pending, link)
                if (p->api == api)
                        p->api = NULL;
        LIST_FOREACH (c, &a->committing, Pending, link)
                if (c->api == api)
                        c->api = NULL;
}

void queue_forget_egress(Audit *a, const Egress *e)
{
        LIST_FOREACH (p, &a->reports, Pending, link)
                if (p->egress == e)
                        p->egress = NULL;
        LIST_FOREACH (c, &a->committing, Pending, link)
                if (c->egress == e)
                        c->egress = NULL;
        /* Nobody heard of these, and nothing came of them: what was refused is recorded all the same. */
        held_forget_egress(a, e);
        LIST_FOREACH (d, &a->decisions, Pending, link) {
                if (d->egress != e)
                        continue;
                if (d->row.verdict == VERDICT_ALLOW) {
                        (void) pending_free(d);
                        continue;
                }
                list_unlink(&d->link);
                d->egress = NULL;
                d->type = PENDING_REPORT;
                queue_put(a, d);
        }
}

static void release(Audit *a, Pending *p, int error)
{
        switch (p->type) {
        case PENDING_REPORT:
                break;
        case PENDING_REFUSE:
                refuse_release(p);
                break;
        case PENDING_PINGS:
                pings_release(a, p);
                break;
        case PENDING_START:
                start_release(a, p, error);
                break;
        case PENDING_LOAD:
                load_release(a, p, error);
                break;
        case PENDING_INBOUND:
                inbound_release(a, p, error);
                break;
        case PENDING_EXEC:
                record_release(p, error);
                break;
        case PENDING_READ:
                read_release(a, p, error);
                break;
        case PENDING_FILE:
                file_release(a, p, error);
                break;
        case PENDING_DECISION:
                if (error < 0)
                        decision_fail(p);
                else
                        decision_release(a, p);
                break;
        default:
                break;
        }
}

/* The disk did not take them: who waits hears no, what happened is kept, up to a limit, oldest first. */
static void fail_batch(Audit *a, ListLink *batch, int error)
{
        ListLink kept;

        list_init(&kept);
        while (!list_is_empty(batch)) {
                Pending *p = list_entry(batch->next, Pending, link);

                list_unlink(&p->link);
                if (is_kept(p) && a->n_reports < REPORTS_MAX) {
                        if (p->type == PENDING_REFUSE) {
                                release(a, p, error);
                                p->type = PENDING_REPORT;
                        }
                        list_append(&kept, &p->link);
                        a->n_reports++;
                        continue;
                }
                note_lost(a);
                release(a, p, error);
                (void) pending_free(p);
        }
        while (!list_is_empty(&kept)) {
                ListLink *last = kept.prev;

                list_unlink(last);
                list_append(a->reports.next, last);
        }
}

static void release_batch(Audit *a, ListLink *batch)
{
        while (!list_is_empty(batch)) {
                Pending *p = list_entry(batch->next, Pending, link);

                list_unlink(&p->link);
                release(a, p, 0);
                (void) pending_free(p);
        }
}

static bool take_share(Audit *a, Session *s)
{
        if (s->batch != a->batch) {
                s->batch = a->batch;
                s->n_batch = 0;
        }
        return s->n_batch++ < SESSION_BATCH_MAX;
}

/* How many of them are decisions. */
static size_t select_batch(Audit *a, ListLink *batch)
{
        size_t n = 0, n_decisions = 0;

        a->batch++;
        LIST_FOREACH (p, &a->reports, Pending, link) {
                if (n++ >= BATCH_MAX)
                        return 0;
                list_unlink(&p->link);
                list_append(batch, &p->link);
                a->n_reports--;
        }
        LIST_FOREACH (d, &a->decisions, Pending, link) {
                if (n >= BATCH_MAX)
                        break;
                if (!take_share(a, d->session))
                        continue;
                list_unlink(&d->link);
                list_append(batch, &d->link);
                n++;
                n_decisions++;
        }
        return n_decisions;
}

/* A row that the schema does not take would fail every commit that it is part of. */
static void drop_unfit(Audit *a, Pending *p)
{
        (void) log_warning(-EINVAL, "A row of kind %d does not fit the schema, it is dropped",
                           (int) p->row.kind);
        note_lost(a);
        release(a, p, -EINVAL);
        (void) pending_free(p);
}

static int write_batch(Audit *a, ListLink *batch)
{
        Pending *unfit;
        int r;

        do {
                unfit = NULL;
                r = store_begin(a->store);
                if (r < 0)
                        return r;
                LIST_FOREACH (p, batch, Pending, link) {
                        r = store_append(a->store, &p->row);
                        if (r < 0) {
                                unfit = r == -EINVAL ? p : NULL;
                                break;
                        }
                }
                if (r < 0)
                        store_rollback(a->store);
                if (unfit)
                        drop_unfit(a, unfit);
        } while (unfit);
        return r < 0 ? r : store_commit(a->store);
}

/* What has waited too long is refused without a row. */
static void expire(Audit *a)
{
        uint64_t now = clock_monotonic_usec();

        LIST_FOREACH (l, &a->reports, Pending, link) {
                if (l->type != PENDING_LOAD || now <= l->load->deadline_usec)
                        continue;
                list_unlink(&l->link);
                a->n_reports--;
                load_release(a, l, -ETIMEDOUT);
                (void) pending_free(l);
        }
        LIST_FOREACH (p, &a->decisions, Pending, link) {
                if (now - p->queued_usec <= DECISION_AGE_MAX)
                        return;
                list_unlink(&p->link);
                note_lost(a);
                decision_fail(p);
                (void) pending_free(p);
        }
}

static void note_result(Audit *a, int r)
{
        bool is_failing = r < 0;

        if (is_failing != a->is_failing && is_failing)
                (void) log_error(r, "Rows cannot be written: every decision is deny until they can");
        if (is_failing != a->is_failing && !is_failing)
                log_info("Rows can be written again");
        a->is_failing = is_failing;
}

/* Once rows can be written again, the gap is one. */
static void report_gap(Audit *a)
{
        Row row = ROW_INIT(AUDIT_KIND_ADMIN, "gap");
        char detail[PRIV_TEXT_SIZE];

        if (a->n_lost == 0 ||
            str_printf(detail, sizeof(detail), "{\"rows\":%llu,\"firstAtUSec\":%llu,\"lastAtUSec\":%llu}",
                       (unsigned long long) a->n_lost, (unsigned long long) a->lost_first_usec,
                       (unsigned long long) a->lost_last_usec) < 0)
                return;
        row.reason = "write-failed";
        if (queue_report(a, &row, NULL, detail) < 0)
                return;
        gap_tell(a, a->n_lost, a->lost_first_usec, a->lost_last_usec);
        a->n_lost = 0;
}

/* A live session is in the dictionary of every segment, so that the next start finds it there. */
static void enter_sessions(Audit *a)
{
        size_t cursor = 0;
        const Session *s;
        int r;

        r = store_begin(a->store);
        while (r >= 0 && (s = map_next(&a->sessions, &cursor)))
                if (s->ended_usec == 0)
                        r = store_enter_session(a->store, &s->row);
        if (r >= 0)
                r = store_commit(a->store);
        if (r < 0) {
                store_rollback(a->store);
                (void) log_warning(r, "Sessions cannot be entered in the new audit segment, ignoring");
        }
}

/* What is gone is a row, too. */
static void prune(Audit *a)
{
        Row row = ROW_INIT(AUDIT_KIND_ADMIN, "prune");
        size_t n = store_prune(a->store);
        char detail[PRIV_TEXT_SIZE];

        row.reason = "retention";
        if (n > 0 && (str_printf(detail, sizeof(detail), "{\"segments\":%zu}", n) < 0 ||
                      queue_report(a, &row, NULL, detail) < 0))
                (void) log_warning(-ENOMEM, "%zu old audit segments were removed without a row", n);
}

static void schedule(Audit *a)
{
        if (list_is_empty(&a->reports) && list_is_empty(&a->decisions))
                return;
        if (loop_timer_set(a->retry, a->is_failing ? RETRY_USEC : 0) < 0)
                (void) log_warning(-EIO, "No timer for the next commit, ignoring");
}

void queue_commit(void *audit)
{
        Audit *a = audit;
        ListLink *batch = &a->committing;
        int r;

        held_review(a);
        if (list_is_empty(&a->reports) && list_is_empty(&a->decisions))
                return;
        if (!gather_is_done(a))
                return;
        expire(a);
        gather_begin(a, select_batch(a, batch));
        r = write_batch(a, batch);
        note_result(a, r);
        if (r < 0)
                fail_batch(a, batch, r);
        else {
                release_batch(a, batch);
                readers_poke(a->readers);
                report_gap(a);
                audit_sign_soon(a);
                r = store_maintain(a->store);
                if (r > 0) {
                        enter_sessions(a);
                        prune(a);
                } else if (r < 0)
                        (void) log_warning(r, "The audit store cannot be maintained, ignoring");
        }
        schedule(a);
}
