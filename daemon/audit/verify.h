#pragma once

/*
 * Computes the chain of a folder of segments again, from what stands in the tables, and holds it against
 * the checkpoints of the database and of the file beside it.
 *
 * What is found: a change of anything that a query shows, rows that are missing below a checkpoint, a
 * checkpoint that nobody with the log's key made, another key than before. What is not: a log that somebody
 * with the key wrote anew as a whole, or rows cut off together with all checkpoints behind them. For that
 * the caller brings what was kept elsewhere: a head, or the key.
 */

#include "daemon/audit/checkpoint.h"

typedef struct Verification {
        uint64_t n_checked;
        uint64_t n_checkpoints;
        uint64_t n_erased;        /* rows whose private values are gone, which is no break */
        uint64_t first_sequence;  /* from where the log is held: what is older was retired */
        uint64_t head_sequence;   /* the last row that was checked */
        uint64_t signed_sequence; /* rows behind it have no checkpoint; 0: none has */
        uint64_t bad_sequence;    /* 0: all holds */
        const char *message;      /* what is wrong there; static */
        bool is_retired;          /* what was asked about is older than what is held: nothing was checked */
        bool has_key;
        uint8_t public_key[KEY_SIZE]; /* of the newest segment */
        uint8_t head[DIGEST_SIZE];
} Verification;

typedef int (*VerifyProgress)(void *userdata, const Verification *so_far);

typedef struct VerifySpec {
        uint64_t from;          /* 0: all rows; else the hash of the row before is taken as it stands */
        uint64_t to;            /* 0: up to the end */
        const uint8_t *key;     /* NULL: the one that the log names */
        uint64_t head_sequence; /* of a row whose hash was kept elsewhere; 0: none */
        const uint8_t *head_hash;
        VerifyProgress progress; /* NULL: none; negative ends it */
        void *userdata;
} VerifySpec;

/* 0 also where something is wrong: *ret says so. */
int verify_directory(const char *directory, const VerifySpec *spec, Verification *ret) _must_check_;
