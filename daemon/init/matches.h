#pragma once

/*
 * Denials by pattern, and by name, in the workspace: the workspace, as the session sees it, is walked with
 * the session's rights, and a mask put over each match. init does so before anything runs; the guard goes
 * on: it watches the directories in which something could match, and where a name appears that does, all
 * commands are frozen while it is masked. There is a time between the name and the freeze.
 */

#include "daemon/init/setup.h"

typedef struct Matches Matches;

/* NULL: the plan denies nothing there. */
int matches_new(Setup *s, Matches **ret) _must_check_;
Matches *matches_free(Matches *m);
DEFINE_CLEANUP(Matches *, matches_free)

/* All of it. What goes beyond the bounds, or cannot be listed, may hold a match: the first is an error, the
 * second masked as a whole (its owner could open it later). */
int matches_walk(Matches *m) _must_check_;

/* ---- in the guard ---- */

/* Before its first walk. stop() is called before anything is masked, once commands may run. */
int matches_watch(Matches *m, void (*stop)(void *userdata), void *userdata) _must_check_;
void matches_serve(Matches *m);
/* -EBADF: there is no watch, or not for all: look again from time to time. */
int matches_fd(const Matches *m);
int matches_timeout_msec(const Matches *m);
/* What appeared since. */
int matches_look(Matches *m) _must_check_;
