#pragma once

/* Which requests a rule with terms is about: inside daemon/policy only. */

#include "daemon/policy/block.h"

/* The path of the request in hand. */
typedef struct PathView {
        const char *canonical; /* NULL: it is not clear */
        unsigned steps;        /* what comparing may still cost */
        bool is_blamed;        /* a rule would perhaps allow it, were it clear */
} PathView;

static inline const BlockTerms *terms_of(const PolicyBlock *b, const BlockRule *r)
{
        return (const BlockTerms *) block_table(b, b->terms) + (r->terms - 1);
}

/* Is the rule, whose destination fits, about this request? path: NULL where it is not known. */
bool terms_apply(const PolicyBlock *b, const BlockRule *r, const PolicyRequest *q, PathView *path);
