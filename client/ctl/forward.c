/* forward: a port of the host's loopback that leads to one of a session, for programs of the user who
 * listens. */

#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/ctl/ctl.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/list.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"
#include "proto/base/tcp_peer.h"

#define ROOM      (64U * 1024U)
#define BACKLOG   64
#define PIPES_MAX 128U

/* Bytes one way. */
typedef struct Way {
        int from;
        int to;
        size_t begin;
        size_t end;
        bool is_eof;
        bool is_shut;
        char data[ROOM];
} Way;

/* One connection: until the daemon has answered, then both of its ends. */
typedef struct Pipe {
        ListLink link;
        SandboxdClient *call; /* NULL: it was answered */
        int outside;
        int inside;
        size_t polled; /* where the ends, or the call, stand in what is polled */
        Way up;
        Way down;
} Pipe;

typedef struct Forward {
        const Common *common;
        const char *id;
        SandboxdClient *waiting; /* for the session's end */
        int listen_fd;
        int diag_fd;
        uint16_t port;
        ListLink pipes;
        size_t n_pipes;
        struct pollfd polls[2 + 2 * PIPES_MAX];
        size_t n_polls;
} Forward;

static void pull(Way *w)
{
        ssize_t n;

        if (w->is_eof || w->end > w->begin)
                return;
        n = recv(w->from, w->data, sizeof(w->data), MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return;
        w->begin = 0;
        w->end = n > 0 ? (size_t) n : 0;
        w->is_eof = n <= 0;
}

static bool push(Way *w)
{
        if (w->end > w->begin) {
                ssize_t n = send(w->to, w->data + w->begin, w->end - w->begin, MSG_DONTWAIT | MSG_NOSIGNAL);

                if (n < 0)
                        return errno == EAGAIN || errno == EINTR;
                w->begin += (size_t) n;
        }
        if (w->is_eof && w->end == w->begin && !w->is_shut) {
                w->is_shut = true;
                (void) shutdown(w->to, SHUT_WR);
        }
        return true;
}

static short wanted(const Way *in, const Way *out)
{
        return (short) ((!in->is_eof && in->end == in->begin ? POLLIN : 0) |
                        (out->end > out->begin ? POLLOUT : 0));
}

static void pipe_free(Forward *f, Pipe *p)
{
        list_unlink(&p->link);
        f->n_pipes--;
        (void) sandboxd_client_free(p->call);
        p->outside = fd_close(p->outside);
        p->inside = fd_close(p->inside);
        free(p);
}

/* False: it is over. */
static bool move_bytes(Pipe *p)
{
        pull(&p->up);
        pull(&p->down);
        return push(&p->up) && push(&p->down) && !(p->up.is_shut && p->down.is_shut);
}

/* ---- one connection ---- */

static int ask(const Forward *f, Pipe *p)
{
        _cleanup_json_ Json *parameters = NULL;
        int status = new_parameters("id", f->id, &parameters), r;

        if (status == 0 && json_set_integer(parameters, "port", f->port) < 0)
                status = fail("out of memory");
        if (status == 0)
                status = ctl_connect(f->common, &p->call);
        if (status != 0)
                return status;
        r = sandboxd_send(p->call, SESSION "Forward", parameters, 0, NULL, 0);
        return r < 0 ? fail_call(f->common, r) : 0;
}

/* Takes the connection. */
static void pipe_new(Forward *f, int take_fd)
{
        Pipe *p = calloc(1, sizeof(*p));

        if (!p) {
                (void) fd_close(take_fd);
                (void) fail("out of memory");
                return;
        }
        p->outside = take_fd;
        p->inside = -EBADF;
        list_init(&p->link);
        list_append(&f->pipes, &p->link);
        f->n_pipes++;
        if (ask(f, p) != 0)
                pipe_free(f, p);
}

/* False: there is none, and why was said. */
static bool take_answer(const Forward *f, Pipe *p)
{
        _cleanup_(sandboxd_reply_done) SandboxdReply reply = SANDBOXD_REPLY_INIT;
        int r = sandboxd_try_next(p->call, &reply);

        if (r == 0)
                return true;
        if (r < 0)
                (void) fail_call(f->common, r);
        else if (reply.error)
                (void) fail_reply(&reply);
        else if (reply.n_fds != 1)
                (void) fail("the daemon sent no connection");
        else
                p->inside = TAKE_FD(reply.fds[0]);
        p->call = sandboxd_client_free(p->call);
        if (p->inside < 0)
                return false;
        p->up.from = p->down.to = p->outside;
        p->up.to = p->down.from = p->inside;
        return true;
}

static void take_connection(Forward *f)
{
        _cleanup_close_ int fd = accept4(f->listen_fd, NULL, NULL, SOCK_CLOEXEC);
        uint32_t uid;
        int r;

        if (fd < 0)
                return;
        r = tcp_peer_uid(f->diag_fd, fd, &uid);
        if (r < 0 || (uid != getuid() && uid != 0))
                (void) fail("a connection that is not yours is refused");
        else
                pipe_new(f, TAKE_FD(fd));
}

/* ---- all of them ---- */

static void add_poll(Forward *f, int fd, short events)
{
        /* An end of which nothing is wanted would say again and again that it has hung up. */
        f->polls[f->n_polls++] = (struct pollfd){ .fd = events ? fd : -1, .events = events };
}

static void fill_polls(Forward *f)
{
        f->n_polls = 0;
        add_poll(f, sandboxd_fd(f->waiting), POLLIN);
        add_poll(f, f->listen_fd, f->n_pipes < PIPES_MAX ? POLLIN : 0);
        LIST_FOREACH (p, &f->pipes, Pipe, link) {
                p->polled = f->n_polls;
                if (p->call)
                        add_poll(f, sandboxd_fd(p->call), POLLIN);
                else {
                        add_poll(f, p->outside, wanted(&p->up, &p->down));
                        add_poll(f, p->inside, wanted(&p->down, &p->up));
                }
        }
}

static void serve_pipes(Forward *f)
{
        LIST_FOREACH (p, &f->pipes, Pipe, link) {
                bool is_asking = p->call != NULL, is_good = true;
                const struct pollfd *polled = &f->polls[p->polled];

                if (is_asking && polled[0].revents)
                        is_good = take_answer(f, p);
                else if (!is_asking && (polled[0].revents || polled[1].revents))
                        is_good = move_bytes(p);
                if (!is_good)
                        pipe_free(f, p);
        }
}

static int attend(Forward *f)
{
        for (;;) {
                _cleanup_(sandboxd_reply_done) SandboxdReply reply = SANDBOXD_REPLY_INIT;
                int r = 0;

                fill_polls(f);
                if (poll(f->polls, f->n_polls, -1) < 0)
                        continue;
                if (f->polls[0].revents)
                        r = sandboxd_try_next(f->waiting, &reply);
                if (r < 0)
                        return fail_call(f->common, r);
                if (r > 0)
                        return reply.error ? fail_reply(&reply) : 0;
                serve_pipes(f);
                if (f->polls[1].revents)
                        take_connection(f);
        }
}

static int listen_here(uint16_t *port, int *ret_fd)
{
        struct sockaddr_in a = { .sin_family = AF_INET,
                                 .sin_port = htons(*port),
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        _cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        socklen_t size = sizeof(a);
        int one = 1;

        if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
            bind(fd, (struct sockaddr *) &a, sizeof(a)) < 0 || listen(fd, BACKLOG) < 0 ||
            getsockname(fd, (struct sockaddr *) &a, &size) < 0)
                return neg_errno();
        *port = ntohs(a.sin_port);
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static int show_listener(const Common *common, uint16_t local, uint16_t port)
{
        _cleanup_json_ Json *line = NULL;

        if (!common->has_json)
                return print("127.0.0.1:%u leads to port %u of the session\n", local, port) ? 0 : EXIT_OURS;
        if (json_new_object(&line) < 0 || json_set_string(line, "address", "127.0.0.1") < 0 ||
            json_set_integer(line, "port", local) < 0 || json_set_integer(line, "sessionPort", port) < 0)
                return fail("out of memory");
        return print_json(STDOUT_FILENO, line) ? 0 : EXIT_OURS;
}

/* The listener lives as long as the session. */
static int open_wait(const Common *common, const char *id, SandboxdClient **ret)
{
        _cleanup_(sandboxd_client_freep) SandboxdClient *client = NULL;
        _cleanup_(sandboxd_reply_done) SandboxdReply reply = SANDBOXD_REPLY_INIT;
        _cleanup_json_ Json *p = NULL;
        int status, r;

        status = new_parameters("id", id, &p);
        /* That there is none is said before anything is opened for it. */
        if (status == 0)
                status = ctl_call(common, SESSION "Describe", sandboxd_value_ref(p), &reply);
        if (status == 0)
                status = ctl_connect(common, &client);
        if (status != 0)
                return status;
        r = sandboxd_send(client, SESSION "Wait", p, 0, NULL, 0);
        if (r < 0)
                return fail_call(common, r);
        *ret = TAKE_PTR(client);
        return 0;
}

static int parse(Common *common, int argc, char *argv[], uint16_t *ret_port, uint16_t *ret_local)
{
        static const struct option options[] = { { "local-port", required_argument, NULL, 'l' },
                                                 COMMON_OPTIONS };
        const char *local = NULL;
        int c;

        while ((c = next_option(common, argc, argv, "+", options)) >= 0) {
                if (c != 'l')
                        return EXIT_OURS;
                local = optarg;
        }
        if (argc - optind != 2)
                return fail("usage: sandboxctl forward [--local-port PORT] ID PORT");
        if (parse_port(argv[optind + 1], ret_port) < 0)
                return fail("%s: expected a port, from 1 to 65535", shown(argv[optind + 1]));
        *ret_local = local && str_equal(local, "0") ? 0 : *ret_port;
        if (local && *ret_local != 0 && parse_port(local, ret_local) < 0)
                return fail("--local-port %s: expected a port, or 0", shown(local));
        return 0;
}

int verb_forward(Common *common, int argc, char *argv[])
{
        _cleanup_(sandboxd_client_freep) SandboxdClient *waiting = NULL;
        _cleanup_close_ int listen_fd = -EBADF, diag_fd = -EBADF;
        static Forward f;
        uint16_t local;
        int status = parse(common, argc, argv, &f.port, &local), r;

        if (status == 0)
                status = open_wait(common, argv[optind], &waiting);
        if (status != 0)
                return status;
        r = tcp_peer_open(&diag_fd);
        if (r < 0)
                return fail("this kernel does not say who connects: %s", error_name(r));
        r = listen_here(&local, &listen_fd);
        if (r < 0)
                return fail("cannot listen on port %u: %s: choose another with --local-port", local,
                            error_name(r));
        status = show_listener(common, local, f.port);
        if (status != 0)
                return status;
        f.common = common;
        f.id = argv[optind];
        f.waiting = waiting;
        f.listen_fd = listen_fd;
        f.diag_fd = diag_fd;
        list_init(&f.pipes);
        status = attend(&f);
        LIST_FOREACH (p, &f.pipes, Pipe, link)
                pipe_free(&f, p);
        return status;
}
