/*
 * The client's side of Attach() after the upgrade. Nothing is sent from here but in the connection's own
 * callback: whoever has news pokes, which fills the output as far as credit and room go, and that callback
 * sends it. So nobody's streams change under his feet, and what a client that does not read costs is bounded
 * by OUTPUT_ROOM here and by the log there.
 *
 * A client that lags behind misses output (a frame says how much) where it only watches, and where the
 * command must not wait, which is mode log; else the command waits for it.
 */

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "daemon/api/streams.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/wire/frame.h"

#define OUTPUT_ROOM      (64U * 1024U)
#define OUTPUT_MAX       (OUTPUT_ROOM + FRAME_PAYLOAD_MAX + 256U)
#define INPUT_ROOM       (FRAME_HEADER_SIZE + FRAME_PAYLOAD_MAX)
#define CREDIT_STEP      (FRAME_CREDIT_START / 2)
#define CREDIT_UNBOUNDED (UINT64_MAX / 2)
#define PING_USEC        (30 * USEC_PER_SEC)
#define LOOK_USEC        (500 * USEC_PER_MSEC)
#define LINGER_LOOK_USEC (10 * USEC_PER_SEC)

/* ---- output: only into the buffer ---- */

static bool has_room(const Attachment *a)
{
        return buf_size(&a->output) < OUTPUT_ROOM;
}

/* There is always room for a small one behind the last large one. */
static void put_small(Attachment *a, FrameType type, unsigned flags, uint64_t number)
{
        int r;

        if (a->is_raw)
                return;
        if (type == FRAME_PING)
                r = frame_put(&a->output, type, 0, NULL, 0);
        else if (type == FRAME_DROPPED)
                r = frame_put_long_number(&a->output, type, number);
        else
                r = frame_put_number(&a->output, type, flags, (uint32_t) number);
        if (r < 0)
                log_debug("a frame was lost");
}

static int put_piece(Attachment *a, const OutputPiece *piece)
{
        size_t size = MIN_OF(piece->size, (size_t) OUTPUT_PIECE_MAX);
        FrameType type = piece->stream == 1 ? FRAME_STDOUT : FRAME_STDERR;
        int r;

        if (a->is_raw) {
                r = buf_put(&a->output, piece->data, size);
        } else {
                size = (size_t) MIN_OF((uint64_t) size, a->credit);
                r = frame_put(&a->output, type, 0, piece->data, size);
                a->credit -= r < 0 ? 0 : size;
        }
        if (r < 0)
                return r;
        a->position = piece->at + size;
        return 0;
}

static void put_end(Attachment *a)
{
        const Streams *st = a->streams;

        put_small(a, FRAME_EXIT, st->exit_flags, st->exit_status);
        a->is_ended = true;
}

/* Moves what there is from the log to the output. */
static void fill(Attachment *a)
{
        Streams *st = a->streams;
        OutputPiece piece;

        while (!a->is_ended && has_room(a) && (a->is_raw || a->credit > 0)) {
                if (!output_log_get(&st->log, a->position, &piece))
                        break;
                if (piece.at > a->position)
                        put_small(a, FRAME_DROPPED, 0, piece.at - a->position);
                a->position = piece.at;
                if (put_piece(a, &piece) < 0)
                        break;
        }
        st->delivered = MAX_OF(st->delivered, a->position);
        if (!a->is_ended && st->is_settled && a->position >= st->settled_at)
                put_end(a);
}

/* ---- events ---- */

static bool wants_input(const Attachment *a)
{
        return !a->has_input_end && buf_size(&a->input) < INPUT_ROOM;
}

static void close_deferred(void *userdata)
{
        client_close(userdata);
}

static void close_soon(Attachment *a)
{
        if (!a->client->is_closing && loop_defer(a->client->api->loop, close_deferred, a->client) < 0)
                log_debug("an attached connection stays");
}

static void set_events(Attachment *a)
{
        unsigned events = wants_input(a) ? LOOP_READ : 0U;

        if (buf_size(&a->output) > 0 || conn_wants_write(a->client->conn) || (a->is_ended && !a->is_shut))
                events |= LOOP_WRITE;
        if (loop_io_set_events(a->io, events) < 0)
                close_soon(a);
}

/* Where input is not waited for, only a look shows that the client is gone. */
static void set_timer(Attachment *a)
{
        uint64_t usec = a->is_shut ? LINGER_LOOK_USEC : wants_input(a) ? PING_USEC : LOOK_USEC;

        if (loop_timer_set(a->timer, usec) < 0)
                log_debug("an attached client is not looked after");
}

void attachment_poke(Attachment *a)
{
        fill(a);
        set_events(a);
}

/* ---- sending ---- */

/* 0, or negative: the client is gone. */
static int send_output(Attachment *a)
{
        int fd = conn_fd(a->client->conn);

        if (conn_wants_write(a->client->conn)) {
                int r = conn_write(a->client->conn);

                if (r < 0 || conn_wants_write(a->client->conn))
                        return r;
        }
        while (buf_size(&a->output) > 0) {
                ssize_t n = send(fd, buf_front(&a->output), buf_size(&a->output),
                                 MSG_NOSIGNAL | MSG_DONTWAIT);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return errno == EAGAIN ? 0 : neg_errno();
                buf_consume(&a->output, (size_t) n);
                a->has_been_sent = true;
        }
        return 0;
}

/* The end of our side; the client's may still be full of what nobody wants any more. Closing with that
 * unread would make the client see an error. */
static int shut(Attachment *a)
{
        if (a->has_input_end)
                return -EPIPE;
        a->is_shut = true;
        buf_consume(&a->input, buf_size(&a->input));
        set_timer(a);
        return shutdown(conn_fd(a->client->conn), SHUT_WR) < 0 ? neg_errno() : 0;
}

static int on_writable(Attachment *a)
{
        int r;

        do {
                fill(a);
                r = send_output(a);
        } while (r >= 0 && buf_size(&a->output) == 0 && !a->is_ended && a->credit > 0 &&
                 a->position < a->streams->log.end);
        if (r >= 0 && a->is_ended && !a->is_shut && buf_size(&a->output) == 0 &&
            !conn_wants_write(a->client->conn))
                r = shut(a);
        return r;
}

/* ---- input ---- */

static int take_signal(const Attachment *a, const Frame *f)
{
        char name[FRAME_SIGNAL_MAX + 1] = { 0 };
        int number;

        memcpy(name, f->payload, f->size);
        number = signal_from_name(name);
        if (number < 0)
                return -EBADMSG;
        if (a->streams->process)
                process_signal(a->streams->process, number);
        return 0;
}

/* 0: taken; -EAGAIN: the command has to take what it was given first; else close. */
static int take_frame(Attachment *a, const Frame *f)
{
        Streams *st = a->streams;
        uint16_t columns, rows;

        if (f->type == FRAME_CREDIT) {
                a->credit += frame_number(f);
                return 0;
        }
        if (a->is_read_only)
                return -EPERM;
        if (f->type == FRAME_SIGNAL)
                return take_signal(a, f);
        if (f->type == FRAME_RESIZE) {
                frame_terminal_size(f, &columns, &rows);
                /* Of a pipe or a terminal that is gone: nothing has a size. */
                if (streams_resize(st, columns, rows) < 0)
                        log_debug("no terminal to resize");
                return 0;
        }
        if (f->size == 0) {
                streams_end_input(st);
                return 0;
        }
        return streams_put_input(st, f->payload, f->size);
}

/* 1: all of it; 0: not yet. */
static int take_frames(Attachment *a)
{
        Frame f;
        int r;

        while ((r = frame_next(&a->input, /* is_daemon= */ true, &f)) > 0) {
                r = take_frame(a, &f);
                if (r < 0)
                        return r == -EAGAIN ? 0 : r;
                frame_consume(&a->input, &f);
        }
        return r < 0 ? r : 1;
}

static int take_raw(Attachment *a)
{
        size_t size = buf_size(&a->input);
        int r;

        r = a->is_read_only || size == 0 ? 0 : streams_put_input(a->streams, buf_front(&a->input), size);
        if (r < 0)
                return r == -EAGAIN ? 0 : r;
        buf_consume(&a->input, size);
        return 1;
}

/* A half-closed client has no more input, and still reads. On a terminal the end of frames is nobody's end
 * of input: that one is a frame of its own. */
static void end_input(Attachment *a)
{
        if (a->has_told_end || a->is_read_only)
                return;
        a->has_told_end = true;
        if (a->is_raw || !streams_have_pty(a->streams))
                streams_end_input(a->streams);
}

static int take_input(Attachment *a)
{
        int r;

        if (a->is_shut) {
                buf_consume(&a->input, buf_size(&a->input));
                return 0;
        }
        r = a->is_raw ? take_raw(a) : take_frames(a);
        if (r > 0 && a->has_input_end)
                end_input(a);
        return r < 0 ? r : 0;
}

void attachments_take_input(Streams *st)
{
        LIST_FOREACH (a, &st->attachments, Attachment, link) {
                if (take_input(a) < 0)
                        close_soon(a);
                else
                        set_events(a);
        }
}

static bool has_hung_up(const Attachment *a)
{
        struct pollfd p = { .fd = conn_fd(a->client->conn) };

        return poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR));
}

static int end_of_input(Attachment *a)
{
        a->has_input_end = true;
        if (a->is_shut || has_hung_up(a))
                return -EPIPE;
        /* Who cannot say any more that he has read is bounded by his socket. */
        a->credit = CREDIT_UNBOUNDED;
        set_timer(a);
        return take_input(a);
}

static int read_input(Attachment *a)
{
        char *tail;
        ssize_t n;
        int r;

        r = buf_reserve(&a->input, INPUT_ROOM - buf_size(&a->input), &tail);
        if (r < 0)
                return r;
        n = recv(conn_fd(a->client->conn), tail, INPUT_ROOM - buf_size(&a->input), MSG_DONTWAIT);
        if (n < 0)
                return errno == EAGAIN || errno == EINTR ? 0 : neg_errno();
        if (n == 0)
                return end_of_input(a);
        buf_commit(&a->input, (size_t) n);
        return take_input(a);
}

static void on_attachment_io(void *userdata, _unused_ int fd, unsigned events)
{
        Attachment *a = userdata;
        Streams *st = a->streams;
        int r = 0;

        if ((events & LOOP_READ) && wants_input(a))
                r = read_input(a);
        if (r >= 0 && (events & LOOP_WRITE))
                r = on_writable(a);
        if (r < 0) {
                client_close(a->client);
                return;
        }
        if (!wants_input(a))
                set_timer(a);
        attachment_poke(a);
        streams_update(st);
}

static void on_timer(void *userdata)
{
        Attachment *a = userdata;

        /* The client that has got everything had time enough to close. */
        if (a->is_shut || has_hung_up(a)) {
                client_close(a->client);
                return;
        }
        if (wants_input(a) && !a->has_been_sent && buf_size(&a->output) == 0)
                put_small(a, FRAME_PING, 0, 0);
        a->has_been_sent = false;
        set_timer(a);
        set_events(a);
}

/* ---- of all attachments of a command ---- */

uint64_t attachments_lossless_position(const Streams *st)
{
        uint64_t first = UINT64_MAX;

        if (!streams_have_lossless(st))
                return first;
        LIST_FOREACH (a, &st->attachments, Attachment, link) {
                if (!a->is_read_only && !a->is_ended)
                        first = MIN_OF(first, a->position);
        }
        return first;
}

bool attachments_have_writer(const Streams *st)
{
        bool has_input = st->modes[0] == STREAM_FRAMES || st->modes[0] == STREAM_PTY;

        if (!has_input && !streams_have_lossless(st))
                return false;
        LIST_FOREACH (a, &st->attachments, Attachment, link) {
                if (!a->is_read_only && !a->is_shut)
                        return true;
        }
        return false;
}

void attachments_give_credit(Streams *st, size_t size)
{
        LIST_FOREACH (a, &st->attachments, Attachment, link) {
                if (a->is_read_only)
                        continue;
                a->n_taken += size;
                if (a->n_taken < CREDIT_STEP || a->is_ended)
                        continue;
                put_small(a, FRAME_CREDIT, 0, MIN_OF(a->n_taken, (size_t) UINT32_MAX));
                a->n_taken = 0;
                set_events(a);
        }
}

/* ---- life ---- */

int attachment_new(Client *c, Streams *st, const AttachOptions *options)
{
        Attachment *a = calloc(1, sizeof(*a));
        int r;

        if (!a)
                return -ENOMEM;
        *a = (Attachment){ .client = c,
                           .is_raw = options->is_raw,
                           .is_read_only = options->is_read_only,
                           .hangs_up = options->hangs_up,
                           .position = options->from,
                           .credit = FRAME_CREDIT_START,
                           .input = BUF_INIT(INPUT_ROOM),
                           .output = BUF_INIT(OUTPUT_MAX) };
        list_init(&a->link);
        r = loop_timer_new(c->api->loop, on_timer, a, &a->timer);
        if (r >= 0)
                r = loop_io_new(c->api->loop, conn_fd(c->conn), LOOP_READ, on_attachment_io, a, &a->io);
        if (r < 0) {
                attachment_free(a);
                return r;
        }
        a->streams = st;
        st->had_reader = true;
        list_append(&st->attachments, &a->link);
        c->attachment = a;
        set_timer(a);
        attachment_poke(a);
        streams_update(st);
        if (st->process)
                session_update_idle(st->process->session);
        return 0;
}

void attachment_leave(Attachment *a)
{
        Streams *st = a->streams;

        if (!st)
                return;
        a->streams = NULL;
        a->io = loop_io_free(a->io);
        loop_timer_stop(a->timer);
        list_unlink(&a->link);
        if (a->hangs_up && st->process)
                process_hang_up(st->process);
        streams_on_leave(st);
}

Attachment *attachment_free(Attachment *a)
{
        if (!a)
                return NULL;
        a->io = loop_io_free(a->io);
        a->timer = loop_timer_free(a->timer);
        buf_done(&a->input);
        buf_done(&a->output);
        free(a);
        return NULL;
}
