/*
 * What a session leaves in its workspace: a one-shot child with the user's own rights, and no others, walks
 * through it; its answer goes to the user's worker unread. The folder is one that the worker names: it says
 * of it no more than its user could see anyway.
 */

#include <errno.h>

#include "daemon/launcher/leftover.h"
#include "daemon/launcher/lookup.h"
#include "daemon/launcher/user.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

/* Children of earlier reports that a user's file system, or the user, holds on to. */
#define LEFTOVERS_MAX 2U

static void send_answer(User *u, uint64_t token, int error, int fd)
{
        PrivSessionReported m = { .token = token, .error = error };

        user_send(u, PRIV_SESSION_REPORTED, &m, sizeof(m), &fd, fd >= 0 ? 1 : 0);
}

static void on_answer(void *userdata, int error, const void *data, size_t size)
{
        User *u = userdata;
        _cleanup_close_ int fd = -EBADF;
        int r = error;

        if (r >= 0)
                r = fd_memfd_sealed("report", data, size, &fd);
        u->report = NULL;
        send_answer(u, u->report_token, r < 0 ? r : 0, fd);
}

static int start(User *u, const PrivSessionReport *m)
{
        char argument[PRIV_PATH_SIZE + 32];
        LookupQuestion question = { .what = "report",
                                    .argument = argument,
                                    .is_of_user = true,
                                    .uid = u->uid,
                                    .gid = u->identity.gid };
        int r;

        if (u->report || leftover_count(u->launcher, u->uid) >= LEFTOVERS_MAX)
                return -EBUSY;
        r = str_printf(argument, sizeof(argument), "%llu:%s", (unsigned long long) m->since_usec,
                       m->workspace);
        if (r < 0)
                return r;
        u->report_token = m->token;
        return lookup_new(u->launcher, &question, on_answer, u, &u->report);
}

int report_ask(User *u, const PrivSessionReport *m)
{
        int r;

        if (!PRIV_STRING_OK(m->workspace) || m->workspace[0] != '/')
                return -EPROTO;
        r = start(u, m);
        if (r < 0)
                send_answer(u, m->token, r, -EBADF);
        return 0;
}
