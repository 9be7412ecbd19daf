#include "daemon/egress/names.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "daemon/policy/compiled.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/hash.h"
#include "proto/base/str.h"

/* What the memory holds: a magic, the number of bytes in use, then names, each with its NUL. */
typedef struct Table {
        uint32_t magic;
        uint32_t n_used;
        char text[];
} Table;

#define TABLE_MAGIC UINT32_C(0x316d6e73)

struct Names {
        PrivPool pool;
        uint32_t n_max;
        Table *table;
        size_t size; /* of the memory */
        size_t n_used;
        Map numbers; /* name -> its place in starts */
        uint32_t *starts;
        uint32_t n;
        uint32_t room;
};

static uint32_t host_bits(const PrivPrefix *p)
{
        return (p->address.family == 4 ? 32U : 128U) - p->length;
}

/* The first and the last address of a prefix are left alone. */
static uint32_t pool_room(const PrivPrefix *p)
{
        uint32_t n_bits = host_bits(p);

        return n_bits > 16 ? PRIV_NAMES_MAX : (UINT32_C(1) << n_bits) - 2;
}

static bool is_pool_ok(const PrivPool *p)
{
        return p->v4.address.family == 4 && p->v4.length >= 4 && p->v4.length <= 30 &&
               p->v6.address.family == 6 && p->v6.length >= 8 && p->v6.length <= 120;
}

static int make_room(Names *n)
{
        uint32_t room = n->room > 0 ? n->room * 2 : 64;
        uint32_t *starts;

        if (n->n < n->room)
                return 0;
        starts = realloc(n->starts, room * sizeof(*starts));
        if (!starts)
                return -ENOMEM;
        n->starts = starts;
        n->room = room;
        return 0;
}

/* The value of the map cannot be a pointer into an array that moves: it is the number itself, from 1. */
static int take_entry(Names *n, const char *name)
{
        int r = make_room(n);

        if (r >= 0)
                r = map_put(&n->numbers, name, strlen(name), (void *) (uintptr_t) (n->n + 1));
        if (r < 0)
                return r;
        n->starts[n->n++] = (uint32_t) (name - n->table->text);
        n->n_used += strlen(name) + 1;
        return 0;
}

static bool is_canonical(const char *name)
{
        char canonical[PRIV_HOST_SIZE];

        return policy_host_canonical(name, strlen(name), canonical) >= 0 && str_equal(name, canonical);
}

static int load(Names *n)
{
        size_t n_text = n->size - sizeof(Table), n_claimed = n->table->n_used;

        if (n->table->magic != TABLE_MAGIC) {
                n->table->n_used = 0;
                n->table->magic = TABLE_MAGIC;
                return 0;
        }
        while (n->n_used < MIN_OF(n_claimed, n_text) && n->n < n->n_max) {
                const char *name = n->table->text + n->n_used;
                int r;

                if (!memchr(name, '\0', MIN_OF(n_text - n->n_used, (size_t) PRIV_HOST_SIZE)) ||
                    !is_canonical(name))
                        break;
                r = take_entry(n, name);
                if (r == -EEXIST)
                        break;
                if (r < 0)
                        return r;
        }
        n->table->n_used = (uint32_t) n->n_used;
        return 0;
}

/* A worker has no fstat(): that the memory is as large as it is to be is the launcher's word. */
static int map_table(Names *n, int fd)
{
        const int seals = F_SEAL_SHRINK | F_SEAL_GROW;
        void *data;

        if ((fcntl(fd, F_GET_SEALS) & seals) != seals)
                return -EPERM;
        data = mmap(NULL, PRIV_NAMES_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (data == MAP_FAILED)
                return neg_errno();
        n->table = data;
        n->size = PRIV_NAMES_BYTES;
        return 0;
}

int names_open(int take_fd, const PrivPool *pool, Names **ret)
{
        _cleanup_close_ int fd = take_fd;
        _cleanup_(names_closep) Names *n = NULL;
        int r;

        if (!is_pool_ok(pool))
                return -EPROTO;
        n = calloc(1, sizeof(*n));
        if (!n)
                return -ENOMEM;
        n->pool = *pool;
        n->n_max = MIN_OF(pool_room(&pool->v4), pool_room(&pool->v6));
        r = map_table(n, fd);
        if (r >= 0)
                r = load(n);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(n);
        return 0;
}

Names *names_close(Names *n)
{
        if (!n)
                return NULL;
        if (n->table)
                (void) munmap(n->table, n->size);
        map_done(&n->numbers);
        free(n->starts);
        free(n);
        return NULL;
}

int names_add(Names *n, const char *name, uint32_t *ret_number)
{
        uintptr_t known = (uintptr_t) map_get(&n->numbers, name, strlen(name));
        size_t size = strlen(name) + 1;
        char *to = n->table->text + n->n_used;
        int r;

        if (known > 0) {
                *ret_number = (uint32_t) (known - 1);
                return 0;
        }
        if (n->n >= n->n_max || n->size - sizeof(Table) - n->n_used < size)
                return -ENOSPC;
        memcpy(to, name, size);
        r = take_entry(n, to);
        if (r < 0)
                return r;
        /* Last: a worker that dies before has given the address to nobody. */
        __atomic_store_n(&n->table->n_used, (uint32_t) n->n_used, __ATOMIC_RELEASE);
        *ret_number = n->n - 1;
        return 0;
}

static const PrivPrefix *pool_of(const Names *n, uint32_t family)
{
        return family == 4 ? &n->pool.v4 : &n->pool.v6;
}

static size_t size_of(uint32_t family)
{
        return family == 4 ? 4 : 16;
}

PrivAddress names_address(const Names *n, uint32_t number, uint32_t family)
{
        PrivAddress a = pool_of(n, family)->address;
        uint32_t v = number + 1;

        /* The prefix ends in zeros. */
        for (size_t i = size_of(family); i > 0 && v > 0; i--, v >>= 8)
                a.bytes[i - 1] |= (uint8_t) v;
        return a;
}

bool names_hold(const Names *n, const PrivAddress *a)
{
        PrivAddress plain = address_unmap(a);
        const PrivPrefix *p = pool_of(n, plain.family);

        return plain.family != 0 && address_in_prefix(&plain, &p->address, p->length);
}

const char *names_find(const Names *n, const PrivAddress *a)
{
        PrivAddress plain = address_unmap(a), expected;
        size_t size = size_of(plain.family);
        uint32_t n_bits, number = 0;

        if (!names_hold(n, a))
                return NULL;
        n_bits = host_bits(pool_of(n, plain.family));
        for (size_t i = size - 4; i < size; i++)
                number = number << 8 | plain.bytes[i];
        if (n_bits < 32)
                number &= (UINT32_C(1) << n_bits) - 1;
        if (number == 0 || number > n->n)
                return NULL;
        expected = names_address(n, number - 1, plain.family);
        return address_equal(&plain, &expected) ? n->table->text + n->starts[number - 1] : NULL;
}
