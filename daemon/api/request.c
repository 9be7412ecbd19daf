#include "daemon/api/request.h"

#include <openssl/evp.h>
#include <stdlib.h>

#include "daemon/api/context.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

#define REQUEST_KEPT_USEC (24 * 3600 * USEC_PER_SEC)

/* ---- digest: the same for equal parameters, however they are written ---- */

typedef struct Member {
        const char *key;
        const Json *value;
} Member;

static int compare_members(const void *a, const void *b)
{
        return strcmp(((const Member *) a)->key, ((const Member *) b)->key);
}

static int digest_bytes(EVP_MD_CTX *x, char type, const void *data, size_t size)
{
        uint64_t n = size;

        if (EVP_DigestUpdate(x, &type, 1) != 1 || EVP_DigestUpdate(x, &n, sizeof(n)) != 1 ||
            (size > 0 && EVP_DigestUpdate(x, data, size) != 1))
                return -ENOMEM;
        return 0;
}

static int digest_value(EVP_MD_CTX *x, const Json *v);

static int digest_object(EVP_MD_CTX *x, const Json *v)
{
        _cleanup_free_ Member *members = calloc(json_n(v) + 1, sizeof(*members));
        void *cursor = NULL;
        size_t n = 0;
        Member m;
        int r;

        if (!members)
                return -ENOMEM;
        /* Null is the same as absent. */
        while (json_next(v, &cursor, &m.key, &m.value)) {
                if (json_type(m.value) != JSON_NULL)
                        members[n++] = m;
        }
        qsort(members, n, sizeof(*members), compare_members);
        r = digest_bytes(x, 'o', &n, sizeof(n));
        for (size_t i = 0; r >= 0 && i < n; i++) {
                r = digest_bytes(x, 'k', members[i].key, strlen(members[i].key));
                if (r >= 0)
                        r = digest_value(x, members[i].value);
        }
        return r;
}

static int digest_array(EVP_MD_CTX *x, const Json *v)
{
        size_t n = json_n(v);
        int r = digest_bytes(x, 'a', &n, sizeof(n));

        for (size_t i = 0; r >= 0 && i < n; i++)
                r = digest_value(x, json_at(v, i));
        return r;
}

/* As deep as the gate lets JSON be. */
static int digest_value(EVP_MD_CTX *x, const Json *v)
{
        int64_t number;
        double real;
        bool b;

        switch (json_type(v)) {
        case JSON_OBJECT:
                return digest_object(x, v);
        case JSON_ARRAY:
                return digest_array(x, v);
        case JSON_STRING:
                return digest_bytes(x, 's', json_string(v), strlen(json_string(v)));
        case JSON_INTEGER:
                number = json_integer(v);
                return digest_bytes(x, 'i', &number, sizeof(number));
        case JSON_REAL:
                real = json_real(v);
                return digest_bytes(x, 'r', &real, sizeof(real));
        case JSON_BOOLEAN:
                b = json_boolean(v);
                return digest_bytes(x, 'b', &b, sizeof(b));
        case JSON_NULL:
        default:
                return digest_bytes(x, 'n', NULL, 0);
        }
}

/* A profile that comes as a descriptor is a parameter, too. */
static int digest_profile(EVP_MD_CTX *x, const Client *c, const Json *parameters)
{
        const Json *index = get_value(parameters, "profileFileDescriptor");
        _cleanup_free_ char *text = NULL;
        size_t size = 0;

        if (!index || policy_text_read(c->call.fds[json_integer(index)], &text, &size) < 0)
                return 0;
        return digest_bytes(x, 'p', text, size);
}

static int make_digest(const Client *c, const Json *parameters, uint8_t ret[32])
{
        EVP_MD_CTX *x = EVP_MD_CTX_new();
        int r = x && EVP_DigestInit_ex(x, EVP_sha256(), NULL) == 1 ? 0 : -ENOMEM;

        if (r >= 0)
                r = digest_bytes(x, 'm', c->call.method, strlen(c->call.method));
        if (r >= 0)
                r = digest_value(x, parameters);
        if (r >= 0)
                r = digest_profile(x, c, parameters);
        if (r >= 0 && EVP_DigestFinal_ex(x, ret, NULL) != 1)
                r = -ENOMEM;
        EVP_MD_CTX_free(x);
        return r;
}

/* ---- the table ---- */

Request *request_find(Api *api, const char *id)
{
        return map_get(&api->requests, id, strlen(id));
}

Request *request_find_key(Api *api, const Id *key)
{
        LIST_FOREACH (q, &api->request_list, Request, link) {
                if (q->is_pending && id_equal(&q->key, key))
                        return q;
        }
        return NULL;
}

int request_add(Api *api, Request *take_q)
{
        int r = map_put(&api->requests, take_q->id, strlen(take_q->id), take_q);

        if (r < 0) {
                request_free(take_q);
                return r;
        }
        list_append(&api->request_list, &take_q->link);
        return 0;
}

Request *request_free(Request *q)
{
        if (!q)
                return NULL;
        if (!list_is_empty(&q->link)) {
                list_unlink(&q->link);
                (void) map_remove(&q->api->requests, q->id, strlen(q->id));
        }
        if (q->command)
                q->command->request = NULL;
        json_unref(q->result);
        free(q);
        return NULL;
}

void requests_free(Api *api)
{
        while (!list_is_empty(&api->request_list))
                request_free(list_entry(api->request_list.next, Request, link));
        map_done(&api->requests);
}

static void forget_old(Api *api)
{
        uint64_t now = clock_realtime_usec();

        LIST_FOREACH (q, &api->request_list, Request, link) {
                if (q->created_usec + REQUEST_KEPT_USEC > now && q->created_usec <= now)
                        return;
                if (!q->is_pending) {
                        request_store_gone(q);
                        request_free(q);
                }
        }
}

static int request_new(Client *c, const char *id, const uint8_t digest[32], Request **ret)
{
        Request *q = calloc(1, sizeof(*q));
        int r;

        if (!q)
                return -ENOMEM;
        *q = (Request){ .api = c->api,
                        .created_usec = clock_realtime_usec(),
                        .is_pending = true,
                        .is_spawn = str_has_suffix(c->call.method, ".Spawn") };
        list_init(&q->link);
        memcpy(q->digest, digest, sizeof(q->digest));
        r = str_copy(q->id, sizeof(q->id), id);
        if (r >= 0)
                r = id_random(&q->key);
        if (r < 0) {
                request_free(q);
                return r;
        }
        r = request_add(c->api, q);
        /* A promise for a day: where it cannot be kept, none is given. */
        if (r >= 0 && (r = request_store_begin(q)) < 0)
                request_free(q);
        if (r >= 0)
                *ret = q;
        return r;
}

/* ---- those that wait ---- */

static void wake_waiting(void *userdata)
{
        Api *api = userdata;

        api->is_waking = false;
        LIST_FOREACH (c, &api->clients, Client, link) {
                if (c->wait == WAIT_REQUEST)
                        client_dispatch_again(c);
        }
}

static void wake_later(Api *api)
{
        if (!api->is_waking && loop_defer(api->loop, wake_waiting, api) >= 0)
                api->is_waking = true;
}

void request_made(Request *q, const Session *s, uint32_t process)
{
        if (!q || !q->is_pending)
                return;
        q->is_pending = false;
        q->session = s->id;
        q->process = process;
        request_store_made(q);
        wake_later(q->api);
}

Request *request_give_up(Request *q)
{
        if (!q)
                return NULL;
        wake_later(q->api);
        request_store_gone(q);
        return request_free(q);
}

void request_set_command(Request *q, Process *p)
{
        p->request = q;
        if (q)
                q->command = p;
}

void request_command_started(Process *p)
{
        request_made(p->request, p->session, p->number);
}

void request_command_ended(Process *p)
{
        Request *q = p->request;

        if (!q)
                return;
        request_made(q, p->session, p->number);
        if (process_result(p, &q->result) >= 0)
                request_store_result(q);
        q->command = NULL;
        p->request = NULL;
}

void request_command_gone(Process *p)
{
        Request *q = p->request;

        p->request = NULL;
        if (!q)
                return;
        q->command = NULL;
        if (q->is_pending)
                request_give_up(q);
}

/* ---- answers ---- */

static int answer_conflict(Client *c, const Request *q)
{
        _cleanup_json_ Json *p = NULL;
        char id[ID_TEXT_SIZE];
        int r;

        id_format(&q->session, id);
        r = json_new_object(&p);
        if (r < 0 || (r = json_set_string(p, "requestId", q->id)) < 0 ||
            (r = json_set_string(p, "id", id)) < 0)
                return r;
        client_error(c, SESSION_ERROR "RequestIdConflict", TAKE_PTR(p));
        return 0;
}

static int set_command(const Request *q, const Session *s, Json *o)
{
        _cleanup_json_ Json *runtime = NULL;
        char number[16];
        int r;

        process_number_text(q->process, number);
        r = json_set_string(o, "process", number);
        if (r >= 0 && q->result)
                r = json_set(o, "result", json_ref(q->result));
        if (r < 0 || !q->is_spawn || !s)
                return r;
        r = session_runtime(s, /* is_full= */ true, &runtime);
        return r < 0 ? r : json_set(o, "runtime", TAKE_PTR(runtime));
}

static int set_session(const Session *s, Json *o)
{
        _cleanup_json_ Json *runtime = NULL;
        int r = session_runtime(s, /* is_full= */ true, &runtime);

        return r < 0 ? r : json_set(o, "runtime", TAKE_PTR(runtime));
}

static int answer_existing(Client *c, const Request *q)
{
        Session *s = session_find_id(c->api, &q->session);
        bool is_over = q->process == 0 || !s || (q->result && (!q->is_spawn || session_has_ended(s)));
        _cleanup_json_ Json *o = NULL;
        char id[ID_TEXT_SIZE];
        int r;

        id_format(&q->session, id);
        if (q->process == 0 && !s) {
                client_error_string(c, SESSION_ERROR "NoSuchSession", "id", id);
                return 0;
        }
        r = json_new_object(&o);
        if (r < 0 || (r = json_set_string(o, "id", id)) < 0 ||
            (r = json_set_boolean(o, "existing", true)) < 0 ||
            (r = q->process > 0 ? set_command(q, s, o) : set_session(s, o)) < 0)
                return r;
        if (c->call.is_more && !is_over) {
                c->wait = WAIT_RESULT;
                c->wait_session = q->session;
                c->wait_process = q->process;
        }
        client_reply(c, TAKE_PTR(o), c->call.is_more && !is_over, NULL, 0);
        return 0;
}

/* What a first call does not need is not made. */
static int answer_known(Client *c, const Json *parameters, Request *q)
{
        uint8_t digest[32];
        int r;

        if (q->is_pending) {
                c->wait = WAIT_REQUEST;
                return 0;
        }
        r = make_digest(c, parameters, digest);
        if (r < 0)
                return r;
        if (memcmp(digest, q->digest, sizeof(digest)) != 0)
                return answer_conflict(c, q);
        return answer_existing(c, q);
}

static size_t count_characters(const char *s)
{
        size_t n = 0;

        for (; *s; s++)
                n += ((unsigned char) *s & 0xc0) != 0x80;
        return n;
}

int request_begin(Client *c, const Json *parameters)
{
        const char *id = get_string(parameters, "requestId");
        uint8_t digest[32];
        Request *q;
        int r;

        if (!id)
                return 1;
        if (!*id || count_characters(id) > REQUEST_ID_MAX) {
                client_invalid(c, "requestId");
                return 0;
        }
        forget_old(c->api);
        q = request_find(c->api, id);
        if (q)
                return answer_known(c, parameters, q);
        if (c->api->requests.n >= REQUESTS_MAX) {
                client_quota_error(c, "requestIds", REQUESTS_MAX);
                return 0;
        }
        r = make_digest(c, parameters, digest);
        if (r >= 0)
                r = request_new(c, id, digest, &c->request);
        return r < 0 ? r : 1;
}

void requests_settle(Api *api)
{
        LIST_FOREACH (q, &api->request_list, Request, link) {
                if (q->is_pending && !q->command)
                        request_give_up(q);
        }
        forget_old(api);
}
