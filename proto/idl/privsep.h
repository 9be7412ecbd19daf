#pragma once

/*
 * Bodies of the private messages (privsep.def). All are plain structs of fixed size: the two ends are built
 * from one tree and run on one machine. Strings end with a NUL inside their array; a receiver checks that
 * with PRIV_STRING_OK() before it reads one. Every field is a claim of the sender, whose identity is the
 * channel.
 */

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "proto/base/id.h"
#include "proto/base/macro.h"

#define PRIV_NAME_SIZE        64U  /* names of sessions, profiles, users, rules */
#define PRIV_HOST_SIZE        256U /* canonical host, at most 253 bytes */
#define PRIV_PATH_SIZE        4096U
#define PRIV_TEXT_SIZE        256U
#define PRIV_GROUPS_MAX       64U
#define PRIV_EXEC_MAX         (320U * 1024U)
#define PRIV_EXEC_STRINGS_MAX 8192U
#define PRIV_RECORD_EXEC_MAX  (64U * 1024U)
#define PRIV_DECIDE_MAX       (sizeof(PrivDecide) + 16U * 1024U)
#define PRIV_RESOLVERS_MAX    4U
#define PRIV_PUBLISH_MAX      16U /* ports of one session */

#define PRIV_STRING_OK(field) (memchr((field), '\0', sizeof(field)) != NULL)

/* ---- enums that cross processes ---- */

typedef enum Verdict {
        VERDICT_DENY = 0,
        VERDICT_ASK = 1,
        VERDICT_ALLOW = 2,
} Verdict;

/* Which door a request came through. */
typedef enum Entry {
        ENTRY_NONE = 0,
        ENTRY_CONNECT,
        ENTRY_ABSOLUTE,
        ENTRY_SOCKS4,
        ENTRY_SOCKS5,
        ENTRY_TRANSPARENT,
        ENTRY_DNS,
        ENTRY_UDP,
        ENTRY_FORWARD, /* into the session, as is the next */
        ENTRY_PUBLISH,
        ENTRY_ICMP,
        _ENTRY_MAX,
} Entry;

typedef enum Protocol {
        PROTOCOL_ANY = 0, /* CONNECT before the first byte: http or tls */
        PROTOCOL_HTTP,
        PROTOCOL_TLS,
        PROTOCOL_TCP,
        PROTOCOL_UDP,
        PROTOCOL_DNS,
        PROTOCOL_ICMP,
        _PROTOCOL_MAX,
} Protocol;

/* Why a session or a command ended: the words of the interface. */
typedef enum EndReason {
        END_EXITED = 0,
        END_SIGNAL,
        END_TIMEOUT,
        END_RUNTIME,
        END_IDLE,
        END_OOM,
        END_OUTPUT_LIMIT,
        END_TERMINATED,
        END_CLIENT_GONE,
        END_DAEMON_RESTART,
        END_SETUP_FAILED,
        _END_REASON_MAX,
} EndReason;

/* Why a decision is as it is, where no rule says so. */
typedef enum DecisionReason {
        REASON_RULE = 0,    /* a rule matched */
        REASON_DEFAULT,     /* the policy's default */
        REASON_NO_APPROVER, /* ask, and nobody may answer */
        REASON_MALFORMED,   /* the request breaks the grammar of its door */
        REASON_ADDRESS,     /* no address of the name may be connected to */
        REASON_AUDIT,       /* the row could not be written in time */
        REASON_LIMIT,       /* a quota of this session */
        REASON_NO_NETWORK,
        REASON_PATH,            /* rules look at paths, and this one is not clear */
        REASON_MAX_CONNECTIONS, /* the rule allows so many at a time */
        REASON_PROTOCOL,        /* no rule opens anything but TCP */
        REASON_OWNER,           /* who connects to a port of the session is its owner, or not */
        _REASON_MAX,
} DecisionReason;

/* Why a connection was not made, or how it ended. */
typedef enum CloseReason {
        CLOSE_DONE = 0, /* both sides closed */
        CLOSE_CLIENT,   /* the program inside closed or reset */
        CLOSE_SERVER,
        CLOSE_RESOLVE, /* the name does not exist or did not resolve */
        CLOSE_TIMEOUT, /* no answer while connecting */
        CLOSE_REFUSED,
        CLOSE_UNREACHABLE,
        CLOSE_ERROR,
        CLOSE_IDLE,
        CLOSE_EGRESS_GONE,
        CLOSE_SESSION_ENDED,
        CLOSE_POLICY,
        CLOSE_DAEMON_RESTART,
        CLOSE_UNUSED,     /* handed over, no byte sent */
        CLOSE_EXPIRED,    /* the rule that allowed it is void */
        CLOSE_MAX_UPLOAD, /* of its rule */
        CLOSE_MAX_DOWNLOAD,
        CLOSE_PROXY, /* the proxy of the daemon's settings does not connect */
        _CLOSE_REASON_MAX,
} CloseReason;

/* What decided about the rows of a kind: numbers of the audit schema. */
typedef enum AuditKind {
        AUDIT_KIND_SESSION = 1,
        AUDIT_KIND_NET,
        AUDIT_KIND_DNS,
        AUDIT_KIND_FILE,
        AUDIT_KIND_CREDENTIAL,
        AUDIT_KIND_GIT,
        AUDIT_KIND_APPROVAL,
        AUDIT_KIND_POLICY,
        AUDIT_KIND_LIMIT,
        AUDIT_KIND_ADMIN,
        _AUDIT_KIND_MAX,
} AuditKind;

/* NULL for a number outside the enum. */
const char *entry_to_string(uint32_t v);
const char *protocol_to_string(uint32_t v);
const char *end_reason_to_string(uint32_t v);
/* -EINVAL: no such reason, or NULL. */
int end_reason_from_string(const char *s);
const char *decision_reason_to_string(uint32_t v);
const char *close_reason_to_string(uint32_t v);
const char *verdict_to_string(uint32_t v);
const char *audit_kind_to_string(uint32_t v);
/* The number of a name, or -EINVAL. */
int audit_kind_from_string(const char *s);
int verdict_from_string(const char *s);

typedef struct PrivAddress {
        uint32_t family;   /* 0: none, 4, 6 */
        uint8_t bytes[16]; /* network order; 4 bytes for family 4 */
} PrivAddress;

typedef struct PrivPrefix {
        PrivAddress address;
        uint32_t length;
} PrivPrefix;

/* Addresses that stand for names inside a session. */
typedef struct PrivPool {
        PrivPrefix v4;
        PrivPrefix v6;
} PrivPool;

#define PRIV_NAMES_MAX   65536U               /* of one session */
#define PRIV_NAMES_BYTES (4U * 1024U * 1024U) /* the memory that holds them */

/* ---- launcher <-> audit ---- */

typedef struct PrivAuditReady {
        uint64_t head_sequence;
} PrivAuditReady;

typedef struct PrivApiAttach {
        uint32_t uid;
        uint32_t sees_all; /* root and sandboxd-auditors: rows of other users too */
} PrivApiAttach;

typedef struct PrivSessionRef {
        Id session;
} PrivSessionRef;

/* One of the workers that a session has had. */
typedef struct PrivEgressRef {
        Id session;
        uint64_t number; /* the launcher's, never used twice */
} PrivEgressRef;

/* What api claims about a session that it asks for; kept in the audit as it is. */
typedef struct PrivSessionClaims {
        char name[PRIV_NAME_SIZE];
        char profile[PRIV_NAME_SIZE];
        char agent[PRIV_NAME_SIZE * 2];
        char agent_session[PRIV_NAME_SIZE * 2];
        char workspace[PRIV_PATH_SIZE];
        uint32_t is_detached;
        Id request; /* of the call that wants it; zero: none */
} PrivSessionClaims;

/* fds: the compiled policy (sealed). Answered by AUDIT_SESSION_OPENED once the row is committed. */
typedef struct PrivSessionOpen {
        Id session;
        uint32_t uid;            /* owner */
        uint32_t is_known;       /* row exists already: after a restart of audit */
        uint32_t has_no_network; /* every request is denied */
        char user[PRIV_NAME_SIZE];
        char cgroup[PRIV_TEXT_SIZE];
        char degraded[PRIV_TEXT_SIZE * 2];
        PrivSessionClaims claims;
} PrivSessionOpen;

typedef struct PrivSessionOpened {
        Id session;
        int32_t error; /* 0 or negative errno */
        uint32_t padding;
        uint64_t sequence;
} PrivSessionOpened;

typedef struct PrivSessionEnd {
        Id session;
        uint32_t reason; /* EndReason */
        uint32_t padding;
} PrivSessionEnd;

/* A row without a session of its own: refused starts, loads of policy, start and stop of the daemon. */
typedef struct PrivReport {
        uint32_t kind; /* AuditKind: session, policy, limit or admin */
        uint32_t uid;
        uint32_t is_denial; /* verdict deny instead of none */
        uint32_t count;     /* from api, of kind limit: refusals since the last one; else 0 */
        char action[16];
        char reason[PRIV_TEXT_SIZE];
        char detail[PRIV_TEXT_SIZE * 2];
        Id session; /* that somebody else acted on; all zero: none */
} PrivReport;

/* What audit goes by, from the daemon's settings. */
typedef struct PrivAuditSettings {
        uint64_t segment_bytes_max;
        uint64_t retention_bytes;
        uint32_t rows_per_second;
        uint32_t rows_share_percent;
} PrivAuditSettings;

/* Settings and profiles were read anew and are about to count: the row of it. Answered by AUDIT_LOADED
 * (PrivRecorded) once it is committed; from then on these settings are audit's. */
typedef struct PrivAuditLoad {
        uint64_t token;
        uint64_t deadline_usec; /* CLOCK_MONOTONIC: not to be begun later */
        PrivAuditSettings settings;
        uint32_t uid; /* whose wish it was */
        uint32_t padding;
        char detail[PRIV_TEXT_SIZE];
} PrivAuditLoad;

/* ---- launcher <-> dialer ---- */

typedef struct PrivServer {
        PrivAddress address;
        uint32_t port;
} PrivServer;

/* fds: the host's hosts table as sealed memfd: lines "ADDRESS NAME", canonical (may be a single newline). */
typedef struct PrivResolver {
        uint32_t n_servers;
        PrivServer servers[PRIV_RESOLVERS_MAX];
} PrivResolver;

#define PRIV_PROXY_BYPASS_MAX 16U

/* A proxy that connections to the outside go through, by CONNECT; port 0: there is none. bypass: names that
 * are connected to directly, "name" or "*.name". */
typedef struct PrivProxy {
        uint32_t port;
        uint32_t n_bypass;
        PrivAddress address; /* family 0: host has it */
        uint32_t padding;
        char host[PRIV_HOST_SIZE];
        char bypass[PRIV_PROXY_BYPASS_MAX][PRIV_HOST_SIZE];
} PrivProxy;

/* ---- launcher <-> egress ---- */

/* Sockets inside the session's network namespace. */
typedef enum PrivEgressSocket {
        EGRESS_PROXY4 = 0, /* listeners of the explicit proxy */
        EGRESS_PROXY6,
        EGRESS_DOOR4, /* what every other connection reaches; its own address is what the program asked for
                       */
        EGRESS_DOOR6,
        EGRESS_LOG,  /* netlink, to read: the kernel tells of each datagram that it refuses */
        EGRESS_RING, /* or a BPF ring of PrivRefused */
        _EGRESS_SOCKET_MAX,
} PrivEgressSocket;

/* A datagram that the program at the look-up of sockets refused. */
typedef struct PrivRefused {
        uint32_t family; /* AF_INET or AF_INET6; the other's address is 0 */
        uint32_t port;
        uint32_t v4; /* network order, as the next */
        uint32_t v6[4];
        uint32_t padding;
} PrivRefused;

/* Of the ring, at least a page, which is more on some machines. */
#define PRIV_RING_BYTES_MIN 16384U

/* fds: audit, dialer, then those sockets that there are, in their order */
typedef struct PrivEgressStart {
        uint32_t sockets;    /* bits 1 << PrivEgressSocket */
        uint32_t is_offline; /* --no-network: answer every request with a denial */
} PrivEgressStart;

/* DNS inside. fds: the table of names (PRIV_NAMES_BYTES, sealed against another size), then the sockets for
 * datagrams. Streams come through the doors. */
typedef struct PrivEgressDns {
        PrivPool pool;
} PrivEgressDns;

/* ---- launcher <-> api ---- */

/* What NSS says about a user, asked by a child. */
typedef struct PrivIdentity {
        uint32_t uid;
        uint32_t gid;
        uint32_t n_groups;
        uint32_t groups[PRIV_GROUPS_MAX];
        char group_names[PRIV_GROUPS_MAX][PRIV_NAME_SIZE]; /* "": it has none */
        char user[PRIV_NAME_SIZE];
        char group[PRIV_NAME_SIZE];
        char home[PRIV_PATH_SIZE];
        char shell[PRIV_TEXT_SIZE];
} PrivIdentity;

/* Daemon settings, compiled by a child from CONFIG/sandboxd.json. */
typedef struct PrivSettings {
        uint64_t ask_timeout_usec;
        uint64_t retention_usec;  /* what is known of sessions that have ended */
        uint32_t connections_max; /* of all users but root, as the other totals; root's own number is at most
                                     this */
        uint32_t connections_per_user_max;
        uint32_t connects_per_second; /* of one user */
        uint32_t sessions_max;
        uint32_t sessions_per_user_max;
        uint32_t starts_per_second;  /* of one user, failed ones too */
        uint32_t users_max;          /* who have a worker at the same time */
        uint32_t rows_per_second;    /* of one user in the log */
        uint32_t rows_share_percent; /* of the log, that one user's rows may take in a day */
        uint32_t root_session_uid;   /* the uid that sessions of root run as; never 0 */
        uint32_t n_servers;
        uint32_t needs_prevention; /* no session where the kernel does not prevent changes of protected paths
                                    */
        uint64_t buffer_per_user_bytes; /* what a user's connections may have unread and unsent */
        PrivServer servers[PRIV_RESOLVERS_MAX];
        uint64_t audit_segment_bytes_max;
        uint64_t audit_retention_bytes;
        PrivPool pool;
        PrivProxy proxy;
} PrivSettings;

#define PRIV_DIGEST_SIZE     32U
#define PRIV_DIAGNOSTICS_MAX 16U

/* What is wrong with a text: for people. */
typedef struct PrivDiagnostic {
        uint32_t severity; /* PolicySeverity: info, warning, failure */
        uint32_t line;     /* 0: none */
        uint32_t column;
        uint32_t padding;
        char file[PRIV_TEXT_SIZE];
        char key[PRIV_TEXT_SIZE]; /* "": none */
        char message[PRIV_TEXT_SIZE * 2];
} PrivDiagnostic;

/* What the child says of the settings and profiles that it was given. */
typedef struct PrivLoaded {
        uint32_t has_settings; /* they are valid, and here */
        uint32_t is_valid;     /* so are all profiles, and nothing else is wrong */
        uint32_t n_diagnostics;
        uint32_t padding;
        uint8_t digest[PRIV_DIGEST_SIZE]; /* over all texts */
        PrivSettings settings;
        PrivDiagnostic diagnostics[PRIV_DIAGNOSTICS_MAX];
} PrivLoaded;

/* fds: the profiles (Bundle). Behind API_START, and when others were loaded. */
typedef struct PrivApiSettings {
        uint64_t generation; /* from 1 */
        uint64_t loaded_usec;
        uint8_t digest[PRIV_DIGEST_SIZE];
        PrivSettings settings;
} PrivApiSettings;

/* fds: the channel to audit. */
/* Configuration, state, runtime. */
#define PRIV_FOLDERS_MAX 3

typedef struct PrivApiStart {
        PrivIdentity identity;
        Id instance;
        Id state;
        uint64_t started_usec;
        uint32_t session_uid; /* what sessions of this user run as: its uid, or root's replacement */
        uint32_t session_gid;
        uint32_t controllers; /* bits of PrivController that this machine has */
        uint32_t is_draining; /* as in PrivApiState */
        uint32_t log_level;
        uint32_t padding;
        char degraded[PRIV_TEXT_SIZE * 2];              /* comma-separated layers that this kernel lacks */
        char folders[PRIV_FOLDERS_MAX][PRIV_TEXT_SIZE]; /* the daemon's own: no workspace touches them */
} PrivApiStart;

enum PrivController {
        CONTROLLER_MEMORY = 1 << 0,
        CONTROLLER_PIDS = 1 << 1,
        CONTROLLER_CPU = 1 << 2,
        CONTROLLER_IO = 1 << 3,
};

enum PrivOver {
        PRIV_OVER_NONE = 0,
        PRIV_OVER_OWN, /* beyond the user's quota */
        PRIV_OVER_ALL, /* all users together have too many */
};

/* fds: the connection. */
typedef struct PrivClient {
        uint64_t connection;
        uint32_t pid;
        uint32_t uid;
        uint32_t gid;
        uint32_t is_admin;
        uint32_t is_auditor;
        uint32_t over; /* PrivOver; but for none: answer the first call with QuotaExceeded, then close */
        uint32_t is_relayed; /* an administrator's calls about sessions of this worker's user, whose uid is
                                uid */
        uint32_t padding;
} PrivClient;

typedef struct PrivClientClosed {
        uint64_t connection;
} PrivClientClosed;

/* What DESIGN asks of a kernel, as the launcher tried it when it started. */
typedef enum PrivProbeName {
        PROBE_LANDLOCK = 0, /* value: the ABI */
        PROBE_LANDLOCK_SCOPING,
        PROBE_OPENAT2,
        PROBE_MOUNT_API,
        PROBE_CLONE_INTO_CGROUP,
        PROBE_CGROUP_KILL,
        PROBE_SECCOMP,
        PROBE_USER_NAMESPACE,
        PROBE_NETWORK_NAMESPACE,
        PROBE_REDIRECT, /* value: PrivRedirect */
        PROBE_PEER_PIDFD,
        PROBE_PASS_RIGHTS,
        PROBE_CGROUP_MEMORY,
        PROBE_CGROUP_PIDS,
        PROBE_CGROUP_CPU,
        PROBE_CGROUP_IO,
        PROBE_FANOTIFY, /* names of who makes what: the guard of protected paths */
        PROBE_FUSE,
        PROBE_BPF_LSM,
        PROBE_FEXIT,
        PROBE_PINGS,
        PROBE_DEVICES,
        _PROBE_MAX,
} PrivProbeName;

enum PrivRedirect {
        REDIRECT_SK_LOOKUP = 1,
        REDIRECT_TPROXY = 2,
        REDIRECT_LOGS = 4, /* a flag beside the others: refused datagrams are recorded */
};

/* The value of PROBE_BPF_LSM where it does not work: how far it got. */
enum PrivPrevention {
        PREVENTION_KERNEL = 0, /* the kernel asks no such program */
        PREVENTION_PROGRAM,    /* sandboxd-bpf is not installed: it was left out of the build */
        PREVENTION_LOAD,       /* it failed */
        PREVENTION_TRIAL,      /* all is loaded, and nothing was refused */
};

typedef struct PrivProbe {
        int32_t error; /* 0: it works; else what the kernel said */
        uint32_t value;
} PrivProbe;

/* What a client wants of the daemon itself; who may is decided by the launcher, from the connection. */
typedef enum PrivManagerVerb {
        MANAGER_STATUS = 0,
        MANAGER_DRAIN,        /* admins */
        MANAGER_DRAIN_CANCEL, /* admins */
        MANAGER_RELOAD,       /* admins */
        MANAGER_RELOAD_ROOT,  /* the same for root, like what follows */
        MANAGER_SET_LOG_LEVEL,
        MANAGER_ENVIRONMENT,
        _MANAGER_VERB_MAX,
} PrivManagerVerb;

typedef struct PrivManagerAsk {
        uint64_t token;
        uint64_t connection; /* on whose behalf; must be live */
        uint32_t verb;
        uint32_t value; /* the log level */
} PrivManagerAsk;

#define PRIV_ENVIRONMENT_MAX    (64U * 1024U)
#define PRIV_MANAGER_ANSWER_MAX (sizeof(PrivManagerAnswer) + PRIV_ENVIRONMENT_MAX)

/* Behind it, for MANAGER_ENVIRONMENT: variables, each with its NUL; for a reload that was tried: a
 * PrivReload. */
typedef struct PrivManagerAnswer {
        uint64_t token;
        int32_t error; /* -EPERM: not for this caller */
        uint32_t is_draining;
        uint32_t n_sessions; /* the user's own; everybody's for admins */
        uint32_t log_level;
        uint32_t has_audit; /* workers that are confined, proven and serve */
        uint32_t has_dialer;
        uint32_t n_egress; /* ready for the next sessions */
        uint32_t n_egress_max;
        uint32_t n_blanks; /* sessions made ahead */
        uint32_t n_blanks_max;
        PrivProbe probes[_PROBE_MAX];
} PrivManagerAnswer;

/* error -EINVAL: what was read is not valid, and the generation is the old one. */
typedef struct PrivReload {
        uint64_t generation;
        uint32_t is_changed;
        uint32_t n_diagnostics;
        PrivDiagnostic diagnostics[PRIV_DIAGNOSTICS_MAX];
} PrivReload;

#define PRIV_REMAINING_UNKNOWN UINT32_MAX

/* To every api worker when something of it changes. */
typedef struct PrivApiState {
        uint32_t is_draining; /* no new sessions */
        uint32_t remaining; /* everybody's sessions, for whom a Drain() waits; else PRIV_REMAINING_UNKNOWN */
        uint32_t log_level;
        uint32_t padding;
} PrivApiState;

typedef struct PrivLogLevel {
        uint32_t level;
        uint32_t padding;
} PrivLogLevel;
/* Which of others' sessions, or whose worker. */
enum PrivAdminWhat {
        ADMIN_SESSION = 0,
        ADMIN_USER,
        ADMIN_FIRST, /* of all users but the one who asks, by uid */
        ADMIN_NEXT,  /* the one after uid */
        ADMIN_ALL,
        _ADMIN_WHAT_MAX,
};

typedef struct PrivAdminOpen {
        uint64_t token;
        uint64_t connection; /* on whose behalf; must be live and an administrator's */
        Id session;
        uint32_t what; /* PrivAdminWhat, but for all */
        uint32_t uid;
        char method[32]; /* for the log */
} PrivAdminOpen;

/* -ENOENT: no such session, or no such user has a worker. */
typedef struct PrivAdminOpened {
        uint64_t token;
        int32_t error;
        uint32_t uid; /* whose worker it is */
} PrivAdminOpened;

typedef struct PrivAdminTerminate {
        uint64_t token;
        uint64_t connection;
        uint64_t grace_usec;
        Id session;
        uint32_t scope; /* PrivAdminWhat: session, user or all */
        uint32_t uid;
} PrivAdminTerminate;

/* When their groups are empty. */
typedef struct PrivAdminTerminated {
        uint64_t token;
        int32_t error;
        uint32_t n_sessions;
} PrivAdminTerminated;

typedef struct PrivSessionStop {
        Id session;
        uint64_t grace_usec;
} PrivSessionStop;

/* 0: no limit. */
typedef struct PrivLimits {
        uint64_t memory_bytes;
        uint64_t swap_bytes;
        uint64_t tasks;
        uint64_t cpu_percent;
        uint64_t io_bytes_per_sec;
        uint32_t has_swap; /* swap_bytes is meant, also when 0 */
        uint32_t padding;
} PrivLimits;

#define PRIV_HOME_KEY_SIZE 32U

/* A line of what is missing that begins so says why a linked worktree's repository is not shown. */
#define PRIV_MISSING_REPOSITORY "repository: "

/* fds: the plan, the compiled policy; both sealed. */
typedef struct PrivSessionCreate {
        uint64_t token;
        uint64_t connection; /* on whose behalf; must be live */
        uint32_t has_no_network;
        uint32_t has_home; /* a persistent one, of this user and that key */
        uint8_t home_key[PRIV_HOME_KEY_SIZE];
        uint32_t n_kept_groups; /* of the connection's; the launcher looks */
        uint32_t kept_groups[PRIV_GROUPS_MAX];
        uint32_t n_publish;
        uint32_t publish[PRIV_PUBLISH_MAX]; /* ports of the host's loopback and inside */
        PrivPool pool;                      /* a family of 0: what the settings say */
        PrivLimits limits;                  /* only what this machine has controllers for */
        PrivSessionClaims claims;
} PrivSessionCreate;

/* fds on success: channel to init, pidfd of init. */
typedef struct PrivSessionCreated {
        uint64_t token; /* 0 in API_ADOPT */
        Id session;
        int32_t error; /* 0 or negative errno; then step and detail say where */
        uint32_t init_pid;
        uint64_t created_usec;
        uint32_t is_unwatched; /* nobody answers for its masks, though this kernel has FUSE */
        uint32_t padding;
        char step[PRIV_NAME_SIZE];
        char detail[PRIV_TEXT_SIZE];
        char cgroup[PRIV_TEXT_SIZE];
        char missing[PRIV_TEXT_SIZE *
                     4]; /* optional paths that were absent, newline-separated, cut with "..." */
        PrivSessionClaims claims;
} PrivSessionCreated;

/* Stop all processes of a session where they are, or let them go on. */
typedef struct PrivSessionFreeze {
        Id session;
        uint32_t is_frozen; /* what it is to be */
        uint32_t padding;
} PrivSessionFreeze;

/* What it is now, as the kernel says. error: it could not be changed. */
typedef struct PrivSessionFrozen {
        Id session;
        int32_t error; /* 0 or negative errno */
        uint32_t is_frozen;
        uint32_t by_uid; /* who froze it */
        uint32_t padding;
        uint64_t since_usec; /* CLOCK_REALTIME; 0: it is not frozen */
} PrivSessionFrozen;

/* The end of one command where init cannot bring it about: its session is frozen. */
typedef struct PrivSessionCommand {
        Id session;
        uint32_t process;
        int32_t error; /* of the answer: 0 or negative errno */
} PrivSessionCommand;

/* ---- launcher <-> init ---- */

typedef struct PrivInitStart {
        uint32_t uid; /* of the session: never 0 */
        uint32_t gid;
        uint32_t caller_uid; /* whose rights open the paths */
        uint32_t caller_gid;
        uint32_t n_groups; /* of the caller, for opening; the session keeps n_kept_groups of them */
        uint32_t groups[PRIV_GROUPS_MAX];
        uint32_t n_kept_groups;
        uint32_t kept_groups[PRIV_GROUPS_MAX];
        uint32_t is_idmapped;
        uint32_t has_home;  /* a descriptor is the home's directory */
        uint32_t has_marks; /* the last one is the map of marks (prevent.h) */
        uint32_t leave_out; /* bits of PrivLayer; release builds refuse a value but 0 */
} PrivInitStart;

/* For the proof that a layer's absence is noticed: only in test builds. */
enum PrivLayer {
        LAYER_SECCOMP = 1 << 0,
        LAYER_LANDLOCK = 1 << 1,
        LAYER_MOUNTS = 1 << 2,
        LAYER_USER_NAMESPACE = 1 << 3,
        LAYER_CGROUP = 1 << 4,
        LAYER_NETWORK = 1 << 5,
};

typedef struct PrivInitResult {
        int32_t error;      /* 0: ready */
        uint32_t has_guard; /* it ends in order, on SIGTERM from outside */
        uint32_t has_rules; /* the descriptor is the map of what it must not change (prevent.h) */
        char step[PRIV_NAME_SIZE];
        char detail[PRIV_TEXT_SIZE];
        char missing[PRIV_TEXT_SIZE * 4];
} PrivInitResult;

/* ---- what a session leaves in its workspace ---- */

typedef struct PrivSessionReport {
        uint64_t token;
        uint64_t since_usec; /* CLOCK_REALTIME */
        char workspace[PRIV_PATH_SIZE];
} PrivSessionReport;

/* fd where error is 0: sealed memory, of entries up to one that is REPORT_END. */
typedef struct PrivSessionReported {
        uint64_t token;
        int32_t error;
        uint32_t padding;
} PrivSessionReported;

typedef enum PrivReportKind {
        REPORT_CHANGED = 0, /* nothing but that */
        REPORT_SYMLINK_OUTSIDE,
        REPORT_HARD_LINK,
        REPORT_HOOK,
        REPORT_GIT_CONFIG,
        REPORT_REPOSITORY,
        REPORT_SETUID,
        REPORT_EXECUTABLE,
        REPORT_SPECIAL_FILE,
        REPORT_EDITOR_CONFIG,
        REPORT_AGENT_CONFIG,
        REPORT_BUILD_FILE,
        REPORT_ODD_NAME,
        REPORT_START_FILE,
        REPORT_END,
        _REPORT_KIND_MAX,
} PrivReportKind;

/* Behind it: the path below the workspace, then the target of a link, neither with a NUL. Of REPORT_END
 * path_size says whether there was more (1). */
typedef struct PrivReportEntry {
        uint32_t kind;
        uint32_t path_size;
        uint32_t target_size;
} PrivReportEntry;

/* ---- api <-> init ---- */

/* What became of a protected path. */
typedef enum PrivGuardNote {
        GUARD_COVERED = 0, /* the host put something there: it is read-only now */
        GUARD_REMOVED,     /* the session had made it */
        GUARD_MOVED,       /* the same; it has another name, beside */
        GUARD_LEFT,        /* the same; it stays, read-only */
        GUARD_BEYOND,      /* what the host has below it is more, or deeper, than is kept */
        _GUARD_NOTE_MAX,
        GUARD_UNATTRIBUTED = 16, /* those below are between init and its guard */
        GUARD_READY,
        GUARD_SWEPT,
        GUARD_FAILED,
} PrivGuardNote;

typedef struct PrivGuarded {
        uint32_t note;
        int32_t error;
        char path[512]; /* below the workspace */
} PrivGuarded;

/* Behind it: cwd, argv and environment as n strings, each with its NUL, in this order. */
typedef struct PrivExec {
        uint32_t process; /* number of the command, from 1, never used twice in a session */
        uint32_t has_pty;
        uint32_t columns;
        uint32_t rows;
        uint32_t n_arguments; /* at least 1 */
        uint32_t n_environment;
} PrivExec;

/* error != 0: never ran (-ENOENT: not found; -EACCES, -ENOEXEC: not executable; else our own failure). */
typedef struct PrivExecStarted {
        uint32_t process;
        int32_t error;
        uint32_t pid;   /* in the session's pid namespace */
        uint32_t stage; /* ExecStage, where error says that it never ran */
} PrivExecStarted;

typedef enum ExecStage {
        EXEC_STAGE_SETUP = 0,
        EXEC_STAGE_EXECVE = 1,
        EXEC_STAGE_DIRECTORY = 2,
        EXEC_STAGE_GATE = 3, /* its row was not committed */
} ExecStage;

/* The gate of a command: a pair of sockets. The child waits at one end; audit, at the other, sends this byte
 * when the command's row is committed. An end of file instead: the command does not run. */
#define EXEC_GATE_OPEN 'g'

typedef struct PrivExecExited {
        uint32_t process;
        uint32_t is_signal;
        uint32_t status; /* exit code, or number of the signal */
        uint32_t has_core;
} PrivExecExited;

enum PrivSignalScope {
        SIGNAL_LEADER = 0,     /* the command's first process */
        SIGNAL_ALL = 1,        /* all processes of the command; process 0: of the session but init */
        SIGNAL_KILL_GROUP = 2, /* cgroup.kill of the command's group; signal is ignored */
};

typedef struct PrivExecSignal {
        uint32_t process;
        uint32_t signal;
        uint32_t scope;
        uint32_t padding;
} PrivExecSignal;

/* What init knows of a command. */
typedef enum ExecState {
        EXEC_STATE_NEVER = 0,    /* it was not asked for, nor one with a higher number */
        EXEC_STATE_STARTING = 1, /* EXEC_STARTED will say more */
        EXEC_STATE_RUNNING = 2,  /* EXEC_STARTED was sent, EXEC_EXITED will be */
        EXEC_STATE_OVER = 3,     /* everything was said */
        _EXEC_STATE_MAX,
} ExecState;

typedef struct PrivExecSignalled {
        uint32_t process;
        int32_t error;
        uint32_t state; /* ExecState; process 0: EXEC_STATE_NEVER */
        uint32_t padding;
} PrivExecSignalled;

/* ---- api <-> audit ---- */

/* Behind it: argv, NUL between arguments, cut at PRIV_RECORD_EXEC_MAX. Answered by RECORDED once the row is
 * committed and the gate was opened. */
typedef struct PrivRecordExec {
        uint64_t token;
        Id session;
        uint32_t process;
        uint32_t padding;
} PrivRecordExec;

typedef struct PrivRecorded {
        uint64_t token;
        uint64_t sequence;
        int32_t error;
        uint32_t padding;
} PrivRecorded;

/* Denials of one session: the one described, and how many more since the last such message. */
typedef struct PrivDenied {
        Id session;
        uint64_t sequence; /* of its row; 0: it could not be written */
        uint32_t count;    /* at least 1 */
        uint32_t kind;     /* AuditKind: net, dns or file */
        uint32_t port;
        uint32_t reason; /* DecisionReason */
        PrivAddress address;
        uint32_t process; /* of a file: number of the command; 0: not known */
        char host[PRIV_HOST_SIZE];
        char rule[PRIV_NAME_SIZE];
        char text[PRIV_TEXT_SIZE];     /* the rule's reason; of a file: what was done to it */
        char path[PRIV_TEXT_SIZE * 4]; /* of a file, any bytes, cut */
} PrivDenied;

/* A row says that rows are missing. */
typedef struct PrivAuditGap {
        uint64_t n_rows; /* 0: not for this channel to know */
        uint64_t first_usec;
        uint64_t last_usec;
} PrivAuditGap;

typedef struct PrivAuditStateAsk {
        uint64_t token;
        uint32_t has_probe; /* try the disk, too */
        uint32_t padding;
} PrivAuditStateAsk;

typedef struct PrivAuditState {
        uint64_t token;
        uint64_t head_sequence; /* 0: not for this channel to know */
        uint64_t free_bytes;
        int32_t error; /* 0: rows can be written */
        uint32_t padding;
} PrivAuditState;

typedef struct PrivRecordExit {
        Id session;
        uint32_t process;
        uint32_t status;     /* exit code or 128 + signal */
        uint32_t reason;     /* EndReason */
        uint32_t is_unknown; /* it never ran, or nobody knows how it ended: status is 0 and left out */
} PrivRecordExit;

/* Filters; 0 or "" where not asked for. */
typedef struct PrivQuery {
        uint64_t token;
        uint64_t since_usec;
        uint64_t until_usec;
        uint64_t after_sequence;
        uint64_t limit;               /* newest so many; 0: all */
        uint32_t kinds;               /* bit per AuditKind */
        uint32_t decisions;           /* bit per Verdict */
        int64_t uid;                  /* -1: any */
        uint32_t has_all_users;       /* rows of others too: only where the channel may */
        uint32_t is_following;        /* and what comes, after a mark */
        char session[PRIV_NAME_SIZE]; /* id or name */
        char user[PRIV_NAME_SIZE];
        char host[PRIV_HOST_SIZE];
        char rule[PRIV_NAME_SIZE * 2];
} PrivQuery;

/* 0 where not asked for. */
typedef struct PrivVerify {
        uint64_t token;
        uint64_t from;
        uint64_t to;
        uint64_t head_sequence; /* of a row whose hash is head */
        uint32_t has_key;
        uint32_t padding;
        uint8_t key[32];
        uint8_t head[32];
} PrivVerify;

/* The stream of a verification: how far it is, again and again, then the verdict. */
typedef struct AuditVerification {
        uint32_t is_last;
        uint32_t is_retired; /* what was asked about is older than first_sequence: nothing was checked */
        uint32_t has_key;
        uint32_t padding;
        uint64_t n_checked;
        uint64_t n_checkpoints;
        uint64_t n_erased;
        uint64_t first_sequence;
        uint64_t head_sequence;
        uint64_t signed_sequence;
        uint64_t bad_sequence; /* 0: all holds */
        uint8_t key[32];
        uint8_t head[32];
        char message[PRIV_TEXT_SIZE];
} AuditVerification;

/* One row on the stream of a query: this header, then the strings in the order of the enum, each n bytes
 * without NUL; length UINT32_MAX stands for null. Frames are n_bytes long in all. */
enum AuditRecordString {
        RECORD_SESSION = 0,
        RECORD_ACTION,
        RECORD_USER,
        RECORD_AGENT_SESSION,
        RECORD_EXECUTABLE,
        RECORD_ENTRY,
        RECORD_PROTOCOL,
        RECORD_HOST,
        RECORD_METHOD,
        RECORD_PATH,
        RECORD_CREDENTIAL,
        RECORD_RULE,
        RECORD_REASON,
        RECORD_POLICY,
        RECORD_RAW,
        RECORD_DETAIL,
        _RECORD_STRING_MAX,
};

#define AUDIT_RECORD_MAX (128U * 1024U)

/* Instead of a row, where kind is 0: what status says. */
enum AuditMark {
        AUDIT_MARK_READY = 1, /* what there was has been sent; what follows is new */
        AUDIT_MARK_RETIRED,   /* rows that were asked for are gone; sequence is the oldest that is there */
};

typedef struct AuditRecord {
        uint32_t n_bytes;
        uint32_t kind;
        uint64_t sequence;
        uint64_t realtime_usec;
        uint64_t boottime_usec;
        int64_t verdict; /* -1: null, also below */
        int64_t uid;
        int64_t process;
        int64_t pid;
        int64_t port;
        int64_t status;
        int64_t generation;
        int64_t refers_to;
        int64_t sent_bytes;
        int64_t received_bytes;
        int64_t duration_usec;
        PrivAddress address;
        uint8_t hash[32];
        uint8_t previous_hash[32];
        uint32_t lengths[_RECORD_STRING_MAX];
} AuditRecord;

/* ---- egress <-> audit <-> dialer ---- */

/* Behind it: the host as written (n_raw bytes), then the path (n_path bytes). host is canonical, or empty
 * when the request names a literal address or is malformed. */
typedef struct PrivDecide {
        uint64_t request;
        uint32_t entry;
        uint32_t protocol;
        uint32_t port;
        uint32_t is_malformed;     /* a denial to record: never matched, never dialled */
        uint32_t wants_connection; /* 0: a further request on an open connection */
        uint32_t n_raw;
        uint32_t n_path;
        uint32_t count; /* of entry udp: how many datagrams were refused; else 0 */
        PrivAddress address;
        char host[PRIV_HOST_SIZE];
        char method[32];
} PrivDecide;

/* allow: the dialer answers with CONNECTED or CONNECT_FAILED if a connection was wanted. A VERDICT of deny
 * for a request that was allowed before: the dialer refused every address. */
typedef struct PrivVerdict {
        uint64_t request;
        uint64_t sequence;
        uint32_t verdict;
        uint32_t reason;           /* DecisionReason */
        char rule[PRIV_NAME_SIZE]; /* "": a default decided */
        char text[PRIV_TEXT_SIZE]; /* the rule's reason, for whoever is denied */
        uint32_t allows_tls;       /* of CONNECT and SOCKS: what the rules allow may be TLS */
        uint32_t allows_tcp;       /* likewise: it may be anything */
        uint32_t allows_any_tls;   /* the hello need not name the host */
        uint32_t has_methods;      /* rules look at the method: nothing may say another one */
        uint32_t has_paths;        /* likewise */
        uint32_t is_looked_up;     /* of DNS: the dialer was asked, and answers with RESOLVED */
        uint32_t is_by_request; /* of CONNECT and SOCKS: no connection yet; each HTTP request in the tunnel
                                   asks */
        uint32_t padding;
        uint64_t max_upload_bytes; /* of the connection; 0: no limit, as below */
        uint64_t max_download_bytes;
        uint64_t idle_usec;
} PrivVerdict;

typedef struct PrivDial {
        Id session;
        uint64_t request;
        uint64_t sequence;     /* of the connect row: names the connection from here on */
        uint64_t expires_usec; /* real time at which it is cut; 0: never */
        uint32_t port;
        uint32_t protocol;
        PrivAddress address;
        uint32_t padding;
        char host[PRIV_HOST_SIZE];
} PrivDial;

/* A committed DNS question: does the name exist, or what does it have of one type beside addresses? */
typedef struct PrivResolve {
        Id session;
        uint64_t request;
        uint32_t type; /* PolicyDnsType; 0: addresses */
        uint32_t padding;
        char host[PRIV_HOST_SIZE];
} PrivResolve;

typedef enum PrivResolvedStatus {
        RESOLVED_FAILED = 0, /* nobody who knows has answered */
        RESOLVED_NO_NAME,
        RESOLVED_NAME, /* it exists; whether it has addresses says the rest */
        _RESOLVED_MAX,
} PrivResolvedStatus;

#define PRIV_RESOLVED_MAX (sizeof(PrivResolved) + 3U * 1024U) /* fits into one answer */

/* Behind it, of a type beside addresses, and of real addresses: records without names and times, each as a
 * length of two bytes in network order and its data, in which no name is compressed. */
typedef struct PrivResolved {
        uint64_t request;
        uint32_t status; /* PrivResolvedStatus */
        uint32_t has_addresses;
        uint32_t has_v6;  /* one of them is IPv6, and this machine can reach such */
        uint32_t is_real; /* those behind it are told, in place of one that stands for the name */
} PrivResolved;

typedef struct PrivDialRefused {
        Id session;
        uint64_t request;
        uint64_t sequence;
        PrivAddress address; /* the first one that was refused, if any resolved */
        uint32_t port;
} PrivDialRefused;

/* The connection is over, or was never made (duration 0, no address). */
typedef struct PrivDialClosed {
        Id session;
        uint64_t sequence;
        uint64_t duration_usec;
        uint64_t sent_bytes;
        uint64_t received_bytes;
        PrivAddress address;
        uint32_t port;
        uint32_t reason; /* CloseReason */
        uint32_t padding;
} PrivDialClosed;

/* fds: the connected socket, non-blocking. */
typedef struct PrivConnected {
        uint64_t request;
        uint64_t sequence;
} PrivConnected;

typedef struct PrivConnectFailed {
        uint64_t request;
        uint32_t reason; /* CloseReason */
        uint32_t padding;
} PrivConnectFailed;

/* ---- connections into a session ---- */

typedef struct PrivSessionForward {
        uint64_t token;
        Id session;
        uint32_t port;
        uint32_t padding;
} PrivSessionForward;

/* -ECONNREFUSED: nothing inside listens there; -EPERM: the session has no network. */
typedef struct PrivSessionForwarded {
        uint64_t token;
        int32_t error;
        uint32_t padding;
} PrivSessionForwarded;

/* Answered by AUDIT_INBOUND_ROW. One that is not denied has a close row, from the dialer or by
 * AUDIT_INBOUND_OVER. */
typedef struct PrivAuditInbound {
        uint64_t token;
        Id session;
        uint32_t entry; /* ENTRY_FORWARD or ENTRY_PUBLISH */
        uint32_t port;
        uint32_t is_denied;
        uint32_t uid; /* who connects, as the kernel says */
} PrivAuditInbound;

/* So many sockets for pings were refused to the session since it was last said. */
typedef struct PrivAuditPings {
        Id session;
        uint32_t count; /* at least 1 */
        uint32_t padding;
} PrivAuditPings;

typedef struct PrivInboundRow {
        uint64_t token;
        uint64_t sequence; /* 0: there is no row */
        Id session;
        int32_t error; /* -EPERM: the row denies it */
        uint32_t padding;
} PrivInboundRow;

/* It was not made, or there is nobody to give it to. */
typedef struct PrivInboundOver {
        Id session;
        uint64_t sequence;
        uint32_t reason; /* CloseReason */
        uint32_t padding;
} PrivInboundOver;

typedef struct PrivDialerInbound {
        Id session;
        uint64_t sequence;
        PrivAddress address; /* inside */
        uint32_t port;
} PrivDialerInbound;

typedef struct PrivInbound {
        uint64_t sequence;
} PrivInbound;

typedef struct PrivConnectionDone {
        uint64_t sequence;
        uint32_t reason; /* CloseReason */
        uint32_t padding;
} PrivConnectionDone;

/* How often a worker may give one back: each time that it comes again is one more watch that it can leave on
 * the file, and all workers share one limit of those. */
#define PRIV_PARKS_MAX 8U
/* How many a worker may have asked for without an answer. What it does not read the kernel counts for all
 * workers together. */
#define PRIV_WANTED_MAX 64U

/* One that the worker was given before. */
typedef struct PrivConnectionRef {
        uint64_t sequence;
} PrivConnectionRef;

/* BACK: a token that nobody can guess. WANTED: the one that came last, for it was read; zeros before that.
 */
typedef struct PrivConnectionReturn {
        uint64_t sequence;
        Id token;
} PrivConnectionReturn;

/* ---- denied paths ---- */

/* What a program wanted of a denied path. */
typedef enum PrivFileOperation {
        FILE_OPEN = 0,
        FILE_LIST,
        FILE_STAT,
        FILE_LOOKUP, /* of a name below it: to open, to look at, to make; the kernel does not say */
        FILE_ACCESS, /* may I; and changing into it */
        FILE_CHANGE,
        _FILE_OPERATION_MAX,
} PrivFileOperation;

const char *file_operation_to_string(uint32_t v);

/* fds: one end of a FUSE connection, through which comes what is put on paths of that session; its root: the
 * kernel takes the file system down when the last one lets go of it, which takes time that nobody waits for
 * there. */
typedef struct PrivWatchMount {
        Id session;
} PrivWatchMount;

/* Nothing of it is used any more. */
typedef struct PrivWatchOver {
        Id session;
} PrivWatchOver;

/* fds: the plan, which says what was put where. init_pid: what it does itself is none of its programs'. */
typedef struct PrivWatchSession {
        Id session;
        uint32_t init_pid;
        uint32_t padding;
} PrivWatchSession;

#define PRIV_FILE_DENIED_MAX (sizeof(PrivFileDenied) + 3U * PRIV_PATH_SIZE)

/* Behind it: the path (n_path bytes), layer and rule (n_layer, n_rule). */
typedef struct PrivFileDenied {
        Id session;
        uint32_t operation; /* PrivFileOperation */
        uint32_t count;     /* at least 1: so many times since the last such message */
        uint32_t is_mixed;  /* other names and operations are counted with this one */
        uint32_t process;   /* number of the command; 0: not known */
        uint32_t pid;       /* of the process, as the host numbers it; 0: not known */
        uint32_t n_path;
        uint32_t n_layer;
        uint32_t n_rule;
        char program[16]; /* as it calls itself */
} PrivFileDenied;

/* ---- the one-shot child sandboxd-lookup: one of these on its standard output ---- */

typedef struct PrivWorkerIds {
        uint32_t api_uid, api_gid;
        uint32_t audit_uid, audit_gid;
        uint32_t dialer_uid, dialer_gid;
        uint32_t egress_uid, egress_gid;
        uint32_t watch_uid, watch_gid;
        uint32_t admins_gid; /* UINT32_MAX: no such group */
        uint32_t auditors_gid;
} PrivWorkerIds;

/* ---- the table ---- */

typedef enum PrivRole {
        ROLE_LAUNCHER = 0,
        ROLE_API,
        ROLE_AUDIT,
        ROLE_DIALER,
        ROLE_EGRESS,
        ROLE_INIT,
        ROLE_WATCH,
        _ROLE_MAX,
} PrivRole;

typedef enum PrivChannel {
        CHANNEL_LAUNCHER_AUDIT = 0,
        CHANNEL_LAUNCHER_DIALER,
        CHANNEL_LAUNCHER_EGRESS,
        CHANNEL_LAUNCHER_API,
        CHANNEL_LAUNCHER_INIT,
        CHANNEL_API_INIT,
        CHANNEL_API_AUDIT,
        CHANNEL_EGRESS_AUDIT,
        CHANNEL_AUDIT_DIALER,
        CHANNEL_DIALER_EGRESS,
        CHANNEL_LAUNCHER_WATCH,
        CHANNEL_AUDIT_WATCH,
        _CHANNEL_MAX,
} PrivChannel;

typedef enum PrivPhase {
        PHASE_SETUP = 1 << 0,
        PHASE_RUN = 1 << 1,
        PHASE_ANY = PHASE_SETUP | PHASE_RUN,
} PrivPhase;

typedef enum PrivMessage {
#define MESSAGE(channel, name, sender, phase, body_min, body_max, fds_min, fds_max) PRIV_##name,
#include "proto/idl/privsep.def"
#undef MESSAGE
        _PRIV_MESSAGE_MAX,
} PrivMessage;

typedef struct PrivRule {
        const char *name;
        PrivChannel channel;
        PrivRole sender;
        PrivPhase phase;
        uint32_t body_min;
        uint32_t body_max;
        uint32_t fds_min;
        uint32_t fds_max;
} PrivRule;

/* The line of privsep.def; NULL for a number outside the table. */
const PrivRule *priv_rule(uint32_t message);
