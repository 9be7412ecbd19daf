#pragma once

/*
 * Patterns of paths, name by name: '*' stands for any bytes of a name, '?' for one, the name "**" for any
 * number of names. A walk carries the set of places in the pattern that it may have come to.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/base/macro.h"

#define GLOB_NAMES_MAX 16U

typedef struct Glob {
        const char *names[GLOB_NAMES_MAX]; /* each up to the next slash, in the caller's text */
        unsigned n;
} Glob;

/* Of a path without a slash at its begin or end; text outlives *ret. -EINVAL: an empty name, ".", "..", or
 * "**" as a part of a name; -E2BIG: too many names. */
int glob_parse(const char *text, Glob *ret) _must_check_;

/* Where a walk stands before the first name, and after one more. 0: nothing below can match. */
uint32_t glob_begin(const Glob *g);
uint32_t glob_step(const Glob *g, uint32_t places, const char *name);
/* What was walked to there matches as a whole. */
bool glob_is_match(const Glob *g, uint32_t places);
