/* Attach() and Resize(). */

#include "daemon/api/streams.h"
#include "proto/base/error.h"
#include "proto/base/str.h"
#include "proto/wire/frame.h"

#define TERMINAL_MAX 10000

static int answer_process_error(Client *c, const char *error, const Session *s, const Process *p)
{
        _cleanup_json_ Json *o = NULL;
        char number[16] = "";
        int r;

        if (p)
                process_number_text(p->number, number);
        r = json_new_object(&o);
        if (r < 0 || (r = json_set_string(o, "id", s->id_text)) < 0 ||
            (r = json_set_string(o, "process", number)) < 0)
                return r;
        client_error(c, error, TAKE_PTR(o));
        return 0;
}

/* NULL: answered. */
static Process *find_attachable(Client *c, const Json *parameters)
{
        const char *number = get_string(parameters, "process");
        Session *s = session_find_or_answer(c, get_string(parameters, "id"));
        Process *p;
        int r;

        if (!s)
                return NULL;
        p = number ? find_process_or_answer(c, s, number) : process_last(s);
        if (p && p->streams)
                return p;
        if (!p && number)
                return NULL;
        r = answer_process_error(c, SESSION_ERROR "NotAttachable", s, p);
        if (r < 0)
                client_failure(c, r);
        return NULL;
}

/* ---- the terminal's size ---- */

/* 1: sound; what is not named is 0. */
static int take_size(Client *c, const Json *object, const char *prefix, uint16_t size[2])
{
        static const char *const keys[] = { "columns", "rows" };

        for (size_t i = 0; i < 2; i++) {
                const Json *value = object ? get_value(object, keys[i]) : NULL;
                char field[32];

                size[i] = value ? (uint16_t) json_integer(value) : 0;
                if (!value || (json_integer(value) > 0 && json_integer(value) <= TERMINAL_MAX))
                        continue;
                if (str_printf(field, sizeof(field), "%s%s", prefix, keys[i]) >= 0)
                        client_invalid(c, field);
                return 0;
        }
        return 1;
}

int method_resize(Client *c, const Json *parameters)
{
        uint16_t size[2];
        Process *p;
        int r;

        if (take_size(c, parameters, "", size) <= 0)
                return 0;
        p = find_attachable(c, parameters);
        if (!p)
                return 0;
        r = streams_resize(p->streams, size[0], size[1]);
        if (r == -ENOTTY)
                return answer_process_error(c, SESSION_ERROR "NotAttachable", p->session, p);
        return r < 0 ? r : answer_empty(c);
}

/* ---- descriptors ---- */

static int add_fd(Json *o, const char *key, int fd, int fds[], size_t *n_fds)
{
        int r;

        if (fd < 0)
                return 0;
        r = json_set_integer(o, key, (int64_t) *n_fds);
        if (r >= 0)
                fds[(*n_fds)++] = fd;
        return r;
}

/* A log stays here, and a terminal's master writes as well as it reads. */
static bool can_lend(const Streams *st, bool is_read_only)
{
        if (st->has_exited || !streams_have_lossless(st) || (is_read_only && streams_have_pty(st)))
                return false;
        return st->modes[1] != STREAM_LOG && st->modes[2] != STREAM_LOG;
}

static int limit_not_enforceable(Client *c)
{
        client_error_string(c, SESSION_ERROR "NotEnforceable", "what", "outputMaxBytes");
        return 0;
}

static int attach_descriptors(Client *c, const Json *parameters, Process *p)
{
        bool is_read_only = get_boolean(parameters, "readOnly");
        Streams *st = p->streams;
        _cleanup_json_ Json *o = NULL;
        size_t n_fds = 0;
        int fds[3], r;

        if (get_integer(parameters, "replayBytes") > 0) {
                client_invalid(c, "replayBytes");
                return 0;
        }
        if (st->output_max > 0)
                return limit_not_enforceable(c);
        if (!can_lend(st, is_read_only) || p->state != PROCESS_RUNNING)
                return answer_process_error(c, SESSION_ERROR "NotAttachable", p->session, p);
        if (!list_is_empty(&st->attachments))
                return answer_process_error(c, SESSION_ERROR "AlreadyAttached", p->session, p);
        r = json_new_object(&o);
        if (r >= 0 && streams_have_pty(st))
                r = add_fd(o, "ptyFileDescriptor", st->outputs[0].fd, fds, &n_fds);
        else if (r >= 0 &&
                 ((is_read_only ||
                   (r = add_fd(o, "standardInputFileDescriptor", st->input_fd, fds, &n_fds)) >= 0)) &&
                 (r = add_fd(o, "standardOutputFileDescriptor", st->outputs[0].fd, fds, &n_fds)) >= 0)
                r = add_fd(o, "standardErrorFileDescriptor", st->outputs[1].fd, fds, &n_fds);
        if (r < 0)
                return r;
        if (n_fds == 0)
                return answer_process_error(c, SESSION_ERROR "NotAttachable", p->session, p);
        streams_lend(st, c->peer.connection, /* is_exclusive= */ true,
                     get_boolean(parameters, "hangUpOnDisconnect"));
        client_reply(c, TAKE_PTR(o), false, fds, n_fds);
        return 0;
}

/* ---- upgrade ---- */

/* A log is live from here on; of the others nothing was read that nobody got, unless it was too much. */
static uint64_t first_position(const Streams *st, const Json *parameters)
{
        uint64_t replay = (uint64_t) get_integer(parameters, "replayBytes");
        uint64_t from = streams_have_lossless(st) ? st->delivered : st->log.end;
        uint64_t replayed = st->log.end > replay ? st->log.end - replay : 0;

        /* What is not kept any more was not asked for. */
        return MIN_OF(from, MAX_OF(replayed, st->log.begin));
}

static int attach_upgraded(Client *c, const Json *parameters, Process *p, bool is_raw)
{
        const AttachOptions options = {
                .is_raw = is_raw,
                .is_read_only = get_boolean(parameters, "readOnly"),
                .hangs_up = get_boolean(parameters, "hangUpOnDisconnect"),
                .from = first_position(p->streams, parameters),
        };
        _cleanup_json_ Json *o = NULL;
        int r;

        r = json_new_object(&o);
        if (r >= 0)
                r = json_set_string(o, "framing", is_raw ? FRAMING_RAW : FRAMING_STREAM);
        if (r >= 0)
                r = json_set_boolean(o, "isTerminal", streams_have_pty(p->streams));
        if (r < 0)
                return r;
        r = client_upgrade(c, TAKE_PTR(o));
        if (r < 0)
                return 0; /* closed */
        /* Who had the terminal by the way of Spawn() has not said that he reads it. */
        p->streams->loan = 0;
        r = attachment_new(c, p->streams, &options);
        if (r < 0)
                client_close(c);
        return 0;
}

int method_attach(Client *c, const Json *parameters)
{
        const char *framing = get_string(parameters, "framing");
        bool is_raw = framing && str_equal(framing, FRAMING_RAW);
        uint16_t size[2];
        Process *p;

        if (framing && !is_raw && !str_equal(framing, FRAMING_STREAM)) {
                client_invalid(c, "framing");
                return 0;
        }
        if (get_integer(parameters, "replayBytes") < 0) {
                client_invalid(c, "replayBytes");
                return 0;
        }
        if (take_size(c, get_value(parameters, "terminal"), "terminal.", size) <= 0)
                return 0;
        p = find_attachable(c, parameters);
        if (!p)
                return 0;
        if (streams_is_taken(p->streams, get_boolean(parameters, "readOnly")))
                return answer_process_error(c, SESSION_ERROR "AlreadyAttached", p->session, p);
        if (size[0] > 0 && size[1] > 0 && !get_boolean(parameters, "readOnly"))
                (void) !streams_resize(p->streams, size[0], size[1]);
        return c->call.is_upgrade ? attach_upgraded(c, parameters, p, is_raw)
                                  : attach_descriptors(c, parameters, p);
}
