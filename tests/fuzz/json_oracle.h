#pragma once

/* Another reader of JSON, apart from ours because their names collide. */

#include <stdbool.h>
#include <stddef.h>

#include "proto/base/macro.h"

typedef struct Oracle Oracle;

/* NULL: it refuses the text (also with duplicate keys). */
Oracle *oracle_load(const char *text, size_t size);
Oracle *oracle_free(Oracle *o);
DEFINE_CLEANUP(Oracle *, oracle_free)
bool oracle_is_object(const Oracle *o);
bool oracle_equal(const Oracle *a, const Oracle *b);
