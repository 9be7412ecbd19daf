/*
 * What the worker bounds by itself for its user: the memory of connections, and the time that a client takes
 * to read an answer. The launcher bounds how many connections and sessions there are, and the kernel
 * (RLIMIT_DATA) everything together.
 */

#include "daemon/api/events.h"
#include "proto/base/clock.h"
#include "proto/base/str.h"

/* A plain answer must be gone by then; of a stream, something. */
#define ANSWER_USEC (10 * USEC_PER_SEC)
#define STREAM_USEC (300 * USEC_PER_SEC)

static const char *const names[] = {
        [API_QUOTA_SESSIONS] = "sessions",
        [API_QUOTA_BUFFERS] = "buffers",
};
ASSERT_TABLE(names, _API_QUOTA_MAX);

/* ---- refusals ---- */

void client_quota_error(Client *c, const char *resource, int64_t limit)
{
        _cleanup_json_ Json *p = NULL;

        events_limit(c->api, resource, limit);
        if (json_new_object(&p) < 0 || json_set_escaped(p, "resource", resource, strlen(resource)) < 0 ||
            (limit >= 0 && json_set_integer(p, "limit", limit) < 0)) {
                client_close(c);
                return;
        }
        client_error(c, SESSION_ERROR "QuotaExceeded", TAKE_PTR(p));
}

static void send_note(Api *api, ApiQuota q)
{
        PrivReport report = { .kind = AUDIT_KIND_LIMIT,
                              .uid = api->start.identity.uid,
                              .is_denial = 1,
                              .count = (uint32_t) MIN_OF(api->n_refused[q], (uint64_t) UINT32_MAX) };

        (void) !str_copy(report.reason, sizeof(report.reason), names[q]);
        api->n_refused[q] = 0;
        (void) priv_link_send(api->launcher, PRIV_SESSION_REFUSE, &report, sizeof(report), NULL, 0);
}

static void on_second(void *userdata)
{
        Api *api = userdata;
        bool is_any = false;

        api->is_quota_timer_set = false;
        for (size_t q = 0; q < _API_QUOTA_MAX; q++) {
                if (api->n_refused[q] > 0) {
                        is_any = true;
                        send_note(api, (ApiQuota) q);
                }
        }
        if (is_any)
                api->is_quota_timer_set = loop_timer_set(api->quota_timer, USEC_PER_SEC) >= 0;
}

void quota_note(Api *api, ApiQuota q)
{
        api->n_refused[q]++;
        if (api->is_quota_timer_set)
                return;
        if (api->quota_timer || loop_timer_new(api->loop, on_second, api, &api->quota_timer) >= 0)
                on_second(api);
}

/* ---- clients ---- */

static void on_output_stuck(void *userdata)
{
        client_close(userdata);
}

static bool is_stream(const Client *c)
{
        return c->has_call && c->call.is_more;
}

/* False: out of memory, or out of its user's share. */
static bool count_memory(Client *c)
{
        Api *api = c->api;
        size_t now = conn_memory(c->conn);

        api->n_buffered = api->n_buffered - c->n_buffered + now;
        c->n_buffered = now;
        if (c->peer.uid == 0 || now == 0 || api->n_buffered <= api->loaded.settings.buffer_per_user_bytes)
                return true;
        quota_note(api, API_QUOTA_BUFFERS);
        return false;
}

static bool watch_output(Client *c)
{
        uint64_t n_sent = conn_n_sent(c->conn);
        bool has_moved = n_sent != c->n_sent;

        c->n_sent = n_sent;
        if (!conn_wants_write(c->conn)) {
                loop_timer_stop(c->output_timer);
                c->is_output_timed = false;
                return true;
        }
        if (c->is_output_timed && !(is_stream(c) && has_moved))
                return true;
        c->is_output_timed = true;
        return loop_timer_set(c->output_timer, is_stream(c) ? STREAM_USEC : ANSWER_USEC) >= 0;
}

int quota_client_new(Client *c)
{
        return loop_timer_new(c->api->loop, on_output_stuck, c, &c->output_timer);
}

void quota_client_closed(Client *c)
{
        if (c->output_timer)
                loop_timer_stop(c->output_timer);
        c->api->n_buffered -= c->n_buffered;
        c->n_buffered = 0;
}

void quota_client_done(Client *c)
{
        quota_client_closed(c);
        c->output_timer = loop_timer_free(c->output_timer);
}

bool quota_client_is_within(Client *c)
{
        return count_memory(c) && watch_output(c);
}
