/* How many names, how fast, and what they look like, where a session may choose them. */

#include "check.h"
#include "daemon/audit/name_budget.h"
#include "proto/base/clock.h"
#include "proto/base/str.h"

#define SUFFIX ".wild.test"

static bool take(NameBudget *b, const char *chosen, uint64_t now_usec)
{
        char name[300];

        ASSERT_OK(str_printf(name, sizeof(name), "%s" SUFFIX, chosen));
        return name_budget_take(b, name, strlen(chosen), now_usec);
}

static void test_looks(void **state)
{
        static const char *const good[] = {
                "www",
                "d111111abcdef8",
                "a.b.c.d",
                "123e4567-e89b-12d3-a456-426614174000",
                "ec2-203-0-113-25.eu-central-1.compute",
                "0123456789abcdef0123456789abcdef",
                "production-eu-west-1-internal-gateway",
                "my-bucket.s3.dualstack.us-east-1",
        };
        static const char *const bad[] = {
                "mfrggzdfmztwq2lknnwg23tpobyxe43u", /* base32 */
                "q8zk3v0x1yb7n5wd2m9rj4lt6hcgpfse", "nbswy3dpeb3w64tmmqqho33snrsccidi.www",
                "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", /* 49 */
        };
        NameBudget b = { .n_bytes = 0 };
        char wide[200] = "";

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(good); i++)
                if (!take(&b, good[i], USEC_PER_SEC))
                        fail_msg("%s was refused", good[i]);
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                if (take(&b, bad[i], USEC_PER_SEC))
                        fail_msg("%s was let through", bad[i]);
        for (size_t i = 0; i < 65; i++)
                wide[2 * i] = 'a', wide[2 * i + 1] = '.';
        wide[129] = '\0';
        assert_false(take(&b, wide, USEC_PER_SEC));
        wide[127] = '\0';
        assert_true(take(&b, wide, USEC_PER_SEC));
        /* What a rule names is free, whatever it looks like. */
        assert_true(name_budget_take(&b, bad[0], 0, USEC_PER_SEC));
        name_budget_done(&b);
}

static unsigned take_many(NameBudget *b, unsigned from, unsigned n, uint64_t now_usec)
{
        unsigned n_taken = 0;

        for (unsigned i = from; i < from + n; i++) {
                char chosen[32];

                ASSERT_OK(str_printf(chosen, sizeof(chosen), "n%u", i));
                n_taken += take(b, chosen, now_usec);
        }
        return n_taken;
}

static void test_rate(void **state)
{
        NameBudget b = { .n_bytes = 0 };
        uint64_t now = 1000 * USEC_PER_SEC;

        (void) state;
        assert_int_equal(take_many(&b, 0, 1000, now), NAME_BUDGET_BURST);
        /* Again: what was let through is free. */
        assert_int_equal(take_many(&b, 0, 1000, now), NAME_BUDGET_BURST);
        assert_int_equal(take_many(&b, 1000, 1000, now + 10 * USEC_PER_SEC), 10);
        assert_int_equal(take_many(&b, 2000, 1000, now + 10000 * USEC_PER_SEC), NAME_BUDGET_BURST);
        name_budget_done(&b);
}

static void test_total(void **state)
{
        NameBudget b = { .n_bytes = 0 };
        unsigned n_taken = 0;
        char chosen[64];

        (void) state;
        for (unsigned i = 0; i < 10000; i++) {
                ASSERT_OK(str_printf(chosen, sizeof(chosen), "a-rather-long-name-%06u", i));
                n_taken += take(&b, chosen, (1 + i) * 1000 * USEC_PER_SEC);
        }
        assert_int_equal(n_taken, NAME_BUDGET_BYTES_MAX / 25);
        assert_true(take(&b, "a-rather-long-name-000000", 1));
        name_budget_done(&b);
}

/* What another counted before counts on. */
static void test_restored(void **state)
{
        NameBudget b = { .n_bytes = 0 };
        uint64_t now = 1000 * USEC_PER_SEC;

        (void) state;
        for (unsigned i = 0; i < 100; i++) {
                char name[32];

                ASSERT_OK(str_printf(name, sizeof(name), "n%u" SUFFIX, i));
                name_budget_restore(&b, name, i < 50 ? 2 : 3, now - (100 - i) * USEC_PER_MSEC);
                name_budget_restore(&b, name, i < 50 ? 2 : 3, now);
        }
        assert_int_equal(b.n_bytes, 250);
        name_budget_restore(&b, "a.rule.names.it", 0, now);
        assert_int_equal(b.seen.n, 100);
        assert_int_equal(take_many(&b, 0, 1000, now), NAME_BUDGET_BURST);
        name_budget_exhaust(&b);
        assert_int_equal(take_many(&b, 0, 1000, now + 1000 * USEC_PER_SEC), NAME_BUDGET_BURST);
        name_budget_done(&b);
}

/* Rows of what was never let through make nothing free. */
static void test_restored_data(void **state)
{
        static const char data[] = "mfrggzdfmztwq2lknnwg23tpobyxe43u";
        NameBudget b = { .n_bytes = 0 };
        uint64_t now = 1000 * USEC_PER_SEC;
        char name[64];

        (void) state;
        name_budget_restore(&b, "mfrggzdfmztwq2lknnwg23tpobyxe43u" SUFFIX, strlen(data), now);
        assert_int_equal(b.seen.n, 0);
        assert_false(take(&b, data, now));
        assert_true(take(&b, "www", now));
        for (unsigned i = 0; i < 4000; i++) {
                ASSERT_OK(str_printf(name, sizeof(name), "a-rather-long-name-%06u" SUFFIX, i));
                name_budget_restore(&b, name, 25, now);
        }
        assert_true(b.n_bytes <= NAME_BUDGET_BYTES_MAX);
        assert_true(take(&b, "a-rather-long-name-000000", now));
        assert_false(take(&b, "a-rather-long-name-003999", now + 10000 * USEC_PER_SEC));
        assert_false(take(&b, "new", now + 10000 * USEC_PER_SEC));
        name_budget_done(&b);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_looks),         cmocka_unit_test(test_rate),
                cmocka_unit_test(test_total),         cmocka_unit_test(test_restored),
                cmocka_unit_test(test_restored_data),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
