/* What the api workers say: rows of their users' commands, and questions about rows. */

#include <errno.h>
#include <sys/socket.h>

#include "daemon/audit/queue.h"
#include "daemon/audit/quota.h"
#include "daemon/audit/readers.h"
#include "proto/base/buf.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

#define UNANSWERED_MAX 1024U

static void answer(Api *api, PrivMessage type, const PrivRecorded *body, int fd)
{
        (void) priv_link_send(api->channel, type, body, sizeof(*body), fd >= 0 ? &fd : NULL,
                              fd >= 0 ? 1 : 0);
}

/* The command waits for this byte and nothing else. The descriptor came from an api worker: it may be
 * anything, so never wait for it. */
static void open_gate(const Pending *p)
{
        char go = EXEC_GATE_OPEN;
        struct iovec byte = { .iov_base = &go, .iov_len = 1 };
        struct msghdr m = { .msg_iov = &byte, .msg_iovlen = 1 };

        if (sendmsg(p->gate_fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
                log_info("A command did not wait for its row");
}

void record_release(Pending *p, int error)
{
        PrivRecorded r = { .token = p->request,
                           .sequence = error < 0 ? 0 : p->row.sequence,
                           .error = error };

        if (!p->api)
                return;
        if (error >= 0)
                open_gate(p);
        answer(p->api, PRIV_RECORDED, &r, -EBADF);
}

static void start(Audit *a, Api *api, const ReaderRequest *request, uint64_t token)
{
        PrivRecorded r = { .token = token, .sequence = store_head(a->store) };
        _cleanup_close_ int fd = -EBADF;

        r.error = readers_start(a->readers, a->loop, request, &fd);
        answer(api, PRIV_QUERY_STARTED, &r, fd);
        /* No helper is left and none can be made beside an open store: our successor has new ones. */
        if (r.error == -EPIPE || r.error == -ECONNRESET)
                loop_stop(a->loop, log_error(r.error, "nobody is left who reads rows"));
}

static void start_reader(Audit *a, Api *api, const PrivQuery *q)
{
        ReaderRequest request = { .query = *q,
                                  .uid = api->uid,
                                  .sees_all = api->sees_all && q->has_all_users };

        start(a, api, &request, q->token);
}

static void start_verifier(Audit *a, Api *api, const PrivVerify *v)
{
        ReaderRequest request = { .verify = *v, .is_verify = true, .uid = api->uid };

        start(a, api, &request, v->token);
}

void read_release(Audit *a, Pending *p, int error)
{
        PrivRecorded r = { .token = p->request, .error = error };

        if (!p->api)
                return;
        if (error < 0)
                answer(p->api, PRIV_QUERY_STARTED, &r, -EBADF);
        else if (p->verify)
                start_verifier(a, p->api, p->verify);
        else
                start_reader(a, p->api, p->query);
}

static Session *session_of(Api *api, const Id *id)
{
        Session *s = session_find(api->audit, id);

        return s && s->row.uid == api->uid ? s : NULL;
}

static int on_record_exec(Api *api, const PrivRecordExec *x, size_t size, int *take_gate)
{
        Session *s = session_of(api, &x->session);
        Row row = ROW_INIT(AUDIT_KIND_SESSION, "exec");
        PrivRecorded no = { .token = x->token, .error = -ENOENT };
        size_t n = size - sizeof(*x);
        Pending *p;
        int r;

        if (!s || s->ended_usec > 0) {
                answer(api, PRIV_RECORDED, &no, -EBADF);
                return 0;
        }
        if (api->audit->n_reports >= UNANSWERED_MAX && api->audit->is_failing) {
                no.error = -EIO;
                answer(api, PRIV_RECORDED, &no, -EBADF);
                return 0;
        }
        if (!quota_take(api->audit, api->uid, n)) {
                no.error = -EDQUOT;
                answer(api, PRIV_RECORDED, &no, -EBADF);
                return 0;
        }
        r = pending_new(PENDING_EXEC, &row, s, n + 1, &p);
        if (r < 0)
                return r;
        p->row.process = x->process;
        if (s->policy)
                p->row.policy = &s->policy_row;
        p->row.raw = (RowBytes){ .data = pending_put(p, x + 1, n), .size = n };
        p->api = api;
        p->request = x->token;
        p->gate_fd = TAKE_FD(*take_gate);
        s->n_commands++;
        queue_put(api->audit, p);
        return 0;
}

static int on_record_exit(Api *api, const PrivRecordExit *x)
{
        Session *s = session_of(api, &x->session);
        Row row = ROW_INIT(AUDIT_KIND_SESSION, "exit");

        if (x->reason >= _END_REASON_MAX || x->status > UINT16_MAX || (x->is_unknown && x->status != 0))
                return -EPROTO;
        if (!s) {
                log_debug("The exit of a command in a session that is not known");
                return 0;
        }
        /* Such a row is never refused, so there is one for each that was let in. */
        if (s->n_commands == 0) {
                log_debug("The exit of a command that did not begin");
                return 0;
        }
        s->n_commands--;
        quota_charge(api->audit, api->uid, 0);
        row.process = x->process;
        if (!x->is_unknown)
                row.status = x->status;
        row.reason = end_reason_to_string(x->reason);
        return queue_report(api->audit, &row, s, NULL);
}

static int put_json_string(Buf *b, const char *name, const char *value)
{
        int r;

        if (value[0] == '\0')
                return 0;
        r = buf_printf(b, ",\"%s\":\"", name);
        for (const char *c = value; *c && r >= 0; c++) {
                if ((unsigned char) *c < 0x20 || *c == '"' || *c == '\\' || *c == 0x7f)
                        r = buf_printf(b, "\\u%04x", (unsigned) (unsigned char) *c);
                else
                        r = buf_put(b, c, 1);
        }
        return r < 0 ? r : buf_put_string(b, "\"");
}

static int describe(const PrivQuery *q, Buf *b)
{
        int r;

        r = buf_printf(b,
                       "{\"limit\":%llu,\"sinceUSec\":%llu,\"untilUSec\":%llu,\"kinds\":%u,\"decisions\":%u,\"follow\":%s",
                       (unsigned long long) q->limit, (unsigned long long) q->since_usec,
                       (unsigned long long) q->until_usec, q->kinds, q->decisions,
                       q->is_following ? "true" : "false");
        if (r >= 0 && q->uid >= 0)
                r = buf_printf(b, ",\"uid\":%lld", (long long) q->uid);
        if (r >= 0)
                r = put_json_string(b, "session", q->session);
        if (r >= 0)
                r = put_json_string(b, "user", q->user);
        if (r >= 0)
                r = put_json_string(b, "host", q->host);
        if (r >= 0)
                r = put_json_string(b, "rule", q->rule);
        return r < 0 ? r : buf_put(b, "}", 2);
}

/* A look at others' rows is a row, before it happens. */
static int queue_read(Api *api, const PrivQuery *q)
{
        _cleanup_(buf_done) Buf b = BUF_INIT(16 * 1024);
        Row row = ROW_INIT(AUDIT_KIND_ADMIN, "read");
        Pending *p;
        int r;

        r = describe(q, &b);
        if (r < 0)
                return r;
        r = pending_new(PENDING_READ, &row, NULL, buf_size(&b) + 1, &p);
        if (r < 0)
                return r;
        p->query = malloc(sizeof(*q));
        if (!p->query) {
                (void) pending_free(p);
                return -ENOMEM;
        }
        *p->query = *q;
        p->row.uid = api->uid;
        p->row.detail = pending_put(p, buf_front(&b), buf_size(&b) - 1);
        p->api = api;
        p->request = q->token;
        queue_put(api->audit, p);
        return 0;
}

static int on_query(Api *api, const PrivQuery *q)
{
        const char *const texts[] = { q->session, q->user, q->host, q->rule };

        if (!PRIV_STRING_OK(q->session) || !PRIV_STRING_OK(q->user) || !PRIV_STRING_OK(q->host) ||
            !PRIV_STRING_OK(q->rule))
                return -EPROTO;
        for (size_t i = 0; i < ELEMENTSOF(texts); i++)
                if (!str_is_utf8(texts[i], strlen(texts[i])))
                        return -EPROTO;
        if (q->since_usec > INT64_MAX || q->until_usec > INT64_MAX || q->after_sequence > INT64_MAX ||
            q->is_following > 1)
                return -EPROTO;
        if (api->sees_all && q->has_all_users)
                return queue_read(api, q);
        start_reader(api->audit, api, q);
        return 0;
}

/* That somebody verifies is a row, before it happens. */
static int queue_verify(Api *api, const PrivVerify *v)
{
        Row row = ROW_INIT(AUDIT_KIND_ADMIN, "verify");
        char detail[PRIV_TEXT_SIZE];
        Pending *p;
        int r;

        r = str_printf(detail, sizeof(detail), "{\"from\":%llu,\"to\":%llu,\"head\":%llu,\"hasKey\":%s}",
                       (unsigned long long) v->from, (unsigned long long) v->to,
                       (unsigned long long) v->head_sequence, v->has_key ? "true" : "false");
        if (r >= 0)
                r = pending_new(PENDING_READ, &row, NULL, strlen(detail) + 1, &p);
        if (r < 0)
                return r;
        p->verify = malloc(sizeof(*v));
        if (!p->verify) {
                (void) pending_free(p);
                return -ENOMEM;
        }
        *p->verify = *v;
        p->row.uid = api->uid;
        p->row.detail = pending_put(p, detail, strlen(detail));
        p->api = api;
        p->request = v->token;
        queue_put(api->audit, p);
        return 0;
}

static int on_verify(Api *api, const PrivVerify *v)
{
        PrivRecorded no = { .token = v->token, .error = -EPERM };

        if (v->from > INT64_MAX || v->to > INT64_MAX || v->head_sequence > INT64_MAX || v->has_key > 1)
                return -EPROTO;
        if (api->sees_all)
                return queue_verify(api, v);
        answer(api, PRIV_QUERY_STARTED, &no, -EBADF);
        return 0;
}

static int on_api(void *owner, _unused_ PrivLink *link, Imsg *m)
{
        if (m->type == PRIV_RECORD_EXEC)
                return on_record_exec(owner, m->body, m->size, &m->fds[0]);
        if (m->type == PRIV_RECORD_EXIT)
                return on_record_exit(owner, m->body);
        if (m->type == PRIV_QUERY)
                return on_query(owner, m->body);
        if (m->type == PRIV_VERIFY)
                return on_verify(owner, m->body);
        if (m->type == PRIV_AUDIT_STATE_ASK) {
                state_answer(owner, m->body);
                return 0;
        }
        return -EPROTO;
}

static void on_api_closed(void *owner, _unused_ PrivLink *link, int reason)
{
        Api *api = owner;

        if (reason != -EPIPE)
                (void) log_warning(reason, "The api worker of uid %u broke the protocol", api->uid);
        (void) api_free(api);
}

int api_attach(Audit *a, const PrivApiAttach *attach, int take_fd)
{
        Api *api = calloc(1, sizeof(*api));
        int r;

        if (!api) {
                (void) fd_close(take_fd);
                return -ENOMEM;
        }
        *api = (Api){ .audit = a, .uid = attach->uid, .sees_all = attach->sees_all == 1 };
        r = priv_link_new(a->loop, take_fd, CHANNEL_API_AUDIT, ROLE_AUDIT, &api->channel);
        if (r < 0) {
                free(api);
                return r;
        }
        list_init(&api->link);
        list_append(&a->apis, &api->link);
        priv_link_set_handler(api->channel, on_api, on_api_closed, api);
        priv_link_set_phase(api->channel, PHASE_RUN);
        return 0;
}

Api *api_free(Api *api)
{
        if (!api)
                return NULL;
        queue_forget_api(api->audit, api);
        list_unlink(&api->link);
        api->channel = priv_link_free(api->channel);
        free(api);
        return NULL;
}
