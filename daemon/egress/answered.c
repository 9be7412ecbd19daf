#include "daemon/egress/answered.h"

#include <errno.h>
#include <string.h>

#include "daemon/policy/compiled.h"
#include "proto/base/hash.h"
#include "proto/base/list.h"
#include "proto/base/str.h"

typedef struct Name {
        ListLink link; /* of Place.names, the newest last */
        char text[];
} Name;

typedef struct Place {
        PrivAddress address;
        ListLink names;
        size_t n;
} Place;

struct Answered {
        Map places;
        size_t n_names;
};

static void place_free(Place *p)
{
        LIST_FOREACH (n, &p->names, Name, link) {
                list_unlink(&n->link);
                free(n);
        }
        free(p);
}

static void forget_all(Answered *a)
{
        size_t cursor = 0;

        for (Place *p; (p = map_next(&a->places, &cursor));)
                place_free(p);
        map_done(&a->places);
        a->places = MAP_INIT;
        a->n_names = 0;
}

int answered_new(Answered **ret)
{
        Answered *a = calloc(1, sizeof(*a));

        if (!a)
                return -ENOMEM;
        *ret = a;
        return 0;
}

Answered *answered_free(Answered *a)
{
        if (!a)
                return NULL;
        forget_all(a);
        free(a);
        return NULL;
}

static Place *find_place(const Answered *a, const PrivAddress *address)
{
        PrivAddress plain = address_unmap(address);

        return map_get(&a->places, &plain, sizeof(plain));
}

static int make_place(Answered *a, const PrivAddress *address, Place **ret)
{
        Place *p = find_place(a, address);
        int r;

        if (p) {
                *ret = p;
                return 0;
        }
        p = calloc(1, sizeof(*p));
        if (!p)
                return -ENOMEM;
        p->address = address_unmap(address);
        list_init(&p->names);
        r = map_put(&a->places, &p->address, sizeof(p->address), p);
        if (r < 0) {
                free(p);
                return r;
        }
        *ret = p;
        return 0;
}

static Name *find_name(const Place *p, const char *name)
{
        LIST_FOREACH (n, &p->names, Name, link) {
                if (str_equal(n->text, name))
                        return n;
        }
        return NULL;
}

static void drop_oldest(Answered *a, Place *p)
{
        Name *n = list_entry(p->names.next, Name, link);

        list_unlink(&n->link);
        free(n);
        p->n--;
        a->n_names--;
}

int answered_add(Answered *a, const PrivAddress *address, const char *name)
{
        Place *p = find_place(a, address);
        Name *n = p ? find_name(p, name) : NULL;
        size_t size = strlen(name) + 1;
        int r;

        if (n) {
                list_unlink(&n->link);
                list_append(&p->names, &n->link);
                return 0;
        }
        if (a->n_names >= ANSWERED_MAX)
                forget_all(a);
        n = malloc(sizeof(*n) + size);
        if (!n)
                return -ENOMEM;
        r = make_place(a, address, &p);
        if (r < 0) {
                free(n);
                return r;
        }
        memcpy(n->text, name, size);
        list_init(&n->link);
        list_append(&p->names, &n->link);
        p->n++;
        a->n_names++;
        if (p->n > ANSWERED_NAMES_MAX)
                drop_oldest(a, p);
        return 0;
}

const char *answered_find(const Answered *a, const PrivAddress *address)
{
        Place *p = find_place(a, address);

        return p ? list_entry(p->names.prev, Name, link)->text : NULL;
}

size_t answered_count(const Answered *a, const PrivAddress *address)
{
        const Place *p = find_place(a, address);

        return p ? p->n : 0;
}

bool answered_has(const Answered *a, const PrivAddress *address, const char *name)
{
        const Place *p = find_place(a, address);

        return p && find_name(p, name);
}
