/* run, create and exec. */

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "client/ctl/attach.h"
#include "client/ctl/request.h"
#include "client/ctl/streams.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

#define PATIENCE 3U /* so often a signal is passed on; the next one ends us, and with us the session */

typedef struct Running {
        Common *common;
        Request request;
        Stdio stdio;
        SandboxdClient *client;
        bool is_spawn;
        bool is_started;
        bool is_attached; /* the terminal stays with the daemon, which counts what goes through it */
        char id[40];
        char process[24];
        unsigned n_signals;
        int signal_fd;
        uint64_t begin_usec;
        uint64_t begin_realtime_usec;
} Running;

static void running_done(Running *r)
{
        stdio_done(&r->stdio);
        request_done(&r->request);
        r->client = sandboxd_client_free(r->client);
        r->signal_fd = fd_close(r->signal_fd);
}

static int out_of_memory(int r)
{
        return r < 0 ? fail("out of memory or descriptors (%s)", error_name(r)) : 0;
}

/* ---- signals ---- */

/* On a connection of its own: ours is busy with the command. */
static void pass_signal(Running *r, int number)
{
        _cleanup_(sandboxd_client_freep) SandboxdClient *client = NULL;
        _cleanup_(sandboxd_reply_done) SandboxdReply reply = SANDBOXD_REPLY_INIT;
        _cleanup_json_ Json *p = NULL;
        char name[16];

        if (str_printf(name, sizeof(name), "SIG%s", sigabbrev_np(number)) < 0 || json_new_object(&p) < 0 ||
            json_set_string(p, "id", r->id) < 0 || json_set_string(p, "process", r->process) < 0 ||
            json_set_string(p, "signal", name) < 0 || json_set_string(p, "scope", "all") < 0)
                return;
        if (sandboxd_connect(r->common->address, &client) < 0 ||
            sandboxd_call(client, SESSION "Signal", p, &reply) < 0)
                (void) fail("the signal could not be passed on");
}

/* 0, or the exit status: the signal is for us. */
static int on_signal(Running *r)
{
        struct signalfd_siginfo info;

        if (read(r->signal_fd, &info, sizeof(info)) != (ssize_t) sizeof(info))
                return 0;
        if (info.ssi_signo == SIGWINCH) {
                stdio_resize(&r->stdio);
                return 0;
        }
        if (!r->is_started || ++r->n_signals > PATIENCE)
                return EXIT_SIGNAL_BASE + (int) info.ssi_signo;
        pass_signal(r, (int) info.ssi_signo);
        return 0;
}

/* ---- the call ---- */

static int send_call(Running *r)
{
        _cleanup_json_ Json *p = NULL, *command = json_ref(r->request.command);
        int fds[SANDBOXD_FDS_MAX];
        size_t n_fds = 0;
        unsigned flags = r->request.is_detached ? 0 : SANDBOXD_MORE;
        int e;

        if (r->is_spawn) {
                e = request_parameters(&r->request, /* has_command= */ true, 0, &p);
                if (e >= 0 && r->request.profile_fd >= 0)
                        fds[n_fds++] = r->request.profile_fd;
        } else {
                e = json_new_object(&p);
                if (e >= 0)
                        e = json_set_string(p, "id", r->id);
                if (e >= 0)
                        e = json_set(p, "command", TAKE_PTR(r->request.command));
        }
        if (e >= 0)
                e = stdio_describe(&r->stdio, command, p, fds, &n_fds);
        if (e < 0)
                return out_of_memory(e);
        e = sandboxd_send(r->client, r->is_spawn ? SESSION "Spawn" : SESSION "Exec", p, flags, fds, n_fds);
        stdio_sent(&r->stdio);
        return e < 0 ? fail_call(r->common, e) : 0;
}

static int on_started(Running *r, SandboxdReply *reply)
{
        const char *id = text_of(reply->parameters, "id"), *process = text_of(reply->parameters, "process");

        if (!id || !process || str_copy(r->id, sizeof(r->id), id) < 0 ||
            str_copy(r->process, sizeof(r->process), process) < 0)
                return fail("the daemon's answer makes no sense: do its version and this one's fit?");
        r->is_started = true;
        if (!r->stdio.has_pty)
                return 0;
        if (reply->n_fds != 1) {
                r->is_attached = true;
                return 0;
        }
        return out_of_memory(stdio_start_pty(&r->stdio, TAKE_FD(reply->fds[0])));
}

static void show_warnings(const Running *r, const SandboxdReply *reply)
{
        const Json *runtime = json_get(reply->parameters, "runtime");
        const Json *list =
                        runtime && json_type(runtime) == JSON_OBJECT ? json_get(runtime, "warnings") : NULL;

        if (r->request.is_quiet || !list || json_type(list) != JSON_ARRAY)
                return;
        for (size_t i = 0; i < json_n(list); i++) {
                const char *code = text_of(json_at(list, i), "code"),
                           *message = text_of(json_at(list, i), "message");

                /* Optional paths of a profile are absent on most machines: `describe` lists them. */
                if (code && message && !str_equal(code, "path-missing") &&
                    !str_equal(code, "limit-not-enforced"))
                        (void) fail("warning: %s", message);
        }
}

/* Replies that are there. 0: go on; 1: *ret_last is the last one; negative: exit status with its sign
 * changed. */
static int take_replies(Running *r, SandboxdReply *ret_last)
{
        for (;;) {
                SandboxdReply reply = SANDBOXD_REPLY_INIT;
                int e = sandboxd_try_next(r->client, &reply);

                if (e == 0)
                        return 0;
                if (e < 0)
                        return -fail_call(r->common, e);
                if (reply.error || !reply.has_more) {
                        *ret_last = reply;
                        return 1;
                }
                show_warnings(r, &reply);
                e = r->is_started ? 0 : on_started(r, &reply);
                sandboxd_reply_done(&reply);
                if (e != 0)
                        return -e;
        }
}

/* Its status comes with the last reply. */
static int attach_own(Running *r)
{
        const AttachRequest q = { .id = r->id, .process = r->process, .replay_bytes = -1, .is_bound = true };

        r->is_attached = false;
        return attach_run(r->common, &q) == EXIT_OURS ? EXIT_OURS : 0;
}

/* Moves bytes and signals until the last reply; 0 or an exit status. */
static int attend(Running *r, SandboxdReply *ret_last)
{
        for (;;) {
                struct pollfd polls[2 * STDIO_FLOWS + 2];
                size_t n;
                int e;

                e = take_replies(r, ret_last);
                if (e != 0)
                        return e > 0 ? 0 : -e;
                if (r->is_attached) {
                        e = attach_own(r);
                        if (e != 0)
                                return e;
                        continue;
                }
                n = stdio_poll(&r->stdio, polls);
                polls[n] = (struct pollfd){ .fd = sandboxd_fd(r->client), .events = POLLIN };
                polls[n + 1] = (struct pollfd){ .fd = r->signal_fd, .events = POLLIN };
                if (poll(polls, n + 2, -1) < 0)
                        continue;
                stdio_move(&r->stdio, polls);
                if (polls[n + 1].revents) {
                        e = on_signal(r);
                        if (e != 0)
                                return e;
                }
        }
}

/* ---- afterwards ---- */

static bool is_of_file(const Json *record)
{
        const char *kind = text_of(record, "kind");

        return kind && str_equal(kind, "file");
}

/* Whoever lists a folder looks at all that is in it. */
static bool is_glance(const Json *record)
{
        const char *action = text_of(record, "action");

        return is_of_file(record) && action && str_equal(action, "stat");
}

static void show_file_denial(const Json *record)
{
        const char *path = text_of(record, "path"), *action = text_of(record, "action"),
                   *rule = text_of(record, "rule");

        (void) fail("denied: %s (%s, rule %s): to allow it, name it in read or write of a policy",
                    path ? path : "a file", action ? action : "open", rule ? rule : "of the profile");
}

static void show_denial(const Json *record)
{
        const char *host = text_of(record, "host"), *address = text_of(record, "address"),
                   *path = text_of(record, "path"), *rule = text_of(record, "rule"),
                   *reason = text_of(record, "reason");
        const char *what = host && *host ? host : address && *address ? address : path ? path : "something";
        long long port = integer_of(record, "port");
        char where[24] = "";

        if (port > 0)
                (void) snprintf(where, sizeof(where), ":%lld", port);
        (void) fail("denied: %s%s (%s%s): to allow it, --allow-host %s%s or a rule in "
                    "~/.config/sandboxd/policy.json",
                    what, where, rule && *rule ? "rule " : "",
                    rule && *rule ? rule
                    : reason      ? reason
                                  : "default",
                    what, where);
}

/* Equal ones once. */
static bool is_known(const Json *seen, const Json *record)
{
        for (size_t i = 0; i < json_n(seen); i++) {
                const Json *other = json_at(seen, i);
                const char *a = text_of(other, "host"), *b = text_of(record, "host");
                const char *c = text_of(other, "address"), *d = text_of(record, "address");

                const char *e = text_of(other, "path"), *f = text_of(record, "path");

                if (is_of_file(record) != is_of_file(other) ||
                    (is_of_file(record) && !str_equal(e ? e : "", f ? f : "")))
                        continue;
                if (integer_of(other, "port") == integer_of(record, "port") &&
                    str_equal(a ? a : "", b ? b : "") && str_equal(c ? c : "", d ? d : ""))
                        return true;
        }
        return false;
}

static int query_denials(Running *r)
{
        _cleanup_json_ Json *p = NULL, *list = NULL;
        int e;

        if ((e = json_new_object(&p)) < 0 || (e = json_new_array(&list)) < 0 ||
            (e = json_append_string(list, "deny")) < 0 ||
            (e = json_set(p, "decisions", TAKE_PTR(list))) < 0 ||
            (e = json_set_string(p, "session", r->id)) < 0 ||
            /* Own rows only: a look at others' would be a row of its own. */
            (e = json_set_integer(p, "uid", getuid())) < 0 || (e = json_set_integer(p, "limit", 50)) < 0 ||
            /* The commands that ran before are none of this one's business. */
            (!r->is_spawn && (e = json_set_integer(p, "sinceUSec", (int64_t) r->begin_realtime_usec)) < 0))
                return e;
        return sandboxd_send(r->client, AUDIT "Query", p, SANDBOXD_MORE, NULL, 0);
}

static void show_denials(Running *r)
{
        _cleanup_json_ Json *seen = NULL;
        bool has_more = true;

        if (json_new_array(&seen) < 0 || query_denials(r) < 0)
                return;
        while (has_more) {
                SandboxdReply reply = SANDBOXD_REPLY_INIT;
                const Json *record;

                if (sandboxd_next(r->client, &reply) < 0)
                        return;
                has_more = reply.has_more;
                record = reply.error ? NULL : json_get(reply.parameters, "record");
                if (record && json_type(record) == JSON_OBJECT && !is_glance(record) &&
                    !is_known(seen, record)) {
                        if (is_of_file(record))
                                show_file_denial(record);
                        else
                                show_denial(record);
                        has_more = json_append(seen, json_ref((Json *) (uintptr_t) record)) >= 0 && has_more;
                }
                sandboxd_reply_done(&reply);
        }
}

/* Where the daemon does not know the log does. */
static bool has_denials(const Running *r, const SandboxdReply *last)
{
        const Json *runtime = r->is_spawn ? json_get(last->parameters, "runtime") : last->parameters,
                   *denied;

        denied = runtime && json_type(runtime) == JSON_OBJECT ? json_get(runtime, "hasDenials") : NULL;
        return !denied || json_type(denied) != JSON_BOOLEAN || json_boolean(denied);
}

static int finish(Running *r, const SandboxdReply *last)
{
        const Json *result = json_get(last->parameters, "result");
        const char *reason;
        int status;

        if (last->error)
                return fail_reply(last);
        stdio_drain(&r->stdio, /* until_end= */ r->is_spawn);
        stdio_done(&r->stdio);
        if (!result || json_type(result) != JSON_OBJECT)
                return fail("the daemon did not say how the command ended");
        status = result_status(result);
        reason = text_of(result, "reason");
        if (r->common->has_json)
                (void) print_json(STDERR_FILENO, last->parameters);
        if (reason && !str_equal(reason, "exited") && !str_equal(reason, "signal") && !r->request.is_quiet)
                (void) fail("the command was ended: %s", reason);
        if (!r->request.is_quiet && has_denials(r, last))
                show_denials(r);
        if (r->request.has_stats)
                (void) fail("session %s: %.3f s", r->id,
                            (double) (clock_monotonic_usec() - r->begin_usec) / (double) USEC_PER_SEC);
        return status;
}

/* Scripts take the whole output for the id. */
static int print_id(const Json *parameters)
{
        const char *id = text_of(parameters, "id");

        if (!id || id[0] == '\0' || id[strspn(id, "0123456789abcdef")] != '\0')
                return fail("the daemon's answer has no id");
        return print("%s\n", id) ? 0 : EXIT_OURS;
}

/* A detached one: its id is all that is said. */
static int finish_detached(Running *r)
{
        _cleanup_(sandboxd_reply_done) SandboxdReply reply = SANDBOXD_REPLY_INIT;
        int e;

        e = sandboxd_next(r->client, &reply);
        if (e < 0)
                return fail_call(r->common, e);
        if (reply.error)
                return fail_reply(&reply);
        if (r->common->has_json)
                return print_json(STDOUT_FILENO, reply.parameters) ? 0 : EXIT_OURS;
        return print_id(reply.parameters);
}

static int converse(Running *r)
{
        _cleanup_(sandboxd_reply_done) SandboxdReply last = SANDBOXD_REPLY_INIT;
        int status;

        r->begin_usec = clock_monotonic_usec();
        r->begin_realtime_usec = clock_realtime_usec();
        status = ctl_connect(r->common, &r->client);
        if (status != 0)
                return status;
        status = out_of_memory(stdio_init(&r->stdio, r->request.wants_terminal, r->request.wants_no_terminal,
                                          r->request.is_detached));
        if (status != 0)
                return status;
        r->signal_fd = attach_open_signals();
        if (r->signal_fd < 0)
                return out_of_memory(r->signal_fd);
        status = send_call(r);
        if (status != 0)
                return status;
        if (r->request.is_detached)
                return finish_detached(r);
        status = attend(r, &last);
        return status != 0 ? status : finish(r, &last);
}

/* ---- verbs ---- */

static int begin(Running *r, Common *common)
{
        *r = (Running){ .common = common, .signal_fd = -EBADF };
        r->stdio.master = -EBADF;
        for (size_t i = 0; i < STDIO_FLOWS; i++)
                r->stdio.flows[i] = (Flow){ .from = -EBADF, .to = -EBADF };
        return out_of_memory(request_init(&r->request));
}

int verb_run(Common *common, int argc, char *argv[])
{
        Running r;
        int status;

        status = begin(&r, common);
        r.is_spawn = true;
        if (status == 0)
                status = request_parse_session(&r.request, common, argc, argv);
        if (status == 0)
                status = request_finish_command(&r.request, argc - optind, argv + optind, false);
        if (status == 0)
                status = request_finish_context(&r.request);
        if (status == 0)
                status = out_of_memory(json_set_boolean(r.request.context, "removeOnExit",
                                                        !r.request.has_keep && !r.request.is_detached));
        if (status == 0)
                status = converse(&r);
        running_done(&r);
        return status;
}

int verb_exec(Common *common, int argc, char *argv[])
{
        Running r;
        int status;

        status = begin(&r, common);
        if (status == 0)
                status = request_parse_command(&r.request, common, argc, argv);
        if (status == 0 && optind >= argc)
                status = fail("which session? `sandboxctl exec ID COMMAND`, and `sandboxctl list` shows "
                              "them");
        if (status == 0 && str_copy(r.id, sizeof(r.id), argv[optind]) < 0)
                status = str_printf(r.id, sizeof(r.id), "-") < 0
                                         ? EXIT_OURS
                                         : fail("no session %s: `sandboxctl list` shows yours",
                                                argv[optind]);
        if (status == 0) {
                optind++;
                optind += optind < argc && str_equal(argv[optind], "--");
                status = request_finish_command(&r.request, argc - optind, argv + optind, true);
        }
        if (status == 0)
                status = converse(&r);
        running_done(&r);
        return status;
}

/* `shell ID` is an exec, `shell` a run; both of the user's own shell. */
int verb_shell(Common *common, int argc, char *argv[])
{
        bool has_id = argc > 1 && argv[1][0] != '-';
        Running r;
        int status;

        status = begin(&r, common);
        r.is_spawn = !has_id;
        if (status == 0 && has_id && str_copy(r.id, sizeof(r.id), argv[1]) < 0)
                status = fail("no session %s: `sandboxctl list` shows yours", argv[1]);
        if (status == 0)
                status = has_id ? request_parse_command(&r.request, common, argc - 1, argv + 1)
                                : request_parse_session(&r.request, common, argc, argv);
        if (status == 0 && optind < argc - has_id)
                status = fail("shell takes no command: `sandboxctl %s` does", has_id ? "exec" : "run");
        if (status == 0)
                status = has_id ? request_finish_environment(&r.request)
                                : request_finish_context(&r.request);
        if (status == 0 && !has_id)
                status = out_of_memory(
                                json_set_boolean(r.request.context, "removeOnExit", !r.request.has_keep));
        if (status == 0)
                status = converse(&r);
        running_done(&r);
        return status;
}

int verb_create(Common *common, int argc, char *argv[])
{
        _cleanup_(sandboxd_reply_done) SandboxdReply reply = SANDBOXD_REPLY_INIT;
        _cleanup_json_ Json *p = NULL;
        Running r;
        int status, e;

        status = begin(&r, common);
        if (status == 0)
                status = request_parse_session(&r.request, common, argc, argv);
        if (status == 0 && optind < argc)
                status = fail("create takes no command: `sandboxctl run` does, or `sandboxctl exec ID` "
                              "afterwards");
        r.request.is_detached = true;
        if (status == 0)
                status = request_finish_context(&r.request);
        if (status == 0)
                status = out_of_memory(request_parameters(&r.request, false, 0, &p));
        if (status == 0)
                status = ctl_connect(common, &r.client);
        if (status == 0) {
                e = sandboxd_call_fds(r.client, SESSION "Create", p, &r.request.profile_fd,
                                      r.request.profile_fd >= 0 ? 1 : 0, &reply);
                status = e < 0 ? fail_call(common, e) : reply.error ? fail_reply(&reply) : 0;
        }
        if (status == 0 && common->has_json)
                status = print_json(STDOUT_FILENO, reply.parameters) ? 0 : EXIT_OURS;
        else if (status == 0)
                status = print_id(reply.parameters);
        running_done(&r);
        return status;
}
