#pragma once

/*
 * JSON with comments, for texts that people write: a tree whose every node knows its line and column. Strict
 * in all else: RFC 8259 plus // and block comments, well-formed UTF-8, no duplicate keys, bounded depth and
 * size.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/base/macro.h"

#define TEXT_SIZE_MAX   (32U * 1024U * 1024U)
#define TEXT_DEPTH_MAX  16U
#define TEXT_NODES_MAX  2000000U
#define TEXT_STRING_MAX 8192U
#define TEXT_KEYS_MAX   256U /* of one object */

typedef enum TextType {
        TEXT_NULL = 0,
        TEXT_BOOLEAN,
        TEXT_INTEGER,
        TEXT_REAL, /* a number that is no int64: nothing takes one */
        TEXT_STRING,
        TEXT_ARRAY,
        TEXT_OBJECT,
        _TEXT_TYPE_MAX,
} TextType;

const char *text_type_to_string(TextType t);

typedef struct TextNode {
        TextType type;
        unsigned line; /* of the value; from 1; columns count characters */
        unsigned column;
        char *key;    /* NULL but for members of objects */
        size_t index; /* in an array */
        struct TextNode *parent;
        struct TextNode *first;
        struct TextNode *last;
        struct TextNode *next;
        size_t n; /* children */
        char *string;
        int64_t integer; /* booleans: 0, 1 */
} TextNode;

typedef struct TextError {
        unsigned line;
        unsigned column;
        const char *message; /* static */
} TextError;

/* -EINVAL: *ret_error says what and where. */
int text_parse(const char *text, size_t size, TextNode **ret, TextError *ret_error) _must_check_;
TextNode *text_free(TextNode *n);
DEFINE_CLEANUP(TextNode *, text_free)

/* Where a node stands, e.g. network.rules[2].ports; cut at the end where it does not fit. */
void text_path(const TextNode *n, char *ret, size_t size);
