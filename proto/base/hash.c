#include "proto/base/hash.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "proto/base/error.h"

#define MAP_SLOTS_MIN 16U

static uint64_t rotl(uint64_t x, unsigned b)
{
        return x << b | x >> (64 - b);
}

static void sip_round(uint64_t v[4])
{
        v[0] += v[1];
        v[1] = rotl(v[1], 13) ^ v[0];
        v[0] = rotl(v[0], 32);
        v[2] += v[3];
        v[3] = rotl(v[3], 16) ^ v[2];
        v[0] += v[3];
        v[3] = rotl(v[3], 21) ^ v[0];
        v[2] += v[1];
        v[1] = rotl(v[1], 17) ^ v[2];
        v[2] = rotl(v[2], 32);
}

static uint64_t load_le64(const uint8_t *p)
{
        uint64_t v;

        memcpy(&v, p, sizeof(v));
        return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? v : __builtin_bswap64(v);
}

uint64_t hash_siphash(const uint8_t key[16], const void *data, size_t size)
{
        uint64_t k0 = load_le64(key), k1 = load_le64(key + 8);
        uint64_t v[4] = { k0 ^ UINT64_C(0x736f6d6570736575), k1 ^ UINT64_C(0x646f72616e646f6d),
                          k0 ^ UINT64_C(0x6c7967656e657261), k1 ^ UINT64_C(0x7465646279746573) };
        const uint8_t *p = data;
        uint64_t last = (uint64_t) size << 56;
        size_t n = size;

        for (; n >= 8; n -= 8, p += 8) {
                uint64_t m = load_le64(p);

                v[3] ^= m;
                sip_round(v);
                sip_round(v);
                v[0] ^= m;
        }
        for (size_t i = 0; i < n; i++)
                last |= (uint64_t) p[i] << (8 * i);
        v[3] ^= last;
        sip_round(v);
        sip_round(v);
        v[0] ^= last;
        v[2] ^= 0xff;
        for (int i = 0; i < 4; i++)
                sip_round(v);
        return v[0] ^ v[1] ^ v[2] ^ v[3];
}

void map_done(Map *m)
{
        free(m->slots);
        *m = MAP_INIT;
}

static MapSlot *map_find(const Map *m, const void *key, size_t key_size, uint64_t hash)
{
        size_t i = (size_t) hash & (m->n_slots - 1);

        for (;; i = (i + 1) & (m->n_slots - 1)) {
                MapSlot *s = &m->slots[i];

                if (!s->value)
                        return s;
                if (s->hash == hash && s->key_size == key_size && memcmp(s->key, key, key_size) == 0)
                        return s;
        }
}

static int map_grow(Map *m)
{
        size_t n_slots = m->n_slots ? m->n_slots * 2 : MAP_SLOTS_MIN;
        Map bigger = *m;

        if (!bigger.is_seeded) {
                if (getrandom(bigger.seed, sizeof(bigger.seed), 0) != (ssize_t) sizeof(bigger.seed))
                        return neg_errno();
                bigger.is_seeded = true;
        }
        bigger.slots = calloc(n_slots, sizeof(*bigger.slots));
        if (!bigger.slots)
                return -ENOMEM;
        bigger.n_slots = n_slots;
        for (size_t i = 0; i < m->n_slots; i++) {
                const MapSlot *s = &m->slots[i];

                if (s->value)
                        *map_find(&bigger, s->key, s->key_size, s->hash) = *s;
        }
        free(m->slots);
        *m = bigger;
        return 0;
}

int map_put(Map *m, const void *key, size_t key_size, void *value)
{
        MapSlot *s;
        uint64_t hash;
        int r;

        sb_assert(value);
        if (m->n * 2 >= m->n_slots) {
                r = map_grow(m);
                if (r < 0)
                        return r;
        }
        hash = hash_siphash(m->seed, key, key_size);
        s = map_find(m, key, key_size, hash);
        if (s->value)
                return -EEXIST;
        *s = (MapSlot){ .key = key, .key_size = key_size, .hash = hash, .value = value };
        m->n++;
        return 0;
}

void *map_get(const Map *m, const void *key, size_t key_size)
{
        if (m->n == 0)
                return NULL;
        return map_find(m, key, key_size, hash_siphash(m->seed, key, key_size))->value;
}

void *map_remove(Map *m, const void *key, size_t key_size)
{
        MapSlot *s;
        void *value;
        size_t i, hole;

        if (m->n == 0)
                return NULL;
        s = map_find(m, key, key_size, hash_siphash(m->seed, key, key_size));
        value = s->value;
        if (!value)
                return NULL;
        m->n--;
        /* Linear probing without tombstones: close the hole by moving back what may move. */
        hole = (size_t) (s - m->slots);
        for (i = (hole + 1) & (m->n_slots - 1); m->slots[i].value; i = (i + 1) & (m->n_slots - 1)) {
                size_t home = (size_t) m->slots[i].hash & (m->n_slots - 1);

                if (((i - home) & (m->n_slots - 1)) < ((i - hole) & (m->n_slots - 1)))
                        continue;
                m->slots[hole] = m->slots[i];
                hole = i;
        }
        m->slots[hole] = (MapSlot){ 0 };
        return value;
}

void *map_next(const Map *m, size_t *cursor)
{
        while (*cursor < m->n_slots) {
                void *value = m->slots[(*cursor)++].value;

                if (value)
                        return value;
        }
        return NULL;
}
