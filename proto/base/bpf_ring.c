#include "proto/base/bpf_ring.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "proto/base/error.h"

/*
 * A page with our position, then one with the kernel's and the records, which are mapped twice in a row: one
 * that wraps round can be read in one piece. Each has a head of 8 bytes and is aligned to 8.
 */

#define RECORD_HEAD  8U
#define RECORD_ALIGN 8U
#define BUSY         UINT32_C(0x80000000) /* BPF_RINGBUF_BUSY_BIT, as a number without a sign */
#define DISCARDED    UINT32_C(0x40000000)

struct BpfRing {
        size_t page;
        size_t size;
        unsigned long *consumer; /* mapped */
        const char *producer;    /* mapped: its page, then the records */
};

int bpf_ring_open(int fd, size_t size, BpfRing **ret)
{
        size_t page = (size_t) sysconf(_SC_PAGESIZE);
        BpfRing *r = calloc(1, sizeof(*r));
        void *p;

        if (!r)
                return -ENOMEM;
        *r = (BpfRing){ .page = page, .size = MAX_OF(page, size) };
        p = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (p != MAP_FAILED)
                r->consumer = p;
        p = mmap(NULL, page + 2 * r->size, PROT_READ, MAP_SHARED, fd, (off_t) page);
        if (p != MAP_FAILED)
                r->producer = p;
        if (!r->consumer || !r->producer) {
                int error = neg_errno();

                (void) bpf_ring_close(r);
                return error;
        }
        *ret = r;
        return 0;
}

BpfRing *bpf_ring_close(BpfRing *r)
{
        if (!r)
                return NULL;
        if (r->consumer)
                (void) munmap(r->consumer, r->page);
        if (r->producer)
                (void) munmap((void *) (uintptr_t) r->producer, r->page + 2 * r->size);
        free(r);
        return NULL;
}

static unsigned long producer_of(const BpfRing *r)
{
        return __atomic_load_n((const unsigned long *) (const void *) r->producer, __ATOMIC_ACQUIRE);
}

/* 1: a record of n bytes at *ret; 0: none now, or one that is being written. */
static int look(const BpfRing *r, unsigned long at, const char **ret, size_t *ret_n)
{
        const char *head = r->producer + r->page + (at & (r->size - 1));
        uint32_t length;

        if (at == producer_of(r))
                return 0;
        length = __atomic_load_n((const uint32_t *) (const void *) head, __ATOMIC_ACQUIRE);
        if (length & BUSY)
                return 0;
        *ret = length & DISCARDED ? NULL : head + RECORD_HEAD;
        *ret_n = MIN_OF((size_t) (length & ~DISCARDED), r->size);
        return 1;
}

/* A worker before us may have left any number. */
static unsigned long position_of(const BpfRing *r)
{
        unsigned long at = __atomic_load_n(r->consumer, __ATOMIC_RELAXED), end = producer_of(r);

        return at % RECORD_ALIGN == 0 && end - at <= r->size ? at : end;
}

bool bpf_ring_take(BpfRing *r, void *record, size_t size)
{
        unsigned long at = position_of(r);
        bool is_found = false;
        const char *data;
        size_t n;

        while (!is_found && look(r, at, &data, &n) > 0) {
                is_found = data && n == size;
                if (is_found)
                        memcpy(record, data, size);
                at += (n + RECORD_HEAD + RECORD_ALIGN - 1) & ~(size_t) (RECORD_ALIGN - 1);
                __atomic_store_n(r->consumer, at, __ATOMIC_RELEASE);
        }
        return is_found;
}
