#pragma once

/* A file that says what root's daemon does: nobody but root may have had a hand in it or in the way to it.
 */

#include "proto/base/macro.h"

#define TRUSTED_FAULT_SIZE 256U

/* What was wrong, in words; "": see the error. */
typedef struct TrustedFault {
        char text[TRUSTED_FAULT_SIZE];
} TrustedFault;

/* One directory after the other from the root on; path is absolute, the caller owns *ret_fd. Directories may
 * be writable by others where they are sticky: what lies in one is its owner's alone to replace. Errors as
 * below. */
int trusted_open_directory(const char *path, int *ret_fd, TrustedFault *fault) _must_check_;

/* A file in such a directory. -EPERM (logged, with what is wrong, which fault also says): a symbolic link,
 * not a regular file, a second name, somebody else's, writable by others, or too large. */
int trusted_open_at(int directory_fd, const char *name, int *ret_fd, TrustedFault *fault) _must_check_;

/* Both. -ENOENT: there is none. */
int trusted_open(const char *directory, const char *name, int *ret_fd, TrustedFault *fault) _must_check_;
