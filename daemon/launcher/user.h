#pragma once

/* One uid that has connections or sessions: its identity from NSS, its connections, its api worker. */

#include "daemon/launcher/launcher.h"
#include "daemon/launcher/peer.h"
#include "daemon/launcher/quota.h"

typedef struct Connection {
        ListLink link;
        uint64_t number;
        int fd;        /* -EBADF once api has it */
        uint32_t over; /* PrivOver */
        Peer peer;
} Connection;

/* Ends of sessions, the newest so many: said again to each new worker, which may have died as it heard of
 * them. */
#define USER_ENDS_KEPT 256U

struct User {
        Launcher *launcher;
        uint32_t uid;
        PrivIdentity identity;
        Lookup *lookup;
        Lookup *report; /* under way; one at a time */
        uint64_t report_token;
        Worker *api;
        ListLink connections;
        unsigned n_connections;
        unsigned n_sessions;
        unsigned n_inbounds; /* of all its sessions */
        LoopTimer *timer;    /* idle, or the wait before a restart */
        RestartGuard guard;
        uint64_t no_worker_until_usec; /* monotonic: its workers ended too often */
        UserQuota quota;
        Id *ended;                   /* the last ones that its worker may still know; NULL: none yet */
        size_t n_ended;              /* ever */
        int spare_user_fd;           /* user namespace for the next session; each is used once */
        uint32_t spare_gid;          /* of the last session; 0: none yet, or nothing is prepared for root */
        uint64_t refused_until_usec; /* monotonic: no second look for an identity before; 0: none failed */
        PrivSessionEnd *ends;        /* ring; NULL: none yet */
        size_t n_ends;               /* ever */
        bool has_unsaid_ends;        /* no worker was there */
        bool has_identity;
        bool is_looked_up;
        bool is_worker_counted;
        bool is_started; /* api has its API_START */
        bool has_drain;  /* a Drain() of this user's waits for the last session */
};

/* Whose quota a new connection is, by uid; NULL: too many users, or no memory. */
User *user_of_peer(Launcher *l, uint32_t uid);

/* Takes the connection, which quota_admit_connection() let in. */
void user_add_connection(User *u, const Peer *peer, uint32_t over, int take_fd);

/* The connection that api names, or NULL: it is not live. */
const Connection *user_find_connection(const User *u, uint64_t number);

/* For administrators, who name sessions only by their id. */
void user_note_ended(User *u, const Id *session);
bool user_has_ended(const User *u, const Id *session);

/* report.c: from api; < 0: it broke a rule. */
int report_ask(User *u, const PrivSessionReport *m) _must_check_;

/* A session more or less. */
void user_count_session(User *u, int difference);

/* A session that api knows is over. */
void user_send_end(User *u, const PrivSessionEnd *end);

void user_send(User *u, PrivMessage type, const void *body, size_t size, const int *fds, size_t n_fds);

/* What is loaded, to its worker. */
void user_send_settings(User *u);

/* A new audit writer: a new channel to it for each api worker. */
void users_attach_audit(Launcher *l);
void users_free(Launcher *l);
