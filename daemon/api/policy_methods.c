/* io.sandboxd.Policy: reading and testing texts. Nothing here opens a file of a user or changes one. */

#include <stdio.h>

#include "daemon/api/context.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

static int compile_digest(const Api *api, const Policy *p, char digest[65])
{
        _cleanup_(policy_block_closep) const PolicyBlock *block = NULL;
        _cleanup_close_ int fd = -EBADF;
        int r;

        r = policy_compile(p, NULL, NULL, api->loaded.generation, &fd);
        if (r >= 0)
                r = policy_block_open(fd, &block);
        if (r < 0)
                return r;
        str_hex(digest, policy_block_digest(block), 32);
        return 0;
}

/* A profile of the folders, as it stands and resolved. */
typedef struct Loaded {
        char *text;
        size_t size;
        char *file;
        Policy *own;
        Policy *resolved;
} Loaded;

static void loaded_done(Loaded *l)
{
        free(l->text);
        free(l->file);
        l->own = policy_free(l->own);
        l->resolved = policy_free(l->resolved);
}

/* -EINVAL: see the diagnostics. */
static int load(Api *api, const char *name, PolicyDiagnostics *d, Loaded *ret)
{
        int r;

        r = profile_load(api, name, &ret->text, &ret->size, &ret->file);
        if (r >= 0)
                r = policy_parse(POLICY_PROFILE, ret->file, ret->text, ret->size, d, &ret->own);
        if (r >= 0)
                r = policy_resolve(ret->own, profile_load, api, d, &ret->resolved);
        return r;
}

static int profile_format(const Api *api, const char *name, const Loaded *l, Json **ret)
{
        const BundleText *t = bundle_find(api->profiles, name);
        _cleanup_json_ Json *o = NULL, *extends = NULL;
        const char *description = policy_description(l->own);
        char digest[65];
        int r;

        r = compile_digest(api, l->resolved, digest);
        if (r < 0 || (r = json_new_object(&o)) < 0 || (r = json_new_array(&extends)) < 0)
                return r;
        for (size_t i = 0; r >= 0 && i < policy_n_extends(l->own); i++)
                r = json_append_string(extends, policy_extends(l->own, i));
        if (r < 0 || (r = json_set_string(o, "name", name)) < 0 ||
            (*description &&
             (r = json_set_escaped(o, "description", description, strlen(description))) < 0) ||
            (r = json_set_string(o, "source", t && t->is_shipped ? "shipped" : "administrator")) < 0 ||
            (r = json_set_string(o, "file", l->file)) < 0 ||
            (r = json_set(o, "extends", TAKE_PTR(extends))) < 0 ||
            (r = json_set_string(o, "digest", digest)) < 0)
                return r;
        *ret = TAKE_PTR(o);
        return 0;
}

/* ---- List ---- */

static int compare_names(const void *a, const void *b)
{
        return strcmp(*(const char *const *) a, *(const char *const *) b);
}

static int append_profile(Api *api, const char *name, Json *list)
{
        PolicyDiagnostics d;
        Loaded l = { NULL };
        Json *o = NULL;
        int r;

        policy_diagnostics_init(&d);
        r = load(api, name, &d, &l);
        if (r >= 0)
                r = profile_format(api, name, &l, &o);
        loaded_done(&l);
        /* A file that is no profile (policy.schema.json) or has errors cannot be named: it is not in the
         * list. */
        if (r < 0 && r != -ENOMEM)
                r = 1;
        policy_diagnostics_done(&d);
        return r == 0 ? json_append(list, o) : r;
}

/* Of two with one name the first counts. */
static size_t sort_names(const Bundle *b, const char *names[BUNDLE_TEXTS_MAX])
{
        size_t n = 0;

        for (size_t i = 0; i < bundle_n(b); i++) {
                const BundleText *t = bundle_at(b, i);

                if (t->name[0] != BUNDLE_MARK && bundle_find(b, t->name) == t)
                        names[n++] = t->name;
        }
        qsort(names, n, sizeof(*names), compare_names);
        return n;
}

int method_policy_list(Client *c, _unused_ const Json *parameters)
{
        const char *names[BUNDLE_TEXTS_MAX];
        _cleanup_json_ Json *p = NULL, *list = NULL;
        size_t n = sort_names(c->api->profiles, names);
        int r;

        r = json_new_array(&list);
        for (size_t i = 0; r >= 0 && i < n; i++)
                r = append_profile(c->api, names[i], list);
        if (r >= 0)
                r = json_new_object(&p);
        if (r >= 0)
                r = json_set(p, "profiles", TAKE_PTR(list));
        if (r < 0)
                return r;
        client_reply(c, TAKE_PTR(p), false, NULL, 0);
        return 0;
}

/* ---- Get ---- */

static int answer_invalid(Client *c, const PolicyDiagnostics *d)
{
        _cleanup_json_ Json *p = NULL, *list = NULL;
        int r;

        r = json_new_object(&p);
        if (r < 0 || (r = json_set_integer(p, "generation", (int64_t) c->api->loaded.generation)) < 0 ||
            (r = diagnostics_format(d, /* is_session= */ false, &list)) < 0 ||
            (r = json_set(p, "diagnostics", TAKE_PTR(list))) < 0)
                return r;
        client_error(c, POLICY_ERROR "InvalidPolicy", TAKE_PTR(p));
        return 0;
}

static int answer_profile(Client *c, const char *name, const Loaded *l, bool is_effective)
{
        _cleanup_json_ Json *p = NULL, *profile = NULL;
        _cleanup_free_ char *text = NULL;
        int r;

        r = json_new_object(&p);
        if (r >= 0)
                r = profile_format(c->api, name, l, &profile);
        if (r >= 0)
                r = json_set(p, "profile", TAKE_PTR(profile));
        if (r >= 0 && is_effective)
                r = policy_format(l->resolved, &text);
        if (r >= 0)
                r = json_set_string(p, "content", is_effective ? text : l->text);
        if (r < 0)
                return r;
        client_reply(c, TAKE_PTR(p), false, NULL, 0);
        return 0;
}

int method_policy_get(Client *c, const Json *parameters)
{
        const char *name = get_string(parameters, "profile");
        PolicyDiagnostics d;
        Loaded l = { NULL };
        int r;

        policy_diagnostics_init(&d);
        r = load(c->api, name, &d, &l);
        if (r >= 0) {
                r = answer_profile(c, name, &l, get_boolean(parameters, "effective"));
        } else if (d.n_failures > 0) {
                r = answer_invalid(c, &d);
        } else if (r == -ENOENT) {
                client_error_string(c, POLICY_ERROR "NoSuchProfile", "profile", name);
                r = 0;
        }
        loaded_done(&l);
        policy_diagnostics_done(&d);
        return r;
}

/* ---- Validate ---- */

static int validate(Client *c, PolicyKind kind, const char *file, const char *text, size_t size)
{
        _cleanup_json_ Json *o = NULL, *list = NULL;
        _cleanup_(policy_freep) Policy *p = NULL, *resolved = NULL;
        PolicyDiagnostics d;
        bool is_valid;
        int r;

        policy_diagnostics_init(&d);
        r = policy_parse(kind, file, text, size, &d, &p);
        if (r >= 0 && kind == POLICY_PROFILE)
                r = policy_resolve(p, profile_load, c->api, &d, &resolved);
        is_valid = r >= 0 && d.n_failures == 0;
        if (r == -EINVAL || r == -ENOENT)
                r = 0;
        if (r >= 0)
                r = diagnostics_format(&d, /* is_session= */ false, &list);
        policy_diagnostics_done(&d);
        if (r < 0 || (r = json_new_object(&o)) < 0 || (r = json_set_boolean(o, "valid", is_valid)) < 0 ||
            (r = json_set(o, "diagnostics", TAKE_PTR(list))) < 0)
                return r;
        client_reply(c, TAKE_PTR(o), false, NULL, 0);
        return 0;
}

int method_policy_validate(Client *c, const Json *parameters)
{
        const char *kind_name = get_string(parameters, "kind"), *file = get_string(parameters, "file"),
                   *content = get_string(parameters, "content");
        const Json *index = get_value(parameters, "contentFileDescriptor");
        int kind = kind_name ? policy_kind_from_string(kind_name) : POLICY_PROFILE;
        _cleanup_free_ char *text = NULL;
        size_t size = content ? strlen(content) : 0;
        int r;

        if ((content != NULL) + (index != NULL) != 1 || kind < 0) {
                client_invalid(c, kind < 0 ? "kind" : "content");
                return 0;
        }
        if (index) {
                r = policy_text_read(c->call.fds[json_integer(index)], &text, &size);
                if (r == -EINVAL || r == -EFBIG) {
                        client_invalid(c, "contentFileDescriptor");
                        return 0;
                }
                if (r < 0)
                        return r;
        }
        if (!file)
                file = policy_kind_to_string((PolicyKind) kind);
        return validate(c, (PolicyKind) kind, file, text ? text : content, size);
}

/* ---- Check ---- */

typedef struct Answer {
        Verdict verdict;
        char layer[PRIV_NAME_SIZE];
        char rule[PLAN_PATH_MAX];
        char reason[PRIV_TEXT_SIZE];
} Answer;

/* HOST, HOST:PORT or [V6]:PORT. */
static int parse_authority(const char *s, size_t n, PolicyRequest *q, char host[PRIV_HOST_SIZE])
{
        char text[PRIV_HOST_SIZE + 8];
        char *name = text, *end, *colon;
        uint16_t port;
        int r;

        if (n == 0 || n >= sizeof(text))
                return -EINVAL;
        memcpy(text, s, n);
        text[n] = '\0';
        if (text[0] == '[') {
                end = strchr(++name, ']');
                if (!end || (end[1] != '\0' && end[1] != ':'))
                        return -EINVAL;
                colon = end[1] ? end + 1 : NULL;
                *end = '\0';
        } else {
                colon = strchr(name, ':');
        }
        if (colon) {
                *colon = '\0';
                if (parse_port(colon + 1, &port) < 0)
                        return -EINVAL;
                q->port = port;
        }
        r = policy_host_canonical(name, strlen(name), host);
        if (r == -EADDRNOTAVAIL || (r < 0 && text[0] == '[')) {
                host[0] = '\0';
                r = address_parse(name, &q->address);
        }
        q->host = host;
        return r;
}

static int parse_url(const char *url, PolicyRequest *q, char host[PRIV_HOST_SIZE])
{
        static const struct {
                const char *prefix;
                uint32_t port;
                Protocol protocol;
        } schemes[] = {
                { "https://", 443, PROTOCOL_TLS },
                { "http://", 80, PROTOCOL_HTTP },
                { "tcp://", 0, PROTOCOL_TCP },
                { "dns:", 53, PROTOCOL_DNS },
        };

        for (size_t i = 0; i < ELEMENTSOF(schemes); i++) {
                const char *rest = url + strlen(schemes[i].prefix);
                int r;

                if (!str_has_prefix(url, schemes[i].prefix))
                        continue;
                q->port = schemes[i].port;
                q->protocol = schemes[i].protocol;
                r = parse_authority(rest, strcspn(rest, "/?#"), q, host);
                q->path = rest + strcspn(rest, "/?#");
                q->n_path = strcspn(q->path, "#");
                return r < 0 || q->port == 0 ? -EINVAL : 0;
        }
        return -EINVAL;
}

typedef struct PolicyPair {
        const Policy *policy;
        const Policy *project;
} PolicyPair;

static int check_network(const Api *api, const PolicyPair *of, const Json *network, Answer *ret)
{
        _cleanup_(policy_block_closep) const PolicyBlock *block = NULL;
        _cleanup_close_ int fd = -EBADF;
        PolicyRequest q = { .host = "", .now_usec = clock_realtime_usec() };
        const char *method = get_string(network, "method");
        PolicyMatch m;
        char host[PRIV_HOST_SIZE];
        int r;

        if (parse_url(get_string(network, "url"), &q, host) < 0)
                return -EDESTADDRREQ;
        /* Of what is not HTTP in the clear neither is known. */
        if (q.protocol == PROTOCOL_HTTP)
                q.method = method ? method : "GET";
        else
                q.path = NULL;
        r = policy_compile(of->policy, of->project, policy_ceiling(of->policy), api->loaded.generation, &fd);
        if (r >= 0)
                r = policy_block_open(fd, &block);
        if (r < 0)
                return r;
        policy_match_request(block, &q, &m);
        ret->verdict = m.verdict;
        (void) snprintf(ret->layer, sizeof(ret->layer), "%s", m.layer);
        (void) snprintf(ret->rule, sizeof(ret->rule), "%s", m.rule);
        (void) snprintf(ret->reason, sizeof(ret->reason), "%s",
                        *m.rule_reason ? m.rule_reason : decision_reason_to_string(m.reason));
        return 0;
}

static int check_file(Api *api, const Policy *p, const Json *parameters, Answer *ret)
{
        const Json *file = get_value(parameters, "file");
        PolicyFileAnswer answer;
        PolicyVariables v;
        int r;

        policy_variables(api, get_string(parameters, "workspace"), &v);
        r = policy_check_file(p, &v, get_string(file, "path"),
                              str_equal(get_string(file, "operation"), "write"), &answer);
        if (r < 0)
                return r == -EINVAL ? -EDESTADDRREQ : r;
        ret->verdict = answer.verdict;
        (void) snprintf(ret->layer, sizeof(ret->layer), "%s", answer.layer);
        (void) snprintf(ret->rule, sizeof(ret->rule), "%s", answer.rule);
        return 0;
}

static int answer_check(Client *c, const Answer *a)
{
        _cleanup_json_ Json *p = NULL;
        int r;

        r = json_new_object(&p);
        if (r < 0 || (r = json_set_string(p, "decision", verdict_to_string(a->verdict))) < 0 ||
            (a->layer[0] && (r = json_set_string(p, "layer", a->layer)) < 0) ||
            (a->rule[0] && (r = json_set_escaped(p, "rule", a->rule, strlen(a->rule))) < 0) ||
            (a->reason[0] && (r = json_set_escaped(p, "reason", a->reason, strlen(a->reason))) < 0) ||
            (r = json_set_integer(p, "generation", (int64_t) c->api->loaded.generation)) < 0)
                return r;
        client_reply(c, TAKE_PTR(p), false, NULL, 0);
        return 0;
}

static int check_with(Client *c, const Json *parameters, PolicyDiagnostics *d)
{
        const Json *network = get_value(parameters, "network");
        _cleanup_(policy_freep) Policy *p = NULL, *project = NULL;
        PolicySources sources = {
                .profile = get_string(parameters, "profile"),
                .content = get_string(parameters, "profileContent"),
                .user = get_string(parameters, "userPolicy"),
                .project = get_string(parameters, "projectPolicy"),
        };
        Answer a = { .verdict = VERDICT_DENY };
        int r;

        sources.content_size = sources.content ? strlen(sources.content) : 0;
        r = policy_load_sources(c->api, &sources, d, &p, &project);
        if (r == -ENOENT) {
                client_error_string(c, POLICY_ERROR "NoSuchProfile", "profile",
                                    sources.profile ? sources.profile : "agent");
                return 0;
        }
        if (r == -EINVAL)
                return answer_invalid(c, d);
        if (r >= 0)
                r = network ? check_network(c->api, &(PolicyPair){ p, project }, network, &a)
                            : check_file(c->api, p, parameters, &a);
        if (r == -EDESTADDRREQ) {
                client_invalid(c, network ? "network.url" : "file.path");
                return 0;
        }
        return r < 0 ? r : answer_check(c, &a);
}

int method_policy_check(Client *c, const Json *parameters)
{
        const Json *owner = get_value(parameters, "ownerUid");
        PolicyDiagnostics d;
        int r;

        if (owner && json_integer(owner) != (int64_t) c->peer.uid) {
                client_error(c, SERVICE_ERROR "PermissionDenied", NULL);
                return 0;
        }
        if ((get_value(parameters, "network") != NULL) + (get_value(parameters, "file") != NULL) != 1) {
                client_invalid(c, "network");
                return 0;
        }
        /* Not in this version: a running session's policy, and the steps on the way. */
        if (get_value(parameters, "session") || get_boolean(parameters, "explain")) {
                client_invalid(c, get_value(parameters, "session") ? "session" : "explain");
                return 0;
        }
        if (get_value(parameters, "profile") && get_value(parameters, "profileContent")) {
                client_invalid(c, "profileContent");
                return 0;
        }
        policy_diagnostics_init(&d);
        r = check_with(c, parameters, &d);
        policy_diagnostics_done(&d);
        return r;
}

/* ---- Describe ---- */

static int list_files(const Bundle *b, Json *files)
{
        int r = 0;

        for (size_t i = 0; r >= 0 && i < bundle_n(b); i++) {
                const BundleText *t = bundle_at(b, i);
                _cleanup_free_ char *shown = NULL;

                r = str_escape(t->source, strlen(t->source), &shown);
                if (r >= 0)
                        r = json_append_string(files, shown);
        }
        return r;
}

int method_policy_describe(Client *c, _unused_ const Json *parameters)
{
        const PrivApiSettings *loaded = &c->api->loaded;
        bool has_ceiling = bundle_find(c->api->profiles, BUNDLE_CEILING) != NULL;
        _cleanup_json_ Json *p = NULL, *files = NULL;
        char digest[2 * PRIV_DIGEST_SIZE + 1];
        int r;

        str_hex(digest, loaded->digest, sizeof(loaded->digest));
        if ((r = json_new_object(&p)) < 0 || (r = json_new_array(&files)) < 0 ||
            (r = list_files(c->api->profiles, files)) < 0 ||
            (r = json_set_integer(p, "generation", (int64_t) loaded->generation)) < 0 ||
            (r = json_set_string(p, "digest", digest)) < 0 ||
            (r = json_set_integer(p, "loadedAtUSec", (int64_t) loaded->loaded_usec)) < 0 ||
            (r = json_set(p, "files", TAKE_PTR(files))) < 0 ||
            (r = json_set_boolean(p, "hasCeiling", has_ceiling)) < 0)
                return r;
        client_reply(c, TAKE_PTR(p), false, NULL, 0);
        return 0;
}
