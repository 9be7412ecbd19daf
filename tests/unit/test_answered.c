/* Real addresses that programs were told: which names they mean. */

#include <stdio.h>

#include "check.h"
#include "daemon/egress/answered.h"
#include "daemon/policy/compiled.h"
#include "proto/base/str.h"

static PrivAddress address(const char *s)
{
        PrivAddress a = { 0 };

        if (address_parse(s, &a) < 0)
                fail_msg("not an address: %s", s);
        return a;
}

static void test_newest(void **state)
{
        _cleanup_(answered_freep) Answered *a = NULL;
        PrivAddress one = address("93.184.216.34"), mapped = address("::ffff:93.184.216.34"),
                    other = address("2606:2800:220:1::34");

        (void) state;
        ASSERT_OK(answered_new(&a));
        assert_null(answered_find(a, &one));
        assert_int_equal(answered_count(a, &one), 0);
        ASSERT_OK(answered_add(a, &one, "a.test"));
        ASSERT_OK(answered_add(a, &one, "b.test"));
        ASSERT_OK(answered_add(a, &other, "c.test"));
        assert_string_equal(answered_find(a, &one), "b.test");
        ASSERT_OK(answered_add(a, &one, "a.test"));
        assert_string_equal(answered_find(a, &mapped), "a.test");
        assert_int_equal(answered_count(a, &one), 2);
        assert_true(answered_has(a, &one, "b.test"));
        assert_false(answered_has(a, &one, "c.test"));
        assert_false(answered_has(a, &one, "test"));
        assert_string_equal(answered_find(a, &other), "c.test");
}

static void test_full(void **state)
{
        _cleanup_(answered_freep) Answered *a = NULL;
        PrivAddress one = address("93.184.216.34"), many = address("77.0.0.0");
        char name[32];

        (void) state;
        ASSERT_OK(answered_new(&a));
        for (unsigned i = 0; i <= ANSWERED_NAMES_MAX; i++) {
                ASSERT_OK(str_printf(name, sizeof(name), "n%u.test", i));
                ASSERT_OK(answered_add(a, &one, name));
        }
        assert_int_equal(answered_count(a, &one), ANSWERED_NAMES_MAX);
        assert_false(answered_has(a, &one, "n0.test"));
        assert_true(answered_has(a, &one, "n1.test"));
        for (unsigned i = 0; i < ANSWERED_MAX - ANSWERED_NAMES_MAX; i++) {
                assert_int_equal(answered_count(a, &one), ANSWERED_NAMES_MAX);
                many.bytes[2] = (uint8_t) (i >> 8);
                many.bytes[3] = (uint8_t) i;
                ASSERT_OK(answered_add(a, &many, "a.test"));
        }
        /* What is known already needs no room. */
        ASSERT_OK(answered_add(a, &many, "a.test"));
        assert_int_equal(answered_count(a, &one), ANSWERED_NAMES_MAX);
        ASSERT_OK(answered_add(a, &many, "b.test"));
        assert_int_equal(answered_count(a, &one), 0);
        assert_string_equal(answered_find(a, &many), "b.test");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_newest),
                cmocka_unit_test(test_full),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
