#pragma once

/*
 * Calls about the daemon itself. They wait for the launcher, some for the audit writer too: what is known
 * when both have answered, or when the time is up, is what the client gets.
 */

#include "daemon/api/api.h"

/* Answers of the launcher and of audit, and what the launcher tells unasked. */
int on_manager_answer(Api *api, Imsg *m) _must_check_;
int on_audit_state(Api *api, const PrivAuditState *state) _must_check_;
int on_api_state(Api *api, const PrivApiState *state) _must_check_;
int on_api_settings(Api *api, const PrivSettings *settings) _must_check_;

/* With the client. */
ManagerWait *manager_wait_free(ManagerWait *w);

/* diagnosis.c: {healthy, checks} of what is known; state NULL: audit did not answer. */
int diagnosis_format(const PrivManagerAnswer *answer, const PrivAuditState *state, Json **ret) _must_check_;
