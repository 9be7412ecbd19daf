#include "daemon/api/api.h"
#include "proto/base/str.h"

const Json *get_value(const Json *object, const char *key)
{
        const Json *v = json_get(object, key);

        return v && json_type(v) != JSON_NULL ? v : NULL;
}

const char *get_string(const Json *object, const char *key)
{
        const Json *v = get_value(object, key);

        return v ? json_string(v) : NULL;
}

int64_t get_integer(const Json *object, const char *key)
{
        const Json *v = get_value(object, key);

        return v ? json_integer(v) : 0;
}

bool get_boolean(const Json *object, const char *key)
{
        const Json *v = get_value(object, key);

        return v && json_boolean(v);
}

Json *json_keep(const Json *value)
{
        /* Counting references does not change the value. */
        return json_ref((Json *) (uintptr_t) value);
}

static bool is_lower_or_digit(char c)
{
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

bool name_is_sound(const char *name)
{
        size_t n = strlen(name);

        if (n < 1 || n > 63 || !is_lower_or_digit(name[0]))
                return false;
        for (size_t i = 1; i < n; i++) {
                if (!is_lower_or_digit(name[i]) && name[i] != '.' && name[i] != '_' && name[i] != '-')
                        return false;
        }
        return true;
}
