#pragma once

/* Computes the chain of a folder of segments again, from what stands in the tables. */

#include "daemon/audit/row.h"

typedef struct Verification {
        uint64_t n_checked;
        uint64_t head_sequence;
        uint64_t bad_sequence; /* 0: the chain is sound */
        const char *message;   /* what is wrong there; static */
        uint8_t head[DIGEST_SIZE];
} Verification;

/* 0 also where the chain is broken: *ret says so. Erased private values are no break. */
int verify_directory(const char *directory, Verification *ret) _must_check_;
