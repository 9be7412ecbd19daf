/* The gate and the tree behind it. The vectors are what json-c alone accepts and a daemon must not. */

#include <stdio.h>

#include "proto/base/str.h"
#include "proto/wire/json.h"
#include "tests/unit/check.h"

#define TEXT(s)                  \
        {                        \
                s, sizeof(s) - 1 \
        }

typedef struct Text {
        const char *text;
        size_t size;
} Text;

static JsonVerdict gate(const char *text, size_t size)
{
        size_t n;

        return json_gate(text, size, JSON_STRING_MAX, &n);
}

static void accepts_sound_text(void **state _unused_)
{
        static const Text good[] = {
                TEXT("{}"),
                TEXT(" \t\r\n{ } \n"),
                TEXT("{\"a\":null,\"b\":true,\"c\":false}"),
                TEXT("{\"a\":[],\"b\":{},\"c\":[[],[{}]]}"),
                TEXT("{\"\":\"\"}"),
                TEXT("{\"a\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\ud83d\\ude00\"}"),
                TEXT("{\"a\":\"\xc3\xa9\xf0\x9f\x98\x80\x7f\"}"),
                TEXT("{\"a\":0,\"b\":-0,\"c\":-1,\"d\":9223372036854775807,\"e\":-9223372036854775808}"),
                TEXT("{\"a\":0.5,\"b\":1e5,\"c\":-1.25E-3,\"d\":1e+2,\"e\":1e-400}"),
                TEXT("{\"a\" : [ 1 , 2 ] , \"b\" : \"x\" }"),
        };

        for (size_t i = 0; i < ELEMENTSOF(good); i++) {
                Json *j;

                assert_int_equal(gate(good[i].text, good[i].size), JSON_OK);
                ASSERT_OK(json_parse(good[i].text, good[i].size, JSON_STRING_MAX, &j));
                assert_int_equal(json_type(j), JSON_OBJECT);
                j = json_unref(j);
        }
}

static const Text unsound[] = {
        TEXT(""),
        TEXT(" "),
        TEXT("null"),
        TEXT("[1]"),
        TEXT("1"),
        TEXT("\"a\""),
        TEXT("\xef\xbb\xbf{}"),
        TEXT("{"),
        TEXT("}"),
        TEXT("{}}"),
        TEXT("{} x"),
        TEXT("{}{}"),
        TEXT("{}\0"),
        TEXT("{\"a\":1}\0junk"),
        TEXT("{'a':1}"),
        TEXT("{a:1}"),
        TEXT("{\"a\":'b'}"),
        TEXT("{\"a\"}"),
        TEXT("{\"a\":}"),
        TEXT("{\"a\" 1}"),
        TEXT("{\"a\":1,}"),
        TEXT("{,\"a\":1}"),
        TEXT("{\"a\":[1,]}"),
        TEXT("{\"a\":[,1]}"),
        TEXT("{\"a\":[1 2]}"),
        TEXT("{\"a\":[1}"),
        TEXT("{\"a\":{]}"),
        TEXT("{\"a\":1]"),
        TEXT("{1:1}"),
        TEXT("{\"a\":NaN}"),
        TEXT("{\"a\":Infinity}"),
        TEXT("{\"a\":-Infinity}"),
        TEXT("{\"a\":1.}"),
        TEXT("{\"a\":.5}"),
        TEXT("{\"a\":01}"),
        TEXT("{\"a\":-}"),
        TEXT("{\"a\":+1}"),
        TEXT("{\"a\":1e}"),
        TEXT("{\"a\":1e+}"),
        TEXT("{\"a\":0x1}"),
        TEXT("{\"a\":1_000}"),
        TEXT("{\"a\":True}"),
        TEXT("{\"a\":truex}"),
        TEXT("{\"a\":tru}"),
        TEXT("{\"a\":nul"),
        TEXT("{\"a\":\"\n\"}"),
        TEXT("{\"a\":\"\t\"}"),
        TEXT("{\"a\":\"\0\"}"),
        TEXT("{\"a\":\"\x1f\"}"),
        TEXT("{\"a\":\"\\x41\"}"),
        TEXT("{\"a\":\"\\u00g0\"}"),
        TEXT("{\"a\":\"\\u12\"}"),
        TEXT("{\"a\":\"\\u0000\"}"),
        TEXT("{\"a\\u0000b\":1}"),
        TEXT("{\"a\":\"\\ud800\"}"),
        TEXT("{\"a\":\"\\udc00\"}"),
        TEXT("{\"a\":\"\\ud800x\"}"),
        TEXT("{\"a\":\"\\ud800\\ud800\"}"),
        TEXT("{\"a\":\"\\ud800\\n\"}"),
        TEXT("{\"a\":\"\xc0\x80\"}"),
        TEXT("{\"a\":\"\xe0\x80\x80\"}"),
        TEXT("{\"a\":\"\xed\xa0\x80\"}"),
        TEXT("{\"a\":\"\xf5\x80\x80\x80\"}"),
        TEXT("{\"a\":\"\xff\"}"),
        TEXT("{\"\xff\":1}"),
        TEXT("{\"a\":\"x"),
        TEXT("{\"a\":\"\\"),
        TEXT("{\"a\":1 /* c */}"),
        TEXT("{\"a\":1} // c"),
};

static void refuses_unsound_text(void **state _unused_)
{
        for (size_t i = 0; i < ELEMENTSOF(unsound); i++) {
                Json *j;

                if (gate(unsound[i].text, unsound[i].size) != JSON_UNSOUND)
                        fail_msg("accepted: %s", unsound[i].text);
                ASSERT_ERROR(json_parse(unsound[i].text, unsound[i].size, JSON_STRING_MAX, &j), EBADMSG);
        }
}

static void refuses_duplicates(void **state _unused_)
{
        static const Text twice[] = {
                TEXT("{\"a\":1,\"a\":2}"),
                TEXT("{\"a\":{\"b\":1,\"b\":1}}"),
                TEXT("{\"a\":[{\"b\":1,\"\\u0062\":1}]}"),
                TEXT("{\"\":1,\"\":1}"),
        };

        for (size_t i = 0; i < ELEMENTSOF(twice); i++) {
                Json *j;

                ASSERT_ERROR(json_parse(twice[i].text, twice[i].size, JSON_STRING_MAX, &j), EBADMSG);
        }
}

static void assert_too_much(const char *text, const char *place)
{
        JsonGate g;
        Json *j;

        assert_int_equal(json_gate_examine(text, strlen(text), 8, &g), JSON_TOO_MUCH);
        assert_string_equal(g.place, place);
        ASSERT_ERROR(json_parse(text, strlen(text), 8, &j), E2BIG);
}

static void tells_too_much_from_unsound(void **state _unused_)
{
        assert_too_much("{\"a\":9223372036854775808}", "a");
        assert_too_much("{\"a\":-9223372036854775809}", "a");
        assert_too_much("{\"a\":[0,{\"b\":18446744073709551616}]}", "a[1].b");
        assert_too_much("{\"a\":1e400}", "a");
        assert_too_much("{\"a\":[1,[2,-1e999]]}", "a[1][1]");
        assert_too_much("{\"p\":{\"q\":\"123456789\"}}", "p.q");
        assert_too_much("{\"123456789\":1}", "");
        /* decoded, not raw, length counts */
        assert_int_equal(gate("{\"a\":\"\\u0041\\u0041\"}", 20), JSON_OK);
        /* unsound later on wins */
        assert_int_equal(gate("{\"a\":1e400,}", 12), JSON_UNSOUND);
}

static void nested(char *to, size_t depth)
{
        size_t n = 0;

        n += (size_t) snprintf(to, 8, "{\"a\":");
        for (size_t i = 1; i < depth; i++)
                to[n++] = '[';
        for (size_t i = 1; i < depth; i++)
                to[n++] = ']';
        to[n++] = '}';
        to[n] = '\0';
}

static void limits_depth(void **state _unused_)
{
        char text[8192];
        Json *j;

        nested(text, JSON_DEPTH_MAX);
        ASSERT_OK(json_parse(text, strlen(text), JSON_STRING_MAX, &j));
        j = json_unref(j);
        nested(text, JSON_DEPTH_MAX + 1);
        assert_int_equal(gate(text, strlen(text)), JSON_TOO_MUCH);
        nested(text, 2000);
        assert_int_equal(gate(text, strlen(text)), JSON_TOO_MUCH);
        nested(text, 3000);
        assert_int_equal(gate(text, strlen(text)), JSON_UNSOUND);
}

static void limits_values(void **state _unused_)
{
        static char text[JSON_VALUES_MAX * 2 + 64];
        size_t n;
        Json *j;

        for (size_t extra = 0; extra < 2; extra++) {
                n = (size_t) snprintf(text, 8, "{\"a\":[");
                for (size_t i = 0; i < JSON_VALUES_MAX - 2 + extra; i++) {
                        text[n++] = '0';
                        text[n++] = ',';
                }
                text[n - 1] = ']';
                text[n++] = '}';
                if (extra) {
                        assert_int_equal(gate(text, n), JSON_TOO_MUCH);
                        continue;
                }
                ASSERT_OK(json_parse(text, n, JSON_STRING_MAX, &j));
                j = json_unref(j);
        }
}

/* No prefix of a sound text is sound; no read behind the end (the copy has exactly that size). */
static void every_prefix_is_unsound(void **state _unused_)
{
        static const char text[] =
                        "{\"a\":[1,-2.5e3,true,null,\"\\ud83d\\ude00\xc3\xa9\"],\"b\":{\"c\":false}}";

        for (size_t n = 0; n < sizeof(text) - 1; n++) {
                char *copy = malloc(n ? n : 1);

                memcpy(copy, text, n);
                assert_int_equal(gate(copy, n), JSON_UNSOUND);
                free(copy);
        }
        assert_int_equal(gate(text, sizeof(text) - 1), JSON_OK);
}

static void notices_oneway(void **state _unused_)
{
        JsonGate g;

        (void) json_gate_examine("{\"oneway\":true}", 15, 8, &g);
        assert_true(g.is_oneway);
        (void) json_gate_examine("{\"p\":{\"oneway\":true}}", 21, 8, &g);
        assert_false(g.is_oneway);
}

static void accessors_do_not_coerce(void **state _unused_)
{
        static const char text[] =
                        "{\"s\":\"42\",\"i\":42,\"r\":4.5,\"b\":true,\"n\":null,\"a\":[1,null],\"o\":{\"k\":1}}";
        const Json *value;
        const char *key;
        void *cursor = NULL;
        size_t n = 0;
        Json *j;

        ASSERT_OK(json_parse(text, sizeof(text) - 1, JSON_STRING_MAX, &j));
        assert_true(json_integer(json_get(j, "s")) == 0);
        assert_null(json_string(json_get(j, "i")));
        assert_false(json_boolean(json_get(j, "i")));
        assert_true(json_integer(json_get(j, "i")) == 42);
        assert_true(json_real(json_get(j, "i")) == 42.0);
        assert_true(json_real(json_get(j, "r")) == 4.5);
        assert_int_equal(json_type(json_get(j, "n")), JSON_NULL);
        assert_null(json_get(j, "missing"));
        assert_int_equal(json_n(json_get(j, "a")), 2);
        assert_int_equal(json_type(json_at(json_get(j, "a"), 1)), JSON_NULL);
        assert_null(json_at(json_get(j, "a"), 2));
        assert_null(json_at(j, 0));
        assert_null(json_get(json_get(j, "a"), "k"));
        while (json_next(j, &cursor, &key, &value))
                assert_int_equal(key[0], "sirbnao"[n++]);
        assert_int_equal(n, 7);
        j = json_unref(j);
}

static void makes_one_line(void **state _unused_)
{
        Buf b = BUF_INIT(4096);
        Json *j, *list;

        ASSERT_OK(json_new_object(&j));
        ASSERT_OK(json_new_array(&list));
        ASSERT_OK(json_append_string(list, "a/b\n\"\x01"));
        ASSERT_OK(json_append_integer(list, INT64_MIN));
        ASSERT_OK(json_set(j, "list", list));
        ASSERT_OK(json_set_string(j, "left out", NULL));
        ASSERT_OK(json_set_string(j, "bad", "x\xff"));
        ASSERT_OK(json_set_escaped(j, "esc", "\\\0z", 3));
        ASSERT_OK(json_set_boolean(j, "yes", true));
        ASSERT_OK(json_format(j, &b));
        ASSERT_OK(buf_put(&b, "", 1));
        assert_string_equal(buf_front(&b),
                            "{\"list\":[\"a/b\\n\\\"\\u0001\",-9223372036854775808],\"bad\":\"x\\\\xff\","
                            "\"esc\":\"\\\\x5c\\\\x00z\",\"yes\":true}");
        assert_int_equal(gate(buf_front(&b), buf_size(&b) - 1), JSON_OK);
        buf_done(&b);
        j = json_unref(j);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(accepts_sound_text),
                cmocka_unit_test(refuses_unsound_text),
                cmocka_unit_test(refuses_duplicates),
                cmocka_unit_test(tells_too_much_from_unsound),
                cmocka_unit_test(limits_depth),
                cmocka_unit_test(limits_values),
                cmocka_unit_test(every_prefix_is_unsound),
                cmocka_unit_test(notices_oneway),
                cmocka_unit_test(accessors_do_not_coerce),
                cmocka_unit_test(makes_one_line),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
