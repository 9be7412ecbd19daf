#pragma once

/*
 * Rows are a quota per user: so many a second, and a share of the log in a day. Who is beyond it is refused,
 * so that nobody fills the disk or makes others' rows the oldest. Root has none; requests of what runs in
 * root's sessions have the share of a user.
 */

#include "daemon/audit/audit.h"
#include "proto/base/bucket.h"

/* retention_bytes: of the whole log; 0: nothing is ever removed, and there are no shares. */
int quotas_new(Audit *a, const QuotaSpec *spec, uint64_t retention_bytes, Quotas **ret) _must_check_;
Quotas *quotas_free(Quotas *q);
/* Other rates from now on; what was used stays used. */
void quotas_set(Quotas *q, const QuotaSpec *spec, uint64_t retention_bytes);

/* A row of about so many bytes besides its fixed part that may be refused: false, it is, and was counted. */
bool quota_take(Audit *a, uint32_t uid, size_t size);

/* One that may not, because it is about what has happened. */
void quota_charge(Audit *a, uint32_t uid, size_t size);

/* The same for a request of a session, and for the close of one that was allowed. */
bool quota_take_request(Audit *a, const Session *s, size_t size);
void quota_charge_close(Audit *a, const Session *s);
