#pragma once

/*
 * What a run that ended without order left open: connections without a close row and sessions without an
 * end. The newest two segments are looked at; a session that lives is entered again when a segment begins.
 */

#include "daemon/audit/segment.h"
#include "daemon/audit/store.h"

/* before: NULL where there is none. */
int leftover_list(Segment *newest, Segment *before, StoreLeftoverCallback callback,
                  void *userdata) _must_check_;
