/* attach: bytes and signals of a command that another call started, and which goes on when we leave. */

#include "client/ctl/attach.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"
#include "proto/wire/frame.h"

#define CHUNK       4096U
#define OUTPUT_ROOM (4U * FRAME_PAYLOAD_MAX)
#define CREDIT_STEP (64U * 1024U)
#define KEY_PREFIX  '\020' /* Ctrl-P */
#define KEY_LEAVE   '\021' /* Ctrl-Q */

typedef struct Attached {
        int fd;
        int signal_fd;
        bool is_read_only;
        bool is_bound;
        bool is_terminal;  /* what the command has */
        bool has_terminal; /* and ours is in raw mode */
        bool has_input_end;
        bool has_prefix; /* of the keys that leave */
        bool is_left;
        bool is_over;
        int status;
        uint64_t credit; /* bytes of input that may be sent */
        size_t n_shown;  /* bytes of output that the daemon has no credit for again yet */
        uint64_t n_dropped;
        Buf input;
        Buf output;
} Attached;

static struct termios terminal_before;

/* ---- our terminal ---- */

static bool own_size(struct winsize *ret)
{
        return ioctl(STDIN_FILENO, TIOCGWINSZ, ret) >= 0 && ret->ws_col > 0 && ret->ws_row > 0;
}

static int describe_size(Json *p)
{
        _cleanup_json_ Json *terminal = NULL;
        struct winsize size;
        int r;

        if (!own_size(&size))
                return 0;
        r = json_new_object(&terminal);
        if (r >= 0)
                r = json_set_integer(terminal, "columns", size.ws_col);
        if (r >= 0)
                r = json_set_integer(terminal, "rows", size.ws_row);
        return r < 0 ? r : json_set(p, "terminal", TAKE_PTR(terminal));
}

static void set_raw(Attached *a)
{
        struct termios raw;

        if (tcgetattr(STDIN_FILENO, &terminal_before) < 0)
                return;
        raw = terminal_before;
        cfmakeraw(&raw);
        a->has_terminal = tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) >= 0;
}

/* ---- to the daemon ---- */

/* What there is no room for now is asked for again by poll(): callers look before. */
static void put(Attached *a, FrameType type, const void *data, size_t size)
{
        if (frame_put(&a->output, type, 0, data, size) < 0)
                a->is_over = true;
}

/* The keys that leave are not sent; other characters behind the first of them are, with it. */
static size_t filter_keys(Attached *a, const char *data, size_t size, char *to)
{
        size_t n = 0;

        for (size_t i = 0; i < size && !a->is_left; i++) {
                if (a->has_prefix && data[i] == KEY_LEAVE) {
                        a->is_left = true;
                        break;
                }
                if (a->has_prefix)
                        to[n++] = KEY_PREFIX;
                a->has_prefix = data[i] == KEY_PREFIX;
                if (!a->has_prefix)
                        to[n++] = data[i];
        }
        return n;
}

static void take_stdin(Attached *a)
{
        char data[CHUNK], filtered[2 * CHUNK + 1];
        ssize_t n = read(STDIN_FILENO, data, MIN_OF(sizeof(data), (size_t) a->credit));
        const char *from = data;

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return;
        if (n <= 0) {
                a->has_input_end = true;
                put(a, FRAME_STDIN, NULL, 0);
                return;
        }
        if (a->has_terminal && !a->is_bound) {
                n = (ssize_t) filter_keys(a, data, (size_t) n, filtered);
                from = filtered;
        }
        if (n == 0)
                return;
        put(a, FRAME_STDIN, from, (size_t) n);
        a->credit -= MIN_OF(a->credit, (uint64_t) n);
}

/* SIGTERM and SIGHUP are for us: the command goes on. */
static void take_signal(Attached *a)
{
        struct signalfd_siginfo info;
        struct winsize size;
        char name[16];

        if (read(a->signal_fd, &info, sizeof(info)) != (ssize_t) sizeof(info))
                return;
        if (info.ssi_signo == SIGWINCH) {
                if (a->has_terminal && own_size(&size) &&
                    frame_put_resize(&a->output, size.ws_col, size.ws_row) < 0)
                        a->is_over = true;
                return;
        }
        if (!a->is_bound && (info.ssi_signo == SIGTERM || info.ssi_signo == SIGHUP || a->is_read_only)) {
                a->is_left = true;
                a->status = EXIT_SIGNAL_BASE + (int) info.ssi_signo;
                return;
        }
        if (str_printf(name, sizeof(name), "SIG%s", sigabbrev_np((int) info.ssi_signo)) >= 0)
                put(a, FRAME_SIGNAL, name, strlen(name));
}

/* ---- from the daemon ---- */

static void show_bytes(Attached *a, int fd, const Frame *f)
{
        struct pollfd p = { .fd = fd, .events = POLLOUT };
        size_t done = 0;

        while (done < f->size) {
                ssize_t n = write(fd, f->payload + done, f->size - done);

                if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
                        (void) poll(&p, 1, -1);
                        continue;
                }
                if (n < 0) {
                        /* Nobody reads us: nobody is attached. */
                        a->is_left = true;
                        a->status = EXIT_SIGNAL_BASE + SIGPIPE;
                        return;
                }
                done += (size_t) n;
        }
        a->n_shown += f->size;
        if (a->n_shown < CREDIT_STEP)
                return;
        if (frame_put_number(&a->output, FRAME_CREDIT, 0, (uint32_t) a->n_shown) < 0)
                a->is_over = true;
        a->n_shown = 0;
}

static void take_frame(Attached *a, const Frame *f)
{
        switch (f->type) {
        case FRAME_STDOUT:
        case FRAME_STDERR:
                show_bytes(a, f->type == FRAME_STDOUT ? STDOUT_FILENO : STDERR_FILENO, f);
                break;
        case FRAME_CREDIT:
                a->credit += frame_number(f);
                break;
        case FRAME_DROPPED:
                a->n_dropped += frame_long_number(f);
                break;
        case FRAME_EXIT:
                a->is_over = true;
                a->status = (int) frame_number(f);
                if (f->flags & FRAME_EXIT_SIGNAL)
                        a->status += EXIT_SIGNAL_BASE;
                break;
        case FRAME_STDIN:
        case FRAME_RESIZE:
        case FRAME_SIGNAL:
        case FRAME_PING:
                break;
        }
}

/* 0, or an exit status. */
static int take_frames(Attached *a)
{
        Frame f;
        int r = 0;

        while (!a->is_over && !a->is_left && (r = frame_next(&a->input, /* is_daemon= */ false, &f)) > 0) {
                take_frame(a, &f);
                frame_consume(&a->input, &f);
        }
        return r < 0 ? fail("what the daemon sends makes no sense: do its version and this one's fit?") : 0;
}

static int receive(Attached *a)
{
        char *tail;
        ssize_t n;

        if (buf_reserve(&a->input, FRAME_PAYLOAD_MAX, &tail) < 0)
                return fail("out of memory");
        n = read(a->fd, tail, FRAME_PAYLOAD_MAX);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return 0;
        if (n <= 0)
                return fail("sandboxd closed the connection: the command may go on");
        buf_commit(&a->input, (size_t) n);
        return take_frames(a);
}

static int transmit(Attached *a)
{
        ssize_t n = write(a->fd, buf_front(&a->output), buf_size(&a->output));

        if (n < 0 && errno != EAGAIN && errno != EINTR && errno != EPIPE)
                return fail("talking to sandboxd failed: %s", error_name(neg_errno()));
        /* It has closed: what it said before is still to be read. */
        if (n < 0 && errno == EPIPE)
                n = (ssize_t) buf_size(&a->output);
        if (n > 0)
                buf_consume(&a->output, (size_t) n);
        return 0;
}

/* ---- both ---- */

static bool wants_stdin(const Attached *a)
{
        return !a->is_read_only && !a->has_input_end && a->credit > 0 && buf_size(&a->output) < CHUNK;
}

static int attend(Attached *a)
{
        int status = take_frames(a);

        while (status == 0 && !a->is_over && !a->is_left) {
                struct pollfd polls[] = {
                        { .fd = a->fd, .events = POLLIN },
                        { .fd = a->signal_fd, .events = POLLIN },
                        { .fd = wants_stdin(a) ? STDIN_FILENO : -1, .events = POLLIN },
                };

                if (buf_size(&a->output) > 0)
                        polls[0].events |= POLLOUT;
                if (poll(polls, ELEMENTSOF(polls), -1) < 0)
                        continue;
                if (polls[2].revents)
                        take_stdin(a);
                if (polls[1].revents)
                        take_signal(a);
                if (buf_size(&a->output) > 0)
                        status = transmit(a);
                if (status == 0 && (polls[0].revents & ~POLLOUT))
                        status = receive(a);
        }
        return status != 0 ? status : a->status;
}

static int describe(const AttachRequest *q, Json *p)
{
        int r;

        r = json_set_string(p, "id", q->id);
        if (r >= 0 && q->process)
                r = json_set_string(p, "process", q->process);
        if (r >= 0 && q->replay_bytes >= 0)
                r = json_set_integer(p, "replayBytes", q->replay_bytes);
        if (r >= 0 && q->is_read_only)
                r = json_set_boolean(p, "readOnly", true);
        if (r >= 0 && q->hangs_up)
                r = json_set_boolean(p, "hangUpOnDisconnect", true);
        return r < 0 || q->is_read_only ? r : describe_size(p);
}

/* The connection becomes the stream; 0 or an exit status. */
static int upgrade(const Common *common, const AttachRequest *q, Attached *a)
{
        _cleanup_(sandboxd_client_freep) SandboxdClient *client = NULL;
        _cleanup_(sandboxd_reply_done) SandboxdReply reply = SANDBOXD_REPLY_INIT;
        _cleanup_json_ Json *p = NULL;
        _cleanup_free_ char *early = NULL;
        size_t n_early = 0;
        int status, r;

        if (json_new_object(&p) < 0 || describe(q, p) < 0)
                return fail("out of memory");
        status = ctl_connect(common, &client);
        if (status != 0)
                return status;
        r = sandboxd_send(client, SESSION "Attach", p, SANDBOXD_UPGRADE, NULL, 0);
        if (r >= 0)
                r = sandboxd_next(client, &reply);
        if (r >= 0 && reply.error)
                return fail_reply(&reply);
        if (r >= 0)
                a->is_terminal = is_set(reply.parameters, "isTerminal");
        if (r >= 0)
                r = sandboxd_take_fd(client, &early, &n_early, &a->fd);
        if (r >= 0 && n_early > 0)
                r = buf_put(&a->input, early, n_early);
        if (r >= 0)
                r = fd_set_nonblock(a->fd, true);
        return r < 0 ? fail_call(common, r) : 0;
}

int attach_open_signals(void)
{
        sigset_t set;
        int fd;

        (void) sigemptyset(&set);
        (void) sigaddset(&set, SIGINT);
        (void) sigaddset(&set, SIGTERM);
        (void) sigaddset(&set, SIGHUP);
        (void) sigaddset(&set, SIGQUIT);
        (void) sigaddset(&set, SIGWINCH);
        (void) sigprocmask(SIG_BLOCK, &set, NULL);
        fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        return fd < 0 ? neg_errno() : fd;
}

int attach_run(const Common *common, const AttachRequest *q)
{
        Attached a = { .fd = -EBADF,
                       .is_read_only = q->is_read_only,
                       .is_bound = q->is_bound,
                       .credit = FRAME_CREDIT_START,
                       .input = BUF_INIT(4 * FRAME_PAYLOAD_MAX),
                       .output = BUF_INIT(OUTPUT_ROOM) };
        int status;

        a.signal_fd = attach_open_signals();
        status = a.signal_fd < 0 ? fail("out of descriptors") : upgrade(common, q, &a);
        if (status == 0 && a.is_terminal && !q->is_read_only && isatty(STDIN_FILENO))
                set_raw(&a);
        if (status == 0)
                status = attend(&a);
        if (a.has_terminal)
                (void) tcsetattr(STDIN_FILENO, TCSADRAIN, &terminal_before);
        if (a.is_left && !a.is_over && status == 0)
                (void) fail("left: the command goes on, `sandboxctl attach %s` comes back", q->id);
        if (a.n_dropped > 0)
                (void) fail("%llu bytes of output are missing here: they were not read in time",
                            (unsigned long long) a.n_dropped);
        buf_done(&a.input);
        buf_done(&a.output);
        (void) fd_close(a.fd);
        (void) fd_close(a.signal_fd);
        return status;
}

int verb_attach(Common *common, int argc, char *argv[])
{
        static const struct option options[] = { { "read-only", no_argument, NULL, 'r' },
                                                 { "replay", required_argument, NULL, 'R' },
                                                 { "hang-up", no_argument, NULL, 'H' },
                                                 COMMON_OPTIONS };
        AttachRequest q = { .replay_bytes = -1 };
        uint64_t size;
        int c;

        while ((c = next_option(common, argc, argv, "", options)) >= 0) {
                if (c == 'r')
                        q.is_read_only = true;
                else if (c == 'H')
                        q.hangs_up = true;
                else if (c != 'R')
                        return EXIT_OURS;
                else if (parse_size(optarg, &size) < 0 || size > INT64_MAX)
                        return fail("%s: not a size; write for example 64K", optarg);
                else
                        q.replay_bytes = (int64_t) size;
        }
        if (argc - optind < 1 || argc - optind > 2)
                return fail("attach takes a session, and perhaps one of its commands: `sandboxctl attach ID`");
        q.id = argv[optind];
        q.process = argv[optind + 1];
        return attach_run(common, &q);
}
