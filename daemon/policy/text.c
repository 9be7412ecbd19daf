#include "daemon/policy/text.h"

#include <errno.h>
#include <string.h>

#include "proto/base/parse.h"
#include "proto/base/str.h"

typedef struct Reader {
        const char *at;
        const char *end;
        unsigned line;
        unsigned column;
        size_t n_nodes;
        TextError *error;
} Reader;

static int fail(Reader *x, const char *message)
{
        *x->error = (TextError){ .line = x->line, .column = x->column, .message = message };
        return -EINVAL;
}

static char peek(const Reader *x)
{
        return x->at < x->end ? *x->at : '\0';
}

/* Columns count characters: continuation bytes of UTF-8 do not move on. */
static char step(Reader *x)
{
        char c = *x->at++;

        if (c == '\n') {
                x->line++;
                x->column = 1;
        } else if (((unsigned char) c & 0xc0) != 0x80) {
                x->column++;
        }
        return c;
}

static bool starts_with(const Reader *x, const char *s)
{
        size_t n = strlen(s);

        return (size_t) (x->end - x->at) >= n && memcmp(x->at, s, n) == 0;
}

static void step_many(Reader *x, size_t n)
{
        while (n-- > 0)
                (void) step(x);
}

static int skip_comment(Reader *x)
{
        Reader start = *x;

        if (starts_with(x, "//")) {
                while (x->at < x->end && *x->at != '\n')
                        (void) step(x);
                return 0;
        }
        step_many(x, 2);
        while (x->at < x->end && !starts_with(x, "*/"))
                (void) step(x);
        if (x->at == x->end)
                return fail(&start, "this comment does not end; close it with */");
        step_many(x, 2);
        return 0;
}

static int skip_space(Reader *x)
{
        int r;

        while (x->at < x->end) {
                if (strchr(" \t\r\n", *x->at) && *x->at != '\0') {
                        (void) step(x);
                } else if (starts_with(x, "//") || starts_with(x, "/*")) {
                        r = skip_comment(x);
                        if (r < 0)
                                return r;
                } else {
                        return 0;
                }
        }
        return 0;
}

static int new_node(Reader *x, TextType type, TextNode **ret)
{
        TextNode *n;

        if (x->n_nodes++ >= TEXT_NODES_MAX)
                return fail(x, "the text holds too many values");
        n = calloc(1, sizeof(*n));
        if (!n)
                return -ENOMEM;
        *n = (TextNode){ .type = type, .line = x->line, .column = x->column };
        *ret = n;
        return 0;
}

static TextNode *free_one(TextNode *n)
{
        TextNode *next = n->next;

        free(n->key);
        free(n->string);
        free(n);
        return next;
}

TextNode *text_free(TextNode *n)
{
        /* Depth is bounded by the reader. */
        while (n) {
                (void) text_free(n->first);
                n = free_one(n);
        }
        return NULL;
}

static void append(TextNode *parent, TextNode *child)
{
        child->parent = parent;
        child->index = parent->n++;
        if (parent->last)
                parent->last->next = child;
        else
                parent->first = child;
        parent->last = child;
}

static int read_hex4(Reader *x, uint32_t *ret)
{
        uint8_t bytes[2];
        char digits[5] = "";

        if (x->end - x->at < 4)
                return fail(x, "\\u needs four hexadecimal digits");
        memcpy(digits, x->at, 4);
        if (parse_hex(digits, bytes, sizeof(bytes)) < 0)
                return fail(x, "\\u needs four hexadecimal digits");
        step_many(x, 4);
        *ret = (uint32_t) bytes[0] << 8 | bytes[1];
        return 0;
}

static size_t put_utf8(uint32_t c, char *to)
{
        if (c < 0x80) {
                to[0] = (char) c;
                return 1;
        }
        if (c < 0x800) {
                to[0] = (char) (0xc0 | c >> 6);
                to[1] = (char) (0x80 | (c & 0x3f));
                return 2;
        }
        if (c < 0x10000) {
                to[0] = (char) (0xe0 | c >> 12);
                to[1] = (char) (0x80 | (c >> 6 & 0x3f));
                to[2] = (char) (0x80 | (c & 0x3f));
                return 3;
        }
        to[0] = (char) (0xf0 | c >> 18);
        to[1] = (char) (0x80 | (c >> 12 & 0x3f));
        to[2] = (char) (0x80 | (c >> 6 & 0x3f));
        to[3] = (char) (0x80 | (c & 0x3f));
        return 4;
}

static int read_unicode(Reader *x, char *to, size_t *n)
{
        uint32_t c = 0, low = 0;
        int r;

        r = read_hex4(x, &c);
        if (r < 0)
                return r;
        if (c == 0)
                return fail(x, "a string may not hold a NUL character");
        if (c >= 0xdc00 && c <= 0xdfff)
                return fail(x, "half a surrogate pair");
        if (c >= 0xd800 && c <= 0xdbff) {
                if (!starts_with(x, "\\u"))
                        return fail(x, "half a surrogate pair");
                step_many(x, 2);
                r = read_hex4(x, &low);
                if (r < 0)
                        return r;
                if (low < 0xdc00 || low > 0xdfff)
                        return fail(x, "half a surrogate pair");
                c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
        }
        *n += put_utf8(c, to);
        return 0;
}

static int read_escape(Reader *x, char *to, size_t *n)
{
        static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
        const char *p;

        if (x->at == x->end)
                return fail(x, "this string does not end");
        if (*x->at == 'u') {
                (void) step(x);
                return read_unicode(x, to, n);
        }
        p = *x->at ? strchr(names, *x->at) : NULL;
        if (!p)
                return fail(x, "no such escape; JSON knows \\\" \\\\ \\/ \\b \\f \\n \\r \\t \\uXXXX");
        (void) step(x);
        *to = values[p - names];
        *n += 1;
        return 0;
}

static int read_string(Reader *x, char **ret)
{
        char text[TEXT_STRING_MAX + 8];
        Reader start = *x;
        size_t n = 0;
        int r;

        (void) step(x);
        for (;;) {
                if (x->at == x->end)
                        return fail(&start, "this string does not end");
                if (*x->at == '"')
                        break;
                if ((unsigned char) *x->at < 0x20)
                        return fail(x,
                                    "a string may not hold control characters or line ends; write them as "
                                    "escapes");
                if (n >= TEXT_STRING_MAX)
                        return fail(&start, "this string is too long (at most 8192 bytes)");
                if (*x->at == '\\') {
                        (void) step(x);
                        r = read_escape(x, text + n, &n);
                        if (r < 0)
                                return r;
                } else {
                        text[n++] = step(x);
                }
        }
        (void) step(x);
        text[n] = '\0';
        return str_dup(text, ret);
}

static size_t scan_number(const Reader *x, bool *ret_is_integer)
{
        const char *p = x->at;
        size_t digits;

        *ret_is_integer = true;
        if (p < x->end && *p == '-')
                p++;
        for (digits = 0; p + digits < x->end && p[digits] >= '0' && p[digits] <= '9'; digits++)
                ;
        if (digits == 0 || (digits > 1 && *p == '0'))
                return 0;
        p += digits;
        while (p < x->end && *p && strchr("+-.eE0123456789", *p)) {
                *ret_is_integer = false;
                p++;
        }
        return (size_t) (p - x->at);
}

static int read_number(Reader *x, TextNode **ret)
{
        _cleanup_(text_freep) TextNode *n = NULL;
        char digits[32] = "";
        bool is_integer;
        size_t size = scan_number(x, &is_integer);
        int r;

        if (size == 0)
                return fail(x, "not a JSON number");
        r = new_node(x, TEXT_REAL, &n);
        if (r < 0)
                return r;
        if (is_integer && size < sizeof(digits)) {
                memcpy(digits, x->at, size);
                if (parse_i64(digits, &n->integer) >= 0)
                        n->type = TEXT_INTEGER;
        }
        step_many(x, size);
        *ret = TAKE_PTR(n);
        return 0;
}

static int read_word(Reader *x, TextNode **ret)
{
        static const struct {
                const char *word;
                TextType type;
                int64_t value;
        } words[] = { { "true", TEXT_BOOLEAN, 1 }, { "false", TEXT_BOOLEAN, 0 }, { "null", TEXT_NULL, 0 } };
        int r;

        for (size_t i = 0; i < ELEMENTSOF(words); i++) {
                if (!starts_with(x, words[i].word))
                        continue;
                r = new_node(x, words[i].type, ret);
                if (r < 0)
                        return r;
                (*ret)->integer = words[i].value;
                step_many(x, strlen(words[i].word));
                return 0;
        }
        return fail(x, "expected a value: an object, an array, a string in double quotes, a number, true, "
                       "false or null");
}

static int read_value(Reader *x, unsigned depth, TextNode **ret);

static int read_key(Reader *x, const TextNode *object, char **ret)
{
        _cleanup_free_ char *key = NULL;
        Reader start = *x;
        int r;

        if (peek(x) != '"')
                return fail(x, "expected a key in double quotes");
        r = read_string(x, &key);
        if (r < 0)
                return r;
        if (object->n >= TEXT_KEYS_MAX)
                return fail(&start, "this object has too many keys");
        for (const TextNode *n = object->first; n; n = n->next)
                if (str_equal(n->key, key))
                        return fail(&start, "this key stands here twice; remove one");
        r = skip_space(x);
        if (r < 0)
                return r;
        if (peek(x) != ':')
                return fail(x, "expected ':' after the key");
        (void) step(x);
        *ret = TAKE_PTR(key);
        return skip_space(x);
}

static int read_element(Reader *x, TextNode *parent, unsigned depth)
{
        _cleanup_(text_freep) TextNode *child = NULL;
        _cleanup_free_ char *key = NULL;
        int r;

        if (parent->type == TEXT_OBJECT) {
                r = read_key(x, parent, &key);
                if (r < 0)
                        return r;
        }
        r = read_value(x, depth, &child);
        if (r < 0)
                return r;
        child->key = TAKE_PTR(key);
        append(parent, TAKE_PTR(child));
        return skip_space(x);
}

static int read_elements(Reader *x, TextNode *parent, char close, unsigned depth)
{
        int r;

        (void) step(x);
        r = skip_space(x);
        if (r < 0)
                return r;
        if (peek(x) == close) {
                (void) step(x);
                return 0;
        }
        for (;;) {
                r = read_element(x, parent, depth);
                if (r < 0)
                        return r;
                if (peek(x) == close)
                        break;
                if (peek(x) != ',')
                        return fail(x, close == ']' ? "expected ',' or ']'" : "expected ',' or '}'");
                (void) step(x);
                r = skip_space(x);
                if (r < 0)
                        return r;
                if (peek(x) == close)
                        return fail(x, "a comma before the closing bracket; remove it");
        }
        (void) step(x);
        return 0;
}

static int read_value(Reader *x, unsigned depth, TextNode **ret)
{
        _cleanup_(text_freep) TextNode *n = NULL;
        char c = peek(x);
        int r;

        if (c == '-' || (c >= '0' && c <= '9'))
                return read_number(x, ret);
        if (c != '{' && c != '[' && c != '"')
                return read_word(x, ret);
        if (depth >= TEXT_DEPTH_MAX)
                return fail(x, "nested too deeply");
        r = new_node(x, c == '{' ? TEXT_OBJECT : c == '[' ? TEXT_ARRAY : TEXT_STRING, &n);
        if (r < 0)
                return r;
        if (c == '"')
                r = read_string(x, &n->string);
        else
                r = read_elements(x, n, c == '{' ? '}' : ']', depth + 1);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(n);
        return 0;
}

/* Up to the first byte that is not UTF-8, so that the error says where it stands. */
static int check_encoding(const char *text, size_t size, TextError *error)
{
        Reader x = { .at = text, .end = text + size, .line = 1, .column = 1, .error = error };

        if (str_is_utf8(text, size))
                return 0;
        while (x.at < x.end) {
                unsigned char c = (unsigned char) *x.at;
                size_t n = c < 0x80 ? 1 : c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;

                if (n > (size_t) (x.end - x.at) || !str_is_utf8(x.at, n))
                        break;
                step_many(&x, n);
        }
        return fail(&x, "not UTF-8");
}

int text_parse(const char *text, size_t size, TextNode **ret, TextError *ret_error)
{
        _cleanup_(text_freep) TextNode *n = NULL;
        Reader x = { .at = text, .end = text + size, .line = 1, .column = 1, .error = ret_error };
        int r;

        *ret_error = (TextError){ 0 };
        if (size > TEXT_SIZE_MAX)
                return fail(&x, "the text is larger than 32 MiB");
        r = check_encoding(text, size, ret_error);
        if (r < 0)
                return r;
        r = skip_space(&x);
        if (r < 0)
                return r;
        if (peek(&x) != '{')
                return fail(&x, "expected an object: the text begins with '{'");
        r = read_value(&x, 0, &n);
        if (r < 0)
                return r;
        r = skip_space(&x);
        if (r < 0)
                return r;
        if (x.at != x.end)
                return fail(&x, "something follows the closing '}'");
        *ret = TAKE_PTR(n);
        return 0;
}

static const char *const type_names[] = {
        [TEXT_NULL] = "null",        [TEXT_BOOLEAN] = "true or false", [TEXT_INTEGER] = "an integer",
        [TEXT_REAL] = "a number",    [TEXT_STRING] = "a string",       [TEXT_ARRAY] = "a list",
        [TEXT_OBJECT] = "an object",
};
ASSERT_TABLE(type_names, _TEXT_TYPE_MAX);

const char *text_type_to_string(TextType t)
{
        return type_names[t];
}

void text_path(const TextNode *n, char *ret, size_t size)
{
        size_t used;
        int r;

        ret[0] = '\0';
        if (!n || !n->parent)
                return;
        text_path(n->parent, ret, size);
        used = strlen(ret);
        if (n->key)
                r = str_printf(ret + used, size - used, "%s%s", used > 0 ? "." : "", n->key);
        else
                r = str_printf(ret + used, size - used, "[%zu]", n->index);
        if (r < 0)
                ret[used] = '\0';
}
