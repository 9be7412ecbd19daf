#pragma once

/* In sanitized builds only: what AddressSanitizer needs of a confined worker. A release build has no such
 * file (daemon/isolate/meson.build), and a test looks for its names in the programs. */

#include <stddef.h>

/* System calls that every worker's filter allows beside the worker's own. */
extern const int sanitizer_syscalls[];
extern const size_t sanitizer_n_syscalls;

/* Reads what a report needs of /proc while there is one, and turns the search for leaks at the end off: it
 * takes a second process that traces this one. */
void sanitizer_prepare(void);
