/* What happened, as events. */

#include "daemon/api/events.h"
#include "daemon/api/store.h"
#include "proto/base/str.h"

static Json *details_new(const char *key, Json *take_value)
{
        Json *o = NULL;

        if (json_new_object(&o) < 0) {
                json_unref(take_value);
                return NULL;
        }
        if (json_set(o, key, take_value) < 0)
                return json_unref(o);
        return o;
}

static void set(Json *details, const char *key, const char *value)
{
        if (details && value && *value)
                (void) !json_set_escaped(details, key, value, strlen(value));
}

/* ---- sessions ---- */

void events_session_created(const Session *s)
{
        Json *details = NULL;

        if (json_new_object(&details) < 0)
                details = NULL;
        set(details, "name", s->name);
        set(details, "profile", s->profile);
        event_emit(s->api, &(EventSpec){ .kind = "session.created",
                                         .session = s->id_text,
                                         .state = session_state_to_string(s),
                                         .take_details = details });
        for (size_t i = 0; i < json_n(s->warnings); i++) {
                const Json *w = json_at(s->warnings, i);

                events_session_warning(s, get_string(w, "code"), get_string(w, "message"));
        }
}

void events_session_state(const Session *s)
{
        bool is_ending = s->state == SESSION_STOPPING && s->has_end_reason;

        event_emit(s->api, &(EventSpec){ .kind = "session.state",
                                         .session = s->id_text,
                                         .state = session_state_to_string(s),
                                         .reason = is_ending ? end_reason_to_string(s->end_reason) : NULL });
}

void events_session_ended(const Session *s)
{
        event_emit(s->api, &(EventSpec){ .kind = "session.ended",
                                         .session = s->id_text,
                                         .state = session_state_to_string(s),
                                         .reason = end_reason_to_string(s->end_reason) });
}

void events_session_removed(const Session *s)
{
        event_emit(s->api, &(EventSpec){ .kind = "session.removed", .session = s->id_text });
}

void events_session_warning(const Session *s, const char *code, const char *message)
{
        Json *details = NULL;

        if (json_new_object(&details) < 0)
                details = NULL;
        set(details, "code", code);
        set(details, "message", message);
        event_emit(s->api, &(EventSpec){ .kind = "session.warning",
                                         .session = s->id_text,
                                         .take_details = details });
}

void session_remove(Session *s)
{
        events_session_removed(s);
        session_store_remove(s);
        session_free(s);
}

int session_set_cursor(const Session *s, Json *reply)
{
        char cursor[EVENT_CURSOR_SIZE];

        event_cursor_format(s->api, s->events_before, cursor);
        return json_set_string(reply, "cursor", cursor);
}

/* ---- commands ---- */

void events_exec_started(const Process *p)
{
        event_emit(p->session->api,
                   &(EventSpec){ .kind = "exec.started",
                                 .session = p->session->id_text,
                                 .process = p->number,
                                 .audit_sequence = p->audit_sequence,
                                 .take_details = details_new("commandLine", json_ref(p->command_line)) });
}

void events_exec_ended(const Process *p)
{
        Json *result = NULL;

        if (process_result(p, &result) < 0)
                result = NULL;
        event_emit(p->session->api,
                   &(EventSpec){ .kind = "exec.ended",
                                 .session = p->session->id_text,
                                 .process = p->number,
                                 .state = process_state_to_string(p),
                                 .reason = end_reason_to_string(p->reason),
                                 .take_details = result ? details_new("result", result) : NULL });
}

/* ---- what audit and the launcher tell ---- */

void events_denied(Api *api, const PrivDenied *d)
{
        char session[ID_TEXT_SIZE], address[ADDRESS_TEXT_SIZE] = "";
        Json *details = NULL;

        id_format(&d->session, session);
        if (d->address.family == 4 || d->address.family == 6)
                address_format(&d->address, address);
        if (json_new_object(&details) < 0 || json_set_integer(details, "count", d->count) < 0)
                details = json_unref(details);
        set(details, "kind", audit_kind_to_string(d->kind));
        set(details, d->kind == AUDIT_KIND_FILE ? "action" : "text", d->text);
        event_emit(api, &(EventSpec){ .kind = "decision.denied",
                                      .session = session,
                                      .process = d->process,
                                      .reason = decision_reason_to_string(d->reason),
                                      .host = d->host[0] ? d->host : address,
                                      .path = d->path,
                                      .rule = d->rule,
                                      .port = d->port,
                                      .audit_sequence = d->sequence,
                                      .take_details = details });
}

void events_gap(Api *api, const PrivAuditGap *gap)
{
        Json *details = NULL;

        if (json_new_object(&details) < 0)
                details = NULL;
        if (details && ((gap->n_rows > 0 && json_set_integer(details, "rows", (int64_t) gap->n_rows) < 0) ||
                        json_set_integer(details, "firstAtUSec", (int64_t) gap->first_usec) < 0 ||
                        json_set_integer(details, "lastAtUSec", (int64_t) gap->last_usec) < 0))
                details = json_unref(details);
        event_emit(api,
                   &(EventSpec){ .kind = "audit.gap", .reason = "write-failed", .take_details = details });
}

void events_draining(Api *api, bool is_draining)
{
        event_emit(api,
                   &(EventSpec){ .kind = "daemon.draining", .state = is_draining ? "draining" : "serving" });
}

void events_reloaded(Api *api)
{
        Json *details = NULL;

        if (json_new_object(&details) >= 0 &&
            json_set_integer(details, "generation", (int64_t) api->loaded.generation) < 0)
                details = json_unref(details);
        event_emit(api, &(EventSpec){ .kind = "policy.reloaded", .take_details = details });
}
