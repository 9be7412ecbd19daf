#pragma once

/*
 * A keyed hash (SipHash-2-4, so that a client cannot choose colliding keys) and a map from byte strings to
 * pointers on it. The map borrows keys: they live in what the pointer points to.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/base/macro.h"

uint64_t hash_siphash(const uint8_t key[16], const void *data, size_t size);

typedef struct MapSlot {
        const void *key;
        size_t key_size;
        uint64_t hash;
        void *value;
} MapSlot;

typedef struct Map {
        MapSlot *slots;
        size_t n_slots; /* power of two */
        size_t n;
        uint8_t seed[16];
        bool is_seeded;
} Map;

#define MAP_INIT ((Map){ 0 })

void map_done(Map *m);

/* -EEXIST when the key is there already. */
int map_put(Map *m, const void *key, size_t key_size, void *value) _must_check_;
void *map_get(const Map *m, const void *key, size_t key_size);
void *map_remove(Map *m, const void *key, size_t key_size);

/* Walks over all values: *cursor starts at 0; NULL ends. The map must not change meanwhile, but that the
 * value just returned may be removed: then map_stay() before the next, and none is missed. */
void *map_next(const Map *m, size_t *cursor);
static inline void map_stay(size_t *cursor)
{
        /* What follows may have moved into its place. */
        (*cursor)--;
}
