#pragma once

/* Answers of name servers about what is not an address, as we pass them on: understood and written anew. */

#include <stddef.h>
#include <stdint.h>

#include "proto/base/buf.h"

#define RECORDS_MAX 32U

/* The type of RFC 1035 for a PolicyDnsType. */
int records_type(uint32_t dns_type);

/* Appends what PrivResolved says of records: those of the type in the answer, as many as fit. -EBADMSG: it
 * is no answer. */
int records_put(Buf *to, uint32_t dns_type, const unsigned char *answer, size_t size) _must_check_;
