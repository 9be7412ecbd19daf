#pragma once

/* The one-shot unprivileged child that asks NSS and parses settings: its whole standard output is the
 * result. */

#include "daemon/launcher/launcher.h"

/* error < 0: no result. data is valid during the call. */
typedef void (*LookupCallback)(void *userdata, int error, const void *data, size_t size);

#define LOOKUP_FDS_MAX 2U

typedef struct LookupQuestion {
        const char *what;              /* static */
        const char *argument;          /* NULL: none */
        int child_fds[LOOKUP_FDS_MAX]; /* become the child's 3, 4 */
        size_t n_child_fds;
} LookupQuestion;

/* The callback comes once, later; lookup_free() before that kills the child. */
int lookup_new(Launcher *l, const LookupQuestion *question, LookupCallback callback, void *userdata,
               Lookup **ret) _must_check_;
Lookup *lookup_free(Lookup *k);
