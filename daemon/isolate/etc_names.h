#pragma once

/* Which names a session's /etc has: one table for the copy and for the question whether a path can be read.
 */

#include <stdbool.h>

/* Whole trees or single files below /etc, with NULL at the end. What not everybody may read is not copied.
 */
extern const char *const etc_copied[];

/* Made by init for each session: names and where they lead; both NULL at the end. */
extern const char *const etc_links[][2];

/* Names that carry a version. */
bool etc_has_copied_prefix(const char *name);

/* Whether a path below /etc ("ssl/certs/x") is, lies in, or leads to what a session's /etc has. */
bool etc_shows(const char *path);
