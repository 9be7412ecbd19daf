/* Texts, layers and plans. */

#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "daemon/policy/policy.h"
#include "proto/base/buf.h"
#include "proto/base/clock.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

static int parse(PolicyKind kind, const char *text, PolicyDiagnostics *d, Policy **ret)
{
        policy_diagnostics_init(d);
        return policy_parse(kind, "test.json", text, strlen(text), d, ret);
}

static Policy *parse_ok(PolicyKind kind, const char *text)
{
        PolicyDiagnostics d;
        Policy *p = NULL;

        if (parse(kind, text, &d, &p) < 0)
                LIST_FOREACH (g, &d.list, PolicyDiagnostic, link)
                        print_message("%u:%u %s: %s\n", g->line, g->column, g->key, g->message);
        policy_diagnostics_done(&d);
        assert_non_null(p);
        return p;
}

static const struct {
        const char *text;
        unsigned line, column;
        const char *key;
} error_rows[] = {
        { "", 1, 1, "" },
        { "[]", 1, 1, "" },
        { "{ \"version\": 1, }", 1, 17, "" },
        { "{ \"version\": 1 } x", 1, 18, "" },
        { "{ \"version\": 1,\n  \"version\": 1 }", 2, 3, "" },
        { "{ \"version\": 2 }", 1, 14, "version" },
        { "{}", 1, 1, "" },
        { "{ \"version\": 1, \"nonsense\": 1 }", 1, 29, "nonsense" },
        { "{ \"version\": 1, \"git\": {} }", 1, 24, "git" },
        { "{ \"version\": 1, /* c */\n // d\n \"limits\": { \"idle\": \"0m\" } }", 3, 22, "limits.idle" },
        { "{ \"version\": 1, \"filesystem\": { \"root\": \"all\" } }", 1, 41, "filesystem.root" },
        { "{ \"version\": 1, \"filesystem\": { \"read\": [\"/a\", \"b\"] } }", 1, 48, "filesystem.read[1]" },
        { "{ \"version\": 1, \"filesystem\": { \"deny\": [\"/a/*.pem\"] } }", 1, 42, "filesystem.deny[0]" },
        { "{ \"version\": 1, \"filesystem\": { \"deny\": [\"${x}/a\"] } }", 1, 42, "filesystem.deny[0]" },
        { "{ \"version\": 1, \"filesystem\": { \"deny\": [\"/a/../b\"] } }", 1, 42, "filesystem.deny[0]" },
        { "{ \"version\": 1, \"network\": { \"rules\": [\n{ \"action\": \"allow\" }] } }", 2, 1,
          "network.rules[0]" },
        { "{ \"version\": 1, \"network\": { \"rules\": [\n{ \"action\": \"allow\", \"host\": \"*.com\" }] } }",
          2, 30, "network.rules[0].host" },
        { "{ \"version\": 1, \"network\": { \"rules\": [\n{ \"action\": \"allow\", \"host\": \"*.github.io\" }] } }",
          2, 30, "network.rules[0].host" },
        { "{ \"version\": 1, \"network\": { \"rules\": [\n{ \"action\": \"allow\", \"host\": \"10.0.0.1\" }] } }",
          2, 30, "network.rules[0].host" },
        { "{ \"version\": 1, \"network\": { \"rules\": [\n{ \"action\": \"allow\", \"host\": \"A.test\" }] } }",
          2, 30, "network.rules[0].host" },
        { "{ \"version\": 1, \"network\": { \"rules\": [\n{ \"action\": \"allow\", \"cidr\": \"10.0.0.1/8\" }] } }",
          2, 30, "network.rules[0].cidr" },
        { "{ \"version\": 1, \"network\": { \"rules\": [{ \"action\": \"allow\", \"host\": \"a.test\",\n"
          "\"ports\": [1, 0] }] } }",
          2, 14, "network.rules[0].ports[1]" },
        { "{ \"version\": 1, \"network\": { \"rules\": [{ \"action\": \"allow\", \"host\": \"a.test\",\n"
          "\"methods\": [] }] } }",
          2, 12, "network.rules[0].methods" },
#define WITH(keys)                                                                                           \
        "{ \"version\": 1, \"network\": { \"rules\": [{ \"action\": \"allow\", \"host\": \"a.test\",\n" keys \
        " }] } }"
#define DENIED_WITH(keys)                                                                                   \
        "{ \"version\": 1, \"network\": { \"rules\": [{ \"action\": \"deny\", \"host\": \"a.test\",\n" keys \
        " }] } }"
        { WITH("\"paths\": [\"/a\"]"), 2, 10, "network.rules[0].paths" },
        { WITH("\"protocol\": \"any\", \"paths\": [\"/a\"]"), 2, 29, "network.rules[0].paths" },
        { WITH("\"protocol\": \"tls\", \"methods\": [\"GET\"]"), 2, 31, "network.rules[0].methods" },
        { WITH("\"protocol\": \"http\", \"methods\": [\"get\"]"), 2, 33, "network.rules[0].methods[0]" },
        { WITH("\"protocol\": \"http\", \"methods\": [\"CONNECT\"]"), 2, 33, "network.rules[0].methods[0]" },
        { WITH("\"protocol\": \"http\", \"methods\": [\"\"]"), 2, 33, "network.rules[0].methods[0]" },
        { WITH("\"protocol\": \"http\", \"paths\": [\"a\"]"), 2, 31, "network.rules[0].paths[0]" },
        { WITH("\"protocol\": \"http\", \"paths\": [\"/a?b\"]"), 2, 31, "network.rules[0].paths[0]" },
        { WITH("\"protocol\": \"http\", \"paths\": [\"/a/../b\"]"), 2, 31, "network.rules[0].paths[0]" },
        { WITH("\"protocol\": \"http\", \"paths\": [\"/***\"]"), 2, 31, "network.rules[0].paths[0]" },
        { WITH("\"tls\": \"inspect\""), 2, 8, "network.rules[0].tls" },
        { WITH("\"tls\": true"), 2, 8, "network.rules[0].tls" },
        { WITH("\"tls\": \"any\", \"protocol\": \"tcp\""), 2, 8, "network.rules[0].tls" },
        { WITH("\"max_upload\": 10"), 2, 15, "network.rules[0].max_upload" },
        { WITH("\"max_upload\": \"0\""), 2, 15, "network.rules[0].max_upload" },
        { WITH("\"max_download\": \"1X\""), 2, 17, "network.rules[0].max_download" },
        { WITH("\"max_connections\": 0"), 2, 20, "network.rules[0].max_connections" },
        { WITH("\"max_connections\": \"3\""), 2, 20, "network.rules[0].max_connections" },
        { WITH("\"idle\": \"0s\""), 2, 9, "network.rules[0].idle" },
        { WITH("\"idle\": \"25h\""), 2, 9, "network.rules[0].idle" },
        { WITH("\"dns_types\": [\"A\"]"), 2, 15, "network.rules[0].dns_types[0]" },
        { WITH("\"dns_types\": \"TXT\""), 2, 14, "network.rules[0].dns_types" },
        { DENIED_WITH("\"dns_types\": [\"TXT\"]"), 2, 14, "network.rules[0].dns_types" },
        { DENIED_WITH("\"idle\": \"5s\""), 2, 9, "network.rules[0].idle" },
        { DENIED_WITH("\"max_upload\": \"5\""), 2, 15, "network.rules[0].max_upload" },
        { "{ \"version\": 1, \"network\": { \"rules\": [{ \"action\": \"allow\", \"host\": \"a.test\",\n"
          "\"protocol\": \"udp\" }] } }",
          2, 13, "network.rules[0].protocol" },
        { "{ \"version\": 1, \"network\": {\n\"dns\": \"none\" } }", 2, 8, "network.dns" },
        { "{ \"version\": 1, \"name\": \"\303\274\", \"x\": 1 }", 1, 25, "name" },
        { "{ \"version\": 1, \"description\": \"\303\274\303\274\", \"x\": 1 }", 1, 43, "x" },
        { "{ \"version\": 1, \"description\": \"\377\" }", 1, 33, "" },
        { "{ \"version\": 1, \"description\": \"\\u0000\" }", 1, 39, "" },
        { "{ \"version\": 01 }", 1, 14, "" },
        { "{ \"version\": 1 /* ", 1, 16, "" },
};

static void test_errors(void **state)
{
        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(error_rows); i++) {
                PolicyDiagnostics d;
                Policy *p = NULL;
                const PolicyDiagnostic *g;

                ASSERT_ERROR(parse(POLICY_PROFILE, error_rows[i].text, &d, &p), EINVAL);
                g = list_entry(d.list.next, PolicyDiagnostic, link);
                if (g->line != error_rows[i].line || g->column != error_rows[i].column ||
                    !str_equal(g->key, error_rows[i].key))
                        fail_msg("%s\n-> %u:%u %s: %s", error_rows[i].text, g->line, g->column, g->key,
                                 g->message);
                policy_diagnostics_done(&d);
        }
}

static void test_depth(void **state)
{
        char text[200] = "{ \"version\": ";
        PolicyDiagnostics d;
        Policy *p = NULL;

        (void) state;
        memset(text + strlen(text), '[', 100);
        ASSERT_ERROR(parse(POLICY_PROFILE, text, &d, &p), EINVAL);
        policy_diagnostics_done(&d);
}

#define FULL                                                                                                                                                                              \
        "{ \"version\": 1, \"name\": \"full\", \"description\": \"d \\\"q\\\"\", \"filesystem\": { \"root\": \"minimal\","                                                                \
        " \"read\": [\"/opt/b\", \"/opt/a\"], \"write\": [\"~/.cache/pip\"], \"deny\": [\"${workspace}/.env\"],"                                                                          \
        " \"tmpfs\": { \"/tmp\": \"1G\" } }, \"network\": { \"default\": \"ask\", \"dns\": \"real\", \"rules\": ["                                                                        \
        " { \"id\": \"p\", \"action\": \"allow\", \"host\": \"*.a.test\", \"ports\": [443, \"1-2\"], \"reason\": \"r\" },"                                                                \
        " { \"action\": \"deny\", \"cidr\": \"2001:db8::/32\", \"protocol\": \"http\","                                                                                                   \
        " \"expires\": \"2030-01-01T00:00:00Z\", \"methods\": [\"PUT\", \"M-SEARCH\"], \"paths\": [\"/\\\"/**\"] },"                                                                      \
        " { \"action\": \"allow\", \"host\": \"b.test\", \"tls\": \"any\", \"max_upload\": \"10M\", \"max_download\": \"7\","                                                             \
        " \"max_connections\": 3, \"idle\": \"5m\", \"dns_types\": [\"MX\", \"TXT\"] },"                                                                                                  \
        " { \"action\": \"allow\", \"host\": \"c.test\", \"protocol\": \"http\", \"methods\": [], \"paths\": [] }] }, \"limits\": { \"memory\": \"4G\", \"swap\": \"0\", \"tasks\": 512," \
        " \"cpu\": \"200%\", \"io\": \"100M\", \"files\": 4096, \"runtime\": \"2h\", \"idle\": \"5m\", \"output\": \"1G\" },"                                                             \
        " \"environment\": { \"pass\": [\"TERM\", \"LANG\"], \"set\": { \"CI\": \"1=2\" } }, \"ask\": { \"timeout\": \"25s\" } }"

static void test_format(void **state)
{
        _cleanup_(policy_freep) Policy *p = parse_ok(POLICY_PROFILE, FULL), *again = NULL;
        _cleanup_free_ char *one = NULL;
        _cleanup_free_ char *two = NULL;

        (void) state;
        ASSERT_OK(policy_format(p, &one));
        again = parse_ok(POLICY_PROFILE, one);
        ASSERT_OK(policy_format(again, &two));
        assert_string_equal(one, two);
        assert_int_equal(policy_limits(again)->memory_bytes, UINT64_C(4) << 30);
        assert_int_equal(policy_limits(again)->cpu_percent, 200);
        assert_true(policy_limits(again)->has_swap);
        assert_int_equal(policy_limits(again)->runtime_usec, 7200 * USEC_PER_SEC);
        assert_int_equal(policy_limits(again)->idle_usec, 300 * USEC_PER_SEC);
        assert_int_equal(policy_limits(again)->output_bytes, 1U << 30);
        assert_string_equal(policy_set(again, 0), "CI=1=2");
}

static int load(void *userdata, const char *name, char **ret_text, size_t *ret_size, char **ret_source)
{
        const char *const *table = userdata;

        for (size_t i = 0; table[i]; i += 2)
                if (str_equal(table[i], name)) {
                        *ret_size = strlen(table[i + 1]);
                        return str_dup(table[i + 1], ret_text) < 0 || str_dup(name, ret_source) < 0 ? -ENOMEM
                                                                                                    : 0;
                }
        return -ENOENT;
}

static void test_extends(void **state)
{
        static const char *const table[] = {
                "base",
                "{ \"version\": 1, \"network\": { \"default\": \"deny\", \"rules\":"
                "[{ \"action\": \"deny\", \"host\": \"b.test\" }] }, \"limits\": { \"tasks\": 10 } }",
                "loop",
                "{ \"version\": 1, \"extends\": [\"pool\"] }",
                "pool",
                "{ \"version\": 1, \"extends\": [\"loop\"] }",
                NULL,
        };
        static const char *const bad[] = { "loop", "absent" };
        _cleanup_(policy_freep) Policy *p = parse_ok(
                        POLICY_PROFILE, "{ \"version\": 1, \"name\": \"x\", \"extends\": [\"base\"],"
                                        "\"network\": { \"default\": \"allow\" } }");
        _cleanup_(policy_freep) Policy *all = NULL;
        PolicyDiagnostics d;
        char text[128];

        (void) state;
        policy_diagnostics_init(&d);
        ASSERT_OK(policy_resolve(p, load, (void *) (uintptr_t) table, &d, &all));
        assert_int_equal(policy_limits(all)->tasks, 10);
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                _cleanup_(policy_freep) Policy *q = NULL, *none = NULL;

                ASSERT_OK(str_printf(text, sizeof(text), "{ \"version\": 1, \"extends\": [\"%s\"] }",
                                     bad[i]));
                q = parse_ok(POLICY_PROFILE, text);
                ASSERT_ERROR(policy_resolve(q, load, (void *) (uintptr_t) table, &d, &none), EINVAL);
        }
        assert_int_equal(d.n_failures, 2);
        policy_diagnostics_done(&d);
}

/* ---- order and narrowing: random sets ---- */

static const char *const hosts[] = { "a.test", "b.a.test", "c.b.a.test", "*.a.test", "*.b.a.test" };
static const char *const cidrs[] = { "10.0.0.0/8", "10.1.0.0/16", "93.0.0.0/8", "0.0.0.0/0" };
static const char *const verdicts[] = { "deny", "ask", "allow" };

#define RULE_TEXT_SIZE 400U
#define YEAR_2030_USEC UINT64_C(1893456000000000)

static unsigned pick(unsigned n)
{
        return (unsigned) random() % n;
}

/* Which requests, until when, how far: what denies has no limits. */
static void random_terms(char *to, size_t size, bool is_denial)
{
        static const char *const requests[] = {
                "",
                "",
                ", \"protocol\": \"tcp\"",
                ", \"protocol\": \"http\", \"methods\": [\"GET\"]",
                ", \"protocol\": \"http\", \"methods\": [\"GET\", \"POST\"], \"paths\": [\"/a/**\"]",
                ", \"protocol\": \"http\", \"paths\": [\"/*\", \"/**/b\"]",
        };
        static const char *const limits[] = {
                "",
                "",
                ", \"max_upload\": \"1K\"",
                ", \"max_download\": \"2K\", \"idle\": \"9s\"",
                ", \"max_connections\": 2",
        };

        ASSERT_OK(str_printf(to, size, "%s%s%s", requests[pick(ELEMENTSOF(requests))],
                             is_denial ? "" : limits[pick(ELEMENTSOF(limits))],
                             pick(4) ? "" : ", \"expires\": \"2030-01-01T00:00:00Z\""));
}

static void random_rule(char *to, size_t size)
{
        bool has_host = pick(3) > 0;
        unsigned verdict = pick(3);
        char terms[RULE_TEXT_SIZE];

        random_terms(terms, sizeof(terms), verdict == VERDICT_DENY);
        ASSERT_OK(str_printf(to, size, "{ \"action\": \"%s\", \"%s\": \"%s\"%s%s }", verdicts[verdict],
                             has_host ? "host" : "cidr",
                             has_host ? hosts[pick(ELEMENTSOF(hosts))] : cidrs[pick(ELEMENTSOF(cidrs))],
                             pick(3) ? "" : ", \"ports\": [8080]", terms));
}

static Policy *policy_of(PolicyKind kind, const char *fallback, char rules[][RULE_TEXT_SIZE], size_t n,
                         bool is_reversed)
{
        Buf b = BUF_INIT(1U << 20);
        Policy *p;

        ASSERT_OK(buf_printf(&b, "{ \"version\": 1, \"network\": { \"default\": \"%s\", \"rules\": [",
                             fallback));
        for (size_t i = 0; i < n; i++)
                ASSERT_OK(buf_printf(&b, "%s%s", i > 0 ? "," : "", rules[is_reversed ? n - 1 - i : i]));
        ASSERT_OK(buf_put(&b, "] } }", 6));
        p = parse_ok(kind, buf_front(&b));
        buf_done(&b);
        return p;
}

static const PolicyBlock *block_of(const Policy *p, const Policy *project, const Policy *ceiling)
{
        _cleanup_close_ int fd = -EBADF;
        const PolicyBlock *b = NULL;

        ASSERT_OK(policy_compile(p, project, ceiling, 1, &fd));
        ASSERT_OK(policy_block_open(fd, &b));
        return b;
}

static void fill_question(size_t i, PolicyRequest *q)
{
        static const Protocol protocols[] = { PROTOCOL_ANY, PROTOCOL_HTTP, PROTOCOL_TLS, PROTOCOL_TCP };
        static const char *const methods[] = { "GET", "POST", "PUT", NULL };
        static const char *const paths[] = { "/a/b", "/c", "/a%2fb", NULL };

        q->protocol = protocols[i % 4];
        q->now_usec = YEAR_2030_USEC + (i / 4 % 2) - 1;
        if (q->protocol != PROTOCOL_HTTP)
                return;
        q->method = methods[i / 8 % 4];
        q->path = paths[i / 32 % 4];
        q->n_path = q->path ? strlen(q->path) : 0;
}

static bool is_narrower(uint64_t a, uint64_t b)
{
        return b == 0 || (a != 0 && a <= b);
}

/* What holds beside the verdict: as much, or more of it. */
static void check_terms(const PolicyBlock *one, const PolicyBlock *same, const PolicyBlock *narrow, size_t i)
{
        const PolicyBlock *const blocks[] = { one, same, narrow };
        PolicyTerms t[3] = { { .n_counts = 0 } };
        PolicyRequest q = { .host = i % 2 ? "b.a.test" : "c.b.a.test", .port = 8080 };

        fill_question(i, &q);
        for (size_t k = 0; k < 3; k++)
                policy_match_terms(blocks[k], &q, &t[k]);
        assert_int_equal(t[0].max_upload_bytes, t[1].max_upload_bytes);
        assert_int_equal(t[0].max_download_bytes, t[1].max_download_bytes);
        assert_int_equal(t[0].idle_usec, t[1].idle_usec);
        assert_int_equal(t[0].expires_usec, t[1].expires_usec);
        assert_int_equal(t[0].n_counts, t[1].n_counts);
        assert_int_equal(t[0].has_methods, t[1].has_methods);
        assert_true(is_narrower(t[2].max_upload_bytes, t[0].max_upload_bytes));
        assert_true(is_narrower(t[2].max_download_bytes, t[0].max_download_bytes));
        assert_true(is_narrower(t[2].idle_usec, t[0].idle_usec));
        assert_true(is_narrower(t[2].expires_usec, t[0].expires_usec));
        assert_true(t[2].n_counts >= t[0].n_counts && t[2].has_methods >= t[0].has_methods);
        assert_true(t[2].needs_sni >= t[0].needs_sni);
}

/* The same by whichever rules stand first, and never more for a ceiling more. */
static Verdict ask_more(const PolicyBlock *b, size_t i)
{
        PolicyRequest q = { .host = i % 2 ? "b.a.test" : "c.b.a.test", .port = 8080 };
        PolicyMatch m;

        fill_question(i, &q);
        policy_match_request(b, &q, &m);
        return m.verdict;
}

static Verdict ask_block(const PolicyBlock *b, size_t i, bool *ret_is_open)
{
        static const char *const targets[] = { "a.test", "b.a.test", "c.b.a.test",
                                               "z.test", "10.1.1.1", "93.1.1.1" };
        PolicyRequest q = { .host = "", .port = i % 2 ? 8080 : 443, .protocol = PROTOCOL_ANY };
        PrivAddress a;
        PolicyMatch m;

        if (address_parse(targets[i / 2], &q.address) < 0)
                q.host = targets[i / 2];
        ASSERT_OK(address_parse(i % 3 ? "93.1.1.1" : "10.1.1.1", &a));
        policy_match_request(b, &q, &m);
        *ret_is_open = policy_match_address(b, &q, q.host[0] ? &a : &q.address, false);
        return m.verdict;
}

static void test_order_and_narrowing(void **state)
{
        (void) state;
        srandom(4711);
        for (int round = 0; round < 300; round++) {
                char rules[8][RULE_TEXT_SIZE], more[4][RULE_TEXT_SIZE];
                const char *fallback = verdicts[pick(3)];
                size_t n = pick(8), m = pick(4);
                _cleanup_(policy_freep) Policy *p = NULL, *q = NULL, *c = NULL;
                _cleanup_(policy_block_closep) const PolicyBlock *one = NULL, *two = NULL, *narrow = NULL,
                                                                 *both = NULL;

                for (size_t i = 0; i < n; i++)
                        random_rule(rules[i], sizeof(rules[i]));
                for (size_t i = 0; i < m; i++)
                        random_rule(more[i], sizeof(more[i]));
                p = policy_of(POLICY_PROFILE, fallback, rules, n, false);
                q = policy_of(POLICY_PROFILE, fallback, rules, n, true);
                c = policy_of(POLICY_CEILING, verdicts[pick(3)], more, m, false);
                one = block_of(p, NULL, NULL);
                two = block_of(q, NULL, NULL);
                narrow = block_of(p, NULL, c);
                both = block_of(p, c, c);
                assert_memory_equal(policy_block_digest(one), policy_block_digest(two), 32);
                for (size_t i = 0; i < 12; i++) {
                        bool a, b, x, y;
                        Verdict v = ask_block(one, i, &a);

                        assert_int_equal(v, ask_block(two, i, &b));
                        assert_int_equal(a, b);
                        assert_true(ask_block(narrow, i, &x) <= v);
                        assert_true(ask_block(both, i, &y) <= v);
                        assert_true(x <= a && y <= a);
                }
                for (size_t i = 0; i < 128; i++) {
                        Verdict v = ask_more(one, i);

                        assert_int_equal(v, ask_more(two, i));
                        assert_true(ask_more(narrow, i) <= v && ask_more(both, i) <= v);
                        check_terms(one, two, narrow, i);
                }
        }
}

/* ---- plans ---- */

static const PolicyVariables variables = {
        .workspace = "/home/u/w", .home = "/home/u", .user = "u", .uid = 1000
};

static Verdict file_verdict(const Policy *p, const char *path, bool for_writing)
{
        PolicyFileAnswer answer;

        ASSERT_OK(policy_check_file(p, &variables, path, for_writing, &answer));
        return answer.verdict;
}

static void make_plan(const Policy *p, Plan *ret)
{
        _cleanup_(plan_builder_freep) PlanBuilder *b = NULL;
        _cleanup_close_ int fd = -EBADF;
        PlanHeader header = { 0 };
        PolicyDiagnostics d;
        const void *data;
        size_t size;

        policy_diagnostics_init(&d);
        ASSERT_OK(plan_builder_new(&b));
        ASSERT_OK(policy_plan(p, &variables, false, b, &header, &d));
        policy_diagnostics_done(&d);
        ASSERT_OK(plan_builder_string(b, "/home/u", &header.home));
        ASSERT_OK(plan_builder_string(b, "u", &header.user));
        ASSERT_OK(plan_builder_string(b, "/home/u/w", &header.workspace));
        header.group = header.hostname = header.user;
        ASSERT_OK(plan_builder_string(b, "/bin/sh", &header.shell));
        ASSERT_OK(plan_builder_seal(b, &header, &fd));
        ASSERT_OK(fd_map_sealed(fd, PLAN_SIZE_MAX, &data, &size));
        ASSERT_OK(plan_open(data, size, ret));
}

static int find_mount(const Plan *plan, const char *target)
{
        for (uint32_t i = 0; i < plan->header->n_mounts; i++)
                if (str_equal(plan_string(plan, plan->mounts[i].target), target))
                        return (int) i;
        return -1;
}

/* What joins can only narrow, and so can a project and a ceiling. */
static void test_dns(void **state)
{
        static const char *const texts[] = { "{ \"version\": 1 }",
                                             "{ \"version\": 1, \"network\": { \"dns\": \"synthetic\" } }",
                                             "{ \"version\": 1, \"network\": { \"dns\": \"real\" } }" };

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(texts) * ELEMENTSOF(texts) * ELEMENTSOF(texts); i++) {
                size_t own = i % 3, user = i / 3 % 3, above = i / 9;
                _cleanup_(policy_freep) Policy *p = parse_ok(POLICY_PROFILE, texts[own]);
                _cleanup_(policy_freep) Policy *u = parse_ok(POLICY_USER, texts[user]);
                _cleanup_(policy_freep) Policy *c = parse_ok(POLICY_CEILING, texts[above]);
                _cleanup_(policy_block_closep) const PolicyBlock *a = NULL, *b = NULL;
                bool wants = (own == 2 && user != 1) || (own == 0 && user == 2);
                PolicyDiagnostics d;

                policy_diagnostics_init(&d);
                ASSERT_OK(policy_join(p, u, "user", &d));
                policy_diagnostics_done(&d);
                a = block_of(p, NULL, c);
                b = block_of(p, c, NULL);
                assert_int_equal(policy_block_is_dns_real(a), wants && above != 1);
                assert_int_equal(policy_block_is_dns_real(b), wants && above != 1);
        }
}

static void test_plan(void **state)
{
        _cleanup_(policy_freep) Policy *p = parse_ok(
                        POLICY_PROFILE,
                        "{ \"version\": 1, \"filesystem\": { \"read\": [\"~/.config\", \"/opt/t\", \"~/.aws\"],"
                        "\"write\": [\"/opt/t/out\", \"/data/x\"], \"deny\": [\"${workspace}/.env\", \"~/.rustup\"] } }");
        const char *writes[] = { "/opt/t/out/deep" }, *denies[] = { "/data" };
        PolicyFlags flags = { .write = writes, .n_write = 1, .deny = denies, .n_deny = 1 };
        PolicyDiagnostics d;
        Plan plan;
        int env, workspace;

        (void) state;
        policy_diagnostics_init(&d);
        ASSERT_OK(policy_join_flags(p, &flags, &d));
        policy_diagnostics_done(&d);
        make_plan(p, &plan);
        workspace = find_mount(&plan, "/home/u/w");
        env = find_mount(&plan, "/home/u/w/.env");
        assert_true(workspace >= 0 && env > workspace);
        assert_int_equal(plan.mounts[env].type, PLAN_MASK);
        assert_true(plan.mounts[workspace].flags & PLAN_WORKSPACE &&
                    plan.mounts[workspace].flags & PLAN_WRITABLE);
        assert_true(find_mount(&plan, "/opt/t/out") > find_mount(&plan, "/opt/t"));
        assert_int_equal(find_mount(&plan, "/data/x"), -1);
        assert_int_equal(plan.mounts[find_mount(&plan, "/")].type, PLAN_BOUND);
        /* In a home of the session's own: a folder that nobody opens, and one that looks empty. */
        assert_int_equal(plan.mounts[find_mount(&plan, "/home/u/.rustup")].type, PLAN_MASK);
        assert_int_equal(plan.mounts[find_mount(&plan, "/home/u/.rustup")].flags, PLAN_MADE);
        assert_string_equal(plan_string(&plan, plan.mounts[env].rule), "${workspace}/.env");
        assert_int_equal(plan.mounts[find_mount(&plan, "/home/u/.config/gh")].type, PLAN_MASK);
        assert_int_equal(plan.mounts[find_mount(&plan, "/home/u/.aws")].type, PLAN_BIND);
        assert_int_equal(plan.mounts[find_mount(&plan, "/home/u/.ssh")].type, PLAN_MASK);
        assert_int_equal(plan.mounts[find_mount(&plan, "/home/u/.ssh")].flags, PLAN_MADE | PLAN_QUIET);
        assert_string_equal(plan_string(&plan, plan.mounts[find_mount(&plan, "/home/u/.ssh")].layer),
                            "credential");
        assert_int_equal(file_verdict(p, "/home/u/w/a", true), VERDICT_ALLOW);
        assert_int_equal(file_verdict(p, "/home/u/w/.env", false), VERDICT_DENY);
        assert_int_equal(file_verdict(p, "/opt/t/a", false), VERDICT_ALLOW);
        assert_int_equal(file_verdict(p, "/opt/t/a", true), VERDICT_DENY);
        assert_int_equal(file_verdict(p, "/data/x", false), VERDICT_DENY);
        assert_int_equal(file_verdict(p, "/home/u/.config/gh/hosts.yml", false), VERDICT_DENY);
        assert_int_equal(file_verdict(p, "/srv/other", false), VERDICT_DENY);
}

/* What the minimal root shows of a host, and no more. */
static void test_builtin_files(void **state)
{
        static const char *const shown[] = {
                "/usr/bin/env",    "/opt/x",    "/etc/ssl/certs/a.pem", "/etc/passwd",      "/etc/java-17/x",
                "/etc/os-release", "/dev/null", "/proc/self/status",    "/etc/resolv.conf",
        };
        static const char *const hidden[] = {
                "/etc/shadow",
                "/etc/sudoers",
                "/etc/ssl/private/key",
                "/etc/ssh/ssh_host_rsa_key",
                "/etc/sandboxd",
                "/etc/crontab",
                "/etc/passwd-",
                "/var/lib/dpkg/status",
                "/var/log/x",
                "/root/.bashrc",
                "/home",
                "/home/v/x",
                "/boot/vmlinuz",
                "/sys/class",
                "/dev/sda",
                "/dev/mem",
                "/run/dbus",
                "/mnt/x",
                "/srv",
                "/",
        };
        _cleanup_(policy_freep) Policy *p = parse_ok(POLICY_PROFILE, "{ \"version\": 1 }");

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(shown); i++)
                assert_int_equal(file_verdict(p, shown[i], false), VERDICT_ALLOW);
        for (size_t i = 0; i < ELEMENTSOF(hidden); i++) {
                assert_int_equal(file_verdict(p, hidden[i], false), VERDICT_DENY);
                assert_int_equal(file_verdict(p, hidden[i], true), VERDICT_DENY);
        }
        assert_int_equal(file_verdict(p, "/usr/bin/env", true), VERDICT_DENY);
        assert_int_equal(file_verdict(p, "/etc/passwd", true), VERDICT_DENY);
        assert_int_equal(file_verdict(p, "/tmp/x", true), VERDICT_ALLOW);
}

/* A denial of another layer holds, whatever is written below it, in whichever order. */
static void test_deny_wins(void **state)
{
        static const char *const inner[] = { "/d/a", "/d/a/b", "/d/a/b/c", "/d" };

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(inner); i++) {
                _cleanup_(policy_freep) Policy *p =
                                parse_ok(POLICY_PROFILE,
                                         "{ \"version\": 1, \"filesystem\": { \"deny\": [\"/d\"] } }");
                PolicyFlags flags = { .write = &inner[i], .n_write = 1 };
                PolicyDiagnostics d;

                policy_diagnostics_init(&d);
                ASSERT_OK(policy_join_flags(p, &flags, &d));
                policy_diagnostics_done(&d);
                assert_int_equal(file_verdict(p, inner[i], true), VERDICT_DENY);
                assert_int_equal(file_verdict(p, inner[i], false), VERDICT_DENY);
        }
}

static void test_workspace(void **state)
{
        static const char *const refused[] = {
                "/",
                "/home",
                "/home/u",
                "/home/v",
                "/etc",
                "/etc/x",
                "/proc/self/cwd",
                "/sys/x",
                "/dev/shm",
                "/run",
                "/tmp",
                "/usr/local/src",
                "/var",
                "/boot",
                "/root",
                "/home/u/.ssh",
                "/home/u/.ssh/x",
                "/home/u/.config",
        };
        static const char *const odd[] = {
                "", "a", "/a/", "/a//b", "/a/./b", "/a/../b", "/a\n", "/..", "//"
        };

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(refused); i++)
                if (policy_workspace_check(refused[i], "/home/u") != -EPERM)
                        fail_msg("%s", refused[i]);
        for (size_t i = 0; i < ELEMENTSOF(odd); i++)
                ASSERT_ERROR(policy_workspace_check(odd[i], "/home/u"), EINVAL);
        ASSERT_OK(policy_workspace_check("/home/u/w", "/home/u"));
        ASSERT_OK(policy_workspace_check("/tmp/x", "/home/u"));
        ASSERT_OK(policy_workspace_check("/root/x", "/root"));
        ASSERT_ERROR(policy_workspace_check("/root", "/root"), EPERM);
}

static void test_settings(void **state)
{
        _cleanup_(policy_freep) Policy *p = parse_ok(
                        POLICY_SETTINGS,
                        "{ \"resolver\": { \"servers\": [\"127.0.0.1:5353\", \"[::1]:53\", \"192.0.2.1\", \"2001:db8::1\"] },"
                        "\"dns\": { \"pool\": \"198.18.0.0/15\", \"pool6\": \"fd99:1::/64\" },"
                        "\"limits\": { \"sessions_per_user\": 9 }, \"audit\": { \"on_failure\": \"deny\" } }");
        PrivSettings s;

        (void) state;
        policy_settings(p, &s);
        assert_int_equal(s.n_servers, 4);
        assert_int_equal(s.servers[0].port, 5353);
        assert_int_equal(s.servers[1].address.family, 6);
        assert_int_equal(s.servers[2].port, 53);
        assert_int_equal(s.servers[3].address.family, 6);
        assert_int_equal(s.sessions_per_user_max, 9);
        assert_int_equal(s.connections_per_user_max, 64);
        assert_int_equal(s.root_session_uid, 1879048192);
        assert_int_equal(s.pool.v4.length, 15);
        assert_int_equal(s.pool.v4.address.bytes[1], 18);
        assert_int_equal(s.pool.v6.length, 64);
}

/* A pool that sessions could not use, or whose names would be too few to speak of. */
static void test_bad_pools(void **state)
{
        static const char *const bad[] = {
                "\"pool\": \"127.0.0.0/8\"",
                "\"pool\": \"10.0.0.0/8\"",
                "\"pool\": \"10.0.2.0/24\"",
                "\"pool\": \"224.0.0.0/8\"",
                "\"pool\": \"28.0.0.0/7\"",
                "\"pool\": \"28.0.0.0/25\"",
                "\"pool\": \"28.0.0.1/8\"",
                "\"pool\": \"3ffe::/16\"",
                "\"pool6\": \"28.0.0.0/8\"",
                "\"pool6\": \"fe80::/64\"",
                "\"pool6\": \"fd00:5a::/32\"",
                "\"pool6\": \"fd00::/16\"",
                "\"pool6\": \"ff02::/16\"",
                "\"pool6\": \"3ffe::/113\"",
                "\"pool\": 28",
                "\"pools\": []",
        };

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                PolicyDiagnostics d;
                Policy *p = NULL;
                char text[128];

                ASSERT_OK(str_printf(text, sizeof(text), "{ \"dns\": { %s } }", bad[i]));
                if (parse(POLICY_SETTINGS, text, &d, &p) >= 0)
                        fail_msg("%s was taken", bad[i]);
                policy_diagnostics_done(&d);
                p = policy_free(p);
                ASSERT_OK(str_printf(text, sizeof(text), "{ \"version\": 1, \"network\": { %s } }", bad[i]));
                if (parse(POLICY_PROFILE, text, &d, &p) >= 0)
                        fail_msg("%s was taken", bad[i]);
                policy_diagnostics_done(&d);
                p = policy_free(p);
        }
}

/* A layer chooses what is not chosen yet; what can only narrow chooses nothing. */
static void test_pools_of_policies(void **state)
{
        static const PolicyKind others[] = { POLICY_PROJECT, POLICY_CEILING };
        const char *both =
                        "{ \"version\": 1, \"network\": { \"pool\": \"198.19.0.0/16\", \"pool6\": \"fd99::/64\" } }";
        _cleanup_(policy_freep) Policy *p = parse_ok(
                        POLICY_PROFILE, "{ \"version\": 1, \"network\": { \"pool\": \"198.18.0.0/16\" } }");
        _cleanup_(policy_freep) Policy *layer = parse_ok(POLICY_USER, both);
        _cleanup_free_ char *text = NULL;
        PolicyDiagnostics d;
        PrivPool pool = policy_pool(p);

        (void) state;
        assert_int_equal(pool.v4.length, 16);
        assert_int_equal(pool.v6.address.family, 0);
        policy_diagnostics_init(&d);
        ASSERT_OK(policy_join(p, layer, "user", &d));
        policy_diagnostics_done(&d);
        pool = policy_pool(p);
        assert_int_equal(pool.v4.address.bytes[1], 18);
        assert_int_equal(pool.v6.address.family, 6);
        assert_int_equal(pool.v6.length, 64);
        ASSERT_OK(policy_format(p, &text));
        assert_non_null(strstr(text, "\"pool\": \"198.18.0.0/16\""));
        assert_non_null(strstr(text, "\"pool6\": \"fd99::/64\""));
        for (size_t i = 0; i < ELEMENTSOF(others); i++) {
                Policy *other = NULL;

                ASSERT_ERROR(parse(others[i], both, &d, &other), EINVAL);
                assert_string_equal(list_entry(d.list.next, PolicyDiagnostic, link)->key, "network.pool");
                policy_diagnostics_done(&d);
        }
}

/* What is shipped parses, resolves and names no host. */
static int load_shipped(void *userdata, const char *name, char **ret_text, size_t *ret_size,
                        char **ret_source)
{
        _cleanup_close_ int fd = -EBADF;
        char path[PLAN_PATH_MAX];

        ASSERT_OK(str_printf(path, sizeof(path), "%s/%s.json", (const char *) userdata, name));
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return -ENOENT;
        ASSERT_OK(fd_read_all(fd, 1U << 20, ret_text, ret_size));
        return str_dup(path, ret_source);
}

static void test_shipped(void **state)
{
        static const char *const names[] = { "base", "agent", "offline" };

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                _cleanup_(policy_freep) Policy *p = NULL, *all = NULL;
                _cleanup_free_ char *text = NULL;
                _cleanup_free_ char *source = NULL;
                char folder[] = POLICY_FOLDER;
                PolicyDiagnostics d;
                size_t size;

                policy_diagnostics_init(&d);
                ASSERT_OK(load_shipped(folder, names[i], &text, &size, &source));
                ASSERT_OK(policy_parse(POLICY_PROFILE, source, text, size, &d, &p));
                ASSERT_OK(policy_resolve(p, load_shipped, folder, &d, &all));
                assert_string_equal(policy_name(all), names[i]);
                assert_int_equal(d.n, 0);
                assert_null(strstr(text, "\"host\""));
                policy_diagnostics_done(&d);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_errors),
                cmocka_unit_test(test_depth),
                cmocka_unit_test(test_format),
                cmocka_unit_test(test_extends),
                cmocka_unit_test(test_order_and_narrowing),
                cmocka_unit_test(test_dns),
                cmocka_unit_test(test_plan),
                cmocka_unit_test(test_builtin_files),
                cmocka_unit_test(test_deny_wins),
                cmocka_unit_test(test_workspace),
                cmocka_unit_test(test_bad_pools),
                cmocka_unit_test(test_pools_of_policies),
                cmocka_unit_test(test_settings),
                cmocka_unit_test(test_shipped),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
