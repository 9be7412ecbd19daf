/* Where the streams of a new command go: what the call says, checked, and what init is given. */

#include <fcntl.h>
#include <stdio.h>

#include "daemon/api/streams.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

static const char *const mode_names[] = {
        [STREAM_NULL] = "null", [STREAM_DESCRIPTOR] = "file_descriptor",
        [STREAM_PTY] = "pty",   [STREAM_FRAMES] = "stream",
        [STREAM_LOG] = "log",
};
ASSERT_TABLE(mode_names, _STREAM_MODE_MAX);

static const char *const stream_fields[] = { "standardInput", "standardOutput", "standardError" };
static const char *const index_fields[] = { "standardInputFileDescriptor", "standardOutputFileDescriptor",
                                            "standardErrorFileDescriptor" };

/* The interface has checked that it is one of them. */
static StreamMode parse_mode(const char *s)
{
        for (size_t i = 0; s && i < ELEMENTSOF(mode_names); i++) {
                if (str_equal(s, mode_names[i]))
                        return (StreamMode) i;
        }
        return STREAM_NULL;
}

/* Absent output is "log"; absent error is what output is; with one pty what is absent is the pty too. */
static void stream_modes(const Json *command, StreamMode modes[3])
{
        const char *in = get_string(command, "standardInput"), *out = get_string(command, "standardOutput"),
                   *error = get_string(command, "standardError");
        bool has_pty = (in && str_equal(in, "pty")) || (out && str_equal(out, "pty"));

        modes[0] = !in && has_pty ? STREAM_PTY : parse_mode(in);
        modes[1] = out ? parse_mode(out) : has_pty ? STREAM_PTY : STREAM_LOG;
        modes[2] = error ? parse_mode(error) : modes[1];
}

static int invalid(Client *c, const char *field)
{
        client_invalid(c, field);
        return 0;
}

static int check_index(Client *c, const Json *parameters, size_t i, StreamMode mode)
{
        const Json *index = get_value(parameters, index_fields[i]);

        if ((mode == STREAM_DESCRIPTOR) != (index != NULL))
                return invalid(c, index_fields[i]);
        if (index && (json_integer(index) < 0 || (size_t) json_integer(index) >= c->call.n_fds ||
                      !fd_is_stdio(c->call.fds[json_integer(index)])))
                return invalid(c, index_fields[i]);
        return 1;
}

int streams_check(Client *c, const Json *parameters, const Json *command)
{
        StreamMode modes[3];

        stream_modes(command, modes);
        for (size_t i = 0; i < 3; i++) {
                char field[80];
                int r;

                /* A log is written to; a terminal is all three or none. */
                if ((i == 0 && modes[i] == STREAM_LOG) ||
                    (modes[i] == STREAM_PTY) != (modes[0] == STREAM_PTY)) {
                        (void) snprintf(field, sizeof(field), "command.%s", stream_fields[i]);
                        return invalid(c, field);
                }
                r = check_index(c, parameters, i, modes[i]);
                if (r <= 0)
                        return r;
        }
        return 1;
}

static int take_fd(Process *p, int from)
{
        int fd = fcntl(from, F_DUPFD_CLOEXEC, 3);

        if (fd < 0)
                return neg_errno();
        p->fds[p->n_fds++] = fd;
        return 0;
}

static void take_terminal(Process *p, const Json *terminal)
{
        p->exec.has_pty = p->has_pty;
        p->exec.columns = terminal ? (uint32_t) get_integer(terminal, "columns") : 0;
        p->exec.rows = terminal ? (uint32_t) get_integer(terminal, "rows") : 0;
        p->has_exclusive_pty = terminal && get_boolean(terminal, "exclusive");
}

int streams_take(Process *p, const Json *parameters, const Json *command, const int *fds)
{
        int pipes[3], r;
        StreamMode modes[3];

        stream_modes(command, modes);
        p->has_pty = modes[0] == STREAM_PTY;
        take_terminal(p, get_value(command, "terminal"));
        r = streams_new(p, modes, pipes, &p->streams);
        for (size_t i = 0; r >= 0 && !p->has_pty && i < 3; i++) {
                if (pipes[i] >= 0)
                        p->fds[p->n_fds++] = TAKE_FD(pipes[i]);
                else if (modes[i] == STREAM_DESCRIPTOR)
                        r = take_fd(p, fds[get_integer(parameters, index_fields[i])]);
                else
                        r = take_fd(p, p->session->api->null_fd);
        }
        fd_close_many(pipes, 3);
        return r;
}

static bool gives_output_away(const Json *command)
{
        StreamMode modes[3];

        stream_modes(command, modes);
        return modes[1] == STREAM_DESCRIPTOR || modes[2] == STREAM_DESCRIPTOR;
}

/* What goes to the client's own descriptors nobody here counts. */
bool streams_check_limit(Session *s, Client *c, const Json *command)
{
        _cleanup_json_ Json *p = NULL;

        if (s->output_max_bytes == 0 || !gives_output_away(command))
                return true;
        if (!s->has_asked_output_max) {
                if (!s->has_warned_of_output)
                        session_warn(s, "limit-not-enforced",
                                     "limits.output: not counted where a command writes to the client's own descriptors");
                s->has_warned_of_output = true;
                return true;
        }
        if (json_new_object(&p) < 0 || json_set_string(p, "what", "outputMaxBytes") < 0 ||
            json_set_string(p, "message",
                            "output that goes to the client's own descriptors is not counted: use mode stream, log or pty") <
                            0)
                client_failure(c, -ENOMEM);
        else
                client_error(c, SESSION_ERROR "NotEnforceable", TAKE_PTR(p));
        return false;
}
