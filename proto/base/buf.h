#pragma once

/* A byte buffer that grows up to a limit: bytes are put at the end and got from the front. */

#include <stddef.h>
#include <stdint.h>

#include "proto/base/macro.h"

typedef struct Buf {
        char *data;
        size_t begin; /* first byte not yet consumed */
        size_t end;   /* one behind the last byte */
        size_t room;
        size_t size_max; /* put beyond it is -ENOBUFS */
} Buf;

#define BUF_INIT(max) ((Buf){ .size_max = (max) })

void buf_done(Buf *b);

static inline size_t buf_size(const Buf *b)
{
        return b->end - b->begin;
}

static inline char *buf_front(Buf *b)
{
        /* Of a buffer that never held anything: NULL, without arithmetic on it. */
        return b->begin ? b->data + b->begin : b->data;
}

/* Makes room for n more bytes; *ret_tail is where to write them, then buf_commit() what was written. */
int buf_reserve(Buf *b, size_t n, char **ret_tail) _must_check_;
void buf_commit(Buf *b, size_t n);
int buf_put(Buf *b, const void *data, size_t n) _must_check_;
int buf_put_string(Buf *b, const char *s) _must_check_;
int buf_printf(Buf *b, const char *format, ...) _must_check_ _printf_(2, 3);
void buf_consume(Buf *b, size_t n);
