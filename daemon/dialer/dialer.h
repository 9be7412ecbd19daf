#pragma once

/*
 * The only process that makes connections to the outside. It acts on committed decisions from audit, matches
 * them once more against the session's policy, resolves once, judges every address, and connects to a judged
 * one. It keeps a duplicate of each descriptor that it hands to an egress worker: it, not egress, ends
 * connections and counts their bytes.
 *
 * Dial: from the decision until the connection stands or has failed. Connection: from then until the egress
 * worker says that it is done with it (a connection that both ends closed before stays listed without
 * descriptor, so that a number which was never given out is known as such).
 */

#include <stdbool.h>
#include <stdint.h>

#include "daemon/dialer/local.h"
#include "daemon/dialer/resolve.h"
#include "daemon/loop/link.h"
#include "daemon/loop/loop.h"
#include "daemon/policy/compiled.h"
#include "proto/base/hash.h"
#include "proto/base/list.h"

#define DIALER_CONNECTIONS_MAX 16384U /* of one session */
#define DIALER_CONNECTIONS_MIN 256U   /* of each, whatever others have */
#define DIALER_INBOUND_MAX     1024U  /* in a session with so many, nobody more is let in */
#define DIALER_DIALS_MAX       256U   /* of one session */
#define DIALER_QUESTIONS_MAX   256U   /* of one session, about names */
#define DIALER_SESSIONS_MAX    8192U
#define DIAL_ADDRESSES_MAX     16U

typedef struct Dialer Dialer;

typedef struct Session {
        Dialer *dialer;
        Id id;
        const PolicyBlock *policy;
        PolicyShare *policy_share; /* holds it */
        PrivLink *egress;
        uint64_t egress_number;
        ListLink dials;
        Map connections; /* sequence -> Connection */
        Id token;        /* goes with each that comes back, until the worker has read it */
        size_t n_back;   /* that went with it */
        size_t n_dials;
        size_t n_attempts; /* descriptors of its dials */
        ListLink questions;
        size_t n_questions;
} Session;

typedef struct Attempt {
        struct Dial *dial;
        int fd;
        LoopIo *io;
        PrivAddress address;
} Attempt;

typedef struct Dial {
        Session *session;
        ListLink link;
        PrivDial order;
        PolicyRequest request; /* host points into order */
        uint64_t expires_usec; /* 0: never */
        Lookup *lookup;
        LoopTimer *deadline;
        LoopTimer *stagger;
        PrivAddress addresses[DIAL_ADDRESSES_MAX]; /* judged */
        size_t n_addresses;
        size_t n_started;
        size_t n_failed;
        CloseReason last_failure;
        uint32_t port;   /* that is connected to: the order's, or the proxy's */
        bool is_proxied; /* the addresses are the proxy's */
        size_t n_asked;  /* bytes of the question */
        size_t n_peeked; /* bytes of its answer, so far */
        Attempt attempts[DIAL_ADDRESSES_MAX];
} Dial;

typedef struct Connection {
        Session *session;
        uint64_t sequence;
        int fd; /* -EBADF once it has been reported */
        uint64_t started_usec;
        uint64_t expires_usec; /* real time; 0: never */
        ListLink expiring;
        PrivAddress address;
        uint32_t port;
        uint64_t proxy_sent; /* what the proxy was told, and said */
        uint64_t proxy_received;
        bool is_inbound; /* its socket is inside the session */
        unsigned n_parked;
        bool is_parked;   /* the worker has no descriptor of it now */
        bool is_stirring; /* and was told that it should */
} Connection;

struct Dialer {
        Loop *loop;
        PrivLink *launcher;
        PrivLink *audit;
        LoopTimer *orphan; /* set while there is no audit any more */
        Resolver *resolver;
        LocalAddresses *local;
        PrivProxy proxy;
        Map sessions; /* id -> Session */
        PolicyShelf policies;
        int files_max; /* descriptors of connections are below: the others are for the launcher's messages */
        size_t n_connections; /* that stand, of all sessions */
        size_t n_attempts;    /* to connect, likewise */
        int watch_fd; /* an epoll set of its own: reports the end of connections that we do not read */
        LoopIo *watch_io;
        int clock_fd; /* rings when the first of those in `expiring` is due */
        LoopIo *clock_io;
        ListLink expiring;
        uint64_t rings_usec;  /* when; 0: not at all */
        uint64_t latest_usec; /* of clock_latest_usec(): what has expired stays so */
};

/* session.c */
int session_open(Dialer *d, const Id *id, int policy_fd) _must_check_;
void session_close(Session *s, CloseReason reason);
Session *session_find(Dialer *d, const Id *id);
/* How many connections it may have just now: twice of what is left for all. */
size_t session_share(const Session *s);
/* What it has of that. */
size_t session_used(const Session *s);
/* May it try one more address beside another? Only as long as it has less than is left for all. */
bool session_has_room(const Session *s);
int session_attach(Session *s, uint64_t number, int take_fd) _must_check_;
/* Ends all dials and connections. */
void session_cut(Session *s, CloseReason reason);

/* dial.c */
void dial_start(Session *s, const PrivDial *order);
void dial_cancel(Dial *dial, CloseReason reason);

/* dial.c, for proxy.c: the attempt has led to a connection. Frees the dial, as may the next. */
void dial_hand_over(Dial *d, Attempt *a);
/* Addresses to connect to, judged or the proxy's. */
void dial_addresses(Dial *d, const PrivAddress *addresses, size_t n);

/* proxy.c: connections by way of another proxy */
/* -EINVAL: not sound. */
int proxy_set(Dialer *d, const PrivProxy *p) _must_check_;
/* Is it for the proxy to connect to this? Then it resolves the name, too. */
bool proxy_serves(const Dialer *d, const PolicyBlock *policy, const PolicyRequest *q);
void proxy_start(Dial *d);
/* The connection to the proxy stands. */
int proxy_ask(Attempt *a) _must_check_;

/* question.c: whether a name exists. Answered always, but for a session without a worker. */
void question_start(Session *s, const PrivResolve *order);
/* The worker that asked is gone. */
void questions_drop(Session *s);

/* connection.c: takes the descriptor, also on error; -EMFILE: there are too many */
int dialer_check_file(const Dialer *d, int take_fd, int *ret_fd) _must_check_;
/* Lists and watches fd, which is the connection's from then on: number, address, port and expiry are taken
 * from `what`. On error it is the caller's to close. */
int connection_add(Session *s, const Connection *what, int fd) _must_check_;
int connection_new(Session *s, const Dial *dial, int take_fd, const PrivAddress *address) _must_check_;
/* Cuts it for everybody and reports it, unless that was done. It stays listed. */
void connection_end(Connection *c, CloseReason reason);
Connection *connection_free(Connection *c);
int connection_watch_open(Dialer *d) _must_check_;

/* inbound.c: into a session, connected by the launcher; s may be NULL. Takes the descriptors. */
void inbound_take(Dialer *d, Session *s, const PrivDialerInbound *m, int take_fds[2]);

/* park.c: what rests. -EPROTO: not its connection, or not so, or so many that it cannot have read. */
int park_on_park(Session *s, const PrivConnectionRef *m) _must_check_;
int park_on_wanted(Session *s, const PrivConnectionReturn *m) _must_check_;
/* It has something to read, or is over. */
void park_stirs(Connection *c);

/* expiry.c: connections end with the rule that allowed them. */
int expiry_open(Dialer *d) _must_check_;
void expiry_done(Dialer *d);
/* Its end is near, or was: -ETIME. */
int expiry_watch(Connection *c) _must_check_;

/* main.c */
void dialer_report_closed(Dialer *d, const PrivDialClosed *closed);
