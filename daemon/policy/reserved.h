#pragma once

#include <stdbool.h>

/* Canonical names that mean this machine or its network: only a rule opens them, no default. */
bool host_is_local(const char *host);

/* A canonical name by which resolvers for everybody, or relays of the kind, are reached over HTTPS or TLS:
 * names that they look up are not the session's, and no row knows of them. */
bool host_is_public_resolver(const char *host);
