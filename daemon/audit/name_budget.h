#pragma once

/*
 * Names are a way out: what stands before an allowed suffix reaches whoever answers for it. Where a wildcard
 * lets a session choose names, it may choose only so many, so fast, and none that look like data. A name
 * that was let through once is free from then on.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/base/bucket.h"
#include "proto/base/hash.h"

#define NAME_BUDGET_LABEL_MAX 48U           /* bytes of a chosen label */
#define NAME_BUDGET_NAME_MAX  128U          /* bytes that are chosen of one name */
#define NAME_BUDGET_BURST     128U          /* new names at once, then one a second */
#define NAME_BUDGET_NAMES_MAX 8192U         /* of a session */
#define NAME_BUDGET_BYTES_MAX (64U * 1024U) /* chosen in all */

/* All zero at first. */
typedef struct NameBudget {
        Map seen;
        size_t n_bytes;
        Bucket turns;
} NameBudget;

/* The log says that it was let through before, then: what take() never lets through is not taken for that.
 */
void name_budget_restore(NameBudget *b, const char *name, size_t n_chosen, uint64_t at_usec);

/* What was let through before is not known: no further name is. */
void name_budget_exhaust(NameBudget *b);

void name_budget_done(NameBudget *b);

/* May this name be asked for, whose first n_chosen bytes no rule names? now_usec: monotonic. */
bool name_budget_take(NameBudget *b, const char *name, size_t n_chosen, uint64_t now_usec);
