#pragma once

/* Clocks in microseconds. */

#include <stdint.h>
#include <time.h>

#define USEC_PER_SEC  UINT64_C(1000000)
#define USEC_PER_MSEC UINT64_C(1000)

static inline uint64_t clock_usec(clockid_t id)
{
        struct timespec ts = { 0 };

        (void) clock_gettime(id, &ts);
        return (uint64_t) ts.tv_sec * USEC_PER_SEC + (uint64_t) ts.tv_nsec / 1000;
}

/* Wall clock since 1970 UTC: may jump. */
static inline uint64_t clock_realtime_usec(void)
{
        return clock_usec(CLOCK_REALTIME);
}

/* Wall clock that stands still where the real one goes back: *latest (0 at first) is the caller's. */
static inline uint64_t clock_latest_usec(uint64_t *latest)
{
        uint64_t now = clock_realtime_usec();

        if (now > *latest)
                *latest = now;
        return *latest;
}

/* For time-outs: never jumps, stands still in suspend. */
static inline uint64_t clock_monotonic_usec(void)
{
        return clock_usec(CLOCK_MONOTONIC);
}

/* For limits on a session's life: goes on in suspend. */
static inline uint64_t clock_boottime_usec(void)
{
        return clock_usec(CLOCK_BOOTTIME);
}
