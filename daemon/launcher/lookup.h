#pragma once

/* The one-shot unprivileged child that asks NSS and parses settings: its whole standard output is the
 * result. */

#include "daemon/launcher/launcher.h"

/* error < 0: no result. data is valid during the call. */
typedef void (*LookupCallback)(void *userdata, int error, const void *data, size_t size);

/* arguments: behind the program's name, at most two. input_fd: the child's descriptor 3; -EBADF: none. The
 * callback comes once, later; lookup_free() before that kills the child. */
int lookup_new(Launcher *l, const char *what, const char *argument, int input_fd, LookupCallback callback,
               void *userdata, Lookup **ret) _must_check_;
Lookup *lookup_free(Lookup *k);
