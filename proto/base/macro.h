#pragma once

/* Things that the language lacks: cleanup attributes, ownership transfer, compile-time checks. */

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define _cleanup_(f)        __attribute__((cleanup(f)))
#define _must_check_        __attribute__((warn_unused_result))
#define _printf_(fmt, args) __attribute__((format(printf, fmt, args)))
#define _noreturn_          __attribute__((noreturn))
#define _public_            __attribute__((visibility("default")))
#define _unused_            __attribute__((unused))
/* Large, and written before it is read: not set to zero as all other variables are. */
#if __has_attribute(uninitialized)
#define _left_as_is_ __attribute__((uninitialized))
#else
#define _left_as_is_
#endif
#define _packed_ __attribute__((packed))

#define ELEMENTSOF(a)                   (sizeof(a) / sizeof((a)[0]))
#define MAX_OF(a, b)                    ((a) > (b) ? (a) : (b))
#define MIN_OF(a, b)                    ((a) < (b) ? (a) : (b))
#define container_of(ptr, type, member) ((type *) (void *) ((char *) (ptr) -offsetof(type, member)))

/* A table of names that must grow with its enum: fails to compile when it did not. */
#define ASSERT_TABLE(table, max) \
        _Static_assert(ELEMENTSOF(table) == (size_t) (max), #table " does not cover its enum")

/* Hands the value on and forgets it, so that the cleanup attribute leaves it alone. */
#define TAKE_PTR(p)                        \
        __extension__({                    \
                __typeof__(p) *_pp = &(p); \
                __typeof__(p) _v = *_pp;   \
                *_pp = NULL;               \
                _v;                        \
        })
#define TAKE_FD(fd)               \
        __extension__({           \
                int *_fp = &(fd); \
                int _v = *_fp;    \
                *_fp = -EBADF;    \
                _v;               \
        })

#define DEFINE_CLEANUP(type, func)           \
        static inline void func##p(type *_p) \
        {                                    \
                if (*_p)                     \
                        *_p = func(*_p);     \
        }

/* Our own invariants; never for input. Built in always: NDEBUG does not switch it off. */
#define sb_assert(expr)                                              \
        do {                                                         \
                if (__builtin_expect(!(expr), 0))                    \
                        sb_assert_failed(#expr, __FILE__, __LINE__); \
        } while (0)

_noreturn_ void sb_assert_failed(const char *expr, const char *file, int line);

static inline void freep(void *p)
{
        free(*(void **) p);
        *(void **) p = NULL;
}

#define _cleanup_free_ _cleanup_(freep)
