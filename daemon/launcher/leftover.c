/*
 * Children that were killed and are not gone yet. Nobody may wait for them: a child with a user's rights
 * stands unkillably in that user's file system for as long as its server likes, and one that the user traces
 * is not ours to reap before the tracer has. Readiness of a pidfd does not say so, and a descriptor that
 * stays ready would spin in the loop: they are asked now and then.
 */

#include "daemon/launcher/leftover.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proto/base/clock.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"

#define LEFTOVER_ASK_USEC (USEC_PER_SEC / 4)

typedef struct Leftover {
        ListLink link;
        uint32_t uid;
        int pidfd;
} Leftover;

static bool is_gone(int pidfd)
{
        siginfo_t info = { 0 };
        int r;

        do
                r = waitid(P_PIDFD, (id_t) pidfd, &info, WEXITED | WNOHANG);
        while (r < 0 && errno == EINTR);
        return r < 0 || info.si_pid != 0;
}

static void leftover_free(Leftover *o)
{
        list_unlink(&o->link);
        (void) fd_close(o->pidfd);
        free(o);
}

static void ask_again(Launcher *l)
{
        if (!list_is_empty(&l->leftovers) && loop_timer_set(l->leftover_timer, LEFTOVER_ASK_USEC) < 0)
                (void) log_warning(0, "no timer for children that were killed; they stay zombies");
}

static void on_time(void *userdata)
{
        Launcher *l = userdata;

        LIST_FOREACH (o, &l->leftovers, Leftover, link)
                if (is_gone(o->pidfd))
                        leftover_free(o);
        ask_again(l);
}

int leftover_open(Launcher *l)
{
        return loop_timer_new(l->loop, on_time, l, &l->leftover_timer);
}

void leftover_done(Launcher *l)
{
        LIST_FOREACH (o, &l->leftovers, Leftover, link)
                leftover_free(o);
        l->leftover_timer = loop_timer_free(l->leftover_timer);
}

void leftover_kill(Launcher *l, uint32_t uid, int take_pidfd)
{
        _cleanup_close_ int pidfd = take_pidfd;
        Leftover *o;

        if (pidfd < 0)
                return;
        (void) syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
        if (is_gone(pidfd))
                return;
        o = calloc(1, sizeof(*o));
        if (!o) {
                (void) log_warning(-ENOMEM, "a child that was killed stays a zombie");
                return;
        }
        *o = (Leftover){ .uid = uid, .pidfd = TAKE_FD(pidfd) };
        list_append(&l->leftovers, &o->link);
        ask_again(l);
}

size_t leftover_count(const Launcher *l, uint32_t uid)
{
        size_t n = 0;

        LIST_FOREACH (o, &l->leftovers, Leftover, link)
                n += o->uid == uid;
        return n;
}
