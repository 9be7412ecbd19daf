#pragma once

/*
 * Errors are negative errno values, forwarded unchanged. neg_errno() is called on the line after the libc
 * call that failed, and never yields 0: a caller that tests `r < 0` cannot be fooled by an errno of 0.
 */

#include <errno.h>

static inline int neg_errno(void)
{
        int e = errno;

        return e > 0 ? -e : -EIO;
}

/* Short name such as "ENOENT"; "E?" where the number has none. Static storage. */
const char *error_name(int r);
