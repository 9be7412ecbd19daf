#pragma once

/*
 * Queries run in processes of their own: a helper is forked before the store is opened, so that it has no
 * trace of the writer's connection, and forks a reader for each query. A reader opens the segments
 * read-only, writes records into a pipe, and ends with it.
 */

#include "daemon/loop/loop.h"
#include "proto/idl/privsep.h"

typedef struct Readers Readers;

typedef struct ReaderRequest {
        PrivQuery query;
        PrivVerify verify; /* instead of the query */
        bool is_verify;
        uint32_t uid;      /* whose rows */
        uint32_t sees_all; /* everybody's */
} ReaderRequest;

/* Forks the helper; it closes every descriptor but its own. */
int readers_new(const char *directory, Readers **ret) _must_check_;
Readers *readers_free(Readers *r);
DEFINE_CLEANUP(Readers *, readers_free)

/* The caller owns *ret_fd, the reading end of the stream. A stream that breaks off within a record is one
 * that failed. -EBUSY: too many run. */
int readers_start(Readers *readers, Loop *loop, const ReaderRequest *request, int *ret_fd) _must_check_;

/* Rows were committed: those that follow look. */
void readers_poke(const Readers *readers);
