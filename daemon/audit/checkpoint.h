#pragma once

/*
 * A checkpoint is a signature (Ed25519) over a sequence, the hash of that row and a time: whoever keeps one
 * elsewhere can see whether the rows up to there are still the same. What is signed is the text
 * "sandboxd-checkpoint-1 SEQUENCE HASH TIME\n" (decimal, hex, microseconds); the line of the file is
 * "SEQUENCE HASH TIME SIGNATURE\n".
 */

#include "daemon/audit/row.h"

#define KEY_SIZE             32U
#define KEY_ID_SIZE          17U /* hex and its NUL */
#define SIGNATURE_SIZE       64U
#define CHECKPOINT_LINE_SIZE 256U
#define CHECKPOINT_FILE      "checkpoints"

typedef struct Checkpoint {
        uint64_t sequence;
        uint64_t realtime_usec;
        uint8_t head[DIGEST_SIZE];
        uint8_t signature[SIGNATURE_SIZE];
} Checkpoint;

typedef struct SigningKey SigningKey;

/* secret: KEY_SIZE random bytes, borrowed. */
int signing_key_new(const uint8_t *secret, SigningKey **ret) _must_check_;
SigningKey *signing_key_free(SigningKey *k);
DEFINE_CLEANUP(SigningKey *, signing_key_free)

int signing_key_public(const SigningKey *k, uint8_t ret[KEY_SIZE]) _must_check_;

/* Fills in the signature. */
int checkpoint_sign(const SigningKey *k, Checkpoint *c) _must_check_;

/* 1: signed with that key; 0: not. */
int checkpoint_verify(const Checkpoint *c, const uint8_t public_key[KEY_SIZE]) _must_check_;

void checkpoint_format(const Checkpoint *c, char line[CHECKPOINT_LINE_SIZE]);

/* line: without the newline. -EINVAL: not a checkpoint. */
int checkpoint_parse(const char *line, Checkpoint *ret) _must_check_;

/* What a row of `checkpoint` calls its key by. */
int key_id(const uint8_t public_key[KEY_SIZE], char ret[KEY_ID_SIZE]) _must_check_;
