#pragma once

/*
 * Paths of HTTP requests, as rules compare them: every escape decoded once. What a server could read in two
 * ways has no such form, and whoever asks must then take the stricter answer.
 */

#include <stdbool.h>
#include <stddef.h>

#include "proto/base/macro.h"

#define URL_PATH_MAX    4096U /* a longer one is not compared */
#define URL_PATTERN_MAX 256U

/* Of one decision: how much comparing may cost, in steps of the automaton. */
#define URL_PATH_STEPS_MAX (256U * 1024U)

/* In compiled patterns; paths have no control characters. */
enum UrlPatternByte {
        URL_PATTERN_STAR = 1,     /* any bytes of one segment */
        URL_PATTERN_ALL = 2,      /* any bytes */
        URL_PATTERN_SEGMENTS = 3, /* any number of whole segments, each with the slash behind it */
};

/* A request's path as it was written; a query behind it is left out. ret has URL_PATH_MAX + 1 bytes.
 * -EINVAL: not clear: an escaped slash, backslash, percent sign or control, ';', an empty or dot segment,
 * bytes that are no UTF-8 … */
int url_path_canonical(const char *s, size_t size, char *ret) _must_check_;

/* A rule's pattern as a person writes it. ret has URL_PATTERN_MAX + 1 bytes. NULL, or what is wrong with it
 * (static). */
const char *url_pattern_compile(const char *s, char *ret);

/* Does the canonical path match the compiled pattern as a whole? -E2BIG: *steps are used up. */
int url_path_match(const char *pattern, const char *path, unsigned *steps) _must_check_;
