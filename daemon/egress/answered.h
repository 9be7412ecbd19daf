#pragma once

/*
 * Real addresses that programs were told, and for which names (dns: real). It only says which name a
 * connection to one of them means: what is decided, resolved and connected to is that name. A worker's
 * successor begins with none.
 */

#include <stdbool.h>
#include <stddef.h>

#include "proto/base/macro.h"
#include "proto/idl/privsep.h"

#define ANSWERED_MAX       16384U /* pairs of address and name; with one more all are forgotten */
#define ANSWERED_NAMES_MAX 64U    /* of one address: the oldest goes */

typedef struct Answered Answered;

int answered_new(Answered **ret) _must_check_;
Answered *answered_free(Answered *a);
DEFINE_CLEANUP(Answered *, answered_free)

/* name is copied, and becomes the address's newest. */
int answered_add(Answered *a, const PrivAddress *address, const char *name) _must_check_;
/* The newest name, until the next answered_add(); NULL: none. */
const char *answered_find(const Answered *a, const PrivAddress *address);
size_t answered_count(const Answered *a, const PrivAddress *address);
bool answered_has(const Answered *a, const PrivAddress *address, const char *name);
