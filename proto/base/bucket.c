#include "proto/base/bucket.h"

#include "proto/base/macro.h"

#define NSEC_PER_USEC UINT64_C(1000)

BucketRate bucket_rate(uint64_t amount, uint64_t period_usec, uint64_t burst)
{
        uint64_t cost_nsec = period_usec * NSEC_PER_USEC / MAX_OF(amount, UINT64_C(1));

        cost_nsec = MAX_OF(cost_nsec, UINT64_C(1));
        return (BucketRate){ .cost_nsec = cost_nsec, .room_nsec = MAX_OF(burst, UINT64_C(1)) * cost_nsec };
}

static uint64_t begin_of(const Bucket *b, uint64_t now_nsec)
{
        return MAX_OF(b->paid_nsec, now_nsec);
}

bool bucket_take(Bucket *b, const BucketRate *rate, uint64_t n, uint64_t now_usec)
{
        uint64_t now_nsec = now_usec * NSEC_PER_USEC, begin = begin_of(b, now_nsec);

        if (begin - now_nsec > rate->room_nsec ||
            n > (rate->room_nsec - (begin - now_nsec)) / rate->cost_nsec)
                return false;
        b->paid_nsec = begin + n * rate->cost_nsec;
        return true;
}

uint64_t bucket_debt_usec(const Bucket *b, const BucketRate *rate, uint64_t now_usec)
{
        uint64_t free_nsec = now_usec * NSEC_PER_USEC + rate->room_nsec;

        return b->paid_nsec > free_nsec ? (b->paid_nsec - free_nsec) / NSEC_PER_USEC + 1 : 0;
}

void bucket_drain(Bucket *b, const BucketRate *rate, uint64_t at_usec)
{
        b->paid_nsec = at_usec * NSEC_PER_USEC + rate->room_nsec;
}

void bucket_charge(Bucket *b, const BucketRate *rate, uint64_t n, uint64_t now_usec)
{
        uint64_t now_nsec = now_usec * NSEC_PER_USEC, most = 2 * rate->room_nsec;
        uint64_t owed = begin_of(b, now_nsec) - now_nsec;

        if (n > most / rate->cost_nsec || owed > most - n * rate->cost_nsec)
                owed = most;
        else
                owed += n * rate->cost_nsec;
        b->paid_nsec = now_nsec + owed;
}
