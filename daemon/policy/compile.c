/* Writing the block that audit and dialer read: see block.h for its layout. */

#include <errno.h>
#include <openssl/evp.h>
#include <string.h>
#include <sys/random.h>

#include "daemon/policy/block.h"
#include "daemon/policy/model.h"
#include "daemon/policy/url_path.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

#define SEED_TRIES 8U

typedef struct Compiler {
        PolicyBlock header;
        BlockSet sets[BLOCK_SETS_MAX];
        Buf rules;
        Buf ports;
        uint32_t last_ports; /* where the list of the last rule begins */
        Buf buckets;
        Buf terms;
        Buf lists;
        Buf strings;
} Compiler;

static void compiler_done(Compiler *c)
{
        buf_done(&c->rules);
        buf_done(&c->ports);
        buf_done(&c->buckets);
        buf_done(&c->terms);
        buf_done(&c->lists);
        buf_done(&c->strings);
}

static int put_string(Compiler *c, const char *s, uint32_t *ret)
{
        *ret = 0;
        if (!s || s[0] == '\0')
                return 0;
        *ret = (uint32_t) buf_size(&c->strings);
        return buf_put(&c->strings, s, strlen(s) + 1);
}

/* Bytes that nobody looks at may be anything, so that each denial covers them. It leaves tunnels, where HTTP
 * and TLS are told apart: unless it is about both. One that names no protocol means the host, whatever is
 * spoken. */
static uint32_t protocols_of_denial(const NetRule *r)
{
        if (!r->has_protocol && !r->has_methods && !r->has_paths)
                return (1U << _PROTOCOL_MAX) - 1;
        switch (r->protocol) {
        case RULE_HTTP:
                return 1U << PROTOCOL_TCP | 1U << PROTOCOL_HTTP;
        case RULE_TLS:
                return 1U << PROTOCOL_TCP | 1U << PROTOCOL_TLS;
        case RULE_TCP:
                return 1U << PROTOCOL_TCP;
        case RULE_ANY:
        case _RULE_PROTOCOL_MAX:
        default:
                return 1U << PROTOCOL_TCP | 1U << PROTOCOL_ANY | 1U << PROTOCOL_HTTP | 1U << PROTOCOL_TLS;
        }
}

static uint32_t protocols_of(const NetRule *r)
{
        if (r->action == VERDICT_DENY)
                return protocols_of_denial(r);
        /* Which requests a tunnel will carry is not known when it is decided. */
        if (r->has_methods || r->has_paths)
                return 1U << PROTOCOL_HTTP;
        switch (r->protocol) {
        case RULE_HTTP:
                return 1U << PROTOCOL_ANY | 1U << PROTOCOL_HTTP;
        case RULE_TLS:
                return 1U << PROTOCOL_ANY | 1U << PROTOCOL_TLS;
        case RULE_TCP:
                return 1U << PROTOCOL_TCP;
        case RULE_ANY:
        case _RULE_PROTOCOL_MAX:
        default:
                return 1U << PROTOCOL_ANY | 1U << PROTOCOL_HTTP | 1U << PROTOCOL_TLS;
        }
}

/* Rules with the same ports as the one before share them, as do all that name none: a decision finds them in
 * the processor's cache. */
static bool has_ports_at(Compiler *c, size_t first, const PortRange *ports, size_t n)
{
        const BlockPorts *all = (const BlockPorts *) (void *) buf_front(&c->ports);

        if (first + n > buf_size(&c->ports) / sizeof(BlockPorts))
                return false;
        for (size_t i = 0; i < n; i++)
                if (all[first + i].first != ports[i].first || all[first + i].last != ports[i].last)
                        return false;
        return true;
}

static int put_ports(Compiler *c, const NetRule *r, BlockRule *to)
{
        static const PortRange standard[] = { { 80, 80 }, { 443, 443 } }, none[] = { { 1, 0 } };
        const PortRange *ports = r->ports;
        size_t n = r->n_ports;

        if (r->is_empty_ports) {
                ports = none;
                n = ELEMENTSOF(none);
        } else if (n == 0 && r->action != VERDICT_DENY) {
                ports = standard;
                n = ELEMENTSOF(standard);
        }
        to->n_ports = (uint32_t) n;
        if (has_ports_at(c, c->last_ports, ports, n)) {
                to->first_port = (uint32_t) c->last_ports;
                return 0;
        }
        c->last_ports = to->first_port = (uint32_t) (buf_size(&c->ports) / sizeof(BlockPorts));
        for (size_t i = 0; i < n; i++) {
                int e = buf_put(&c->ports, &(BlockPorts){ ports[i].first, ports[i].last },
                                sizeof(BlockPorts));

                if (e < 0)
                        return e;
        }
        return 0;
}

static int put_strings(Compiler *c, const StringList *list, uint32_t *ret_first, uint32_t *ret_n)
{
        *ret_first = (uint32_t) (buf_size(&c->lists) / sizeof(uint32_t));
        *ret_n = (uint32_t) list->n;
        for (size_t i = 0; i < list->n; i++) {
                uint32_t offset;
                int e = put_string(c, list->items[i], &offset);

                if (e >= 0)
                        e = buf_put(&c->lists, &offset, sizeof(offset));
                if (e < 0)
                        return e;
        }
        return 0;
}

/* The patterns as they are matched, not as they were written. */
static int put_paths(Compiler *c, const StringList *paths, BlockTerms *to)
{
        to->first_path = (uint32_t) (buf_size(&c->lists) / sizeof(uint32_t));
        to->n_paths = (uint32_t) paths->n;
        for (size_t i = 0; i < paths->n; i++) {
                char pattern[URL_PATTERN_MAX + 1];
                uint32_t offset;
                int e;

                if (url_pattern_compile(paths->items[i], pattern))
                        return -EINVAL;
                e = put_string(c, pattern, &offset);
                if (e >= 0)
                        e = buf_put(&c->lists, &offset, sizeof(offset));
                if (e < 0)
                        return e;
        }
        return 0;
}

static int put_terms(Compiler *c, const NetRule *r, BlockRule *to)
{
        BlockTerms t = { .max_upload_bytes = r->max_upload_bytes,
                         .max_download_bytes = r->max_download_bytes,
                         .idle_usec = r->idle_usec,
                         .max_connections = r->max_connections };
        int e;

        if (!net_rule_has_terms(r))
                return 0;
        t.flags = (r->has_methods ? BLOCK_TERMS_METHODS : 0U) | (r->has_paths ? BLOCK_TERMS_PATHS : 0U) |
                  (r->is_tls_any ? BLOCK_TERMS_TLS_ANY : 0U) | r->dns_types * BLOCK_TERMS_DNS;
        e = put_strings(c, &r->methods, &t.first_method, &t.n_methods);
        if (e >= 0)
                e = put_paths(c, &r->paths, &t);
        if (e >= 0)
                e = buf_put(&c->terms, &t, sizeof(t));
        to->terms = (uint32_t) (buf_size(&c->terms) / sizeof(t));
        return e;
}

static int put_rule_strings(Compiler *c, const NetRule *r, BlockRule *to)
{
        char name[PRIV_NAME_SIZE];
        int e;

        e = rule_name(r, name);
        if (e >= 0)
                e = put_string(c, name, &to->id);
        if (e >= 0)
                e = put_string(c, r->host, &to->host);
        if (e >= 0)
                e = put_string(c, r->layer, &to->layer);
        if (e >= 0)
                e = put_string(c, r->reason, &to->reason);
        to->text = (uint32_t) buf_size(&c->strings);
        if (e >= 0)
                e = rule_format(r, &c->strings);
        return e < 0 ? e : buf_put(&c->strings, "", 1);
}

static int put_rule(Compiler *c, const NetRule *r, uint32_t n_group)
{
        BlockRule to = { .expires_usec = r->expires_usec,
                         .verdict = r->action,
                         .protocols = protocols_of(r),
                         .n_group = n_group };
        int e;

        if (r->host)
                to.flags |= BLOCK_RULE_HOST | (r->is_wildcard ? BLOCK_RULE_WILDCARD : 0U);
        if (r->has_cidr) {
                to.flags |= BLOCK_RULE_CIDR;
                to.network = r->network;
                to.prefix_length = r->prefix_length;
        }
        e = put_ports(c, r, &to);
        if (e >= 0)
                e = put_rule_strings(c, r, &to);
        if (e >= 0)
                e = put_terms(c, r, &to);
        return e < 0 ? e : buf_put(&c->rules, &to, sizeof(to));
}

/* Rules with a cidr alone first, then by host: equal ones side by side; the rest only makes the order one.
 */
static int compare_rules(const void *a, const void *b)
{
        const NetRule *x = *(const NetRule *const *) a, *y = *(const NetRule *const *) b;
        int r;

        if (!x->host || !y->host) {
                if (x->host || y->host)
                        return x->host ? 1 : -1;
                r = memcmp(&x->network, &y->network, sizeof(x->network));
                if (r == 0 && x->prefix_length != y->prefix_length)
                        r = x->prefix_length < y->prefix_length ? -1 : 1;
        } else {
                r = strcmp(x->host, y->host);
                if (r == 0)
                        r = (int) x->is_wildcard - (int) y->is_wildcard;
        }
        if (r == 0)
                r = (int) x->action - (int) y->action;
        if (r == 0)
                r = strcmp(x->id ? x->id : "", y->id ? y->id : "");
        return r != 0 ? r : strcmp(x->layer, y->layer);
}

static uint32_t group_size(const NetRule *const *rules, size_t i, size_t n)
{
        size_t end = i + 1;

        while (end < n && str_equal(rules[end]->host, rules[i]->host) &&
               rules[end]->is_wildcard == rules[i]->is_wildcard)
                end++;
        return (uint32_t) (end - i);
}

static int put_rules(Compiler *c, BlockSet *set, const NetRule *const *rules, size_t n)
{
        uint32_t rest = 0;
        int r;

        for (size_t i = 0; i < n; i++) {
                uint32_t group = 0;

                if (!rules[i]->host) {
                        set->n_linear++;
                } else if (rest == 0) {
                        group = rest = group_size(rules, i, n);
                }
                if (set->n_linear > BLOCK_LINEAR_MAX || group > BLOCK_GROUP_MAX)
                        return -E2BIG;
                r = put_rule(c, rules[i], group);
                if (r < 0)
                        return r;
                if (rest > 0)
                        rest--;
        }
        return 0;
}

static int put_set(Compiler *c, const Policy *p)
{
        _cleanup_free_ const NetRule **rules = NULL;
        BlockSet *set = &c->sets[c->header.n_sets++];
        int r;

        rules = calloc(p->n_rules + 1, sizeof(*rules));
        if (!rules)
                return -ENOMEM;
        for (size_t i = 0; i < p->n_rules; i++)
                rules[i] = &p->rules[i];
        if (p->n_rules > 1)
                qsort(rules, p->n_rules, sizeof(*rules), compare_rules);
        *set = (BlockSet){ .default_verdict = p->network_default,
                           .first_rule = (uint32_t) (buf_size(&c->rules) / sizeof(BlockRule)),
                           .n_rules = (uint32_t) p->n_rules };
        r = put_string(c, p->default_layer, &set->default_layer);
        return r < 0 ? r : put_rules(c, set, rules, p->n_rules);
}

/* ---- the index ---- */

static void index_rule(Compiler *c, BlockSet *set, BlockBucket *buckets, uint32_t i)
{
        const BlockRule *r = (const BlockRule *) (void *) buf_front(&c->rules) + i;
        bool is_wildcard = (r->flags & BLOCK_RULE_WILDCARD) != 0;
        BlockName name;
        uint64_t key;
        uint32_t at;

        block_name_init(&name, c->header.seed, buf_front(&c->strings) + r->host);
        if (is_wildcard)
                set->wildcard_depths |= UINT32_C(1) << (name.n < 31 ? name.n : 31);
        key = name.keys[name.n - 1] ^ (is_wildcard ? BLOCK_KEY_WILDCARD : 0);
        at = (uint32_t) key & (set->n_buckets - 1);
        while (buckets[at].rule != 0)
                at = (at + 1) & (set->n_buckets - 1);
        buckets[at] = (BlockBucket){ .tag = (uint32_t) (key >> 32), .rule = i + 1 };
}

static int put_index(Compiler *c, BlockSet *set)
{
        const BlockRule *rules = (const BlockRule *) (void *) buf_front(&c->rules);
        _cleanup_free_ BlockBucket *buckets = NULL;
        uint32_t n = 0, end = set->first_rule + set->n_rules;

        for (uint32_t i = set->first_rule; i < end; i++)
                n += rules[i].n_group > 0;
        set->first_bucket = (uint32_t) (buf_size(&c->buckets) / sizeof(BlockBucket));
        set->wildcard_depths = 0;
        set->n_buckets = 0;
        if (n == 0)
                return 0;
        for (set->n_buckets = 4; set->n_buckets < 2 * n;)
                set->n_buckets *= 2;
        buckets = calloc(set->n_buckets, sizeof(*buckets));
        if (!buckets)
                return -ENOMEM;
        for (uint32_t i = set->first_rule; i < end; i++)
                if (rules[i].n_group > 0)
                        index_rule(c, set, buckets, i);
        return buf_put(&c->buckets, buckets, set->n_buckets * sizeof(*buckets));
}

static int put_indexes(Compiler *c)
{
        int r;

        if (getrandom(c->header.seed, sizeof(c->header.seed), 0) != sizeof(c->header.seed))
                return neg_errno();
        buf_done(&c->buckets);
        for (uint32_t i = 0; i < c->header.n_sets; i++) {
                r = put_index(c, &c->sets[i]);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* ---- the whole ---- */

static int put_texts(Compiler *c, const Policy *p, const Policy *const layers[2])
{
        static const char *const names[] = { "project", "ceiling" };
        _cleanup_free_ char *own = NULL;
        int r;

        r = policy_format(p, &own);
        if (r < 0)
                return r;
        c->header.text = (uint32_t) buf_size(&c->strings);
        if (!layers[0] && !layers[1])
                return buf_put(&c->strings, own, strlen(own) + 1);
        r = buf_printf(&c->strings, "{ \"policy\": %s", own);
        for (size_t i = 0; r >= 0 && i < 2; i++) {
                _cleanup_free_ char *text = NULL;

                if (!layers[i])
                        continue;
                r = policy_format(layers[i], &text);
                if (r >= 0)
                        r = buf_printf(&c->strings, ", \"%s\": %s", names[i], text);
        }
        return r < 0 ? r : buf_put(&c->strings, "}\n", sizeof("}\n"));
}

/* Nothing but memory can be missing: policy_prepare() has seen it work. */
static int digest_text(const char *text, uint8_t ret[BLOCK_DIGEST_SIZE])
{
        unsigned n = 0;

        if (EVP_Digest(text, strlen(text), ret, &n, EVP_sha256(), NULL) != 1 || n != BLOCK_DIGEST_SIZE)
                return -ENOMEM;
        return 0;
}

int policy_prepare(void)
{
        uint8_t digest[BLOCK_DIGEST_SIZE];

        return digest_text("", digest);
}

/* Everything that the block will hold, but for the hash table and its seed. */
static int digest_content(Compiler *c, uint8_t ret[POLICY_CONTENT_SIZE])
{
        Buf *const all[] = { &c->rules, &c->ports, &c->terms, &c->lists, &c->strings };
        EVP_MD_CTX *digest = EVP_MD_CTX_new();
        bool is_good = digest && EVP_DigestInit_ex(digest, EVP_sha256(), NULL) == 1 &&
                       EVP_DigestUpdate(digest, &c->header, sizeof(c->header)) == 1 &&
                       EVP_DigestUpdate(digest, c->sets, sizeof(c->sets)) == 1;

        for (size_t i = 0; is_good && i < ELEMENTSOF(all); i++) {
                uint64_t size = buf_size(all[i]);

                is_good = EVP_DigestUpdate(digest, &size, sizeof(size)) == 1 &&
                          (size == 0 || EVP_DigestUpdate(digest, buf_front(all[i]), (size_t) size) == 1);
        }
        is_good = is_good && EVP_DigestFinal_ex(digest, ret, NULL) == 1;
        EVP_MD_CTX_free(digest);
        return is_good ? 0 : -ENOMEM;
}

static int put_table(Buf *b, const void *data, size_t size, uint32_t *ret_offset)
{
        static const char zeros[8];
        int r;

        r = buf_put(b, zeros, (8 - buf_size(b) % 8) % 8);
        if (r < 0)
                return r;
        *ret_offset = (uint32_t) buf_size(b);
        return size > 0 ? buf_put(b, data, size) : 0;
}

static int assemble(Compiler *c, Buf *b)
{
        PolicyBlock *h = &c->header;
        int r;

        h->n_rules = (uint32_t) (buf_size(&c->rules) / sizeof(BlockRule));
        h->n_ports = (uint32_t) (buf_size(&c->ports) / sizeof(BlockPorts));
        h->n_buckets = (uint32_t) (buf_size(&c->buckets) / sizeof(BlockBucket));
        h->n_terms = (uint32_t) (buf_size(&c->terms) / sizeof(BlockTerms));
        h->n_lists = (uint32_t) (buf_size(&c->lists) / sizeof(uint32_t));
        h->strings_size = (uint32_t) buf_size(&c->strings);
        r = buf_put(b, h, sizeof(*h));
        if (r >= 0)
                r = put_table(b, c->sets, h->n_sets * sizeof(*c->sets), &h->sets);
        if (r >= 0)
                r = put_table(b, c->rules.data ? buf_front(&c->rules) : "", buf_size(&c->rules), &h->rules);
        if (r >= 0)
                r = put_table(b, c->ports.data ? buf_front(&c->ports) : "", buf_size(&c->ports), &h->ports);
        if (r >= 0)
                r = put_table(b, c->buckets.data ? buf_front(&c->buckets) : "", buf_size(&c->buckets),
                              &h->buckets);
        if (r >= 0)
                r = put_table(b, buf_front(&c->terms), buf_size(&c->terms), &h->terms);
        if (r >= 0)
                r = put_table(b, buf_front(&c->lists), buf_size(&c->lists), &h->lists);
        if (r >= 0)
                r = put_table(b, buf_front(&c->strings), buf_size(&c->strings), &h->strings);
        if (r < 0)
                return r;
        h->magic = BLOCK_MAGIC;
        h->size = (uint32_t) buf_size(b);
        memcpy(buf_front(b), h, sizeof(*h));
        return 0;
}

static int seal(Compiler *c, int *ret_fd)
{
        Buf b = BUF_INIT(POLICY_BLOCK_MAX);
        int r = -EIO;

        /* A seed that makes a long run is next to impossible; the reader would refuse it. */
        for (unsigned i = 0; i < SEED_TRIES; i++) {
                r = put_indexes(c);
                if (r >= 0)
                        r = assemble(c, &b);
                if (r >= 0)
                        r = block_check(buf_front(&b), buf_size(&b));
                if (r != -EBADMSG)
                        break;
                buf_done(&b);
        }
        if (r >= 0)
                r = fd_memfd_sealed("sandboxd-policy", buf_front(&b), buf_size(&b), ret_fd);
        buf_done(&b);
        return r;
}

/* A project or a ceiling can only narrow it. */
static bool is_dns_real(const Policy *p, const Policy *const layers[2])
{
        bool is_real = p->is_dns_real;

        for (size_t i = 0; i < 2; i++)
                if (layers[i] && layers[i]->has & HAS_DNS)
                        is_real = is_real && layers[i]->is_dns_real;
        return is_real;
}

static int fill(Compiler *c, const Policy *p, const Policy *const layers[2])
{
        int r;

        r = buf_put(&c->strings, "", 1);
        if (r >= 0)
                r = put_string(c, policy_name(p), &c->header.name);
        if (r >= 0)
                r = put_set(c, p);
        for (size_t i = 0; r >= 0 && i < 2; i++)
                if (layers[i])
                        r = put_set(c, layers[i]);
        if (r >= 0)
                r = put_texts(c, p, layers);
        if (r >= 0)
                r = digest_text(buf_front(&c->strings) + c->header.text, c->header.digest);
        return r;
}

int policy_compile_shared(const PolicyParts *parts, PolicyFinder find, void *userdata,
                          uint8_t ret_content[POLICY_CONTENT_SIZE], int *ret_fd)
{
        const Policy *const layers[2] = { parts->project, parts->ceiling };
        Compiler c = { .rules = BUF_INIT(POLICY_BLOCK_MAX),
                       .ports = BUF_INIT(POLICY_BLOCK_MAX),
                       .buckets = BUF_INIT(POLICY_BLOCK_MAX),
                       .terms = BUF_INIT(POLICY_BLOCK_MAX),
                       .lists = BUF_INIT(POLICY_BLOCK_MAX),
                       .strings = BUF_INIT(POLICY_BLOCK_MAX) };
        int r;

        c.header.generation = parts->generation;
        c.header.is_dns_real = is_dns_real(parts->policy, layers);
        r = fill(&c, parts->policy, layers);
        if (r >= 0)
                r = digest_content(&c, ret_content);
        if (r >= 0) {
                r = find ? find(userdata, ret_content, ret_fd) : -ENOENT;
                if (r == -ENOENT)
                        r = seal(&c, ret_fd);
        }
        compiler_done(&c);
        return r;
}

int policy_compile(const Policy *p, const Policy *project, const Policy *ceiling, uint64_t generation,
                   int *ret_fd)
{
        const PolicyParts parts = { p, project, ceiling, generation };
        uint8_t content[POLICY_CONTENT_SIZE];

        return policy_compile_shared(&parts, NULL, NULL, content, ret_fd);
}
