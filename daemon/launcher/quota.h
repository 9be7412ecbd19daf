#pragma once

/*
 * What one user may have at a time, and how fast. Counted here, by the uid that the kernel gave: a worker
 * that was taken over can have no more. Totals are those of all users but root, whose own numbers count for
 * nobody else: what others hold leaves root's share free.
 *
 * A refusal is counted, not written: the first one, and then one row of the kind limit each second, say how
 * many there were.
 */

#include "daemon/launcher/launcher.h"
#include "proto/base/bucket.h"

typedef enum Quota {
        QUOTA_CONNECTIONS = 0,
        QUOTA_CONNECTS, /* their rate */
        QUOTA_SESSIONS,
        QUOTA_STARTS, /* their rate, failed ones too */
        QUOTA_ROWS,   /* of refused starts */
        QUOTA_BUFFERS,
        QUOTA_USERS,
        _QUOTA_MAX,
} Quota;

typedef struct QuotaCounter {
        uint64_t since_usec; /* monotonic: of the last row */
        uint64_t n_refused;
} QuotaCounter;

typedef struct UserQuota {
        QuotaCounter counters[_QUOTA_MAX];
        Bucket connects;
        Bucket turned_away;
        Bucket starts;
        Bucket rows;
        Bucket freezes;
        Bucket time;
        uint64_t connected_usec; /* monotonic: of the last connection within the rate */
        LoopTimer *timer;
        bool is_timer_set;
} UserQuota;

/* The word of the interface (QuotaExceeded, rows of the log). */
const char *quota_to_string(Quota q);

int quota_init(User *u) _must_check_;
/* Writes what is counted. */
void quota_done(User *u);

/* Counts refusals. */
void quota_refused(User *u, Quota q, uint32_t n);

/* A new connection, before anything is done for it; false: close it. Who comes too fast again and again is
 * shut out (door.h). is_over: there is room for an error only. */
bool quota_admit_connection(User *u, uint32_t *ret_is_over);

/* NULL: the user may have another session; else which quota stands in the way. Counts the start, and the
 * refusal. */
const char *quota_take_start(User *u);

/* For a start that the user's api worker refused by itself. */
void quota_charge_start(User *u);

/* A start kept us from everybody else for so long; returns how long this user must wait with the next. */
uint64_t quota_charge_time(User *u, uint64_t usec);

/* A refusal that the user's api worker counted by itself; -EPROTO: no such quota of its own. */
int quota_note(User *u, const char *name, uint32_t n) _must_check_;

/* A row that api causes; false: it is one too many. */
bool quota_take_row(User *u);

/* A freeze or a thaw; false: one too many. */
bool quota_take_freeze(User *u);

/* Another user's worker. */
bool quota_may_have_worker(User *u);

/* How many descriptors of ours sessions may have: decides how many there can be. Once, at start. */
void quota_read_descriptors(Launcher *l);
