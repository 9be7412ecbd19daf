#pragma once

/*
 * Output of commands that is kept in memory: for Logs(), for clients that attach again, and between a
 * command and the clients that are attached now, who read from here by position.
 *
 * A log holds the newest bytes of one command, at most OUTPUT_LOG_MAX; all logs of a store together hold
 * at most the store's maximum, and the oldest bytes of any of them go first. Bytes from log->pinned on stay
 * all the same: who pins them also stops reading the command soon (see OUTPUT_UNREAD_MAX).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/base/list.h"

#define OUTPUT_PIECE_MAX  (16U * 1024U)
#define OUTPUT_LOG_MAX    (1024U * 1024U)
#define OUTPUT_STORE_MAX  (32U * 1024U * 1024U)
#define OUTPUT_UNREAD_MAX 16U /* pieces */

typedef struct OutputStore {
        ListLink pieces; /* of all logs, oldest first */
        size_t n_bytes;  /* of memory */
        size_t n_bytes_max;
} OutputStore;

typedef struct OutputLog {
        OutputStore *store;
        ListLink pieces;
        uint64_t begin; /* position of the first byte that is kept */
        uint64_t end;   /* bytes ever written */
        uint64_t next_number;
        uint64_t pinned; /* UINT64_MAX: none */
        size_t n_bytes;  /* of memory */
} OutputLog;

/* Bytes that were written together, until the log changes. */
typedef struct OutputPiece {
        uint64_t at;
        uint64_t number; /* pieces are counted from 0 */
        uint64_t realtime_usec;
        unsigned stream; /* 1: standard output, 2: standard error */
        const char *data;
        size_t size;
} OutputPiece;

void output_store_init(OutputStore *s, size_t n_bytes_max);
void output_log_init(OutputLog *l, OutputStore *s);
void output_log_done(OutputLog *l);

/* At most OUTPUT_PIECE_MAX bytes. Without memory they are missing from the log, which counts them. */
void output_log_put(OutputLog *l, unsigned stream, uint64_t realtime_usec, const char *data, size_t size);

/* What is kept from a position on, or from the first kept byte behind it; false: nothing yet. */
bool output_log_get(const OutputLog *l, uint64_t at, OutputPiece *ret);

/* How many pieces there are from this position on. */
uint64_t output_log_count(const OutputLog *l, uint64_t at);
