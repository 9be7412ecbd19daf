#pragma once

/*
 * Who signs: the key, made on the first start and never given away, and the file of checkpoints beside the
 * database. STATE/audit/key is the secret (hex, mode 0600), STATE/audit/key.pub its public half.
 */

#include "daemon/audit/checkpoint.h"

typedef struct Signer Signer;

/* Loads the key, or makes one where there is none. -EBADMSG: a file of that name is no key. */
int signer_open(const char *directory, Signer **ret) _must_check_;
Signer *signer_close(Signer *s);
DEFINE_CLEANUP(Signer *, signer_close)

const uint8_t *signer_public_key(const Signer *s);
const char *signer_key_id(const Signer *s);
int signer_sign(const Signer *s, Checkpoint *c) _must_check_;

/* Adds the line to the file; it is on the disk on return. What an earlier failure left half is cut first. */
int signer_append(Signer *s, const Checkpoint *c) _must_check_;

/* The last whole line: 1; 0: there is none. */
int signer_last(const Signer *s, Checkpoint *ret) _must_check_;
