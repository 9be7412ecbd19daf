/* report: what the daemon says of a session and of its workspace, with its rows of the log added up. */

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "client/ctl/ctl.h"
#include "proto/base/str.h"

static const struct option report_options[] = { { "markdown", no_argument, NULL, 'm' }, COMMON_OPTIONS };

#define PLACES_MAX      1024U
#define REPLY_BYTES_MAX (1024U * 1024U)

/* A host and a port, with what went there. */
typedef struct Place {
        char *host;
        int64_t port;
        int64_t n_allowed;
        int64_t n_denied;
        int64_t n_asked;
        int64_t sent;
        int64_t received;
} Place;

typedef struct Report {
        Place *places;
        size_t n_places;
        int64_t sent;
        int64_t received;
        bool has_more;
        bool is_markdown;
        const Json *reply;
} Report;

static void report_done(Report *x)
{
        for (size_t i = 0; i < x->n_places; i++)
                free(x->places[i].host);
        free(x->places);
}

static Place *place_of(Report *x, const char *host, int64_t port)
{
        Place *places;

        for (size_t i = 0; i < x->n_places; i++)
                if (x->places[i].port == port && str_equal(x->places[i].host, host))
                        return &x->places[i];
        if (x->n_places >= PLACES_MAX) {
                x->has_more = true;
                return NULL;
        }
        places = reallocarray(x->places, x->n_places + 1, sizeof(*places));
        if (!places)
                return NULL;
        x->places = places;
        places[x->n_places] = (Place){ .port = port };
        if (str_dup(host, &places[x->n_places].host) < 0)
                return NULL;
        return &places[x->n_places++];
}

/* Each row is one decision, or a report about one. */
static int add_row(_unused_ const Common *common, const Json *parameters, void *userdata)
{
        const Json *row = json_get(parameters, "record");
        const char *kind = row ? text_of(row, "kind") : NULL, *host = row ? text_of(row, "host") : NULL,
                   *verdict = row ? text_of(row, "decision") : NULL;
        Report *x = userdata;
        Place *p;

        if (!kind || (!str_equal(kind, "net") && !str_equal(kind, "dns")))
                return 0;
        if (!host || !*host)
                host = text_of(row, "address");
        p = host ? place_of(x, host, str_equal(kind, "dns") ? 53 : integer_of(row, "port")) : NULL;
        if (!p)
                return 0;
        p->n_allowed += verdict && str_equal(verdict, "allow");
        p->n_denied += verdict && str_equal(verdict, "deny");
        p->n_asked += (verdict && str_equal(verdict, "ask")) ||
                      (text_of(row, "reason") && str_equal(text_of(row, "reason"), "no-approver"));
        p->sent += integer_of(row, "sentBytes");
        p->received += integer_of(row, "receivedBytes");
        x->sent += integer_of(row, "sentBytes");
        x->received += integer_of(row, "receivedBytes");
        return 0;
}

static int read_rows(const Common *common, Report *x, const char *id)
{
        _cleanup_(sandboxd_client_freep) SandboxdClient *client = NULL;
        _cleanup_json_ Json *p = NULL;
        int r, status;

        status = new_parameters("session", id, &p);
        if (status == 0)
                status = ctl_connect(common, &client);
        if (status != 0)
                return status;
        r = sandboxd_send(client, AUDIT "Query", p, SANDBOXD_MORE, NULL, 0);
        return r < 0 ? fail_call(common, r) : ctl_show_replies(common, client, add_row, x);
}

/* ---- as JSON ---- */

static int place_to_json(const Place *p, Json **ret)
{
        _cleanup_json_ Json *o = NULL;
        int r;

        r = json_new_object(&o);
        if (r < 0 || (r = json_set_string(o, "host", p->host)) < 0 ||
            (r = json_set_integer(o, "port", p->port)) < 0 ||
            (r = json_set_integer(o, "allowed", p->n_allowed)) < 0 ||
            (r = json_set_integer(o, "denied", p->n_denied)) < 0 ||
            (r = json_set_integer(o, "questions", p->n_asked)) < 0 ||
            (r = json_set_integer(o, "sentBytes", p->sent)) < 0 ||
            (r = json_set_integer(o, "receivedBytes", p->received)) < 0)
                return r;
        *ret = TAKE_PTR(o);
        return 0;
}

static int hosts_to_json(const Report *x, Json *o)
{
        _cleanup_json_ Json *list = NULL;
        int64_t n_asked = 0;
        int r;

        r = json_new_array(&list);
        for (size_t i = 0; r >= 0 && i < x->n_places; i++) {
                Json *one = NULL;

                n_asked += x->places[i].n_asked;
                r = place_to_json(&x->places[i], &one);
                if (r >= 0)
                        r = json_append(list, one);
        }
        if (r < 0 || (r = json_set(o, "hosts", TAKE_PTR(list))) < 0 ||
            (r = json_set_integer(o, "questions", n_asked)) < 0 ||
            (r = json_set_integer(o, "sentBytes", x->sent)) < 0)
                return r;
        return json_set_integer(o, "receivedBytes", x->received);
}

/* The reply's own fields, then ours. */
static int show_json(const Report *x)
{
        _cleanup_(buf_done) Buf b = BUF_INIT(REPLY_BYTES_MAX);
        _cleanup_json_ Json *o = NULL;
        int r;

        r = json_format(x->reply, &b);
        if (r >= 0)
                r = json_parse(buf_front(&b), buf_size(&b), REPLY_BYTES_MAX, &o);
        if (r >= 0)
                r = hosts_to_json(x, o);
        if (r < 0)
                return fail("out of memory");
        return print_json(STDOUT_FILENO, o) ? 0 : EXIT_OURS;
}

/* ---- for people ---- */

static bool title(const Report *x, const char *text)
{
        return print(x->is_markdown ? "\n## %s\n\n" : "\n%s\n", text);
}

/* A name may hold what Markdown takes for its own: as code it does not count, but for the sign of code. */
static bool item(const Report *x, const char *name, const char *more)
{
        const char *text = shown_escaped(name);

        if (!x->is_markdown)
                return print("  %s%s%s\n", text, *more ? "  " : "", more);
        return print("- %s%s%s%s%s\n", strchr(text, '`') ? "`` " : "`", text,
                     strchr(text, '`') ? " ``" : "`", *more ? " " : "", more);
}

static bool show_head(const Report *x)
{
        const Json *runtime = json_get(x->reply, "runtime");
        const char *name = text_of(runtime, "name"), *workspace = text_of(runtime, "workspace"),
                   *profile = text_of(runtime, "profile"), *state = text_of(runtime, "state");

        return print("%sSession %s%s%s%s\n", x->is_markdown ? "# " : "", shown(text_of(x->reply, "id")),
                     name ? " (" : "", name ? shown_escaped(name) : "", name ? ")" : "") &&
               title(x, "Where") && item(x, workspace ? workspace : "(no workspace)", "") &&
               item(x, profile ? profile : "-", "profile") && item(x, state ? state : "-", "state");
}

static bool show_hosts(const Report *x)
{
        char more[128];

        if (!title(x, "Hosts"))
                return false;
        for (size_t i = 0; i < x->n_places; i++) {
                const Place *p = &x->places[i];
                char name[512];

                if (str_printf(name, sizeof(name), "%s:%lld", p->host, (long long) p->port) < 0 ||
                    str_printf(more, sizeof(more),
                               "%lld allowed, %lld denied, %lld/%lld bytes sent/received",
                               (long long) p->n_allowed, (long long) p->n_denied, (long long) p->sent,
                               (long long) p->received) < 0)
                        continue;
                if (!item(x, name, more))
                        return false;
        }
        return (x->n_places > 0 || print("%snone\n", x->is_markdown ? "" : "  ")) &&
               (!x->has_more || print("%sand more: sandboxctl audit log\n", x->is_markdown ? "" : "  ")) &&
               print("%sin all %lld bytes sent, %lld received\n", x->is_markdown ? "\n" : "  ",
                     (long long) x->sent, (long long) x->received);
}

static bool show_questions(const Report *x)
{
        bool has_any = false;

        if (!title(x, "Questions"))
                return false;
        for (size_t i = 0; i < x->n_places; i++) {
                const Place *p = &x->places[i];
                char name[512], more[64];

                if (p->n_asked == 0 ||
                    str_printf(name, sizeof(name), "%s:%lld", p->host, (long long) p->port) < 0 ||
                    str_printf(more, sizeof(more), "%lld", (long long) p->n_asked) < 0)
                        continue;
                has_any = true;
                if (!item(x, name, more))
                        return false;
        }
        return has_any || print("%snone\n", x->is_markdown ? "" : "  ");
}

static bool show_hand_over(const Report *x)
{
        const Json *list = json_get(x->reply, "handOver");

        if (!title(x, "Look at these before you use the workspace"))
                return false;
        for (size_t i = 0; list && i < json_n(list); i++) {
                const Json *e = json_at(list, i);
                const char *target = text_of(e, "target"), *path = text_of(e, "path"),
                           *kind = text_of(e, "kind");
                char name[1024];

                if (!path || !kind ||
                    str_printf(name, sizeof(name), "%.500s%s%.500s", path, target ? " -> " : "",
                               target ? target : "") < 0)
                        continue;
                if (!item(x, name, shown(kind)))
                        return false;
        }
        return (list && json_n(list) > 0) || print("%snone\n", x->is_markdown ? "" : "  ");
}

static bool show_changed(const Report *x)
{
        const Json *list = json_get(x->reply, "changed");

        if (!title(x, "Changed since the session began, by whomever"))
                return false;
        for (size_t i = 0; list && i < json_n(list); i++) {
                const char *path = json_string(json_at(list, i));

                if (path && !item(x, path, ""))
                        return false;
        }
        if (!list || json_n(list) == 0)
                return print("%snone\n", x->is_markdown ? "" : "  ");
        return !is_set(x->reply, "truncated") || print("%sand more\n", x->is_markdown ? "\n" : "  ");
}

static bool show_warnings(const Report *x)
{
        const Json *list = json_get(json_get(x->reply, "runtime"), "warnings");
        bool has_any = false;

        for (size_t i = 0; list && i < json_n(list); i++) {
                const char *code = text_of(json_at(list, i), "code"),
                           *message = text_of(json_at(list, i), "message");

                if (!code || !message || !str_has_prefix(code, "protected-path"))
                        continue;
                if (!has_any && !title(x, "Protected paths"))
                        return false;
                has_any = true;
                if (!item(x, message, ""))
                        return false;
        }
        return true;
}

int verb_report(Common *common, int argc, char *argv[])
{
        _cleanup_(sandboxd_reply_done) SandboxdReply reply = SANDBOXD_REPLY_INIT;
        _cleanup_(report_done) Report x = { 0 };
        Json *p = NULL;
        int c, status = 0;

        while (status == 0 && (c = next_option(common, argc, argv, "", report_options)) >= 0) {
                if (c != 'm')
                        return EXIT_OURS;
                x.is_markdown = true;
        }
        if (optind != argc - 1)
                return fail("report takes one session: see `sandboxctl report --help`");
        if ((status = new_parameters("id", argv[optind], &p)) != 0 ||
            (status = ctl_call(common, SESSION "Report", p, &reply)) != 0)
                return status;
        x.reply = reply.parameters;
        status = read_rows(common, &x, text_of(x.reply, "id"));
        if (status != 0)
                return status;
        if (common->has_json)
                return show_json(&x);
        return show_head(&x) && show_hosts(&x) && show_questions(&x) && show_hand_over(&x) &&
                                               show_warnings(&x) && show_changed(&x)
                               ? 0
                               : EXIT_OURS;
}
