#pragma once

/*
 * Programs in the kernel that refuse changes of protected paths to sessions, where it takes such
 * (daemon/bpf, prevent.h). They are loaded by a program of their own, once for all sessions, and pinned, so
 * that they outlive a launcher that is killed as long as its sessions do. They count only when a trial has
 * shown that they refuse: a kernel that does not ask them attaches them all the same.
 */

#include "daemon/isolate/cgroup.h"

typedef struct Prevention Prevention;

/* Needs all of root's rights, and waits: for the start of the daemon, when no session runs. program_fd: of
 * sandboxd-bpf. *ret_step: how far it got (PrivPrevention). */
int prevention_new(const CgroupBase *base, int program_fd, int null_fd, Prevention **ret,
                   uint32_t *ret_step) _must_check_;
/* With the last session it takes the programs away. */
Prevention *prevention_free(Prevention *p);
DEFINE_CLEANUP(Prevention *, prevention_free)

/* For the session's guard, which says by it which inodes are meant. Ours. */
int prevention_marks(const Prevention *p);

/* From now on the session's rules (a map of rulemap.h) hold; and no more, when nothing of it runs. */
int prevention_enter(Prevention *p, int cgroup_fd, int rules_fd) _must_check_;
void prevention_leave(Prevention *p, int cgroup_fd);
