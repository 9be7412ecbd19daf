#pragma once

/* What a changed file may be good for outside, by its name. */

#include <stdbool.h>

#include "proto/idl/privsep.h"

/* Of a path below the workspace: REPORT_CHANGED where its name says nothing. */
PrivReportKind report_kind_of(const char *path);
/* Bytes in it that are not to be shown. */
bool report_is_odd(const char *path);
/* Below some .git. */
bool report_is_inside_git(const char *path);
/* A link at path, below workspace, that says target: as it reads, without looking. */
bool report_link_leaves(const char *workspace, const char *path, const char *target);
