#pragma once

/*
 * The hash chain: h_n = SHA-256("sandboxd-audit-1" || h_{n-1} || fields), each field a 4-byte big-endian
 * length and its bytes (0xffffffff: absent), integers 8 bytes big-endian. It covers resolved values, never
 * dictionary numbers.
 */

#include "daemon/audit/row.h"

typedef struct Chain Chain; /* the state of the digest, used again for each row */

int chain_new(Chain **ret) _must_check_;
Chain *chain_free(Chain *c);
DEFINE_CLEANUP(Chain *, chain_free)

int chain_digest(Chain *c, const void *data, size_t size, uint8_t ret[DIGEST_SIZE]) _must_check_;

/* What the first row of a segment follows. */
int chain_genesis(Chain *c, const char *machine_id, uint64_t segment, const uint8_t previous[DIGEST_SIZE],
                  RowBytes public_key, uint8_t ret[DIGEST_SIZE]) _must_check_;

/* SHA-256(salt || path, raw, detail as fields). */
int chain_private(Chain *c, const Row *row, RowBytes salt, uint8_t ret[DIGEST_SIZE]) _must_check_;

/* private_hash is NULL where the row has nothing erasable. */
int chain_row(Chain *c, const Row *row, const uint8_t previous[DIGEST_SIZE], const uint8_t *private_hash,
              uint8_t ret[DIGEST_SIZE]) _must_check_;
