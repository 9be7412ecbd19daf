/* A compiled policy from api, as audit and dialer open it: checked once, then matched without looking back.
 */

#include "daemon/policy/block.h"

#include <errno.h>

#include "tests/fuzz/fuzz.h"

#define RULES_MAX 32U

static void match(const PolicyBlock *b, const PolicyRequest *q)
{
        PolicyMatch m;

        policy_match_request(b, q, &m);
        sb_assert(m.verdict <= VERDICT_ALLOW && m.reason < _REASON_MAX);
        fuzz_read_string(m.rule_text);
        sb_assert(strlen(m.layer) < PRIV_NAME_SIZE && strlen(m.rule) < PRIV_NAME_SIZE);
        sb_assert(strlen(m.rule_reason) < PRIV_TEXT_SIZE);
        if (m.verdict == VERDICT_ALLOW) {
                PolicyTerms t = { .n_counts = 0 };

                policy_match_terms(b, q, &t);
                sb_assert(t.n_counts <= POLICY_COUNTS_MAX);
                for (size_t i = 0; i < t.n_counts; i++)
                        fuzz_read_string(t.counts[i].text);
        }
        for (uint32_t family = 4; family <= 6; family++) {
                PrivAddress a = { .family = family, .bytes = { 10, 0, 0, 1 } };

                (void) policy_match_address(b, q, &a, /* is_local= */ family == 6);
        }
        (void) policy_match_address(b, q, &q->address, /* is_local= */ false);
}

/* With what the rule itself names, and with what no rule does. */
static void match_requests(const PolicyBlock *b, const BlockRule *r, const char *host)
{
        static const char *const paths[] = { "/", "/v1/a/b", "/%61/../b",
                                             "/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab" };
        PolicyRequest q = { .host = host, .port = 80, .protocol = PROTOCOL_HTTP, .method = "GET" };
        const uint32_t *lists = block_table(b, b->lists);

        for (size_t i = 0; i < ELEMENTSOF(paths); i++) {
                q.path = paths[i];
                q.n_path = strlen(q.path);
                match(b, &q);
        }
        if (r->terms == 0 || b->n_lists == 0)
                return;
        /* What no rule uses has not been checked. */
        q.method = block_string(b, lists[r->terms % b->n_lists] % b->strings_size);
        q.path = block_string(b, lists[b->n_lists - 1 - r->terms % b->n_lists] % b->strings_size);
        q.n_path = strlen(q.path);
        match(b, &q);
}

static void use_block(const PolicyBlock *b)
{
        const BlockRule *rules = block_table(b, b->rules);
        char host[PRIV_HOST_SIZE] = "a.b.c.test";

        fuzz_read_string(policy_block_text(b));
        fuzz_read_string(policy_block_name(b));
        for (uint32_t i = 0; i < MIN_OF(b->n_rules, RULES_MAX); i++) {
                PolicyRequest q = { .host = host, .port = 443, .protocol = (Protocol) (i % _PROTOCOL_MAX) };

                match(b, &q);
                q.host = block_string(b, rules[i].host);
                match(b, &q);
                match_requests(b, &rules[i], q.host);
                q.host = "";
                q.address = rules[i].network;
                q.now_usec = rules[i].expires_usec;
                match(b, &q);
                memcpy(host, "a.", 2);
                memcpy(host + 2, block_string(b, rules[i].host),
                       strnlen(block_string(b, rules[i].host), 253));
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        _cleanup_free_ void *copy = fuzz_copy(data, size);
        PolicyBlock *b = copy;
        int r = block_check(copy, size);

        sb_assert(r == 0 || r == -EBADMSG);
        if (size < sizeof(*b))
                return 0;
        b->magic = BLOCK_MAGIC;
        b->size = (uint32_t) size;
        if (block_check(copy, size) == 0)
                use_block(b);
        return 0;
}
