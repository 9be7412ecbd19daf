#pragma once

/* The addresses of this machine, kept current from rtnetlink. The socket is opened before the worker gives
 * up its rights, read afterwards. */

#include <stdbool.h>

#include "daemon/loop/loop.h"
#include "proto/base/macro.h"
#include "proto/idl/privsep.h"

typedef struct LocalAddresses LocalAddresses;

int local_addresses_open(LocalAddresses **ret) _must_check_;
/* Reads the first dump (waits for it), then follows changes on the loop. */
int local_addresses_start(LocalAddresses *l, Loop *loop) _must_check_;
LocalAddresses *local_addresses_free(LocalAddresses *l);
bool local_addresses_contain(const LocalAddresses *l, const PrivAddress *a);
