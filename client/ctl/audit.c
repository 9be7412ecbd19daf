/* audit log */

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "client/ctl/ctl.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

static const struct option log_options[] = {
        { "session", required_argument, NULL, 's' }, { "since", required_argument, NULL, 'S' },
        { "until", required_argument, NULL, 'U' },   { "decision", required_argument, NULL, 'd' },
        { "kind", required_argument, NULL, 'k' },    { "host", required_argument, NULL, 'h' },
        { "user", required_argument, NULL, 'u' },    { "rule", required_argument, NULL, 'r' },
        { "follow", no_argument, NULL, 'f' },        COMMON_OPTIONS,
};

/* A date, a date with a time (UTC), or how long ago. */
static int parse_time(const char *s, uint64_t *ret_usec)
{
        static const char *const formats[] = { "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S",
                                               "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d" };
        uint64_t now = clock_realtime_usec(), ago;

        if (parse_duration(s, &ago) >= 0 && ago < now) {
                *ret_usec = now - ago;
                return 0;
        }
        for (size_t i = 0; i < ELEMENTSOF(formats); i++) {
                struct tm tm = { 0 };
                const char *end = strptime(s, formats[i], &tm);
                time_t seconds = end && !*end ? timegm(&tm) : -1;

                if (seconds > 0) {
                        *ret_usec = (uint64_t) seconds * USEC_PER_SEC;
                        return 0;
                }
        }
        return fail("%s: not a time; write for example 2026-11-21, 2026-11-21T10:00:00Z, or 10m for ten "
                    "minutes ago",
                    s);
}

static int set_time(Json *p, const char *key, const char *text)
{
        uint64_t usec;
        int status = parse_time(text, &usec);

        if (status != 0)
                return status;
        return json_set_integer(p, key, (int64_t) usec) < 0 ? fail("out of memory") : 0;
}

/* A list of one or, with commas, several. */
static int set_list(Json *p, const char *key, const char *text)
{
        _cleanup_json_ Json *list = NULL;
        int r;

        r = json_new_array(&list);
        while (r >= 0 && *text) {
                char word[64];
                size_t n = strcspn(text, ",");

                if (n == 0 || n >= sizeof(word))
                        return fail("%s: not a list of words", text);
                memcpy(word, text, n);
                word[n] = '\0';
                r = json_append_string(list, word);
                text += n + (text[n] == ',');
        }
        if (r >= 0)
                r = json_set(p, key, TAKE_PTR(list));
        return r < 0 ? fail("out of memory") : 0;
}

static int set_text(Json *p, const char *key, const char *text)
{
        return json_set_string(p, key, text) < 0 ? fail("out of memory") : 0;
}

static int set_limit(Json *p, const char *text)
{
        uint64_t n;

        if (parse_u64(text, &n) < 0 || n == 0 || n > INT64_MAX)
                return fail("%s: not a number", text);
        return json_set_integer(p, "limit", (int64_t) n) < 0 ? fail("out of memory") : 0;
}

static int apply(Json *p, int c, const char *value)
{
        switch (c) {
        case 's':
                return set_text(p, "session", value);
        case 'S':
                return set_time(p, "sinceUSec", value);
        case 'U':
                return set_time(p, "untilUSec", value);
        case 'd':
                return set_list(p, "decisions", value);
        case 'k':
                return set_list(p, "kinds", value);
        case 'h':
                return set_text(p, "host", value);
        case 'u':
                return set_text(p, "user", value);
        case 'r':
                return set_text(p, "rule", value);
        case 'n':
                return set_limit(p, value);
        case 'f':
                return json_set_boolean(p, "follow", true) < 0 ? fail("out of memory") : 0;
        default:
                return EXIT_OURS;
        }
}

/* Words of a command, as much of them as there is room for. */
static void format_command(const Json *list, char *text, size_t size)
{
        size_t n = 0;

        text[0] = '\0';
        for (size_t i = 0; i < json_n(list) && json_type(json_at(list, i)) == JSON_STRING; i++) {
                const char *word = shown_escaped(json_string(json_at(list, i)));

                if (str_printf(text + n, size - n, "%s%s", n > 0 ? " " : "", word) < 0) {
                        (void) snprintf(text + MIN_OF(n, size - 4), 4, "...");
                        return;
                }
                n += strlen(text + n);
        }
}

/* What the row is about: where to, what was run, or how it ended. */
static void format_subject(const Json *record, char *text, size_t size)
{
        const Json *details = json_get(record, "details"), *command = NULL;
        const char *host = text_of(record, "host"), *address = text_of(record, "address"),
                   *path = text_of(record, "path"), *executable = text_of(record, "executable");
        const char *what = host && *host ? host
                           : address     ? address
                           : path        ? path
                           : executable  ? executable
                                         : NULL;
        long long port = integer_of(record, "port");
        int r;

        if (details && json_type(details) == JSON_OBJECT)
                command = json_get(details, "commandLine");
        if (command && json_type(command) == JSON_ARRAY) {
                format_command(command, text, size);
                return;
        }
        if (what && port > 0)
                r = str_printf(text, size, "%s:%lld", shown_escaped(what), port);
        else
                r = str_printf(text, size, "%s", what ? shown_escaped(what) : "-");
        if (r < 0)
                (void) snprintf(text, size, "(too long)");
}

static bool show_record(const Json *record)
{
        const char *rule = text_of(record, "rule"), *reason = text_of(record, "reason"),
                   *decision = text_of(record, "decision"), *session = text_of(record, "session");
        const Json *details = json_get(record, "details");
        const char *detail =
                        details && json_type(details) == JSON_OBJECT ? text_of(details, "detail") : NULL;
        char when[32], subject[2048], bytes[64] = "";
        long long sent = integer_of(record, "sentBytes"), received = integer_of(record, "receivedBytes");

        format_time((uint64_t) integer_of(record, "realtimeUSec"), when);
        format_subject(record, subject, sizeof(subject));
        if (sent > 0 || received > 0)
                (void) snprintf(bytes, sizeof(bytes), "  %lld/%lld", sent, received);
        return print("%s  %6lld  %-8s %-8s %-5s  %-8.8s  %-32s  %s%s%s%s\n", when,
                     (long long) integer_of(record, "sequence"), shown_escaped(text_of(record, "kind")),
                     shown_escaped(text_of(record, "action")), decision ? decision : "-",
                     session ? session : "-", subject,
                     rule && *rule       ? shown_escaped(rule)
                     : reason && *reason ? shown_escaped(reason)
                                         : "-",
                     bytes, detail ? "  " : "", detail ? shown_escaped(detail) : "");
}

static int show_logged(const Common *common, const Json *parameters, _unused_ void *userdata)
{
        const Json *record = json_get(parameters, "record");

        if (!record || json_type(record) != JSON_OBJECT)
                return 0;
        return (common->has_json ? print_json(STDOUT_FILENO, record) : show_record(record)) ? 0 : EXIT_OURS;
}

static int log_verb(Common *common, int argc, char *argv[])
{
        _cleanup_(sandboxd_client_freep) SandboxdClient *client = NULL;
        _cleanup_json_ Json *p = NULL;
        int c, r, status = 0;

        if (json_new_object(&p) < 0)
                return fail("out of memory");
        while (status == 0 && (c = next_option(common, argc, argv, "fn:", log_options)) >= 0)
                status = apply(p, c, optarg);
        if (status == 0 && optind < argc)
                status = fail("%s: audit log takes options only", argv[optind]);
        if (status == 0)
                status = ctl_connect(common, &client);
        if (status != 0)
                return status;
        r = sandboxd_send(client, AUDIT "Query", p, SANDBOXD_MORE, NULL, 0);
        return r < 0 ? fail_call(common, r) : ctl_show_replies(common, client, show_logged, NULL);
}

int verb_audit(Common *common, int argc, char *argv[])
{
        if (argc >= 2 && str_equal(argv[1], "log")) {
                optind = 0;
                return log_verb(common, argc - 1, argv + 1);
        }
        if (argc >= 2 && str_equal(argv[1], "verify")) {
                optind = 0;
                return verify_verb(common, argc - 1, argv + 1);
        }
        if (argc >= 2 && (str_equal(argv[1], "stats") || str_equal(argv[1], "export")))
                return fail("audit %s is not available in this version", argv[1]);
        return fail("which part? `sandboxctl audit log` or `sandboxctl audit verify`");
}
