#pragma once

/*
 * The launcher: accepts connections, reads the peer's identity from the kernel, routes to that user's api
 * worker, makes sessions and workers, and keeps a small record of each. It parses nothing but fixed-size
 * private messages.
 *
 * Ownership: Launcher owns users, sessions, services and the pool. A worker that is retired lives on by
 * itself until it was reaped. Objects are freed from deferred calls only, never from their own callbacks.
 */

#include <stdbool.h>
#include <stdint.h>

#include "daemon/isolate/cgroup.h"
#include "daemon/isolate/pings.h"
#include "daemon/isolate/prevention.h"
#include "daemon/isolate/steer.h"
#include "daemon/loop/link.h"
#include "daemon/loop/loop.h"
#include "proto/base/hash.h"
#include "proto/base/list.h"
#include "proto/idl/privsep.h"

#define LAUNCHER_POOL_SIZE 3U
#define LAUNCHER_BLANKS    3U
#define LAUNCHER_USERS_MAX 4096U
#define LAUNCHER_BLOCK_MAX (64LL * 1024 * 1024)

typedef struct Blank Blank;
typedef struct Door Door;
typedef struct Ending Ending;
typedef struct Launcher Launcher;
typedef struct Loading Loading;
typedef struct Lookup Lookup;
typedef struct Reload Reload;
typedef struct Session Session;
typedef struct User User;
typedef struct Worker Worker;

typedef enum Program {
        PROGRAM_API = 0,
        PROGRAM_AUDIT,
        PROGRAM_DIALER,
        PROGRAM_EGRESS,
        PROGRAM_LOOKUP,
        PROGRAM_INIT,
        PROGRAM_WATCH,
        _PROGRAM_MAX,
} Program;

typedef struct Config {
        const char *config_dir;
        const char *state_dir;
        const char *runtime_dir;
        const char *libexec_dir;
        const char *policy_dir;
        bool prints_ready;
} Config;

/* What is opened or made before the capabilities go. */
typedef struct Kernel {
        int program_fds[_PROGRAM_MAX];
        int null_fd;
        int network_fd; /* our own network namespace */
        int mount_fd;   /* our own mount namespace */
        int diag_fd;    /* asks who connected to us; -EBADF: this kernel cannot say */
        int proc_fd; /* processes of this machine, for the watch; -EBADF: this kernel cannot show them alone
                      */
        int template_fd; /* mount namespace that sessions copy */
        int session_filter_fd;
        int command_filter_fd;
        CgroupBase *cgroups;
        Steering *steering;     /* of connections inside sessions */
        Pings *pings;           /* tells of those that sessions try; NULL: the kernel does not */
        Prevention *prevention; /* of changes of protected paths; NULL: the kernel does not do it */
        char degraded[PRIV_TEXT_SIZE * 2];
        PrivProbe probes[_PROBE_MAX];
} Kernel;

/* So many restarts in so much time; more is a fault that restarting does not mend. */
#define RESTARTS_MAX  5U
#define RESTARTS_USEC (10U * USEC_PER_SEC)

typedef struct RestartGuard {
        uint64_t times_usec[RESTARTS_MAX];
        unsigned next;
} RestartGuard;

/* False: too many. Counts this one. */
bool restart_guard_permits(RestartGuard *g);

struct Launcher {
        Loop *loop;
        const Config *config;
        Kernel *kernel;
        PrivWorkerIds ids;
        PrivSettings settings;
        PrivResolver resolver;
        int hosts_fd;
        Id instance;
        Id state;
        uint64_t started_usec;
        ListLink inside;  /* connections of callers inside a session */
        ListLink workers; /* every one that is not freed, retired ones too */
        Worker *audit;
        Worker *dialer;
        Worker *watch; /* NULL: none now, or this kernel has no FUSE */
        RestartGuard watch_guard;
        LoopTimer *watch_timer_again;
        LoopTimer *watch_ping_timer; /* until it answers */
        bool is_watch_pinged;
        RestartGuard audit_guard;
        RestartGuard dialer_guard;
        RestartGuard pool_guard;
        Worker *pool[LAUNCHER_POOL_SIZE];
        uint64_t n_egresses; /* ever attached to a session: numbers them */
        Blank *blanks[LAUNCHER_BLANKS];
        Blank *unfinished; /* of them */
        LoopTimer *blank_timer;
        RestartGuard blank_guard;
        bool is_blank_timer_set;
        LoopTimer *pool_timer;
        Map users;    /* by uid */
        Map sessions; /* by id */
        Map inbounds; /* by token: connections into sessions that are being made */
        uint64_t last_inbound;
        uint64_t last_connection;
        ListLink leftovers; /* of leftover.h */
        LoopTimer *leftover_timer;
        ListLink endings; /* administrators' calls that wait for the end of sessions */
        unsigned n_endings;
        unsigned n_connections; /* this and the next three: of all users but root */
        unsigned n_sessions;
        unsigned n_workers_of_users;
        unsigned n_identity_lookups;
        unsigned sessions_by_fds; /* so many our descriptors are good for */
        int homes_fd;             /* persistent homes */
        int listen_fd;
        int reserve_fd;
        int runtime_fd;
        int lock_fd;
        LoopIo *listen_io;
        LoopTimer *accept_timer;
        Door *door;
        int watch_fd; /* inotify: resolv.conf and hosts */
        LoopIo *watch_io;
        LoopTimer *watch_timer;
        LoopIo *pings_io; /* NULL: nobody tells of them */
        LoopTimer *pings_timer;
        bool is_pings_timer_set;
        LoopTimer *stop_timer;
        LoopSignal *signals[3];
        Lookup *resolver_lookup;
        Loading *loading; /* of the start */
        Reload *reload;
        int profiles_fd; /* a bundle, sealed */
        uint64_t generation;
        uint64_t loaded_usec;
        uint8_t digest[PRIV_DIGEST_SIZE]; /* of what is loaded */
        uint32_t log_level;
        unsigned n_stop_rounds;
        bool is_serving;
        bool is_stopping;
        bool is_draining; /* takes no new sessions */
};

/* start.c: the asynchronous part of the start, and its end. */
int launcher_start(Launcher *l) _must_check_;
/* Looks whether everything is there that serving needs; idempotent. */
void launcher_maybe_serve(Launcher *l);
void launcher_stop(Launcher *l, int result);

/* resolver.c: the machine's resolvers and hosts table, again on change. The callback takes the table where
 * error is none. */
typedef void (*ResolverCallback)(Launcher *l, int error, const PrivResolver *resolver, int take_hosts_fd);
/* *lookup: NULL, and again when it has come. -EALREADY: it is not. */
int resolver_look_up(Launcher *l, ResolverCallback callback, Lookup **lookup) _must_check_;
/* From now on, with the servers of the settings where they name some. */
void resolver_use(Launcher *l, const PrivResolver *resolver, int take_hosts_fd);
int launcher_watch_resolver(Launcher *l) _must_check_;
void launcher_send_resolver(Launcher *l);
