#pragma once

/*
 * A session that tries to ping is refused, and that is known: a program at the creation of sockets, attached
 * once to the group above all sessions, refuses those for pings, and counts them by network namespace. Of
 * one that tries a ring tells, at most twice a second; how often it did is to be asked for.
 *
 * What is attached stays so until the group is gone, also without us.
 */

#include <stdbool.h>
#include <stdint.h>

#include "daemon/isolate/cgroup.h"
#include "daemon/isolate/steer.h"
#include "proto/base/macro.h"

typedef struct Pings Pings;

/* The group of all sessions; what an earlier daemon attached to it is replaced. */
int pings_new(const CgroupBase *base, Pings **ret) _must_check_;
Pings *pings_free(Pings *p);
DEFINE_CLEANUP(Pings *, pings_free)

/* Does it refuse and tell, in a namespace that would let pings? The steering says that it does. */
int pings_try(Pings *p, const CgroupBase *base, int home_fd, const Steering *steering) _must_check_;

/* To be waited for: readable when pings_take() has something. */
int pings_fd(const Pings *p);
/* The cookie of a namespace where somebody tried; false: none now. */
bool pings_take(Pings *p, uint64_t *ret_cookie);
/* So many were refused there, ever. *ret_is_awake: the next one will be told of, whenever it is. */
uint64_t pings_count(const Pings *p, uint64_t cookie, bool *ret_is_awake);
/* Nothing runs there any more. */
void pings_forget(const Pings *p, uint64_t cookie);
