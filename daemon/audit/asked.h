#pragma once

/* Names that a session was let ask for, as the log has them: what is gone of its budget (name_budget.h), for
 * an audit worker that comes after another. */

#include "daemon/audit/segment.h"
#include "daemon/audit/store.h"

typedef struct AskedSpec {
        const char *directory;
        Chain *chain;
        const Segment *newest;
        const char *session;
        uint64_t since_usec;
} AskedSpec;

/* As store_list_asked(). */
int asked_list(const AskedSpec *spec, StoreAskedCallback callback, void *userdata) _must_check_;
