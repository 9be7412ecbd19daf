/* The file of requests: a line when one begins, when there is something to find, when its result is known,
 * and when it is forgotten. */

#include "daemon/api/request.h"
#include "daemon/api/session.h"
#include "daemon/api/store.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

#define REQUESTS_NAME "requests"
/* So many lines more than there are requests: the file is written anew. */
#define LINES_SLACK 4096U

static int new_line(const Request *q, Json **ret)
{
        _cleanup_json_ Json *o = NULL;
        int r;

        r = json_new_object(&o);
        if (r >= 0)
                r = json_set_string(o, "request", q->id);
        if (r >= 0)
                *ret = TAKE_PTR(o);
        return r;
}

static int set_made(const Request *q, Json *o)
{
        char id[ID_TEXT_SIZE];
        int r;

        id_format(&q->session, id);
        r = json_set_string(o, "session", id);
        return r < 0 ? r : json_set_integer(o, "process", q->process);
}

static int set_begin(const Request *q, Json *o)
{
        char key[ID_TEXT_SIZE], digest[2 * sizeof(q->digest) + 1];
        int r;

        id_format(&q->key, key);
        str_hex(digest, q->digest, sizeof(q->digest));
        if ((r = json_set_string(o, "key", key)) < 0 || (r = json_set_string(o, "digest", digest)) < 0 ||
            (r = json_set_boolean(o, "isSpawn", q->is_spawn)) < 0)
                return r;
        return json_set_integer(o, "createdAtUSec", (int64_t) q->created_usec);
}

static int put_whole(const Request *q, Buf *b)
{
        _cleanup_json_ Json *o = NULL;
        int r;

        if ((r = new_line(q, &o)) < 0 || (r = set_begin(q, o)) < 0 ||
            (!q->is_pending && (r = set_made(q, o)) < 0) ||
            (q->result && (r = json_set(o, "result", json_ref(q->result))) < 0))
                return r;
        return store_put(b, o);
}

static int write_all(Api *api)
{
        Buf b = BUF_INIT(STORE_FILE_MAX);
        int r = 0;

        if (list_is_empty(&api->request_list)) {
                store_remove(api, REQUESTS_NAME);
                api->n_request_lines = 0;
                return 0;
        }
        LIST_FOREACH (q, &api->request_list, Request, link) {
                if (r >= 0)
                        r = put_whole(q, &b);
        }
        if (r >= 0)
                r = store_write(api, REQUESTS_NAME, &b);
        buf_done(&b);
        api->n_request_lines = api->requests.n;
        return r;
}

/* Takes the line. Without the file, or where half a line may stand in it, all is written. */
static int append(Request *q, Json *take_line, int r)
{
        _cleanup_json_ Json *line = take_line;
        Api *api = q->api;

        if (r < 0)
                return r;
        if (api->n_request_lines > 0 && ++api->n_request_lines < api->requests.n + LINES_SLACK &&
            store_append(api, REQUESTS_NAME, line) >= 0)
                return 0;
        return write_all(api);
}

static void append_or_log(Request *q, Json *take_line, int r)
{
        r = append(q, take_line, r);
        if (r < 0)
                (void) log_warning(r, "a request of uid %u cannot be stored", q->api->start.identity.uid);
}

int request_store_begin(Request *q)
{
        Json *line = NULL;
        int r;

        r = new_line(q, &line);
        if (r >= 0)
                r = set_begin(q, line);
        return append(q, line, r);
}

void request_store_made(Request *q)
{
        Json *line = NULL;
        int r;

        r = new_line(q, &line);
        if (r >= 0)
                r = set_made(q, line);
        append_or_log(q, line, r);
}

void request_store_result(Request *q)
{
        Json *line = NULL;
        int r;

        r = new_line(q, &line);
        if (r >= 0)
                r = json_set(line, "result", json_ref(q->result));
        append_or_log(q, line, r);
}

void request_store_gone(Request *q)
{
        Json *line = NULL;
        int r;

        /* This worker ends: its successor decides. */
        if (q->api->store_fd < 0)
                return;
        r = new_line(q, &line);
        if (r >= 0)
                r = json_set_boolean(line, "isGone", true);
        append_or_log(q, line, r);
}

/* ---- reading ---- */

static int load_begin(Api *api, const Json *line, const char *id)
{
        const char *key = get_string(line, "key"), *digest = get_string(line, "digest");
        int64_t created = get_integer(line, "createdAtUSec");
        Request *q;

        if (!key || !digest || created <= 0 || !*id || strlen(id) >= REQUEST_ID_SIZE ||
            api->requests.n >= REQUESTS_MAX)
                return -EBADMSG;
        q = calloc(1, sizeof(*q));
        if (!q)
                return -ENOMEM;
        *q = (Request){ .api = api, .created_usec = (uint64_t) created, .is_pending = true };
        list_init(&q->link);
        q->is_spawn = get_boolean(line, "isSpawn");
        if (str_copy(q->id, sizeof(q->id), id) < 0 || id_parse(key, &q->key) < 0 ||
            parse_hex(digest, q->digest, sizeof(q->digest)) < 0) {
                request_free(q);
                return -EBADMSG;
        }
        return request_add(api, q);
}

static int load_made(Request *q, const Json *line)
{
        int64_t process = get_integer(line, "process");

        if (id_parse(get_string(line, "session"), &q->session) < 0 || process < 0 || process > INT32_MAX)
                return -EBADMSG;
        q->process = (uint32_t) process;
        q->is_pending = false;
        return 0;
}

static int load_line(void *userdata, _unused_ size_t number, const Json *line)
{
        Api *api = userdata;
        const char *id = get_string(line, "request");
        const Json *result = get_value(line, "result");
        Request *q = id ? request_find(api, id) : NULL;
        int r = 0;

        if (!id || (!q && !get_string(line, "key")))
                return -EBADMSG;
        if (get_boolean(line, "isGone")) {
                request_free(q);
                return 0;
        }
        if (!q) {
                r = load_begin(api, line, id);
                q = r < 0 ? NULL : request_find(api, id);
        }
        if (q && get_string(line, "session"))
                r = load_made(q, line);
        if (r < 0 || !result)
                return r;
        if (!q || json_type(result) != JSON_OBJECT ||
            end_reason_from_string(get_string(result, "reason")) < 0)
                return -EBADMSG;
        json_unref(q->result);
        q->result = json_keep(result);
        return 0;
}

int requests_load(Api *api)
{
        int r = store_read(api, REQUESTS_NAME, load_line, api);

        if (r == -ENOENT)
                return 0;
        /* Half of it is not believed either. */
        if (r < 0)
                requests_free(api);
        /* The next line is written with all that is known. */
        api->n_request_lines = 0;
        return r == -ENOMEM ? r : 0;
}
