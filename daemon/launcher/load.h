#pragma once

/* What the daemon goes by, read and checked by a child: nothing of it counts before the caller takes it. */

#include "daemon/launcher/launcher.h"
#include "daemon/launcher/lookup.h"

struct Loading {
        Launcher *launcher;
        void (*callback)(Launcher *l, int error);
        Lookup *lookup;    /* NULL: none under way */
        int profiles_fd;   /* those that were checked; -EBADF: none */
        PrivLoaded loaded; /* where error says no: what the child, or we, had to say */
};

Loading *loading_new(Launcher *l, void (*callback)(Launcher *l, int error));
Loading *loading_free(Loading *x);

/* is_running: what a running daemon cannot change is a failure. The callback comes later. < 0: it does not,
 * and loaded says why. */
int loading_begin(Loading *x, bool is_running) _must_check_;
