#pragma once

/* The one place where the launcher makes processes: clone3, a fixed descriptor table, execveat of a program
 * that was opened at start. */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "proto/base/macro.h"

#define SPAWN_FDS_MAX 8U

typedef struct SpawnSpec {
        int program_fd; /* executed by descriptor: what was opened at start runs, whatever the path is now */
        char *const *arguments;   /* argv, NULL-terminated */
        char *const *environment; /* NULL: empty */
        uint64_t namespaces;      /* CLONE_NEW… */
        int cgroup_fd;            /* the group it is born in; -EBADF: the launcher's */
        int null_fd;              /* /dev/null: standard input, and output where output_fd is not given */
        int output_fd;            /* -EBADF: none */
        int nice;                 /* 0: as any process; less only as far as the launcher's own */
        bool is_prompt;           /* others wait for its answers */
        const int *fds;           /* become 3, 4, … in this order; all others are closed */
        size_t n_fds;
        uint32_t uid; /* 0: stays root; else this uid and gid, no groups, no_new_privs */
        uint32_t gid;
} SpawnSpec;

/* Standard error is the launcher's. A program that cannot be executed ends with status 127. The caller owns
 * *ret_pidfd and reaps by it; the pid is for messages to people. */
int spawn(const SpawnSpec *spec, pid_t *ret_pid, int *ret_pidfd) _must_check_;

/* Of this process: nice from -20 to 19, for its session, too, where it leads one; less than 0 needs
 * CAP_SYS_NICE. is_prompt: short turns, soon. What fails is ignored. */
void spawn_set_priority(int nice, bool is_prompt);

/* A child that only waits, in the namespaces of the flags, without exec. */
int spawn_waiter(uint64_t namespaces, pid_t *ret_pid, int *ret_pidfd) _must_check_;

/* The same, born in a control group. */
int spawn_waiter_into(int cgroup_fd, int *ret_pidfd) _must_check_;

/* A child that is born in a control group, runs the trial alone, without exec, and ends with what it returns
 * as its status. */
typedef int (*SpawnTrial)(const void *userdata);
int spawn_trial_into(int cgroup_fd, SpawnTrial trial, const void *userdata, int *ret_pidfd) _must_check_;

/* Waits for a child of ours, so long at most: its status, or < 0. Takes the pidfd; a child that is not done
 * is killed. */
int spawn_wait(int take_pidfd, int timeout_msec) _must_check_;

/* A namespace of a process, `kind` as below /proc/PID/ns. The caller owns the descriptor. */
int spawn_open_namespace(pid_t pid, const char *kind, int *ret_fd) _must_check_;

/* Kills it and waits so long; -ETIMEDOUT: it does not end. The pidfd stays the caller's. */
int spawn_reap_within(int pidfd, int msec) _must_check_;

/* Kills and reaps a child of ours, at once. Takes the pidfd. */
void spawn_reap(int take_pidfd);
