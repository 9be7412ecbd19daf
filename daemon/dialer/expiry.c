/*
 * Connections whose rule expires. One timer of the wall clock for all of them, which the kernel moves when
 * somebody sets that clock; what it has shown once counts, also where it is set back afterwards.
 */

#include <errno.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "daemon/dialer/dialer.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"

static int ring_at(Dialer *d, uint64_t usec)
{
        struct itimerspec at = { .it_value = { .tv_sec = (time_t) (usec / USEC_PER_SEC),
                                               .tv_nsec = (long) (usec % USEC_PER_SEC * 1000) } };

        d->rings_usec = usec;
        return timerfd_settime(d->clock_fd, TFD_TIMER_ABSTIME, &at, NULL) < 0 ? neg_errno() : 0;
}

static uint64_t first_expiry(Dialer *d)
{
        uint64_t first = 0;

        LIST_FOREACH (c, &d->expiring, Connection, expiring)
                if (first == 0 || c->expires_usec < first)
                        first = c->expires_usec;
        return first;
}

static void on_clock(void *userdata, int fd, _unused_ unsigned events)
{
        Dialer *d = userdata;
        uint64_t now, n;

        if (read(fd, &n, sizeof(n)) < 0 && errno != EAGAIN)
                (void) log_warning(neg_errno(), "cannot read the clock's timer, ignoring");
        d->rings_usec = 0;
        now = clock_latest_usec(&d->latest_usec);
        LIST_FOREACH (c, &d->expiring, Connection, expiring)
                if (c->expires_usec <= now)
                        connection_end(c, CLOSE_EXPIRED);
        if (!list_is_empty(&d->expiring) && ring_at(d, first_expiry(d)) < 0)
                loop_stop(d->loop, log_error(-EIO, "cannot set the clock's timer"));
}

int expiry_watch(Connection *c)
{
        Dialer *d = c->session->dialer;

        if (c->expires_usec == 0)
                return 0;
        if (c->expires_usec <= clock_latest_usec(&d->latest_usec))
                return -ETIME;
        list_append(&d->expiring, &c->expiring);
        return d->rings_usec == 0 || c->expires_usec < d->rings_usec ? ring_at(d, c->expires_usec) : 0;
}

int expiry_open(Dialer *d)
{
        list_init(&d->expiring);
        d->clock_fd = timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC | TFD_NONBLOCK);
        if (d->clock_fd < 0)
                return neg_errno();
        return loop_io_new(d->loop, d->clock_fd, LOOP_READ, on_clock, d, &d->clock_io);
}

void expiry_done(Dialer *d)
{
        d->clock_io = loop_io_free(d->clock_io);
        if (d->clock_fd >= 0)
                d->clock_fd = fd_close(d->clock_fd);
}
