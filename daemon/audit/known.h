#pragma once

/*
 * What the dictionary of a segment was asked for lately, with its numbers: rows of the same session, policy,
 * rule and host look each up once. Only a help: what is not here is asked for again.
 */

#include <stdint.h>

#include "proto/base/hash.h"

typedef struct Known {
        Map numbers;
} Known;

#define KNOWN_INIT ((Known){ .numbers = MAP_INIT })

/* -1: not known. */
int64_t known_find(const Known *k, const void *key, size_t size);
/* Bounded: where there are too many, it begins anew. Copies the key. */
void known_put(Known *k, const void *key, size_t size, int64_t number);
void known_clear(Known *k);
