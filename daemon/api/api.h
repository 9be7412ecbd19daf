#pragma once

/*
 * sandboxd-api: serves the varlink interfaces to one user.
 *
 * One worker knows one uid: its connections (handed over by the launcher), its sessions, nothing of anybody
 * else. It reads JSON from that user, compiles policy and the session plan, and asks the launcher for the
 * session; what it says there is a claim, which launcher, audit, init and dialer check again.
 *
 * Ownership: the Api owns clients and sessions, a session its processes. A call that waits is found again
 * through the client that made it (Client.wait); a session or process that is to answer a call knows the
 * connection's number only, so that either may go first.
 */

#include <stdbool.h>
#include <stdint.h>

#include "daemon/api/output_log.h"
#include "daemon/loop/link.h"
#include "daemon/loop/loop.h"
#include "daemon/policy/policy.h"
#include "proto/base/bundle.h"
#include "proto/base/hash.h"
#include "proto/base/list.h"
#include "proto/idl/idl.h"
#include "proto/idl/privsep.h"
#include "proto/wire/conn.h"
#include "proto/wire/json.h"

#define API_ENDED_SESSIONS_MAX 256U
#define TERMINATE_GRACE_USEC   (UINT64_C(10) * 1000 * 1000)
#define API_LABELS_MAX         64U
#define API_LABEL_KEY_MAX      63U
#define API_LABEL_VALUE_MAX    255U
#define API_POLICY_TEXT_MAX    (16U * 1024U * 1024U)
#define API_PROFILE_KEPT_MAX   (64U * 1024U)
#define API_PROCESSES_KEPT_MAX 256U
#define SESSION_ERROR          "io.sandboxd.Session."
#define POLICY_ERROR           "io.sandboxd.Policy."
#define AUDIT_ERROR            "io.sandboxd.Audit."
#define SERVICE_ERROR          "org.varlink.service."

typedef struct Api Api;
typedef struct Client Client;
typedef struct Session Session;
typedef struct Process Process;
typedef struct Request Request;
typedef struct AuditQuery AuditQuery;
typedef struct Attachment Attachment;
typedef struct LogsReader LogsReader;
typedef struct Streams Streams;
typedef struct Events Events;
typedef struct ManagerWait ManagerWait;
typedef struct Subscription Subscription;
typedef struct Relay Relay;
typedef struct SharedBlock SharedBlock;

/* The words of Runtime.state. */
typedef enum SessionState {
        SESSION_STARTING = 0, /* the launcher works on it; has no id yet */
        SESSION_RUNNING,      /* commands may be started */
        SESSION_FROZEN,       /* all processes stand, init too: nothing may be started */
        SESSION_STOPPING,     /* no further command; ends by itself */
        SESSION_EXITED,       /* over; kept for Describe() and Wait() */
        _SESSION_STATE_MAX,
} SessionState;

typedef enum ProcessState {
        PROCESS_STARTING = 0, /* its row is being written, or init works on it */
        PROCESS_RUNNING,
        PROCESS_EXITED,
        PROCESS_FAILED, /* never ran */
        _PROCESS_STATE_MAX,
} ProcessState;

typedef enum WaitKind {
        WAIT_NONE = 0,
        WAIT_CREATE,  /* Create(), Spawn() or Exec(): the session or process answers */
        WAIT_SESSION, /* Wait() without a process */
        WAIT_PROCESS, /* Wait() with one */
        WAIT_TERMINATE,
        WAIT_FREEZE,  /* Freeze() or Thaw() */
        WAIT_REQUEST, /* an equal call is under way */
        WAIT_RESULT,  /* of what an equal call has made */
        WAIT_QUERY,
        WAIT_LOGS,
        WAIT_MANAGER,
        WAIT_EVENTS,
        WAIT_RELAY,     /* another worker answers */
        WAIT_ADMIN_END, /* the launcher does */
        WAIT_FORWARD,   /* likewise */
        WAIT_REPORT,    /* likewise */
} WaitKind;

struct Process {
        ListLink link;
        Session *session;
        uint32_t number;
        ProcessState state;
        Json *command_line;
        uint64_t record_token;
        uint64_t audit_sequence; /* of its row; 0: not known yet */
        uint64_t started_usec;
        uint64_t ended_usec;
        uint64_t timeout_usec;
        uint64_t connection; /* whose call waits for the start or the end; 0: nobody's */
        bool wants_result;   /* that call asked for more */
        bool is_spawned;     /* the session was made for it and ends with it */
        bool has_pty;
        bool has_exclusive_pty; /* the client says that it reads the descriptor that it gets */
        bool is_killed;         /* by us: reason says why */
        Request *request;       /* until its result is known */
        bool is_unknown;        /* it has ended, nobody knows how */
        bool is_probed;         /* init was asked whether it is still there */
        bool is_kill_passed;    /* the launcher was asked, because init is frozen */
        bool is_hung_up;        /* it has a moment to end itself, its client is gone */
        bool is_signal;
        bool has_core;
        uint32_t status;
        EndReason reason;
        LoopTimer *timer; /* start deadline, then time-out, then kill deadline */
        PrivExec exec;
        Buf strings; /* behind it, until sent */
        int fds[3];
        size_t n_fds;
        Streams *streams; /* NULL: none that we carry */
};

struct Session {
        ListLink link;
        Api *api;
        Id id;
        char id_text[ID_TEXT_SIZE];
        uint64_t token;
        SessionState state;
        uint64_t connection; /* of the client that asked */
        bool wants_result;
        bool is_spawn;
        bool is_detached;
        bool has_remove_on_exit;
        bool is_ending; /* the launcher was told */
        bool has_end_reason;
        bool has_denials;
        struct SessionDenial *denials; /* report.c; equal ones counted together */
        size_t n_denials;
        bool knows_denials; /* audit told of them since its beginning */
        char name[PRIV_NAME_SIZE];
        char profile[PRIV_NAME_SIZE];
        char *workspace;
        char *working_directory;
        Json *context;
        Json *warnings;    /* array */
        Json *environment; /* array: what policy sets and the context adds */
        PrivLimits limits;
        uint32_t n_publish;
        PrivPool pool;
        uint32_t publish[PRIV_PUBLISH_MAX];
        uint64_t runtime_usec;
        uint64_t idle_usec;
        uint64_t timeout_usec;     /* of commands that name none */
        uint64_t output_max_bytes; /* of one command; 0: no limit */
        bool has_asked_output_max; /* the context names it, not the profile */
        bool has_warned_of_output;
        uint64_t events_before; /* the last event before its own */
        char digest[65];
        SharedBlock *block; /* until it has ended */
        bool has_home;      /* a persistent one */
        uint8_t home_key[PRIV_HOME_KEY_SIZE];
        uint32_t n_kept_groups; /* ascending */
        uint32_t kept_groups[PRIV_GROUPS_MAX];
        char cgroup[PRIV_TEXT_SIZE];
        uint32_t init_pid;
        int init_pidfd;
        PrivLink *init;
        uint64_t created_usec;
        uint64_t ended_usec;
        uint64_t frozen_usec; /* while it is frozen */
        uint32_t frozen_by;
        EndReason end_reason;
        uint32_t next_process;
        uint32_t n_processes;
        ListLink processes; /* oldest first */
        LoopTimer *runtime_timer;
        LoopTimer *idle_timer;
        LoopTimer *grace_timer;
        Request *request; /* pending, of Create() or Spawn() */
        LoopTimer *store_timer;
        size_t n_store_lines;
        bool is_stored;
        bool is_of_this_run; /* read back: the daemon is the one that made it */
};

struct Client {
        ListLink link;
        Api *api;
        PrivClient peer;
        Conn *conn;
        LoopIo *io;
        LoopTimer *timer; /* slow writers, and half-closed peers that go away */
        ConnMessage call;
        bool has_call;
        bool is_in_use; /* on the stack: closing waits */
        bool is_closing;
        bool is_drained_close; /* close once what was answered is sent */
        WaitKind wait;
        Id wait_session;
        uint32_t wait_process;
        Request *request; /* of the open call, until somebody else has it */
        bool wait_frozen; /* WAIT_FREEZE: what it is to become */
        Id *wait_ids;     /* WAIT_TERMINATE */
        size_t n_wait_ids;
        uint64_t wait_token; /* WAIT_ADMIN_END, WAIT_FORWARD, WAIT_REPORT */
        AuditQuery *query;
        Relay *relay;
        LoopTimer *output_timer; /* until the answer is read */
        bool is_output_timed;
        uint64_t n_sent;
        size_t n_buffered;
        LogsReader *logs;
        bool is_upgraded;       /* carries a stream: no varlink any more */
        Attachment *attachment; /* then */
        ManagerWait *manager;
        Subscription *subscription;
};

/* Quotas that the worker counts by itself; the launcher writes the rows. */
typedef enum ApiQuota {
        API_QUOTA_SESSIONS = 0,
        API_QUOTA_BUFFERS,
        _API_QUOTA_MAX,
} ApiQuota;

struct Api {
        Loop *loop;
        PrivLink *launcher;
        PrivLink *audit; /* NULL: nothing new may run */
        IdlSet *idl;
        PrivApiStart start;
        bool is_started;
        PrivApiSettings loaded; /* generation 0: not yet */
        Bundle *profiles;
        int null_fd;
        char boot_id[ID_TEXT_SIZE];
        uint64_t next_token;
        ListLink clients;
        ListLink sessions; /* oldest first */
        ListLink blocks;   /* compiled policies of those that run */
        ListLink orphans;  /* read back and neither adopted nor known to have ended */
        int store_fd;      /* directory */
        bool is_settled;
        Map requests;          /* by id */
        ListLink request_list; /* oldest first */
        size_t n_request_lines;
        bool is_waking;
        size_t n_sessions; /* that have not ended */
        size_t n_ended;
        LoopTimer *retention_timer;
        LoopTimer *quota_timer;
        bool is_quota_timer_set;
        uint64_t n_refused[_API_QUOTA_MAX];
        size_t n_buffered; /* bytes that connections hold */
        OutputStore outputs;
        int n_stream_fds;
        bool has_log_changes; /* the readers of logs run at the end of the turn */
        Events *events;
        bool is_draining;        /* no new sessions, says the launcher */
        LoopTimer *orphan_timer; /* runs while there is no channel to audit */
};

/* ---- server.c: connections ---- */

int client_new(Api *api, const PrivClient *peer, int take_fd) _must_check_;
void client_close(Client *c);
Client *client_find(Api *api, uint64_t connection);

/* All take the parameters (which may be NULL) and end the open call, except client_reply() with continues. A
 * peer that does not read is closed. */
void client_reply(Client *c, Json *take_parameters, bool has_continues, const int *fds, size_t n_fds);
/* The last reply in varlink; from here on the connection is the caller's, who attaches it or closes it. On
 * return < 0 it is closed. */
int client_upgrade(Client *c, Json *take_parameters) _must_check_;
void client_error(Client *c, const char *error, Json *take_parameters);
/* error(key: value) */
void client_error_string(Client *c, const char *error, const char *key, const char *value);
void client_invalid(Client *c, const char *field);
/* What a negative errno means to a client: no memory and the like. */
void client_failure(Client *c, int r);

/* ---- quota.c ---- */

/* QuotaExceeded; limit < 0: not for the caller to know. */
void client_quota_error(Client *c, const char *resource, int64_t limit);
/* Counts a refusal for the log. */
void quota_note(Api *api, ApiQuota q);
int quota_client_new(Client *c) _must_check_;
/* It is freed after this turn: what it holds does not count any more. */
void quota_client_closed(Client *c);
void quota_client_done(Client *c);
/* After each change of a client's buffers; false: close it. */
bool quota_client_is_within(Client *c);

/* The open call once more: what it waited for has come, or will not. */
void client_dispatch_again(Client *c);

/* ---- methods: they answer now or later, and return 0, or negative errno for client_failure() ---- */

typedef int (*Method)(Client *c, const Json *parameters);

Method method_find(const char *full_name);

int method_get_info(Client *c, const Json *parameters);
int method_get_interface_description(Client *c, const Json *parameters);
int method_manager_describe(Client *c, const Json *parameters);
int method_manager_diagnose(Client *c, const Json *parameters);
int method_manager_drain(Client *c, const Json *parameters);
int method_service_ping(Client *c, const Json *parameters);
int method_service_reload(Client *c, const Json *parameters);
int method_service_set_log_level(Client *c, const Json *parameters);
int method_service_get_log_level(Client *c, const Json *parameters);
int method_service_get_environment(Client *c, const Json *parameters);
int method_events_subscribe(Client *c, const Json *parameters);
int method_spawn(Client *c, const Json *parameters);
int method_create(Client *c, const Json *parameters);
int method_exec(Client *c, const Json *parameters);
int method_attach(Client *c, const Json *parameters);
int method_resize(Client *c, const Json *parameters);
int method_logs(Client *c, const Json *parameters);
int method_wait(Client *c, const Json *parameters);
int method_signal(Client *c, const Json *parameters);
int method_freeze(Client *c, const Json *parameters);
int method_thaw(Client *c, const Json *parameters);
int method_terminate(Client *c, const Json *parameters);
int method_list(Client *c, const Json *parameters);
int method_forward(Client *c, const Json *parameters);
int method_describe(Client *c, const Json *parameters);
int method_report(Client *c, const Json *parameters);
int method_remove(Client *c, const Json *parameters);
int method_prune(Client *c, const Json *parameters);
int method_policy_list(Client *c, const Json *parameters);
int method_policy_get(Client *c, const Json *parameters);
int method_policy_check(Client *c, const Json *parameters);
int method_policy_validate(Client *c, const Json *parameters);
int method_policy_describe(Client *c, const Json *parameters);
int method_policy_reload(Client *c, const Json *parameters);
int method_audit_query(Client *c, const Json *parameters);
int method_audit_verify(Client *c, const Json *parameters);

/* ---- query.c ---- */

int on_query_started(Api *api, Imsg *m) _must_check_;
AuditQuery *audit_query_free(AuditQuery *q);
/* A call that audit answers with a stream: *ret_token names it. verdict: room for that of a verification
 * (taken), or NULL: rows. */
int audit_query_new(Client *c, AuditVerification *take_verdict, uint64_t *ret_token) _must_check_;
/* verify.c: the frames of a verification. 1: one was taken; 0: more bytes are needed. */
int verification_take(Client *c, Buf *input, AuditVerification *verdict) _must_check_;
void verification_finish(Client *c, const AuditVerification *verdict);
/* The client's output has drained: go on. */
void audit_query_resume(AuditQuery *q);
void audit_queries_fail(Api *api);

/* ---- forward.c ---- */

int on_session_forwarded(Api *api, Imsg *m) _must_check_;

/* ---- relay.c: administrators, and others' sessions ---- */

/* The call is an administrator's and names, by its id, a session that is none of ours. */
bool admin_names_other(const Client *c);
/* And another worker answers it. */
bool relay_is_needed(const Client *c);
int relay_start(Client *c) _must_check_;
/* Of others, behind our own. */
int relay_list(Client *c, const Json *parameters) _must_check_;
bool relay_permits(const char *method);
/* Bytes between a client whose call was answered with an upgrade, and a socket, which is taken. */
int relay_bytes(Client *c, int take_fd) _must_check_;
Relay *relay_free(Relay *r);
/* The client's output has drained: go on. */
void relay_resume(Relay *r);
int admin_end_sessions(Client *c, const Json *parameters) _must_check_;
int on_admin_opened(Api *api, Imsg *m) _must_check_;
int on_admin_terminated(Api *api, const PrivAdminTerminated *m) _must_check_;
int on_session_stop(Api *api, const PrivSessionStop *m) _must_check_;

/* ---- values ---- */

/* NULL, 0 or false where the field is absent or null. */
const char *get_string(const Json *object, const char *key);
int64_t get_integer(const Json *object, const char *key);
bool get_boolean(const Json *object, const char *key);
/* NULL: absent or null. */
const Json *get_value(const Json *object, const char *key);

/* A reference of one's own to a borrowed value. */
Json *json_keep(const Json *value);

bool name_is_sound(const char *name);
