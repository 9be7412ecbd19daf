/*
 * Audit.Query: audit hands over a pipe of AuditRecord frames; each becomes a reply. The pipe is read only
 * while the client takes what it gets, so a slow client holds up nothing but its own reader.
 */

#include <unistd.h>

#include "daemon/api/api.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

#define QUERY_CHUNK (32U * 1024U)

struct AuditQuery {
        Client *client;
        uint64_t token;
        int fd;
        bool is_following;
        LoopIo *io;
        Buf input;
        AuditVerification *verdict; /* NULL: rows */
};

static void log_unavailable(Client *c, const char *message)
{
        client_error_string(c, AUDIT_ERROR "LogUnavailable", "message", message);
}

AuditQuery *audit_query_free(AuditQuery *q)
{
        if (!q)
                return NULL;
        q->io = loop_io_free(q->io);
        q->fd = fd_close(q->fd);
        buf_done(&q->input);
        free(q->verdict);
        free(q);
        return NULL;
}

static void query_fail(Client *c, const char *message)
{
        c->query = audit_query_free(c->query);
        log_unavailable(c, message);
}

/* ---- a record as JSON ---- */

static int set_number(Json *o, const char *key, int64_t value)
{
        return value < 0 ? 0 : json_set_integer(o, key, value);
}

static int set_strings(Json *o, const AuditRecord *r, const char *strings)
{
        static const char *const keys[_RECORD_STRING_MAX] = {
                [RECORD_SESSION] = "session",
                [RECORD_ACTION] = "action",
                [RECORD_USER] = "user",
                [RECORD_AGENT_SESSION] = "agentSession",
                [RECORD_EXECUTABLE] = "executable",
                [RECORD_ENTRY] = "entry",
                [RECORD_PROTOCOL] = "protocol",
                [RECORD_HOST] = "host",
                [RECORD_METHOD] = "method",
                [RECORD_PATH] = "path",
                [RECORD_CREDENTIAL] = "credential",
                [RECORD_RULE] = "rule",
                [RECORD_REASON] = "reason",
                [RECORD_POLICY] = "policyDigest",
                [RECORD_RAW] = NULL,
                [RECORD_DETAIL] = NULL,
        };
        int e = 0;

        for (size_t i = 0; e >= 0 && i < _RECORD_STRING_MAX; i++) {
                if (r->lengths[i] == UINT32_MAX)
                        continue;
                if (keys[i])
                        e = json_set_escaped(o, keys[i], strings, r->lengths[i]);
                strings += r->lengths[i];
        }
        return e;
}

/* Arguments as the row has them: a NUL between each two. */
static int set_command_line(Json *details, const char *raw, size_t size)
{
        _cleanup_json_ Json *list = NULL;
        int e;

        e = json_new_array(&list);
        for (size_t at = 0; e >= 0 && at <= size;) {
                _cleanup_free_ char *escaped = NULL;
                const char *end = at < size ? memchr(raw + at, '\0', size - at) : NULL;
                size_t n = (end ? (size_t) (end - raw) : size) - at;

                e = str_escape(raw + at, n, &escaped);
                if (e >= 0)
                        e = json_append_string(list, escaped);
                at += n + 1;
        }
        return e < 0 ? e : json_set(details, "commandLine", TAKE_PTR(list));
}

/* What was run, or the host as it was written. */
static int set_raw(Json *details, const AuditRecord *r, const char *raw, size_t size)
{
        if (r->kind == AUDIT_KIND_SESSION)
                return set_command_line(details, raw, size);
        return json_set_escaped(details, "asWritten", raw, size);
}

static int set_details(Json *o, const AuditRecord *r, const char *strings)
{
        _cleanup_json_ Json *details = NULL;
        int e;

        e = json_new_object(&details);
        for (size_t i = 0; e >= 0 && i < _RECORD_STRING_MAX; i++) {
                if (r->lengths[i] == UINT32_MAX)
                        continue;
                if (i == RECORD_RAW && r->lengths[i] > 0)
                        e = set_raw(details, r, strings, r->lengths[i]);
                else if (i == RECORD_DETAIL && r->lengths[i] > 0)
                        e = json_set_escaped(details, "detail", strings, r->lengths[i]);
                strings += r->lengths[i];
        }
        if (e < 0 || json_n(details) == 0)
                return e;
        return json_set(o, "details", TAKE_PTR(details));
}

static int set_address(Json *o, const PrivAddress *a)
{
        char text[ADDRESS_TEXT_SIZE];

        if (a->family != 4 && a->family != 6)
                return 0;
        address_format(a, text);
        return json_set_string(o, "address", text);
}

static int set_numbers(Json *o, const AuditRecord *r)
{
        char hash[65], previous[65], process[24];
        int e;

        str_hex(hash, r->hash, sizeof(r->hash));
        str_hex(previous, r->previous_hash, sizeof(r->previous_hash));
        e = str_printf(process, sizeof(process), "%lld", (long long) r->process);
        if (e >= 0 && r->process >= 0)
                e = json_set_string(o, "process", process);
        if (e < 0 || (e = set_number(o, "pid", r->pid)) < 0 || (e = set_address(o, &r->address)) < 0 ||
            (e = set_number(o, "port", r->port)) < 0 || (e = set_number(o, "status", r->status)) < 0 ||
            (e = set_number(o, "policyGeneration", r->generation)) < 0 ||
            (e = set_number(o, "refersTo", r->refers_to)) < 0 ||
            (e = set_number(o, "sentBytes", r->sent_bytes)) < 0 ||
            (e = set_number(o, "receivedBytes", r->received_bytes)) < 0 ||
            (e = set_number(o, "durationUSec", r->duration_usec)) < 0 ||
            (e = json_set_string(o, "hash", hash)) < 0)
                return e;
        return json_set_string(o, "previousHash", previous);
}

static int record_format(const AuditRecord *r, const char *strings, Json **ret)
{
        const char *kind = audit_kind_to_string(r->kind);
        _cleanup_json_ Json *o = NULL;
        int e;

        e = json_new_object(&o);
        if (e < 0 || (e = json_set_integer(o, "sequence", (int64_t) r->sequence)) < 0 ||
            (e = json_set_integer(o, "realtimeUSec", (int64_t) r->realtime_usec)) < 0 ||
            (e = json_set_integer(o, "boottimeUSec", (int64_t) r->boottime_usec)) < 0 ||
            (e = json_set_string(o, "kind", kind ? kind : "unknown")) < 0 ||
            (r->verdict >= 0 &&
             (e = json_set_string(o, "decision", verdict_to_string((uint32_t) r->verdict))) < 0) ||
            (e = json_set_integer(o, "uid", r->uid)) < 0 || (e = set_strings(o, r, strings)) < 0 ||
            (e = set_numbers(o, r)) < 0 || (e = set_details(o, r, strings)) < 0)
                return e;
        *ret = TAKE_PTR(o);
        return 0;
}

/* ---- the stream ---- */

/* The lengths must fill the frame exactly. */
static bool record_is_sound(const AuditRecord *r)
{
        uint64_t n = sizeof(*r);

        for (size_t i = 0; i < _RECORD_STRING_MAX; i++)
                n += r->lengths[i] == UINT32_MAX ? 0 : r->lengths[i];
        return n == r->n_bytes && r->n_bytes <= AUDIT_RECORD_MAX;
}

static int send_ready(Client *c, bool has_continues)
{
        _cleanup_json_ Json *p = NULL;
        int r;

        r = json_new_object(&p);
        if (r >= 0)
                r = json_set_boolean(p, "ready", true);
        if (r < 0)
                return r;
        client_reply(c, TAKE_PTR(p), has_continues, NULL, 0);
        return 0;
}

static void fail_retired(Client *c, uint64_t oldest)
{
        _cleanup_json_ Json *p = NULL;

        c->query = audit_query_free(c->query);
        if (json_new_object(&p) < 0 || json_set_integer(p, "oldestSequence", (int64_t) oldest) < 0)
                client_failure(c, -ENOMEM);
        else
                client_error(c, AUDIT_ERROR "NoSuchSequence", TAKE_PTR(p));
}

/* 1: go on; -ESTALE: the call is over. */
static int take_mark(AuditQuery *q, const AuditRecord *mark)
{
        int r;

        if (mark->status == AUDIT_MARK_RETIRED && mark->sequence <= INT64_MAX) {
                fail_retired(q->client, mark->sequence);
                return -ESTALE;
        }
        if (mark->status != AUDIT_MARK_READY || !q->is_following)
                return -EBADMSG;
        buf_consume(&q->input, mark->n_bytes);
        r = send_ready(q->client, /* has_continues= */ true);
        return r < 0 ? r : 1;
}

/* 1: a record was sent; 0: more bytes are needed. */
static int send_record(AuditQuery *q)
{
        _cleanup_json_ Json *p = NULL, *o = NULL;
        AuditRecord record;
        int r;

        if (buf_size(&q->input) < sizeof(record))
                return 0;
        memcpy(&record, buf_front(&q->input), sizeof(record));
        if (!record_is_sound(&record))
                return -EBADMSG;
        if (buf_size(&q->input) < record.n_bytes)
                return 0;
        if (record.kind == 0)
                return take_mark(q, &record);
        r = record_format(&record, buf_front(&q->input) + sizeof(record), &o);
        if (r >= 0)
                r = json_new_object(&p);
        if (r >= 0)
                r = json_set(p, "record", TAKE_PTR(o));
        if (r < 0)
                return r;
        buf_consume(&q->input, record.n_bytes);
        client_reply(q->client, TAKE_PTR(p), /* has_continues= */ true, NULL, 0);
        return 1;
}

static void finish(Client *c)
{
        bool is_whole = buf_size(&c->query->input) == 0 && !c->query->is_following;

        if (!is_whole || (c->query->verdict && !c->query->verdict->is_last)) {
                query_fail(c, "the reader of the log ended early");
                return;
        }
        if (c->query->verdict) {
                AuditVerification verdict = *c->query->verdict;

                c->query = audit_query_free(c->query);
                verification_finish(c, &verdict);
                return;
        }
        c->query = audit_query_free(c->query);
        if (send_ready(c, /* has_continues= */ false) < 0)
                client_failure(c, -ENOMEM);
}

static void on_pipe(void *userdata, int fd, _unused_ unsigned events)
{
        AuditQuery *q = userdata;
        Client *c = q->client;
        char *tail;
        ssize_t n;
        int r;

        r = buf_reserve(&q->input, QUERY_CHUNK, &tail);
        if (r < 0) {
                query_fail(c, "a record is too large");
                return;
        }
        n = read(fd, tail, QUERY_CHUNK);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return;
        if (n <= 0) {
                if (n < 0)
                        query_fail(c, "the log could not be read");
                else
                        finish(c);
                return;
        }
        buf_commit(&q->input, (size_t) n);
        do
                r = q->verdict ? verification_take(c, &q->input, q->verdict) : send_record(q);
        while (r > 0 && !c->is_closing);
        if (c->is_closing || r == -ESTALE)
                return;
        if (r < 0)
                query_fail(c, "the log's reader sent something unsound");
        else if (conn_wants_write(c->conn) && loop_io_set_events(q->io, 0) < 0)
                query_fail(c, "out of memory");
}

void audit_query_resume(AuditQuery *q)
{
        if (q->io && loop_io_set_events(q->io, LOOP_READ) < 0)
                query_fail(q->client, "out of memory");
}

static Client *find_query(Api *api, uint64_t token)
{
        LIST_FOREACH (c, &api->clients, Client, link) {
                if (c->query && c->query->token == token && c->query->fd < 0)
                        return c;
        }
        return NULL;
}

int on_query_started(Api *api, Imsg *m)
{
        const PrivRecorded *started = m->body;
        Client *c = find_query(api, started->token);
        int r;

        if (!c)
                return 0;
        if (started->error != 0 || m->n_fds != 1) {
                query_fail(c, started->error != 0 ? error_name(started->error) : "no stream");
                return 0;
        }
        c->query->fd = TAKE_FD(m->fds[0]);
        r = fd_set_nonblock(c->query->fd, true);
        if (r >= 0)
                r = loop_io_new(api->loop, c->query->fd, LOOP_READ, on_pipe, c->query, &c->query->io);
        if (r < 0)
                query_fail(c, error_name(r));
        return 0;
}

void audit_queries_fail(Api *api)
{
        LIST_FOREACH (c, &api->clients, Client, link) {
                if (c->query && c->query->fd < 0)
                        query_fail(c, "the audit writer is being restarted");
        }
}

/* ---- the call ---- */

/* No bit at all would mean any: an empty list sets one that nothing has. */
static int take_list(const Json *list, int (*parse)(const char *), uint32_t *ret_bits)
{
        if (list && json_n(list) == 0)
                *ret_bits = UINT32_C(1) << 31;
        for (size_t i = 0; list && i < json_n(list); i++) {
                int v = parse(json_string(json_at(list, i)));

                if (v < 0)
                        return -EINVAL;
                *ret_bits |= UINT32_C(1) << v;
        }
        return 0;
}

/* -EINVAL: *ret_field is the one that is wrong. */
static int take_filters(const Json *parameters, PrivQuery *q, const char **ret_field)
{
        const struct {
                const char *key;
                uint64_t *to;
        } numbers[] = {
                { "sinceUSec", &q->since_usec },
                { "untilUSec", &q->until_usec },
                { "afterSequence", &q->after_sequence },
                { "limit", &q->limit },
        };
        const struct {
                const char *key;
                char *to;
                size_t size;
        } strings[] = {
                { "session", q->session, sizeof(q->session) },
                { "user", q->user, sizeof(q->user) },
                { "host", q->host, sizeof(q->host) },
                { "rule", q->rule, sizeof(q->rule) },
        };

        for (size_t i = 0; i < ELEMENTSOF(numbers); i++) {
                int64_t v = get_integer(parameters, *ret_field = numbers[i].key);

                if (v < 0 || (v == 0 && i == 3 && get_value(parameters, "limit")))
                        return -EINVAL;
                *numbers[i].to = (uint64_t) v;
        }
        for (size_t i = 0; i < ELEMENTSOF(strings); i++) {
                const char *s = get_string(parameters, *ret_field = strings[i].key);

                if (s && (!*s || str_copy(strings[i].to, strings[i].size, s) < 0))
                        return -EINVAL;
        }
        if (take_list(get_value(parameters, *ret_field = "kinds"), audit_kind_from_string, &q->kinds) < 0)
                return -EINVAL;
        return take_list(get_value(parameters, *ret_field = "decisions"), verdict_from_string,
                         &q->decisions);
}

int audit_query_new(Client *c, AuditVerification *take_verdict, uint64_t *ret_token)
{
        AuditQuery *q = calloc(1, sizeof(*q));

        if (!q) {
                free(take_verdict);
                return -ENOMEM;
        }
        *q = (AuditQuery){ .client = c,
                           .token = ++c->api->next_token,
                           .fd = -EBADF,
                           .verdict = take_verdict,
                           .input = BUF_INIT(AUDIT_RECORD_MAX + QUERY_CHUNK) };
        c->query = q;
        c->wait = WAIT_QUERY;
        *ret_token = q->token;
        return 0;
}

int method_audit_query(Client *c, const Json *parameters)
{
        const Json *uid = get_value(parameters, "uid");
        bool is_own = uid && json_integer(uid) == (int64_t) c->peer.uid;
        PrivQuery m = { .uid = uid ? json_integer(uid) : -1,
                        .has_all_users = c->peer.is_auditor && !is_own,
                        .is_following = get_boolean(parameters, "follow") };
        const char *field = NULL;
        int r;

        if (take_filters(parameters, &m, &field) < 0) {
                client_invalid(c, field);
                return 0;
        }
        if (!c->api->audit) {
                log_unavailable(c, "the audit writer is being restarted");
                return 0;
        }
        r = audit_query_new(c, NULL, &m.token);
        if (r < 0)
                return r;
        c->query->is_following = m.is_following != 0;
        (void) priv_link_send(c->api->audit, PRIV_QUERY, &m, sizeof(m), NULL, 0);
        return 0;
}
