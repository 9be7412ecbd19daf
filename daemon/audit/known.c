#include "daemon/audit/known.h"

#include <stdlib.h>
#include <string.h>

#define KNOWN_MAX 1024U

typedef struct Entry {
        int64_t number;
        char key[];
} Entry;

int64_t known_find(const Known *k, const void *key, size_t size)
{
        const Entry *e = map_get(&k->numbers, key, size);

        return e ? e->number : -1;
}

void known_put(Known *k, const void *key, size_t size, int64_t number)
{
        Entry *e;

        if (k->numbers.n >= KNOWN_MAX)
                known_clear(k);
        e = malloc(sizeof(*e) + size);
        if (!e)
                return;
        e->number = number;
        memcpy(e->key, key, size);
        if (map_put(&k->numbers, e->key, size, e) < 0)
                free(e);
}

void known_clear(Known *k)
{
        size_t cursor = 0;
        Entry *e;

        while ((e = map_next(&k->numbers, &cursor)))
                free(e);
        map_done(&k->numbers);
}
