/* The server name of a TLS client, however the hello is cut. */

#include "check.h"
#include "daemon/egress/sni.h"
#include "proto/base/buf.h"
#include "proto/base/str.h"

static void put_number(Buf *b, size_t v, size_t n_bytes)
{
        for (size_t i = n_bytes; i > 0; i--) {
                unsigned char c = (unsigned char) (v >> (8 * (i - 1)));

                ASSERT_OK(buf_put(b, &c, 1));
        }
}

static void put_name_extension(Buf *b, const char *name, const char *second)
{
        size_t n = strlen(name) + 3 + (second ? strlen(second) + 3 : 0);

        put_number(b, 0, 2);
        put_number(b, n + 2, 2);
        put_number(b, n, 2);
        put_number(b, 0, 1);
        put_number(b, strlen(name), 2);
        ASSERT_OK(buf_put_string(b, name));
        if (!second)
                return;
        put_number(b, 0, 1);
        put_number(b, strlen(second), 2);
        ASSERT_OK(buf_put_string(b, second));
}

/* One handshake message: n_padding bytes of another extension before the names; name NULL: none. */
static void make_hello(Buf *ret, const char *name, const char *second, size_t n_padding)
{
        Buf extensions = BUF_INIT(1 << 20), body = BUF_INIT(1 << 20);

        for (size_t left = n_padding; left > 0;) {
                size_t n = MIN_OF(left, (size_t) 5000);

                put_number(&extensions, 21, 2);
                put_number(&extensions, n, 2);
                for (size_t i = 0; i < n; i++)
                        put_number(&extensions, 0, 1);
                left -= n;
        }
        if (name)
                put_name_extension(&extensions, name, second);
        put_number(&extensions, 0xfe0d, 2);
        put_number(&extensions, 0, 2);
        put_number(&body, 0x0303, 2);
        for (size_t i = 0; i < 32; i++)
                put_number(&body, i, 1);
        put_number(&body, 0, 1);
        put_number(&body, 2, 2);
        put_number(&body, 0x1301, 2);
        put_number(&body, 1, 1);
        put_number(&body, 0, 1);
        put_number(&body, buf_size(&extensions), 2);
        ASSERT_OK(buf_put(&body, buf_front(&extensions), buf_size(&extensions)));
        put_number(ret, 1, 1);
        put_number(ret, buf_size(&body), 3);
        ASSERT_OK(buf_put(ret, buf_front(&body), buf_size(&body)));
        buf_done(&extensions);
        buf_done(&body);
}

/* In records of at most `size` bytes. */
static void make_records(Buf *ret, const char *name, const char *second, size_t n_padding, size_t size)
{
        Buf hello = BUF_INIT(1 << 20);

        make_hello(&hello, name, second, n_padding);
        while (buf_size(&hello) > 0) {
                size_t n = MIN_OF(size, buf_size(&hello));

                put_number(ret, 0x160301, 3);
                put_number(ret, n, 2);
                ASSERT_OK(buf_put(ret, buf_front(&hello), n));
                buf_consume(&hello, n);
        }
        buf_done(&hello);
}

static void check_name(Buf *records, const char *expected)
{
        char name[SNI_NAME_SIZE];
        size_t n = 99;

        assert_int_equal(sni_find(buf_front(records), buf_size(records), name, &n), 1);
        assert_int_equal(n, strlen(expected));
        assert_memory_equal(name, expected, n);
}

static void test_record_sizes(void **state)
{
        static const size_t sizes[] = { 1, 2, 3, 4, 5, 50, 60, 16384 };

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
                Buf b = BUF_INIT(1 << 20);

                make_records(&b, "allowed.test", NULL, sizes[i] > 4 ? 2100 : 0, sizes[i]);
                check_name(&b, "allowed.test");
                buf_done(&b);
        }
}

static void test_segments(void **state)
{
        Buf b = BUF_INIT(1 << 20);
        char name[SNI_NAME_SIZE];
        size_t n;

        (void) state;
        make_records(&b, "allowed.test", NULL, 0, 5);
        for (size_t size = 0; size < buf_size(&b); size++)
                assert_int_equal(sni_find(buf_front(&b), size, name, &n), 0);
        check_name(&b, "allowed.test");
        /* What follows the hello does not matter. */
        ASSERT_OK(buf_put_string(&b, "\x17\x03\x03"));
        check_name(&b, "allowed.test");
        buf_done(&b);
}

static void test_large_hello(void **state)
{
        Buf b = BUF_INIT(1 << 20);

        (void) state;
        make_records(&b, "allowed.test", NULL, 20000, 16384);
        check_name(&b, "allowed.test");
        buf_done(&b);
}

static void test_no_name(void **state)
{
        Buf b = BUF_INIT(1 << 20);

        (void) state;
        make_records(&b, NULL, NULL, 10, 16384);
        check_name(&b, "");
        buf_done(&b);
}

static void expect_bad(Buf *b)
{
        char name[SNI_NAME_SIZE];
        size_t n;

        ASSERT_ERROR(sni_find(buf_front(b), buf_size(b), name, &n), EBADMSG);
        buf_done(b);
}

static void test_refused(void **state)
{
        char long_name[SNI_NAME_SIZE + 1] = { 0 };
        Buf b = BUF_INIT(1 << 20);

        (void) state;
        make_records(&b, "allowed.test", "evil.test", 0, 16384);
        expect_bad(&b);
        make_records(&b, "", NULL, 0, 16384);
        expect_bad(&b);
        memset(long_name, 'a', SNI_NAME_SIZE);
        make_records(&b, long_name, NULL, 0, 16384);
        expect_bad(&b);
        make_records(&b, "allowed.test", NULL, 65000, 100);
        expect_bad(&b);
        make_records(&b, "allowed.test", NULL, 0, 16384);
        buf_front(&b)[5] = 2; /* a ServerHello */
        expect_bad(&b);
        make_records(&b, "allowed.test", NULL, 0, 16384);
        buf_front(&b)[0] = 23; /* application data */
        expect_bad(&b);
        make_records(&b, "allowed.test", NULL, 0, 16384);
        buf_front(&b)[1] = 2;
        expect_bad(&b);
        make_records(&b, "allowed.test", NULL, 0, 16384);
        buf_front(&b)[43] = 40; /* the session id runs beyond the end of what follows */
        buf_front(&b)[44] = 127;
        expect_bad(&b);
        ASSERT_OK(buf_put(&b, "\x16\x03\x01\x00\x00", 5));
        expect_bad(&b);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_record_sizes), cmocka_unit_test(test_segments),
                cmocka_unit_test(test_large_hello),  cmocka_unit_test(test_no_name),
                cmocka_unit_test(test_refused),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
