/*
 * When to commit. A commit costs nearly the same for one row as for a hundred, and whoever asks while it
 * runs waits for the next one. So ends of connections, for which nobody waits, go with rows for which
 * somebody does, or after a while; and while decisions come several at a time, a commit waits a moment for
 * those that are on their way. Whoever asks alone does not wait.
 */

#include "daemon/audit/gather.h"

#include <errno.h>
#include <time.h>

#include "proto/base/clock.h"
#include "proto/base/log.h"

#define ENDS_USEC       (10 * USEC_PER_MSEC)
#define ENDS_MAX        1024U
#define MOMENT_USEC     200U
#define DECISIONS_MIN   2U  /* in one commit: they come several at a time */
#define DECISIONS_READY 64U /* enough for one */

void gather_note(Audit *a, const Pending *p)
{
        if (p->type != PENDING_REPORT || !p->row.is_close)
                a->gather.is_awaited = true;
        if (p->type == PENDING_DECISION)
                a->gather.n_decisions++;
}

void gather_begin(Audit *a, size_t n_decisions)
{
        a->gather.n_last = n_decisions;
        a->gather.n_decisions = 0;
        a->gather.has_rested = false;
        a->gather.is_awaited = !list_is_empty(&a->reports) || !list_is_empty(&a->decisions);
}

static void come_again(Audit *a, uint64_t after_usec)
{
        if (loop_timer_set(a->retry, after_usec) < 0)
                (void) log_warning(-EIO, "No timer for the next commit, ignoring");
}

static bool are_ends_due(Audit *a)
{
        const Pending *oldest = list_entry(a->reports.next, Pending, link);
        uint64_t age = clock_monotonic_usec() - oldest->queued_usec;

        if (age >= ENDS_USEC || a->n_reports >= ENDS_MAX)
                return true;
        come_again(a, ENDS_USEC - age);
        return false;
}

void gather_no_more(Audit *a)
{
        a->gather.is_awaited = true;
        a->gather.has_rested = true;
}

/* Not in the loop: each message would wake us. */
static void rest(void)
{
        struct timespec moment = { .tv_nsec = MOMENT_USEC * 1000 };

        (void) clock_nanosleep(CLOCK_MONOTONIC, 0, &moment, NULL);
}

bool gather_is_done(Audit *a)
{
        if (a->is_failing)
                return true;
        if (!a->gather.is_awaited)
                return are_ends_due(a);
        if (a->gather.has_rested || a->gather.n_last < DECISIONS_MIN || a->gather.n_decisions == 0 ||
            a->gather.n_decisions >= DECISIONS_READY)
                return true;
        a->gather.has_rested = true;
        rest();
        come_again(a, 0);
        return false;
}
