#pragma once

/* Strings with sizes. Nothing here truncates silently. */

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "proto/base/macro.h"

static inline bool str_equal(const char *a, const char *b)
{
        return strcmp(a, b) == 0;
}

static inline bool str_has_prefix(const char *s, const char *prefix)
{
        return strncmp(s, prefix, strlen(prefix)) == 0;
}

static inline bool str_has_suffix(const char *s, const char *suffix)
{
        size_t n = strlen(s), m = strlen(suffix);

        return n >= m && strcmp(s + n - m, suffix) == 0;
}

/* Copies with the NUL; -ENOBUFS (and an empty string) if it does not fit. */
int str_copy(char *to, size_t size, const char *from) _must_check_;

/* snprintf that fails with -ENOBUFS (and an empty string) instead of truncating. */
int str_printf(char *to, size_t size, const char *format, ...) _must_check_ _printf_(3, 4);

/* malloc'ed: asprintf with -ENOMEM instead of -1. */
int str_aprintf(char **ret, const char *format, ...) _must_check_ _printf_(2, 3);

/* strdup that fails with -ENOMEM. */
int str_dup(const char *s, char **ret) _must_check_;

/* Bytes as people and JSON may see them: printable UTF-8 stays; control characters, C1, bidirectional
 * controls, invalid UTF-8 and backslashes become \xHH byte by byte. The caller frees *ret. */
int str_escape(const void *data, size_t size, char **ret) _must_check_;

/* How many bytes of a text that is JSON come before the first character (*ret_code) that stands in it as it
 * is and is none for people: DEL, C1, bidirectional controls. All of them are below U+10000. 0: it is no
 * UTF-8. */
size_t str_harmless_json(const char *s, size_t size, uint32_t *ret_code);

/* Well-formed UTF-8 after Unicode table 3-7 (no overlong forms, no surrogates). */
bool str_is_utf8(const char *s, size_t size);

/* Lower-case hex of data into to, which has room for 2 * size + 1 bytes. */
void str_hex(char *to, const void *data, size_t size);

/* RFC 4648, with padding. The caller frees *ret. */
int str_base64(const void *data, size_t size, char **ret) _must_check_;
