/* policy list, show, validate, check, reload */

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "client/ctl/request.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

#define STATUS_NO 1 /* not valid, not allowed */
#define TEXT_MAX  (16U * 1024U * 1024U)

static int no_memory(void)
{
        return fail("out of memory");
}

static int plain_options(Common *common, int argc, char *argv[])
{
        static const struct option options[] = { COMMON_OPTIONS };

        return next_option(common, argc, argv, "+", options) >= 0 ? EXIT_OURS : 0;
}

/* ---- list, show ---- */

static int list_profiles(Common *common, int argc, char *argv[])
{
        _cleanup_(sandboxd_reply_done) SandboxdReply reply = SANDBOXD_REPLY_INIT;
        const Json *list;
        int status;

        if ((status = plain_options(common, argc, argv)) != 0 ||
            (status = ctl_call(common, POLICY "List", NULL, &reply)) != 0)
                return status;
        list = json_get(reply.parameters, "profiles");
        for (size_t i = 0; list && json_type(list) == JSON_ARRAY && i < json_n(list); i++) {
                const Json *o = json_at(list, i);
                const char *description = text_of(o, "description");

                if (!(common->has_json ? print_json(STDOUT_FILENO, o)
                                       : print("%-16s %-13s %s\n", shown(text_of(o, "name")),
                                               shown(text_of(o, "source")),
                                               description ? shown(description) : "")))
                        return EXIT_OURS;
        }
        return 0;
}

static int show_profile(Common *common, int argc, char *argv[])
{
        static const struct option options[] = { { "effective", no_argument, NULL, 'e' }, COMMON_OPTIONS };
        _cleanup_(sandboxd_reply_done) SandboxdReply reply = SANDBOXD_REPLY_INIT;
        bool is_effective = false;
        const char *content;
        Json *p = NULL;
        int c, status;

        while ((c = next_option(common, argc, argv, "", options)) >= 0) {
                if (c != 'e')
                        return EXIT_OURS;
                is_effective = true;
        }
        if (argc - optind != 1)
                return fail("policy show takes the name of one profile: `sandboxctl policy list`");
        if (json_new_object(&p) < 0 || json_set_string(p, "profile", argv[optind]) < 0 ||
            json_set_boolean(p, "effective", is_effective) < 0) {
                json_unref(p);
                return no_memory();
        }
        status = ctl_call(common, POLICY "Get", p, &reply);
        if (status != 0)
                return status;
        if (common->has_json)
                return print_json(STDOUT_FILENO, reply.parameters) ? 0 : EXIT_OURS;
        content = text_of(reply.parameters, "content");
        if (!content || fd_write_all(STDOUT_FILENO, content, strlen(content)) < 0)
                return EXIT_OURS;
        return *content && content[strlen(content) - 1] != '\n' && !print("\n") ? EXIT_OURS : 0;
}

/* ---- validate ---- */

static int show_diagnostics(const Common *common, const char *file, const SandboxdReply *reply)
{
        const Json *list = json_get(reply->parameters, "diagnostics");

        if (common->has_json)
                return print_json(STDOUT_FILENO, reply->parameters) ? 0 : EXIT_OURS;
        for (size_t i = 0; list && json_type(list) == JSON_ARRAY && i < json_n(list); i++) {
                const Json *d = json_at(list, i);
                const char *source = text_of(d, "file"), *severity = text_of(d, "severity"),
                           *key = text_of(d, "key");

                if (!print("%s:%lld:%lld: %s: %s%s%s\n", shown(source ? source : file),
                           (long long) integer_of(d, "line"), (long long) integer_of(d, "column"),
                           severity ? severity : "failure", key ? shown(key) : "", key ? ": " : "",
                           shown(text_of(d, "message"))))
                        return EXIT_OURS;
        }
        return 0;
}

static int validate_text(const Common *common, const char *kind, const char *file, int text_fd)
{
        _cleanup_(sandboxd_client_freep) SandboxdClient *client = NULL;
        _cleanup_(sandboxd_reply_done) SandboxdReply reply = SANDBOXD_REPLY_INIT;
        _cleanup_json_ Json *p = NULL;
        int r, status;

        if (json_new_object(&p) < 0 || json_set_string(p, "kind", kind) < 0 ||
            json_set_string(p, "file", file) < 0 || json_set_integer(p, "contentFileDescriptor", 0) < 0)
                return no_memory();
        status = ctl_connect(common, &client);
        if (status != 0)
                return status;
        r = sandboxd_call_fds(client, POLICY "Validate", p, &text_fd, 1, &reply);
        if (r < 0)
                return fail_call(common, r);
        if (reply.error)
                return fail_reply(&reply);
        status = show_diagnostics(common, file, &reply);
        if (status != 0)
                return status;
        return is_set(reply.parameters, "valid") ? 0 : STATUS_NO;
}

static int validate_file(Common *common, int argc, char *argv[])
{
        static const struct option options[] = { { "kind", required_argument, NULL, 'k' }, COMMON_OPTIONS };
        _cleanup_close_ int fd = -EBADF, text_fd = -EBADF;
        _cleanup_free_ char *text = NULL;
        const char *kind = "profile";
        size_t size;
        int c, r;

        while ((c = next_option(common, argc, argv, "", options)) >= 0) {
                if (c != 'k')
                        return EXIT_OURS;
                kind = optarg;
        }
        if (argc - optind != 1)
                return fail("policy validate takes one file");
        fd = open(argv[optind], O_RDONLY | O_CLOEXEC | O_NOCTTY);
        r = fd < 0 ? neg_errno() : fd_read_all(fd, TEXT_MAX, &text, &size);
        if (r < 0)
                return fail("%s: cannot be read: %s", argv[optind], error_name(r));
        r = fd_memfd_sealed("policy", text, size, &text_fd);
        if (r < 0)
                return no_memory();
        return validate_text(common, kind, argv[optind], text_fd);
}

/* ---- check ---- */

static int set_question(Json *p, const char *method, int argc, char *argv[])
{
        Json *o = NULL;
        int r;

        if (argc == 2 && str_equal(argv[0], "net")) {
                r = json_new_object(&o);
                if (r >= 0)
                        r = json_set_string(o, "url", argv[1]);
                if (r >= 0 && method)
                        r = json_set_string(o, "method", method);
                if (r >= 0)
                        return json_set(p, "network", o) < 0 ? no_memory() : 0;
                json_unref(o);
                return no_memory();
        }
        if (method)
                return fail("--method belongs to `net URL`");
        if (argc != 3 || !str_equal(argv[0], "file") ||
            (!str_equal(argv[1], "read") && !str_equal(argv[1], "write")))
                return fail("policy check takes `net URL` or `file read|write PATH`");
        if (json_new_object(&o) < 0 || json_set_string(o, "operation", argv[1]) < 0 ||
            json_set_string(o, "path", argv[2]) < 0) {
                json_unref(o);
                return no_memory();
        }
        return json_set(p, "file", o) < 0 ? no_memory() : 0;
}

static int set_profile(Json *p, const Request *q)
{
        _cleanup_free_ char *text = NULL;
        size_t size;

        if (!q->profile)
                return 0;
        if (q->profile_fd < 0)
                return json_set_string(p, "profile", q->profile) < 0 ? no_memory() : 0;
        if (lseek(q->profile_fd, 0, SEEK_SET) < 0 || fd_read_all(q->profile_fd, TEXT_MAX, &text, &size) < 0)
                return fail("%s: cannot be read", q->profile);
        if (strlen(text) != size || !str_is_utf8(text, size))
                return fail("%s: not a text in UTF-8", q->profile);
        return json_set_string(p, "profileContent", text) < 0 ? no_memory() : 0;
}

static int show_answer(const Common *common, const Json *answer)
{
        const char *decision = text_of(answer, "decision"), *layer = text_of(answer, "layer"),
                   *rule = text_of(answer, "rule"), *reason = text_of(answer, "reason");
        bool is_shown = common->has_json ? print_json(STDOUT_FILENO, answer)
                                         : print("%s%s  %s%s%s%s%s\n", shown(decision),
                                                 decision && str_equal(decision, "ask")
                                                                 ? " (nobody can be asked: deny)"
                                                                 : "",
                                                 layer ? shown(layer) : "default", rule ? " " : "",
                                                 rule ? shown(rule) : "", reason ? ": " : "",
                                                 reason ? shown(reason) : "");

        if (!is_shown || !decision)
                return EXIT_OURS;
        return str_equal(decision, "allow") ? 0 : STATUS_NO;
}

static int parse_check(Request *q, const char **ret_method, Common *common, int argc, char *argv[])
{
        static const struct option options[] = { { "profile", required_argument, NULL, 'p' },
                                                 { "workspace", required_argument, NULL, 'w' },
                                                 { "method", required_argument, NULL, 'X' },
                                                 { "explain", no_argument, NULL, 'e' },
                                                 COMMON_OPTIONS };
        int c, status = 0;

        while (status == 0 && (c = next_option(common, argc, argv, "+p:w:X:", options)) >= 0) {
                if (c == 'p')
                        status = request_take_profile(q, optarg);
                else if (c == 'w')
                        status = request_take_workspace(q, optarg);
                else if (c == 'X')
                        *ret_method = optarg;
                else
                        status = c == 'e' ? fail("--explain is not available in this version") : EXIT_OURS;
        }
        return status == 0 && !q->workspace ? request_take_workspace(q, ".") : status;
}

static int check(Common *common, int argc, char *argv[])
{
        _cleanup_(sandboxd_reply_done) SandboxdReply reply = SANDBOXD_REPLY_INIT;
        _cleanup_json_ Json *p = NULL;
        const char *method = NULL;
        Request q;
        int status;

        if (request_init(&q) < 0 || json_new_object(&p) < 0) {
                request_done(&q);
                return no_memory();
        }
        status = parse_check(&q, &method, common, argc, argv);
        if (status == 0)
                status = set_question(p, method, argc - optind, argv + optind);
        if (status == 0)
                status = set_profile(p, &q);
        if (status == 0 && json_set_string(p, "workspace", q.workspace) < 0)
                status = no_memory();
        if (status == 0)
                status = request_read_policy(p, q.workspace);
        if (status == 0)
                status = ctl_call(common, POLICY "Check", TAKE_PTR(p), &reply);
        request_done(&q);
        return status != 0 ? status : show_answer(common, reply.parameters);
}

/* ---- reload ---- */

static int fail_reload(const SandboxdReply *reply)
{
        const char *number = text_of(reply->parameters, "errnoName");

        if (str_equal(reply->error, "org.varlink.service.PermissionDenied"))
                return fail("only root and the group sandboxd-admins load policy and settings anew");
        if (str_equal(reply->error, POLICY "InvalidPolicy"))
                (void) fail("nothing was loaded, what was in force stays: mend this and try again");
        if (number && str_equal(number, "ETIMEDOUT"))
                return fail("the audit log did not take the row in time, so nothing is loaded: see the "
                            "daemon's log, and `sandboxctl status` for the generation in force");
        return number ? fail("nothing was loaded, what was in force stays (%s): see the daemon's log",
                             number)
                      : fail_reply(reply);
}

static int reload(Common *common, int argc, char *argv[])
{
        _cleanup_(sandboxd_client_freep) SandboxdClient *client = NULL;
        _cleanup_(sandboxd_reply_done) SandboxdReply reply = SANDBOXD_REPLY_INIT;
        int status, r;

        if ((status = plain_options(common, argc, argv)) != 0)
                return status;
        if (argc > optind)
                return fail("policy reload takes no argument: it reads what the daemon was started with");
        if ((status = ctl_connect(common, &client)) != 0)
                return status;
        r = sandboxd_call(client, POLICY "Reload", NULL, &reply);
        if (r < 0)
                return fail_call(common, r);
        if (reply.error)
                return fail_reload(&reply);
        status = show_diagnostics(common, "policy", &reply);
        if (status != 0 || common->has_json)
                return status;
        return print("generation %lld%s\n", (long long) integer_of(reply.parameters, "generation"),
                     is_set(reply.parameters, "changed") ? "" : ": nothing has changed")
                               ? 0
                               : EXIT_OURS;
}

int verb_policy(Common *common, int argc, char *argv[])
{
        static const struct {
                const char *name;
                VerbFunction function;
        } parts[] = {
                { "list", list_profiles }, { "show", show_profile }, { "validate", validate_file },
                { "check", check },        { "allow", NULL },        { "deny", NULL },
                { "suggest", NULL },       { "replay", NULL },       { "reload", reload },
        };

        for (size_t i = 0; argc >= 2 && i < ELEMENTSOF(parts); i++) {
                if (!str_equal(parts[i].name, argv[1]))
                        continue;
                if (!parts[i].function)
                        return fail("policy %s is not available in this version", argv[1]);
                optind = 0;
                return parts[i].function(common, argc - 1, argv + 1);
        }
        return fail("which part? `sandboxctl policy list|show|validate|check|reload`");
}
