#pragma once

/* The reading end of a BPF ring, into which the kernel alone writes. */

#include <stdbool.h>
#include <stddef.h>

#include "proto/base/macro.h"

typedef struct BpfRing BpfRing;

/* fd is borrowed, and can be waited for. It was made with that size, or one page where that is more. */
int bpf_ring_open(int fd, size_t size, BpfRing **ret) _must_check_;
BpfRing *bpf_ring_close(BpfRing *r);

/* Copies the next record; those of another size are left out. False: there is none now. */
bool bpf_ring_take(BpfRing *r, void *record, size_t size);
