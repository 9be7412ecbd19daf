#pragma once

/* What the library's files and its tests share; not installed, not exported. */

#include <sys/types.h>

#include "client/lib/sandboxd.h"

/* sandboxd_connect() to a daemon of the given user. */
int client_connect(const char *address, uid_t owner, SandboxdClient **ret) SANDBOXD_MUST_CHECK;
