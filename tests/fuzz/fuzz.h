#pragma once

/*
 * What the targets share. A target says with sb_assert() what must hold for every input; inputs are copied
 * where the code under test wants an alignment, into blocks of their exact size, so that ASan sees a byte
 * too much.
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "proto/base/macro.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Takes the first byte of the input; 0 where there is none. */
static inline uint8_t fuzz_take_byte(const uint8_t **data, size_t *size)
{
        if (*size == 0)
                return 0;
        (*size)--;
        return *(*data)++;
}

/* A copy for the caller to free, aligned for any struct. */
static inline void *fuzz_copy(const void *data, size_t size)
{
        void *copy = malloc(size > 0 ? size : 1);

        sb_assert(copy);
        if (size > 0)
                memcpy(copy, data, size);
        return copy;
}

/* Reads every byte up to the NUL: what a caller may do with a string that was called good. */
static inline void fuzz_read_string(const char *s)
{
        static volatile size_t sink;

        sb_assert(s);
        sink = sink + strlen(s);
}
