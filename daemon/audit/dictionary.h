#pragma once

/*
 * The dictionaries of one segment: sessions, policies, rules, hosts, programs, each entered once and named
 * by a number in the rows. Also which row was the first in the segment to name a session: that one's hash
 * covers all columns of the session, so that each segment vouches for its own dictionary.
 */

#include "daemon/audit/row.h"
#include "daemon/audit/sql.h"

/* The dictionary numbers of one row; -1 where it has none. */
typedef struct RowIds {
        int64_t session;
        int64_t policy;
        int64_t rule;
        int64_t host;
        int64_t executable;
} RowIds;

#define ROW_IDS_NONE ((RowIds){ .session = -1, .policy = -1, .rule = -1, .host = -1, .executable = -1 })

typedef struct Dictionary Dictionary;

/* sql: borrowed. */
int dictionary_open(Sql *sql, Dictionary **ret) _must_check_;
Dictionary *dictionary_close(Dictionary *d);
DEFINE_CLEANUP(Dictionary *, dictionary_close)

/* Finds or enters what the row names; *ret_is_new_policy: the policy was entered now. */
int dictionary_resolve(Dictionary *d, const Row *row, RowIds *ids, bool *ret_is_new_policy) _must_check_;
int dictionary_enter_session(Dictionary *d, const RowSession *session, int64_t *ret) _must_check_;

/* *ret: the next row is the first one of this segment that names the session. It is one when
 * dictionary_mark() says so. */
int dictionary_is_first(Dictionary *d, int64_t session, bool *ret) _must_check_;
void dictionary_mark(const Dictionary *d, int64_t session, uint64_t sequence);

/* Rows after that one were taken back. */
void dictionary_rollback(Dictionary *d, uint64_t sequence);
