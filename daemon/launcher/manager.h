#pragma once

/*
 * What clients want of the daemon itself: its state, a drain, a reload, the log level. An api worker asks on
 * behalf of one of its connections; whether that one may is decided here, from what the kernel said about
 * it.
 */

#include "daemon/launcher/user.h"

/* From api: answers with MANAGER_ANSWER. < 0: api broke a rule. */
int manager_ask(User *u, const PrivManagerAsk *ask) _must_check_;

/* Later; what is behind it depends on the verb. */
void manager_answer(User *u, const PrivManagerAnswer *a, const void *tail, size_t n_tail);

/* A session is gone: whoever drains hears how many are left. */
void manager_session_ended(Launcher *l);

/* STATE/id: made with the state directory, the same ever after. */
int manager_load_state_id(Launcher *l, int state_fd) _must_check_;
