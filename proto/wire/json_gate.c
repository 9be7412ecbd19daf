/*
 * The gate in front of the JSON library: RFC 8259 to the letter, and less than that where a daemon must not
 * be clever. It allocates nothing, does not recurse, and looks at each byte once.
 *
 * Two kinds of no: text that is not sound ends the connection, text that is sound but too much (depth,
 * values, strings, numbers that no int64 or double holds) is answered. To tell them apart the scan goes on
 * after the first excess; only a nesting beyond NEST_MAX, for which there is no room to remember the
 * brackets, is taken as unsound.
 */

#include <errno.h>
#include <math.h>
#include <string.h>

#include "proto/base/parse.h"
#include "proto/base/str.h"
#include "proto/wire/json.h"

#define NEST_MAX   2048U
#define NUMBER_MAX 120U

typedef struct Level {
        const char *key; /* raw, between the quotes; NULL in an array */
        size_t key_size;
        size_t index;
} Level;

typedef struct Scan {
        const char *p;
        const char *end;
        size_t string_max;
        size_t n_values;
        size_t depth;
        bool is_too_much;
        uint8_t objects[NEST_MAX / 8]; /* a bit a level: object or array */
        Level levels[JSON_DEPTH_MAX];
        JsonGate *result;
} Scan;

typedef enum Expect {
        EXPECT_VALUE,
        EXPECT_VALUE_OR_END, /* behind [ */
        EXPECT_KEY,
        EXPECT_KEY_OR_END, /* behind { */
        EXPECT_COMMA_OR_END,
        EXPECT_NOTHING,
} Expect;

static void skip_space(Scan *s)
{
        while (s->p < s->end && (*s->p == ' ' || *s->p == '\t' || *s->p == '\n' || *s->p == '\r'))
                s->p++;
}

static bool level_is_object(const Scan *s, size_t i)
{
        return s->objects[i / 8] & 1U << i % 8;
}

/* Remembers where the first excess is. */
static void too_much(Scan *s)
{
        char *to = s->result->place;
        size_t size = sizeof(s->result->place);

        if (s->is_too_much)
                return;
        s->is_too_much = true;
        for (size_t i = 0; i < MIN_OF(s->depth, (size_t) JSON_DEPTH_MAX); i++) {
                const Level *l = &s->levels[i];
                int r;

                /* The excess is in a key: the object is all that can be named. */
                if (!l->key && level_is_object(s, i))
                        return;
                if (l->key)
                        r = str_printf(to, size, "%s%.*s", i > 0 ? "." : "", (int) MIN_OF(l->key_size, size),
                                       l->key);
                else
                        r = str_printf(to, size, "[%zu]", l->index);
                if (r < 0)
                        return;
                size -= strlen(to);
                to += strlen(to);
        }
}

static bool is_object(const Scan *s)
{
        return level_is_object(s, s->depth - 1);
}

static int enter(Scan *s, bool object)
{
        size_t i = s->depth;
        uint8_t bit = (uint8_t) (1U << i % 8);

        if (i >= NEST_MAX)
                return -EBADMSG;
        if (i >= JSON_DEPTH_MAX)
                too_much(s);
        else
                s->levels[i] = (Level){ .key = NULL };
        s->objects[i / 8] = (uint8_t) (object ? s->objects[i / 8] | bit : s->objects[i / 8] & ~bit);
        s->depth++;
        return 0;
}

static int scan_hex4(Scan *s, unsigned *ret)
{
        char text[5] = { 0 };
        uint8_t bytes[2];

        if (s->end - s->p < 4)
                return -EBADMSG;
        memcpy(text, s->p, 4);
        if (parse_hex(text, bytes, sizeof(bytes)) < 0)
                return -EBADMSG;
        s->p += 4;
        *ret = (unsigned) bytes[0] << 8 | bytes[1];
        return 0;
}

/* Behind \u. A NUL would end the string early for whoever uses strlen(); a lone surrogate is no character.
 */
static int scan_unicode(Scan *s, size_t *ret_size)
{
        unsigned c, low;

        if (scan_hex4(s, &c) < 0 || c == 0 || (c >= 0xdc00 && c <= 0xdfff))
                return -EBADMSG;
        if (c < 0xd800 || c > 0xdbff) {
                *ret_size = c < 0x80 ? 1 : c < 0x800 ? 2 : 3;
                return 0;
        }
        if (s->end - s->p < 2 || s->p[0] != '\\' || s->p[1] != 'u')
                return -EBADMSG;
        s->p += 2;
        if (scan_hex4(s, &low) < 0 || low < 0xdc00 || low > 0xdfff)
                return -EBADMSG;
        *ret_size = 4;
        return 0;
}

/* Behind a backslash. */
static int scan_escape(Scan *s, size_t *ret_size)
{
        if (s->p >= s->end)
                return -EBADMSG;
        switch (*s->p++) {
        case '"':
        case '\\':
        case '/':
        case 'b':
        case 'f':
        case 'n':
        case 'r':
        case 't':
                *ret_size = 1;
                return 0;
        case 'u':
                return scan_unicode(s, ret_size);
        default:
                return -EBADMSG;
        }
}

/* A run of bytes that mean themselves. */
static int scan_run(Scan *s, size_t *ret_size)
{
        const char *begin = s->p;
        bool is_ascii = true;

        for (; s->p < s->end && *s->p != '"' && *s->p != '\\'; s->p++) {
                unsigned char c = (unsigned char) *s->p;

                if (c < 0x20)
                        return -EBADMSG;
                is_ascii = is_ascii && c < 0x80;
        }
        *ret_size = (size_t) (s->p - begin);
        if (!is_ascii && !str_is_utf8(begin, *ret_size))
                return -EBADMSG;
        return 0;
}

/* Behind the opening quote. */
static int scan_string(Scan *s)
{
        size_t size = 0, n;
        int r;

        for (;;) {
                r = scan_run(s, &n);
                if (r < 0)
                        return r;
                size += n;
                if (s->p >= s->end)
                        return -EBADMSG;
                if (*s->p++ == '"')
                        break;
                r = scan_escape(s, &n);
                if (r < 0)
                        return r;
                size += n;
        }
        if (size > s->string_max)
                too_much(s);
        return 0;
}

static size_t scan_digits(Scan *s)
{
        const char *begin = s->p;

        while (s->p < s->end && *s->p >= '0' && *s->p <= '9')
                s->p++;
        return (size_t) (s->p - begin);
}

static bool scan_byte(Scan *s, char c)
{
        if (s->p >= s->end || *s->p != c)
                return false;
        s->p++;
        return true;
}

/* The grammar of numbers: -?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)? */
static int scan_number_grammar(Scan *s, bool *ret_is_integer)
{
        *ret_is_integer = true;
        (void) scan_byte(s, '-');
        if (!scan_byte(s, '0') && scan_digits(s) == 0)
                return -EBADMSG;
        if (scan_byte(s, '.')) {
                *ret_is_integer = false;
                if (scan_digits(s) == 0)
                        return -EBADMSG;
        }
        if (scan_byte(s, 'e') || scan_byte(s, 'E')) {
                *ret_is_integer = false;
                if (!scan_byte(s, '+'))
                        (void) scan_byte(s, '-');
                if (scan_digits(s) == 0)
                        return -EBADMSG;
        }
        return 0;
}

static int scan_number(Scan *s)
{
        const char *begin = s->p;
        char text[NUMBER_MAX + 1];
        bool is_integer;
        int64_t v;
        size_t n;
        int r;

        r = scan_number_grammar(s, &is_integer);
        if (r < 0)
                return r;
        n = (size_t) (s->p - begin);
        if (n > NUMBER_MAX) {
                too_much(s);
                return 0;
        }
        memcpy(text, begin, n);
        text[n] = '\0';
        if (is_integer ? parse_i64(text, &v) < 0 : !isfinite(strtod(text, NULL)))
                too_much(s);
        return 0;
}

static int scan_word(Scan *s, const char *word)
{
        size_t n = strlen(word);

        if ((size_t) (s->end - s->p) < n || memcmp(s->p, word, n) != 0)
                return -EBADMSG;
        s->p += n;
        return 0;
}

static bool key_is(const Scan *s, const char *key)
{
        const Level *l = &s->levels[0];

        return s->depth == 1 && l->key && l->key_size == strlen(key) &&
               memcmp(l->key, key, l->key_size) == 0;
}

static int scan_value(Scan *s, Expect *ret_next)
{
        *ret_next = s->depth > 0 ? EXPECT_COMMA_OR_END : EXPECT_NOTHING;
        if (++s->n_values > JSON_VALUES_MAX)
                too_much(s);
        switch (*s->p) {
        case '{':
                s->p++;
                *ret_next = EXPECT_KEY_OR_END;
                return enter(s, /* object= */ true);
        case '[':
                s->p++;
                *ret_next = EXPECT_VALUE_OR_END;
                return enter(s, /* object= */ false);
        case '"':
                s->p++;
                return scan_string(s);
        case 't':
                if (key_is(s, "oneway"))
                        s->result->is_oneway = true;
                return scan_word(s, "true");
        case 'f':
                return scan_word(s, "false");
        case 'n':
                return scan_word(s, "null");
        default:
                return scan_number(s);
        }
}

static int scan_key(Scan *s)
{
        const char *begin = s->p + 1;
        int r;

        if (!scan_byte(s, '"'))
                return -EBADMSG;
        if (s->depth <= JSON_DEPTH_MAX)
                s->levels[s->depth - 1].key = NULL;
        r = scan_string(s);
        if (r < 0)
                return r;
        if (s->depth <= JSON_DEPTH_MAX)
                s->levels[s->depth - 1] = (Level){ .key = begin, .key_size = (size_t) (s->p - 1 - begin) };
        s->result->n_members++;
        skip_space(s);
        return scan_byte(s, ':') ? 0 : -EBADMSG;
}

static Expect leave(Scan *s)
{
        s->p++;
        s->depth--;
        return s->depth > 0 ? EXPECT_COMMA_OR_END : EXPECT_NOTHING;
}

static int scan_comma_or_end(Scan *s, Expect *ret_next)
{
        if (*s->p == (is_object(s) ? '}' : ']')) {
                *ret_next = leave(s);
                return 0;
        }
        if (*s->p != ',')
                return -EBADMSG;
        s->p++;
        if (!is_object(s) && s->depth <= JSON_DEPTH_MAX)
                s->levels[s->depth - 1].index++;
        *ret_next = is_object(s) ? EXPECT_KEY : EXPECT_VALUE;
        return 0;
}

/* One token and what may follow it. */
static int scan_step(Scan *s, Expect *expect)
{
        Expect now = *expect;
        int r;

        if ((now == EXPECT_VALUE_OR_END && *s->p == ']') || (now == EXPECT_KEY_OR_END && *s->p == '}')) {
                *expect = leave(s);
                return 0;
        }
        switch (now) {
        case EXPECT_VALUE:
        case EXPECT_VALUE_OR_END:
                return scan_value(s, expect);
        case EXPECT_KEY:
        case EXPECT_KEY_OR_END:
                r = scan_key(s);
                *expect = EXPECT_VALUE;
                return r;
        case EXPECT_COMMA_OR_END:
                return scan_comma_or_end(s, expect);
        case EXPECT_NOTHING:
        default:
                return -EBADMSG;
        }
}

JsonVerdict json_gate_examine(const char *text, size_t size, size_t string_max, JsonGate *ret)
{
        Scan s = { .p = text, .end = text + size, .string_max = string_max, .result = ret };
        Expect expect = EXPECT_VALUE;

        *ret = (JsonGate){ .n_members = 0 };
        skip_space(&s);
        if (s.p >= s.end || *s.p != '{')
                return JSON_UNSOUND;
        for (; s.p < s.end; skip_space(&s)) {
                if (scan_step(&s, &expect) < 0)
                        return JSON_UNSOUND;
        }
        if (expect != EXPECT_NOTHING)
                return JSON_UNSOUND;
        return s.is_too_much ? JSON_TOO_MUCH : JSON_OK;
}

JsonVerdict json_gate(const char *text, size_t size, size_t string_max, size_t *ret_members)
{
        JsonGate gate;
        JsonVerdict v = json_gate_examine(text, size, string_max, &gate);

        *ret_members = gate.n_members;
        return v;
}
