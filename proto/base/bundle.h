#pragma once

/*
 * Texts with names in one sealed memfd: what the launcher gathered is what the child checks and what workers
 * read, byte for byte. Whoever opens one checks every offset.
 */

#include <stdbool.h>

#include "proto/base/buf.h"

#define BUNDLE_NAME_SIZE   64U
#define BUNDLE_SOURCE_SIZE 1024U
#define BUNDLE_TEXTS_MAX   256U
#define BUNDLE_SIZE_MAX    (16U * 1024U * 1024U)

/* Texts that are no profiles: no profile has such a name. */
#define BUNDLE_MARK    '@'
#define BUNDLE_CEILING "@ceiling"
#define BUNDLE_SYSTEM  "@system"

typedef struct BundleText {
        char name[BUNDLE_NAME_SIZE];
        char source[BUNDLE_SOURCE_SIZE]; /* the file that it was */
        uint32_t is_shipped;
        uint32_t padding;
        uint64_t offset; /* of the text in the bundle; a NUL stands behind it */
        uint64_t size;
} BundleText;

/* ---- making one ---- */

typedef struct BundleBuilder {
        BundleText *texts;
        size_t n;
        Buf bytes;
} BundleBuilder;

#define BUNDLE_BUILDER_INIT ((BundleBuilder){ .bytes = BUF_INIT(BUNDLE_SIZE_MAX) })

/* Copies. -E2BIG: too many texts; -ENOBUFS: they are too large together, or a name or source is too long. */
int bundle_add(BundleBuilder *b, const BundleText *of, const char *text, size_t size) _must_check_;
int bundle_seal(BundleBuilder *b, int *ret_fd) _must_check_;
void bundle_builder_done(BundleBuilder *b);

/* ---- reading one ---- */

typedef struct Bundle Bundle;

/* -EPERM: not sealed; -EBADMSG: not a bundle, or a damaged one. The descriptor stays the caller's. */
int bundle_open(int fd, Bundle **ret) _must_check_;
Bundle *bundle_free(Bundle *b);
DEFINE_CLEANUP(Bundle *, bundle_free)

size_t bundle_n(const Bundle *b);
const BundleText *bundle_at(const Bundle *b, size_t i);
/* NUL-terminated beyond its size; lives as long as the bundle. */
const char *bundle_text(const Bundle *b, const BundleText *t);
/* The first of this name, or NULL. */
const BundleText *bundle_find(const Bundle *b, const char *name);
