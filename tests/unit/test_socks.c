/* Requests of SOCKS: whole, in parts, and broken. */

#include <errno.h>

#include "daemon/egress/socks.h"
#include "proto/base/str.h"
#include "tests/unit/check.h"

#define PARSE(bytes, ret) socks_parse_request((bytes), sizeof(bytes) - 1, (ret))

static void greetings(_unused_ void **state)
{
        assert_int_equal(socks_parse_greeting("\5\1\0", 3), 3);
        assert_int_equal(socks_parse_greeting("\5\3\2\1\0more", 9), 5);
        assert_int_equal(socks_parse_greeting("\5\2\0", 3), 0);
        assert_int_equal(socks_parse_greeting("\5", 1), 0);
        assert_int_equal(socks_parse_greeting("\5\1\2", 3), -EOPNOTSUPP);
        assert_int_equal(socks_parse_greeting("\5\0", 2), -EOPNOTSUPP);
}

static void names(_unused_ void **state)
{
        SocksRequest q;

        assert_int_equal(PARSE("\5\1\0\3\14Allowed.TEST\0\120", &q), 19);
        assert_string_equal(q.authority.host, "allowed.test");
        assert_int_equal(q.authority.port, 80);
        assert_int_equal(PARSE("\4\1\1\273\0\0\0\1me\0allowed.test\0", &q), 24);
        assert_string_equal(q.authority.host, "allowed.test");
        assert_int_equal(q.authority.port, 443);
        /* A literal in place of a name is an address. */
        assert_int_equal(PARSE("\5\1\0\3\0109.9.9.09\0\120", &q), -EBADMSG);
        assert_int_equal(PARSE("\5\1\0\3\0079.9.9.9\0\120", &q), 14);
        assert_int_equal(q.authority.address.family, 4);
}

static void addresses(_unused_ void **state)
{
        SocksRequest q;

        assert_int_equal(PARSE("\5\1\0\1\11\11\11\11\37\220", &q), 10);
        assert_int_equal(q.authority.address.family, 4);
        assert_int_equal(q.authority.port, 8080);
        assert_int_equal(PARSE("\5\1\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1\0\120", &q), 22);
        assert_int_equal(q.authority.address.family, 6);
        assert_int_equal(PARSE("\4\1\0\120\11\11\11\11\0", &q), 9);
        assert_int_equal(q.authority.address.family, 4);
        assert_int_equal(q.authority.host[0], '\0');
        assert_int_equal(PARSE("\5\1\0\2\0\120", &q), -EAFNOSUPPORT);
}

static void what_is_no_host(_unused_ void **state)
{
        SocksRequest q;

        assert_int_equal(PARSE("\5\1\0\3\27evil.test\0.allowed.test\0\120", &q), -EBADMSG);
        assert_int_equal(q.n_raw, 23);
        assert_int_equal(PARSE("\5\1\0\3\17allowed.test:80\0\120", &q), -EBADMSG);
        assert_int_equal(PARSE("\5\1\0\3\14a@allowed.te\0\120", &q), -EBADMSG);
        assert_int_equal(PARSE("\5\1\0\3\0\0\120", &q), -EBADMSG);
        assert_int_equal(PARSE("\5\1\0\3\3::1\0\120", &q), -EBADMSG);
        assert_int_equal(PARSE("\5\1\0\1\11\11\11\11\0\0", &q), -EBADMSG);
        assert_int_equal(PARSE("\5\1\1\1\11\11\11\11\0\120", &q), -EBADMSG);
        assert_int_equal(PARSE("\4\1\0\120\0\0\0\1\0\0", &q), -EBADMSG);
        assert_int_equal(PARSE("\6\1\0\120", &q), -EBADMSG);
}

/* Whatever comes in parts is the same in the end, and nothing is read beyond them. */
static void parts(_unused_ void **state)
{
        static const char whole[] = "\5\1\0\3\14allowed.test\0\120",
                          old[] = "\4\1\0\120\0\0\0\1me\0allowed.test";
        char longest[600] = "\4\1\0\120\0\0\0\1";
        SocksRequest q;

        for (size_t i = 0; i < sizeof(whole) - 1; i++)
                assert_int_equal(socks_parse_request(whole, i, &q), 0);
        for (size_t i = 0; i < sizeof(old); i++)
                assert_int_equal(socks_parse_request(old, i, &q), 0);
        assert_int_equal(socks_parse_request(old, sizeof(old), &q), sizeof(old));
        memset(longest + 8, 'u', sizeof(longest) - 8);
        assert_int_equal(socks_parse_request(longest, 8 + 255, &q), 0);
        assert_int_equal(socks_parse_request(longest, 8 + 256, &q), -EBADMSG);
}

static void replies(_unused_ void **state)
{
        char text[SOCKS_REPLY_SIZE];

        assert_int_equal(socks_put_reply(5, SOCKS_REFUSED, text), 10);
        assert_memory_equal(text, "\5\5\0\1\0\0\0\0\0\0", 10);
        assert_int_equal(socks_put_reply(4, SOCKS_GRANTED, text), 8);
        assert_memory_equal(text, "\0\132\0\0\0\0\0\0", 8);
        assert_int_equal(socks_put_reply(4, SOCKS_NO_COMMAND, text), 8);
        assert_int_equal(text[1], 91);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(greetings),       cmocka_unit_test(names), cmocka_unit_test(addresses),
                cmocka_unit_test(what_is_no_host), cmocka_unit_test(parts), cmocka_unit_test(replies),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
