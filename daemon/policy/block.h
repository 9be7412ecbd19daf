#pragma once

/*
 * Layout of a compiled policy, for its writer, its reader and their tests. Offsets of tables count from the
 * start of the block, offsets of strings from the start of the strings, whose first and last bytes are NUL.
 *
 * The rules of a set stand together: first those with a cidr alone (n_linear of them, tried one by one),
 * then those with a host, equal hosts side by side. Buckets are an open hash table of such groups: the key
 * of a name is the chained hash of its labels from the last to the first, so that one walk over the labels
 * yields the key of the name and of every parent. A block keeps runs of used buckets short, which bounds a
 * look-up whoever wrote it.
 *
 * What only few rules say (limits, methods, paths, an end) stands apart in terms, and a rule has the number
 * of its own: to all others it costs one comparison with 0.
 */

#include "daemon/policy/compiled.h"

#define BLOCK_DIGEST_SIZE  32U
#define BLOCK_MAGIC        UINT32_C(0x33425053) /* "SPB3" */
#define BLOCK_SETS_MAX     8U
#define BLOCK_RULES_MAX    500000U
#define BLOCK_LINEAR_MAX   16384U /* per set */
#define BLOCK_GROUP_MAX    1024U  /* rules of one host */
#define BLOCK_PORTS_MAX    64U    /* ranges of one rule */
#define BLOCK_RUN_MAX      512U   /* used buckets in a row */
#define BLOCK_METHODS_MAX  32U    /* of one rule */
#define BLOCK_PATHS_MAX    32U    /* of one rule */
#define BLOCK_METHOD_SIZE  32U
#define BLOCK_LABELS_MAX   128U
#define BLOCK_KEY_WILDCARD UINT64_C(0x9e3779b97f4a7c15)

struct PolicyBlock {
        uint32_t magic;
        uint32_t size;
        uint64_t generation;
        uint8_t seed[16];
        uint8_t digest[BLOCK_DIGEST_SIZE];
        uint32_t sets;
        uint32_t n_sets;
        uint32_t rules;
        uint32_t n_rules;
        uint32_t ports;
        uint32_t n_ports;
        uint32_t buckets;
        uint32_t n_buckets;
        uint32_t strings;
        uint32_t strings_size;
        uint32_t name;
        uint32_t text;
        uint32_t terms;
        uint32_t n_terms;
        uint32_t lists; /* offsets of strings */
        uint32_t n_lists;
        uint32_t is_dns_real;
        uint32_t padding;
};

typedef struct BlockSet {
        uint32_t default_verdict;
        uint32_t default_layer;
        uint32_t first_rule;
        uint32_t n_rules;
        uint32_t n_linear;
        uint32_t first_bucket;
        uint32_t n_buckets;       /* power of two, or 0 */
        uint32_t wildcard_depths; /* bit n: a wildcard below a name of n labels exists (31: or more) */
} BlockSet;

enum BlockRuleFlags {
        BLOCK_RULE_HOST = 1 << 0,
        BLOCK_RULE_WILDCARD = 1 << 1,
        BLOCK_RULE_CIDR = 1 << 2,
        BLOCK_RULE_FLAGS_ALL = (1 << 3) - 1,
};

typedef struct BlockRule {
        uint64_t expires_usec; /* 0: never */
        uint32_t verdict;
        uint32_t flags;
        uint32_t protocols; /* bit per Protocol of a request */
        uint32_t first_port;
        uint32_t n_ports; /* 0: every port */
        uint32_t n_group; /* in the first rule of a host: how many; else 0 */
        uint32_t host;    /* of a wildcard without the "*." */
        uint32_t id;
        uint32_t layer;
        uint32_t text;
        uint32_t reason;
        uint32_t prefix_length;
        PrivAddress network;
        uint32_t terms; /* 1 + index of its terms; 0: none */
} BlockRule;

enum BlockTermsFlags {
        BLOCK_TERMS_METHODS = 1 << 0, /* the rule is about its methods alone, also where it lists none */
        BLOCK_TERMS_PATHS = 1 << 1,   /* likewise */
        BLOCK_TERMS_TLS_ANY = 1 << 2,
        BLOCK_TERMS_DNS = 1 << 3, /* times a PolicyDnsType */
        BLOCK_TERMS_FLAGS_ALL = (1 << 7) - 1,
};

/* Limits: 0 is none. */
typedef struct BlockTerms {
        uint64_t max_upload_bytes;
        uint64_t max_download_bytes;
        uint64_t idle_usec;
        uint32_t max_connections;
        uint32_t flags;
        uint32_t first_method;
        uint32_t n_methods;
        uint32_t first_path;
        uint32_t n_paths;
} BlockTerms;

typedef struct BlockPorts {
        uint16_t first;
        uint16_t last;
} BlockPorts;

typedef struct BlockBucket {
        uint32_t tag;  /* upper half of the key */
        uint32_t rule; /* 1 + index of the group's first rule; 0: empty */
} BlockBucket;

/* Keys of a canonical name: keys[i] of its last i + 1 labels, which begin at starts[i]. Returns their
 * number. */
typedef struct BlockName {
        size_t n;
        uint64_t keys[BLOCK_LABELS_MAX];
        const char *starts[BLOCK_LABELS_MAX];
} BlockName;

void block_name_init(BlockName *n, const uint8_t seed[16], const char *host);

/* Everything that policy_block_open() demands of the bytes; data is 8-aligned. */
int block_check(const void *data, size_t size) _must_check_;

static inline const char *block_string(const PolicyBlock *b, uint32_t offset)
{
        return (const char *) b + b->strings + offset;
}

static inline const void *block_table(const PolicyBlock *b, uint32_t offset)
{
        return (const char *) b + offset;
}
