#include "daemon/api/streams.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/wire/frame.h"

#define STREAM_FDS_MAX 2048U
#define INPUT_MAX      (512U * 1024U)
/* The largest pipe that a command without privileges can make of one of ours. */
#define LEFT_IN_PIPE_MAX      (1024U * 1024U)
#define EXIT_NEVER_RAN        127U
#define TERMINAL_END_OF_INPUT '\004'

static void on_output(void *userdata, int fd, unsigned events);
static void on_input_room(void *userdata, int fd, unsigned events);

/* ---- life ---- */

static void count_fd(Streams *st, int fd, int n)
{
        if (fd >= 0)
                st->api->n_stream_fds += n;
}

static void close_input(Streams *st)
{
        st->input_io = loop_io_free(st->input_io);
        buf_done(&st->input);
        count_fd(st, st->input_fd, -1);
        st->input_fd = fd_close(st->input_fd);
}

static void close_output(StreamOutput *o)
{
        o->io = loop_io_free(o->io);
        count_fd(o->streams, o->fd, -1);
        o->fd = fd_close(o->fd);
        o->is_settled = true;
        if (streams_have_pty(o->streams))
                o->streams->input_io = loop_io_free(o->streams->input_io);
}

static Streams *streams_free(Streams *st)
{
        if (!st)
                return NULL;
        close_input(st);
        for (size_t i = 0; i < ELEMENTSOF(st->outputs); i++)
                close_output(&st->outputs[i]);
        output_log_done(&st->log);
        free(st);
        return NULL;
}
DEFINE_CLEANUP(Streams *, streams_free)

Streams *streams_forget(Streams *st)
{
        if (!st)
                return NULL;
        st->process = NULL;
        if (list_is_empty(&st->attachments))
                return streams_free(st);
        return NULL;
}

void streams_on_leave(Streams *st)
{
        Session *session = st->process ? st->process->session : NULL;

        if (!st->process && list_is_empty(&st->attachments))
                streams_free(st);
        else
                streams_update(st);
        if (session)
                session_update_idle(session);
}

/* The command's end of a pipe is its alone: what it sets there does not reach ours. */
static int make_pipe(Streams *st, size_t i, int *ret_fd)
{
        int fds[2], r, *ours = i == 0 ? &st->input_fd : &st->outputs[i - 1].fd;

        if (pipe2(fds, O_CLOEXEC) < 0)
                return neg_errno();
        *ours = fds[i == 0 ? 1 : 0];
        *ret_fd = fds[i == 0 ? 0 : 1];
        count_fd(st, *ours, 1);
        r = fd_set_nonblock(*ours, true);
        if (r < 0)
                *ret_fd = fd_close(*ret_fd);
        return r;
}

static bool is_carried(StreamMode m)
{
        return m == STREAM_PTY || m == STREAM_FRAMES || m == STREAM_LOG;
}

static int make_pipes(Streams *st, int ret_fds[3])
{
        for (size_t i = 0; i < 3; i++) {
                int r;

                if (st->modes[i] != STREAM_FRAMES && st->modes[i] != STREAM_LOG)
                        continue;
                r = make_pipe(st, i, &ret_fds[i]);
                if (r < 0) {
                        fd_close_many(ret_fds, 3);
                        return r;
                }
        }
        return 0;
}

int streams_new(Process *p, const StreamMode modes[3], int ret_fds[3], Streams **ret)
{
        _cleanup_(streams_freep) Streams *st = NULL;
        Api *api = p->session->api;
        int r;

        *ret = NULL;
        ret_fds[0] = ret_fds[1] = ret_fds[2] = -EBADF;
        if (!is_carried(modes[0]) && !is_carried(modes[1]) && !is_carried(modes[2]))
                return 0;
        if (api->n_stream_fds + 3 > (int) STREAM_FDS_MAX)
                return -EDQUOT;
        st = calloc(1, sizeof(*st));
        if (!st)
                return -ENOMEM;
        *st = (Streams){ .api = api,
                         .process = p,
                         .modes = { modes[0], modes[1], modes[2] },
                         .input_fd = -EBADF,
                         .input = BUF_INIT(INPUT_MAX),
                         .output_max = p->session->output_max_bytes };
        list_init(&st->attachments);
        output_log_init(&st->log, &api->outputs);
        for (unsigned i = 0; i < ELEMENTSOF(st->outputs); i++)
                st->outputs[i] = (StreamOutput){ .streams = st, .number = i + 1, .fd = -EBADF };
        r = make_pipes(st, ret_fds);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(st);
        return 0;
}

bool streams_have_pty(const Streams *st)
{
        return st->modes[0] == STREAM_PTY;
}

bool streams_have_lossless(const Streams *st)
{
        return streams_have_pty(st) || st->modes[1] == STREAM_FRAMES || st->modes[2] == STREAM_FRAMES;
}

/* ---- input ---- */

static int input_fd(const Streams *st)
{
        return streams_have_pty(st) ? st->outputs[0].fd : st->input_fd;
}

static bool is_lent(const Streams *st)
{
        return st->loan != 0;
}

/* Somebody may have changed it: whoever has, or had, the descriptor too. */
static void set_nonblock_again(const Streams *st, int fd)
{
        if (st->was_lent && fd_set_nonblock(fd, true) < 0)
                log_debug("a lent descriptor could not be set up again");
}

static void end_pipe_input(Streams *st)
{
        if (st->has_input_end && buf_size(&st->input) == 0 && !streams_have_pty(st))
                close_input(st);
}

static void write_input(Streams *st)
{
        int fd = input_fd(st);
        size_t n_before = buf_size(&st->input);

        if (fd < 0)
                return;
        set_nonblock_again(st, fd);
        while (buf_size(&st->input) > 0) {
                ssize_t n = write(fd, buf_front(&st->input), buf_size(&st->input));

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EAGAIN)
                        break;
                if (n < 0) {
                        /* Nobody reads it any more: what comes is dropped from now on. */
                        buf_consume(&st->input, buf_size(&st->input));
                        if (!streams_have_pty(st))
                                close_input(st);
                        break;
                }
                buf_consume(&st->input, (size_t) n);
        }
        attachments_give_credit(st, n_before - buf_size(&st->input));
        end_pipe_input(st);
}

static int watch_input(Streams *st)
{
        int fd = input_fd(st);
        unsigned events = buf_size(&st->input) > 0 && !is_lent(st) ? LOOP_WRITE : 0U;

        if (fd < 0)
                return 0;
        if (!st->input_io)
                return loop_io_new(st->api->loop, fd, events, on_input_room, st, &st->input_io);
        return loop_io_set_events(st->input_io, events);
}

static void on_input_room(void *userdata, _unused_ int fd, _unused_ unsigned events)
{
        Streams *st = userdata;

        write_input(st);
        attachments_take_input(st);
        streams_update(st);
}

int streams_put_input(Streams *st, const char *data, size_t size)
{
        int r;

        if (st->has_input_end || st->has_exited || input_fd(st) < 0) {
                attachments_give_credit(st, size);
                return 0;
        }
        if (buf_size(&st->input) + size > INPUT_MAX)
                return -EAGAIN;
        r = buf_put(&st->input, data, size);
        if (r < 0)
                return r;
        write_input(st);
        streams_update(st);
        return 0;
}

/* On a terminal the end of input is a character, and more may follow it. */
void streams_end_input(Streams *st)
{
        static const char end = TERMINAL_END_OF_INPUT;

        if (streams_have_pty(st)) {
                if (streams_put_input(st, &end, 1) < 0)
                        log_debug("an end of input was lost");
                return;
        }
        st->has_input_end = true;
        end_pipe_input(st);
}

int streams_resize(Streams *st, uint16_t columns, uint16_t rows)
{
        struct winsize size = { .ws_col = columns, .ws_row = rows };

        if (!streams_have_pty(st) || st->outputs[0].fd < 0)
                return -ENOTTY;
        return ioctl(st->outputs[0].fd, TIOCSWINSZ, &size) < 0 ? neg_errno() : 0;
}

/* ---- output ---- */

static bool may_read(const StreamOutput *o)
{
        Streams *st = o->streams;
        uint64_t position;

        if (o->fd < 0 || is_lent(st))
                return false;
        position = attachments_lossless_position(st);
        if (position != UINT64_MAX && output_log_count(&st->log, position) >= OUTPUT_UNREAD_MAX)
                return false;
        return st->modes[o->number] != STREAM_FRAMES || st->has_exited || !list_is_empty(&st->attachments);
}

static void check_output_limit(Streams *st)
{
        if (st->output_max > 0 && st->n_output > st->output_max && st->process)
                process_kill(st->process, END_OUTPUT_LIMIT);
}

/* 1: there may be more; 0: nothing now; -EPIPE: it is over. */
static int read_output(StreamOutput *o)
{
        static char piece[OUTPUT_PIECE_MAX];
        Streams *st = o->streams;
        ssize_t n;

        set_nonblock_again(st, o->fd);
        st->log.pinned = attachments_lossless_position(st);
        n = read(o->fd, piece, sizeof(piece));
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return 0;
        if (n <= 0)
                return -EPIPE; /* of a terminal that nobody has open: EIO */
        st->n_output += (uint64_t) n;
        output_log_put(&st->log, o->number, clock_realtime_usec(), piece, (size_t) n);
        if (st->has_exited)
                o->n_after_exit += (uint64_t) n;
        check_output_limit(st);
        return 1;
}

static void poke_all(Streams *st)
{
        LIST_FOREACH (a, &st->attachments, Attachment, link)
                attachment_poke(a);
        logs_changed(st->api);
}

/* The command has ended: reads what it has left, as far as whoever is attached keeps up. What others of its
 * group still write is not waited for. */
static void settle(Streams *st)
{
        bool is_settled = true;

        for (size_t i = 0; i < ELEMENTSOF(st->outputs); i++) {
                StreamOutput *o = &st->outputs[i];

                while (!o->is_settled && may_read(o)) {
                        int r = read_output(o);

                        if (r < 0)
                                close_output(o);
                        else if (r == 0 || o->n_after_exit >= LEFT_IN_PIPE_MAX)
                                o->is_settled = true;
                }
                is_settled = is_settled && (o->is_settled || o->fd < 0);
        }
        if (!is_settled)
                return;
        st->is_settled = true;
        st->settled_at = st->log.end;
}

static int watch_output(StreamOutput *o)
{
        Streams *st = o->streams;
        unsigned events = may_read(o) ? LOOP_READ : 0U;

        if (o->fd < 0)
                return 0;
        if (!o->io)
                return loop_io_new(st->api->loop, o->fd, events, on_output, o, &o->io);
        return loop_io_set_events(o->io, events);
}

void streams_update(Streams *st)
{
        int r;

        if (st->has_exited && !st->is_settled) {
                settle(st);
                poke_all(st);
        }
        r = watch_input(st);
        for (size_t i = 0; i < ELEMENTSOF(st->outputs); i++) {
                if (watch_output(&st->outputs[i]) < 0)
                        r = -ENOMEM;
        }
        if (r < 0)
                (void) log_warning(r, "a command's streams stand still, ignoring");
}

static void on_output(void *userdata, _unused_ int fd, _unused_ unsigned events)
{
        StreamOutput *o = userdata;
        Streams *st = o->streams;

        if (may_read(o) && read_output(o) < 0)
                close_output(o);
        poke_all(st);
        streams_update(st);
}

int streams_start(Streams *st, int take_master)
{
        if (take_master >= 0) {
                st->outputs[0].fd = take_master;
                count_fd(st, take_master, 1);
                if (fd_set_nonblock(take_master, true) < 0)
                        return neg_errno();
        }
        streams_update(st);
        return 0;
}

void streams_on_exit(Streams *st)
{
        const Process *p = st->process;

        if (st->has_exited)
                return;
        st->has_exited = true;
        st->exit_status = p->state == PROCESS_FAILED ? EXIT_NEVER_RAN : p->status;
        st->exit_flags = (p->is_signal ? FRAME_EXIT_SIGNAL : 0) | (p->has_core ? FRAME_EXIT_CORE : 0);
        if (!streams_have_pty(st))
                close_input(st);
        streams_update(st);
}

/* ---- loans ---- */

/* What somebody reads by the descriptor nobody else can read, not even to watch. */
bool streams_is_taken(const Streams *st, bool is_read_only)
{
        if (is_lent(st) && st->is_loan_exclusive)
                return true;
        return !is_read_only && attachments_have_writer(st);
}

static void set_nonblock(Streams *st, bool on)
{
        const int fds[] = { st->input_fd, st->outputs[0].fd, st->outputs[1].fd };

        for (size_t i = 0; i < ELEMENTSOF(fds); i++) {
                if (fds[i] >= 0 && fd_set_nonblock(fds[i], on) < 0)
                        log_debug("a lent descriptor could not be set up");
        }
}

void streams_lend(Streams *st, uint64_t connection, bool is_exclusive, bool hangs_up)
{
        st->loan = connection;
        st->is_loan_exclusive = is_exclusive;
        st->hangs_up_after_loan = hangs_up;
        st->was_lent = true;
        st->had_reader = st->had_reader || is_exclusive;
        set_nonblock(st, false);
        streams_update(st);
}

static void end_loan(Streams *st)
{
        st->loan = 0;
        set_nonblock(st, true);
        if (st->hangs_up_after_loan && st->process)
                process_hang_up(st->process);
        streams_update(st);
}

void streams_client_gone(Api *api, uint64_t connection)
{
        LIST_FOREACH (s, &api->sessions, Session, link) {
                LIST_FOREACH (p, &s->processes, Process, link) {
                        if (p->streams && p->streams->loan == connection)
                                end_loan(p->streams);
                }
        }
}

/* A command may be over before the client that started it has made its second connection. */
bool streams_are_awaited(const Session *s)
{
        LIST_FOREACH (p, &s->processes, Process, link) {
                if (p->streams && streams_have_lossless(p->streams) && !p->streams->had_reader)
                        return true;
        }
        return false;
}

size_t streams_n_attached(const Streams *st)
{
        size_t n = is_lent(st) ? 1 : 0;

        LIST_FOREACH (a, &st->attachments, Attachment, link)
                n++;
        return n;
}
