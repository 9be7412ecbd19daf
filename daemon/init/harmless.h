#pragma once

/*
 * Settings of a repository that change nothing for whoever runs git there: none of them names a program, a
 * file to be read, a place to work in, or a repository whose hooks would run. Everything else is refused,
 * also what git would take: quotes, escapes, comments behind values.
 */

#include "daemon/init/plan.h"
#include "proto/base/macro.h"

#define HARMLESS_SIZE_MAX 16384U

/* -EPERM: something else is in it. plan: where the workspace is, and what is protected in it. module: the
 * whole path of a submodule's settings; NULL: they are a repository's own. */
int harmless_config(const char *text, size_t size, const Plan *plan, const char *module) _must_check_;
/* The same for a list of submodules (.gitmodules). */
int harmless_modules(const char *text, size_t size, const Plan *plan) _must_check_;
