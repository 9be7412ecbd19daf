/* proto/base: buffers, numbers, strings, map, list, descriptors, ids. */

#include <sys/mman.h>

#include "proto/base/bucket.h"
#include "proto/base/buf.h"
#include "proto/base/bundle.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/hash.h"
#include "proto/base/id.h"
#include "proto/base/list.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"
#include "tests/unit/check.h"

static void buf_keeps_order_and_limit(void **state _unused_)
{
        Buf b = BUF_INIT(1000);
        char block[600];

        memset(block, 'x', sizeof(block));
        ASSERT_OK(buf_put(&b, block, sizeof(block)));
        ASSERT_ERROR(buf_put(&b, block, 401), ENOBUFS);
        assert_int_equal(buf_size(&b), 600);
        buf_consume(&b, 500);
        ASSERT_OK(buf_put(&b, block, 600));
        ASSERT_OK(buf_put_string(&b, "end"));
        assert_int_equal(buf_size(&b), 703);
        buf_consume(&b, 700);
        assert_memory_equal(buf_front(&b), "end", 3);
        buf_consume(&b, 3);
        assert_int_equal(buf_size(&b), 0);
        ASSERT_ERROR(buf_put(&b, block, SIZE_MAX), ENOBUFS);
        buf_done(&b);
        assert_int_equal(b.size_max, 1000);
}

static void buf_prints_long_text(void **state _unused_)
{
        Buf b = BUF_INIT(4096);
        char text[901];

        memset(text, 'y', sizeof(text) - 1);
        text[900] = '\0';
        ASSERT_OK(buf_printf(&b, "<%s>", text));
        assert_int_equal(buf_size(&b), 902);
        assert_int_equal(buf_front(&b)[901], '>');
        buf_done(&b);
}

static void numbers_are_whole_strings(void **state _unused_)
{
        static const char *const bad[] = {
                "", " 1", "1 ", "+1", "0x1", "1e3", "-", "--1", "1a", "\xd9\xa1"
        };
        uint64_t u;
        int64_t i;

        for (size_t k = 0; k < ELEMENTSOF(bad); k++) {
                ASSERT_ERROR(parse_i64(bad[k], &i), EINVAL);
                ASSERT_ERROR(parse_u64(bad[k], &u), EINVAL);
        }
        ASSERT_OK(parse_u64("18446744073709551615", &u));
        assert_true(u == UINT64_MAX);
        ASSERT_ERROR(parse_u64("18446744073709551616", &u), ERANGE);
        ASSERT_OK(parse_i64("-9223372036854775808", &i));
        assert_true(i == INT64_MIN);
        ASSERT_ERROR(parse_i64("-9223372036854775809", &i), ERANGE);
        ASSERT_ERROR(parse_i64("9223372036854775808", &i), ERANGE);
        ASSERT_ERROR(parse_u64("-1", &u), EINVAL);
}

static void ports_sizes_durations(void **state _unused_)
{
        uint16_t port;
        uint64_t v;
        uint8_t bytes[2];

        ASSERT_OK(parse_port("65535", &port));
        assert_int_equal(port, 65535);
        ASSERT_ERROR(parse_port("0", &port), ERANGE);
        ASSERT_ERROR(parse_port("65536", &port), ERANGE);
        ASSERT_OK(parse_size("4G", &v));
        assert_true(v == UINT64_C(4) << 30);
        ASSERT_ERROR(parse_size("4g", &v), EINVAL);
        ASSERT_ERROR(parse_size("99999999T", &v), ERANGE);
        ASSERT_OK(parse_duration("25", &v));
        assert_true(v == 25 * USEC_PER_SEC);
        ASSERT_OK(parse_duration("2h", &v));
        assert_true(v == 7200 * USEC_PER_SEC);
        ASSERT_ERROR(parse_duration("2 h", &v), EINVAL);
        ASSERT_OK(parse_hex("aF09", bytes, 2));
        assert_int_equal(bytes[0], 0xaf);
        ASSERT_ERROR(parse_hex("af0", bytes, 2), EINVAL);
        ASSERT_ERROR(parse_hex("af0g", bytes, 2), EINVAL);
}

static void utf8_after_table_3_7(void **state _unused_)
{
        static const char *const good[] = { "",
                                            "a",
                                            "\xc2\x80",
                                            "\xdf\xbf",
                                            "\xe0\xa0\x80",
                                            "\xed\x9f\xbf",
                                            "\xee\x80\x80",
                                            "\xf0\x90\x80\x80",
                                            "\xf4\x8f\xbf\xbf" };
        static const char *const bad[] = { "\x80",
                                           "\xc0\x80",
                                           "\xc1\xbf",
                                           "\xc2",
                                           "\xe0\x9f\xbf",
                                           "\xe0\xa0",
                                           "\xed\xa0\x80",
                                           "\xed\xbf\xbf",
                                           "\xf0\x8f\xbf\xbf",
                                           "\xf4\x90\x80\x80",
                                           "\xf5\x80\x80\x80",
                                           "\xff",
                                           "a\xe2\x82z" };

        for (size_t i = 0; i < ELEMENTSOF(good); i++)
                assert_true(str_is_utf8(good[i], strlen(good[i])));
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_false(str_is_utf8(bad[i], strlen(bad[i])));
}

static void assert_escaped(const char *text, const char *expected)
{
        char *escaped;

        ASSERT_OK(str_escape(text, strlen(text), &escaped));
        assert_string_equal(escaped, expected);
        free(escaped);
}

static void escapes_what_could_deceive(void **state _unused_)
{
        assert_escaped("plain \xc3\xa9", "plain \xc3\xa9");
        assert_escaped("a\nb\x1b[2J", "a\\x0ab\\x1b[2J");
        assert_escaped("\\x41", "\\x5cx41");
        assert_escaped("\xff\xc2\x9b", "\\xff\\xc2\\x9b");
        assert_escaped("\xe2\x80\xae", "\\xe2\\x80\\xae");
        assert_escaped("\x7f", "\\x7f");
}

static void strings_never_cut(void **state _unused_)
{
        char to[4] = "old";

        ASSERT_OK(str_copy(to, sizeof(to), "abc"));
        ASSERT_ERROR(str_copy(to, sizeof(to), "abcd"), ENOBUFS);
        assert_string_equal(to, "");
        ASSERT_ERROR(str_printf(to, sizeof(to), "%d", 12345), ENOBUFS);
        assert_string_equal(to, "");
        assert_true(str_has_suffix("x.sock", ".sock"));
        assert_false(str_has_suffix("k", "sock"));
        str_hex((char[5]){ 0 }, "\x01\xfe", 2);
}

/* Against a plain array, with removals in between: linear probing closes its holes rightly. */
static void map_follows_a_model(void **state _unused_)
{
        static unsigned keys[600];
        bool present[ELEMENTSOF(keys)] = { false };
        Map m = MAP_INIT;
        size_t n = 0;
        unsigned seed = 7;

        for (size_t i = 0; i < ELEMENTSOF(keys); i++)
                keys[i] = (unsigned) i;
        for (int step = 0; step < 20000; step++) {
                size_t i;

                seed = seed * 1103515245U + 12345U;
                i = seed >> 8 & 511U;
                if (seed >> 20 & 1) {
                        assert_int_equal(map_put(&m, &keys[i], sizeof(keys[i]), &keys[i]),
                                         present[i] ? -EEXIST : 0);
                        n += !present[i];
                        present[i] = true;
                } else {
                        assert_ptr_equal(map_remove(&m, &keys[i], sizeof(keys[i])),
                                         present[i] ? &keys[i] : NULL);
                        n -= present[i];
                        present[i] = false;
                }
                assert_int_equal(m.n, n);
        }
        for (size_t i = 0; i < ELEMENTSOF(keys); i++)
                assert_ptr_equal(map_get(&m, &keys[i], sizeof(keys[i])), present[i] ? &keys[i] : NULL);
        for (size_t cursor = 0; map_next(&m, &cursor);)
                n--;
        assert_int_equal(n, 0);
        map_done(&m);
}

/* Each value comes, though some are removed as they come. */
static void map_walk_and_remove(void **state _unused_)
{
        static uint32_t keys[1000];
        static unsigned seen[ELEMENTSOF(keys)];
        _cleanup_(map_done) Map m = MAP_INIT;
        size_t cursor = 0;

        for (uint32_t round = 1; round <= 4; round++) {
                for (uint32_t i = 0; i < ELEMENTSOF(keys); i++) {
                        keys[i] = i;
                        seen[i] = 0;
                        (void) !map_put(&m, &keys[i], sizeof(keys[i]), &keys[i]);
                }
                cursor = 0;
                for (uint32_t *key; (key = map_next(&m, &cursor));) {
                        seen[*key]++;
                        if (*key % round != 0)
                                continue;
                        assert_ptr_equal(map_remove(&m, key, sizeof(*key)), key);
                        map_stay(&cursor);
                }
                for (uint32_t i = 0; i < ELEMENTSOF(keys); i++) {
                        assert_true(seen[i] > 0);
                        assert_true((map_get(&m, &i, sizeof(i)) == NULL) == (i % round == 0));
                }
        }
}

static void siphash_vector(void **state _unused_)
{
        uint8_t key[16], data[15];

        for (uint8_t i = 0; i < 16; i++)
                key[i] = i;
        for (uint8_t i = 0; i < 15; i++)
                data[i] = i;
        assert_true(hash_siphash(key, data, 15) == UINT64_C(0xa129ca6149be45e5));
}

typedef struct Item {
        int number;
        ListLink link;
} Item;

static void list_survives_removal_in_a_walk(void **state _unused_)
{
        ListLink head;
        Item items[5];
        int sum = 0;

        list_init(&head);
        for (int i = 0; i < 5; i++) {
                items[i].number = i;
                list_append(&head, &items[i].link);
        }
        LIST_FOREACH (item, &head, Item, link) {
                if (item->number % 2 == 0)
                        list_unlink(&item->link);
        }
        LIST_FOREACH (item, &head, Item, link)
                sum = sum * 10 + item->number;
        assert_int_equal(sum, 13);
        list_unlink(&items[0].link);
        assert_false(list_is_empty(&head));
}

static void sealed_memory(void **state _unused_)
{
        const void *data;
        size_t size;
        int fd, open_fd;

        ASSERT_OK(fd_memfd_sealed("test", "hello", 5, &fd));
        assert_true(fd_is_sealed(fd));
        assert_int_equal(write(fd, "x", 1), -1);
        assert_int_equal(ftruncate(fd, 1), -1);
        ASSERT_OK(fd_map_sealed(fd, 100, &data, &size));
        assert_int_equal(size, 5);
        assert_memory_equal(data, "hello", 5);
        assert_int_equal(munmap((void *) (uintptr_t) data, size), 0);
        ASSERT_ERROR(fd_map_sealed(fd, 4, &data, &size), EFBIG);
        fd = fd_close(fd);

        open_fd = memfd_create("open", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        assert_int_equal(write(open_fd, "x", 1), 1);
        ASSERT_ERROR(fd_map_sealed(open_fd, 100, &data, &size), EPERM);
        open_fd = fd_close(open_fd);
}

static void stdio_is_no_socket(void **state _unused_)
{
        int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC),
            zero_fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
        int path_fd = open("/dev/null", O_PATH | O_CLOEXEC), dir_fd = open("/", O_RDONLY | O_CLOEXEC);
        int pipe_fds[2], sockets[2];

        assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
        assert_true(fd_is_stdio(null_fd));
        assert_true(fd_is_stdio(pipe_fds[0]));
        assert_false(fd_is_stdio(zero_fd));
        assert_false(fd_is_stdio(path_fd));
        assert_false(fd_is_stdio(dir_fd));
        assert_false(fd_is_stdio(sockets[0]));
        assert_false(fd_is_stdio(-EBADF));
        fd_close_many((int[]){ null_fd, zero_fd, path_fd, dir_fd }, 4);
        fd_close_many(pipe_fds, 2);
        fd_close_many(sockets, 2);
}

static void reads_to_the_limit(void **state _unused_)
{
        int fds[2];
        char *data;
        size_t size;

        assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
        ASSERT_OK(fd_write_all(fds[1], "0123456789", 10));
        fds[1] = fd_close(fds[1]);
        ASSERT_ERROR(fd_read_all(fds[0], 9, &data, &size), EFBIG);
        fds[0] = fd_close(fds[0]);
        assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
        ASSERT_OK(fd_write_all(fds[1], "0123456789", 10));
        fds[1] = fd_close(fds[1]);
        ASSERT_OK(fd_read_all(fds[0], 10, &data, &size));
        assert_string_equal(data, "0123456789");
        assert_int_equal(size, 10);
        free(data);
        fds[0] = fd_close(fds[0]);
}

static void ids_and_errors(void **state _unused_)
{
        char text[ID_TEXT_SIZE];
        Id a, b;

        ASSERT_OK(id_random(&a));
        id_format(&a, text);
        assert_int_equal(strlen(text), 32);
        ASSERT_OK(id_parse(text, &b));
        assert_true(id_equal(&a, &b));
        assert_true(id_parse("0123", &b) < 0);
        errno = 0;
        assert_true(neg_errno() < 0);
        assert_string_equal(error_name(-ENOENT), "ENOENT");
}

/* Whatever is asked for when: never more than the burst and what time has paid for, and never less. */
static void bucket_follows_a_model(void **state _unused_)
{
        BucketRate rate = bucket_rate(100, USEC_PER_SEC, 400);
        uint64_t now = 5 * USEC_PER_SEC, n = 0;
        Bucket b = { 0 };

        for (unsigned i = 0; i < 5000; i++) {
                n += bucket_take(&b, &rate, 1, now);
                now += 1000;
                assert_true(n <= 400 + (i + 1) / 10 + 1);
        }
        assert_true(n >= 400 + 499);
        assert_false(bucket_take(&b, &rate, 2, now));
        assert_false(bucket_take(&b, &rate, UINT64_MAX, now));
        /* After a pause all of it is there, and no more. */
        now += 100 * USEC_PER_SEC;
        assert_false(bucket_take(&b, &rate, 401, now));
        assert_true(bucket_take(&b, &rate, 400, now));
        /* A debt has an end. */
        for (unsigned i = 0; i < 10; i++)
                bucket_charge(&b, &rate, UINT64_MAX / 2, now);
        assert_false(bucket_take(&b, &rate, 1, now + 3 * USEC_PER_SEC));
        assert_true(bucket_take(&b, &rate, 1, now + 5 * USEC_PER_SEC));
        assert_true(bucket_rate(UINT64_MAX, 1, 1).cost_nsec == 1 && bucket_rate(0, 1, 1).cost_nsec > 0);
}

/* ---- bundles ---- */

static int make_bundle(void)
{
        static const BundleText first = { .name = "one", .source = "/etc/one.json", .is_shipped = 1 },
                                second = { .name = "two", .source = "/etc/two.json" };
        BundleBuilder b = BUNDLE_BUILDER_INIT;
        int fd;

        ASSERT_OK(bundle_add(&b, &first, "{}", 2));
        ASSERT_OK(bundle_add(&b, &second, "", 0));
        ASSERT_OK(bundle_add(&b, &first, "again", 5));
        ASSERT_OK(bundle_seal(&b, &fd));
        bundle_builder_done(&b);
        return fd;
}

static void bundle_keeps_texts(void **state _unused_)
{
        int fd = make_bundle();
        BundleBuilder many = BUNDLE_BUILDER_INIT;
        BundleText t = { .name = "x" };
        Bundle *b;

        ASSERT_OK(bundle_open(fd, &b));
        (void) fd_close(fd);
        assert_int_equal(bundle_n(b), 3);
        assert_null(bundle_find(b, "three"));
        assert_ptr_equal(bundle_find(b, "one"), bundle_at(b, 0));
        assert_string_equal(bundle_text(b, bundle_at(b, 0)), "{}");
        assert_string_equal(bundle_text(b, bundle_find(b, "two")), "");
        assert_int_equal(bundle_at(b, 1)->size, 0);
        assert_string_equal(bundle_text(b, bundle_at(b, 2)), "again");
        (void) bundle_free(b);
        assert_int_equal(bundle_n(NULL), 0);
        for (unsigned i = 0; i < BUNDLE_TEXTS_MAX; i++)
                ASSERT_OK(bundle_add(&many, &t, "x", 1));
        ASSERT_ERROR(bundle_add(&many, &t, "x", 1), E2BIG);
        bundle_builder_done(&many);
}

/* Each byte of the table, each length: refused, or every text lies inside. */
static void bundle_that_lies(void **state _unused_)
{
        int fd = make_bundle(), other;
        const void *good;
        char *bad;
        size_t size;
        Bundle *b;

        ASSERT_OK(fd_map_sealed(fd, BUNDLE_SIZE_MAX, &good, &size));
        bad = malloc(size);
        assert_non_null(bad);
        for (size_t i = 0; i < size; i++) {
                memcpy(bad, good, size);
                bad[i] = (char) ~bad[i];
                ASSERT_OK(fd_memfd_sealed("bad", bad, size, &other));
                if (bundle_open(other, &b) >= 0) {
                        for (size_t n = 0; n < bundle_n(b); n++)
                                assert_true(bundle_text(b, bundle_at(b, n))[bundle_at(b, n)->size] == '\0');
                        (void) bundle_free(b);
                }
                (void) fd_close(other);
                ASSERT_OK(fd_memfd_sealed("cut", good, i + 1, &other));
                assert_true((bundle_open(other, &b) >= 0) == (i + 1 == size));
                if (i + 1 == size)
                        (void) bundle_free(b);
                (void) fd_close(other);
        }
        free(bad);
        (void) munmap((void *) (uintptr_t) good, size);
        (void) fd_close(fd);
        other = memfd_create("open", MFD_CLOEXEC);
        ASSERT_ERROR(bundle_open(other, &b), EPERM);
        (void) fd_close(other);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(buf_keeps_order_and_limit),
                cmocka_unit_test(buf_prints_long_text),
                cmocka_unit_test(numbers_are_whole_strings),
                cmocka_unit_test(ports_sizes_durations),
                cmocka_unit_test(utf8_after_table_3_7),
                cmocka_unit_test(escapes_what_could_deceive),
                cmocka_unit_test(strings_never_cut),
                cmocka_unit_test(map_follows_a_model),
                cmocka_unit_test(map_walk_and_remove),
                cmocka_unit_test(siphash_vector),
                cmocka_unit_test(list_survives_removal_in_a_walk),
                cmocka_unit_test(sealed_memory),
                cmocka_unit_test(stdio_is_no_socket),
                cmocka_unit_test(reads_to_the_limit),
                cmocka_unit_test(ids_and_errors),
                cmocka_unit_test(bucket_follows_a_model),
                cmocka_unit_test(bundle_keeps_texts),
                cmocka_unit_test(bundle_that_lies),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
