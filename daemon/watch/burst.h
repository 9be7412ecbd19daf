#pragma once

/*
 * What a session tried on its masks, on its way to audit. The first of its kind is told at once, what
 * follows within the second is counted; so many kinds a second, the rest of them as one. Nothing here grows
 * with what a session does.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/base/bucket.h"
#include "proto/base/list.h"
#include "proto/idl/privsep.h"

#define BURSTS_MAX     64U
#define BURST_USEC     UINT64_C(1000000)
#define BURST_NAME_MAX 1024U /* longer names are cut, behind which a row has nothing to say */

typedef struct Attempt {
        uint32_t mount; /* number in the plan */
        PrivFileOperation operation;
        uint32_t thread;
        const char *name; /* below the mask; NULL: itself */
        size_t n_name;
} Attempt;

typedef struct Burst {
        ListLink link;
        uint64_t since_usec; /* CLOCK_MONOTONIC: told last */
        uint32_t count;      /* not told yet */
        uint32_t is_mixed;
        uint32_t mount;
        PrivFileOperation operation;
        uint32_t thread;
        uint32_t process; /* of the session's commands */
        uint32_t pid;
        char program[16];
        size_t n_name;
        char name[]; /* without a NUL */
} Burst;

typedef struct Bursts {
        ListLink list;
        unsigned n;
        Bucket kinds;
        Burst *others; /* of all kinds that are too many; NULL: none */
} Bursts;

void bursts_init(Bursts *b);
void bursts_done(Bursts *b);

/* Is there one of just this kind? */
bool bursts_has(const Bursts *b, const Attempt *a);

/* Counted. *ret: the burst that it belongs to, which is to be told now where the return value is 1; whose
 * caller is unknown where the value is 1 or 2. -ENOMEM: it is not counted. */
int bursts_take(Bursts *b, const Attempt *a, uint64_t now_usec, Burst **ret) _must_check_;

/* One that is due to be told, NULL: none; is_end: all that have something to tell. Told ones that are quiet
 * are forgotten. */
Burst *bursts_next(Bursts *b, uint64_t now_usec, bool is_end);
void burst_told(Burst *x, uint64_t now_usec);

/* Is there anything left to be told or forgotten? */
bool bursts_wait(const Bursts *b);
