/* The verbs about sessions, and status. */

#include <unistd.h>

#include "client/ctl/ctl.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

#define TREE_SIZE_MAX (4U * 1024U * 1024U)

static int out_of_memory(int r)
{
        return r < 0 ? fail("out of memory (%s)", error_name(r)) : 0;
}

int new_parameters(const char *key, const char *value, Json **ret)
{
        Json *p = NULL;
        int r;

        r = json_new_object(&p);
        if (r >= 0)
                r = json_set_string(p, key, value);
        if (r < 0) {
                json_unref(p);
                return out_of_memory(r);
        }
        *ret = p;
        return 0;
}

int parse_plain(Common *common, int argc, char *argv[], int n_min, int n_max)
{
        static const struct option options[] = { COMMON_OPTIONS };

        if (next_option(common, argc, argv, "+", options) >= 0)
                return EXIT_OURS;
        if (argc - optind < n_min || argc - optind > n_max)
                return fail("%s takes %s: see `sandboxctl %s --help`", argv[0],
                            n_max == 1 ? "one session" : "other arguments", argv[0]);
        return 0;
}

/* ---- describe ---- */

/* JSON escapes control characters, but not those that turn text around. */
static bool show_tree(const char *name, const Json *v)
{
        Buf b = BUF_INIT(TREE_SIZE_MAX);
        bool is_shown = json_format(v, &b) >= 0 && buf_put(&b, "", 1) >= 0 &&
                        print("%-16s %s\n", name, shown_escaped(buf_front(&b)));

        buf_done(&b);
        return is_shown;
}

static bool show_value(const char *name, const Json *v)
{
        switch (json_type(v)) {
        case JSON_STRING:
                return print("%-16s %s\n", name, shown(json_string(v)));
        case JSON_INTEGER:
                return print("%-16s %lld\n", name, (long long) json_integer(v));
        case JSON_BOOLEAN:
                return print("%-16s %s\n", name, json_boolean(v) ? "yes" : "no");
        case JSON_OBJECT:
        case JSON_ARRAY:
                return show_tree(name, v);
        case JSON_NULL:
        case JSON_REAL:
        default:
                return true;
        }
}

static int show_members(const Json *object)
{
        const char *key;
        const Json *value;
        void *cursor = NULL;

        while (json_next(object, &cursor, &key, &value)) {
                if (!show_value(key, value))
                        return EXIT_OURS;
        }
        return 0;
}

int verb_describe(Common *common, int argc, char *argv[])
{
        _cleanup_(sandboxd_reply_done) SandboxdReply reply = SANDBOXD_REPLY_INIT;
        Json *p = NULL;
        int status;

        if ((status = parse_plain(common, argc, argv, 1, 1)) != 0 ||
            (status = new_parameters("id", argv[optind], &p)) != 0 ||
            (status = ctl_call(common, SESSION "Describe", p, &reply)) != 0)
                return status;
        if (common->has_json)
                return print_json(STDOUT_FILENO, reply.parameters) ? 0 : EXIT_OURS;
        if (!print("%-16s %s\n", "id", shown(text_of(reply.parameters, "id"))))
                return EXIT_OURS;
        return show_members(json_get(reply.parameters, "runtime"));
}

int verb_status(Common *common, int argc, char *argv[])
{
        _cleanup_(sandboxd_reply_done) SandboxdReply reply = SANDBOXD_REPLY_INIT;
        int status;

        if ((status = parse_plain(common, argc, argv, 0, 0)) != 0 ||
            (status = ctl_call(common, MANAGER "Describe", NULL, &reply)) != 0)
                return status;
        if (common->has_json)
                return print_json(STDOUT_FILENO, reply.parameters) ? 0 : EXIT_OURS;
        return show_members(reply.parameters);
}

/* ---- wait, signal, terminate, remove ---- */

int verb_wait(Common *common, int argc, char *argv[])
{
        _cleanup_(sandboxd_reply_done) SandboxdReply reply = SANDBOXD_REPLY_INIT;
        const Json *result;
        const char *reason;
        Json *p = NULL;
        int status;

        if ((status = parse_plain(common, argc, argv, 1, 2)) != 0 ||
            (status = new_parameters("id", argv[optind], &p)) != 0)
                return status;
        if (optind + 1 < argc && json_set_string(p, "process", argv[optind + 1]) < 0) {
                json_unref(p);
                return out_of_memory(-ENOMEM);
        }
        status = ctl_call(common, SESSION "Wait", p, &reply);
        if (status != 0)
                return status;
        result = json_get(reply.parameters, "result");
        reason = text_of(result, "reason");
        if (common->has_json)
                return print_json(STDOUT_FILENO, reply.parameters) ? 0 : EXIT_OURS;
        if (!print("%s\n", shown(reason)))
                return EXIT_OURS;
        return optind + 1 < argc ? result_status(result) : 0;
}

int verb_signal(Common *common, int argc, char *argv[])
{
        static const struct option options[] = { { "all", no_argument, NULL, 'a' }, COMMON_OPTIONS };
        _cleanup_(sandboxd_reply_done) SandboxdReply reply = SANDBOXD_REPLY_INIT;
        bool is_all = false;
        char name[32];
        Json *p = NULL;
        int c, status, number;

        while ((c = next_option(common, argc, argv, "+a", options)) >= 0) {
                if (c != 'a')
                        return EXIT_OURS;
                is_all = true;
        }
        if (argc - optind != 2)
                return fail("signal takes a session and a signal: `sandboxctl signal ID TERM`");
        number = signal_number(argv[optind + 1]);
        if (number < 1 || number >= 32 || str_printf(name, sizeof(name), "SIG%s", sigabbrev_np(number)) < 0)
                return fail("%s: no such signal; write for example TERM", argv[optind + 1]);
        status = new_parameters("id", argv[optind], &p);
        if (status != 0)
                return status;
        if (json_set_string(p, "signal", name) < 0 || (is_all && json_set_string(p, "scope", "all") < 0)) {
                json_unref(p);
                return out_of_memory(-ENOMEM);
        }
        return ctl_call(common, SESSION "Signal", p, &reply);
}

int verb_terminate(Common *common, int argc, char *argv[])
{
        static const struct option options[] = { { "all", no_argument, NULL, 'a' },
                                                 { "of", required_argument, NULL, 'o' },
                                                 { "grace", required_argument, NULL, 'g' },
                                                 COMMON_OPTIONS };
        _cleanup_(sandboxd_reply_done) SandboxdReply reply = SANDBOXD_REPLY_INIT;
        bool is_all = false, has_grace = false, has_owner = false;
        uint64_t grace = 0;
        uint32_t owner = 0;
        Json *p = NULL;
        int c, status;

        while ((c = next_option(common, argc, argv, "", options)) >= 0) {
                if (c == 'a')
                        is_all = true;
                else if (c == 'o') {
                        has_owner = true;
                        if ((status = user_from_text(optarg, &owner)) != 0)
                                return status;
                } else if (c == 'g' && parse_duration(optarg, &grace) >= 0 && grace <= INT64_MAX)
                        has_grace = true;
                else
                        return c == 'g' ? fail("%s: not a time; write for example 5s", optarg) : EXIT_OURS;
        }
        if ((argc - optind) + is_all + has_owner != 1)
                return fail("terminate takes one session, --all, or --of USER");
        if (json_new_object(&p) < 0 ||
            (is_all      ? json_set_boolean(p, "all", true)
             : has_owner ? json_set_integer(p, "ownerUid", owner)
                         : json_set_string(p, "id", argv[optind])) < 0 ||
            (has_grace && json_set_integer(p, "graceUSec", (int64_t) grace) < 0)) {
                json_unref(p);
                return out_of_memory(-ENOMEM);
        }
        status = ctl_call(common, SESSION "Terminate", p, &reply);
        if (status != 0 || !common->has_json)
                return status;
        return print_json(STDOUT_FILENO, reply.parameters) ? 0 : EXIT_OURS;
}

int verb_remove(Common *common, int argc, char *argv[])
{
        _cleanup_(sandboxd_reply_done) SandboxdReply reply = SANDBOXD_REPLY_INIT;
        Json *p = NULL;
        int status;

        if ((status = parse_plain(common, argc, argv, 1, 1)) != 0 ||
            (status = new_parameters("id", argv[optind], &p)) != 0)
                return status;
        return ctl_call(common, SESSION "Remove", p, &reply);
}
