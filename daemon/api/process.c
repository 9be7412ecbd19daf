#include <stdio.h>

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
        } else if (p->state == PROCESS_EXITED && p->reason == END_EXITED) {
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
