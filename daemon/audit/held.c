#include "daemon/audit/held.h"

#include <errno.h>

#include "daemon/audit/bounds.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"

#define HOLD_USEC USEC_PER_SEC
#define HELD_MAX  16U /* of one session */

static void ring(Audit *a, uint64_t after_usec)
{
        if (loop_timer_set(a->hold, after_usec) < 0)
                (void) log_warning(-EIO, "No timer for decisions that wait, ignoring");
}

void held_put(Audit *a, Pending *take)
{
        Egress *e = take->egress;

        if (e->n_held >= HELD_MAX) {
                decision_reach_limit(take);
                queue_put(a, take);
                return;
        }
        e->n_held++;
        e->n_undecided++;
        if (list_is_empty(&a->held))
                ring(a, HOLD_USEC);
        list_append(&a->held, &take->link);
}

static void let_go(Audit *a, Pending *p)
{
        list_unlink(&p->link);
        p->egress->n_held--;
        p->egress->n_undecided--;
        queue_put(a, p);
}

void held_review(Audit *a)
{
        uint64_t now = list_is_empty(&a->held) ? 0 : clock_monotonic_usec();

        LIST_FOREACH (p, &a->held, Pending, link) {
                uint64_t age = now - p->queued_usec;
                int r = bounds_count(p->bounds, &p->limit);

                if (r == -EDQUOT && age < HOLD_USEC)
                        continue;
                if (r < 0)
                        decision_reach_limit(p);
                let_go(a, p);
        }
        if (!list_is_empty(&a->held)) {
                uint64_t age = now - list_entry(a->held.next, Pending, link)->queued_usec;

                ring(a, HOLD_USEC - MIN_OF(age, HOLD_USEC));
        }
}

void held_forget_egress(Audit *a, const Egress *e)
{
        LIST_FOREACH (p, &a->held, Pending, link)
                if (p->egress == e)
                        (void) pending_free(p);
}
