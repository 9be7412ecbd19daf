/*
 * Logs(): what commands of a session have written, of all together in the order of time. A reader is a set
 * of positions, one a command; it goes on when its connection has sent what it was given, and when there is
 * something new. A reader that lags behind so far that output was dropped is told how much.
 */

#include <stdlib.h>

#include "daemon/api/streams.h"
#include "proto/base/error.h"
#include "proto/base/str.h"

typedef struct Position {
        uint32_t process;
        uint64_t at;
} Position;

struct LogsReader {
        Client *client;
        Id session;
        uint32_t process; /* 0: all */
        bool is_following;
        uint64_t n_skipped; /* bytes still to pass over, of tailBytes */
        Position *positions;
        size_t n_positions;
};

LogsReader *logs_reader_free(LogsReader *q)
{
        if (!q)
                return NULL;
        free(q->positions);
        free(q);
        return NULL;
}

/* ---- positions ---- */

static bool has_log(const Process *p)
{
        return p->streams && (p->streams->modes[1] == STREAM_LOG || p->streams->modes[2] == STREAM_LOG);
}

/* A command seen for the first time starts at its beginning. NULL: no memory. */
static Position *find_position(LogsReader *q, uint32_t process)
{
        Position *bigger;

        for (size_t i = 0; i < q->n_positions; i++) {
                if (q->positions[i].process == process)
                        return &q->positions[i];
        }
        bigger = reallocarray(q->positions, q->n_positions + 1, sizeof(*bigger));
        if (!bigger)
                return NULL;
        q->positions = bigger;
        q->positions[q->n_positions] = (Position){ .process = process };
        return &q->positions[q->n_positions++];
}

/* The next piece of a stream with mode log; pieces of others are passed over. */
static bool next_piece(const Streams *st, uint64_t at, OutputPiece *ret)
{
        while (output_log_get(&st->log, at, ret)) {
                if (st->modes[ret->stream] == STREAM_LOG)
                        return true;
                at = ret->at + ret->size;
        }
        return false;
}

static bool is_wanted(const LogsReader *q, const Process *p)
{
        return has_log(p) && (q->process == 0 || q->process == p->number);
}

/* The oldest piece that was not sent yet: 1; 0: none. */
static int find_next(LogsReader *q, const Session *s, Process **ret_process, OutputPiece *ret)
{
        Process *found = NULL;

        LIST_FOREACH (p, &s->processes, Process, link) {
                const Position *position;
                OutputPiece piece;

                if (!is_wanted(q, p))
                        continue;
                position = find_position(q, p->number);
                if (!position)
                        return -ENOMEM;
                if (next_piece(p->streams, position->at, &piece) &&
                    (!found || piece.realtime_usec < ret->realtime_usec)) {
                        found = p;
                        *ret = piece;
                }
        }
        *ret_process = found;
        return found ? 1 : 0;
}

/* ---- replies ---- */

static int set_data(Json *o, const char *data, size_t size)
{
        _cleanup_free_ char *text = NULL;
        int r;

        r = str_base64(data, size, &text);
        return r < 0 ? r : json_set_string(o, "data", text);
}

static int send_piece(LogsReader *q, const Process *p, const OutputPiece *piece, uint64_t n_dropped)
{
        _cleanup_json_ Json *o = NULL;
        char number[16];
        int r;

        process_number_text(p->number, number);
        r = json_new_object(&o);
        if (r < 0 || (r = json_set_string(o, "process", number)) < 0 ||
            (r = json_set_string(o, "stream", piece->stream == 1 ? "stdout" : "stderr")) < 0 ||
            (r = json_set_integer(o, "realtimeUSec", (int64_t) piece->realtime_usec)) < 0 ||
            (n_dropped > 0 && (r = json_set_integer(o, "droppedBytes", (int64_t) n_dropped)) < 0) ||
            (r = set_data(o, piece->data, piece->size)) < 0)
                return r;
        client_reply(q->client, TAKE_PTR(o), /* has_continues= */ true, NULL, 0);
        return 0;
}

/* 1: a piece was sent or passed over; 0: there is none. */
static int take_piece(LogsReader *q, const Session *s)
{
        Process *p = NULL;
        Position *position;
        OutputPiece piece = { 0 };
        uint64_t n_dropped;
        size_t skipped;
        int r;

        r = find_next(q, s, &p, &piece);
        if (r <= 0)
                return r;
        position = find_position(q, p->number);
        if (!position)
                return -ENOMEM;
        n_dropped = p->streams->log.begin > position->at ? p->streams->log.begin - position->at : 0;
        position->at = piece.at + piece.size;
        skipped = (size_t) MIN_OF((uint64_t) piece.size, q->n_skipped);
        q->n_skipped -= skipped;
        piece.data += skipped;
        piece.size -= skipped;
        if (piece.size == 0)
                return 1;
        r = send_piece(q, p, &piece, n_dropped);
        return r < 0 ? r : 1;
}

static void finish(LogsReader *q, int r)
{
        Client *c = q->client;

        c->logs = logs_reader_free(q);
        if (r < 0)
                client_failure(c, r);
        else
                client_reply(c, NULL, false, NULL, 0);
}

void logs_reader_resume(LogsReader *q)
{
        Client *c = q->client;
        const Session *s = session_find_id(c->api, &q->session);
        int r = s ? 1 : 0;

        while (s && r > 0 && !conn_wants_write(c->conn)) {
                r = take_piece(q, s);
                if (c->is_closing)
                        return;
        }
        if (r < 0 || (r == 0 && (!s || !q->is_following || session_has_ended(s))))
                finish(q, r);
}

static void run_readers(void *userdata)
{
        Api *api = userdata;

        api->has_log_changes = false;
        LIST_FOREACH (c, &api->clients, Client, link) {
                if (c->logs && !conn_wants_write(c->conn))
                        logs_reader_resume(c->logs);
        }
}

bool logs_are_awaited(const Session *s)
{
        LIST_FOREACH (c, &s->api->clients, Client, link) {
                if (c->logs && id_equal(&c->logs->session, &s->id))
                        return true;
        }
        return false;
}

/* Later: whoever has news is in the middle of something, and a reply may close a connection. */
void logs_changed(Api *api)
{
        if (!api->has_log_changes && loop_defer(api->loop, run_readers, api) >= 0)
                api->has_log_changes = true;
}

/* ---- the call ---- */

/* What was dropped before the tail was not asked for. */
static int skip_to_tail(LogsReader *q, const Session *s, uint64_t n_tail)
{
        uint64_t n = 0;

        LIST_FOREACH (p, &s->processes, Process, link) {
                Position *position;
                OutputPiece piece;

                if (!is_wanted(q, p))
                        continue;
                position = find_position(q, p->number);
                if (!position)
                        return -ENOMEM;
                position->at = p->streams->log.begin;
                for (uint64_t at = 0; next_piece(p->streams, at, &piece); at = piece.at + piece.size)
                        n += piece.size;
        }
        q->n_skipped = n > n_tail ? n - n_tail : 0;
        return 0;
}

int method_logs(Client *c, const Json *parameters)
{
        const char *number = get_string(parameters, "process");
        const Json *tail = get_value(parameters, "tailBytes");
        Process *p = NULL;
        LogsReader *q;
        Session *s;
        int r = 0;

        if (tail && json_integer(tail) < 0) {
                client_invalid(c, "tailBytes");
                return 0;
        }
        s = session_find_or_answer(c, get_string(parameters, "id"));
        if (!s)
                return 0;
        if (number) {
                p = find_process_or_answer(c, s, number);
                if (!p)
                        return 0;
        }
        q = calloc(1, sizeof(*q));
        if (!q)
                return -ENOMEM;
        *q = (LogsReader){ .client = c,
                           .session = s->id,
                           .process = p ? p->number : 0,
                           .is_following = get_boolean(parameters, "follow") };
        if (tail)
                r = skip_to_tail(q, s, (uint64_t) json_integer(tail));
        if (r < 0) {
                logs_reader_free(q);
                return r;
        }
        c->logs = q;
        c->wait = WAIT_LOGS;
        logs_reader_resume(q);
        return 0;
}
