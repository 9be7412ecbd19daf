#include "proto/base/parse.h"

#include <errno.h>
#include <string.h>

#include "proto/base/clock.h"
#include "proto/base/str.h"

/* Digits from s; *ret_end is the first other byte. */
static int parse_digits(const char *s, uint64_t *ret, const char **ret_end)
{
        const char *p = s;
        uint64_t v = 0;

        for (; *p >= '0' && *p <= '9'; p++) {
                if (__builtin_mul_overflow(v, UINT64_C(10), &v) ||
                    __builtin_add_overflow(v, (uint64_t) (*p - '0'), &v))
                        return -ERANGE;
        }
        if (p == s)
                return -EINVAL;
        *ret = v;
        *ret_end = p;
        return 0;
}

int parse_u64(const char *s, uint64_t *ret)
{
        const char *end;
        uint64_t v;
        int r = parse_digits(s, &v, &end);

        if (r < 0)
                return r;
        if (*end)
                return -EINVAL;
        *ret = v;
        return 0;
}

int parse_i64(const char *s, int64_t *ret)
{
        uint64_t v;
        int r = parse_u64(s + (*s == '-'), &v);

        if (r < 0)
                return r;
        if (*s == '-') {
                if (v > (uint64_t) INT64_MAX + 1)
                        return -ERANGE;
                *ret = (int64_t) (0 - v);
                return 0;
        }
        if (v > INT64_MAX)
                return -ERANGE;
        *ret = (int64_t) v;
        return 0;
}

int parse_u32(const char *s, uint32_t *ret)
{
        uint64_t v;
        int r = parse_u64(s, &v);

        if (r < 0)
                return r;
        if (v > UINT32_MAX)
                return -ERANGE;
        *ret = (uint32_t) v;
        return 0;
}

int parse_port(const char *s, uint16_t *ret)
{
        uint64_t v;
        int r = parse_u64(s, &v);

        if (r < 0)
                return r;
        if (v < 1 || v > UINT16_MAX)
                return -ERANGE;
        *ret = (uint16_t) v;
        return 0;
}

typedef struct Unit {
        const char *name;
        uint64_t factor;
} Unit;

static int parse_with_unit(const char *s, const Unit *units, size_t n_units, uint64_t *ret)
{
        const char *end;
        uint64_t v;
        int r = parse_digits(s, &v, &end);

        if (r < 0)
                return r;
        for (size_t i = 0; i < n_units; i++) {
                if (!str_equal(end, units[i].name))
                        continue;
                if (__builtin_mul_overflow(v, units[i].factor, ret))
                        return -ERANGE;
                return 0;
        }
        return -EINVAL;
}

int parse_size(const char *s, uint64_t *ret_bytes)
{
        static const Unit units[] = {
                { "", 1 },
                { "K", UINT64_C(1) << 10 },
                { "M", UINT64_C(1) << 20 },
                { "G", UINT64_C(1) << 30 },
                { "T", UINT64_C(1) << 40 },
        };

        return parse_with_unit(s, units, ELEMENTSOF(units), ret_bytes);
}

int parse_duration(const char *s, uint64_t *ret_usec)
{
        static const Unit units[] = {
                { "us", 1 },
                { "ms", USEC_PER_MSEC },
                { "s", USEC_PER_SEC },
                { "", USEC_PER_SEC },
                { "m", 60 * USEC_PER_SEC },
                { "h", 3600 * USEC_PER_SEC },
                { "d", 86400 * USEC_PER_SEC },
        };

        return parse_with_unit(s, units, ELEMENTSOF(units), ret_usec);
}

static int hex_value(char c)
{
        if (c >= '0' && c <= '9')
                return c - '0';
        if (c >= 'a' && c <= 'f')
                return c - 'a' + 10;
        if (c >= 'A' && c <= 'F')
                return c - 'A' + 10;
        return -EINVAL;
}

int parse_hex(const char *s, void *ret_data, size_t size)
{
        uint8_t *p = ret_data;

        if (strlen(s) != 2 * size)
                return -EINVAL;
        for (size_t i = 0; i < size; i++) {
                int high = hex_value(s[2 * i]), low = hex_value(s[2 * i + 1]);

                if (high < 0 || low < 0)
                        return -EINVAL;
                p[i] = (uint8_t) (high << 4 | low);
        }
        return 0;
}
