#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "client/ctl/ctl.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

static char *show(const char *s)
{
        static char *ring[8];
        static unsigned next;
        char **slot = &ring[next++ % ELEMENTSOF(ring)];

        free(*slot);
        *slot = NULL;
        return s && str_escape(s, strlen(s), slot) >= 0 ? *slot : NULL;
}

const char *shown(const char *s)
{
        const char *text = show(s);

        return text ? text : "-";
}

const char *shown_escaped(const char *s)
{
        static const char backslash[] = "\\x5c";
        char *text = show(s), *to = text;

        for (const char *from = text; from && *from;) {
                bool is_backslash = str_has_prefix(from, backslash);

                *to++ = is_backslash ? '\\' : *from;
                from += is_backslash ? sizeof(backslash) - 1 : 1;
        }
        if (to)
                *to = '\0';
        return text ? text : "-";
}

/* For where there may be no memory. */
static void say_plainly(const char *line)
{
        (void) !fd_write_all(STDERR_FILENO, line, strlen(line));
}

static bool no_output(void)
{
        say_plainly("sandboxctl: the output cannot be written\n");
        return false;
}

static bool write_text(int fd, const char *format, va_list ap)
{
        char *text = NULL;
        int n = vasprintf(&text, format, ap);
        bool is_written;

        if (n < 0)
                return false;
        is_written = fd_write_all(fd, text, (size_t) n) >= 0;
        free(text);
        return is_written;
}

bool print(const char *format, ...)
{
        va_list ap;
        bool is_written;

        va_start(ap, format);
        is_written = write_text(STDOUT_FILENO, format, ap);
        va_end(ap);
        return is_written || no_output();
}

int fail(const char *format, ...)
{
        _cleanup_free_ char *text = NULL, *escaped = NULL, *line = NULL;
        va_list ap;
        int n;

        va_start(ap, format);
        n = vasprintf(&text, format, ap);
        va_end(ap);
        if (n < 0 || str_escape(text, (size_t) n, &escaped) < 0 ||
            str_aprintf(&line, "sandboxctl: %s\n", escaped) < 0) {
                say_plainly("sandboxctl: out of memory\n");
                return EXIT_OURS;
        }
        n = fd_write_all(STDERR_FILENO, line, strlen(line));
        return EXIT_OURS; /* where it cannot be said, the status says it */
}

#define JSON_MAX (16U * 1024U * 1024U)

/* The same text, in which nothing moves a cursor or turns what a person reads around. Such characters stand
 * within strings: all else is ASCII. */
static int put_harmless(Buf *to, const char *text, size_t size)
{
        int r = 0;

        while (r >= 0 && size > 0) {
                uint32_t code = 0;
                size_t n = str_harmless_json(text, size, &code), m;

                r = buf_put(to, text, n);
                if (r < 0 || n == size)
                        break;
                m = code < 0x80 ? 1 : code < 0x800 ? 2 : 3;
                if (code == 0 || m > size - n)
                        return -EBADMSG;
                r = buf_printf(to, "\\u%04x", code);
                text += n + m;
                size -= n + m;
        }
        return r;
}

bool print_json(int fd, const Json *value)
{
        Buf raw = BUF_INIT(JSON_MAX), b = BUF_INIT(2 * JSON_MAX);
        bool is_written = json_format(value, &raw) >= 0 &&
                          put_harmless(&b, buf_front(&raw), buf_size(&raw)) >= 0 &&
                          buf_put(&b, "\n", 1) >= 0 && fd_write_all(fd, buf_front(&b), buf_size(&b)) >= 0;

        buf_done(&raw);
        buf_done(&b);
        return is_written || no_output();
}

void format_time(uint64_t usec, char text[32])
{
        time_t seconds = (time_t) (usec / USEC_PER_SEC);
        struct tm tm;

        if (!gmtime_r(&seconds, &tm) || strftime(text, 32, "%Y-%m-%d %H:%M:%S", &tm) == 0)
                text[0] = '\0';
}

/* ---- values ---- */

static const Json *value_of(const Json *object, const char *key)
{
        return object && json_type(object) == JSON_OBJECT ? json_get(object, key) : NULL;
}

const char *text_of(const Json *object, const char *key)
{
        const Json *v = value_of(object, key);

        return v && json_type(v) == JSON_STRING ? json_string(v) : NULL;
}

int64_t integer_of(const Json *object, const char *key)
{
        const Json *v = value_of(object, key);

        return v && json_type(v) == JSON_INTEGER ? json_integer(v) : 0;
}

bool is_set(const Json *object, const char *key)
{
        const Json *v = value_of(object, key);

        return v && json_type(v) == JSON_BOOLEAN && json_boolean(v);
}

int signal_number(const char *name)
{
        uint32_t n;

        if (str_has_prefix(name, "SIG"))
                name += 3;
        if (parse_u32(name, &n) >= 0)
                return n >= 1 && n <= 64 ? (int) n : -EINVAL;
        for (int i = 1; i < 32; i++) {
                const char *abbreviation = sigabbrev_np(i);

                if (abbreviation && str_equal(abbreviation, name))
                        return i;
        }
        return -EINVAL;
}

int result_status(const Json *result)
{
        const char *reason = text_of(result, "reason"), *signal_name = text_of(result, "signal");
        const Json *code = value_of(result, "exitCode");
        int n;

        if (reason && str_equal(reason, "timeout"))
                return EXIT_TIMEOUT;
        if (code && json_type(code) == JSON_INTEGER && json_integer(code) >= 0 && json_integer(code) <= 255)
                return (int) json_integer(code);
        n = signal_name ? signal_number(signal_name) : -EINVAL;
        return n > 0 ? EXIT_SIGNAL_BASE + n : EXIT_OURS;
}

/* ---- errors ---- */

typedef struct ErrorText {
        const char *error;
        const char *parameter; /* the one that says what */
        const char *text;      /* %s: it */
        int status;
} ErrorText;

static const ErrorText error_texts[] = {
        { SESSION "NoSuchSession", "id", "no session %s: `sandboxctl list` shows yours", EXIT_OURS },
        { SESSION "NoSuchProcess", "process", "the session never had a command %s", EXIT_OURS },
        { SESSION "NoSuchProfile", "profile",
          "no profile %s: `sandboxctl policy list` shows them, a file is named with its path", EXIT_OURS },
        { SESSION "NameExists", "name",
          "you have a session of the name %s already: choose another, or remove that one", EXIT_OURS },
        { SESSION "InvalidState", "state", "the session is %s, which the call does not fit", EXIT_OURS },
        { SESSION "RequestIdConflict", "requestId", "the request id %s was used for something else",
          EXIT_OURS },
        { SESSION "PathRefused", "path", "%s cannot be used", EXIT_OURS },
        { SESSION "NotEnforceable", "what", "cannot enforce %s", EXIT_OURS },
        { SESSION "QuotaExceeded", "resource", "too many %s: end some and try again", EXIT_OURS },
        { SESSION "AlreadyAttached", "process",
          "another client writes to command %s: --read-only watches where it does not read the terminal itself",
          EXIT_OURS },
        { SESSION "NotAttachable", "id",
          "session %s has no command whose streams the daemon carries: `run --detach` and `exec -t` make such",
          EXIT_OURS },
        { SESSION "CommandNotFound", "command", "%s: command not found in the session", EXIT_NOT_FOUND },
        { SESSION "NotExecutable", "command", "%s: cannot be executed in the session", EXIT_NOT_EXECUTABLE },
        { SESSION "DeniedByPolicy", "message", "%s", EXIT_OURS },
        { SESSION "NotListening", NULL, "nothing inside listens on that port", EXIT_OURS },
        { SESSION "SetupFailed", "step", "the session could not be set up (%s)", EXIT_OURS },
        { SESSION "AuditUnavailable", NULL,
          "the audit log cannot be written, so nothing may run: see the daemon's log", EXIT_OURS },
        { SESSION "ShuttingDown", NULL,
          "the daemon takes no new sessions, it is ending or draining: try again later", EXIT_OURS },
        { POLICY "NoSuchProfile", "profile", "no profile %s: `sandboxctl policy list` shows them",
          EXIT_OURS },
        { AUDIT "LogUnavailable", NULL, "the audit log cannot be read", EXIT_OURS },
        { "org.varlink.service.InvalidParameter", "parameter", "the daemon does not accept the value of %s",
          EXIT_OURS },
        { AUDIT "NoSuchSequence", NULL, "the log begins later: what is older was retired", EXIT_OURS },
        { "org.varlink.service.PermissionDenied", NULL, "permission denied", EXIT_OURS },
        { "org.varlink.service.MethodNotImplemented", "method",
          "%s is not available in this version of the daemon", EXIT_OURS },
        { "org.varlink.service.MethodNotFound", "method",
          "the daemon is older than this sandboxctl: it has no %s", EXIT_OURS },
};

static int fail_diagnostics(const Json *list)
{
        for (size_t i = 0; i < json_n(list); i++) {
                const Json *d = json_at(list, i);
                const char *source = text_of(d, "source"), *message = text_of(d, "message");

                if (!source)
                        source = text_of(d, "file");
                (void) fail("%s:%lld:%lld: %s", source ? source : "policy",
                            (long long) integer_of(d, "line"), (long long) integer_of(d, "column"),
                            message ? message : "");
        }
        return EXIT_OURS;
}

int fail_reply(const SandboxdReply *reply)
{
        const Json *diagnostics = value_of(reply->parameters, "diagnostics");
        const char *message = text_of(reply->parameters, "message");
        const char *number = text_of(reply->parameters, "errnoName");

        if (diagnostics && json_type(diagnostics) == JSON_ARRAY && json_n(diagnostics) > 0)
                return fail_diagnostics(diagnostics);
        for (size_t i = 0; i < ELEMENTSOF(error_texts); i++) {
                const ErrorText *e = &error_texts[i];
                const char *what = e->parameter ? text_of(reply->parameters, e->parameter) : NULL;
                const char *marker = strstr(e->text, "%s");
                size_t before = marker ? (size_t) (marker - e->text) : strlen(e->text);

                if (!str_equal(e->error, reply->error))
                        continue;
                (void) fail("%.*s%s%s%s%s%s%s%s", (int) before, e->text, marker ? (what ? what : "?") : "",
                            marker ? marker + 2 : "", message ? ": " : "", message ? message : "",
                            number ? " (" : "", number ? number : "", number ? ")" : "");
                return e->status;
        }
        return fail("the daemon answered %s%s%s", reply->error,
                    message  ? ": "
                    : number ? ": "
                             : "",
                    message  ? message
                    : number ? number
                             : "");
}

static const char *address_of(const Common *common)
{
        const char *address = common->address ? common->address : secure_getenv("SANDBOXD_ADDRESS");

        return address && *address ? address : SANDBOXD_ADDRESS_DEFAULT;
}

int fail_call(const Common *common, int r)
{
        const char *address = address_of(common);

        if (r == -ENOENT || r == -ECONNREFUSED)
                return fail("no sandboxd at %s (%s): is it running? --address names another", address,
                            error_name(r));
        if (r == -EACCES)
                return fail("sandboxd at %s lets this user not connect: the user's programs have connected too often "
                            "(try again in a second), or the socket's permissions were changed",
                            address);
        if (r == -ECONNRESET || r == -EPIPE)
                return fail("sandboxd at %s closed the connection: see its log", address);
        if (r == -ENOBUFS || r == -EFBIG || r == -EMSGSIZE)
                return fail("the request is too large for one message: shorten the command line or the "
                            "environment");
        return fail("talking to sandboxd at %s failed: %s", address, error_name(r));
}

/* ---- calls ---- */

int ctl_connect(const Common *common, SandboxdClient **ret_client)
{
        int r = sandboxd_connect(common->address, ret_client);

        if (r == -EPERM)
                return fail("what listens at %s is not root's, so it is not sandboxd and was told nothing: "
                            "--address or SANDBOXD_ADDRESS must name the daemon's socket",
                            address_of(common));
        if (r == -EINVAL || r == -ENAMETOOLONG)
                return fail("%s is not an address: --address and SANDBOXD_ADDRESS take unix:/path",
                            address_of(common));
        return r < 0 ? fail_call(common, r) : 0;
}

int ctl_show_replies(const Common *common, SandboxdClient *client, ReplyShower shower, void *userdata)
{
        bool has_more = true;
        int r, status = 0;

        while (status == 0 && has_more) {
                _cleanup_(sandboxd_reply_done) SandboxdReply reply = SANDBOXD_REPLY_INIT;

                r = sandboxd_next(client, &reply);
                if (r < 0)
                        return fail_call(common, r);
                if (reply.error)
                        return fail_reply(&reply);
                has_more = reply.has_more;
                status = shower(common, reply.parameters, userdata);
        }
        return status;
}

int ctl_call(const Common *common, const char *method, Json *take_parameters, SandboxdReply *ret)
{
        _cleanup_(sandboxd_client_freep) SandboxdClient *client = NULL;
        _cleanup_json_ Json *parameters = take_parameters;
        int status, r;

        status = ctl_connect(common, &client);
        if (status != 0)
                return status;
        r = sandboxd_call(client, method, parameters, ret);
        if (r < 0)
                return fail_call(common, r);
        return ret->error ? fail_reply(ret) : 0;
}

int next_option(Common *common, int argc, char *argv[], const char *letters, const struct option *options)
{
        for (;;) {
                int c = getopt_long(argc, argv, letters, options, NULL);

                if (c == OPTION_JSON)
                        common->has_json = true;
                else if (c == OPTION_ADDRESS)
                        common->address = optarg;
                else
                        return c;
        }
}
