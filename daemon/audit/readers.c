#include "daemon/audit/readers.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/audit/reader.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/list.h"
#include "proto/base/log.h"

#define READERS_MAX          64U
#define READERS_PER_USER_MAX 16U /* who does not read their rows keeps nobody else from theirs */
#define HELPERS              3U /* spares for one that somebody kills: after the store is open none can be made */
#define HELPER_NICE          5
#define STREAM_FDS                                                                                        \
        2U /* the writing end of the stream, and a socket: closed, the reader is gone; a byte on it, rows \
              came */

typedef struct Running {
        ListLink link;
        Readers *readers;
        LoopIo *io;
        int fd;
        uint32_t uid;
        bool is_following;
} Running;

struct Readers {
        int helper_fds[HELPERS]; /* the first one that is open is asked */
        ListLink running;
        unsigned n_running;
};

typedef struct Packet {
        struct msghdr header;
        struct iovec body;
        union {
                struct cmsghdr align;
                char space[CMSG_SPACE(sizeof(int) * STREAM_FDS)];
        } control;
} Packet;

static void packet_init(Packet *p, ReaderRequest *request)
{
        *p = (Packet){ .body = { .iov_base = request, .iov_len = sizeof(*request) } };
        p->header.msg_iov = &p->body;
        p->header.msg_iovlen = 1;
        p->header.msg_control = &p->control;
        p->header.msg_controllen = sizeof(p->control);
}

/* 1: a request; 0: the writer is gone. */
static int receive_request(int fd, ReaderRequest *ret, int fds[STREAM_FDS])
{
        const struct cmsghdr *c;
        Packet p;
        ssize_t n;

        packet_init(&p, ret);
        do
                n = recvmsg(fd, &p.header, MSG_CMSG_CLOEXEC);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return neg_errno();
        c = CMSG_FIRSTHDR(&p.header);
        if ((size_t) n != sizeof(*ret) || !c || c->cmsg_len != CMSG_LEN(sizeof(int) * STREAM_FDS))
                return n == 0 ? 0 : -EPROTO;
        memcpy(fds, CMSG_DATA(c), sizeof(int) * STREAM_FDS);
        return 1;
}

static int send_request(int fd, const ReaderRequest *request, const int fds[STREAM_FDS])
{
        ReaderRequest copy = *request;
        Packet p;

        packet_init(&p, &copy);
        p.control.align = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int) * STREAM_FDS),
                                            .cmsg_level = SOL_SOCKET,
                                            .cmsg_type = SCM_RIGHTS };
        memcpy(CMSG_DATA(&p.control.align), fds, sizeof(int) * STREAM_FDS);
        if (sendmsg(fd, &p.header, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
                return neg_errno();
        return 0;
}

static int run(const char *directory, const ReaderRequest *request, const int fds[STREAM_FDS])
{
        return request->is_verify ? verifier_run(directory, &request->verify, fds[0])
                                  : reader_run(directory, request, fds[0], fds[1]);
}

_noreturn_ static void run_helper(const char *directory, int fd)
{
        struct sigaction ignore = { .sa_handler = SIG_IGN, .sa_flags = SA_NOCLDWAIT };
        ReaderRequest request;
        int fds[STREAM_FDS];

        /* Whoever asks for rows waits behind those who write them: in a session of its own, because the
         * kernel may share out the processors by session. */
        (void) setsid();
        (void) setpriority(PRIO_PROCESS, 0, HELPER_NICE);
        /* Nothing of the writer's stays open here, the launcher's channel least of all. */
        if (dup3(fd, 3, O_CLOEXEC) < 0 && fd != 3)
                _exit(1);
        if (close_range(4, ~0U, 0) < 0 || sigaction(SIGCHLD, &ignore, NULL) < 0 ||
            sigaction(SIGPIPE, &ignore, NULL) < 0)
                _exit(1);
        while (receive_request(3, &request, fds) > 0) {
                pid_t pid = fork(); /* banned:ok */

                if (pid == 0) {
                        (void) fd_close(3);
                        _exit(run(directory, &request, fds) < 0 ? 1 : 0);
                }
                fd_close_many(fds, STREAM_FDS);
        }
        _exit(0);
}

static int start_helper(const char *directory, int *ret_fd)
{
        int pair[2];
        pid_t pid;

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return neg_errno();
        pid = fork(); /* banned:ok */
        if (pid == 0)
                run_helper(directory, pair[1]);
        (void) fd_close(pair[1]);
        *ret_fd = pair[0];
        return pid < 0 ? neg_errno() : 0;
}

int readers_new(const char *directory, Readers **ret)
{
        _cleanup_(readers_freep) Readers *r = calloc(1, sizeof(*r));

        if (!r)
                return -ENOMEM;
        list_init(&r->running);
        for (size_t i = 0; i < HELPERS; i++)
                r->helper_fds[i] = -EBADF;
        for (size_t i = 0; i < HELPERS; i++) {
                int result = start_helper(directory, &r->helper_fds[i]);

                if (result < 0)
                        return result;
        }
        *ret = TAKE_PTR(r);
        return 0;
}

static int send_to_helper(Readers *r, const ReaderRequest *request, const int fds[STREAM_FDS])
{
        int result = -EPIPE;

        for (size_t i = 0; i < HELPERS; i++) {
                if (r->helper_fds[i] < 0)
                        continue;
                result = send_request(r->helper_fds[i], request, fds);
                if (result != -EPIPE && result != -ECONNRESET)
                        return result;
                (void) log_warning(result, "a helper that reads rows is gone");
                r->helper_fds[i] = fd_close(r->helper_fds[i]);
        }
        return result;
}

static void running_free(Running *x)
{
        x->readers->n_running--;
        list_unlink(&x->link);
        x->io = loop_io_free(x->io);
        x->fd = fd_close(x->fd);
        free(x);
}

Readers *readers_free(Readers *r)
{
        if (!r)
                return NULL;
        LIST_FOREACH (x, &r->running, Running, link)
                running_free(x);
        fd_close_many(r->helper_fds, HELPERS);
        free(r);
        return NULL;
}

/* The reader writes nothing there: readable is closed. */
static void on_ended(void *userdata, _unused_ int fd, _unused_ unsigned events)
{
        running_free(userdata);
}

static int watch(Readers *r, Loop *loop, const ReaderRequest *request, int take_fd)
{
        Running *x = calloc(1, sizeof(*x));

        if (!x) {
                (void) fd_close(take_fd);
                return -ENOMEM;
        }
        *x = (Running){ .readers = r,
                        .fd = take_fd,
                        .uid = request->uid,
                        .is_following = !request->is_verify && request->query.is_following != 0 };
        list_init(&x->link);
        list_append(&r->running, &x->link);
        r->n_running++;
        if (loop_io_new(loop, x->fd, LOOP_READ, on_ended, x, &x->io) < 0) {
                x->io = NULL;
                running_free(x);
                return -ENOMEM;
        }
        return 0;
}

/* A socket that is full holds a byte that the reader has not seen: it will look. */
void readers_poke(const Readers *r)
{
        LIST_FOREACH (x, &r->running, const Running, link) {
                if (x->is_following)
                        (void) !write(x->fd, "", 1);
        }
}

static bool may_start(const Readers *r, uint32_t uid)
{
        unsigned n = 0;

        LIST_FOREACH (x, &r->running, const Running, link)
                n += x->uid == uid;
        /* Some are always left for root. */
        return n < READERS_PER_USER_MAX &&
               r->n_running < READERS_MAX + (uid == 0 ? READERS_PER_USER_MAX : 0);
}

int readers_start(Readers *r, Loop *loop, const ReaderRequest *request, int *ret_fd)
{
        _cleanup_close_ int from = -EBADF, to = -EBADF, alive = -EBADF, held = -EBADF;
        int stream[2], life[2], result;

        if (!may_start(r, request->uid))
                return -EBUSY;
        if (pipe2(stream, O_CLOEXEC) < 0)
                return neg_errno();
        from = stream[0];
        to = stream[1];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, life) < 0)
                return neg_errno();
        alive = life[0];
        held = life[1];
        result = send_to_helper(r, request, (int[STREAM_FDS]){ to, held });
        if (result >= 0)
                result = watch(r, loop, request, TAKE_FD(alive));
        if (result < 0)
                return result;
        *ret_fd = TAKE_FD(from);
        return 0;
}
