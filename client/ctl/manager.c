/* The verbs about the daemon: status, doctor, drain, events. */

#include <string.h>
#include <unistd.h>

#include "client/ctl/ctl.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

#define EVENTS "io.sandboxd.Events."

static int no_words(int argc, char *argv[])
{
        return optind < argc ? fail("%s: %s takes options only: see `sandboxctl %s --help`",
                                    shown(argv[optind]), argv[0], argv[0])
                             : 0;
}

/* ---- doctor ---- */

static bool show_check(const Json *check)
{
        const char *advice = text_of(check, "advice");

        if (!print("%-8s %-18s %s\n", shown(text_of(check, "state")), shown(text_of(check, "name")),
                   shown(text_of(check, "message"))))
                return false;
        return !advice || print("%-8s %-18s -> %s\n", "", "", shown(advice));
}

int verb_doctor(Common *common, int argc, char *argv[])
{
        static const struct option options[] = { COMMON_OPTIONS };
        _cleanup_(sandboxd_reply_done) SandboxdReply reply = SANDBOXD_REPLY_INIT;
        const Json *checks;
        int status;

        if (next_option(common, argc, argv, "+", options) >= 0)
                return EXIT_OURS;
        if ((status = no_words(argc, argv)) != 0 ||
            (status = ctl_call(common, MANAGER "Diagnose", NULL, &reply)) != 0)
                return status;
        checks = json_get(reply.parameters, "checks");
        if (!checks || json_type(checks) != JSON_ARRAY)
                return fail("the daemon's answer has no checks");
        for (size_t i = 0; i < json_n(checks); i++) {
                if (!(common->has_json ? print_json(STDOUT_FILENO, json_at(checks, i))
                                       : show_check(json_at(checks, i))))
                        return EXIT_OURS;
        }
        return is_set(reply.parameters, "healthy") ? 0 : 1;
}

/* ---- drain ---- */

static int drain_option(Json *p, int c, const char *argument)
{
        uint64_t usec;

        if (c == 'c')
                return json_set_boolean(p, "cancel", true) < 0 ? fail("out of memory") : 0;
        if (c != 'g')
                return EXIT_OURS;
        if (parse_duration(argument, &usec) < 0 || usec > INT64_MAX)
                return fail("%s: not a time; write for example 30s or 5m", shown(argument));
        return json_set_integer(p, "graceUSec", (int64_t) usec) < 0 ? fail("out of memory") : 0;
}

int verb_drain(Common *common, int argc, char *argv[])
{
        static const struct option options[] = { { "grace", required_argument, NULL, 'g' },
                                                 { "cancel", no_argument, NULL, 'c' },
                                                 COMMON_OPTIONS };
        _cleanup_(sandboxd_reply_done) SandboxdReply reply = SANDBOXD_REPLY_INIT;
        Json *p = NULL;
        int c, status = 0;

        if (json_new_object(&p) < 0)
                return fail("out of memory");
        while (status == 0 && (c = next_option(common, argc, argv, "+", options)) >= 0)
                status = drain_option(p, c, optarg);
        if (status == 0)
                status = no_words(argc, argv);
        if (status != 0) {
                json_unref(p);
                return status;
        }
        status = ctl_call(common, MANAGER "Drain", p, &reply);
        if (status != 0)
                return status;
        if (common->has_json)
                return print_json(STDOUT_FILENO, reply.parameters) ? 0 : EXIT_OURS;
        return print("%lld\n", (long long) integer_of(reply.parameters, "remaining")) ? 0 : EXIT_OURS;
}

/* ---- events ---- */

/* What of an event says most, in a few words. */
static void format_event(const Json *event, char *text, size_t size)
{
        const Json *details = json_get(event, "details");
        const char *host = text_of(event, "host"), *reason = text_of(event, "reason"),
                   *state = text_of(event, "state"), *rule = text_of(event, "rule"),
                   *message = details ? text_of(details, "message") : NULL;
        long long port = integer_of(event, "port"), count = details ? integer_of(details, "count") : 0;
        char target[512] = "", times[32] = "";

        if (host && str_printf(target, sizeof(target), port > 0 ? "%.400s:%lld " : "%.400s ",
                               shown_escaped(host), port) < 0)
                target[0] = '\0';
        if (count > 1 && str_printf(times, sizeof(times), " (%lld times)", count) < 0)
                times[0] = '\0';
        if (str_printf(text, size, "%s%.400s%s%.400s%s%.400s%s", target, state ? shown_escaped(state) : "",
                       state && reason ? " " : "", reason ? shown_escaped(reason) : "", rule ? " " : "",
                       rule      ? shown_escaped(rule)
                       : message ? shown_escaped(message)
                                 : "",
                       times) < 0)
                text[0] = '\0';
}

static bool show_event(const Json *event)
{
        const char *session = text_of(event, "session"), *process = text_of(event, "process");
        char when[32], words[2048];

        format_time((uint64_t) integer_of(event, "realtimeUSec"), when);
        format_event(event, words, sizeof(words));
        return print("%s  %-16s  %-8.8s  %-4s  %s\n", when, shown(text_of(event, "kind")),
                     session ? shown(session) : "-", process ? shown(process) : "-", words);
}

static bool show_reply(const Common *common, const Json *parameters)
{
        const Json *event = json_get(parameters, "event");

        if (common->has_json)
                return print_json(STDOUT_FILENO, parameters);
        if (is_set(parameters, "gap"))
                return print("-- %lld events are missing here\n",
                             (long long) integer_of(parameters, "dropped"));
        return !event || json_type(event) != JSON_OBJECT || show_event(event);
}

static int show_next_event(const Common *common, const Json *parameters, _unused_ void *userdata)
{
        return show_reply(common, parameters) ? 0 : EXIT_OURS;
}

static int add_word(Json *list, const char *word)
{
        return json_append_string(list, word) < 0 ? fail("out of memory") : 0;
}

static int set_filters(Json *p, Json *take_sessions, Json *take_kinds)
{
        int r = 0;

        if (json_n(take_sessions) > 0)
                r = json_set(p, "sessions", json_ref(take_sessions));
        if (r >= 0 && json_n(take_kinds) > 0)
                r = json_set(p, "kinds", json_ref(take_kinds));
        json_unref(take_sessions);
        json_unref(take_kinds);
        return r < 0 ? fail("out of memory") : 0;
}

/* -f: what comes, too. */
static int parse_events(Common *common, int argc, char *argv[], Json *p)
{
        static const struct option options[] = { { "follow", no_argument, NULL, 'f' },
                                                 { "session", required_argument, NULL, 's' },
                                                 { "kind", required_argument, NULL, 'k' },
                                                 { "cursor", required_argument, NULL, 'c' },
                                                 COMMON_OPTIONS };
        Json *sessions = NULL, *kinds = NULL;
        bool is_following = false;
        int c, status = 0;

        if (json_new_array(&sessions) < 0 || json_new_array(&kinds) < 0)
                status = fail("out of memory");
        while (status == 0 && (c = next_option(common, argc, argv, "+f", options)) >= 0) {
                if (c == 'f')
                        is_following = true;
                else if (c == 's' || c == 'k')
                        status = add_word(c == 's' ? sessions : kinds, optarg);
                else if (c == 'c')
                        status = json_set_string(p, "cursor", optarg) < 0 ? fail("out of memory") : 0;
                else
                        status = EXIT_OURS;
        }
        if (status == 0)
                status = no_words(argc, argv);
        if (status == 0 && json_set_boolean(p, "follow", is_following) < 0)
                status = fail("out of memory");
        if (status == 0)
                return set_filters(p, sessions, kinds);
        json_unref(sessions);
        json_unref(kinds);
        return status;
}

int verb_events(Common *common, int argc, char *argv[])
{
        _cleanup_(sandboxd_client_freep) SandboxdClient *client = NULL;
        _cleanup_json_ Json *p = NULL;
        int status, r;

        if (json_new_object(&p) < 0)
                return fail("out of memory");
        if ((status = parse_events(common, argc, argv, p)) != 0 ||
            (status = ctl_connect(common, &client)) != 0)
                return status;
        r = sandboxd_send(client, EVENTS "Subscribe", p, SANDBOXD_MORE, NULL, 0);
        return r < 0 ? fail_call(common, r) : ctl_show_replies(common, client, show_next_event, NULL);
}
