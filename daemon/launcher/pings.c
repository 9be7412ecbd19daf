#include "daemon/launcher/pings.h"

#include "daemon/isolate/pings.h"
#include "daemon/launcher/worker.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"

#define TURN_MAX  256U
#define TICK_USEC USEC_PER_SEC

static Session *find(Launcher *l, uint64_t cookie)
{
        size_t cursor = 0;

        for (Session *s = map_next(&l->sessions, &cursor); s; s = map_next(&l->sessions, &cursor))
                if (s->network.fd >= 0 && s->network.cookie == cookie)
                        return s;
        return NULL;
}

/* While audit is away they stay counted. False: there were none since the last time, and the kernel tells of
 * the next. */
static bool tell(Session *s)
{
        Launcher *l = s->launcher;
        bool is_awake;
        uint64_t n = pings_count(l->kernel->pings, s->network.cookie, &is_awake);
        PrivAuditPings body = { .session = s->id };

        if (n <= s->n_pings)
                return !is_awake;
        if (!s->is_row_asked || !worker_is_ready(l->audit))
                return true;
        body.count = (uint32_t) MIN_OF(n - s->n_pings, UINT32_MAX);
        worker_send(l->audit, PRIV_AUDIT_PINGS, &body, sizeof(body), NULL, 0);
        s->n_pings = n;
        return true;
}

static void tick_later(Launcher *l)
{
        if (!l->is_pings_timer_set)
                l->is_pings_timer_set = loop_timer_set(l->pings_timer, TICK_USEC) >= 0;
}

static void on_tick(void *userdata)
{
        Launcher *l = userdata;
        bool has_more = false;
        size_t cursor = 0;

        l->is_pings_timer_set = false;
        for (Session *s = map_next(&l->sessions, &cursor); s; s = map_next(&l->sessions, &cursor)) {
                if (!s->is_pinging)
                        continue;
                /* Quiet for a second: its next one is the first again. */
                s->is_pinging = tell(s);
                has_more = has_more || s->is_pinging;
        }
        if (has_more)
                tick_later(l);
}

static void take(Launcher *l, unsigned n_max)
{
        uint64_t cookie;

        for (unsigned i = 0; i < n_max && pings_take(l->kernel->pings, &cookie); i++) {
                Session *s = find(l, cookie);

                if (!s || s->is_pinging)
                        continue;
                s->is_pinging = true;
                (void) tell(s);
                tick_later(l);
        }
}

static void on_ring(void *userdata, _unused_ int fd, _unused_ unsigned events)
{
        take(userdata, TURN_MAX);
}

void pings_end(Session *s)
{
        Launcher *l = s->launcher;

        if (!l->pings_io)
                return;
        take(l, TURN_MAX);
        /* Also if the ring had no room to tell of it. */
        (void) tell(s);
        s->is_pinging = false;
        pings_forget(l->kernel->pings, s->network.cookie);
}

int pings_start(Launcher *l)
{
        int r;

        if (!l->kernel->pings)
                return 0;
        r = loop_timer_new(l->loop, on_tick, l, &l->pings_timer);
        return r < 0 ? r
                     : loop_io_new(l->loop, pings_fd(l->kernel->pings), LOOP_READ, on_ring, l, &l->pings_io);
}

void pings_stop(Launcher *l)
{
        l->pings_io = loop_io_free(l->pings_io);
        l->pings_timer = loop_timer_free(l->pings_timer);
}
