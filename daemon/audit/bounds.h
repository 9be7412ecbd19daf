#pragma once

/*
 * What holds for a decision beyond allow: limits that the other workers keep, and how many connections a
 * rule has open. A decision is counted from the moment it is made, not from the commit on: of many that wait
 * for one commit no more are allowed than the rule says.
 */

#include "daemon/audit/audit.h"

typedef struct RuleCount {
        uint64_t key;
        size_t n;
} RuleCount;

typedef struct Bounds {
        Session *session; /* borrowed: the owner of this has a reference */
        PolicyTerms terms;
        RuleCount *held[POLICY_COUNTS_MAX];
        size_t n_held;
} Bounds;

/* Of a request that the session's policy allows. */
int bounds_new(Session *s, const PolicyRequest *q, Bounds **ret) _must_check_;
Bounds *bounds_free(Bounds *b);

/* It may turn out to be this as well. */
void bounds_add(Bounds *b, const PolicyRequest *q, Protocol protocol);

/* Counts one connection more for each rule that limits them. -EDQUOT: *ret_limit (NULL: there are too many
 * such rules) is reached. */
int bounds_count(Bounds *b, const PolicyCount **ret_limit) _must_check_;

void bounds_tell(const Bounds *b, PrivVerdict *v);
