#pragma once

/*
 * daemon/loop/loop.h without libevent and without time, for targets that run handlers of a whole process: a
 * turn is one look at every descriptor and what was deferred, a timer fires when the target says so. The
 * program links this instead of daemon/loop/loop.c.
 */

#include "daemon/loop/loop.h"

/* Runs callbacks of what is ready, then what was deferred. False: nothing was ready. */
bool turns_once(Loop *l);

/* loop_stop() was called: no further turn. */
bool turns_are_over(const Loop *l);

/* Turns until nothing is ready, or it is over. */
void turns_all(Loop *l);

/* Fires the n-th armed timer (modulo their number), then ends the turn. */
void turns_fire(Loop *l, unsigned n);

/* What loop_run() does instead of running: once, with the loop. */
void turns_set_driver(void (*driver)(Loop *l));
