/* A ceiling only narrows: whatever a policy and a ceiling say, and whatever is chosen afterwards. */

#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "daemon/policy/policy.h"
#include "proto/base/buf.h"
#include "proto/base/str.h"

static const PolicyVariables variables = {
        .workspace = "/home/u/w", .home = "/home/u", .user = "u", .uid = 1000
};

static const char *const paths[] = { "/srv", "/srv/a", "/srv/a/b",     "/data",         "/data/s",
                                     "~/n",  "~/n/m",  "${workspace}", "${workspace}/x" };

static const char *const asked[] = { "/srv",          "/srv/a",          "/srv/a/b/c",    "/data/s",
                                     "/data/z",       "/home/u/n",       "/home/u/n/m/o", "/home/u/w",
                                     "/home/u/w/x/y", "/home/u/.ssh/id", "/usr/bin",      "/run/x/a",
                                     "/srv/sock",     "/etc/shadow" };

static const char *const words[_POLICY_MODE_MAX][3] = { [MODE_ROOT] = { "minimal", "host", "host" },
                                                        [MODE_HOME] = { "empty", "persistent", "masked" },
                                                        [MODE_WORKSPACE] = { "read-only", "direct",
                                                                             "direct" } };
static const char *const mode_keys[] = {
        [MODE_ROOT] = "root", [MODE_HOME] = "home", [MODE_WORKSPACE] = "workspace"
};
static const char *const limit_keys[] = { "tasks", "files" };
static const char *const sockets[] = { "/run/x/a", "/run/x/b", "/srv/sock" };
static const char *const groups[] = { "red", "green", "blue" };

static size_t pick(size_t n)
{
        return (size_t) random() % n;
}

static void put(Buf *b, const char *s)
{
        ASSERT_OK(buf_put_string(b, s));
}

static void put_list(Buf *b, const char *key, const char *const *of, size_t n)
{
        size_t m = pick(4);

        if (pick(2))
                return;
        ASSERT_OK(buf_printf(b, ", \"%s\": [", key));
        for (size_t i = 0; i < m; i++)
                ASSERT_OK(buf_printf(b, "%s\"%s\"", i ? ", " : "", of[pick(n)]));
        put(b, "]");
}

static void put_numbers(Buf *b)
{
        put(b, " }, \"limits\": { \"memory\": \"1G\"");
        for (size_t i = 0; i < ELEMENTSOF(limit_keys); i++)
                if (pick(2))
                        ASSERT_OK(buf_printf(b, ", \"%s\": %zu", limit_keys[i], 16 + pick(100)));
        if (pick(2))
                ASSERT_OK(buf_printf(b, ", \"swap\": \"%zu\"", pick(3) << 20));
        put(b, " }, \"network\": { \"default\": \"deny\"");
        if (pick(2))
                ASSERT_OK(buf_printf(b, ", \"publish\": [%zu, %zu]", 3000 + pick(3), 3000 + pick(3)));
        put(b, " }");
        put_list(b, "groups", groups, ELEMENTSOF(groups));
}

static Policy *parse(PolicyKind kind, const char *text)
{
        PolicyDiagnostics d;
        Policy *p = NULL;

        policy_diagnostics_init(&d);
        if (policy_parse(kind, "t", text, strlen(text), &d, &p) < 0)
                LIST_FOREACH (g, &d.list, PolicyDiagnostic, link)
                        print_message("%s: %u:%u %s: %s\n", text, g->line, g->column, g->key, g->message);
        policy_diagnostics_done(&d);
        assert_non_null(p);
        return p;
}

/* The text of one, in the words of both kinds. */
static void put_random(Buf *b)
{
        put(b, "{ \"version\": 1, \"filesystem\": { \"deny\": [\"/nowhere\"]");
        for (size_t m = 0; m < _POLICY_MODE_MAX; m++)
                if (pick(2))
                        ASSERT_OK(buf_printf(b, ", \"%s\": \"%s\"", mode_keys[m], words[m][pick(3)]));
        put_list(b, "read", paths, ELEMENTSOF(paths));
        put_list(b, "write", paths, ELEMENTSOF(paths));
        put_list(b, "sockets", sockets, ELEMENTSOF(sockets));
        put_numbers(b);
        ASSERT_OK(buf_put(b, " }", 3));
}

static void bound(Policy *p, Policy *take_ceiling)
{
        PolicyDiagnostics d;

        policy_diagnostics_init(&d);
        ASSERT_OK(policy_bound(p, take_ceiling, &d));
        assert_int_equal(d.n_failures, 0);
        policy_diagnostics_done(&d);
}

/* False: there is no such session at all. */
static bool verdict(const Policy *p, size_t i, bool for_writing, Verdict *ret)
{
        PolicyFileAnswer answer;
        int r = policy_check_file(p, &variables, asked[i], for_writing, &answer);

        assert_true(r == 0 || r == -EINVAL || r == -EPERM);
        /* What is not shown of the home is the session's own there: nothing of the host's. */
        if (r == 0)
                *ret = str_has_prefix(answer.rule, "(the session's own") ? VERDICT_DENY : answer.verdict;
        return r == 0;
}

static void check_files(const Policy *free_one, const Policy *bounded)
{
        for (size_t i = 0; i < 2 * ELEMENTSOF(asked); i++) {
                Verdict a = VERDICT_DENY, b = VERDICT_DENY;

                if (verdict(bounded, i / 2, i % 2, &b)) {
                        assert_true(verdict(free_one, i / 2, i % 2, &a));
                        assert_true(b <= a);
                }
        }
}

static bool is_within(uint64_t narrow, uint64_t wide)
{
        return wide == 0 || (narrow != 0 && narrow <= wide);
}

static void check_limits(const Policy *p, const Policy *bounded, const Policy *ceiling)
{
        const Policy *const above[] = { p, ceiling };
        const PolicyLimits *n = policy_limits(bounded);

        for (size_t i = 0; i < 2; i++) {
                const PolicyLimits *w = policy_limits(above[i]);

                assert_true(is_within(n->tasks, w->tasks) && is_within(n->files, w->files) &&
                            is_within(n->memory_bytes, w->memory_bytes));
                assert_true(!w->has_swap || (n->has_swap && n->swap_bytes <= w->swap_bytes));
        }
}

static bool has_port(const Policy *p, uint32_t port)
{
        uint32_t ports[PRIV_PUBLISH_MAX], n = policy_publish(p, ports);

        for (uint32_t i = 0; i < n; i++)
                if (ports[i] == port)
                        return true;
        return false;
}

static void check_lists(const Policy *p, const Policy *bounded, const Policy *ceiling, const char *text)
{
        for (uint32_t port = 3000; port < 3003; port++)
                assert_int_equal(has_port(bounded, port),
                                 has_port(p, port) &&
                                                 (!strstr(text, "\"publish\"") || has_port(ceiling, port)));
        for (size_t i = 0; i < policy_n_groups(bounded); i++) {
                bool is_listed = !strstr(text, "\"groups\"");

                for (size_t k = 0; k < policy_n_groups(ceiling); k++)
                        is_listed = is_listed ||
                                    str_equal(policy_group(ceiling, k), policy_group(bounded, i));
                assert_true(is_listed);
        }
}

/* Whatever is chosen afterwards is no wider. */
static void check_modes(const Policy *p, Policy *bounded, const Policy *ceiling, const char *text)
{
        for (unsigned m = 0; m < _POLICY_MODE_MAX; m++) {
                bool has_word = strstr(text, words[m][policy_mode(ceiling, (PolicyMode) m)]) != NULL;

                assert_true(policy_mode(bounded, (PolicyMode) m) <= policy_mode(p, (PolicyMode) m));
                for (size_t i = 0; i < 3; i++)
                        if (policy_choose(bounded, (PolicyMode) m, words[m][i]) < 0)
                                assert_true(has_word);
                if (has_word)
                        assert_true(policy_mode(bounded, (PolicyMode) m) <=
                                    policy_mode(ceiling, (PolicyMode) m));
        }
}

static void test_only_narrows(void **state)
{
        (void) state;
        srandom(42);
        for (int round = 0; round < 150; round++) {
                _cleanup_(policy_freep) Policy *p = NULL, *bounded = NULL, *ceiling = NULL;
                Buf own = BUF_INIT(8192), above = BUF_INIT(8192);

                put_random(&own);
                put_random(&above);
                p = parse(POLICY_PROFILE, buf_front(&own));
                bounded = parse(POLICY_PROFILE, buf_front(&own));
                ceiling = parse(POLICY_CEILING, buf_front(&above));
                bound(bounded, parse(POLICY_CEILING, buf_front(&above)));
                check_files(p, bounded);
                check_limits(p, bounded, ceiling);
                check_lists(p, bounded, ceiling, buf_front(&above));
                check_modes(p, bounded, ceiling, buf_front(&above));
                buf_done(&own);
                buf_done(&above);
        }
}

static Verdict file_verdict(const char *profile, const char *ceiling, const char *path, bool for_writing)
{
        _cleanup_(policy_freep) Policy *p = parse(POLICY_PROFILE, profile);
        PolicyFileAnswer answer;

        bound(p, parse(POLICY_CEILING, ceiling));
        ASSERT_OK(policy_check_file(p, &variables, path, for_writing, &answer));
        return answer.verdict;
}

static void test_files(void **state)
{
#define WIDE                                                                                                   \
        "{ \"version\": 1, \"filesystem\": { \"root\": \"host\", \"home\": \"masked\", \"read\": [\"/srv\"], " \
        "\"write\": [\"/data\", \"~/n\"] } }"
#define BOUND(keys) "{ \"version\": 1, \"filesystem\": { \"root\": \"minimal\", " keys " } }"
        (void) state;
        assert_int_equal(file_verdict(WIDE, BOUND("\"home\": \"masked\""), "/data/x", true), VERDICT_ALLOW);
        assert_int_equal(file_verdict(WIDE, BOUND("\"home\": \"masked\""), "/var/x", false), VERDICT_DENY);
        assert_int_equal(file_verdict(WIDE, BOUND("\"read\": [\"${workspace}\"]"), "/srv/x", false),
                         VERDICT_DENY);
        assert_int_equal(file_verdict(WIDE, BOUND("\"write\": [\"${workspace}\"]"), "/data/x", true),
                         VERDICT_DENY);
        assert_int_equal(file_verdict(WIDE, BOUND("\"write\": [\"${workspace}\"]"), "/data/x", false),
                         VERDICT_ALLOW);
        assert_int_equal(file_verdict(WIDE, BOUND("\"write\": [\"${workspace}\"]"), "/home/u/w/x", true),
                         VERDICT_ALLOW);
        assert_int_equal(file_verdict(WIDE, BOUND("\"deny\": [\"${workspace}/k\"]"), "/home/u/w/k", false),
                         VERDICT_DENY);
}

/* What a ceiling cannot say is an error, never passed over. */
static void test_errors(void **state)
{
        static const char *const texts[] = {
                "{ \"version\": 1, \"extends\": [\"base\"] }",
                "{ \"version\": 1, \"environment\": { \"pass\": [\"A\"] } }",
                "{ \"version\": 1, \"filesystem\": { \"tmpfs\": { \"/tmp\": \"1G\" } } }",
                "{ \"version\": 1, \"filesystem\": { \"protect\": [\"/a\"] } }",
                "{ \"version\": 1, \"ask\": { \"timeout\": \"1s\" } }",
        };

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(texts); i++) {
                PolicyDiagnostics d;
                Policy *p;

                policy_diagnostics_init(&d);
                ASSERT_ERROR(policy_parse(POLICY_CEILING, "t", texts[i], strlen(texts[i]), &d, &p), EINVAL);
                assert_int_equal(d.n_failures, 1);
                policy_diagnostics_done(&d);
        }
}

int main(void)
{
        const struct CMUnitTest all[] = {
                cmocka_unit_test(test_only_narrows),
                cmocka_unit_test(test_files),
                cmocka_unit_test(test_errors),
        };

        return cmocka_run_group_tests(all, NULL, NULL);
}
