#pragma once

/*
 * Blank sessions: a control group, a network namespace and an init that waits in its own root, made ahead.
 * They are nobody's yet: nothing of a user or a policy is in one, and each is used once.
 */

#include "daemon/isolate/netns.h"
#include "daemon/launcher/launcher.h"

struct Blank {
        Launcher *launcher;
        Id id; /* of the session that it becomes */
        int cgroup_fd;
        NetworkNamespace network;
        pid_t init_pid;
        int init_pidfd;
        LoopIo *init_io;
        unsigned n_stages; /* that are done */
        PrivLink *init_link;
        bool is_watched; /* the watch answers for its masks */
};

/* Starts sandbox-init, which waits for INIT_START on the link. mask_fd: of watch_mount(); -EBADF: plain
 * masks. */
typedef struct InitSpec {
        int cgroup_fd;
        const NetworkNamespace *network;
        int mask_fd;
} InitSpec;
int init_spawn(Launcher *l, const InitSpec *spec, pid_t *ret_pid, int *ret_pidfd,
               PrivLink **ret_link) _must_check_;

/* The pool is filled a little after the last use; before that blank_take() may return NULL. */
int blanks_start(Launcher *l) _must_check_;
void blanks_stop(Launcher *l);
/* What was made before is not used any more. */
void blanks_renew(Launcher *l);

/* The caller owns it and sets the handlers of link and pidfd. */
Blank *blank_take(Launcher *l);

/* Ends and removes what it still holds. */
Blank *blank_free(Blank *b);
