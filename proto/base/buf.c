#include "proto/base/buf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define BUF_ROOM_MIN 512U

void buf_done(Buf *b)
{
        free(b->data);
        *b = BUF_INIT(b->size_max);
}

static void buf_compact(Buf *b)
{
        if (b->begin == 0)
                return;
        if (b->end > b->begin)
                memmove(b->data, b->data + b->begin, b->end - b->begin);
        b->end -= b->begin;
        b->begin = 0;
}

int buf_reserve(Buf *b, size_t n, char **ret_tail)
{
        size_t room = b->room ? b->room : BUF_ROOM_MIN;
        char *bigger;

        if (n > b->size_max || buf_size(b) > b->size_max - n)
                return -ENOBUFS;
        if (b->room - b->end < n)
                buf_compact(b);
        if (b->room - b->end < n) {
                while (room - b->end < n)
                        room *= 2;
                bigger = realloc(b->data, room);
                if (!bigger)
                        return -ENOMEM;
                b->data = bigger;
                b->room = room;
        }
        *ret_tail = b->data + b->end;
        return 0;
}

void buf_commit(Buf *b, size_t n)
{
        sb_assert(b->room - b->end >= n);
        b->end += n;
}

int buf_put(Buf *b, const void *data, size_t n)
{
        char *tail;
        int r;

        if (n == 0)
                return 0;
        r = buf_reserve(b, n, &tail);
        if (r < 0)
                return r;
        memcpy(tail, data, n);
        buf_commit(b, n);
        return 0;
}

int buf_put_string(Buf *b, const char *s)
{
        return buf_put(b, s, strlen(s));
}

int buf_printf(Buf *b, const char *format, ...)
{
        char stack[512];
        va_list ap;
        char *tail;
        int n, r;

        va_start(ap, format);
        n = vsnprintf(stack, sizeof(stack), format, ap);
        va_end(ap);
        if (n < 0)
                return -EINVAL;
        if ((size_t) n < sizeof(stack))
                return buf_put(b, stack, (size_t) n);
        r = buf_reserve(b, (size_t) n + 1, &tail);
        if (r < 0)
                return r;
        va_start(ap, format);
        (void) vsnprintf(tail, (size_t) n + 1, format, ap);
        va_end(ap);
        buf_commit(b, (size_t) n);
        return 0;
}

void buf_consume(Buf *b, size_t n)
{
        sb_assert(buf_size(b) >= n);
        b->begin += n;
        if (b->begin == b->end)
                b->begin = b->end = 0;
}
