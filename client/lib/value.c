/* The values of the public header: those of proto/wire/json.h, with no input that could end the program. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/lib/client.h"
#include "proto/base/buf.h"
#include "proto/base/macro.h"
#include "proto/wire/conn.h"
#include "proto/wire/json.h"

_Static_assert((int) SANDBOXD_NULL == (int) JSON_NULL && (int) SANDBOXD_BOOLEAN == (int) JSON_BOOLEAN &&
                               (int) SANDBOXD_INTEGER == (int) JSON_INTEGER &&
                               (int) SANDBOXD_REAL == (int) JSON_REAL &&
                               (int) SANDBOXD_STRING == (int) JSON_STRING &&
                               (int) SANDBOXD_ARRAY == (int) JSON_ARRAY &&
                               (int) SANDBOXD_OBJECT == (int) JSON_OBJECT,
               "types of values");

/* ---- reading ---- */

SandboxdType sandboxd_value_type(const SandboxdValue *v)
{
        return v ? (SandboxdType) json_type(v) : SANDBOXD_NULL;
}

bool sandboxd_value_boolean(const SandboxdValue *v)
{
        return json_boolean(v);
}

int64_t sandboxd_value_integer(const SandboxdValue *v)
{
        return json_integer(v);
}

double sandboxd_value_real(const SandboxdValue *v)
{
        return json_real(v);
}

const char *sandboxd_value_string(const SandboxdValue *v)
{
        return json_string(v);
}

size_t sandboxd_value_size(const SandboxdValue *v)
{
        return json_n(v);
}

const SandboxdValue *sandboxd_value_at(const SandboxdValue *array, size_t i)
{
        return json_at(array, i);
}

const SandboxdValue *sandboxd_value_get(const SandboxdValue *object, const char *key)
{
        return json_get(object, key);
}

bool sandboxd_value_next(const SandboxdValue *object, void **cursor, const char **ret_key,
                         const SandboxdValue **ret_value)
{
        return json_next(object, cursor, ret_key, ret_value);
}

int sandboxd_value_format(const SandboxdValue *v, char **ret)
{
        _cleanup_(buf_done) Buf b = BUF_INIT(CONN_OUTPUT_MAX + 1);
        int r;

        r = json_format(v, &b);
        if (r >= 0)
                r = buf_put(&b, "", 1);
        if (r < 0)
                return r;
        *ret = strdup(buf_front(&b));
        return *ret ? 0 : -ENOMEM;
}

/* ---- making ---- */

int sandboxd_value_new_object(SandboxdValue **ret)
{
        return json_new_object(ret);
}

int sandboxd_value_new_array(SandboxdValue **ret)
{
        return json_new_array(ret);
}

int sandboxd_value_parse(const char *text, SandboxdValue **ret)
{
        size_t size = strlen(text);

        return json_parse(text, size, /* string_max= */ size, ret);
}

static bool is_of(const SandboxdValue *v, SandboxdType type)
{
        return sandboxd_value_type(v) == type;
}

int sandboxd_value_set(SandboxdValue *object, const char *key, SandboxdValue *take_value)
{
        if (!is_of(object, SANDBOXD_OBJECT) || !take_value || take_value == object) {
                (void) json_unref(take_value);
                return -EINVAL;
        }
        return json_set(object, key, take_value);
}

int sandboxd_value_set_string(SandboxdValue *object, const char *key, const char *value)
{
        return is_of(object, SANDBOXD_OBJECT) ? json_set_string(object, key, value) : -EINVAL;
}

int sandboxd_value_set_integer(SandboxdValue *object, const char *key, int64_t value)
{
        return is_of(object, SANDBOXD_OBJECT) ? json_set_integer(object, key, value) : -EINVAL;
}

int sandboxd_value_set_boolean(SandboxdValue *object, const char *key, bool value)
{
        return is_of(object, SANDBOXD_OBJECT) ? json_set_boolean(object, key, value) : -EINVAL;
}

int sandboxd_value_append(SandboxdValue *array, SandboxdValue *take_value)
{
        if (!is_of(array, SANDBOXD_ARRAY) || !take_value || take_value == array) {
                (void) json_unref(take_value);
                return -EINVAL;
        }
        return json_append(array, take_value);
}

int sandboxd_value_append_string(SandboxdValue *array, const char *value)
{
        return is_of(array, SANDBOXD_ARRAY) && value ? json_append_string(array, value) : -EINVAL;
}

int sandboxd_value_append_integer(SandboxdValue *array, int64_t value)
{
        return is_of(array, SANDBOXD_ARRAY) ? json_append_integer(array, value) : -EINVAL;
}

SandboxdValue *sandboxd_value_ref(const SandboxdValue *v)
{
        return v ? json_ref((SandboxdValue *) (uintptr_t) v) : NULL;
}

SandboxdValue *sandboxd_value_unref(SandboxdValue *v)
{
        return json_unref(v);
}
