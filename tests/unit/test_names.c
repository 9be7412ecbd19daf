/* Addresses that stand for names: each for one, also for a worker's successor. */

#include <sys/mman.h>

#include "check.h"
#include "daemon/egress/names.h"
#include "daemon/policy/compiled.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

static const PrivPool default_pool = {
        .v4 = { .address = { .family = 4, .bytes = { 28 } }, .length = 8 },
        .v6 = { .address = { .family = 6, .bytes = { 0x3f, 0xfe } }, .length = 16 },
};

static const PrivPool small_pool = {
        .v4 = { .address = { .family = 4, .bytes = { 198, 18, 240 } }, .length = 28 },
        .v6 = { .address = { .family = 6, .bytes = { 0x3f, 0xfe, [13] = 0x77 } }, .length = 112 },
};

static int make_table(void)
{
        int fd = memfd_create("names", MFD_CLOEXEC | MFD_ALLOW_SEALING);

        assert_true(fd >= 0);
        assert_int_equal(ftruncate(fd, PRIV_NAMES_BYTES), 0);
        assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
        return fd;
}

static Names *open_names(int table, const PrivPool *pool)
{
        Names *n = NULL;

        ASSERT_OK(names_open(dup(table), pool, &n));
        return n;
}

static PrivAddress address(const char *s)
{
        PrivAddress a = { 0 };

        if (address_parse(s, &a) < 0)
                fail_msg("not an address: %s", s);
        return a;
}

static const char *find(const Names *n, const char *text)
{
        PrivAddress a = address(text);

        return names_find(n, &a);
}

static void expect_address(const Names *n, uint32_t number, uint32_t family, const char *expected)
{
        PrivAddress a = names_address(n, number, family);
        char text[ADDRESS_TEXT_SIZE];

        address_format(&a, text);
        assert_string_equal(text, expected);
}

static void test_both_ways(void **state)
{
        _cleanup_close_ int table = make_table();
        _cleanup_(names_closep) Names *n = open_names(table, &default_pool);
        uint32_t first, second, again;

        (void) state;
        ASSERT_OK(names_add(n, "allowed.test", &first));
        ASSERT_OK(names_add(n, "b.test", &second));
        ASSERT_OK(names_add(n, "allowed.test", &again));
        assert_int_equal(first, again);
        assert_int_not_equal(first, second);
        expect_address(n, first, 4, "28.0.0.1");
        expect_address(n, second, 6, "3ffe::2");
        assert_string_equal(find(n, "28.0.0.1"), "allowed.test");
        assert_string_equal(find(n, "3ffe::1"), "allowed.test");
        assert_string_equal(find(n, "::ffff:28.0.0.2"), "b.test");
        assert_null(find(n, "28.0.0.0"));
        assert_null(find(n, "28.0.0.3"));
        assert_null(find(n, "28.1.0.1"));
        assert_null(find(n, "3ffe::1:0:0:1"));
        assert_null(find(n, "29.0.0.1"));
        assert_true(names_hold(n, &(PrivAddress){ .family = 4, .bytes = { 28, 255, 255, 255 } }));
        assert_false(names_hold(n, &(PrivAddress){ .family = 4, .bytes = { 29 } }));
        assert_false(names_hold(n, &(PrivAddress){ .family = 0 }));
}

static void test_successor(void **state)
{
        _cleanup_close_ int table = make_table();
        Names *n = open_names(table, &default_pool);
        char name[32];
        uint32_t number;

        (void) state;
        for (unsigned i = 0; i < 1000; i++) {
                ASSERT_OK(str_printf(name, sizeof(name), "h%u.test", i));
                ASSERT_OK(names_add(n, name, &number));
                assert_int_equal(number, i);
        }
        n = names_close(n);
        n = open_names(table, &default_pool);
        assert_string_equal(find(n, "28.0.0.1"), "h0.test");
        assert_string_equal(find(n, "28.0.3.232"), "h999.test");
        ASSERT_OK(names_add(n, "h7.test", &number));
        assert_int_equal(number, 7);
        ASSERT_OK(names_add(n, "new.test", &number));
        assert_int_equal(number, 1000);
        n = names_close(n);
}

static void test_full(void **state)
{
        _cleanup_close_ int table = make_table();
        _cleanup_(names_closep) Names *n = open_names(table, &small_pool);
        char name[32];
        uint32_t number;

        (void) state;
        for (unsigned i = 0; i < 14; i++) {
                ASSERT_OK(str_printf(name, sizeof(name), "h%u.test", i));
                ASSERT_OK(names_add(n, name, &number));
        }
        ASSERT_ERROR(names_add(n, "more.test", &number), ENOSPC);
        ASSERT_OK(names_add(n, "h3.test", &number));
        expect_address(n, 13, 4, "198.18.240.14");
        assert_string_equal(find(n, "198.18.240.14"), "h13.test");
        assert_null(find(n, "198.18.240.15"));
        assert_string_equal(find(n, "3ffe::77:e"), "h13.test");
}

static void test_full_memory(void **state)
{
        _cleanup_close_ int table = make_table();
        _cleanup_(names_closep) Names *n = open_names(table, &default_pool);
        char name[PRIV_HOST_SIZE];
        uint32_t number, count = 0;
        int r = 0;

        (void) state;
        memset(name, 'a', sizeof(name));
        for (size_t i = 63; i < 250; i += 64)
                name[i] = '.';
        name[250] = '\0';
        while (r == 0 && count <= PRIV_NAMES_MAX) {
                char digits[8];

                ASSERT_OK(str_printf(digits, sizeof(digits), "%07u", count));
                memcpy(name, digits, 7);
                r = names_add(n, name, &number);
                count += r == 0;
        }
        ASSERT_ERROR(r, ENOSPC);
        assert_in_range(count, PRIV_NAMES_BYTES / 256, PRIV_NAMES_BYTES / 250);
}

/* What a worker that was taken over left behind: no name that is none, none twice, nothing beyond. */
static void test_damage(void **state)
{
        static const char good[] = "a.test\0b.test";
        static const struct {
                const char *text;
                uint32_t n_used;
                uint32_t n_names;
        } rows[] = {
                { "a.test\0b.test", sizeof(good), 2 },
                { "a.test\0B.test", sizeof(good), 1 },
                { "a.test\0\0.test", sizeof(good), 1 },
                { "a.test\0a.test", sizeof(good), 1 },
                { "a.test\0b test", sizeof(good), 1 },
                { "a.test\0b.test", UINT32_MAX, 2 },
                { "a.test\0b.test", 8, 2 },
                { "a.test\0b.test", 7, 1 },
                { "a.test\0b.test", 0, 0 },
                { "127.0.0.1\0est", sizeof(good), 0 },
        };

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
                _cleanup_close_ int table = make_table();
                _cleanup_(names_closep) Names *n = open_names(table, &default_pool);
                uint32_t number;

                assert_int_equal(pwrite(table, &rows[i].n_used, 4, 4), 4);
                assert_int_equal(pwrite(table, rows[i].text, sizeof(good), 8), sizeof(good));
                n = names_close(n);
                n = open_names(table, &default_pool);
                ASSERT_OK(names_add(n, "new.test", &number));
                assert_int_equal(number, rows[i].n_names);
        }
}

static void test_refused(void **state)
{
        PrivPool bad = default_pool;
        int fd = memfd_create("names", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        unsigned before = count_fds();
        Names *n = NULL;

        (void) state;
        ASSERT_ERROR(names_open(dup(fd), &default_pool, &n), EPERM);
        bad.v4.length = 33;
        ASSERT_ERROR(names_open(dup(fd), &bad, &n), EPROTO);
        bad = default_pool;
        bad.v6.address.family = 4;
        ASSERT_ERROR(names_open(dup(fd), &bad, &n), EPROTO);
        assert_int_equal(count_fds(), before);
        (void) fd_close(fd);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_both_ways), cmocka_unit_test(test_successor),
                cmocka_unit_test(test_full),      cmocka_unit_test(test_full_memory),
                cmocka_unit_test(test_damage),    cmocka_unit_test(test_refused),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
