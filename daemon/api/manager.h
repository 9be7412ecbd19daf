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
int on_api_settings(Api *api, const Imsg *m) _must_check_;

/* With the client. */
ManagerWait *manager_wait_free(ManagerWait *w);

/* reload.c: what the launcher said of a reload, copied and checked: -EPROTO; as the reply; as the parameters
 * of InvalidPolicy. */
int reload_take(const void *data, PrivReload **ret) _must_check_;
int reload_format(const PrivReload *r, Json **ret) _must_check_;
int reload_format_invalid(const PrivReload *r, Json **ret) _must_check_;

/* diagnosis.c: {healthy, checks} of what is known; state NULL: audit did not answer. */
int diagnosis_format(const PrivManagerAnswer *answer, const PrivAuditState *state, Json **ret) _must_check_;
