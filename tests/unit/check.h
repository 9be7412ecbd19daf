#pragma once

/* cmocka with the includes that it needs and does not name, and what most tests need. */

/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ASSERT_OK(expr)       assert_int_equal((expr), 0)
#define ASSERT_ERROR(expr, e) assert_int_equal((expr), -(e))

/* Open descriptors of this process: the same before and after, or something leaks. */
static inline unsigned count_fds(void)
{
        unsigned n = 0;

        for (int fd = 0; fd < 1024; fd++)
                n += fcntl(fd, F_GETFD) >= 0;
        return n;
}
