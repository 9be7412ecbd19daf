/* What the launcher lets a user's starts take of its time. */

#include "check.h"
#include "daemon/launcher/door.h"
#include "daemon/launcher/quota.h"
#include "daemon/launcher/service.h"
#include "daemon/launcher/user.h"
#include "proto/base/clock.h"

#define START_USEC (15 * USEC_PER_MSEC)

static User alone, other, root;

void service_report_limit(_unused_ Launcher *l, _unused_ uint32_t uid, _unused_ const char *quota,
                          _unused_ const char *detail)
{
}

static unsigned n_shut;
static uint64_t shut_until_usec;

bool door_shut(_unused_ Door *d, _unused_ uint32_t uid, uint64_t until_usec)
{
        n_shut++;
        shut_until_usec = until_usec;
        return true;
}

static void add(Launcher *l, User *u, uint32_t uid)
{
        memset(u, 0, sizeof(*u));
        u->launcher = l;
        u->uid = uid;
        ASSERT_OK(map_put(&l->users, &u->uid, sizeof(u->uid), u));
}

static void connect_one(User *u)
{
        uint32_t over;

        assert_true(quota_admit_connection(u, &over));
}

static void test_starts_beside_others(_unused_ void **state)
{
        static Launcher l = { .settings = { .connects_per_second = 100,
                                            .connections_per_user_max = 9,
                                            .connections_max = 9 } };

        add(&l, &root, 0);
        add(&l, &alone, 1000);
        add(&l, &other, 1001);
        connect_one(&alone);
        assert_int_equal(quota_charge_time(&alone, START_USEC), 0);
        /* The same once more is too much as soon as somebody else is there. */
        alone.quota.time = (Bucket){ 0 };
        connect_one(&other);
        assert_true(quota_charge_time(&alone, START_USEC) > 0);
        assert_int_equal(quota_charge_time(&root, START_USEC), 0);
        /* Who has not come for a while does not count. */
        alone.quota.time = (Bucket){ 0 };
        other.quota.connected_usec -= 2 * USEC_PER_SEC;
        assert_int_equal(quota_charge_time(&alone, START_USEC), 0);
        map_done(&l.users);
}

static void test_starts_alone(_unused_ void **state)
{
        static Launcher l = { 0 };
        unsigned n = 0;

        add(&l, &alone, 1000);
        while (quota_charge_time(&alone, START_USEC) == 0)
                assert_true(++n < 100);
        assert_true(n > 0);
        map_done(&l.users);
}

static unsigned connects_refused(User *u, unsigned n)
{
        unsigned n_refused = 0;
        uint32_t over;

        while (n-- > 0)
                n_refused += !quota_admit_connection(u, &over);
        return n_refused;
}

/* A few too many are turned away, one after the other; more of them are shut out, and find no tokens saved
 * up. */
static void test_floods_are_shut_out(_unused_ void **state)
{
        static Launcher l = { .settings = { .connects_per_second = 10,
                                            .connections_per_user_max = 9,
                                            .connections_max = 9 } };
        BucketRate rate = bucket_rate(10, USEC_PER_SEC, 40);

        add(&l, &root, 0);
        add(&l, &alone, 1000);
        /* No row of it here. */
        alone.quota.is_timer_set = true;
        assert_true(connects_refused(&alone, 60) >= 15);
        assert_int_equal(n_shut, 0);
        (void) connects_refused(&alone, 100);
        assert_int_not_equal(n_shut, 0);
        assert_true(bucket_debt_usec(&alone.quota.connects, &rate, shut_until_usec - USEC_PER_MSEC) > 0);
        assert_int_equal(bucket_debt_usec(&alone.quota.connects, &rate, shut_until_usec), 0);
        assert_false(bucket_take(&alone.quota.connects, &rate, 1, shut_until_usec));
        n_shut = 0;
        assert_int_equal(connects_refused(&root, 1000), 0);
        assert_int_equal(n_shut, 0);
        map_done(&l.users);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_starts_beside_others),
                cmocka_unit_test(test_starts_alone),
                cmocka_unit_test(test_floods_are_shut_out),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
