/* The log of commands' output against a model: what was written, and how much of it must still be there. */

#include <stdlib.h>
#include <string.h>

#include "daemon/api/output_log.h"
#include "proto/base/macro.h"
#include "tests/unit/check.h"

#define STORE_MAX (256U * 1024U)

static char byte_at(uint64_t position)
{
        return (char) (position * 2654435761U >> 13);
}

static void put(OutputLog *l, unsigned stream, uint64_t usec, size_t size)
{
        static char data[OUTPUT_PIECE_MAX];

        for (size_t i = 0; i < size; i++)
                data[i] = byte_at(l->end + i);
        output_log_put(l, stream, usec, data, size);
}

/* Everything from begin on is there, without a gap, and right. */
static void check_log(OutputLog *l)
{
        uint64_t at = l->begin, n = 0;
        OutputPiece piece;

        while (output_log_get(l, at, &piece)) {
                assert_int_equal(piece.at, at);
                assert_true(piece.size > 0 && piece.size <= OUTPUT_PIECE_MAX);
                for (size_t i = 0; i < piece.size; i++)
                        assert_int_equal(piece.data[i], byte_at(at + i));
                at += piece.size;
                n++;
        }
        assert_int_equal(at, l->end);
        assert_int_equal(output_log_count(l, l->begin), n);
        assert_true(l->n_bytes <= OUTPUT_LOG_MAX);
}

static void test_pieces(_unused_ void **state)
{
        OutputStore store;
        OutputPiece piece;
        OutputLog l;

        output_store_init(&store, OUTPUT_STORE_MAX);
        output_log_init(&l, &store);
        assert_false(output_log_get(&l, 0, &piece));
        assert_int_equal(output_log_count(&l, 0), 0);
        put(&l, 1, 1000, 10);
        put(&l, 1, 2000, 10);   /* soon behind it: the same piece */
        put(&l, 2, 3000, 10);   /* another stream */
        put(&l, 2, 900000, 10); /* later */
        put(&l, 2, 100, 10);    /* the clock was set back */
        assert_int_equal(output_log_count(&l, 0), 4);
        assert_true(output_log_get(&l, 5, &piece));
        assert_true(piece.at == 5 && piece.size == 15 && piece.stream == 1 && piece.realtime_usec == 1000);
        assert_true(output_log_get(&l, 20, &piece));
        assert_true(piece.at == 20 && piece.size == 10 && piece.stream == 2 && piece.number == 1);
        assert_true(output_log_get(&l, 49, &piece) && piece.size == 1 && piece.number == 3);
        assert_false(output_log_get(&l, 50, &piece));
        assert_false(output_log_get(&l, 1000, &piece));
        check_log(&l);
        output_log_done(&l);
        assert_int_equal(store.n_bytes, 0);
}

static void test_one_log_is_bounded(_unused_ void **state)
{
        OutputStore store;
        OutputPiece piece;
        OutputLog l;

        output_store_init(&store, OUTPUT_STORE_MAX);
        output_log_init(&l, &store);
        for (unsigned i = 0; i < 300; i++)
                put(&l, 1 + i % 2, i, OUTPUT_PIECE_MAX);
        check_log(&l);
        assert_true(l.begin > 0 && l.end - l.begin > OUTPUT_LOG_MAX / 2);
        /* From before the beginning one gets to the beginning. */
        assert_true(output_log_get(&l, 0, &piece) && piece.at == l.begin);
        output_log_done(&l);
        assert_true(store.n_bytes == 0 && list_is_empty(&store.pieces));
}

/* What one log writes makes room in others, the oldest first, but not where somebody still has to read. */
static void test_pinned(_unused_ void **state)
{
        OutputLog quiet, pinned, loud;
        OutputStore store;

        output_store_init(&store, STORE_MAX);
        output_log_init(&quiet, &store);
        output_log_init(&pinned, &store);
        output_log_init(&loud, &store);
        put(&quiet, 1, 0, 8000);
        put(&pinned, 1, 0, 8000);
        put(&pinned, 2, 0, 8000);
        pinned.pinned = 8000;
        for (unsigned i = 0; i < 100; i++)
                put(&loud, 1, 0, OUTPUT_PIECE_MAX);
        assert_true(quiet.begin == 8000 && quiet.end == 8000);
        assert_true(pinned.begin == 8000 && pinned.end == 16000);
        assert_true(store.n_bytes <= STORE_MAX);
        check_log(&pinned);
        check_log(&loud);
        pinned.pinned = UINT64_MAX;
        for (unsigned i = 0; i < 100; i++)
                put(&loud, 1, 0, OUTPUT_PIECE_MAX);
        assert_int_equal(pinned.begin, 16000);
        output_log_done(&pinned);
        output_log_done(&quiet);
        output_log_done(&loud);
        assert_int_equal(store.n_bytes, 0);
}

static void test_any_order(_unused_ void **state)
{
        OutputLog logs[5];
        OutputStore store;
        uint64_t usec = 0;

        srandom(7);
        output_store_init(&store, STORE_MAX);
        for (size_t i = 0; i < ELEMENTSOF(logs); i++)
                output_log_init(&logs[i], &store);
        for (unsigned i = 0; i < 3000; i++) {
                OutputLog *l = &logs[random() % (long) ELEMENTSOF(logs)];

                usec += (uint64_t) random() % 100000;
                put(l, 1 + (unsigned) (random() % 2), usec,
                    (size_t) random() % (i % 7 ? 200 : OUTPUT_PIECE_MAX));
                if (i % 50 == 0)
                        check_log(l);
                if (i % 700 == 699) {
                        output_log_done(l);
                        output_log_init(l, &store);
                }
                assert_true(store.n_bytes <= STORE_MAX);
        }
        for (size_t i = 0; i < ELEMENTSOF(logs); i++) {
                check_log(&logs[i]);
                output_log_done(&logs[i]);
        }
        assert_int_equal(store.n_bytes, 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_pieces),
                cmocka_unit_test(test_one_log_is_bounded),
                cmocka_unit_test(test_pinned),
                cmocka_unit_test(test_any_order),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
