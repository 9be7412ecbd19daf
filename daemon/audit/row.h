#pragma once

/*
 * One row of the chain with its values resolved: what is hashed, written and read back. Strings and bytes
 * are borrowed; NULL stands for "none", as do negative numbers where a field is signed.
 */

#include "proto/idl/privsep.h"

#define DIGEST_SIZE 32U
#define SALT_SIZE   16U /* of private values: stands before them in their hash without its length */

typedef struct RowBytes {
        const void *data; /* NULL: none */
        size_t size;
} RowBytes;

/* The columns of `session`. */
typedef struct RowSession {
        const char *id;
        uint32_t uid;
        const char *user;
        const char *name;
        const char *profile;
        const char *agent;
        const char *agent_session;
        const char *workspace;
        const char *cgroup;
        const char *degraded;
        uint64_t started_usec;
} RowSession;

typedef struct RowPolicy {
        const uint8_t *digest; /* over text */
        const char *name;
        const char *source;
        const char *text;
        uint64_t generation;
        int64_t by_uid;
} RowPolicy;

typedef struct RowRule {
        const char *layer;
        const char *name;
        const char *text;
} RowRule;

/* What is the same for both kinds of rows, and what only a close row has. */
typedef struct Row {
        uint64_t sequence; /* given by the store, as are the times */
        uint64_t realtime_usec;
        uint64_t boottime_usec;
        const RowSession *session;
        PrivAddress address;
        int64_t port;
        const char *reason;
        uint8_t hash[DIGEST_SIZE];

        bool is_close;      /* a row of `flow`; else of `decision` */
        int64_t connection; /* sequence of its connect row */
        int64_t duration_usec;
        int64_t sent_bytes;
        int64_t received_bytes;

        AuditKind kind;
        const char *action;
        int64_t verdict;
        uint32_t uid;
        bool has_session_columns; /* hashed with it: the first row of a segment that names the session */
        int64_t process;
        const RowPolicy *policy;
        RowRule rule;
        const char *entry;
        const char *protocol;
        const char *host;
        const char *method;
        int64_t status;
        int64_t pid;
        RowBytes executable;
        RowBytes executable_digest;
        const char *credential;
        int64_t refers_to;

        /* Erasable: in `priv`, hashed with a salt of their own. */
        RowBytes path;
        RowBytes raw;
        const char *detail;
} Row;

/* A decision row with everything absent that may be. */
#define ROW_INIT(k, a)            \
        ((Row){ .kind = (k),      \
                .action = (a),    \
                .verdict = -1,    \
                .port = -1,       \
                .process = -1,    \
                .status = -1,     \
                .pid = -1,        \
                .refers_to = -1,  \
                .sent_bytes = -1, \
                .received_bytes = -1 })

static inline bool row_has_private(const Row *row)
{
        return row->path.data || row->raw.data || row->detail;
}
