/* Attempts on denied paths. They have been refused already: the watch counts them and tells of them. What it
 * says is about any session that lives, or has just ended; names in it are what a session's programs made
 * up. */

#include <errno.h>

#include "daemon/audit/queue.h"
#include "daemon/audit/quota.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

#define DETAIL_SIZE 256U

static int check(const PrivFileDenied *d, size_t size)
{
        size_t n_tail = size - sizeof(*d);

        if (d->operation >= _FILE_OPERATION_MAX || d->count == 0 || d->is_mixed > 1 ||
            !PRIV_STRING_OK(d->program))
                return -EPROTO;
        if (d->n_path == 0 || d->n_path > n_tail || d->n_layer > n_tail - d->n_path ||
            d->n_rule != n_tail - d->n_path - d->n_layer || d->n_layer >= PRIV_NAME_SIZE)
                return -EPROTO;
        return memchr(d + 1, '\0', n_tail) ? -EPROTO : 0;
}

/* A word of JSON: the process says it, so anything that is more than a letter becomes one that is not. */
static void copy_word(char to[16], const char *from)
{
        size_t n = 0;

        for (; from[n] && n < 15; n++) {
                unsigned char c = (unsigned char) from[n];

                to[n] = (char) (c <= ' ' || c > '~' || c == '"' || c == '\\' ? '?' : c);
        }
        to[n] = '\0';
}

static int format_detail(const PrivFileDenied *d, char to[DETAIL_SIZE])
{
        char program[16], count[32] = "";
        int r = 0;

        copy_word(program, d->program);
        if (d->count > 1)
                r = str_printf(count, sizeof(count), ",\"count\":%u", d->count);
        return r < 0 ? r
                     : str_printf(to, DETAIL_SIZE, "{\"program\":\"%s\"%s%s}", program, count,
                                  d->is_mixed ? ",\"others\":true" : "");
}

static void tell_api(Audit *a, Session *s, const PrivFileDenied *d, DecisionReason reason, uint64_t sequence)
{
        const char *path = (const char *) (d + 1), *rule = path + d->n_path + d->n_layer;
        PrivDenied denied = { .session = s->id,
                              .sequence = sequence,
                              .count = d->count,
                              .kind = AUDIT_KIND_FILE,
                              .reason = reason,
                              .process = d->process };

        memcpy(denied.path, path, MIN_OF((size_t) d->n_path, sizeof(denied.path) - 1));
        memcpy(denied.rule, rule, MIN_OF((size_t) d->n_rule, sizeof(denied.rule) - 1));
        (void) !str_copy(denied.text, sizeof(denied.text), file_operation_to_string(d->operation));
        denials_tell(a, s, &denied);
}

/* What was told is kept with its row: api hears of it when that is committed. */
static int queue_row(Audit *a, Session *s, const PrivFileDenied *d, size_t size)
{
        const char *path = (const char *) (d + 1), *layer = path + d->n_path, *rule = layer + d->n_layer;
        Row row = ROW_INIT(AUDIT_KIND_FILE, file_operation_to_string(d->operation));
        char detail[DETAIL_SIZE];
        Pending *p;
        int r;

        /* Out of the plan, which a user's worker wrote. */
        if (!str_is_utf8(layer, d->n_layer + (size_t) d->n_rule))
                return -EINVAL;
        r = format_detail(d, detail);
        if (r >= 0)
                r = pending_new(PENDING_FILE, &row, s, 2 * size + sizeof(detail) + 8, &p);
        if (r < 0)
                return r;
        p->file = (const PrivFileDenied *) (const void *) pending_put(p, d, size);
        p->row.verdict = VERDICT_DENY;
        p->row.reason = decision_reason_to_string(REASON_RULE);
        p->row.process = d->process > 0 ? (int64_t) d->process : -1;
        p->row.pid = d->pid > 0 ? (int64_t) d->pid : -1;
        p->row.path = (RowBytes){ .data = pending_put(p, path, d->n_path), .size = d->n_path };
        p->row.rule = (RowRule){ .layer = pending_put(p, layer, d->n_layer),
                                 .name = pending_put(p, rule, d->n_rule),
                                 .text = "" };
        p->row.detail = pending_put(p, detail, strlen(detail));
        if (s->policy)
                p->row.policy = &s->policy_row;
        queue_put(a, p);
        return 0;
}

void file_release(Audit *a, Pending *p, int error)
{
        if (p->session->ended_usec == 0)
                tell_api(a, p->session, p->file, error < 0 ? REASON_AUDIT : REASON_RULE,
                         error < 0 ? 0 : p->row.sequence);
}

static int on_denied(Audit *a, const PrivFileDenied *d, size_t size)
{
        Session *s = session_find(a, &d->session);
        int r = check(d, size);

        if (r < 0)
                return r;
        if (!s)
                return 0;
        if (quota_take_request(a, s, d->n_path))
                r = queue_row(a, s, d, size);
        else if (s->ended_usec == 0)
                tell_api(a, s, d, REASON_LIMIT, 0);
        if (r < 0)
                (void) log_warning(r, "An attempt on a denied path gets no row");
        return 0;
}

static int on_watch(void *owner, _unused_ PrivLink *link, Imsg *m)
{
        return m->type == PRIV_FILE_DENIED ? on_denied(owner, m->body, m->size) : -EPROTO;
}

static void on_watch_closed(void *owner, _unused_ PrivLink *link, int reason)
{
        Audit *a = owner;

        if (reason != -EPIPE)
                (void) log_warning(reason, "The watch broke the protocol");
        a->watch = priv_link_free(a->watch);
}

int watch_attach(Audit *a, int take_fd)
{
        int r;

        a->watch = priv_link_free(a->watch);
        r = priv_link_new(a->loop, take_fd, CHANNEL_AUDIT_WATCH, ROLE_AUDIT, &a->watch);
        if (r < 0)
                return r;
        priv_link_set_handler(a->watch, on_watch, on_watch_closed, a);
        priv_link_set_phase(a->watch, PHASE_RUN);
        return 0;
}
