#pragma once

/* One uid that has connections or sessions: its identity from NSS, its connections, its api worker. */

#include "daemon/launcher/launcher.h"
#include "daemon/launcher/peer.h"

typedef struct Connection {
        ListLink link;
        uint64_t number;
        int fd; /* -EBADF once api has it */
        bool is_over_quota;
        Peer peer;
} Connection;

/* Rows that a user's api worker causes without a session: so many at once and a second, then one row of each
 * second says how many more there were. The audit writer serves everybody. */
typedef struct ReportQuota {
        uint64_t since_usec; /* monotonic: begin of the second that is counted */
        unsigned n_rows;
        unsigned n_dropped;
} ReportQuota;

struct User {
        Launcher *launcher;
        uint32_t uid;
        PrivIdentity identity;
        Lookup *lookup;
        Worker *api;
        ListLink connections;
        unsigned n_connections;
        unsigned n_sessions;
        LoopTimer *timer; /* idle, or the wait before a restart */
        RestartGuard guard;
        ReportQuota reports;
        int spare_user_fd;  /* user namespace for the next session; each is used once */
        uint32_t spare_gid; /* of the last session; 0: none yet, or nothing is prepared for root */
        bool has_identity;
        bool is_started; /* api has its API_START */
};

/* Takes the connection; one that cannot be served is closed. */
void user_add_connection(Launcher *l, const Peer *peer, int take_fd);

/* The connection that api names, or NULL: it is not live. */
const Connection *user_find_connection(const User *u, uint64_t number);

/* After a change of n_sessions or of the api worker. */
void user_check_idle(User *u);
/* Counts a row that api causes; false: it is one too many. */
bool user_may_report(User *u);
void user_send(User *u, PrivMessage type, const void *body, size_t size, const int *fds, size_t n_fds);

/* A new audit writer: a new channel to it for each api worker. */
void users_attach_audit(Launcher *l);
void users_free(Launcher *l);
