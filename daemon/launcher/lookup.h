#pragma once

/* The one-shot unprivileged child that asks NSS and parses settings: its whole standard output is the
 * result. */

#include "daemon/launcher/launcher.h"

/* error < 0: no result. data is valid during the call. */
typedef void (*LookupCallback)(void *userdata, int error, const void *data, size_t size);

typedef struct LookupQuestion {
        const char *what;     /* static */
        const char *argument; /* NULL: none */
        int child_fd;         /* the child's descriptor 3; -EBADF: none */
} LookupQuestion;

/* The callback comes once, later; lookup_free() before that kills the child. */
int lookup_new(Launcher *l, const LookupQuestion *question, LookupCallback callback, void *userdata,
               Lookup **ret) _must_check_;
Lookup *lookup_free(Lookup *k);

/* start.c: the daemon's settings; the result is a PrivSettings. userdata is the launcher. */
int launcher_look_up_settings(Launcher *l, LookupCallback callback, Lookup **ret) _must_check_;
