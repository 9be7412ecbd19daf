/*
 * Report(): what a session did, as far as it was told here, and what it leaves in its workspace, as a child
 * of the launcher's finds it now, with the owner's rights. Its answer is what that user's files say: every
 * length is checked.
 */

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "daemon/api/session.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

#define REPORT_BYTES_MAX   (1024U * 1024U)
#define REPORT_DENIALS_MAX 64U
/* A reply is one message, in which each byte of a name may need two. */
#define REPORT_TEXT_MAX (64U * 1024U)
/* Times of files are those of the last tick. */
#define CLOCK_SLACK_USEC   (20 * USEC_PER_MSEC)
#define REPORT_ENTRY_BYTES 32U

static const char *const kinds[] = {
        [REPORT_CHANGED] = "",
        [REPORT_SYMLINK_OUTSIDE] = "symlink-outside",
        [REPORT_HARD_LINK] = "hard-link",
        [REPORT_HOOK] = "hook",
        [REPORT_GIT_CONFIG] = "git-config",
        [REPORT_REPOSITORY] = "repository",
        [REPORT_SETUID] = "setuid",
        [REPORT_EXECUTABLE] = "executable",
        [REPORT_SPECIAL_FILE] = "special-file",
        [REPORT_EDITOR_CONFIG] = "editor-config",
        [REPORT_AGENT_CONFIG] = "agent-config",
        [REPORT_BUILD_FILE] = "build-file",
        [REPORT_ODD_NAME] = "odd-name",
        [REPORT_START_FILE] = "start-file",
        [REPORT_END] = "",
};
ASSERT_TABLE(kinds, _REPORT_KIND_MAX);

/* ---- denials ---- */

struct SessionDenial {
        uint32_t kind;
        uint32_t port;
        uint32_t reason;
        uint64_t count;
        char host[PRIV_HOST_SIZE];
        char rule[PRIV_NAME_SIZE];
};

static SessionDenial *find_denial(Session *s, const PrivDenied *m)
{
        for (size_t i = 0; i < s->n_denials; i++) {
                SessionDenial *d = &s->denials[i];

                if (d->kind == m->kind && d->port == m->port && d->reason == m->reason &&
                    str_equal(d->host, m->host) && str_equal(d->rule, m->rule))
                        return d;
        }
        return NULL;
}

/* What does not fit is in the log. */
void session_note_denied(Session *s, const PrivDenied *m)
{
        SessionDenial *d = find_denial(s, m);

        s->has_denials = true;
        if (!d) {
                if (s->n_denials >= REPORT_DENIALS_MAX)
                        return;
                d = reallocarray(s->denials, s->n_denials + 1, sizeof(*d));
                if (!d)
                        return;
                s->denials = d;
                d += s->n_denials++;
                *d = (SessionDenial){ .kind = m->kind, .port = m->port, .reason = m->reason };
                memcpy(d->host, m->host, sizeof(d->host));
                memcpy(d->rule, m->rule, sizeof(d->rule));
        }
        d->count += m->count;
}

static int denial_to_json(const SessionDenial *d, Json **ret)
{
        _cleanup_json_ Json *o = NULL;
        int r;

        r = json_new_object(&o);
        if (r < 0 || (r = json_set_string(o, "kind", audit_kind_to_string(d->kind))) < 0 ||
            (r = json_set_escaped(o, "host", d->host, strlen(d->host))) < 0 ||
            (r = json_set_integer(o, "port", d->port)) < 0 ||
            (d->rule[0] && (r = json_set_escaped(o, "rule", d->rule, strlen(d->rule))) < 0) ||
            (r = json_set_string(o, "reason", decision_reason_to_string(d->reason))) < 0 ||
            (r = json_set_integer(o, "count", (int64_t) d->count)) < 0)
                return r;
        *ret = TAKE_PTR(o);
        return 0;
}

static int set_denials(Json *p, const Session *s)
{
        _cleanup_json_ Json *list = NULL;
        int r;

        if (!s->knows_denials)
                return 0;
        r = json_new_array(&list);
        for (size_t i = 0; r >= 0 && i < s->n_denials; i++) {
                Json *one = NULL;

                r = denial_to_json(&s->denials[i], &one);
                if (r >= 0)
                        r = json_append(list, one);
        }
        return r < 0 ? r : json_set(p, "denials", TAKE_PTR(list));
}

/* ---- what was found ---- */

typedef struct Found {
        Json *hand_over;
        Json *changed;
        size_t n_bytes;
        bool is_truncated;
} Found;

/* Room for it in the reply, as text. */
static bool has_room(Found *f, const Json *o)
{
        const char *path = get_string(o, "path"), *target = get_string(o, "target");

        f->n_bytes += REPORT_ENTRY_BYTES + strlen(path) + (target ? strlen(target) : 0);
        if (f->n_bytes > REPORT_TEXT_MAX)
                f->is_truncated = true;
        return !f->is_truncated;
}

static int new_entry(const PrivReportEntry *e, const char *data, Json **ret)
{
        _cleanup_json_ Json *o = NULL;
        int r;

        r = json_new_object(&o);
        if (r >= 0)
                r = json_set_escaped(o, "path", data, e->path_size);
        if (r >= 0)
                r = json_set_string(o, "kind", kinds[e->kind]);
        if (r >= 0 && e->target_size > 0)
                r = json_set_escaped(o, "target", data + e->path_size, e->target_size);
        if (r >= 0)
                *ret = TAKE_PTR(o);
        return r;
}

static int add_entry(Found *f, const PrivReportEntry *e, const char *data)
{
        _cleanup_json_ Json *o = NULL;
        int r;

        if (f->is_truncated)
                return 0;
        r = new_entry(e, data, &o);
        if (r >= 0 && e->kind != REPORT_REPOSITORY && has_room(f, o))
                r = json_append_string(f->changed, get_string(o, "path"));
        if (r >= 0 && e->kind != REPORT_CHANGED && has_room(f, o))
                r = json_append(f->hand_over, TAKE_PTR(o));
        return r;
}

/* -EBADMSG: that is no report. */
static int read_entries(Found *f, const char *data, size_t size)
{
        PrivReportEntry e;

        for (;;) {
                int r;

                if (size < sizeof(e))
                        return -EBADMSG;
                memcpy(&e, data, sizeof(e));
                data += sizeof(e);
                size -= sizeof(e);
                if (e.kind == REPORT_END) {
                        f->is_truncated = f->is_truncated || e.path_size != 0;
                        return size == 0 ? 0 : -EBADMSG;
                }
                if (e.kind >= _REPORT_KIND_MAX || e.path_size > PRIV_PATH_SIZE ||
                    e.target_size > PRIV_PATH_SIZE || e.path_size + e.target_size > size)
                        return -EBADMSG;
                r = add_entry(f, &e, data);
                if (r < 0)
                        return r;
                data += e.path_size + e.target_size;
                size -= e.path_size + e.target_size;
        }
}

static int read_report(Found *f, int fd)
{
        const void *data;
        size_t size;
        int r;

        r = json_new_array(&f->hand_over);
        if (r >= 0)
                r = json_new_array(&f->changed);
        if (r < 0 || fd < 0)
                return r;
        r = fd_map_sealed(fd, REPORT_BYTES_MAX, &data, &size);
        if (r < 0)
                return r;
        r = read_entries(f, data, size);
        (void) munmap((void *) (uintptr_t) data, size);
        return r;
}

static int answer(Client *c, const Session *s, int fd)
{
        _cleanup_json_ Json *p = NULL, *runtime = NULL;
        Found f = { 0 };
        int r;

        r = read_report(&f, fd);
        if (r >= 0)
                r = json_new_object(&p);
        if (r < 0 || (r = json_set_string(p, "id", s->id_text)) < 0 ||
            (r = session_runtime(s, /* is_full= */ true, &runtime)) < 0 ||
            (r = json_set(p, "runtime", TAKE_PTR(runtime))) < 0 || (r = set_denials(p, s)) < 0 ||
            (r = json_set(p, "handOver", TAKE_PTR(f.hand_over))) < 0 ||
            (r = json_set(p, "changed", TAKE_PTR(f.changed))) < 0 ||
            (r = json_set_boolean(p, "truncated", f.is_truncated)) < 0) {
                json_unref(f.hand_over);
                json_unref(f.changed);
                return r;
        }
        client_reply(c, TAKE_PTR(p), false, NULL, 0);
        return 0;
}

int method_report(Client *c, const Json *parameters)
{
        Session *s = session_find_or_answer(c, get_string(parameters, "id"));
        PrivSessionReport m = { .token = ++c->api->next_token };
        int r;

        if (!s)
                return 0;
        if (!s->workspace || s->workspace[0] != '/')
                return answer(c, s, -EBADF);
        m.since_usec = s->created_usec - MIN_OF(s->created_usec, (uint64_t) CLOCK_SLACK_USEC);
        r = str_copy(m.workspace, sizeof(m.workspace), s->workspace);
        if (r < 0)
                return r;
        c->wait = WAIT_REPORT;
        c->wait_token = m.token;
        c->wait_session = s->id;
        return priv_link_send(c->api->launcher, PRIV_SESSION_REPORT, &m, sizeof(m), NULL, 0);
}

static int answer_error(Client *c, int error)
{
        _cleanup_json_ Json *p = NULL;
        int r;

        r = json_new_object(&p);
        if (r >= 0)
                r = json_set_string(p, "what", "report");
        if (r >= 0)
                r = json_set_string(p, "message",
                                    error == -EBUSY ? "another report of yours is being made; try again"
                                                    : "the workspace cannot be looked through");
        if (r >= 0)
                client_error(c, SESSION_ERROR "NotEnforceable", TAKE_PTR(p));
        return r;
}

int on_session_reported(Api *api, Imsg *m)
{
        const PrivSessionReported *body = m->body;

        if (body->error > 0 || (body->error == 0) != (m->n_fds == 1))
                return -EPROTO;
        LIST_FOREACH (c, &api->clients, Client, link) {
                Session *s;
                int r;

                if (c->wait != WAIT_REPORT || c->wait_token != body->token)
                        continue;
                s = session_find_id(api, &c->wait_session);
                if (!s)
                        client_error_string(c, SESSION_ERROR "NoSuchSession", "id",
                                            get_string(c->call.parameters, "id"));
                r = !s ? 0 : body->error < 0 ? answer_error(c, body->error) : answer(c, s, m->fds[0]);
                if (r < 0)
                        client_failure(c, r);
                break;
        }
        return 0;
}
