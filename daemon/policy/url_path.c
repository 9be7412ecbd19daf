#include "daemon/policy/url_path.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "daemon/policy/compiled.h"
#include "proto/base/str.h"

static int hex_digit(char c)
{
        if (c >= '0' && c <= '9')
                return c - '0';
        if (c >= 'A' && c <= 'F')
                return c - 'A' + 10;
        return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte that %XX at s stands for; -EINVAL: it is no escape. */
static int unescape(const char *s, size_t size)
{
        int high, low;

        if (size < 3)
                return -EINVAL;
        high = hex_digit(s[1]);
        low = hex_digit(s[2]);
        return high < 0 || low < 0 ? -EINVAL : high << 4 | low;
}

/* Servers disagree about these: some decode twice, take '\' for '/', or cut a segment at ';'. */
static bool is_doubtful(unsigned char c)
{
        return c < 0x20 || c == 0x7f || c == '\\' || c == ';' || c == '%';
}

/* Neither "", "." nor ".."; begin and end are slashes, or the end of all. */
static bool segments_ok(const char *s, size_t n)
{
        for (size_t i = 1; i <= n; i++) {
                size_t begin = i;

                while (i < n && s[i] != '/')
                        i++;
                /* The last one may be empty: a slash at the end. */
                if (i == begin && i < n)
                        return false;
                if (i - begin <= 2 && i > begin && s[begin] == '.' && s[i - 1] == '.')
                        return false;
        }
        return true;
}

/* One byte of what is written, decoded. */
static int next_byte(const char *s, size_t size, size_t *ret_used)
{
        int c = (unsigned char) s[0];

        *ret_used = 1;
        if (c != '%')
                return is_doubtful((unsigned char) c) || c == '#' ? -EINVAL : c;
        c = unescape(s, size);
        *ret_used = 3;
        return c < 0 || c == '/' || is_doubtful((unsigned char) c) ? -EINVAL : c;
}

int url_path_canonical(const char *s, size_t size, char *ret)
{
        const char *query = memchr(s, '?', size);
        size_t n = 0, used;

        if (query)
                size = (size_t) (query - s);
        if (size == 0) {
                memcpy(ret, "/", 2);
                return 0;
        }
        if (s[0] != '/')
                return -EINVAL;
        for (size_t i = 0; i < size; i += used) {
                int c = next_byte(s + i, size - i, &used);

                if (c < 0 || n >= URL_PATH_MAX)
                        return -EINVAL;
                ret[n++] = (char) c;
        }
        ret[n] = '\0';
        return segments_ok(ret, n) && str_is_utf8(ret, n) ? 0 : -EINVAL;
}

/* ---- patterns ---- */

/* The token of the stars at s, which stands behind n bytes of the pattern; 0: too many stars. */
static char stars_at(const char *s, bool is_at_slash, size_t *ret_used)
{
        size_t n = strspn(s, "*");

        *ret_used = n;
        if (n == 1)
                return URL_PATTERN_STAR;
        if (n > 2)
                return 0;
        if (!is_at_slash || s[2] != '/')
                return URL_PATTERN_ALL;
        *ret_used = 3;
        return URL_PATTERN_SEGMENTS;
}

const char *url_pattern_compile(const char *s, char *ret)
{
        size_t size = strlen(s), n = 0, used;

        if (s[0] != '/')
                return "a path begins with \"/\"";
        if (strchr(s, '?'))
                return "queries are not compared; write the path alone";
        for (size_t i = 0; i < size; i += used) {
                int c;

                if (n >= URL_PATTERN_MAX)
                        return "a path has at most 256 bytes";
                if (s[i] == '*')
                        c = stars_at(s + i, i > 0 && s[i - 1] == '/', &used);
                else
                        c = next_byte(s + i, size - i, &used);
                if (c == 0)
                        return "stars stand alone (one segment) or in pairs (any number of them)";
                if (c < 0)
                        return "no request is taken for it: \\, ;, #, escapes of / or %, and control characters";
                ret[n++] = (char) c;
        }
        ret[n] = '\0';
        if (!segments_ok(ret, n) || strstr(s, "//"))
                return "no request is taken for it: it has a segment that is empty, \".\" or \"..\"";
        return str_is_utf8(ret, n) ? NULL : "a path is UTF-8, also where it is escaped";
}

/*
 * The automaton: a state is a place in the pattern. Behind URL_PATTERN_SEGMENTS there is a second state for
 * each place, in the midst of a segment, from which only a slash leads on. All states are walked at once, so
 * that no pattern makes one byte cost more than the pattern is long.
 */
#define STATES_MAX (2U * (URL_PATTERN_MAX + 1U))

typedef struct States {
        unsigned n;
        uint16_t at[STATES_MAX];
        bool has[STATES_MAX];
} States;

static void add_one(States *s, unsigned state)
{
        if (s->has[state])
                return;
        s->has[state] = true;
        s->at[s->n++] = (uint16_t) state;
}

/* With all that is reached without a byte. */
static void add(States *s, const char *pattern, unsigned place)
{
        for (;; place++) {
                add_one(s, place);
                if (pattern[place] == URL_PATTERN_SEGMENTS)
                        add_one(s, URL_PATTERN_MAX + 1U + place);
                else if (pattern[place] != URL_PATTERN_STAR && pattern[place] != URL_PATTERN_ALL)
                        return;
        }
}

static void clear(States *s)
{
        for (unsigned i = 0; i < s->n; i++)
                s->has[s->at[i]] = false;
        s->n = 0;
}

static void advance(States *to, const char *pattern, unsigned state, char c)
{
        if (state > URL_PATTERN_MAX) {
                add_one(to, state);
                if (c == '/')
                        add(to, pattern, state - URL_PATTERN_MAX);
                return;
        }
        switch (pattern[state]) {
        case URL_PATTERN_SEGMENTS:
                return;
        case URL_PATTERN_ALL:
                add(to, pattern, state);
                return;
        case URL_PATTERN_STAR:
                if (c != '/')
                        add(to, pattern, state);
                return;
        default:
                if (pattern[state] == c)
                        add(to, pattern, state + 1);
        }
}

int url_path_match(const char *pattern, const char *path, unsigned *steps)
{
        States sets[2] = { { .n = 0 } }, *now = &sets[0], *next = &sets[1];

        add(now, pattern, 0);
        for (; *path && now->n > 0; path++) {
                States *swap = now;

                if (*steps < now->n) {
                        *steps = 0;
                        return -E2BIG;
                }
                *steps -= now->n;
                for (unsigned i = 0; i < now->n; i++)
                        advance(next, pattern, now->at[i], *path);
                clear(now);
                now = next;
                next = swap;
        }
        return now->n > 0 && now->has[strlen(pattern)];
}

/* ---- writing ---- */

static bool is_unreserved(int c)
{
        return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
               (c > 0 && strchr("-._~", c));
}

size_t policy_path_rewrite(const char *s, size_t size, char *ret)
{
        const char *query = memchr(s, '?', size);
        size_t end = query ? (size_t) (query - s) : size, n = 0;
        char canonical[URL_PATH_MAX + 1];

        /* Of "%%36" the end alone would make an escape of what is none. */
        if (url_path_canonical(s, size, canonical) < 0)
                end = 0;
        for (size_t i = 0; i < end; i++) {
                int c = s[i] == '%' ? unescape(s + i, end - i) : -EINVAL;

                if (is_unreserved(c)) {
                        ret[n++] = (char) c;
                        i += 2;
                } else {
                        ret[n++] = s[i];
                }
        }
        memcpy(ret + n, s + end, size - end);
        return n + size - end;
}
