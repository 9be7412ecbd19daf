#include "proto/base/str.h"

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

int str_copy(char *to, size_t size, const char *from)
{
        size_t n = strlen(from);

        if (size == 0)
                return -ENOBUFS;
        if (n >= size) {
                to[0] = '\0';
                return -ENOBUFS;
        }
        memcpy(to, from, n + 1);
        return 0;
}

int str_printf(char *to, size_t size, const char *format, ...)
{
        va_list ap;
        int n;

        va_start(ap, format);
        n = vsnprintf(to, size, format, ap);
        va_end(ap);
        if (n < 0 || (size_t) n >= size) {
                if (size > 0)
                        to[0] = '\0';
                return -ENOBUFS;
        }
        return 0;
}

int str_aprintf(char **ret, const char *format, ...)
{
        va_list ap;
        char *s;
        int n;

        va_start(ap, format);
        n = vasprintf(&s, format, ap);
        va_end(ap);
        if (n < 0)
                return -ENOMEM;
        *ret = s;
        return 0;
}

int str_dup(const char *s, char **ret)
{
        char *copy = strdup(s);

        if (!copy)
                return -ENOMEM;
        *ret = copy;
        return 0;
}

/* Length of the well-formed UTF-8 sequence at p, 0 if there is none. The table is Unicode's 3-7. */
static size_t utf8_length(const unsigned char *p, size_t size, uint32_t *ret_code)
{
        uint32_t code;
        size_t n;

        if (p[0] < 0x80) {
                *ret_code = p[0];
                return 1;
        }
        if (p[0] >= 0xc2 && p[0] <= 0xdf)
                n = 2;
        else if ((p[0] & 0xf0) == 0xe0)
                n = 3;
        else if (p[0] >= 0xf0 && p[0] <= 0xf4)
                n = 4;
        else
                return 0;
        if (size < n)
                return 0;
        code = p[0] & (0x7fU >> n);
        for (size_t i = 1; i < n; i++) {
                if ((p[i] & 0xc0) != 0x80)
                        return 0;
                code = code << 6 | (p[i] & 0x3fU);
        }
        if ((n == 3 && code < 0x800) || (n == 4 && code < 0x10000) || code > 0x10ffff)
                return 0;
        if (code >= 0xd800 && code <= 0xdfff)
                return 0;
        *ret_code = code;
        return n;
}

bool str_is_utf8(const char *s, size_t size)
{
        const unsigned char *p = (const unsigned char *) s;
        uint32_t code;

        for (size_t i = 0; i < size;) {
                size_t n = utf8_length(p + i, size - i, &code);

                if (n == 0)
                        return false;
                i += n;
        }
        return true;
}

/* What could move the cursor or reorder what a person reads. */
static bool code_is_harmless(uint32_t c)
{
        if (c < 0x20 || c == 0x7f || c == '\\')
                return false;
        if (c >= 0x80 && c <= 0x9f)
                return false;
        if ((c >= 0x200b && c <= 0x200f) || (c >= 0x202a && c <= 0x202e) || (c >= 0x2060 && c <= 0x206f))
                return false;
        return c != 0xfeff && c != 0x2028 && c != 0x2029 && c != 0x061c;
}

int str_escape(const void *data, size_t size, char **ret)
{
        static const char hex[] = "0123456789abcdef";
        const unsigned char *p = data;
        char *to;
        size_t n = 0;

        if (size > (SIZE_MAX - 1) / 4)
                return -ENOMEM;
        to = malloc(size * 4 + 1);
        if (!to)
                return -ENOMEM;
        for (size_t i = 0; i < size;) {
                uint32_t code = 0;
                size_t m = utf8_length(p + i, size - i, &code);

                if (m > 0 && code_is_harmless(code)) {
                        memcpy(to + n, p + i, m);
                        n += m;
                        i += m;
                        continue;
                }
                for (m = m > 0 ? m : 1; m > 0; m--, i++) {
                        to[n++] = '\\';
                        to[n++] = 'x';
                        to[n++] = hex[p[i] >> 4];
                        to[n++] = hex[p[i] & 15];
                }
        }
        to[n] = '\0';
        *ret = to;
        return 0;
}

size_t str_harmless_json(const char *s, size_t size, uint32_t *ret_code)
{
        const unsigned char *p = (const unsigned char *) s;
        size_t i = 0;

        while (i < size) {
                size_t n = utf8_length(p + i, size - i, ret_code);

                if (n == 0)
                        *ret_code = 0;
                if (n == 0 || (*ret_code >= 0x7f && !code_is_harmless(*ret_code)))
                        break;
                i += n;
        }
        return i;
}

void str_hex(char *to, const void *data, size_t size)
{
        static const char hex[] = "0123456789abcdef";
        const unsigned char *p = data;

        for (size_t i = 0; i < size; i++) {
                to[2 * i] = hex[p[i] >> 4];
                to[2 * i + 1] = hex[p[i] & 15];
        }
        to[2 * size] = '\0';
}

int str_base64(const void *data, size_t size, char **ret)
{
        static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        const unsigned char *from = data;
        char *text, *to;

        to = text = malloc((size + 2) / 3 * 4 + 1);
        if (!text)
                return -ENOMEM;
        for (size_t i = 0; i < size; i += 3) {
                size_t n = MIN_OF(size - i, (size_t) 3);
                uint32_t bits = (uint32_t) from[i] << 16;

                if (n > 1)
                        bits |= (uint32_t) from[i + 1] << 8;
                if (n > 2)
                        bits |= from[i + 2];
                *to++ = digits[bits >> 18];
                *to++ = digits[bits >> 12 & 63];
                *to++ = n > 1 ? digits[bits >> 6 & 63] : '=';
                *to++ = n > 2 ? digits[bits & 63] : '=';
        }
        *to = '\0';
        *ret = text;
        return 0;
}
