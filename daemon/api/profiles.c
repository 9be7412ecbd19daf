/* Profiles that are loaded, texts that come by descriptor, and the union that a session runs under. */

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/api/context.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

int profile_load(void *userdata, const char *name, char **ret_text, size_t *ret_size, char **ret_source)
{
        const Api *api = userdata;
        const BundleText *t = name_is_sound(name) ? bundle_find(api->profiles, name) : NULL;
        _cleanup_free_ char *source = NULL;
        int r;

        if (!t)
                return -ENOENT;
        r = str_dup(t->source, &source);
        if (r < 0)
                return r;
        *ret_text = malloc((size_t) t->size + 1);
        if (!*ret_text)
                return -ENOMEM;
        memcpy(*ret_text, bundle_text(api->profiles, t), (size_t) t->size + 1);
        *ret_size = (size_t) t->size;
        *ret_source = TAKE_PTR(source);
        return 0;
}

int policy_text_read(int fd, char **ret_text, size_t *ret_size)
{
        _cleanup_free_ char *text = NULL;
        size_t size, done = 0;
        struct stat st;

        if (fstat(fd, &st) < 0)
                return neg_errno();
        if (!S_ISREG(st.st_mode))
                return -EINVAL;
        if (st.st_size > (off_t) API_POLICY_TEXT_MAX)
                return -EFBIG;
        size = (size_t) st.st_size;
        text = malloc(size + 1);
        if (!text)
                return -ENOMEM;
        while (done < size) {
                /* The client's file offset is the client's. */
                ssize_t n = pread(fd, text + done, size - done, (off_t) done);

                if (n < 0)
                        return neg_errno();
                if (n == 0)
                        break;
                done += (size_t) n;
        }
        text[done] = '\0';
        *ret_text = TAKE_PTR(text);
        *ret_size = done;
        return 0;
}

static const char *severity_to_string(PolicySeverity s)
{
        return s == SEVERITY_FAILURE ? "failure" : s == SEVERITY_WARNING ? "warning" : "info";
}

static int set_escaped(Json *o, const char *key, const char *s)
{
        return s && *s ? json_set_escaped(o, key, s, strlen(s)) : 0;
}

static int diagnostic_format(const PolicyDiagnostic *d, bool is_session, Json **ret)
{
        bool has_key = is_session && d->key && *d->key; /* has no field there */
        _cleanup_free_ char *message = NULL;
        _cleanup_json_ Json *o = NULL;
        int r;

        r = str_aprintf(&message, "%s%s%s", has_key ? d->key : "", has_key ? ": " : "", d->message);
        if (r >= 0)
                r = json_new_object(&o);
        if (r >= 0 && !is_session)
                r = json_set_string(o, "severity", severity_to_string(d->severity));
        if (r >= 0)
                r = is_session ? json_set_escaped(o, "source", d->source, strlen(d->source))
                               : set_escaped(o, "file", d->source);
        if (r >= 0 && d->line > 0)
                r = json_set_integer(o, "line", d->line);
        if (r >= 0 && d->column > 0)
                r = json_set_integer(o, "column", d->column);
        if (r >= 0 && !is_session)
                r = set_escaped(o, "key", d->key);
        if (r >= 0)
                r = json_set_escaped(o, "message", message, strlen(message));
        if (r < 0)
                return r;
        *ret = TAKE_PTR(o);
        return 0;
}

int diagnostics_format(const PolicyDiagnostics *d, bool is_session, Json **ret)
{
        _cleanup_json_ Json *list = NULL;
        int r;

        r = json_new_array(&list);
        if (r < 0)
                return r;
        LIST_FOREACH (diagnostic, &d->list, PolicyDiagnostic, link) {
                Json *o = NULL;

                r = diagnostic_format(diagnostic, is_session, &o);
                if (r >= 0)
                        r = json_append(list, o);
                if (r < 0)
                        return r;
        }
        *ret = TAKE_PTR(list);
        return 0;
}

static int load_profile(Api *api, const PolicySources *sources, PolicyDiagnostics *d, Policy **ret)
{
        _cleanup_free_ char *text = NULL, *source = NULL;
        _cleanup_(policy_freep) Policy *p = NULL;
        const char *content = sources->content;
        size_t size = sources->content_size;
        int r;

        if (!content) {
                r = profile_load(api, sources->profile ? sources->profile : "agent", &text, &size, &source);
                if (r < 0)
                        return r;
                content = text;
        }
        r = policy_parse(POLICY_PROFILE, source ? source : "profile", content, size, d, &p);
        if (r < 0)
                return r;
        return policy_resolve(p, profile_load, api, d, ret);
}

static int join_user(Policy *p, const char *text, PolicyDiagnostics *d)
{
        _cleanup_(policy_freep) Policy *user = NULL;
        int r;

        r = policy_parse(POLICY_USER, "user", text, strlen(text), d, &user);
        return r < 0 ? r : policy_join(p, user, "user", d);
}

/* A text of the configuration folder: it was checked when it was loaded. *ret: NULL where there is none. */
static int load_layer(const Api *api, PolicyKind kind, const char *name, PolicyDiagnostics *d, Policy **ret)
{
        const BundleText *t = bundle_find(api->profiles, name);

        *ret = NULL;
        return t ? policy_parse(kind, t->source, bundle_text(api->profiles, t), (size_t) t->size, d, ret)
                 : 0;
}

static int join_system(const Api *api, Policy *p, PolicyDiagnostics *d)
{
        _cleanup_(policy_freep) Policy *system = NULL;
        int r = load_layer(api, POLICY_USER, BUNDLE_SYSTEM, d, &system);

        return r < 0 || !system ? r : policy_join(p, system, "system", d);
}

static int bound(const Api *api, Policy *p, PolicyDiagnostics *d)
{
        Policy *ceiling = NULL;
        int r = load_layer(api, POLICY_CEILING, BUNDLE_CEILING, d, &ceiling);

        return r < 0 ? r : policy_bound(p, ceiling, d);
}

int policy_load_sources(Api *api, const PolicySources *sources, PolicyDiagnostics *d, Policy **ret_policy,
                        Policy **ret_project)
{
        _cleanup_(policy_freep) Policy *p = NULL, *project = NULL;
        int r;

        r = load_profile(api, sources, d, &p);
        if (r < 0)
                /* The loader's ENOENT is for the profile that was named; one that it extends is a
                 * diagnostic. */
                return d->n_failures > 0 ? -EINVAL : r;
        r = join_system(api, p, d);
        if (r >= 0 && sources->user)
                r = join_user(p, sources->user, d);
        if (r >= 0)
                r = policy_join_flags(p, &sources->flags, d);
        if (r >= 0)
                r = bound(api, p, d);
        if (r >= 0 && sources->project)
                r = policy_parse(POLICY_PROJECT, "project", sources->project, strlen(sources->project), d,
                                 &project);
        if (r < 0)
                return r;
        *ret_policy = TAKE_PTR(p);
        *ret_project = TAKE_PTR(project);
        return 1;
}

void policy_variables(const Api *api, const char *workspace, PolicyVariables *ret)
{
        *ret = (PolicyVariables){
                .workspace = workspace ? workspace : "",
                .home = api->start.identity.home,
                .user = api->start.identity.user,
                .uid = api->start.identity.uid,
        };
}
