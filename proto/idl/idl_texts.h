#pragma once

/* The embedded texts, made by embed.py at build time, sorted by the interface's name. */

#include <stddef.h>

typedef struct IdlText {
        const char *text; /* NUL-terminated behind size */
        size_t size;
} IdlText;

extern const IdlText idl_texts[];
extern const size_t idl_n_texts;
