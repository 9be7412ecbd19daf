#pragma once

#include "daemon/audit/queue.h"

/* A row has been queued. */
void gather_note(Audit *a, const Pending *p);
/* Is what is queued worth a commit now? Else a timer makes another turn. Once for each turn. */
bool gather_is_done(Audit *a);
/* Nobody is waited for: the next turn commits. */
void gather_no_more(Audit *a);
/* A commit has taken its rows, so many of them decisions. */
void gather_begin(Audit *a, size_t n_decisions);
