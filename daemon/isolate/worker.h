#pragma once

/*
 * How a worker gives up everything before its first message: it is started as root by the launcher, in new
 * namespaces, and calls worker_confine() first thing in main(). Order: rlimits, root directory, ids,
 * capabilities, no_new_privs, seccomp, then proof that none of it can be undone.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/base/macro.h"

/* A directory of the host that stays visible, at the same path. */
typedef struct WorkerDirectory {
        const char *path;
        bool is_writable;
        bool is_optional;
} WorkerDirectory;

/* A call that is allowed with some arguments only: of each, the bits of mask are those of value. Several
 * lines of one call are alternatives. */
typedef struct WorkerArgument {
        unsigned index;
        uint32_t mask; /* 0: none */
        uint32_t value;
} WorkerArgument;

typedef struct WorkerCall {
        int number;
        WorkerArgument arguments[2];
} WorkerCall;

typedef struct WorkerSpec {
        const char *name; /* for messages */
        uint32_t uid;
        uint32_t gid;
        const WorkerDirectory *directories; /* all else of the file system is gone */
        size_t n_directories;
        const int *syscalls; /* allowed; all others: EPERM */
        size_t n_syscalls;
        const WorkerCall *calls; /* beside them */
        size_t n_calls;
        bool may_open_inet_sockets; /* the dialer; the self-test proves the opposite for others */
        bool may_fork;              /* audit's readers */
        uint64_t files_max;         /* RLIMIT_NOFILE */
        uint64_t memory_max;        /* RLIMIT_DATA, bytes; 0: no limit */
} WorkerSpec;

/* On error the worker exits: nothing has been read yet. Must run as root in its own mount namespace. */
int worker_confine(const WorkerSpec *spec) _must_check_;

/* Tries setuid(0), open("/etc/passwd"), execve and (unless allowed) socket(AF_INET): -ENOTRECOVERABLE if one
 * succeeds. worker_confine() ends with it. */
int worker_prove(const WorkerSpec *spec) _must_check_;
