#pragma once

/*
 * Decisions that nothing stands against but a limit of connections wait a moment before they are denied.
 * That a connection is over comes from the dialer, that the next one is wanted from egress: which of the two
 * a client that does one after the other makes us hear first is chance.
 */

#include "daemon/audit/queue.h"

/* Takes it: a decision whose limit is set. */
void held_put(Audit *a, Pending *take);

/* Queues what may be made now, and what has waited long enough. For the end of each turn. */
void held_review(Audit *a);
void held_forget_egress(Audit *a, const Egress *e);
