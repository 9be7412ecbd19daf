#pragma once

/*
 * A quota over time: so much in a period, evenly, and so much of it at once after a pause. A bucket is one
 * number, the time at which all that was taken will be paid for.
 */

#include <stdbool.h>
#include <stdint.h>

typedef struct BucketRate {
        uint64_t cost_nsec; /* of one token */
        uint64_t room_nsec; /* how far ahead of the clock a bucket may be */
} BucketRate;

typedef struct Bucket {
        uint64_t paid_nsec; /* CLOCK_MONOTONIC */
} Bucket;

/* amount in period_usec, and burst of it at once; amount 0: as good as nothing. */
BucketRate bucket_rate(uint64_t amount, uint64_t period_usec, uint64_t burst);

/* False: too much, nothing is taken. now_usec: CLOCK_MONOTONIC. */
bool bucket_take(Bucket *b, const BucketRate *rate, uint64_t n, uint64_t now_usec);

/* Takes n whether they are there or not; the debt is at most one burst. */
void bucket_charge(Bucket *b, const BucketRate *rate, uint64_t n, uint64_t now_usec);

/* Nothing is left in it at at_usec, and nothing before. */
void bucket_drain(Bucket *b, const BucketRate *rate, uint64_t at_usec);

/* How long it takes until nothing is owed any more; 0: there is something left, or just nothing. */
uint64_t bucket_debt_usec(const Bucket *b, const BucketRate *rate, uint64_t now_usec);
