/*
 * The next command's process, made before anybody asks for it, where commands follow each other: making the
 * group and the process is a third of the time between a request and execve().
 *
 * It is a child of init's like any other, in the group of the number that comes next, with the session's
 * rights and filters, and holds two descriptors. Commands of the session see it and may end it or stop it
 * (it is of their user); so one that is gone is not missed, and it is told to continue before it gets its
 * request. One request each.
 */

#include <errno.h>
#include <signal.h>

#include "daemon/init/child.h"
#include "proto/base/fd.h"

/* Sessions of one command are the most common ones. */
#define SPARE_AFTER 2U

struct Spare {
        Command *command;
        ImsgChannel channel; /* where we have api's end */
};

static Spare *spare_free(Spare *p)
{
        if (!p)
                return NULL;
        imsg_channel_done(&p->channel);
        (void) command_free(p->command);
        free(p);
        return NULL;
}

DEFINE_CLEANUP(Spare *, spare_free)

bool spare_is_wanted(const Server *s)
{
        return !s->spare && s->n_started >= SPARE_AFTER && s->n_started != s->spare_tried &&
               s->n_commands < SERVE_COMMANDS_MAX;
}

int spare_make(Server *s)
{
        _cleanup_(spare_freep) Spare *p = NULL;
        _cleanup_close_ int error_fd = -EBADF, theirs = -EBADF;
        Child child = { .server = s };
        int pair[2], r;

        /* Once for each command: what fails now would fail again. */
        s->spare_tried = s->n_started;
        p = calloc(1, sizeof(*p));
        if (!p)
                return -ENOMEM;
        p->channel.fd = -EBADF;
        r = command_new(s->last_process + 1, &p->command, &error_fd);
        if (r >= 0)
                r = imsg_pair(pair);
        if (r < 0)
                return r;
        theirs = pair[1];
        r = imsg_channel_init(&p->channel, pair[0], CHANNEL_API_INIT, ROLE_API);
        if (r < 0)
                return r;
        child.error_fd = error_fd;
        child.channel_fd = theirs;
        r = command_clone(s, p->command, &child);
        if (r < 0)
                return r;
        s->spare = TAKE_PTR(p);
        return 0;
}

/* It goes when it is reaped. */
static void spare_end(const Server *s)
{
        (void) kill(s->spare->command->pid, SIGKILL);
}

static int spare_send(Spare *p, const Imsg *m, const CommandRequest *request)
{
        _cleanup_close_ int slave = -EBADF;
        int fds[4] = { request->gate_fd }, r;
        size_t n_fds = 4;

        if (request->has_pty) {
                r = command_open_pty(request, &p->command->master_fd, &slave);
                if (r < 0)
                        return r;
                fds[1] = slave;
                n_fds = 2;
        } else {
                for (size_t i = 0; i < 3; i++)
                        fds[i + 1] = request->fds[i];
        }
        r = imsg_send(&p->channel, PRIV_EXEC, m->body, m->size, fds, n_fds);
        return r >= 0 && imsg_has_queue(&p->channel) ? -EAGAIN : r;
}

int spare_take(Server *s, const Imsg *m, const CommandRequest *request, Command **ret)
{
        Spare *p = s->spare;

        if (!p)
                return -EAGAIN;
        if (p->command->process != request->process || kill(p->command->pid, SIGCONT) < 0 ||
            spare_send(p, m, request) < 0) {
                p->command->master_fd = fd_close(p->command->master_fd);
                spare_end(s);
                return -EAGAIN;
        }
        *ret = TAKE_PTR(p->command);
        s->spare = spare_free(p);
        return 0;
}

bool spare_has_group(const Server *s, uint32_t process)
{
        return s->spare && s->spare->command->process == process;
}

void spare_reaped(Server *s, pid_t pid)
{
        if (!s->spare || s->spare->command->pid != pid)
                return;
        /* Where its number was given to a command meanwhile, the group is that one's. */
        (void) !command_group_remove(s, s->spare->command);
        s->spare = spare_free(s->spare);
}
