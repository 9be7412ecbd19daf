#include "tests/fuzz/json_oracle.h"

#include <jansson.h>

static json_t *to_json(const Oracle *o)
{
        return (json_t *) (uintptr_t) o;
}

Oracle *oracle_load(const char *text, size_t size)
{
        return (Oracle *) json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
}

Oracle *oracle_free(Oracle *o)
{
        json_decref(to_json(o));
        return NULL;
}

bool oracle_is_object(const Oracle *o)
{
        return json_is_object(to_json(o));
}

bool oracle_equal(const Oracle *a, const Oracle *b)
{
        return json_equal(to_json(a), to_json(b)) == 1;
}
