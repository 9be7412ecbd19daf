/* Questions as programs ask them, all else refused; answers as they read them. */

#include "check.h"
#include "daemon/egress/dns_message.h"
#include "proto/base/str.h"

typedef struct Message {
        uint8_t data[2048];
        size_t size;
} Message;

static void put(Message *m, const void *data, size_t size)
{
        assert_true(size <= sizeof(m->data) - m->size);
        memcpy(m->data + m->size, data, size);
        m->size += size;
}

static void put_u16(Message *m, unsigned v)
{
        put(m, (uint8_t[]){ (uint8_t) (v >> 8), (uint8_t) v }, 2);
}

/* "a.b": two labels. */
static void put_name(Message *m, const char *name)
{
        for (const char *at = name; *at;) {
                size_t n = strcspn(at, ".");

                put(m, &(uint8_t){ (uint8_t) n }, 1);
                put(m, at, n);
                at += n + (at[n] == '.');
        }
        put(m, "", 1);
}

static void put_head(Message *m, unsigned flags, unsigned n_questions, unsigned n_additional)
{
        *m = (Message){ .size = 0 };
        put_u16(m, 0xbeef);
        put_u16(m, flags);
        put_u16(m, n_questions);
        put_u16(m, 0);
        put_u16(m, 0);
        put_u16(m, n_additional);
}

static void ask(Message *m, const char *name, unsigned type)
{
        put_head(m, 0x0100, 1, 0);
        put_name(m, name);
        put_u16(m, type);
        put_u16(m, 1);
}

static void put_opt(Message *m, unsigned udp_size, unsigned version, const void *options, size_t size)
{
        m->data[11] = 1;
        put(m, "", 1);
        put_u16(m, DNS_OPT);
        put_u16(m, udp_size);
        put_u16(m, version);
        put_u16(m, 0x8000);
        put_u16(m, (unsigned) size);
        put(m, options, size);
}

static int parse(const Message *m, DnsQuestion *q)
{
        return dns_parse(m->data, m->size, q);
}

static void test_question(void **state)
{
        DnsQuestion q;
        Message m;

        (void) state;
        ask(&m, "wWw.ALLOWED.test", DNS_AAAA);
        ASSERT_OK(parse(&m, &q));
        assert_string_equal(q.name, "www.allowed.test");
        assert_int_equal(q.id, 0xbeef);
        assert_int_equal(q.type, DNS_AAAA);
        assert_false(q.has_edns || q.has_odd_bytes);
        assert_int_equal(q.udp_size, 512);
        assert_memory_equal(q.wire, m.data + 12, q.n_wire);
        put_opt(&m, 4096, 0, "\0\x08\0\x04\0\x01\0\0", 8);
        ASSERT_OK(parse(&m, &q));
        assert_true(q.has_edns);
        assert_int_equal(q.udp_size, 4096);
        ask(&m, "a.test", DNS_A);
        put_opt(&m, 100, 0, "", 0);
        ASSERT_OK(parse(&m, &q));
        assert_int_equal(q.udp_size, 512);
        ask(&m, "", DNS_NS);
        ASSERT_OK(parse(&m, &q));
        assert_string_equal(q.name, "");
        assert_int_equal(q.n_wire, 1);
}

/* A name that is not one of hosts is a question all the same, of which no policy speaks. */
static void test_odd_names(void **state)
{
        static const char *const names[] = { "a b.test", "a\\.test", "evil.example\001.test", "\377.test",
                                             "*.test" };
        DnsQuestion q;
        Message m;

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                ask(&m, names[i], DNS_A);
                ASSERT_OK(parse(&m, &q));
                assert_true(q.has_odd_bytes);
                assert_string_equal(q.name, "");
        }
        put_head(&m, 0x0100, 1, 0);
        put(&m, "\014evil.example\004test\0\0\1\0\1", 23);
        ASSERT_OK(parse(&m, &q));
        assert_true(q.has_odd_bytes);
        put_head(&m, 0x0100, 1, 0);
        put(&m, "\004a\0bc\004test\0\0\1\0\1", 15);
        ASSERT_OK(parse(&m, &q));
        assert_true(q.has_odd_bytes);
}

static void test_long_names(void **state)
{
        char name[300] = "";
        DnsQuestion q;
        Message m;

        (void) state;
        for (size_t i = 0; i < 4; i++)
                memset(name + i * 64, 'a', 63), name[i * 64 + 63] = '.';
        memset(name + 192, 'a', 61);
        name[253] = '\0';
        ask(&m, name, DNS_A);
        ASSERT_OK(parse(&m, &q));
        assert_int_equal(q.n_wire, 255);
        assert_string_equal(q.name, name);
        name[253] = 'a';
        name[254] = '\0';
        ask(&m, name, DNS_A);
        assert_int_equal(parse(&m, &q), DNS_FORMAT_ERROR);
}

static void expect(const Message *m, int code)
{
        DnsQuestion q;

        assert_int_equal(parse(m, &q), code);
        assert_int_equal(q.n_wire, 0);
}

static void test_refused(void **state)
{
        DnsQuestion q;
        Message m;

        (void) state;
        ask(&m, "a.test", DNS_A);
        for (size_t n = 0; n < m.size; n++)
                assert_int_equal(dns_parse(m.data, n, &q), n < 12 ? -EBADMSG : DNS_FORMAT_ERROR);
        put(&m, "x", 1);
        expect(&m, DNS_FORMAT_ERROR);
        ask(&m, "a.test", DNS_A);
        m.data[2] |= 0x80; /* an answer */
        expect(&m, -EBADMSG);
        m.data[2] = 0x28; /* UPDATE */
        expect(&m, DNS_NOT_IMPLEMENTED);
        m.data[2] = 0x02; /* truncated */
        expect(&m, DNS_FORMAT_ERROR);
        for (size_t at = 5; at <= 9; at += 2) {
                ask(&m, "a.test", DNS_A);
                m.data[at] = 2;
                expect(&m, DNS_FORMAT_ERROR);
        }
        put_head(&m, 0x0100, 1, 0); /* a pointer to itself */
        put(&m, "\xc0\x0c\0\x01\0\x01", 6);
        expect(&m, DNS_FORMAT_ERROR);
        put_head(&m, 0x0100, 1, 0); /* the reserved kind of label */
        put(&m, "\101a\0\0\1\0\1", 7);
        expect(&m, DNS_FORMAT_ERROR);
        put_head(&m, 0x0100, 1, 0);
        put_name(&m, "version.bind");
        put_u16(&m, DNS_TXT);
        put_u16(&m, 3);
        expect(&m, DNS_NOT_IMPLEMENTED);
}

static void test_refused_edns(void **state)
{
        DnsQuestion q;
        Message m;

        (void) state;
        ask(&m, "a.test", DNS_A);
        put_opt(&m, 1232, 1, "", 0);
        expect(&m, DNS_BAD_VERSION);
        ask(&m, "a.test", DNS_A);
        put_opt(&m, 1232, 0, "1234", 4);
        m.data[m.size - 5]++; /* longer than what is there */
        expect(&m, DNS_FORMAT_ERROR);
        ask(&m, "a.test", DNS_A);
        put_opt(&m, 1232, 0, "", 0);
        m.data[m.size - 9] = DNS_A; /* a record that is no OPT */
        assert_int_equal(parse(&m, &q), DNS_FORMAT_ERROR);
        ask(&m, "a.test", DNS_A);
        m.data[11] = 1;
        expect(&m, DNS_FORMAT_ERROR);
}

static unsigned u16_at(const DnsAnswer *a, size_t at)
{
        return (unsigned) a->data[at] << 8 | a->data[at + 1];
}

static void test_address_answer(void **state)
{
        PrivAddress address = { .family = 4, .bytes = { 28, 0, 0, 1 } };
        static const uint8_t record[] = { 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 10, 0, 4, 28, 0, 0, 1 };
        DnsQuestion q;
        DnsAnswer a;
        Message m;

        (void) state;
        ask(&m, "Allowed.Test", DNS_A);
        ASSERT_OK(parse(&m, &q));
        dns_answer_begin(&a, &q, DNS_UDP_MIN);
        dns_answer_put_address(&a, &q, &address);
        dns_answer_end(&a, &q, DNS_NO_ERROR, DNS_DETAIL_NONE);
        assert_int_equal(a.size, m.size + sizeof(record));
        assert_int_equal(u16_at(&a, 0), 0xbeef);
        assert_int_equal(u16_at(&a, 2), 0x8180);
        assert_int_equal(u16_at(&a, 4), 1);
        assert_int_equal(u16_at(&a, 6), 1);
        assert_memory_equal(a.data + 12, m.data + 12, m.size - 12); /* the letters' case, too */
        assert_memory_equal(a.data + m.size, record, sizeof(record));
}

static void test_denied_answer(void **state)
{
        DnsQuestion q;
        DnsAnswer a;
        Message m;

        (void) state;
        ask(&m, "evil.test", DNS_A);
        ASSERT_OK(parse(&m, &q));
        dns_answer_begin(&a, &q, DNS_UDP_MIN);
        dns_answer_end(&a, &q, DNS_NO_NAME, DNS_DETAIL_BLOCKED);
        assert_int_equal(u16_at(&a, 2), 0x8183);
        assert_int_equal(a.size, m.size); /* no EDNS asked, none answered */
        put_opt(&m, 4096, 0, "", 0);
        ASSERT_OK(parse(&m, &q));
        dns_answer_begin(&a, &q, DNS_UDP_MIN);
        dns_answer_end(&a, &q, DNS_NO_NAME, DNS_DETAIL_BLOCKED);
        assert_int_equal(u16_at(&a, 10), 1);
        assert_int_equal(a.size, m.size + 6);
        assert_int_equal(u16_at(&a, a.size - 6), 15); /* the option */
        assert_int_equal(u16_at(&a, a.size - 2), 15); /* Blocked */
        m.data[2] = 0x28;
        assert_int_equal(parse(&m, &q), DNS_NOT_IMPLEMENTED);
        dns_answer_begin(&a, &q, DNS_UDP_MIN);
        dns_answer_end(&a, &q, DNS_NOT_IMPLEMENTED, DNS_DETAIL_NONE);
        assert_int_equal(a.size, 12);
        assert_int_equal(u16_at(&a, 2), 0xa884);
}

static void test_truncation(void **state)
{
        uint8_t text[400] = { 0 };
        DnsQuestion q;
        DnsAnswer a;
        Message m;

        (void) state;
        ask(&m, "a.test", DNS_TXT);
        put_opt(&m, 512, 0, "", 0);
        ASSERT_OK(parse(&m, &q));
        dns_answer_begin(&a, &q, q.udp_size);
        dns_answer_put(&a, &q, text, sizeof(text));
        dns_answer_put(&a, &q, text, sizeof(text));
        dns_answer_end(&a, &q, DNS_NO_ERROR, DNS_DETAIL_NONE);
        assert_true(a.size <= 512);
        assert_int_equal(u16_at(&a, 6), 1);
        assert_true(u16_at(&a, 2) & 0x0200);
        dns_answer_begin(&a, &q, DNS_ANSWER_MAX);
        for (size_t i = 0; i < 20; i++)
                dns_answer_put(&a, &q, text, sizeof(text));
        dns_answer_end(&a, &q, DNS_NO_ERROR, DNS_DETAIL_BLOCKED);
        assert_true(a.size <= sizeof(a.data) && a.is_truncated);
}

static void test_reverse(void **state)
{
        static const char *const bad[] = { "1.0.0.in-addr.arpa",
                                           "1.0.0.28.1.in-addr.arpa",
                                           "256.0.0.28.in-addr.arpa",
                                           "01.0.0.28.in-addr.arpa",
                                           "1.0.0.28.in-addr.arpa.x",
                                           "a.0.0.28.in-addr.arpa",
                                           "in-addr.arpa",
                                           ".ip6.arpa",
                                           "allowed.test" };
        const char *v6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.e.f.f.3.ip6.arpa";
        PrivAddress a;
        DnsQuestion q;
        DnsAnswer answer;
        Message m;

        (void) state;
        ASSERT_OK(dns_reverse_parse("1.2.3.28.in-addr.arpa", &a));
        assert_int_equal(a.family, 4);
        assert_memory_equal(a.bytes, "\x1c\x03\x02\x01", 4);
        ASSERT_OK(dns_reverse_parse(v6, &a));
        assert_int_equal(a.family, 6);
        assert_memory_equal(a.bytes, "\x3f\xfe\0\0\0\0\0\0\0\0\0\0\0\0\0\x01", 16);
        ASSERT_ERROR(dns_reverse_parse(v6 + 2, &a), EINVAL);
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                ASSERT_ERROR(dns_reverse_parse(bad[i], &a), EINVAL);
        ask(&m, "1.0.0.28.in-addr.arpa", DNS_PTR);
        ASSERT_OK(parse(&m, &q));
        dns_answer_begin(&answer, &q, DNS_UDP_MIN);
        dns_answer_put_name(&answer, &q, "allowed.test");
        dns_answer_end(&answer, &q, DNS_NO_ERROR, DNS_DETAIL_NONE);
        assert_memory_equal(answer.data + answer.size - 14, "\007allowed\004test", 14);
}

static void test_types(void **state)
{
        char text[DNS_TYPE_TEXT_SIZE];

        (void) state;
        dns_type_format(DNS_HTTPS, text);
        assert_string_equal(text, "HTTPS");
        dns_type_format(65535, text);
        assert_string_equal(text, "TYPE65535");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_question),      cmocka_unit_test(test_odd_names),
                cmocka_unit_test(test_long_names),    cmocka_unit_test(test_refused),
                cmocka_unit_test(test_refused_edns),  cmocka_unit_test(test_address_answer),
                cmocka_unit_test(test_denied_answer), cmocka_unit_test(test_truncation),
                cmocka_unit_test(test_reverse),       cmocka_unit_test(test_types),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
