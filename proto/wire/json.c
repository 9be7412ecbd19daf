/*
 * The tree behind the gate. json-c keeps a JSON null as a NULL pointer, which cannot be told from "no such
 * member"; here a null is a value of its own, the address of null_value, translated at this border.
 *
 * json-c lets later duplicates of a key win and cuts keys at a NUL: both show as fewer members in the tree
 * than the gate counted, and the text is refused.
 */

#include "proto/wire/json.h"

#include <errno.h>
/* json-c has a type of the name of our accessor. */
#define json_type json_c_type
#include <json-c/json.h>
#undef json_type
#include <limits.h>
#include <string.h>

#include "proto/base/str.h"

/* More than the gate lets through: its limit is the one that answers. */
#define TOKENER_DEPTH (2 * (int) JSON_DEPTH_MAX)

static const char null_value;

static Json *from_tree(json_object *o)
{
        return o ? (Json *) o : (Json *) (uintptr_t) &null_value;
}

static json_object *to_tree(const Json *j)
{
        return (uintptr_t) j == (uintptr_t) &null_value ? NULL : (json_object *) (uintptr_t) j;
}

static size_t count_members(json_object *o)
{
        size_t n = 0;

        if (json_object_is_type(o, json_type_array)) {
                for (size_t i = 0; i < json_object_array_length(o); i++)
                        n += count_members(json_object_array_get_idx(o, i));
        } else if (json_object_is_type(o, json_type_object)) {
                const struct lh_table *t = json_object_get_object(o);

                for (const struct lh_entry *e = t->head; e; e = e->next)
                        n += 1 + count_members((json_object *) (uintptr_t) e->v);
        }
        return n;
}

static int parse_tree(const char *text, size_t size, json_object **ret)
{
        struct json_tokener *t = json_tokener_new_ex(TOKENER_DEPTH);
        json_object *o;
        int r = -EBADMSG;

        if (!t)
                return -ENOMEM;
        json_tokener_set_flags(t, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
        o = json_tokener_parse_ex(t, text, (int) size);
        if (json_tokener_get_error(t) == json_tokener_success && json_tokener_get_parse_end(t) == size &&
            json_object_is_type(o, json_type_object))
                r = 0;
        json_tokener_free(t);
        if (r < 0) {
                (void) json_object_put(o);
                return r;
        }
        *ret = o;
        return 0;
}

int json_parse(const char *text, size_t size, size_t string_max, Json **ret)
{
        json_object *o = NULL;
        size_t n_members;
        JsonVerdict v;
        int r;

        v = json_gate(text, size, string_max, &n_members);
        if (v != JSON_OK)
                return v == JSON_TOO_MUCH ? -E2BIG : -EBADMSG;
        if (size > INT_MAX)
                return -E2BIG;
        r = parse_tree(text, size, &o);
        if (r < 0)
                return r;
        if (count_members(o) != n_members) {
                (void) json_object_put(o);
                return -EBADMSG;
        }
        *ret = from_tree(o);
        return 0;
}

Json *json_unref(Json *j)
{
        if (j)
                (void) json_object_put(to_tree(j));
        return NULL;
}

Json *json_ref(Json *j)
{
        if (j)
                (void) json_object_get(to_tree(j));
        return j;
}

JsonType json_type(const Json *j)
{
        switch (json_object_get_type(to_tree(j))) {
        case json_type_boolean:
                return JSON_BOOLEAN;
        case json_type_int:
                return JSON_INTEGER;
        case json_type_double:
                return JSON_REAL;
        case json_type_string:
                return JSON_STRING;
        case json_type_array:
                return JSON_ARRAY;
        case json_type_object:
                return JSON_OBJECT;
        case json_type_null:
        default:
                return JSON_NULL;
        }
}

bool json_boolean(const Json *j)
{
        return j && json_type(j) == JSON_BOOLEAN && json_object_get_boolean(to_tree(j));
}

int64_t json_integer(const Json *j)
{
        return j && json_type(j) == JSON_INTEGER ? json_object_get_int64(to_tree(j)) : 0;
}

double json_real(const Json *j)
{
        if (j && json_type(j) == JSON_REAL)
                return json_object_get_double(to_tree(j));
        return (double) json_integer(j);
}

const char *json_string(const Json *j)
{
        return j && json_type(j) == JSON_STRING ? json_object_get_string(to_tree(j)) : NULL;
}

size_t json_n(const Json *j)
{
        if (!j)
                return 0;
        if (json_type(j) == JSON_ARRAY)
                return json_object_array_length(to_tree(j));
        return json_type(j) == JSON_OBJECT ? (size_t) json_object_object_length(to_tree(j)) : 0;
}

const Json *json_at(const Json *array, size_t i)
{
        if (!array || json_type(array) != JSON_ARRAY || i >= json_n(array))
                return NULL;
        return from_tree(json_object_array_get_idx(to_tree(array), i));
}

const Json *json_get(const Json *object, const char *key)
{
        json_object *o;

        if (!object || json_type(object) != JSON_OBJECT)
                return NULL;
        if (!json_object_object_get_ex(to_tree(object), key, &o))
                return NULL;
        return from_tree(o);
}

bool json_next(const Json *object, void **cursor, const char **ret_key, const Json **ret_value)
{
        const struct lh_entry *e = *cursor;

        if (!object || json_type(object) != JSON_OBJECT)
                return false;
        e = e ? e->next : json_object_get_object(to_tree(object))->head;
        if (!e)
                return false;
        *cursor = (void *) (uintptr_t) e;
        *ret_key = e->k;
        *ret_value = from_tree((json_object *) (uintptr_t) e->v);
        return true;
}

/* ---- making ---- */

static int take_new(json_object *o, Json **ret)
{
        if (!o)
                return -ENOMEM;
        *ret = (Json *) o;
        return 0;
}

int json_new_object(Json **ret)
{
        return take_new(json_object_new_object(), ret);
}

int json_new_array(Json **ret)
{
        return take_new(json_object_new_array(), ret);
}

int json_set(Json *object, const char *key, Json *take_value)
{
        if (json_object_object_add(to_tree(object), key, to_tree(take_value)) < 0) {
                (void) json_unref(take_value);
                return -ENOMEM;
        }
        return 0;
}

void json_remove(Json *object, const char *key)
{
        json_object_object_del(to_tree(object), key);
}

int json_append(Json *array, Json *take_value)
{
        if (json_object_array_add(to_tree(array), to_tree(take_value)) < 0) {
                (void) json_unref(take_value);
                return -ENOMEM;
        }
        return 0;
}

static int new_string(const void *data, size_t size, bool is_escaped, Json **ret)
{
        _cleanup_free_ char *escaped = NULL;
        int r;

        if (is_escaped) {
                r = str_escape(data, size, &escaped);
                if (r < 0)
                        return r;
                data = escaped;
                size = strlen(escaped);
        }
        if (size > INT_MAX)
                return -E2BIG;
        return take_new(json_object_new_string_len(data, (int) size), ret);
}

/* Strings of our own go out as they are, bytes that are no UTF-8 must not. */
static int new_text(const char *value, Json **ret)
{
        size_t size = strlen(value);

        return new_string(value, size, !str_is_utf8(value, size), ret);
}

int json_set_string(Json *object, const char *key, const char *value)
{
        Json *j;
        int r;

        if (!value)
                return 0;
        r = new_text(value, &j);
        return r < 0 ? r : json_set(object, key, j);
}

int json_set_escaped(Json *object, const char *key, const void *data, size_t size)
{
        Json *j;
        int r;

        r = new_string(data, size, /* is_escaped= */ true, &j);
        return r < 0 ? r : json_set(object, key, j);
}

int json_set_integer(Json *object, const char *key, int64_t value)
{
        Json *j;
        int r;

        r = take_new(json_object_new_int64(value), &j);
        return r < 0 ? r : json_set(object, key, j);
}

int json_set_boolean(Json *object, const char *key, bool value)
{
        Json *j;
        int r;

        r = take_new(json_object_new_boolean(value), &j);
        return r < 0 ? r : json_set(object, key, j);
}

int json_append_string(Json *array, const char *value)
{
        Json *j;
        int r;

        r = new_text(value, &j);
        return r < 0 ? r : json_append(array, j);
}

int json_append_integer(Json *array, int64_t value)
{
        Json *j;
        int r;

        r = take_new(json_object_new_int64(value), &j);
        return r < 0 ? r : json_append(array, j);
}

int json_format(const Json *j, Buf *b)
{
        size_t size;
        const char *text = json_object_to_json_string_length(
                        to_tree(j), JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &size);

        return text ? buf_put(b, text, size) : -ENOMEM;
}
