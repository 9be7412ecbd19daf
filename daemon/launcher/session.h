#pragma once

/* One session's record and the kernel objects that it consists of. */

#include "daemon/isolate/netns.h"
#include "daemon/launcher/launcher.h"
#include "daemon/launcher/peer.h"
#include "daemon/launcher/user.h"

#define INBOUNDS_MAX          64U /* connections into one session that are being made */
#define INBOUNDS_PER_USER_MAX 128U

typedef enum SessionState {
        /* Objects are being made; api waits for its answer. May become RUNNING or STOPPING. */
        SESSION_STARTING = 0,
        /* Answered: init serves api. Workers may die and be replaced. */
        SESSION_RUNNING,
        /* Killed; waits for init to be reaped and the group to be empty. No way back. */
        SESSION_STOPPING,
        _SESSION_STATE_MAX,
} SessionState;

struct Session {
        Launcher *launcher;
        User *user;
        Id id;
        SessionState state;
        EndReason reason;
        uint64_t token;
        uint64_t created_usec;
        PrivSessionClaims claims;
        PrivLimits limits;
        Peer caller;
        uint32_t uid; /* of the session: never 0 */
        uint32_t gid;
        uint32_t n_kept_groups; /* ascending, each once, none of them gid */
        uint32_t kept_groups[PRIV_GROUPS_MAX];
        int plan_fd;
        int policy_fd; /* kept for audit's and the dialer's successors */
        int cgroup_fd;
        bool is_prevented; /* the kernel knows what it must not change, until the group is gone */
        int user_fd;       /* user namespace */
        bool wants_home;   /* the persistent one of that key */
        uint8_t home_key[PRIV_HOME_KEY_SIZE];
        int home_fd;
        int idmap_fd; /* user namespace of the workspace of root's sessions */
        int api_fd;   /* copy of api's end of its channel to init: for api's successors */
        int init_pidfd;
        pid_t init_pid;
        NetworkNamespace network;
        int names_fd; /* addresses that stand for names: for the worker's successors */
        PrivPool pool;
        ListLink inbounds; /* connections into it that are being made */
        unsigned n_inbounds;
        uint32_t n_publish;
        uint32_t publish[PRIV_PUBLISH_MAX];
        struct Publisher *publisher; /* NULL: no port is published */
        PrivLink *init_link;
        LoopIo *init_io;
        LoopTimer *freeze_timer; /* until the kernel has frozen or thawed all of it */
        unsigned n_freeze_polls;
        bool wants_frozen;
        bool is_freezing;     /* what is wanted is not reached yet */
        uint64_t frozen_usec; /* CLOCK_REALTIME; 0: is not frozen */
        uint32_t frozen_by;
        LoopTimer *timer; /* of the start, of the wait for the group, of api's return */
        Worker *egress;
        uint64_t egress_number; /* of it, or the last one */
        RestartGuard egress_guard;
        uint64_t egress_after_usec; /* monotonic: no egress worker before */
        LoopTimer *stop_timer; /* an administrator ends it: of the owner's worker, then the grace time */
        uint64_t grace_usec;
        bool has_grace; /* it runs: the worker has said that the end began */
        unsigned n_polls;
        bool has_no_network;
        bool is_watched; /* attempts on its masks are recorded */
        bool wants_egress;
        bool had_egress; /* once answered, requests have somewhere to go */
        bool is_row_asked;
        bool is_recorded;
        bool is_init_ready;
        bool has_guard;   /* init ends in order when it is told to */
        bool is_sweeping; /* it was told */
        bool is_over;
        uint64_t n_pings; /* that it tried, and that audit knows of */
        bool is_pinging;  /* within the last second */
        bool is_end_sent; /* whoever waits for the end has been told */
        PrivSessionCreated answer;
};

/* From api: answers with SESSION_CREATED, now or later. < 0: api broke a rule. Takes the descriptors. */
int session_create(User *u, Imsg *m) _must_check_;
int session_terminate(User *u, const PrivSessionEnd *body) _must_check_;

/* session_freeze.c: from api; < 0: it broke a rule */
int session_freeze(User *u, const PrivSessionFreeze *body) _must_check_;
int session_kill_command(User *u, const PrivSessionCommand *body) _must_check_;
/* Tells api what the session is. */
void session_send_frozen(const Session *s, int error);
/* Its end: nobody asks any more. */
void session_forget_freeze(Session *s);

/* session_life.c */
void session_fail(Session *s, int error, const char *step, const char *detail);
void session_stop(Session *s, EndReason reason);
/* It took too long, in order or killed: kills, or tells whoever waits. */
void session_hurry(Session *s);
void session_watch_init(Session *s, int *ret_error);
void session_maybe_answer(Session *s);
void sessions_on_recorded(Launcher *l, const PrivSessionOpened *body);
void sessions_adopt(User *u);
void sessions_lose_api(User *u);
void sessions_stop_all(Launcher *l);
/* When the loop has ended: those whose processes did not end in time are left to the next start. */
void sessions_free(Launcher *l);

/* No further connection into it, or for its user, is begun. */
bool inbound_is_full(const Session *s);

/* inbound.c: connections into a session. From api; < 0: it broke a rule */
int inbound_forward(User *u, const PrivSessionForward *body) _must_check_;
/* Somebody whose uid is this has connected to a published port: takes the descriptor. */
void inbound_publish(Session *s, uint32_t port, uint32_t uid, int take_fd);
/* A row for one that is refused. */
void inbound_refuse(Session *s, uint32_t port, uint32_t uid);
void inbounds_on_row(Launcher *l, const PrivInboundRow *row);
/* Those that are not handed over yet. */
void inbounds_drop(Session *s);
void inbounds_drop_all(Launcher *l);
void inbounds_forget_api(User *u);

/* publish.c: ports of the host's loopback. Opened before the session runs, heard when it does. -EADDRINUSE:
 * somebody has one of them; -EACCES: it is for root's services; -EOPNOTSUPP: nobody could tell who connects
 */
int publish_open(Session *s) _must_check_;
void publish_start(Session *s);
void publish_close(Session *s);

/* session_network.c: egress workers, and what audit and the dialer know of sessions */
int session_open_audit(Session *s, bool is_known) _must_check_;
void session_open_dialer(Session *s);
/* What api says: each family in its bounds, or none (family 0), which leaves what the settings say. */
bool session_pool_is_sound(const PrivPool *p);
void session_choose_pool(Session *s, const PrivPool *p);
void session_attach_egress(Session *s);
void sessions_attach_egress(Launcher *l);
bool sessions_wait_for_egress(const Launcher *l);
void sessions_drop_egress(Launcher *l);
void sessions_on_egress_over(Launcher *l, const PrivEgressRef *ref);
void sessions_lose_audit(Launcher *l);
void sessions_reopen_audit(Launcher *l);
void sessions_reopen_dialer(Launcher *l);
