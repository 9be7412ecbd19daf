/* Rules with methods, paths and limits: paths in canonical form, patterns, who decides, what holds. */

#include <stdio.h>

#include "check.h"
#include "daemon/policy/block.h"
#include "daemon/policy/policy.h"
#include "daemon/policy/url_path.h"
#include "proto/base/buf.h"
#include "proto/base/clock.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

static void test_clear_paths(void **state)
{
        static const char *const rows[][2] = {
                { "", "/" },
                { "?x=1", "/" },
                { "/", "/" },
                { "/a/b", "/a/b" },
                { "/a/b/", "/a/b/" },
                { "/a?b/../c//%zz", "/a" },
                { "/%61%2D%7eb", "/a-~b" },
                { "/%C3%BC", "/\303\274" },
                { "/a%20b", "/a b" },
                { "/a%40b%2b", "/a@b+" },
                { "/a%3Fb", "/a?b" },
                { "/...", "/..." },
                { "/.a/b.", "/.a/b." },
                { "/a..b/..c", "/a..b/..c" },
                { "/*/%2a", "/*/*" },
        };
        char canonical[URL_PATH_MAX + 1];

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
                if (url_path_canonical(rows[i][0], strlen(rows[i][0]), canonical) < 0)
                        fail_msg("refused: %s", rows[i][0]);
                assert_string_equal(canonical, rows[i][1]);
        }
}

static void test_unclear_paths(void **state)
{
        static const char *const rows[] = {
                "a",          "*",      "http://x/",   "//",      "//a",      "/a//b",  "/a//",
                "/.",         "/..",    "/./a",        "/a/../b", "/a/.",     "/a/..",  "/%2e/a",
                "/%2E%2e/a",  "/.%2e",  "/a/%2e%2e/b", "/a%2fb",  "/a%2Fb",   "/a%5cb", "/a\\b",
                "/a%25b",     "/%252e", "/a;b",        "/a%3bb",  "/a%00",    "/a%0ab", "/a%1f",
                "/a%7f",      "/a%",    "/a%4",        "/a%zz",   "/a%u0041", "/%ff",   "/%c0%af",
                "/%ed%a0%80", "/a\tb",  "/a\x7f",      "/a#b",    "/\xff",    "/%c3",   "/a%2e%2e%2fb",
        };
        char canonical[URL_PATH_MAX + 1], longest[URL_PATH_MAX + 2];

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(rows); i++)
                if (url_path_canonical(rows[i], strlen(rows[i]), canonical) >= 0)
                        fail_msg("taken: %s", rows[i]);
        assert_true(url_path_canonical("/a\0b", 4, canonical) < 0);
        memset(longest, 'a', sizeof(longest));
        longest[0] = '/';
        ASSERT_OK(url_path_canonical(longest, URL_PATH_MAX, canonical));
        assert_true(url_path_canonical(longest, URL_PATH_MAX + 1, canonical) < 0);
        longest[URL_PATH_MAX] = '?';
        ASSERT_OK(url_path_canonical(longest, URL_PATH_MAX + 1, canonical));
}

static int match_path(const char *text, const char *path)
{
        char pattern[URL_PATTERN_MAX + 1];
        unsigned steps = URL_PATH_STEPS_MAX;
        const char *message = url_pattern_compile(text, pattern);

        if (message)
                fail_msg("%s: %s", text, message);
        return url_path_match(pattern, path, &steps);
}

static void test_patterns(void **state)
{
        static const struct {
                const char *pattern;
                const char *path;
                int result;
        } rows[] = {
                { "/", "/", 1 },
                { "/", "/a", 0 },
                { "/a", "/a", 1 },
                { "/a", "/a/", 0 },
                { "/a", "/ab", 0 },
                { "/a", "/A", 0 },
                { "/%61%2d", "/a-", 1 },
                { "/\303\274", "/\303\274", 1 },
                { "/%C3%BC", "/\303\274", 1 },
                { "/*", "/", 1 },
                { "/*", "/abc", 1 },
                { "/*", "/a/b", 0 },
                { "/a*c", "/abbc", 1 },
                { "/a*c", "/ac", 1 },
                { "/a*c", "/a/c", 0 },
                { "/%2a", "/*", 1 },
                { "/%2a", "/a", 0 },
                { "/v1/**", "/v1/", 1 },
                { "/v1/**", "/v1/a/b", 1 },
                { "/v1/**", "/v1", 0 },
                { "/v1/**", "/v2/a", 0 },
                { "/v1**", "/v1/a", 1 },
                { "/**", "/", 1 },
                { "/**.gz", "/a/b.gz", 1 },
                { "/**.gz", "/a/b.gzx", 0 },
                { "/**/b", "/b", 1 },
                { "/**/b", "/a/b", 1 },
                { "/**/b", "/a/a/b", 1 },
                { "/**/b", "/ab", 0 },
                { "/**/b", "/a/bb", 0 },
                { "/a/**/b", "/a/b", 1 },
                { "/a/**/b", "/a/x/y/b", 1 },
                { "/a/**/b", "/ab", 0 },
                { "/a/**/b", "/a/xb", 0 },
                { "/a/**/**/b", "/a/b", 1 },
                { "/*/x/*", "/a/x/b", 1 },
                { "/*/x/*", "/a/b/x/b", 0 },
                { "/*.*", "/a.b", 1 },
                { "/*.*", "/ab", 0 },
        };

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(rows); i++)
                if (match_path(rows[i].pattern, rows[i].path) != rows[i].result)
                        fail_msg("%s on %s is not %d", rows[i].pattern, rows[i].path, rows[i].result);
}

/* What would take a backtracking matcher for ever takes as many steps as pattern and path are long. */
static void test_dear_patterns(void **state)
{
        char path[URL_PATH_MAX + 1], pattern[URL_PATTERN_MAX + 1] = "/";
        unsigned steps = URL_PATH_STEPS_MAX, before;

        (void) state;
        memset(path, 'a', sizeof(path) - 1);
        path[0] = '/';
        path[500] = '\0';
        for (size_t i = 1; i + 3 < sizeof(pattern); i += 2)
                memcpy(pattern + i, (const char[]){ URL_PATTERN_ALL, 'a', '\0' }, 3);
        memcpy(pattern + strlen(pattern), "b", 2);
        assert_int_equal(url_path_match(pattern, path, &steps), 0);
        assert_true(URL_PATH_STEPS_MAX - steps <= 500 * 256);
        path[500] = 'a';
        path[URL_PATH_MAX] = '\0';
        steps = URL_PATH_STEPS_MAX;
        assert_int_equal(url_path_match(pattern, path, &steps), -E2BIG);
        assert_int_equal(steps, 0);
        assert_int_equal(url_path_match("/a", "/b", &steps), -E2BIG);
        before = steps = URL_PATH_STEPS_MAX;
        assert_int_equal(url_path_match("/a", path, &steps), 0);
        assert_true(before - steps < 4);
}

static void test_rewriting(void **state)
{
        static const char *const rows[][2] = {
                { "/%61%2D/%C3%BC", "/a-/%C3%BC" },
                { "/a?%61", "/a?%61" },
                { "/a%2", "/a%2" },
                { "/%2f%7E", "/%2f%7E" },
                { "/%%36", "/%%36" },
                { "*", "*" },
                { "/a%40", "/a%40" },
        };

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
                char to[64];
                size_t n = policy_path_rewrite(rows[i][0], strlen(rows[i][0]), to);

                to[n] = '\0';
                assert_string_equal(to, rows[i][1]);
        }
}

/* ---- decisions ---- */

static const PolicyBlock *compile_rules(const char *fallback, const char *rules, const char *ceiling_rules)
{
        _cleanup_(policy_freep) Policy *p = NULL, *ceiling = NULL;
        _cleanup_close_ int fd = -EBADF;
        const PolicyBlock *b = NULL;
        PolicyDiagnostics d;
        Buf text = BUF_INIT(1U << 20);

        policy_diagnostics_init(&d);
        ASSERT_OK(buf_printf(&text,
                             "{ \"version\": 1, \"network\": { \"default\": \"%s\", \"rules\": [%s] } }",
                             fallback, rules));
        ASSERT_OK(policy_parse(POLICY_PROFILE, "t", buf_front(&text), buf_size(&text), &d, &p));
        buf_done(&text);
        if (ceiling_rules) {
                text = BUF_INIT(1U << 20);
                ASSERT_OK(buf_printf(&text, "{ \"version\": 1, \"network\": { \"rules\": [%s] } }",
                                     ceiling_rules));
                ASSERT_OK(policy_parse(POLICY_CEILING, "c", buf_front(&text), buf_size(&text), &d,
                                       &ceiling));
                buf_done(&text);
        }
        policy_diagnostics_done(&d);
        ASSERT_OK(policy_compile(p, NULL, ceiling, 1, &fd));
        ASSERT_OK(policy_block_open(fd, &b));
        return b;
}

static PolicyMatch ask(const PolicyBlock *b, Protocol protocol, const char *method, const char *path)
{
        PolicyRequest q = { .host = "a.test",
                            .port = 80,
                            .protocol = protocol,
                            .method = method,
                            .path = path,
                            .n_path = path ? strlen(path) : 0 };
        PolicyMatch m;

        policy_match_request(b, &q, &m);
        return m;
}

static Verdict http(const PolicyBlock *b, const char *method, const char *path)
{
        return ask(b, PROTOCOL_HTTP, method, path).verdict;
}

#define HTTP_RULE(action, more) \
        "{ \"action\": \"" action "\", \"host\": \"a.test\", \"protocol\": \"http\", " more " }"

static void test_rules_that_allow_some(void **state)
{
        _cleanup_(policy_block_closep) const PolicyBlock *b = compile_rules(
                        "deny",
                        HTTP_RULE("allow", "\"methods\": [\"GET\", \"HEAD\"], \"paths\": [\"/v1/**\", \"/ok\"]") "," HTTP_RULE(
                                        "deny", "\"paths\": [\"/v1/secret\"]"),
                        NULL);

        (void) state;
        assert_int_equal(http(b, "GET", "/v1/a"), VERDICT_ALLOW);
        assert_int_equal(http(b, "HEAD", "/ok?q=/v2"), VERDICT_ALLOW);
        assert_int_equal(http(b, "GET", "/v%31/a"), VERDICT_ALLOW);
        assert_int_equal(http(b, "POST", "/v1/a"), VERDICT_DENY);
        assert_int_equal(http(b, "get", "/v1/a"), VERDICT_DENY);
        assert_int_equal(http(b, "", "/v1/a"), VERDICT_DENY);
        assert_int_equal(http(b, "GET", "/v2/a"), VERDICT_DENY);
        assert_int_equal(http(b, "GET", "/v1/secret"), VERDICT_DENY);
        assert_int_equal(http(b, "GET", "/v1/s%65cret"), VERDICT_DENY);
        assert_int_equal(http(b, "GET", "/v1/../v1/a"), VERDICT_DENY);
        assert_int_equal(http(b, "GET", "/v1/a%2fb"), VERDICT_DENY);
        /* The dialer knows neither; a tunnel is not what they are about. */
        assert_int_equal(http(b, NULL, NULL), VERDICT_ALLOW);
        assert_int_equal(ask(b, PROTOCOL_ANY, NULL, NULL).verdict, VERDICT_DENY);
        assert_int_equal(ask(b, PROTOCOL_TLS, NULL, NULL).verdict, VERDICT_DENY);
        assert_int_equal(ask(b, PROTOCOL_TCP, NULL, NULL).verdict, VERDICT_DENY);
        assert_int_equal(ask(b, PROTOCOL_HTTP, "GET", "/v2").reason, REASON_DEFAULT);
        assert_int_equal(ask(b, PROTOCOL_HTTP, "GET", "/v2/..").reason, REASON_RULE);
}

static void test_rules_that_deny_some(void **state)
{
        _cleanup_(policy_block_closep) const PolicyBlock *b = compile_rules(
                        "allow", HTTP_RULE("deny", "\"methods\": [\"DELETE\"], \"paths\": [\"/v1/**\"]"),
                        NULL);

        (void) state;
        assert_int_equal(http(b, "GET", "/v1/a"), VERDICT_ALLOW);
        assert_int_equal(http(b, "GET", "/v1/../a"), VERDICT_ALLOW);
        assert_int_equal(http(b, "DELETE", "/v1/a"), VERDICT_DENY);
        assert_int_equal(http(b, "DELETE", "/v2/a"), VERDICT_ALLOW);
        assert_int_equal(http(b, "DELETE", "/v2/../v1/a"), VERDICT_DENY);
        assert_int_equal(http(b, "DELETE", "/x%25"), VERDICT_DENY);
        assert_int_equal(http(b, NULL, NULL), VERDICT_ALLOW);
        assert_int_equal(ask(b, PROTOCOL_ANY, NULL, NULL).verdict, VERDICT_ALLOW);
        assert_int_equal(ask(b, PROTOCOL_TLS, NULL, NULL).verdict, VERDICT_ALLOW);
        /* What is not looked at could be anything, also such a request. */
        assert_int_equal(ask(b, PROTOCOL_TCP, NULL, NULL).verdict, VERDICT_DENY);
}

static void test_unclear_is_a_reason(void **state)
{
        _cleanup_(policy_block_closep) const PolicyBlock *b =
                        compile_rules("deny", HTTP_RULE("allow", "\"paths\": [\"/v1/**\"]"), NULL);
        _cleanup_(policy_block_closep) const PolicyBlock *none =
                        compile_rules("deny", HTTP_RULE("allow", "\"paths\": []"), NULL);
        _cleanup_(policy_block_closep) const PolicyBlock *without =
                        compile_rules("deny", "{ \"action\": \"allow\", \"host\": \"a.test\" }", NULL);
        PolicyMatch m = ask(b, PROTOCOL_HTTP, "GET", "/v1//a");

        (void) state;
        assert_int_equal(m.verdict, VERDICT_DENY);
        assert_int_equal(m.reason, REASON_PATH);
        assert_int_equal(http(none, "GET", "/"), VERDICT_DENY);
        assert_int_equal(http(without, "GET", "/v1//a%2f"), VERDICT_ALLOW);
}

/* Many dear patterns: no allow for what nobody could find out, no way past what denies. */
static void test_budget_of_a_decision(void **state)
{
        char path[URL_PATH_MAX + 1] = "/";
        Buf rules = BUF_INIT(1U << 20), pattern = BUF_INIT(1024);
        const PolicyBlock *b;

        (void) state;
        memset(path + 1, 'a', sizeof(path) - 2);
        path[URL_PATH_MAX] = '\0';
        for (int i = 0; i < 80; i++)
                ASSERT_OK(buf_put_string(&pattern, "**a"));
        ASSERT_OK(buf_put(&pattern, "b", 2));
        ASSERT_OK(buf_printf(&rules, HTTP_RULE("deny", "\"id\": \"dear\", \"paths\": [\"/%s\"]") ",",
                             buf_front(&pattern)));
        ASSERT_OK(buf_put(&rules, HTTP_RULE("allow", "\"paths\": [\"/a*\"]"),
                          sizeof(HTTP_RULE("allow", "\"paths\": [\"/a*\"]"))));
        b = compile_rules("deny", buf_front(&rules), NULL);
        assert_int_equal(http(b, "GET", "/ac"), VERDICT_ALLOW);
        path[100] = 'b';
        path[101] = '\0';
        assert_int_equal(http(b, "GET", path), VERDICT_DENY);
        path[1] = 'x';
        assert_int_equal(http(b, "GET", path), VERDICT_DENY);
        path[50] = 'x';
        path[1] = 'a';
        path[100] = 'c';
        assert_int_equal(http(b, "GET", path), VERDICT_ALLOW);
        path[100] = path[101] = path[50] = 'a';
        assert_int_equal(http(b, "GET", path), VERDICT_DENY);
        assert_string_equal(ask(b, PROTOCOL_HTTP, "GET", path).rule, "dear");
        b = policy_block_close(b);
        buf_done(&rules);
        buf_done(&pattern);
}

/* ---- what holds beyond yes ---- */

static PolicyTerms terms(const PolicyBlock *b, Protocol protocol, const char *method)
{
        PolicyRequest q = { .host = "a.test", .port = 80, .protocol = protocol, .method = method };
        PolicyTerms t = { .n_counts = 0 };

        policy_match_terms(b, &q, &t);
        return t;
}

static void test_terms(void **state)
{
        _cleanup_(policy_block_closep) const PolicyBlock *b = compile_rules(
                        "deny",
                        "{ \"id\": \"one\", \"action\": \"allow\", \"host\": \"a.test\", \"max_upload\": \"2K\", \"idle\": \"9s\","
                        " \"max_connections\": 3, \"expires\": \"2030-01-01T00:00:00Z\", \"tls\": \"any\" },"
                        "{ \"id\": \"two\", \"action\": \"allow\", \"host\": \"a.test\", \"max_upload\": \"1K\","
                        " \"max_download\": \"5\", \"max_connections\": 7, \"expires\": \"2031-01-01T00:00:00Z\" },"
                        "{ \"id\": \"far\", \"action\": \"allow\", \"host\": \"b.test\", \"max_upload\": \"1\" }," HTTP_RULE(
                                        "deny", "\"methods\": [\"PUT\"]"),
                        "{ \"action\": \"allow\", \"host\": \"a.test\", \"idle\": \"5s\" }");
        _cleanup_(policy_block_closep) const PolicyBlock *plain =
                        compile_rules("deny", "{ \"action\": \"allow\", \"host\": \"a.test\" }", NULL);
        _cleanup_(policy_block_closep) const PolicyBlock *any = compile_rules(
                        "allow", "{ \"action\": \"allow\", \"host\": \"a.test\", \"tls\": \"any\" }", "");
        PolicyTerms t = terms(b, PROTOCOL_TLS, NULL);

        (void) state;
        assert_true(policy_block_has_terms(b) && !policy_block_has_terms(plain));
        assert_int_equal(t.max_upload_bytes, 1024);
        assert_int_equal(t.max_download_bytes, 5);
        assert_int_equal(t.idle_usec, 5 * USEC_PER_SEC);
        assert_int_equal(t.expires_usec, UINT64_C(1924992000000000)); /* the longer of the two */
        assert_int_equal(t.n_counts, 2);
        assert_true(t.needs_sni && !t.has_methods && !t.has_paths);
        assert_true(terms(b, PROTOCOL_HTTP, "GET").has_methods);
        assert_false(terms(any, PROTOCOL_TLS, NULL).needs_sni);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_clear_paths),
                cmocka_unit_test(test_unclear_paths),
                cmocka_unit_test(test_patterns),
                cmocka_unit_test(test_dear_patterns),
                cmocka_unit_test(test_rewriting),
                cmocka_unit_test(test_rules_that_allow_some),
                cmocka_unit_test(test_rules_that_deny_some),
                cmocka_unit_test(test_unclear_is_a_reason),
                cmocka_unit_test(test_budget_of_a_decision),
                cmocka_unit_test(test_terms),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
