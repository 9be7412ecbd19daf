#include "client/ctl/streams.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "proto/base/error.h"
#include "proto/base/fd.h"

#define CHUNK 65536U

/* How the terminal was; for the one terminal that a process has. */
static struct termios terminal_before;

static bool is_pipe(int fd)
{
        struct stat st;

        return fstat(fd, &st) >= 0 && S_ISFIFO(st.st_mode);
}

static bool is_file(int fd)
{
        struct stat st;

        return fstat(fd, &st) >= 0 && S_ISREG(st.st_mode);
}

static bool is_open(int fd)
{
        return fcntl(fd, F_GETFD) >= 0;
}

static void flow_close(Flow *f)
{
        if (f->owns_from)
                f->from = fd_close(f->from);
        if (f->owns_to)
                f->to = fd_close(f->to);
        f->from = f->to = -EBADF;
}

/* A pipe between our stream i and the command's. */
static int put_between(Stdio *s, int i)
{
        Flow *f = &s->flows[i];
        int pipe_fds[2];

        if (pipe2(pipe_fds, O_CLOEXEC) < 0)
                return neg_errno();
        if (i == STDIN_FILENO)
                *f = (Flow){ .from = i, .to = pipe_fds[1], .owns_to = true, .can_splice = true };
        else
                *f = (Flow){ .from = pipe_fds[0], .to = i, .owns_from = true, .can_splice = true };
        s->pass_fds[i] = pipe_fds[i == STDIN_FILENO ? 0 : 1];
        s->owns_pass[i] = true;
        return fd_set_nonblock(i == STDIN_FILENO ? f->to : f->from, true);
}

int stdio_init(Stdio *s, bool wants_terminal, bool wants_no_terminal, bool is_detached)
{
        int r = 0;

        *s = (Stdio){ .master = -EBADF, .is_detached = is_detached };
        for (size_t i = 0; i < STDIO_FLOWS; i++) {
                s->pass_fds[i] = -EBADF;
                s->flows[i] = (Flow){ .from = -EBADF, .to = -EBADF };
        }
        s->has_pty = wants_terminal ||
                     (!wants_no_terminal && !is_detached && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO));
        for (int i = 0; !s->has_pty && r >= 0 && i < 3; i++) {
                /* Nobody stays to move bytes of a detached one: files alone outlive us. */
                if (!is_open(i) || (is_detached && !is_file(i))) {
                        s->is_nulls[i] = true;
                } else if (fd_is_stdio(i) && !is_pipe(i)) {
                        s->pass_fds[i] = i;
                } else {
                        r = put_between(s, i);
                }
        }
        return r;
}

void stdio_done(Stdio *s)
{
        stdio_sent(s);
        for (size_t i = 0; i < STDIO_FLOWS; i++)
                flow_close(&s->flows[i]);
        if (s->is_raw)
                (void) tcsetattr(STDIN_FILENO, TCSADRAIN, &terminal_before);
        s->is_raw = false;
        s->master = fd_close(s->master);
}

static int describe_pty(const Stdio *s, Json *command)
{
        _cleanup_json_ Json *terminal = NULL;
        const char *term = secure_getenv("TERM");
        struct winsize size = { 0 };
        int r;

        if (ioctl(STDIN_FILENO, TIOCGWINSZ, &size) < 0 && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0)
                size = (struct winsize){ .ws_col = 80, .ws_row = 24 };
        r = json_new_object(&terminal);
        if (r >= 0 && term && strlen(term) < 64)
                r = json_set_string(terminal, "term", term);
        if (r >= 0 && size.ws_col > 0)
                r = json_set_integer(terminal, "columns", size.ws_col);
        if (r >= 0 && size.ws_row > 0)
                r = json_set_integer(terminal, "rows", size.ws_row);
        /* Who reads beside us would take half of it. */
        if (r >= 0 && !s->is_detached)
                r = json_set_boolean(terminal, "exclusive", true);
        if (r >= 0)
                r = json_set(command, "terminal", TAKE_PTR(terminal));
        if (r < 0 || (r = json_set_string(command, "standardInput", "pty")) < 0 ||
            (r = json_set_string(command, "standardOutput", "pty")) < 0)
                return r;
        return json_set_string(command, "standardError", "pty");
}

int stdio_describe(Stdio *s, Json *command, Json *parameters, int fds[], size_t *n_fds)
{
        static const char *const modes[] = { "standardInput", "standardOutput", "standardError" };
        static const char *const indexes[] = { "standardInputFileDescriptor", "standardOutputFileDescriptor",
                                               "standardErrorFileDescriptor" };
        int r = 0;

        if (s->has_pty)
                return describe_pty(s, command);
        for (size_t i = 0; r >= 0 && i < 3; i++) {
                if (s->is_nulls[i]) {
                        r = json_set_string(command, modes[i], i > 0 && s->is_detached ? "log" : "null");
                        continue;
                }
                r = json_set_string(command, modes[i], "file_descriptor");
                if (r >= 0)
                        r = json_set_integer(parameters, indexes[i], (int64_t) *n_fds);
                fds[(*n_fds)++] = s->pass_fds[i];
        }
        return r;
}

void stdio_sent(Stdio *s)
{
        for (size_t i = 0; i < STDIO_FLOWS; i++) {
                if (s->owns_pass[i])
                        s->pass_fds[i] = fd_close(s->pass_fds[i]);
                s->owns_pass[i] = false;
        }
}

static void set_raw(Stdio *s)
{
        struct termios raw;

        if (tcgetattr(STDIN_FILENO, &terminal_before) < 0)
                return;
        raw = terminal_before;
        cfmakeraw(&raw);
        s->is_raw = tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) >= 0;
}

int stdio_start_pty(Stdio *s, int take_master)
{
        s->master = take_master;
        if (isatty(STDIN_FILENO))
                set_raw(s);
        if (is_open(STDIN_FILENO))
                s->flows[0] = (Flow){ .from = STDIN_FILENO, .to = s->master };
        s->flows[1] = (Flow){ .from = s->master, .to = is_open(STDOUT_FILENO) ? STDOUT_FILENO : -EBADF };
        return fd_set_nonblock(s->master, true);
}

void stdio_resize(Stdio *s)
{
        struct winsize size;

        if (s->master >= 0 &&
            (ioctl(STDIN_FILENO, TIOCGWINSZ, &size) >= 0 || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) >= 0))
                (void) ioctl(s->master, TIOCSWINSZ, &size);
}

/* ---- moving ---- */

static ssize_t copy(const Flow *f)
{
        char buffer[8192];
        struct pollfd p = { .fd = f->to, .events = POLLOUT };
        ssize_t n = read(f->from, buffer, sizeof(buffer)), done = 0;

        while (n > 0 && done < n) {
                ssize_t m = write(f->to, buffer + done, (size_t) (n - done));

                if (m < 0 && (errno == EAGAIN || errno == EINTR)) {
                        (void) poll(&p, 1, -1);
                        continue;
                }
                if (m < 0)
                        return -1;
                done += m;
        }
        return n;
}

/* The end of input on a terminal is a character. */
static void end_of_input(Stdio *s, Flow *f)
{
        static const char end = 4;

        if (f->to == s->master && s->master >= 0) {
                if (write(s->master, &end, 1) < 0)
                        f->to = -EBADF;
        }
}

/* 1: bytes went; 0: none now; -1: the flow is over. */
static int move(Stdio *s, Flow *f)
{
        ssize_t n = -1;

        errno = EINVAL;
        if (f->can_splice)
                n = splice(f->from, NULL, f->to, NULL, CHUNK, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (n < 0 && errno == EINVAL) {
                f->can_splice = false;
                n = copy(f);
        }
        if (n > 0)
                return 1;
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return 0;
        if (f == &s->flows[0])
                end_of_input(s, f);
        flow_close(f);
        return -1;
}

size_t stdio_poll(const Stdio *s, struct pollfd *polls)
{
        for (size_t i = 0; i < STDIO_FLOWS; i++) {
                const Flow *f = &s->flows[i];
                bool is_live = f->from >= 0 && f->to >= 0;
                struct pollfd to = { .fd = f->to, .events = POLLOUT };
                bool is_writable = is_live && poll(&to, 1, 0) > 0;

                /* Wait for the side that is not ready: bytes to come, or room for those that are there. */
                polls[2 * i] = (struct pollfd){ .fd = is_live && is_writable ? f->from : -1,
                                                .events = POLLIN };
                polls[2 * i + 1] = (struct pollfd){ .fd = is_live && !is_writable ? f->to : -1,
                                                    .events = POLLOUT };
        }
        return (size_t) 2 * STDIO_FLOWS;
}

void stdio_move(Stdio *s, const struct pollfd *polls)
{
        for (size_t i = 0; i < STDIO_FLOWS; i++) {
                /* Nobody reads what we write: whoever writes should hear of it. */
                if (polls[2 * i + 1].fd >= 0 && (polls[2 * i + 1].revents & POLLERR))
                        flow_close(&s->flows[i]);
                else if (polls[2 * i].fd >= 0 && polls[2 * i].revents)
                        (void) move(s, &s->flows[i]);
        }
}

void stdio_drain(Stdio *s, bool until_end)
{
        for (size_t i = 1; i < STDIO_FLOWS; i++) {
                Flow *f = &s->flows[i];
                struct pollfd from = { .fd = f->from, .events = POLLIN };
                struct pollfd to = { .fd = f->to, .events = POLLOUT };

                while (f->from >= 0 && f->to >= 0 && poll(&from, 1, until_end ? 2000 : 0) > 0) {
                        if (poll(&to, 1, -1) < 0 || move(s, f) < 0)
                                break;
                }
        }
}
