#pragma once

/*
 * JSON as a daemon may read it. A gate of our own checks the bytes (RFC 8259, UTF-8, no duplicate keys,
 * integers in int64, finite doubles, depth, number of values, string length) before json-c sees them; the
 * accessors never coerce. json-c is used in json.c and nowhere else.
 *
 * A Json is reference counted; accessors return borrowed values.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/base/buf.h"
#include "proto/base/macro.h"

#define JSON_DEPTH_MAX  16U
#define JSON_VALUES_MAX 16384U
#define JSON_STRING_MAX (64U * 1024U)
#define JSON_PLACE_SIZE 256U

/* The tag is the type's name in client/lib/sandboxd.h, where values go out to other people's programs. */
typedef struct SandboxdValue Json;

typedef enum JsonType {
        JSON_NULL = 0,
        JSON_BOOLEAN,
        JSON_INTEGER,
        JSON_REAL,
        JSON_STRING,
        JSON_ARRAY,
        JSON_OBJECT,
} JsonType;

typedef enum JsonVerdict {
        JSON_OK = 0,
        JSON_UNSOUND,  /* not JSON as the gate wants it: close the connection */
        JSON_TOO_MUCH, /* sound, but too deep, too many values, too long a string */
} JsonVerdict;

/* The gate alone: never allocates. string_max: JSON_STRING_MAX, or more where policy texts travel.
 * *ret_members: number of object members, to compare with the tree. */
JsonVerdict json_gate(const char *text, size_t size, size_t string_max, size_t *ret_members);

/* What the gate saw beside its verdict. */
typedef struct JsonGate {
        size_t n_members;
        /* JSON_TOO_MUCH: path of the first value that is ("parameters.context.mounts[2]"), cut at an element
         */
        char place[JSON_PLACE_SIZE];
        /* the member "oneway" of the top level is true: for calls that are refused without a tree */
        bool is_oneway;
} JsonGate;

JsonVerdict json_gate_examine(const char *text, size_t size, size_t string_max, JsonGate *ret);

/* Gate and parse; the top level is an object. -EBADMSG: unsound; -E2BIG: too much. */
int json_parse(const char *text, size_t size, size_t string_max, Json **ret) _must_check_;
Json *json_unref(Json *j);
Json *json_ref(Json *j);
DEFINE_CLEANUP(Json *, json_unref)
#define _cleanup_json_ _cleanup_(json_unrefp)

JsonType json_type(const Json *j);
bool json_boolean(const Json *j);
int64_t json_integer(const Json *j);
double json_real(const Json *j);        /* also of an integer */
const char *json_string(const Json *j); /* never holds a NUL */
size_t json_n(const Json *j);           /* elements of an array, members of an object */
const Json *json_at(const Json *array, size_t i);
/* NULL: no such member. A member that is null is a JSON_NULL. */
const Json *json_get(const Json *object, const char *key);
/* Members in order of appearance; cursor starts at NULL. */
bool json_next(const Json *object, void **cursor, const char **ret_key, const Json **ret_value);

/* ---- making; all take ownership of the values that they are given, also on error ---- */

int json_new_object(Json **ret) _must_check_;
int json_new_array(Json **ret) _must_check_;
int json_set(Json *object, const char *key, Json *take_value) _must_check_;
/* Nothing where there is no such member. */
void json_remove(Json *object, const char *key);
/* NULL: leaves it out. What is not UTF-8 is set as by json_set_escaped(). */
int json_set_string(Json *object, const char *key, const char *value) _must_check_;
int json_set_escaped(Json *object, const char *key, const void *data, size_t size) _must_check_;
int json_set_integer(Json *object, const char *key, int64_t value) _must_check_;
int json_set_boolean(Json *object, const char *key, bool value) _must_check_;
int json_append(Json *array, Json *take_value) _must_check_;
int json_append_string(Json *array, const char *value) _must_check_;
int json_append_integer(Json *array, int64_t value) _must_check_;

/* One line, no whitespace outside strings. */
int json_format(const Json *j, Buf *b) _must_check_;
