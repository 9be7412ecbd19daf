#pragma once

/* 128-bit random ids, shown as 32 hex digits. */

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "proto/base/macro.h"

#define ID_TEXT_SIZE 33U

typedef struct Id {
        uint8_t bytes[16];
} Id;

int id_random(Id *ret) _must_check_;
void id_format(const Id *id, char text[ID_TEXT_SIZE]);
int id_parse(const char *s, Id *ret) _must_check_;

static inline bool id_equal(const Id *a, const Id *b)
{
        return memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}
