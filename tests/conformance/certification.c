#include "tests/conformance/certification.h"

#include <string.h>

#include "proto/base/str.h"

#define TEXT_SIZE 32U

static const char mytype[] =
                "{\"mytype\":{"
                "\"object\":{\"any\":[1,null,{\"deep\":\"value\"}],\"other\":true},"
                "\"enum\":\"two\","
                "\"struct\":{\"first\":1,\"second\":\"2\"},"
                "\"array\":[\"one\",\"two\",\"three\"],"
                "\"dictionary\":{\"foo\":\"Foo\",\"bar\":\"Bar\"},"
                "\"stringset\":{\"one\":{},\"two\":{},\"three\":{}},"
                "\"nullable\":null,"
                "\"nullable_array_struct\":null,"
                "\"interface\":{"
                "\"foo\":[null,{\"foo\":\"foo\",\"bar\":\"bar\"},null,{\"one\":\"foo\",\"two\":\"bar\"}],"
                "\"anon\":{\"foo\":true,\"bar\":false}}}}";

#define MANY "\"bool\":false,\"int\":2,\"float\":3.141592653589793,\"string\":\"a lot of string\""

const Step steps[] = {
        { CERTIFICATION "Start", STEP_PLAIN, "{}" },
        { CERTIFICATION "Test01", STEP_PLAIN, "{\"bool\":true}" },
        { CERTIFICATION "Test02", STEP_PLAIN, "{\"int\":1}" },
        { CERTIFICATION "Test03", STEP_PLAIN, "{\"float\":1.0}" },
        { CERTIFICATION "Test04", STEP_PLAIN, "{\"string\":\"ping\"}" },
        { CERTIFICATION "Test05", STEP_PLAIN, "{" MANY "}" },
        { CERTIFICATION "Test06", STEP_PLAIN, "{\"struct\":{" MANY "}}" },
        { CERTIFICATION "Test07", STEP_PLAIN, "{\"map\":{\"foo\":\"Foo\",\"bar\":\"Bar\"}}" },
        { CERTIFICATION "Test08", STEP_PLAIN, "{\"set\":{\"one\":{},\"two\":{},\"three\":{}}}" },
        { CERTIFICATION "Test09", STEP_PLAIN, mytype },
        { CERTIFICATION "Test10", STEP_MORE, NULL },
        { CERTIFICATION "Test11", STEP_ONEWAY, "{}" },
        { CERTIFICATION "End", STEP_PLAIN, "{\"all_ok\":true}" },
};

const size_t n_steps = ELEMENTSOF(steps);

int parse_text(const char *text, Json **ret)
{
        return json_parse(text, strlen(text), JSON_STRING_MAX, ret);
}

int step_more_reply(size_t n, Json **ret)
{
        _cleanup_json_ Json *j = NULL;
        char text[TEXT_SIZE];
        int r;

        r = str_printf(text, sizeof(text), "Reply number %zu", n);
        if (r >= 0)
                r = json_new_object(&j);
        if (r >= 0)
                r = json_set_string(j, "string", text);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(j);
        return 0;
}

static int add_replies(Json *array)
{
        int r = 0;

        for (size_t n = 1; r >= 0 && n <= CERTIFICATION_REPLIES; n++) {
                _cleanup_json_ Json *reply = NULL;

                r = step_more_reply(n, &reply);
                if (r >= 0)
                        r = json_append_string(array, json_string(json_get(reply, "string")));
        }
        return r;
}

int step_parameters(size_t i, Json **ret)
{
        _cleanup_json_ Json *j = NULL, *array = NULL;
        int r;

        if (i == 0)
                return json_new_object(ret);
        if (steps[i - 1].kind != STEP_MORE)
                return parse_text(steps[i - 1].reply, ret);
        r = json_new_object(&j);
        if (r >= 0)
                r = json_new_array(&array);
        if (r >= 0)
                r = add_replies(array);
        if (r >= 0)
                r = json_set(j, "last_more_replies", TAKE_PTR(array));
        if (r < 0)
                return r;
        *ret = TAKE_PTR(j);
        return 0;
}

static bool is_null(const Json *j)
{
        return !j || json_type(j) == JSON_NULL;
}

/* Each member of a is in b. */
static bool members_in(const Json *a, const Json *b)
{
        const Json *value;
        const char *key;
        void *cursor = NULL;

        while (json_next(a, &cursor, &key, &value)) {
                if (!json_same(value, json_get(b, key)))
                        return false;
        }
        return true;
}

static bool elements_same(const Json *a, const Json *b)
{
        for (size_t i = 0; i < json_n(a); i++) {
                if (!json_same(json_at(a, i), json_at(b, i)))
                        return false;
        }
        return json_n(a) == json_n(b);
}

static bool is_number(const Json *j)
{
        return json_type(j) == JSON_INTEGER || json_type(j) == JSON_REAL;
}

bool json_same(const Json *a, const Json *b)
{
        if (is_null(a) || is_null(b))
                return is_null(a) && is_null(b);
        if (is_number(a) && is_number(b) && json_type(a) != json_type(b))
                return json_real(a) <= json_real(b) && json_real(a) >= json_real(b);
        if (json_type(a) != json_type(b))
                return false;
        switch (json_type(a)) {
        case JSON_BOOLEAN:
                return json_boolean(a) == json_boolean(b);
        case JSON_STRING:
                return str_equal(json_string(a), json_string(b));
        case JSON_ARRAY:
                return elements_same(a, b);
        case JSON_OBJECT:
                return members_in(a, b) && members_in(b, a);
        case JSON_INTEGER:
                return json_integer(a) == json_integer(b);
        case JSON_REAL:
                return json_real(a) <= json_real(b) && json_real(a) >= json_real(b);
        case JSON_NULL:
        default:
                return false;
        }
}
