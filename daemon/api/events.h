#pragma once

/*
 * Notifications about one user's sessions. Each has a number that only grows, also over restarts: the time
 * in microseconds, or one more than the last where that is larger. The newest are kept in memory and in two
 * files that take turns, so that who was away can go on where it was; what is older is known to be lost.
 *
 * Making an event never calls anybody: subscribers are served after the turn.
 */

#include "daemon/api/session.h"

#define EVENTS_KEPT_MAX   1024U
#define EVENT_CURSOR_SIZE 64U
#define EVENT_KIND_SIZE   24U

typedef struct Event {
        uint64_t sequence;
        char kind[EVENT_KIND_SIZE];
        char session[ID_TEXT_SIZE]; /* "": none */
        char *text;                 /* JSON */
} Event;

/* What a new event has; NULL, 0: has not. */
typedef struct EventSpec {
        const char *kind;
        const char *session;
        uint32_t process;
        const char *state;
        const char *reason;
        const char *host;
        const char *path; /* any bytes */
        const char *rule;
        uint32_t port;
        uint64_t audit_sequence;
        Json *take_details;
} EventSpec;

/* directory: the worker's own state; events of earlier runs are read. Without it they live in memory only.
 */
int events_new(Api *api, const char *directory, Events **ret) _must_check_;
Events *events_free(Events *e);

/* One that cannot be made is logged, ignoring: what must be complete stands in the audit. */
void event_emit(Api *api, const EventSpec *spec);

/* The newest number, and the newest that is not kept any more. */
uint64_t events_last(const Events *e);
uint64_t events_lost_through(const Events *e);
/* The first kept event after this number, or NULL. */
const Event *events_after(const Events *e, uint64_t sequence);

/* ---- events_of.c: what happened ---- */

void events_session_created(const Session *s);
void events_session_state(const Session *s);
void events_session_ended(const Session *s);
void events_session_removed(const Session *s);
void events_session_warning(const Session *s, const char *code, const char *message);
void events_exec_started(const Process *p);
void events_exec_ended(const Process *p);
void events_denied(Api *api, const PrivDenied *d);
void events_gap(Api *api, const PrivAuditGap *gap);
void events_draining(Api *api, bool is_draining);
void events_reloaded(Api *api);
/* resource: a word of QuotaExceeded; limit -1: not for the user to know. At most one a second of each. */
void events_limit(Api *api, const char *resource, int64_t limit);

/* Once it is known which sessions live on: those of an earlier run that do not have ended. */
void events_reconcile(Api *api);

/* ---- event_methods.c: subscribers ---- */

/* {state}.{sequence} */
void event_cursor_format(const Api *api, uint64_t sequence, char text[EVENT_CURSOR_SIZE]);

/* The event leaves the memory: who has not had it misses it. */
void subscriptions_lose(Api *api, const Event *e);
void subscriptions_serve(Api *api);
/* The client's output has drained: go on. */
void subscription_resume(Client *c);
Subscription *subscription_free(Subscription *s);
