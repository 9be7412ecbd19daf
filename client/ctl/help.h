#pragma once

/* Help text of a verb, or NULL for an unknown one. */
const char *help_of(const char *verb);
extern const char help_overview[];
