#pragma once

/*
 * The log is a row of files, audit-NNNNNN.db, each readable and verifiable alone: the first row of one
 * follows a hash over the header of its segment, which names the head of the one before.
 */

#include "daemon/audit/chain.h"
#include "daemon/audit/checkpoint.h"
#include "daemon/audit/sql.h"

typedef struct Segment {
        Sql *sql;
        uint64_t number;
        uint64_t opened_usec;
        uint64_t first_sequence;
        uint64_t head_sequence; /* first_sequence - 1 while it is empty */
        uint8_t genesis[DIGEST_SIZE];
        uint8_t head[DIGEST_SIZE];
        uint64_t signed_sequence; /* of its last checkpoint; 0: none */
        uint8_t public_key[KEY_SIZE];
        bool has_public_key; /* segments from before there were keys have none */
        bool is_closed;
} Segment;

typedef struct SegmentHeader {
        uint64_t number;
        uint64_t first_sequence;
        const uint8_t *previous;
        const uint8_t *public_key;
        const char *machine_id;
        const char *boot_id;
} SegmentHeader;

int segment_path(const char *directory, uint64_t number, char path[PRIV_PATH_SIZE]) _must_check_;

/* Numbers of the files that are there, ascending; the caller frees. */
int segment_list(const char *directory, uint64_t **ret, size_t *ret_n) _must_check_;

int segment_create(const char *directory, const SegmentHeader *header, Chain *chain,
                   Segment **ret) _must_check_;

/* -EBADMSG: not one of ours, or damaged. The check looks at every page (quick_check). */
int segment_open(const char *directory, uint64_t number, SqlMode mode, Chain *chain,
                 Segment **ret) _must_check_;
int segment_check(Segment *s) _must_check_;

/* -EBADMSG: one of the tables that rows are read from was made anew, otherwise than segment_create() does.
 */
int segment_check_tables(Segment *s) _must_check_;
Segment *segment_close(Segment *s);
DEFINE_CLEANUP(Segment *, segment_close)

/* Removes the oldest segments until all together are not larger than that; those from `newest` - 1 on stay.
 * *ret_n: how many. */
int segment_prune(const char *directory, uint64_t size_bytes_max, uint64_t newest,
                  size_t *ret_n) _must_check_;

/* In a transaction of its own. */
int segment_add_checkpoint(Segment *s, const Checkpoint *c, const char *id_of_key) _must_check_;

/* Writes down that nothing follows in this file. */
int segment_finish(Segment *s) _must_check_;

/* Moves a damaged file and its log out of the way, under a name that is not a segment's. */
int segment_set_aside(const char *directory, uint64_t number) _must_check_;
