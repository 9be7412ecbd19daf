#pragma once

/* Rows on their way to the disk, and who waits for them. */

#include "daemon/audit/audit.h"

typedef enum PendingType {
        PENDING_REPORT = 0, /* nobody waits: kept and tried again when the disk does not take it */
        PENDING_REFUSE,     /* likewise, but egress hears of it afterwards */
        PENDING_PINGS,      /* likewise, but api workers do; count */
        PENDING_START,      /* the launcher waits */
        PENDING_LOAD,       /* likewise; token in request, load */
        PENDING_INBOUND,    /* likewise */
        PENDING_EXEC,       /* an api worker waits; token in request */
        PENDING_READ,       /* likewise; query */
        PENDING_DECISION,   /* an egress worker waits */
        PENDING_FILE,       /* api workers hear of it afterwards */
} PendingType;

typedef struct Pending {
        ListLink link;
        PendingType type;
        Row row;
        Session *session; /* a reference; NULL: a row without one */
        Api *api;         /* borrowed: forgotten when it goes */
        Egress *egress;   /* likewise */
        uint64_t queued_usec;
        uint64_t request;
        uint32_t protocol;
        uint32_t count; /* of refused datagrams or pings */
        bool wants_connection;
        bool wants_lookup; /* of a name: DNS */
        uint32_t dns_type; /* PolicyDnsType; 0: addresses */
        bool allows_tls;
        bool allows_tcp;
        bool is_by_request; /* of a tunnel: no connection yet, its requests are decided one by one */
        DecisionReason reason;
        struct Bounds *bounds;    /* owned; NULL: none */
        const PolicyCount *limit; /* of them: as many connections are open as it says; NULL: there is room */
        const char *rule_reason;
        PrivQuery *query;           /* owned */
        PrivVerify *verify;         /* owned; instead of a query */
        PrivAuditLoad *load;        /* likewise; PENDING_LOAD */
        const PrivFileDenied *file; /* PENDING_FILE: in the tail */
        int gate_fd;                /* likewise; PENDING_EXEC */
        size_t used;
        size_t room;
        char tail[]; /* what the row points to */
} Pending;

/* Room for the bytes that pending_put() copies. Takes a reference on the session. */
int pending_new(PendingType type, const Row *row, Session *session, size_t room, Pending **ret) _must_check_;
Pending *pending_free(Pending *p);
DEFINE_CLEANUP(Pending *, pending_free)

/* Copies into the tail, with a NUL behind; asserts the room. */
const char *pending_put(Pending *p, const void *data, size_t size);

/* Takes it. */
void queue_put(Audit *a, Pending *take);

/* A row for which nobody waits; strings of the row must be static or the session's, detail is copied. */
int queue_report(Audit *a, const Row *row, Session *session, const char *detail) _must_check_;

/* The close row of a connection, which is gone afterwards. bytes may be -1. */
int queue_close(Audit *a, Connection *c, const PrivDialClosed *closed, CloseReason reason) _must_check_;

/* The waiter is going: its rows are written, its undecided requests forgotten. */
void queue_forget_api(Audit *a, const Api *api);
void queue_forget_egress(Audit *a, const Egress *e);

/* One transaction for what is queued; then the answers. For the end of each turn. */
void queue_commit(void *audit);

/* Of a committed row that allows one. It lasts until queue_close(). */
int connection_new(Audit *a, const Pending *p, Connection **ret) _must_check_;
Connection *connection_free(Connection *c);
