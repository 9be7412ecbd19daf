/* What the daemon knows about a session, as JSON. */

#include "daemon/api/streams.h"
#include "proto/base/error.h"
#include "proto/base/str.h"

static int set_text(Json *o, const char *key, const char *s)
{
        return s && *s ? json_set_escaped(o, key, s, strlen(s)) : 0;
}

static int set_init(Json *o, const Session *s)
{
        _cleanup_json_ Json *init = NULL;
        int r;

        if (s->init_pid == 0 || session_has_ended(s))
                return 0;
        r = json_new_object(&init);
        if (r >= 0)
                r = json_set_integer(init, "pid", s->init_pid);
        if (r >= 0)
                r = json_set_string(init, "bootId", s->api->boot_id);
        return r < 0 ? r : json_set(o, "init", TAKE_PTR(init));
}

static int set_processes(Json *o, const Session *s)
{
        _cleanup_json_ Json *list = NULL;
        int r;

        r = json_new_array(&list);
        if (r < 0)
                return r;
        LIST_FOREACH (p, &s->processes, Process, link) {
                Json *one = NULL;

                r = process_describe(p, &one);
                if (r >= 0)
                        r = json_append(list, one);
                if (r < 0)
                        return r;
        }
        return json_set(o, "processes", TAKE_PTR(list));
}

size_t session_n_attached(const Session *s)
{
        size_t n = 0;

        LIST_FOREACH (p, &s->processes, Process, link)
                n += p->streams ? streams_n_attached(p->streams) : 0;
        return n;
}

static int append_layer(Json *list, const char *name, size_t size)
{
        _cleanup_json_ Json *layer = NULL;
        int r;

        r = json_new_object(&layer);
        if (r >= 0)
                r = json_set_escaped(layer, "layer", name, size);
        if (r >= 0)
                r = json_set_string(layer, "message", "this kernel or machine does not have it");
        return r < 0 ? r : json_append(list, TAKE_PTR(layer));
}

static int set_degraded(Json *o, const Session *s)
{
        _cleanup_json_ Json *list = NULL;
        const char *p = s->api->start.degraded;
        int r;

        if (!*p)
                return 0;
        r = json_new_array(&list);
        while (r >= 0 && *p) {
                size_t n = strcspn(p, ",");

                if (n > 0)
                        r = append_layer(list, p, n);
                p += n + (p[n] == ',');
        }
        return r < 0 ? r : json_set(o, "degraded", TAKE_PTR(list));
}

static int set_result(Json *o, const Session *s)
{
        _cleanup_json_ Json *result = NULL;
        int r;

        if (!session_has_ended(s))
                return 0;
        r = json_new_object(&result);
        if (r >= 0)
                r = json_set_string(result, "reason", end_reason_to_string(s->end_reason));
        return r < 0 ? r : json_set(o, "result", TAKE_PTR(result));
}

static int set_own_words(Json *o, const Session *s)
{
        const Json *labels = get_value(s->context, "labels");
        int64_t n = 0;
        int r;

        LIST_FOREACH (p, &s->processes, Process, link)
                n += p->state == PROCESS_RUNNING;
        r = json_set_integer(o, "running", n);
        return r < 0 || !labels || json_n(labels) == 0 ? r : json_set(o, "labels", json_keep(labels));
}

int session_runtime(const Session *s, bool is_full, Json **ret)
{
        _cleanup_json_ Json *o = NULL;
        int r;

        r = json_new_object(&o);
        if (r < 0 || (r = json_set_string(o, "state", session_state_to_string(s))) < 0 ||
            (r = json_set_integer(o, "ownerUid", s->api->start.identity.uid)) < 0 ||
            (r = set_text(o, "name", s->name)) < 0 || (r = set_text(o, "profile", s->profile)) < 0 ||
            (r = set_text(o, "workspace", s->workspace)) < 0 || (r = set_init(o, s)) < 0 ||
            (r = set_text(o, "controlGroup", s->cgroup)) < 0 ||
            (r = json_set_integer(o, "createdAtUSec", (int64_t) s->created_usec)) < 0)
                return r;
        if (s->ended_usec > 0 && (r = json_set_integer(o, "endedAtUSec", (int64_t) s->ended_usec)) < 0)
                return r;
        if (s->state == SESSION_FROZEN &&
            ((r = json_set_integer(o, "frozenByUid", s->frozen_by)) < 0 ||
             (r = json_set_integer(o, "frozenAtUSec", (int64_t) s->frozen_usec)) < 0))
                return r;
        if ((r = json_set_integer(o, "policyGeneration", 1)) < 0 ||
            (r = set_text(o, "policyDigest", s->digest)) < 0 || (r = set_result(o, s)) < 0)
                return r;
        r = set_own_words(o, s);
        if (r < 0)
                return r;
        if (s->knows_denials && (r = json_set_boolean(o, "hasDenials", s->has_denials)) < 0)
                return r;
        if (is_full &&
            ((r = json_set_integer(o, "attached", (int64_t) session_n_attached(s))) < 0 ||
             (r = set_processes(o, s)) < 0 || (r = json_set(o, "warnings", json_ref(s->warnings))) < 0 ||
             (r = set_degraded(o, s)) < 0))
                return r;
        *ret = TAKE_PTR(o);
        return 0;
}
