#pragma once

/*
 * The watch: it answers for the masks of denied paths. Each session has a FUSE connection, whose nodes are
 * bound over what the session is denied; every request is refused in the turn that reads it, once it is
 * counted, and audit hears of it. It has no content to give, and holds nothing that could be opened.
 */

#include "daemon/init/plan.h"
#include "daemon/loop/link.h"
#include "daemon/watch/burst.h"
#include "proto/base/hash.h"

typedef struct Watch {
        Loop *loop;
        PrivLink *launcher;
        int launcher_fd; /* borrowed */
        PrivLink *audit; /* NULL: none now, what is counted waits */
        int proc_fd;
        Map mounts;
        LoopTimer *timer;
        bool is_timer_set;
} Watch;

typedef struct Mount {
        Watch *watch;
        Id session;
        char session_text[ID_TEXT_SIZE];
        int fd;      /* of the FUSE device, non-blocking */
        int root_fd; /* of its file system: held so that it ends here */
        LoopIo *io;
        bool is_over;
        bool is_paused; /* too many requests: the rest waits in the kernel, where it can be killed */
        uint32_t init_pid;
        Plan plan; /* header NULL: nobody's yet */
        size_t plan_size;
        Bucket requests;
        Bursts bursts;
} Mount;

/* mount.c. Takes the descriptors. */
int mount_open(Watch *w, const Id *session, int take_fd, int take_root_fd) _must_check_;
void mount_over(Watch *w, const Id *session);
/* -ENOENT: its connection is over already. */
int mount_assign(Watch *w, const PrivWatchSession *s, int plan_fd) _must_check_;
void mounts_tell(Watch *w);
void mounts_done(Watch *w);
