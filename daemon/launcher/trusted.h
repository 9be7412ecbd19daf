#pragma once

/* A file that says what root's daemon does: nobody but root may have had a hand in it or in the way to it.
 */

#include "proto/base/macro.h"

/* Opens directory/name for reading, one directory after the other from the root on; the caller owns *ret_fd.
 * The directory is absolute. -ENOENT: there is none. -EPERM (logged, with what is wrong): a symbolic link,
 * not a regular file, a second name, somebody else's, writable by others, or too large. Directories may be
 * writable by others where they are sticky: what lies in one is its owner's alone to replace. */
int trusted_open(const char *directory, const char *name, int *ret_fd) _must_check_;
