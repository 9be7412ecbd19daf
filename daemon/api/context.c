#include "daemon/api/context.h"

#include <stdio.h>

#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

#define OWN_WORKSPACE "/workspace"
#define FILES_MIN     16U
#define FILES_MAX     (1024U * 1024U)

/* What is worked on; everything borrowed. */
typedef struct Compilation {
        Client *client;
        Api *api;
        Session *session;
        const Json *parameters;
        const Json *context;
        PolicySources sources;
        Policy *policy;
        Policy *project;
} Compilation;

/* ---- refusals: the row first, then the answer ---- */

static void report_refusal(Api *api, const char *reason, const char *detail)
{
        PrivReport report = { .kind = AUDIT_KIND_SESSION, .uid = api->start.identity.uid, .is_denial = 1 };

        (void) snprintf(report.action, sizeof(report.action), "refuse");
        (void) snprintf(report.reason, sizeof(report.reason), "%s", reason);
        (void) snprintf(report.detail, sizeof(report.detail), "%s", detail ? detail : "");
        (void) priv_link_send(api->launcher, PRIV_SESSION_REFUSE, &report, sizeof(report), NULL, 0);
}

/* error(key: value, message: message). Returns 0, so that `return refuse(...)` ends a check. */
static int refuse(Client *c, const char *error, const char *key, const char *value, const char *message)
{
        _cleanup_json_ Json *p = NULL;
        int r;

        report_refusal(c->api, strrchr(error, '.') + 1, value);
        r = json_new_object(&p);
        if (r >= 0)
                r = json_set_string(p, key, value);
        if (r >= 0)
                r = json_set_string(p, "message", message);
        if (r < 0)
                return r;
        client_error(c, error, TAKE_PTR(p));
        return 0;
}

static int not_enforceable(Client *c, const char *what, const char *message)
{
        return refuse(c, SESSION_ERROR "NotEnforceable", "what", what, message);
}

static int beyond_ceiling(Client *c, const char *what)
{
        return refuse(c, SESSION_ERROR "DeniedByPolicy", "rule", what,
                      "the administrator's ceiling does not leave this; ask for less");
}

static int path_refused(Client *c, const char *path, const char *message)
{
        return refuse(c, SESSION_ERROR "PathRefused", "path", path, message);
}

static int invalid(Client *c, const char *field)
{
        client_invalid(c, field);
        return 0;
}

static int invalid_policy(Client *c, const PolicyDiagnostics *d)
{
        _cleanup_json_ Json *p = NULL, *list = NULL;
        int r;

        report_refusal(c->api, "InvalidPolicy", "");
        r = json_new_object(&p);
        if (r >= 0)
                r = diagnostics_format(d, /* is_session= */ true, &list);
        if (r >= 0)
                r = json_set(p, "diagnostics", TAKE_PTR(list));
        if (r < 0)
                return r;
        client_error(c, SESSION_ERROR "InvalidPolicy", TAKE_PTR(p));
        return 0;
}

/* ---- what this version does not do ---- */

static int check_unsupported(Compilation *k)
{
        const Json *context = k->context, *list;
        const char *s;

        s = get_string(context, "ask");
        if (s && !str_equal(s, "deny"))
                return not_enforceable(k->client, "ask", "this version cannot ask anybody; use deny");
        list = get_value(context, "mounts");
        if (list && json_n(list) > 0)
                return not_enforceable(k->client, "mounts",
                                       "not available in this version; use read and write");
        list = get_value(context, "publish");
        if (list && json_n(list) > 0 && get_boolean(context, "noNetwork"))
                return invalid(k->client, "context.publish");
        if (get_string(context, "user")) {
                if (k->api->start.identity.uid != 0) {
                        client_error(k->client, SERVICE_ERROR "PermissionDenied", NULL);
                        return 0;
                }
                return not_enforceable(k->client, "user", "not available in this version");
        }
        return 1;
}

/* ---- who and where ---- */

static int take_name(Compilation *k)
{
        const char *name = get_string(k->context, "name");
        Session *other;
        Json *p = NULL;
        Id id;
        int r;

        if (!name)
                return 1;
        if (!name_is_sound(name) || id_parse(name, &id) >= 0)
                return invalid(k->client, "context.name");
        other = session_find_name(k->api, name);
        if (!other) {
                r = str_copy(k->session->name, sizeof(k->session->name), name);
                return r < 0 ? r : 1;
        }
        report_refusal(k->api, "NameExists", name);
        r = json_new_object(&p);
        if (r < 0)
                return r;
        if ((r = json_set_string(p, "name", name)) < 0 ||
            (r = json_set_string(p, "id", other->id_text)) < 0) {
                json_unref(p);
                return r;
        }
        client_error(k->client, SESSION_ERROR "NameExists", p);
        return 0;
}

/* The daemon's own folders, one in them, or one that holds them: wherever it was told to keep its things. */
static bool touches_the_daemon(const Api *api, const char *path)
{
        for (size_t i = 0; i < PRIV_FOLDERS_MAX; i++)
                if (path_is_below(path, api->start.folders[i]) || path_is_below(api->start.folders[i], path))
                        return true;
        return false;
}

static int take_workspace(Compilation *k)
{
        const char *path = get_string(k->context, "workspace");
        const char *directory = get_string(k->context, "workingDirectory");
        char canonical[PLAN_PATH_MAX];
        int r;

        if (path) {
                r = policy_workspace_check(path, k->api->start.identity.home);
                if (r == -EINVAL)
                        return path_refused(k->client, path,
                                            "not an absolute, canonical path; name the directory itself");
                if (r < 0 || touches_the_daemon(k->api, path))
                        return path_refused(k->client, path,
                                            "no session may work there (/, a home directory itself, system "
                                            "directories, sandboxd's own); use a project directory");
                r = str_dup(path, &k->session->workspace);
                if (r < 0)
                        return r;
        }
        if (!directory)
                directory = path ? path : OWN_WORKSPACE;
        else if (directory_parse(directory, canonical, sizeof(canonical)) < 0)
                return invalid(k->client, "context.workingDirectory");
        else
                directory = canonical;
        r = str_dup(directory, &k->session->working_directory);
        return r < 0 ? r : 1;
}

/* Keys are words for List(), values any text. */
static bool labels_are_sound(const Json *labels)
{
        void *cursor = NULL;
        const char *key;
        const Json *value;

        if (json_n(labels) > API_LABELS_MAX)
                return false;
        while (json_next(labels, &cursor, &key, &value)) {
                size_t n = strlen(key);

                if (n < 1 || n > API_LABEL_KEY_MAX || strlen(json_string(value)) > API_LABEL_VALUE_MAX ||
                    strspn(key, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._/-") != n)
                        return false;
        }
        return true;
}

static bool claim_is_sound(const char *text)
{
        return !text || strlen(text) < PRIV_NAME_SIZE * 2;
}

static int take_life(Compilation *k)
{
        const char *lifetime = get_string(k->context, "lifetime");
        const Json *labels = get_value(k->context, "labels"),
                   *environment = get_value(k->context, "environment");
        int64_t timeout = get_integer(k->context, "timeoutUSec");
        size_t i;

        k->session->is_detached = lifetime && str_equal(lifetime, "detached");
        k->session->has_remove_on_exit = get_boolean(k->context, "removeOnExit");
        if (labels && !labels_are_sound(labels))
                return invalid(k->client, "context.labels");
        if (!claim_is_sound(get_string(k->context, "agent")))
                return invalid(k->client, "context.agent");
        if (!claim_is_sound(get_string(k->context, "agentSession")))
                return invalid(k->client, "context.agentSession");
        if (get_value(k->context, "timeoutUSec") && timeout <= 0)
                return invalid(k->client, "context.timeoutUSec");
        k->session->timeout_usec = (uint64_t) timeout;
        if (environment && environment_check(environment, &i) < 0) {
                char field[64];

                (void) snprintf(field, sizeof(field), "context.environment[%zu]", i);
                return invalid(k->client, field);
        }
        return 1;
}

/* ---- policy ---- */

/* What Describe() returns must make the same session again: the text is in the context, whatever way it
 * came. */
static int keep_profile(Compilation *k, const char *text, size_t size)
{
        int r = 0;

        if (size > API_PROFILE_KEPT_MAX)
                session_warn(k->session, "profile-not-kept",
                             "the profile is too long for Describe(): its context makes another session");
        else if (strlen(text) == size && str_is_utf8(text, size))
                r = json_set_string(k->session->context, "profileContent", text);
        return r < 0 ? r : 1;
}

/* The profile's text where it comes by descriptor; *ret_text stays NULL where it does not. */
static int take_profile(Compilation *k, char **ret_text)
{
        const Json *index = get_value(k->parameters, "profileFileDescriptor");
        const char *content = get_string(k->context, "profileContent");
        const char *name = get_string(k->context, "profile");
        int r;

        if ((name != NULL) + (content != NULL) + (index != NULL) > 1)
                return invalid(k->client, index ? "profileFileDescriptor" : "context.profileContent");
        k->sources.profile = name;
        k->sources.content = content;
        k->sources.content_size = content ? strlen(content) : 0;
        if (!index)
                return 1;
        r = policy_text_read(k->client->call.fds[json_integer(index)], ret_text, &k->sources.content_size);
        if (r == -EINVAL || r == -EFBIG)
                return invalid(k->client, "profileFileDescriptor");
        k->sources.content = *ret_text;
        return r < 0 ? r : keep_profile(k, *ret_text, k->sources.content_size);
}

static int load_policy(Compilation *k, PolicyDiagnostics *d)
{
        _cleanup_free_ char *text = NULL;
        int r;

        r = take_profile(k, &text);
        if (r <= 0)
                return r;
        k->sources.user = get_string(k->context, "userPolicy");
        k->sources.project = get_string(k->context, "projectPolicy");
        r = flags_take(k->context, &k->sources.flags);
        if (r >= 0)
                r = policy_load_sources(k->api, &k->sources, d, &k->policy, &k->project);
        flags_done(&k->sources.flags);
        if (r == -ENOENT) {
                report_refusal(k->api, "NoSuchProfile", k->sources.profile);
                client_error_string(k->client, SESSION_ERROR "NoSuchProfile", "profile",
                                    k->sources.profile ? k->sources.profile : "agent");
                return 0;
        }
        if (r == -EINVAL)
                return invalid_policy(k->client, d);
        if (r < 0)
                return r;
        r = str_copy(k->session->profile, sizeof(k->session->profile), policy_name(k->policy));
        return r < 0 ? r : 1;
}

/* One of the enumerations of the interface, whose words have '_' where those of policy have '-'. */
static int take_mode(Compilation *k, const char *key, PolicyMode mode)
{
        const char *asked = get_string(k->context, key);
        char word[32];
        int r;

        if (!asked)
                return 1;
        if (str_copy(word, sizeof(word), asked) < 0)
                return invalid(k->client, key);
        for (char *p = strchr(word, '_'); p; p = strchr(p, '_'))
                *p = '-';
        r = policy_choose(k->policy, mode, word);
        if (r == -EPERM)
                return beyond_ceiling(k->client, key);
        if (r < 0)
                return not_enforceable(k->client, key, "not available in this version");
        return 1;
}

static int take_modes(Compilation *k)
{
        int r = take_mode(k, "workspaceMode", MODE_WORKSPACE);

        if (r > 0)
                r = take_mode(k, "home", MODE_HOME);
        if (r <= 0)
                return r;
        groups_take(k->session, k->policy);
        k->session->has_home = policy_mode(k->policy, MODE_HOME) == HOME_PERSISTENT;
        if (!k->session->has_home)
                return 1;
        r = policy_home_key(k->session->profile, k->session->workspace ? k->session->workspace : "",
                            k->session->home_key);
        return r < 0 ? r : 1;
}

/* ---- limits ---- */

typedef struct LimitField {
        const char *key;
        const char *name;    /* in policy */
        uint32_t controller; /* 0: none needed */
        uint64_t max;        /* the ceiling's; NO_MAX: none */
        bool is_zero_none;   /* else 0 is no limit */
} LimitField;

#define NO_MAX       UINT64_MAX
#define OR_NO_MAX(v) ((v) > 0 ? (v) : NO_MAX)

/* Where one limit comes from and goes to. */
static int take_limit(Compilation *k, const LimitField *f, uint64_t from_policy, uint64_t *ret)
{
        const Json *limits = get_value(k->context, "limits");
        const Json *asked = limits ? get_value(limits, f->key) : NULL;
        bool can = f->controller == 0 || (k->api->start.controllers & f->controller);
        char text[128];

        *ret = asked ? (uint64_t) json_integer(asked) : from_policy;
        if (asked && f->max != NO_MAX && (*ret > f->max || (*ret == 0 && !f->is_zero_none)))
                return beyond_ceiling(k->client, f->key);
        if (can)
                return 1;
        *ret = 0;
        if (asked)
                return not_enforceable(k->client, f->key, "this machine has no cgroup controller for it");
        if (from_policy > 0) {
                (void) snprintf(text, sizeof(text),
                                "limits.%s: this machine has no cgroup controller for it", f->name);
                session_warn(k->session, "limit-not-enforced", text);
        }
        return 1;
}

static int take_limits(Compilation *k, uint64_t *ret_files)
{
        const PolicyLimits *p = policy_limits(k->policy), *m = policy_limits_max(k->policy);
        const Json *limits = get_value(k->context, "limits");
        PrivLimits *l = &k->session->limits;
        const struct {
                LimitField field;
                uint64_t from_policy;
                uint64_t *to;
        } all[] = {
                { { "memoryMaxBytes", "memory", CONTROLLER_MEMORY, OR_NO_MAX(m->memory_bytes), false },
                  p->memory_bytes,
                  &l->memory_bytes },
                { { "tasksMax", "tasks", CONTROLLER_PIDS, OR_NO_MAX(m->tasks), false },
                  p->tasks,
                  &l->tasks },
                { { "cpuQuotaPercent", "cpu", CONTROLLER_CPU, OR_NO_MAX(m->cpu_percent), false },
                  p->cpu_percent,
                  &l->cpu_percent },
                { { "ioMaxBytesPerSec", "io", CONTROLLER_IO, OR_NO_MAX(m->io_bytes_per_sec), false },
                  p->io_bytes_per_sec,
                  &l->io_bytes_per_sec },
                { { "filesMax", "files", 0, OR_NO_MAX(m->files), false }, p->files, ret_files },
                { { "runtimeMaxUSec", "runtime", 0, OR_NO_MAX(m->runtime_usec), false },
                  p->runtime_usec,
                  &k->session->runtime_usec },
                { { "idleMaxUSec", "idle", 0, OR_NO_MAX(m->idle_usec), false },
                  p->idle_usec,
                  &k->session->idle_usec },
                { { "outputMaxBytes", "output", 0, OR_NO_MAX(m->output_bytes), false },
                  p->output_bytes,
                  &k->session->output_max_bytes },
                { { "swapMaxBytes", "swap", CONTROLLER_MEMORY, m->has_swap ? m->swap_bytes : NO_MAX, true },
                  p->swap_bytes,
                  &l->swap_bytes },
        };
        int r;

        k->session->has_asked_output_max = limits && get_value(limits, "outputMaxBytes");
        for (size_t i = 0; i < ELEMENTSOF(all); i++) {
                r = take_limit(k, &all[i].field, all[i].from_policy, all[i].to);
                if (r <= 0)
                        return r;
        }
        l->has_swap = (k->api->start.controllers & CONTROLLER_MEMORY) &&
                      (p->has_swap || (limits && get_value(limits, "swapMaxBytes")));
        if (*ret_files > FILES_MAX || (*ret_files > 0 && *ret_files < FILES_MIN))
                return invalid(k->client, "context.limits.filesMax");
        return 1;
}

/* ---- environment: what policy lets pass, what it sets, then what the client says ---- */

static int take_candidates(Compilation *k)
{
        const Json *candidates = get_value(k->context, "passEnvironment");
        int r;

        r = candidates ? environment_pass(k->policy, candidates, k->session->environment) : 0;
        /* Whatever else the caller has is none of our business: not even this worker keeps it. */
        json_remove(k->session->context, "passEnvironment");
        return r;
}

static int take_environment(Compilation *k)
{
        const Json *asked = get_value(k->context, "environment");
        int r;

        r = json_new_array(&k->session->environment);
        if (r >= 0)
                r = take_candidates(k);
        if (r == -EINVAL)
                return invalid(k->client, "context.passEnvironment");
        for (size_t i = 0; r >= 0 && i < policy_n_set(k->policy); i++)
                r = json_append_string(k->session->environment, policy_set(k->policy, i));
        for (size_t i = 0; asked && r >= 0 && i < json_n(asked); i++)
                r = json_append_string(k->session->environment, json_string(json_at(asked, i)));
        return r < 0 ? r : 1;
}

/* ---- the plan ---- */

static int fill_header(Compilation *k, PlanBuilder *b, PlanHeader *h)
{
        const PrivIdentity *who = &k->api->start.identity;
        bool is_root = who->uid == 0;
        const struct {
                const char *value;
                uint32_t *to;
        } strings[] = {
                { who->home, &h->home },
                { is_root ? "sandbox" : who->user, &h->user },
                { is_root || !who->group[0] ? "sandbox" : who->group, &h->group },
                { who->shell[0] ? who->shell : "/bin/sh", &h->shell },
                { "sandbox", &h->hostname },
                { k->session->workspace ? k->session->workspace : OWN_WORKSPACE, &h->workspace },
        };
        int r = 0;

        h->has_tmp_workspace = k->session->workspace == NULL;
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(strings); i++)
                r = plan_builder_string(b, strings[i].value, strings[i].to);
        return r;
}

static int make_plan(Compilation *k, uint64_t files, PolicyDiagnostics *d, int *ret_fd)
{
        _cleanup_(plan_builder_freep) PlanBuilder *b = NULL;
        PlanHeader header = { .magic = PLAN_MAGIC };
        PolicyVariables variables;
        int r;

        r = plan_builder_new(&b);
        if (r >= 0)
                r = fill_header(k, b, &header);
        if (r < 0)
                return r;
        policy_variables(k->api, k->session->workspace, &variables);
        r = policy_plan(k->policy, &variables, k->api->start.identity.uid == 0, b, &header, d);
        if (r == -EINVAL && d->n_failures > 0)
                return invalid_policy(k->client, d);
        if (r < 0)
                return r;
        if (files > 0)
                header.files_max = (uint32_t) files;
        r = plan_builder_seal(b, &header, ret_fd);
        return r < 0 ? r : 1;
}

static void warn_diagnostics(Session *s, const PolicyDiagnostics *d)
{
        LIST_FOREACH (diagnostic, &d->list, PolicyDiagnostic, link) {
                if (diagnostic->severity == SEVERITY_WARNING)
                        session_warn(s, "policy", diagnostic->message);
        }
}

static int compile(Compilation *k, PolicyDiagnostics *d, int *ret_plan_fd, int *ret_policy_fd)
{
        _cleanup_close_ int plan_fd = -EBADF, policy_fd = -EBADF;
        uint64_t files = 0;
        int r;

        if ((r = check_unsupported(k)) <= 0 || (r = take_name(k)) <= 0 || (r = take_workspace(k)) <= 0 ||
            (r = take_life(k)) <= 0 || (r = load_policy(k, d)) <= 0 || (r = take_modes(k)) <= 0 ||
            (r = take_limits(k, &files)) <= 0 || (r = take_environment(k)) <= 0 ||
            (r = make_plan(k, files, d, &plan_fd)) <= 0)
                return r;
        r = block_compile(k->session, k->policy, k->project, &policy_fd);
        k->session->n_publish = policy_publish(k->policy, k->session->publish);
        k->session->pool = policy_pool(k->policy);
        if (r < 0)
                return r;
        warn_diagnostics(k->session, d);
        *ret_plan_fd = TAKE_FD(plan_fd);
        *ret_policy_fd = TAKE_FD(policy_fd);
        return 1;
}

int context_compile(Client *c, const Json *parameters, Session *s, int *ret_plan_fd, int *ret_policy_fd)
{
        PolicyDiagnostics d;
        Compilation k = {
                .client = c,
                .api = c->api,
                .session = s,
                .parameters = parameters,
                .context = get_value(parameters, "context"),
        };
        int r;

        policy_diagnostics_init(&d);
        r = compile(&k, &d, ret_plan_fd, ret_policy_fd);
        policy_diagnostics_done(&d);
        k.policy = policy_free(k.policy);
        k.project = policy_free(k.project);
        block_trim(s->block);
        return r;
}
