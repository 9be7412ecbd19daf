#include "daemon/watch/burst.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/clock.h"

#define KINDS_PER_SECOND 8U

void bursts_init(Bursts *b)
{
        *b = (Bursts){ 0 };
        list_init(&b->list);
}

static void forget(Bursts *b, Burst *x)
{
        list_unlink(&x->link);
        if (b->others == x)
                b->others = NULL;
        else
                b->n--;
        free(x);
}

void bursts_done(Bursts *b)
{
        LIST_FOREACH (x, &b->list, Burst, link)
                forget(b, x);
}

static size_t kept_of_name(const Attempt *a)
{
        if (!a->name)
                return 0;
        return a->n_name < BURST_NAME_MAX ? a->n_name : BURST_NAME_MAX;
}

static bool is_same(const Burst *x, const Attempt *a)
{
        return x->mount == a->mount && x->operation == a->operation && x->thread == a->thread &&
               x->n_name == a->n_name && (a->n_name == 0 || memcmp(x->name, a->name, a->n_name) == 0);
}

static Burst *find(const Bursts *b, const Attempt *a)
{
        LIST_FOREACH (x, &b->list, Burst, link) {
                if (x != b->others && is_same(x, a))
                        return x;
        }
        return NULL;
}

bool bursts_has(const Bursts *b, const Attempt *attempt)
{
        Attempt a = *attempt;

        a.n_name = kept_of_name(attempt);
        return find(b, &a);
}

static Burst *burst_new(Bursts *b, const Attempt *a)
{
        Burst *x = calloc(1, sizeof(*x) + a->n_name);

        if (!x)
                return NULL;
        x->mount = a->mount;
        x->operation = a->operation;
        x->thread = a->thread;
        x->n_name = a->n_name;
        if (a->n_name > 0)
                memcpy(x->name, a->name, a->n_name);
        list_init(&x->link);
        list_append(&b->list, &x->link);
        return x;
}

/* The first of a second stands for all. */
static int take_other(Bursts *b, const Attempt *a, uint64_t now_usec, Burst **ret)
{
        Burst *x = b->others;

        if (x && x->count > 0) {
                x->count += x->count < UINT32_MAX;
                *ret = x;
                return 0;
        }
        if (x)
                forget(b, x);
        x = burst_new(b, a);
        if (!x)
                return -ENOMEM;
        x->is_mixed = 1;
        x->count = 1;
        x->since_usec = now_usec;
        b->others = x;
        *ret = x;
        return 2;
}

int bursts_take(Bursts *b, const Attempt *attempt, uint64_t now_usec, Burst **ret)
{
        const BucketRate rate = bucket_rate(KINDS_PER_SECOND, USEC_PER_SEC, BURSTS_MAX);
        Attempt a = *attempt;
        Burst *x;

        a.n_name = kept_of_name(attempt);
        x = find(b, &a);
        if (x) {
                x->count += x->count < UINT32_MAX;
                *ret = x;
                return 0;
        }
        if (b->n >= BURSTS_MAX || !bucket_take(&b->kinds, &rate, 1, now_usec))
                return take_other(b, &a, now_usec, ret);
        x = burst_new(b, &a);
        if (!x)
                return -ENOMEM;
        b->n++;
        x->count = 1;
        x->since_usec = now_usec;
        *ret = x;
        return 1;
}

Burst *bursts_next(Bursts *b, uint64_t now_usec, bool is_end)
{
        LIST_FOREACH (x, &b->list, Burst, link) {
                bool is_due = is_end || now_usec - x->since_usec >= BURST_USEC;

                if (!is_due)
                        continue;
                if (x->count > 0)
                        return x;
                forget(b, x);
        }
        return NULL;
}

void burst_told(Burst *x, uint64_t now_usec)
{
        x->count = 0;
        x->since_usec = now_usec;
}

bool bursts_wait(const Bursts *b)
{
        return !list_is_empty(&b->list);
}
