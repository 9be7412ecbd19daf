#include "proto/base/bundle.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "proto/base/fd.h"
#include "proto/base/str.h"

#define BUNDLE_MAGIC UINT64_C(0x31656c646e756253)

typedef struct BundleHeader {
        uint64_t magic;
        uint64_t n;
} BundleHeader;

struct Bundle {
        const BundleHeader *header; /* the mapping */
        size_t size;
};

/* ---- making one ---- */

int bundle_add(BundleBuilder *b, const BundleText *of, const char *text, size_t size)
{
        BundleText *texts;
        int r;

        if (b->n >= BUNDLE_TEXTS_MAX)
                return -E2BIG;
        texts = reallocarray(b->texts, b->n + 1, sizeof(*texts));
        if (!texts)
                return -ENOMEM;
        b->texts = texts;
        texts[b->n] = *of;
        texts[b->n].offset = buf_size(&b->bytes);
        texts[b->n].size = size;
        r = buf_put(&b->bytes, text, size);
        if (r >= 0)
                r = buf_put(&b->bytes, "", 1);
        if (r >= 0)
                b->n++;
        return r;
}

int bundle_seal(BundleBuilder *b, int *ret_fd)
{
        BundleHeader header = { .magic = BUNDLE_MAGIC, .n = b->n };
        size_t n_table = sizeof(header) + b->n * sizeof(*b->texts);
        _cleanup_(buf_done) Buf all = BUF_INIT(BUNDLE_SIZE_MAX + n_table);
        int r;

        for (size_t i = 0; i < b->n; i++)
                b->texts[i].offset += n_table;
        r = buf_put(&all, &header, sizeof(header));
        if (r >= 0 && b->n > 0)
                r = buf_put(&all, b->texts, b->n * sizeof(*b->texts));
        if (r >= 0 && b->n > 0)
                r = buf_put(&all, buf_front(&b->bytes), buf_size(&b->bytes));
        return r < 0 ? r : fd_memfd_sealed("bundle", buf_front(&all), buf_size(&all), ret_fd);
}

void bundle_builder_done(BundleBuilder *b)
{
        free(b->texts);
        b->texts = NULL;
        b->n = 0;
        buf_done(&b->bytes);
}

/* ---- reading one ---- */

static const BundleText *table(const Bundle *b)
{
        return (const void *) (b->header + 1);
}

static bool text_is_sound(const Bundle *b, const BundleText *t, size_t n_table)
{
        if (memchr(t->name, '\0', sizeof(t->name)) == NULL ||
            memchr(t->source, '\0', sizeof(t->source)) == NULL)
                return false;
        if (t->offset < n_table || t->offset >= b->size || t->size >= b->size - t->offset)
                return false;
        return ((const char *) b->header)[t->offset + t->size] == '\0';
}

static bool is_sound(const Bundle *b)
{
        size_t n_table;

        if (b->size < sizeof(*b->header) || b->header->magic != BUNDLE_MAGIC ||
            b->header->n > BUNDLE_TEXTS_MAX)
                return false;
        n_table = sizeof(*b->header) + (size_t) b->header->n * sizeof(BundleText);
        if (b->size < n_table)
                return false;
        for (size_t i = 0; i < b->header->n; i++) {
                if (!text_is_sound(b, &table(b)[i], n_table))
                        return false;
        }
        return true;
}

int bundle_open(int fd, Bundle **ret)
{
        _cleanup_(bundle_freep) Bundle *b = calloc(1, sizeof(*b));
        const void *data;
        int r;

        if (!b)
                return -ENOMEM;
        r = fd_map_sealed(fd, BUNDLE_SIZE_MAX + sizeof(BundleHeader) + BUNDLE_TEXTS_MAX * sizeof(BundleText),
                          &data, &b->size);
        if (r < 0)
                return r;
        b->header = data;
        if (!is_sound(b))
                return -EBADMSG;
        *ret = TAKE_PTR(b);
        return 0;
}

Bundle *bundle_free(Bundle *b)
{
        if (b && b->header)
                (void) munmap((void *) (uintptr_t) b->header, b->size);
        free(b);
        return NULL;
}

size_t bundle_n(const Bundle *b)
{
        return b ? (size_t) b->header->n : 0;
}

const BundleText *bundle_at(const Bundle *b, size_t i)
{
        return &table(b)[i];
}

const char *bundle_text(const Bundle *b, const BundleText *t)
{
        return (const char *) b->header + t->offset;
}

const BundleText *bundle_find(const Bundle *b, const char *name)
{
        for (size_t i = 0; i < bundle_n(b); i++) {
                if (str_equal(table(b)[i].name, name))
                        return &table(b)[i];
        }
        return NULL;
}
