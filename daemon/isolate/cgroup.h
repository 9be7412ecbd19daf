#pragma once

/*
 * Control groups (v2 only): below the group that the daemon was started in "sandboxd", below that one base
 * group per instance, "sandboxd-HASH", and below that one group per session. Directories are held by
 * descriptor; names are never followed twice.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "proto/base/id.h"
#include "proto/base/macro.h"
#include "proto/idl/privsep.h"

typedef struct CgroupBase CgroupBase;

/* Finds the daemon's own group, makes the base group named after a hash of runtime_dir and turns on what
 * controllers there are. Needs CAP_DAC_OVERRIDE where the tree's top is not writable. */
int cgroup_base_new(const char *runtime_dir, CgroupBase **ret) _must_check_;
CgroupBase *cgroup_base_free(CgroupBase *b);
DEFINE_CLEANUP(CgroupBase *, cgroup_base_free)

/* Bits of PrivController. */
uint32_t cgroup_base_controllers(const CgroupBase *b);
const char *cgroup_base_path(const CgroupBase *b);
/* Its directory, above the groups of all sessions; borrowed. */
int cgroup_base_fd(const CgroupBase *b);

/* Kills and removes what an earlier run left; on_left hears the id of each. Waits, so only at start. */
typedef void (*CgroupLeft)(void *userdata, const Id *session);
int cgroup_base_clean(CgroupBase *b, CgroupLeft on_left, void *userdata) _must_check_;

/* 1: the process is in a session's group (of any instance); 0: it is not. Errors mean that nobody knows: the
 * caller proves with a pidfd that pid was still the process that it meant. */
int cgroup_base_holds(const CgroupBase *b, pid_t pid) _must_check_;

/* A session's group; the caller owns *ret_fd (O_RDONLY directory). -EOPNOTSUPP: a limit without its
 * controller. */
int cgroup_make(const CgroupBase *b, const Id *session, const PrivLimits *limits, int *ret_fd) _must_check_;

/* For a group that was made without. */
int cgroup_limit(const CgroupBase *b, int cgroup_fd, const PrivLimits *limits) _must_check_;

/* Gives directory and cgroup.procs, nothing else, to the session's user. After the first process was born in
 * it. */
int cgroup_give(int cgroup_fd, uint32_t uid, uint32_t gid) _must_check_;

/* Takes the group back and kills all in it. */
int cgroup_kill(int cgroup_fd) _must_check_;

/* Stops all processes of a session's group where they are, or lets them go on; the kernel takes its time.
 * uid and gid: to whom the group was given. */
int cgroup_freeze(int cgroup_fd, bool is_frozen, uint32_t uid, uint32_t gid) _must_check_;

/* 1: everything in the group stands still; 0: not, or not yet. */
int cgroup_is_frozen(int cgroup_fd, uint32_t uid, uint32_t gid) _must_check_;

/* A file of a group that was given away, or ".". */
int cgroup_open_given(int cgroup_fd, const char *name, int flags, uint32_t uid, uint32_t gid,
                      int *ret_fd) _must_check_;

/* Kills what is in one of the groups below. -ENOENT: there is no such group. */
int cgroup_kill_child(int cgroup_fd, const char *name, uint32_t uid, uint32_t gid) _must_check_;

/* cgroup_end.c: kills what is in the groups below, and lets those in the group itself go on. */
int cgroup_kill_commands(int cgroup_fd, uint32_t uid, uint32_t gid) _must_check_;
/* The same for a group that an earlier run left; those in it are told to end, and waited for a moment. */
void cgroup_end_left(int cgroup_fd);

/* 1 while a process is in the group or below, else 0. */
int cgroup_is_populated(int cgroup_fd) _must_check_;

/* Removes the group and those below it. -EBUSY while something is in one. */
int cgroup_remove(const CgroupBase *b, const Id *session) _must_check_;
