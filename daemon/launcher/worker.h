#pragma once

/*
 * A process of ours: spawned with fixed rights, confined by itself, spoken to over one channel. A broken
 * rule or a closed channel gets it killed by its pidfd.
 */

#include "daemon/launcher/launcher.h"

typedef struct WorkerEvents {
        void (*on_ready)(void *owner, Worker *w, const Imsg *m);
        int (*on_message)(void *owner, Worker *w, Imsg *m); /* < 0: it broke a rule */
        void (*on_gone)(void *owner, Worker *w);            /* dead and reaped; w is freed afterwards */
} WorkerEvents;

typedef enum WorkerKind {
        WORKER_AUDIT = 0,
        WORKER_DIALER,
        WORKER_EGRESS,
        WORKER_API,
        WORKER_WATCH,
        _WORKER_KIND_MAX,
} WorkerKind;

/* Fields that name the worker's arguments; unused ones are ignored. */
int worker_new(Launcher *l, WorkerKind kind, uint32_t uid, const WorkerEvents *events, void *owner,
               Worker **ret) _must_check_;
void worker_set_owner(Worker *w, const WorkerEvents *events, void *owner);

/* Confined, proven, and neither dying nor told to. */
bool worker_is_ready(const Worker *w);

/* An error ends the worker after this turn: callers need not look. */
void worker_send(Worker *w, PrivMessage type, const void *body, size_t size, const int *fds, size_t n_fds);

/* Nothing that it says is read for so long. */
void worker_pause(Worker *w, uint64_t usec);

/* Killed, reaped in the background; no event comes any more and the pointer is no longer the caller's. */
void worker_retire(Worker *w);

/* Its channel closes, so that it ends by itself, and it is killed if it does not; otherwise like
 * worker_retire(). */
void worker_release(Worker *w);

/* What they log from now on; those of users hear it with their state. */
void workers_set_log_level(Launcher *l);

/* Only closes the channel, so that the worker ends by itself; on_gone follows. */
void worker_close(Worker *w);

/* Killed; on_gone follows. */
void worker_kill(Worker *w);

/* What audit goes by: in its arguments when it starts, in a message later. */
PrivAuditSettings worker_audit_settings(const PrivSettings *s);

/* When the loop has ended: kills and reaps those that are left; no event comes and all pointers are gone. */
void workers_end(Launcher *l);
