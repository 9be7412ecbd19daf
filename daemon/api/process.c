#include <stdio.h>

#include "daemon/api/store.h"
#include "daemon/api/streams.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

#define COMMAND_LINE_KEPT 256U /* bytes */

static const char *const states[] = {
        [PROCESS_STARTING] = "starting",
        [PROCESS_RUNNING] = "running",
        [PROCESS_EXITED] = "exited",
        [PROCESS_FAILED] = "failed",
};
ASSERT_TABLE(states, _PROCESS_STATE_MAX);

Process *process_free(Process *p)
{
        if (!p)
                return NULL;
        if (!list_is_empty(&p->link)) {
                list_unlink(&p->link);
                p->session->n_processes--;
        }
        request_command_gone(p);
        p->timer = loop_timer_free(p->timer);
        p->command_line = json_unref(p->command_line);
        buf_done(&p->strings);
        fd_close_many(p->fds, p->n_fds);
        p->streams = streams_forget(p->streams);
        free(p);
        return NULL;
}

bool process_has_ended(const Process *p)
{
        return p->state == PROCESS_EXITED || p->state == PROCESS_FAILED;
}

const char *process_state_to_string(const Process *p)
{
        return states[p->state];
}

Process *process_find(const Session *s, uint32_t number)
{
        LIST_FOREACH (p, &s->processes, Process, link) {
                if (p->number == number)
                        return p;
        }
        return NULL;
}

Process *process_last(const Session *s)
{
        return list_is_empty(&s->processes) ? NULL : list_entry(s->processes.prev, Process, link);
}

Process *process_spawned(const Session *s)
{
        LIST_FOREACH (p, &s->processes, Process, link) {
                if (p->is_spawned)
                        return p;
        }
        return NULL;
}

void process_number_text(uint32_t number, char text[16])
{
        (void) snprintf(text, 16, "%u", number);
}

void process_shorten_command_line(Process *p)
{
        _cleanup_json_ Json *list = NULL;
        size_t room = COMMAND_LINE_KEPT;
        int r;

        r = json_new_array(&list);
        for (size_t i = 0; r >= 0 && i < json_n(p->command_line); i++) {
                const char *s = json_string(json_at(p->command_line, i));
                size_t n = strlen(s) + 1;
                _cleanup_free_ char *cut = NULL;

                if (n <= room) {
                        r = json_append_string(list, s);
                        room -= n;
                        continue;
                }
                /* Not within a character. */
                for (n = room; n > 0 && ((unsigned char) s[n] & 0xc0) == 0x80;)
                        n--;
                r = str_aprintf(&cut, "%.*s...", (int) n, s);
                if (r >= 0)
                        r = json_append_string(list, cut);
                break;
        }
        if (r < 0)
                return;
        json_unref(p->command_line);
        p->command_line = TAKE_PTR(list);
}

int process_result(const Process *p, Json **ret)
{
        _cleanup_json_ Json *o = NULL;
        char name[32];
        int r;

        r = json_new_object(&o);
        if (r < 0)
                return r;
        if (p->is_signal) {
                const char *abbreviation = sigabbrev_np((int) p->status);

                r = abbreviation ? str_printf(name, sizeof(name), "SIG%s", abbreviation)
                                 : str_printf(name, sizeof(name), "SIG%u", p->status);
                if (r >= 0)
                        r = json_set_string(o, "signal", name);
                if (r >= 0)
                        r = json_set_boolean(o, "coreDumped", p->has_core);
        } else if (p->state == PROCESS_EXITED && !p->is_unknown) {
                r = json_set_integer(o, "exitCode", p->status);
        }
        if (r >= 0)
                r = json_set_string(o, "reason", end_reason_to_string(p->reason));
        if (r < 0)
                return r;
        *ret = TAKE_PTR(o);
        return 0;
}

int process_describe(const Process *p, Json **ret)
{
        _cleanup_json_ Json *o = NULL, *result = NULL;
        char number[16];
        int r;

        process_number_text(p->number, number);
        r = json_new_object(&o);
        if (r < 0 || (r = json_set_string(o, "process", number)) < 0 ||
            (r = json_set(o, "commandLine", json_ref(p->command_line))) < 0 ||
            (r = json_set_string(o, "state", states[p->state])) < 0)
                return r;
        if (p->started_usec > 0)
                r = json_set_integer(o, "startedAtUSec", (int64_t) p->started_usec);
        if (r >= 0 && p->ended_usec > 0)
                r = json_set_integer(o, "endedAtUSec", (int64_t) p->ended_usec);
        if (r >= 0 && process_has_ended(p)) {
                r = process_result(p, &result);
                if (r >= 0)
                        r = json_set(o, "result", TAKE_PTR(result));
        }
        if (r < 0)
                return r;
        *ret = TAKE_PTR(o);
        return 0;
}

/* ---- in the store ---- */

int process_store(const Process *p, Json **ret)
{
        _cleanup_json_ Json *o = NULL;
        int r;

        if ((r = json_new_object(&o)) < 0 || (r = json_set_integer(o, "process", p->number)) < 0 ||
            (r = json_set_string(o, "state", states[p->state])) < 0 ||
            (r = json_set_integer(o, "startedAtUSec", (int64_t) p->started_usec)) < 0 ||
            (r = json_set_integer(o, "endedAtUSec", (int64_t) p->ended_usec)) < 0 ||
            (r = json_set_integer(o, "timeoutUSec", (int64_t) p->timeout_usec)) < 0 ||
            (r = json_set_integer(o, "status", p->status)) < 0 ||
            (r = json_set_string(o, "reason", end_reason_to_string(p->reason))) < 0 ||
            (r = json_set_boolean(o, "isSpawned", p->is_spawned)) < 0 ||
            (r = json_set_boolean(o, "isSignal", p->is_signal)) < 0 ||
            (r = json_set_boolean(o, "hasCore", p->has_core)) < 0 ||
            (r = json_set_boolean(o, "isUnknown", p->is_unknown)) < 0 ||
            (r = json_set_boolean(o, "hasPty", p->has_pty)) < 0 ||
            (r = json_set_string(o, "request", p->request ? p->request->id : NULL)) < 0 ||
            (r = json_set(o, "commandLine", json_ref(p->command_line))) < 0)
                return r;
        *ret = TAKE_PTR(o);
        return 0;
}

static int load_numbers(Process *p, const Json *line)
{
        const struct {
                const char *key;
                uint64_t *to;
        } numbers[] = {
                { "startedAtUSec", &p->started_usec },
                { "endedAtUSec", &p->ended_usec },
                { "timeoutUSec", &p->timeout_usec },
        };
        const char *state = get_string(line, "state");
        int reason = end_reason_from_string(get_string(line, "reason"));
        int64_t status = get_integer(line, "status");
        unsigned i = 0;

        while (i < _PROCESS_STATE_MAX && state && !str_equal(state, states[i]))
                i++;
        if (!state || i == _PROCESS_STATE_MAX || reason < 0 || status < 0 || status > 255)
                return -EBADMSG;
        p->state = (ProcessState) i;
        p->reason = (EndReason) reason;
        p->status = (uint32_t) status;
        for (i = 0; i < ELEMENTSOF(numbers); i++) {
                int64_t v = get_integer(line, numbers[i].key);

                if (v < 0)
                        return -EBADMSG;
                *numbers[i].to = (uint64_t) v;
        }
        return 0;
}

static int process_new_loaded(Session *s, uint32_t number, Process **ret)
{
        Process *p;
        int r;

        processes_make_room(s);
        if (s->n_processes >= 2 * API_PROCESSES_KEPT_MAX)
                return -EBADMSG;
        p = calloc(1, sizeof(*p));
        if (!p)
                return -ENOMEM;
        *p = (Process){ .session = s, .number = number };
        list_init(&p->link);
        r = loop_timer_new(s->api->loop, process_on_timer, p, &p->timer);
        if (r < 0) {
                (void) process_free(p);
                return r;
        }
        list_append(&s->processes, &p->link);
        s->n_processes++;
        s->next_process = MAX_OF(s->next_process, number + 1);
        *ret = p;
        return 0;
}

/* Requests are read before sessions. */
static void load_request(Process *p, const char *id)
{
        Request *q = id && !p->request ? request_find(p->session->api, id) : NULL;

        if (q && !q->command && !q->result)
                request_set_command(q, p);
        if (p->state == PROCESS_RUNNING)
                request_command_started(p);
        else if (p->state == PROCESS_EXITED)
                request_command_ended(p);
        else if (p->state == PROCESS_FAILED)
                request_command_gone(p);
}

int process_load(Session *s, const Json *line)
{
        int64_t number = get_integer(line, "process");
        const Json *command_line = get_value(line, "commandLine");
        Process *p;
        int r = 0;

        if (number < 1 || number >= INT32_MAX || !store_is_list(command_line, JSON_STRING) ||
            json_n(command_line) == 0)
                return -EBADMSG;
        p = process_find(s, (uint32_t) number);
        if (!p)
                r = process_new_loaded(s, (uint32_t) number, &p);
        if (r >= 0)
                r = load_numbers(p, line);
        if (r < 0)
                return r;
        p->is_spawned = get_boolean(line, "isSpawned");
        p->is_signal = get_boolean(line, "isSignal");
        p->has_core = get_boolean(line, "hasCore");
        p->is_unknown = get_boolean(line, "isUnknown");
        p->has_pty = get_boolean(line, "hasPty");
        json_unref(p->command_line);
        p->command_line = json_keep(command_line);
        load_request(p, get_string(line, "request"));
        return 0;
}
