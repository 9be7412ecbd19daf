#pragma once

/* A session plan of a policy alone, for a made-up user. */

#include "daemon/policy/policy.h"

/* Negative where the policy cannot be planned for; the builder proves what it seals. */
int seal_plan(const Policy *p, int *ret_fd) _must_check_;
