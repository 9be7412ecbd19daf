#pragma once

/*
 * The one writer of the log. Rows go in between store_begin() and store_commit(); what a failed commit (or a
 * rollback) takes back is as if it had never been: sequence and head are those of the last commit.
 */

#include "daemon/audit/row.h"

typedef struct Store Store;

typedef struct StoreSpec {
        const char *directory; /* borrowed for the life of the store, as are the others */
        const char *machine_id;
        const char *boot_id;
        uint64_t segment_bytes_max;
        uint64_t retention_bytes; /* 0: nothing is ever removed */
} StoreSpec;

/* Why the rows of the last run are not followed as they should be. */
typedef enum StoreGap {
        STORE_GAP_NONE = 0,
        STORE_GAP_DAMAGED, /* the newest segment was set aside */
        STORE_GAP_MISSING, /* it lacks rows that a checkpoint names */
        STORE_GAP_KEY,     /* it was signed with another key */
} StoreGap;

/* Opens the newest segment, or makes one; in case of a gap always a new one. Makes the signing key on the
 * first start. */
int store_open(const StoreSpec *spec, Store **ret, StoreGap *ret_gap) _must_check_;
Store *store_close(Store *s);
DEFINE_CLEANUP(Store *, store_close)

/* From the next commit on; retention_bytes as above. */
void store_set_sizes(Store *s, uint64_t segment_bytes_max, uint64_t retention_bytes);

uint64_t store_head(const Store *s);
const uint8_t *store_head_hash(const Store *s);

int store_begin(Store *s) _must_check_;

/* Gives the row its sequence, times and hash. A policy that this segment has not seen gets a row before it.
 * -EINVAL: a value that the schema does not take; all else is the disk's fault. After an error only
 * rollback. */
int store_append(Store *s, Row *row) _must_check_;
int store_enter_session(Store *s, const RowSession *session) _must_check_;
int store_commit(Store *s) _must_check_;
void store_rollback(Store *s);

/* Committed rows without a checkpoint. */
uint64_t store_unsigned(const Store *s);

/* Between transactions: signs the head, if it is not signed, into the database and the file. */
int store_sign(Store *s) _must_check_;

/* Between transactions: cuts the write-ahead log, goes on to a new segment by size or day. 1: it did; the
 * sessions that live are to be entered again. */
int store_maintain(Store *s) _must_check_;

/* Removes the oldest segments beyond what is to be kept; returns how many. */
size_t store_prune(const Store *s);

/* What the last run left open, from the newest two segments. */
typedef struct StoreLeftover {
        RowSession session;  /* valid during the call */
        uint64_t connection; /* 0: the session itself has no end */
        uint64_t since_usec; /* of the connect row */
} StoreLeftover;

typedef int (*StoreLeftoverCallback)(void *userdata, const StoreLeftover *l);

/* type: of the question, NULL: a connection. */
typedef void (*StoreAskedCallback)(void *userdata, const char *host, const char *type,
                                   uint64_t realtime_usec);

/* Names that the session was let ask for since then, in order: from all segments that are still there. A
 * name may come once from each, as each type. */
int store_list_asked(Store *s, const char *session, uint64_t since_usec, StoreAskedCallback callback,
                     void *userdata) _must_check_;

int store_list_leftovers(Store *s, StoreLeftoverCallback callback, void *userdata) _must_check_;
