#pragma once

#include <stddef.h>

/* Help text of a verb, or NULL for an unknown one. */
const char *help_of(const char *verb);
/* All of them, in order; NULL behind the last one. */
const char *help_at(size_t i);
extern const char help_overview[];
