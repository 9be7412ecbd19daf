#pragma once

/*
 * The audit worker: it decides about requests and writes down what happened, in that order of effect: a row
 * is committed before anybody hears of the decision.
 *
 * Handlers only queue rows (queue.h). At the end of each turn of the loop all of them go into one
 * transaction; after the commit the answers are sent. If the commit fails, everybody who waits is denied,
 * and rows of what has happened already (exits, ends, closes) stay queued.
 *
 * Who speaks is known from the channel. What it says are claims: an api worker writes for sessions of its
 * own uid, an egress worker for its one session, the dialer about connections that are open.
 */

#include "daemon/audit/name_budget.h"
#include "daemon/audit/row.h"
#include "daemon/audit/store.h"
#include "daemon/loop/link.h"
#include "daemon/policy/compiled.h"
#include "proto/base/hash.h"
#include "proto/base/list.h"

typedef struct Audit Audit;
typedef struct Readers Readers;
typedef struct Quotas Quotas;

typedef struct Session {
        Id id;
        char id_text[ID_TEXT_SIZE];
        unsigned n_refs; /* the table, queued rows, open connections */
        RowSession row;  /* its strings are in text */
        RowPolicy policy_row;
        const PolicyBlock *policy; /* NULL: known from the last run only */
        PolicyShare *policy_share; /* holds it */
        struct Egress *egress;
        unsigned n_batch; /* rows of it in the commit under way */
        uint64_t batch;
        uint64_t ended_usec; /* CLOCK_MONOTONIC; 0: lives */
        unsigned n_commands; /* that began and have not ended, as far as is known: each may have one exit */
        bool has_no_network;
        Map counts;            /* of rules that limit connections */
        NameBudget names;      /* that it chose itself */
        bool has_former_names; /* a former worker let some through: not in names yet */
        struct {
                uint64_t since_usec; /* CLOCK_MONOTONIC: begin of the second that is counted */
                unsigned n;          /* told in it */
                PrivDenied *held;    /* for the end of the second; NULL: none */
        } denials;
        bool is_leftover; /* of the last run: ends unless the launcher knows it */
        char *text;
} Session;

typedef struct Api {
        ListLink link;
        Audit *audit;
        PrivLink *channel;
        uint32_t uid;
        bool sees_all;
} Api;

typedef struct Egress {
        ListLink link;
        Audit *audit;
        PrivLink *channel;
        Session *session;
        PrivEgressRef ref; /* what the launcher calls it */
        uint64_t number;   /* never used twice: its requests are not those of its successor */
        unsigned n_undecided;
        unsigned n_held;
} Egress;

/* From the commit of an allowed connect to its close or refuse row. */
typedef struct Connection {
        uint64_t sequence;
        uint64_t since_usec; /* CLOCK_REALTIME */
        uint64_t request;
        uint64_t egress; /* number of the one that asked */
        Session *session;
        struct Bounds *bounds; /* NULL: none */
        int64_t port;
        const char *entry;    /* static */
        const char *protocol; /* static */
        const char *host;     /* NULL: a literal; else in text */
        char text[];
} Connection;

struct Audit {
        Loop *loop;
        Store *store;
        Readers *readers;
        Quotas *quotas;
        PrivLink *launcher;
        PrivLink *dialer;
        PrivLink *watch;
        Map sessions;
        PolicyShelf policies;
        Map connections;
        ListLink apis;
        ListLink egresses;
        ListLink reports;    /* rows of what happened, starts and execs: first */
        ListLink decisions;  /* in the order they came */
        ListLink held;       /* of held.h: not queued yet */
        ListLink committing; /* the batch under way */
        struct {
                bool is_awaited;    /* somebody waits for one of the rows that are queued */
                bool has_rested;    /* a moment has passed for this commit */
                size_t n_decisions; /* since the last commit */
                size_t n_last;      /* in the last commit */
        } gather;                   /* of gather.h */
        size_t n_reports;
        uint64_t batch;
        uint64_t n_egresses; /* ever attached: numbers them */
        LoopTimer *retry;
        LoopTimer *hold;
        LoopTimer *sweep;
        LoopTimer *sign;
        bool is_sweep_set;
        bool is_sign_set;
        bool is_sign_failing;
        uint64_t started_usec; /* CLOCK_MONOTONIC */
        uint64_t latest_usec;  /* of clock_latest_usec(): what has expired stays so */
        uint64_t n_lost;       /* rows dropped, and decisions denied without a row, since the last gap row */
        uint64_t lost_first_usec;
        uint64_t lost_last_usec;
        char gap_detail[PRIV_TEXT_SIZE];
        bool is_failing;
        const char *directory; /* borrowed */
        LoopTimer *denials;
        bool is_denials_set;
        struct {
                uint64_t at_usec;
                uint64_t free_bytes;
                int error;
        } probe;
};

/* 0: none. */
typedef struct QuotaSpec {
        uint32_t rows_per_second;
        uint32_t share_percent;
} QuotaSpec;

typedef struct AuditSpec {
        StoreSpec store;
        QuotaSpec quota;
        int launcher_fd;        /* taken */
        uint64_t leftover_usec; /* how long the launcher has to name sessions of the last run that live on */
} AuditSpec;

/* Opens the store, recovers, commits the first row, says AUDIT_READY, and serves until the launcher's
 * channel closes. readers: taken. */
int audit_run(const AuditSpec *spec, Readers *take_readers) _must_check_;

/* After a commit: a checkpoint, at once when there are many new rows, else within a second. */
void audit_sign_soon(Audit *a);

/* session.c. The reference that comes back is the table's; *claims have been checked. */
int session_new(Audit *a, const PrivSessionOpen *open, int policy_fd, Session **ret) _must_check_;
/* A session of the last run that the launcher kept; its row stays as it is. */
int session_new_known(Audit *a, const RowSession *row, const PrivSessionOpen *open, int policy_fd,
                      Session **ret) _must_check_;
int session_new_leftover(Audit *a, const RowSession *row, Session **ret) _must_check_;
Session *session_find(Audit *a, const Id *id);
Session *session_ref(Session *s);
Session *session_unref(Session *s);
DEFINE_CLEANUP(Session *, session_unref)

/* Takes it out of the table. */
void session_drop(Audit *a, Session *s);

/* names.c: may it ask for this name? What a former worker let through is read from the log when that is
 * first of interest: after a restart all sessions are waited for at once, and most choose no names. */
bool session_take_name(Audit *a, Session *s, const char *host);

/* decide.c */
int egress_attach(Audit *a, Session *s, const PrivEgressRef *ref, int take_fd) _must_check_;
Egress *egress_free(Egress *e);
int dialer_attach(Audit *a, int take_fd) _must_check_;
void dialer_lose(Audit *a);

/* After the commit of a decision: makes the connection and tells dialer and egress. */
struct Pending;
void decision_release(Audit *a, struct Pending *p);
void decision_fail(struct Pending *p);
void refuse_release(struct Pending *p);

/* match.c: the verdict and its reason; p has the row and what is wanted. */
void decision_match(struct Pending *p, const PrivDecide *d);
/* Denied for the limit that it has. */
void decision_reach_limit(struct Pending *p);

/* record.c */
int api_attach(Audit *a, const PrivApiAttach *attach, int take_fd) _must_check_;
Api *api_free(Api *api);
void record_release(struct Pending *p, int error);
void read_release(Audit *a, struct Pending *p, int error);

/* tell.c: what api workers hear unasked. Denials are counted together beyond so many a second; flush sends
 * what is held back. */
void denials_tell(Audit *a, Session *s, const PrivDenied *d);
void denials_flush(Audit *a, Session *s);
void gap_tell(Audit *a, uint64_t n_rows, uint64_t first_usec, uint64_t last_usec);
void state_answer(Api *api, const PrivAuditStateAsk *ask);

/* launcher.c */
int launcher_attach(Audit *a, int take_fd) _must_check_;
void start_release(Audit *a, struct Pending *p, int error);
void load_release(Audit *a, struct Pending *p, int error);

/* pings.c: those that sessions tried, of which the launcher tells. < 0: it broke the rules */
int pings_on_refused(Audit *a, const PrivAuditPings *m) _must_check_;
void pings_release(Audit *a, const struct Pending *p);

/* file.c: attempts on denied paths, of which the watch tells. */
int watch_attach(Audit *a, int take_fd) _must_check_;
void file_release(Audit *a, struct Pending *p, int error);

/* inbound.c: connections into a session, of which the launcher tells. < 0: it broke the rules */
int inbound_on_ask(Audit *a, const PrivAuditInbound *m) _must_check_;
int inbound_on_over(Audit *a, const PrivInboundOver *m) _must_check_;
void inbound_release(Audit *a, struct Pending *p, int error);
int sweep_arm(Audit *a, uint64_t after_usec) _must_check_;
int session_end(Audit *a, Session *s, uint32_t reason) _must_check_;
