#include "daemon/launcher/lookup.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/isolate/spawn.h"
#include "daemon/launcher/leftover.h"
#include "proto/base/buf.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"

#define LOOKUP_DEADLINE_USEC (12 * USEC_PER_SEC) /* what a child waits for itself, and some */
#define LOOKUP_OUTPUT_MAX    (1024U * 1024U)
#define LOOKUP_CHUNK         16384U

/* Before the workers' own users are known: an id that owns nothing. */
#define LOOKUP_ID_NOBODY 65534U

struct Lookup {
        Launcher *launcher;
        LookupCallback callback;
        void *userdata;
        const char *what;
        Buf output;
        LoopIo *output_io;
        LoopIo *pidfd_io;
        LoopTimer *timer;
        uint32_t uid; /* whose rights the child has */
        int output_fd;
        int pidfd;
        bool has_output;
        bool has_ended;
        bool is_done;
        int error;
};

static void close_all(Lookup *k)
{
        k->output_io = loop_io_free(k->output_io);
        k->pidfd_io = loop_io_free(k->pidfd_io);
        k->timer = loop_timer_free(k->timer);
        k->output_fd = fd_close(k->output_fd);
        leftover_kill(k->launcher, k->uid, TAKE_FD(k->pidfd));
}

static void finish(void *userdata)
{
        Lookup *k = userdata;

        if (k->callback)
                k->callback(k->userdata, k->error, k->output.data, buf_size(&k->output));
        buf_done(&k->output);
        free(k);
}

static void complete(Lookup *k, int error)
{
        if (k->is_done)
                return;
        k->is_done = true;
        k->error = error;
        if (error < 0)
                (void) log_error(error, "looking up %s failed", k->what);
        close_all(k);
        if (loop_defer(k->launcher->loop, finish, k) < 0)
                finish(k);
}

static void on_output(void *userdata, int fd, _unused_ unsigned events)
{
        Lookup *k = userdata;
        ssize_t n;
        char *tail;
        int r;

        r = buf_reserve(&k->output, LOOKUP_CHUNK, &tail);
        if (r < 0) {
                complete(k, r);
                return;
        }
        n = read(fd, tail, LOOKUP_CHUNK);
        if (n < 0) {
                if (errno != EAGAIN && errno != EINTR)
                        complete(k, neg_errno());
                return;
        }
        if (n > 0) {
                buf_commit(&k->output, (size_t) n);
                return;
        }
        k->has_output = true;
        k->output_io = loop_io_free(k->output_io);
        if (k->has_ended)
                complete(k, 0);
}

static void on_pidfd(void *userdata, int fd, _unused_ unsigned events)
{
        Lookup *k = userdata;
        siginfo_t info = { 0 };

        if (waitid(P_PIDFD, (id_t) fd, &info, WEXITED | WNOHANG) < 0)
                return;
        k->pidfd_io = loop_io_free(k->pidfd_io);
        if (info.si_pid == 0) {
                /* Dead, and somebody traces it: not ours to ask yet. */
                complete(k, -EPROTO);
                return;
        }
        k->pidfd = fd_close(k->pidfd);
        k->has_ended = true;
        if (info.si_code != CLD_EXITED || info.si_status != 0)
                complete(k, info.si_code == CLD_EXITED && info.si_status == 1 ? -ENOENT : -EPROTO);
        else if (k->has_output)
                complete(k, 0);
}

static void on_deadline(void *userdata)
{
        complete(userdata, -ETIMEDOUT);
}

static int spawn_lookup(Lookup *k, const LookupQuestion *question, int output_fd)
{
        static const char *const environment[] = { "LANG=C.UTF-8", "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                                                   NULL };
        const char *arguments[] = { "sandboxd-lookup", k->what, question->argument, NULL };
        const Kernel *kernel = k->launcher->kernel;
        SpawnSpec spec = { .program_fd = kernel->program_fds[PROGRAM_LOOKUP],
                           .arguments = (char *const *) (uintptr_t) arguments,
                           .environment = (char *const *) (uintptr_t) environment,
                           .cgroup_fd = -EBADF,
                           .null_fd = kernel->null_fd,
                           .output_fd = output_fd,
                           .fds = question->child_fds,
                           .n_fds = question->n_child_fds,
                           .uid = k->uid,
                           .gid = question->is_of_user ? question->gid : LOOKUP_ID_NOBODY };
        pid_t pid;

        return spawn(&spec, &pid, &k->pidfd);
}

static int watch(Lookup *k)
{
        Loop *loop = k->launcher->loop;
        int r;

        r = loop_io_new(loop, k->output_fd, LOOP_READ, on_output, k, &k->output_io);
        if (r >= 0)
                r = loop_io_new(loop, k->pidfd, LOOP_READ, on_pidfd, k, &k->pidfd_io);
        if (r >= 0)
                r = loop_timer_new(loop, on_deadline, k, &k->timer);
        if (r >= 0)
                r = loop_timer_set(k->timer, LOOKUP_DEADLINE_USEC);
        return r;
}

int lookup_new(Launcher *l, const LookupQuestion *question, LookupCallback callback, void *userdata,
               Lookup **ret)
{
        Lookup *k = calloc(1, sizeof(*k));
        int pipe_fds[2] = { -EBADF, -EBADF }, r = 0;

        if (!k)
                return -ENOMEM;
        *k = (Lookup){ .launcher = l,
                       .callback = callback,
                       .userdata = userdata,
                       .what = question->what,
                       .uid = question->is_of_user ? question->uid : LOOKUP_ID_NOBODY,
                       .output = BUF_INIT(LOOKUP_OUTPUT_MAX),
                       .output_fd = -EBADF,
                       .pidfd = -EBADF };
        if (pipe2(pipe_fds, O_CLOEXEC) < 0)
                r = neg_errno();
        if (r >= 0)
                r = fd_set_nonblock(pipe_fds[0], true);
        if (r >= 0)
                r = spawn_lookup(k, question, pipe_fds[1]);
        k->output_fd = TAKE_FD(pipe_fds[0]);
        pipe_fds[1] = fd_close(pipe_fds[1]);
        if (r >= 0)
                r = watch(k);
        if (r < 0) {
                close_all(k);
                free(k);
                return r;
        }
        *ret = k;
        return 0;
}

Lookup *lookup_free(Lookup *k)
{
        if (k) {
                k->callback = NULL;
                complete(k, 0);
        }
        return NULL;
}
