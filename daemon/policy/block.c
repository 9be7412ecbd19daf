/* Opening a compiled policy: after block_check() the matcher reads it without looking back. */

#include "daemon/policy/block.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "daemon/policy/url_path.h"
#include "proto/base/fd.h"
#include "proto/base/hash.h"
#include "proto/base/str.h"

void block_name_init(BlockName *n, const uint8_t seed[16], const char *host)
{
        const char *end = host + strlen(host);
        uint64_t key = 0;

        n->n = 0;
        while (end > host && n->n < BLOCK_LABELS_MAX) {
                const char *start = end;
                uint8_t k[16];

                while (start > host && start[-1] != '.')
                        start--;
                memcpy(k, seed, sizeof(k));
                for (size_t i = 0; i < sizeof(key); i++)
                        k[i] ^= (uint8_t) (key >> (8 * i));
                key = hash_siphash(k, start, (size_t) (end - start));
                n->keys[n->n] = key;
                n->starts[n->n++] = start;
                end = start > host ? start - 1 : host;
        }
}

static bool table_ok(const PolicyBlock *b, uint32_t offset, uint32_t n, size_t item_size)
{
        return offset % 8 == 0 && offset >= sizeof(*b) && offset <= b->size &&
               n <= (b->size - offset) / item_size;
}

static bool slice_ok(uint32_t first, uint32_t n, uint32_t total)
{
        return first <= total && n <= total - first;
}

static bool header_ok(const PolicyBlock *b, size_t size)
{
        if (size < sizeof(*b) || size > POLICY_BLOCK_MAX || b->magic != BLOCK_MAGIC || b->size != size)
                return false;
        if (b->n_sets == 0 || b->n_sets > BLOCK_SETS_MAX || b->n_rules > BLOCK_RULES_MAX ||
            b->is_dns_real > 1)
                return false;
        if (!table_ok(b, b->sets, b->n_sets, sizeof(BlockSet)) ||
            !table_ok(b, b->rules, b->n_rules, sizeof(BlockRule)) ||
            !table_ok(b, b->ports, b->n_ports, sizeof(BlockPorts)) ||
            !table_ok(b, b->buckets, b->n_buckets, sizeof(BlockBucket)) ||
            !table_ok(b, b->terms, b->n_terms, sizeof(BlockTerms)) ||
            !table_ok(b, b->lists, b->n_lists, sizeof(uint32_t)) ||
            !table_ok(b, b->strings, b->strings_size, 1))
                return false;
        return b->strings_size > 0 && *block_string(b, 0) == '\0' &&
               *block_string(b, b->strings_size - 1) == '\0';
}

static bool string_ok(const PolicyBlock *b, uint32_t offset)
{
        return offset < b->strings_size;
}

/* Names of rules travel in fixed arrays of the private messages. */
static bool names_ok(const PolicyBlock *b, const BlockRule *r)
{
        return strnlen(block_string(b, r->id), PRIV_NAME_SIZE) < PRIV_NAME_SIZE &&
               strnlen(block_string(b, r->layer), PRIV_NAME_SIZE) < PRIV_NAME_SIZE &&
               strnlen(block_string(b, r->reason), PRIV_TEXT_SIZE) < PRIV_TEXT_SIZE &&
               strnlen(block_string(b, r->host), PRIV_HOST_SIZE) < PRIV_HOST_SIZE;
}

static bool rule_ok(const PolicyBlock *b, const BlockRule *r)
{
        if (r->verdict > VERDICT_ALLOW || (r->flags & ~(uint32_t) BLOCK_RULE_FLAGS_ALL))
                return false;
        if (!slice_ok(r->first_port, r->n_ports, b->n_ports) || r->n_ports > BLOCK_PORTS_MAX)
                return false;
        if (!string_ok(b, r->host) || !string_ok(b, r->id) || !string_ok(b, r->layer) ||
            !string_ok(b, r->text) || !string_ok(b, r->reason) || !names_ok(b, r))
                return false;
        /* Connections that end with their rule are found by its terms. */
        if (r->n_group > BLOCK_GROUP_MAX || r->terms > b->n_terms || (r->expires_usec != 0 && r->terms == 0))
                return false;
        if (!(r->flags & BLOCK_RULE_CIDR))
                return r->network.family == 0 && (r->flags & BLOCK_RULE_HOST);
        return (r->network.family == 4 && r->prefix_length <= 32) ||
               (r->network.family == 6 && r->prefix_length <= 128);
}

static bool list_ok(const PolicyBlock *b, uint32_t first, uint32_t n, size_t size)
{
        const uint32_t *list = (const uint32_t *) block_table(b, b->lists) + first;

        for (uint32_t i = 0; i < n; i++)
                if (!string_ok(b, list[i]) || strnlen(block_string(b, list[i]), size) >= size)
                        return false;
        return true;
}

static bool terms_ok(const PolicyBlock *b, const BlockTerms *t)
{
        if (t->flags & ~(uint32_t) BLOCK_TERMS_FLAGS_ALL)
                return false;
        if (!slice_ok(t->first_method, t->n_methods, b->n_lists) || t->n_methods > BLOCK_METHODS_MAX ||
            !slice_ok(t->first_path, t->n_paths, b->n_lists) || t->n_paths > BLOCK_PATHS_MAX)
                return false;
        return list_ok(b, t->first_method, t->n_methods, BLOCK_METHOD_SIZE) &&
               list_ok(b, t->first_path, t->n_paths, URL_PATTERN_MAX + 1);
}

static bool buckets_ok(const BlockBucket *buckets, const BlockSet *s, const BlockRule *rules)
{
        uint32_t run = 0, end = s->first_rule + s->n_rules;

        /* Twice round, so that a run over the end of the table counts as one; an empty bucket ends it. */
        for (uint32_t i = 0; i < 2 * s->n_buckets; i++) {
                uint32_t rule = buckets[i & (s->n_buckets - 1)].rule;

                run = rule == 0 ? 0 : run + 1;
                if (run > BLOCK_RUN_MAX || run > s->n_buckets)
                        return false;
                if (rule == 0)
                        continue;
                if (rule - 1 < s->first_rule + s->n_linear || rule - 1 >= end)
                        return false;
                if (rules[rule - 1].n_group == 0 || rules[rule - 1].n_group > end - (rule - 1))
                        return false;
        }
        return true;
}

static bool set_ok(const PolicyBlock *b, const BlockSet *s)
{
        const BlockRule *rules = block_table(b, b->rules);
        const BlockBucket *buckets = block_table(b, b->buckets);

        if (s->default_verdict > VERDICT_ALLOW || !string_ok(b, s->default_layer) ||
            !slice_ok(s->first_rule, s->n_rules, b->n_rules) || s->n_linear > s->n_rules ||
            s->n_linear > BLOCK_LINEAR_MAX || !slice_ok(s->first_bucket, s->n_buckets, b->n_buckets))
                return false;
        if (strnlen(block_string(b, s->default_layer), PRIV_NAME_SIZE) >= PRIV_NAME_SIZE)
                return false;
        if (s->n_buckets & (s->n_buckets - 1))
                return false;
        for (uint32_t i = 0; i < s->n_linear; i++)
                if ((rules[s->first_rule + i].flags & (BLOCK_RULE_CIDR | BLOCK_RULE_HOST)) !=
                    BLOCK_RULE_CIDR)
                        return false;
        for (uint32_t i = s->n_linear; i < s->n_rules; i++)
                if (!(rules[s->first_rule + i].flags & BLOCK_RULE_HOST))
                        return false;
        return buckets_ok(buckets + s->first_bucket, s, rules);
}

int block_check(const void *data, size_t size)
{
        const PolicyBlock *b = data;
        const BlockSet *sets;
        const BlockRule *rules;
        const BlockTerms *terms;

        if (!header_ok(b, size))
                return -EBADMSG;
        if (!string_ok(b, b->name) || !string_ok(b, b->text) ||
            strnlen(block_string(b, b->name), PRIV_NAME_SIZE) >= PRIV_NAME_SIZE)
                return -EBADMSG;
        rules = block_table(b, b->rules);
        for (uint32_t i = 0; i < b->n_rules; i++)
                if (!rule_ok(b, &rules[i]))
                        return -EBADMSG;
        terms = block_table(b, b->terms);
        for (uint32_t i = 0; i < b->n_terms; i++)
                if (!terms_ok(b, &terms[i]))
                        return -EBADMSG;
        sets = block_table(b, b->sets);
        for (uint32_t i = 0; i < b->n_sets; i++)
                if (!set_ok(b, &sets[i]))
                        return -EBADMSG;
        return 0;
}

int policy_block_open(int fd, const PolicyBlock **ret)
{
        const void *data = NULL;
        size_t size = 0;
        int r;

        r = fd_map_sealed(fd, POLICY_BLOCK_MAX, &data, &size);
        if (r < 0)
                return r == -EFBIG ? -EBADMSG : r;
        r = block_check(data, size);
        if (r < 0) {
                if (data)
                        (void) munmap((void *) (uintptr_t) data, size);
                return r;
        }
        *ret = data;
        return 0;
}

const PolicyBlock *policy_block_close(const PolicyBlock *b)
{
        if (b)
                (void) munmap((void *) (uintptr_t) b, b->size);
        return NULL;
}

const uint8_t *policy_block_digest(const PolicyBlock *b)
{
        return b->digest;
}

const char *policy_block_text(const PolicyBlock *b)
{
        return block_string(b, b->text);
}

const char *policy_block_name(const PolicyBlock *b)
{
        return block_string(b, b->name);
}

bool policy_block_has_terms(const PolicyBlock *b)
{
        return b->n_terms > 0;
}

bool policy_block_is_dns_real(const PolicyBlock *b)
{
        return b->is_dns_real != 0;
}

uint64_t policy_block_generation(const PolicyBlock *b)
{
        return b->generation;
}
