#include <errno.h>
#include <string.h>

#include "proto/wire/frame.h"
#include "tests/unit/check.h"

/* One of each that the daemon may get. */
static void put_all_for_daemon(Buf *b)
{
        assert_int_equal(frame_put(b, FRAME_STDIN, 0, "hello", 5), 0);
        assert_int_equal(frame_put_resize(b, 132, 43), 0);
        assert_int_equal(frame_put(b, FRAME_SIGNAL, 0, "SIGINT", 6), 0);
        assert_int_equal(frame_put_number(b, FRAME_CREDIT, 0, 0x80000001), 0);
        assert_int_equal(frame_put(b, FRAME_STDIN, 0, NULL, 0), 0);
}

static void check_frame_for_daemon(size_t i, const Frame *f)
{
        static const FrameType types[] = { FRAME_STDIN, FRAME_RESIZE, FRAME_SIGNAL, FRAME_CREDIT,
                                           FRAME_STDIN };
        uint16_t columns, rows;

        assert_true(i < ELEMENTSOF(types));
        assert_int_equal(f->type, types[i]);
        assert_int_equal(f->flags, 0);
        if (i == 0)
                assert_true(f->size == 5 && memcmp(f->payload, "hello", 5) == 0);
        if (i == 1) {
                frame_terminal_size(f, &columns, &rows);
                assert_int_equal(columns, 132);
                assert_int_equal(rows, 43);
        }
        if (i == 2)
                assert_true(f->size == 6 && memcmp(f->payload, "SIGINT", 6) == 0);
        if (i == 3)
                assert_int_equal(frame_number(f), 0x80000001);
        if (i == 4)
                assert_int_equal(f->size, 0);
}

/* However the bytes are cut, the same frames come out. */
static void test_split(_unused_ void **state)
{
        Buf all = BUF_INIT(4096);

        put_all_for_daemon(&all);
        for (size_t step = 1; step <= buf_size(&all); step++) {
                Buf in = BUF_INIT(4096);
                size_t n = 0;
                Frame f;

                for (size_t at = 0; at < buf_size(&all); at += step) {
                        size_t size = MIN_OF(step, buf_size(&all) - at);

                        assert_int_equal(buf_put(&in, buf_front(&all) + at, size), 0);
                        while (frame_next(&in, /* is_daemon= */ true, &f) == 1) {
                                check_frame_for_daemon(n++, &f);
                                frame_consume(&in, &f);
                        }
                }
                assert_int_equal(n, 5);
                assert_int_equal(buf_size(&in), 0);
                buf_done(&in);
        }
        buf_done(&all);
}

static void test_for_client(_unused_ void **state)
{
        Buf b = BUF_INIT(4096);
        Frame f;

        assert_int_equal(frame_put(&b, FRAME_STDOUT, 0, "out", 3), 0);
        assert_int_equal(frame_put(&b, FRAME_STDERR, 0, "error", 5), 0);
        assert_int_equal(frame_put_long_number(&b, FRAME_DROPPED, UINT64_C(0x123456789abcdef0)), 0);
        assert_int_equal(frame_put(&b, FRAME_PING, 0, NULL, 0), 0);
        assert_int_equal(frame_put_number(&b, FRAME_EXIT, FRAME_EXIT_SIGNAL | FRAME_EXIT_CORE, 11), 0);
        assert_int_equal(frame_next(&b, false, &f), 1);
        assert_true(f.type == FRAME_STDOUT && f.size == 3 && memcmp(f.payload, "out", 3) == 0);
        frame_consume(&b, &f);
        assert_int_equal(frame_next(&b, false, &f), 1);
        assert_true(f.type == FRAME_STDERR && f.size == 5);
        frame_consume(&b, &f);
        assert_int_equal(frame_next(&b, false, &f), 1);
        assert_true(f.type == FRAME_DROPPED && frame_long_number(&f) == UINT64_C(0x123456789abcdef0));
        frame_consume(&b, &f);
        assert_int_equal(frame_next(&b, false, &f), 1);
        assert_int_equal(f.type, FRAME_PING);
        frame_consume(&b, &f);
        assert_int_equal(frame_next(&b, false, &f), 1);
        assert_true(f.type == FRAME_EXIT && f.flags == 3 && frame_number(&f) == 11);
        frame_consume(&b, &f);
        assert_int_equal(frame_next(&b, false, &f), 0);
        buf_done(&b);
}

/* The layout that other programs rely on. */
static void test_bytes(_unused_ void **state)
{
        static const char expected[] = "\x06\0\0\0\0\0\0\x02hi\x07\x01\0\0\0\0\0\x04\0\0\0\x09";
        Buf b = BUF_INIT(4096);

        assert_int_equal(frame_put(&b, FRAME_STDERR, 0, "hi", 2), 0);
        assert_int_equal(frame_put_number(&b, FRAME_EXIT, FRAME_EXIT_SIGNAL, 9), 0);
        assert_int_equal(buf_size(&b), sizeof(expected) - 1);
        assert_memory_equal(buf_front(&b), expected, sizeof(expected) - 1);
        buf_done(&b);
}

static int next_of(const char *head, bool is_daemon)
{
        Buf b = BUF_INIT(64);
        Frame f;
        int r;

        assert_int_equal(buf_put(&b, head, FRAME_HEADER_SIZE), 0);
        r = frame_next(&b, is_daemon, &f);
        buf_done(&b);
        return r;
}

/* Judged by the header alone: nothing of the payload is there. */
static void test_unsound(_unused_ void **state)
{
        static const char *const for_daemon[] = {
                "\0\0\0\0\0\0\0\0",           /* no such type */
                "\x0a\0\0\0\0\0\0\0",         /* none either */
                "\xff\0\0\0\0\0\0\0",         /* nor this */
                "\x02\0\0\0\0\0\0\x01",       /* output, to the daemon */
                "\x07\0\0\0\0\0\0\x04",       /* an exit, to the daemon */
                "\x01\x01\0\0\0\0\0\x01",     /* flags */
                "\x01\0\x01\0\0\0\0\x01",     /* reserved bytes */
                "\x01\0\0\x01\0\0\0\x01",     /* the other */
                "\x01\0\0\0\0\x01\0\x01",     /* 64 KiB and one byte */
                "\x01\0\0\0\xff\xff\xff\xff", /* 4 GiB */
                "\x03\0\0\0\0\0\0\x03",       /* a short size of a terminal */
                "\x03\0\0\0\0\0\0\x05",       /* a long one */
                "\x04\0\0\0\0\0\0\0",         /* a signal without a name */
                "\x04\0\0\0\0\0\0\x21",       /* one with a long name */
                "\x05\0\0\0\0\0\0\x08",       /* credit of 64 bits */
        };
        static const char *const for_client[] = {
                "\x01\0\0\0\0\0\0\x01",   /* input, to the client */
                "\x07\x04\0\0\0\0\0\x04", /* an unknown flag */
                "\x07\0\0\0\0\0\0\0",     /* an exit without a status */
                "\x08\0\0\0\0\0\0\x04",   /* dropped, 32 bits */
                "\x09\0\0\0\0\0\0\x01",   /* a ping with a payload */
        };

        for (size_t i = 0; i < ELEMENTSOF(for_daemon); i++)
                assert_int_equal(next_of(for_daemon[i], true), -EBADMSG);
        for (size_t i = 0; i < ELEMENTSOF(for_client); i++)
                assert_int_equal(next_of(for_client[i], false), -EBADMSG);
        assert_int_equal(next_of("\x01\0\0\0\0\x01\0\0", true), 0);
}

static void test_full(_unused_ void **state)
{
        Buf b = BUF_INIT(FRAME_HEADER_SIZE + 4);

        assert_int_equal(frame_put(&b, FRAME_STDOUT, 0, "12345", 5), -ENOBUFS);
        assert_int_equal(buf_size(&b), 0);
        assert_int_equal(frame_put(&b, FRAME_STDOUT, 0, "1234", 4), 0);
        assert_int_equal(frame_put(&b, FRAME_PING, 0, NULL, 0), -ENOBUFS);
        buf_done(&b);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_split), cmocka_unit_test(test_for_client),
                cmocka_unit_test(test_bytes), cmocka_unit_test(test_unsound),
                cmocka_unit_test(test_full),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
