#include "daemon/audit/name_budget.h"

#include <string.h>

#include "proto/base/clock.h"
#include "proto/base/str.h"

/* Words, numbers, hexadecimal digits and UUIDs stay below four bits a byte. */
#define DENSE_LABEL_MIN  24U
#define DENSE_LABEL_BITS (4U * 256U)

/* In 1/256; v from 1 to 63. */
static uint32_t log2_fixed(uint32_t v)
{
        uint64_t x = (uint64_t) v << 24;
        uint32_t result = 0;

        for (; x >= UINT64_C(2) << 24; x >>= 1)
                result += 256;
        for (uint32_t bit = 128; bit > 0; bit >>= 1) {
                x = x * x >> 24;
                if (x < UINT64_C(2) << 24)
                        continue;
                x >>= 1;
                result += bit;
        }
        return result;
}

/* More information than a name has: Shannon's entropy of its bytes. */
static bool is_dense(const char *label, size_t size)
{
        uint32_t counts[256] = { 0 }, sum = 0;

        if (size < DENSE_LABEL_MIN)
                return false;
        for (size_t i = 0; i < size; i++)
                counts[(unsigned char) label[i]]++;
        for (size_t i = 0; i < ELEMENTSOF(counts); i++)
                if (counts[i] > 1)
                        sum += counts[i] * log2_fixed(counts[i]);
        return log2_fixed((uint32_t) size) > DENSE_LABEL_BITS + sum / (uint32_t) size;
}

static bool is_name_like(const char *name, size_t n_chosen)
{
        if (n_chosen > NAME_BUDGET_NAME_MAX)
                return false;
        for (size_t at = 0; at < n_chosen;) {
                size_t n = strcspn(name + at, ".");

                if (n > NAME_BUDGET_LABEL_MAX || is_dense(name + at, n))
                        return false;
                at += n + 1;
        }
        return true;
}

static bool keep(NameBudget *b, const char *name)
{
        char *copy;

        if (str_dup(name, &copy) < 0)
                return false;
        if (map_put(&b->seen, copy, strlen(copy), copy) < 0) {
                free(copy);
                return false;
        }
        return true;
}

bool name_budget_take(NameBudget *b, const char *name, size_t n_chosen, uint64_t now_usec)
{
        BucketRate rate = bucket_rate(1, USEC_PER_SEC, NAME_BUDGET_BURST);

        if (n_chosen == 0 || map_get(&b->seen, name, strlen(name)))
                return true;
        if (!is_name_like(name, n_chosen) || b->seen.n >= NAME_BUDGET_NAMES_MAX ||
            b->n_bytes + n_chosen > NAME_BUDGET_BYTES_MAX || !bucket_take(&b->turns, &rate, 1, now_usec) ||
            !keep(b, name))
                return false;
        b->n_bytes += n_chosen;
        return true;
}

void name_budget_restore(NameBudget *b, const char *name, size_t n_chosen, uint64_t at_usec)
{
        BucketRate rate = bucket_rate(1, USEC_PER_SEC, NAME_BUDGET_BURST);

        if (n_chosen == 0 || map_get(&b->seen, name, strlen(name)))
                return;
        /* What only looks let through: it is refused when it is asked for. */
        if (!is_name_like(name, n_chosen))
                return;
        if (b->seen.n >= NAME_BUDGET_NAMES_MAX || b->n_bytes + n_chosen > NAME_BUDGET_BYTES_MAX ||
            !keep(b, name)) {
                name_budget_exhaust(b);
                return;
        }
        b->n_bytes += n_chosen;
        bucket_charge(&b->turns, &rate, 1, at_usec);
}

void name_budget_exhaust(NameBudget *b)
{
        b->n_bytes = NAME_BUDGET_BYTES_MAX;
}

void name_budget_done(NameBudget *b)
{
        size_t cursor = 0;

        for (char *name; (name = map_next(&b->seen, &cursor));)
                free(name);
        map_done(&b->seen);
}
