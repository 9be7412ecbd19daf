#pragma once

/* "HOST[:PORT]" as a client wrote it, by the strict grammar: one request, one destination, no second
 * reading. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/base/macro.h"
#include "proto/idl/privsep.h"

typedef struct Authority {
        char host[PRIV_HOST_SIZE]; /* canonical name; "" where address is the destination */
        PrivAddress address;       /* family 0 where host is */
        uint16_t port;
} Authority;

#define AUTHORITY_TEXT_SIZE (PRIV_HOST_SIZE + 8U)

/* default_port 0: the port must be written. -EINVAL: not of the grammar. */
int authority_parse(const char *s, size_t size, uint16_t default_port, Authority *ret) _must_check_;

/* The host alone, by the same grammar but without brackets. */
int authority_from_host(const char *s, size_t size, uint16_t port, Authority *ret) _must_check_;

bool authority_equal(const Authority *a, const Authority *b);

/* Canonical host without port and brackets. */
void authority_format_host(const Authority *a, char text[PRIV_HOST_SIZE]);

/* As it stands in a Host header: the port only where it is not the default. */
void authority_format(const Authority *a, uint16_t default_port, char text[AUTHORITY_TEXT_SIZE]);
