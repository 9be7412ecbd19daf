/* Records of name servers, understood and written anew. */

#include "check.h"
#include "daemon/dialer/records.h"
#include "daemon/policy/compiled.h"

typedef struct Message {
        unsigned char data[8192];
        size_t size;
} Message;

static void put(Message *m, const void *data, size_t size)
{
        assert_true(size <= sizeof(m->data) - m->size);
        memcpy(m->data + m->size, data, size);
        m->size += size;
}

static void put_u16(Message *m, size_t v)
{
        put(m, (unsigned char[]){ (unsigned char) (v >> 8), (unsigned char) v }, 2);
}

/* The head and question of an answer about "a.test". */
static void begin(Message *m, size_t type)
{
        *m = (Message){ .size = 0 };
        put(m, "\xbe\xef\x81\x80\0\1\0\0\0\0\0\0\001a\004test\0", 20);
        put_u16(m, type);
        put_u16(m, 1);
}

static void add(Message *m, size_t type, const void *data, size_t size)
{
        put(m, "\xc0\x0c", 2);
        put_u16(m, type);
        put(m, "\0\1\0\0\0\x05", 6);
        put_u16(m, size);
        put(m, data, size);
        m->data[7]++;
}

static void expect(const Message *m, uint32_t type, const void *data, size_t size)
{
        Buf b = BUF_INIT(4096);

        ASSERT_OK(records_put(&b, type, m->data, m->size));
        assert_int_equal(buf_size(&b), size);
        if (size > 0)
                assert_memory_equal(buf_front(&b), data, size);
        buf_done(&b);
}

static void test_texts(void **state)
{
        Message m;

        (void) state;
        begin(&m, 16);
        add(&m, 16, "\003one\003two", 8);
        add(&m, 16, "\0", 1);
        add(&m, 16, "\002\0\xff", 3);
        expect(&m, POLICY_DNS_TXT, "\0\010\003one\003two\0\1\0\0\003\002\0\xff", 18);
        assert_int_equal(records_type(POLICY_DNS_TXT), 16);
}

static void test_services(void **state)
{
        Message m;

        (void) state;
        begin(&m, 33);
        /* The name in the answer is compressed: in ours it is not. */
        add(&m, 33, "\0\1\0\2\x01\xbb\003Www\xc0\x0c", 12);
        expect(&m, POLICY_DNS_SRV, "\0\x12\0\1\0\2\x01\xbb\003www\001a\004test\0", 20);
        begin(&m, 33);
        add(&m, 33, "\0\1\0\2\x01\xbb\003w w\xc0\x0c", 12);
        add(&m, 33, "\0\1\0\2\x01\xbb\0", 7);
        expect(&m, POLICY_DNS_SRV, "\0\7\0\1\0\2\x01\xbb\0", 9);
}

static void test_mailers(void **state)
{
        Message m;

        (void) state;
        begin(&m, 15);
        add(&m, 15, "\0\x0a\002mx\xc0\x0c", 7);
        add(&m, 1, "\x0a\0\0\1", 4);
        expect(&m, POLICY_DNS_MX, "\0\015\0\x0a\002mx\001a\004test\0", 15);
}

static void test_authorities(void **state)
{
        Message m;

        (void) state;
        begin(&m, 257);
        add(&m, 257, "\x80\5issueca.test", 14);
        expect(&m, POLICY_DNS_CAA, "\0\x0e\x80\5issueca.test", 16);
}

static void test_limits(void **state)
{
        unsigned char text[201] = { 200 };
        Buf b = BUF_INIT(1000);
        Message m;

        (void) state;
        begin(&m, 16);
        for (size_t i = 0; i < 35; i++)
                add(&m, 16, text, sizeof(text));
        ASSERT_OK(records_put(&b, POLICY_DNS_TXT, m.data, m.size));
        assert_int_equal(buf_size(&b), 4 * (2 + sizeof(text)));
        buf_done(&b);
}

static void test_refused(void **state)
{
        Buf b = BUF_INIT(1000);
        Message m;

        (void) state;
        begin(&m, 16);
        add(&m, 16, "\003one", 4);
        for (size_t n = 0; n < m.size; n++)
                ASSERT_ERROR(records_put(&b, POLICY_DNS_TXT, m.data, n), EBADMSG);
        ASSERT_ERROR(records_put(&b, 0, m.data, m.size), EINVAL);
        ASSERT_ERROR(records_put(&b, POLICY_DNS_ALL, m.data, m.size), EINVAL);
        ASSERT_ERROR(records_type(POLICY_DNS_ALL), EINVAL);
        assert_int_equal(buf_size(&b), 0);
        buf_done(&b);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_texts),       cmocka_unit_test(test_services),
                cmocka_unit_test(test_mailers),     cmocka_unit_test(test_limits),
                cmocka_unit_test(test_authorities), cmocka_unit_test(test_refused),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
