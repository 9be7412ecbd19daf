#pragma once

/* Text to numbers: the whole string or -EINVAL; beyond the range -ERANGE. No signs but '-' for signed, no
 * spaces, no other bases. */

#include <stdint.h>

#include "proto/base/macro.h"

int parse_u64(const char *s, uint64_t *ret) _must_check_;
int parse_i64(const char *s, int64_t *ret) _must_check_;
int parse_u32(const char *s, uint32_t *ret) _must_check_;

/* 1 to 65535. */
int parse_port(const char *s, uint16_t *ret) _must_check_;

/* Bytes: a number with K, M, G or T (powers of 1024) or nothing. */
int parse_size(const char *s, uint64_t *ret_bytes) _must_check_;

/* Microseconds: a number with us, ms, s, m, h, d; without a unit seconds. */
int parse_duration(const char *s, uint64_t *ret_usec) _must_check_;

/* Exactly 2 * size lower- or upper-case hex digits. */
int parse_hex(const char *s, void *ret_data, size_t size) _must_check_;
