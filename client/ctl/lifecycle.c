/* The verbs that list sessions and say how they live on: list, freeze, thaw, prune. */

#include <string.h>
#include <unistd.h>

#include "client/ctl/ctl.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

typedef struct ListFilter {
        Json *states; /* NULL: those that have not ended */
        Json *labels; /* NULL: any */
        bool has_all;
        bool has_all_users;
        bool has_head; /* the line above the table is there */
        bool has_owner;
        uint32_t owner;
} ListFilter;

static int out_of_memory(int r)
{
        return r < 0 ? fail("out of memory (%s)", error_name(r)) : 0;
}

/* ---- list ---- */

static void filter_done(ListFilter *f)
{
        f->states = json_unref(f->states);
        f->labels = json_unref(f->labels);
}

/* "5s", "12m", "3h", "9d". */
static void format_age(uint64_t usec, char text[16])
{
        const struct {
                uint64_t seconds;
                char letter;
        } units[] = { { 86400, 'd' }, { 3600, 'h' }, { 60, 'm' }, { 1, 's' } };
        uint64_t age = usec / USEC_PER_SEC;
        size_t i = 0;

        while (i + 1 < ELEMENTSOF(units) && age < 2 * units[i].seconds)
                i++;
        if (str_printf(text, 16, "%llu%c", (unsigned long long) (age / units[i].seconds), units[i].letter) <
            0)
                text[0] = '\0';
}

/* What state it is in; how it ended, where it has. */
static void format_state(const Json *runtime, char text[48])
{
        const char *state = text_of(runtime, "state"),
                   *reason = text_of(json_get(runtime, "result"), "reason");
        int r;

        if (reason && state && str_equal(state, "exited") && !str_equal(reason, "exited"))
                r = str_printf(text, 48, "ended (%.32s)", shown(reason));
        else
                r = str_printf(text, 48, "%.40s", shown(state));
        if (r < 0)
                text[0] = '\0';
}

static bool show_row(const Json *parameters, bool has_owners)
{
        const Json *runtime = json_get(parameters, "runtime");
        uint64_t created = (uint64_t) integer_of(runtime, "createdAtUSec"), now = clock_realtime_usec();
        char age[16], state[48];

        format_age(now > created ? now - created : 0, age);
        format_state(runtime, state);
        return (!has_owners || print("%10lld  ", (long long) integer_of(runtime, "ownerUid"))) &&
               print("%s  %-8s  %4s  %3lld  %-12s  %-10s  %s\n", shown(text_of(parameters, "id")), state,
                     age, (long long) integer_of(runtime, "running"), shown(text_of(runtime, "name")),
                     shown(text_of(runtime, "profile")), shown(text_of(runtime, "workspace")));
}

static bool show_head(bool has_owners)
{
        return (!has_owners || print("%10s  ", "UID")) &&
               print("%-32s  %-8s  %4s  %3s  %-12s  %-10s  %s\n", "ID", "STATE", "AGE", "RUN", "NAME",
                     "PROFILE", "WORKSPACE");
}

static bool is_wanted(const ListFilter *f, const Json *parameters)
{
        const char *state = text_of(json_get(parameters, "runtime"), "state");

        if (!text_of(parameters, "id"))
                return false;
        return f->has_all || f->states || !state ||
               (!str_equal(state, "exited") && !str_equal(state, "failed"));
}

static int show_listed(const Common *common, const Json *parameters, void *userdata)
{
        ListFilter *f = userdata;
        bool is_shown;

        if (!is_wanted(f, parameters))
                return 0;
        if (common->has_json)
                return print_json(STDOUT_FILENO, parameters) ? 0 : EXIT_OURS;
        is_shown = (f->has_head || show_head(f->has_all_users)) && show_row(parameters, f->has_all_users);
        f->has_head = true;
        return is_shown ? 0 : EXIT_OURS;
}

/* KEY=VALUE, or KEY alone for an empty value. */
int label_add(Json **labels, const char *text)
{
        _cleanup_free_ char *key = NULL;
        size_t n = strcspn(text, "=");
        int r = 0;

        if (n == 0)
                return fail("%s: not a label; write KEY=VALUE", text);
        if (!*labels)
                r = json_new_object(labels);
        if (r >= 0)
                r = str_aprintf(&key, "%.*s", (int) n, text);
        if (r >= 0)
                r = json_set_string(*labels, key, text[n] ? text + n + 1 : "");
        return out_of_memory(r);
}

static int add_state(ListFilter *f, const char *state)
{
        int r = f->states ? 0 : json_new_array(&f->states);

        if (r >= 0)
                r = json_append_string(f->states, state);
        return out_of_memory(r);
}

static int parse_list(Common *common, int argc, char *argv[], ListFilter *f)
{
        static const struct option options[] = {
                { "all", no_argument, NULL, 'a' },         { "label", required_argument, NULL, 'l' },
                { "state", required_argument, NULL, 's' }, { "all-users", no_argument, NULL, 'A' },
                { "of", required_argument, NULL, 'o' },    COMMON_OPTIONS
        };
        int c, status = 0;

        while (status == 0 && (c = next_option(common, argc, argv, "a", options)) >= 0) {
                if (c == 'a')
                        f->has_all = true;
                else if (c == 'A')
                        f->has_all_users = true;
                else if (c == 'o') {
                        status = user_from_text(optarg, &f->owner);
                        f->has_owner = true;
                } else if (c == 'l')
                        status = label_add(&f->labels, optarg);
                else if (c == 's')
                        status = add_state(f, optarg);
                else
                        return EXIT_OURS;
        }
        if (status == 0 && optind < argc)
                return fail("list takes no arguments: see `sandboxctl list --help`");
        return status;
}

static int send_list(const Common *common, SandboxdClient *client, const ListFilter *f)
{
        _cleanup_json_ Json *p = NULL;
        int r;

        r = json_new_object(&p);
        if (r >= 0 && f->states)
                r = json_set(p, "states", json_ref(f->states));
        if (r >= 0 && f->labels)
                r = json_set(p, "labels", json_ref(f->labels));
        if (r >= 0 && f->has_all_users)
                r = json_set_boolean(p, "allUsers", true);
        if (r >= 0 && f->has_owner)
                r = json_set_integer(p, "ownerUid", f->owner);
        if (r >= 0)
                r = sandboxd_send(client, SESSION "List", p, SANDBOXD_MORE, NULL, 0);
        return r < 0 ? fail_call(common, r) : 0;
}

int verb_list(Common *common, int argc, char *argv[])
{
        _cleanup_(sandboxd_client_freep) SandboxdClient *client = NULL;
        _cleanup_(filter_done) ListFilter f = { 0 };
        int status;

        if ((status = parse_list(common, argc, argv, &f)) != 0 ||
            (status = ctl_connect(common, &client)) != 0 || (status = send_list(common, client, &f)) != 0)
                return status;
        return ctl_show_replies(common, client, show_listed, &f);
}

/* ---- freeze, thaw, prune ---- */

static int call_with_id(Common *common, const char *method, int argc, char *argv[])
{
        _cleanup_(sandboxd_reply_done) SandboxdReply reply = SANDBOXD_REPLY_INIT;
        Json *p = NULL;
        int status;

        if ((status = parse_plain(common, argc, argv, 1, 1)) != 0 ||
            (status = new_parameters("id", argv[optind], &p)) != 0)
                return status;
        return ctl_call(common, method, p, &reply);
}

int verb_freeze(Common *common, int argc, char *argv[])
{
        return call_with_id(common, SESSION "Freeze", argc, argv);
}

int verb_thaw(Common *common, int argc, char *argv[])
{
        return call_with_id(common, SESSION "Thaw", argc, argv);
}

int verb_prune(Common *common, int argc, char *argv[])
{
        static const struct option options[] = { { "older", required_argument, NULL, 'o' }, COMMON_OPTIONS };
        _cleanup_(sandboxd_reply_done) SandboxdReply reply = SANDBOXD_REPLY_INIT;
        uint64_t older = 0;
        Json *p = NULL;
        int c, status;

        while ((c = next_option(common, argc, argv, "", options)) >= 0) {
                if (c != 'o')
                        return EXIT_OURS;
                if (parse_duration(optarg, &older) < 0 || older > INT64_MAX)
                        return fail("%s: not a time; write for example 1h", optarg);
        }
        if (optind < argc)
                return fail("prune takes no session: `sandboxctl remove ID` forgets one");
        if (json_new_object(&p) < 0 || json_set_integer(p, "olderThanUSec", (int64_t) older) < 0) {
                json_unref(p);
                return out_of_memory(-ENOMEM);
        }
        status = ctl_call(common, SESSION "Prune", p, &reply);
        if (status != 0)
                return status;
        if (common->has_json)
                return print_json(STDOUT_FILENO, reply.parameters) ? 0 : EXIT_OURS;
        return print("%lld\n", (long long) integer_of(reply.parameters, "removed")) ? 0 : EXIT_OURS;
}
