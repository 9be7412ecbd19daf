#pragma once

/* The reading end of a BPF ring, into which the kernel alone writes. */

#include <stdbool.h>
#include <stddef.h>

#include "proto/base/macro.h"

typedef struct Ring Ring;

/* fd is borrowed, and can be waited for. */
int ring_open(int fd, Ring **ret) _must_check_;
Ring *ring_close(Ring *r);

/* Copies the next record; those of another size are left out. False: there is none now. */
bool ring_take(Ring *r, void *record, size_t size);
