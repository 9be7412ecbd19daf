#pragma once

/* What the matcher asks about addresses beyond compiled.h. */

#include "daemon/policy/compiled.h"

/* May a rule for this prefix open the guarded address a? It holds a and lies inside every guarded range
 * around a, also those of an IPv4 address within; for a metadata service it is that very address. */
bool address_guard_admits(const PrivAddress *a, const PrivAddress *network,
                          uint32_t prefix_length) _must_check_;
