#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/init/plan.h"
#include "proto/base/fd.h"
#include "tests/unit/check.h"

typedef struct Made {
        PlanBuilder *builder;
        PlanHeader header;
} Made;

static void set_string(Made *m, uint32_t *ret, const char *s)
{
        assert_int_equal(plan_builder_string(m->builder, s, ret), 0);
}

static void make(Made *m)
{
        *m = (Made){ .header = { .files_max = 1024, .tmp_size_bytes = 1, .home_size_bytes = 1 } };
        assert_int_equal(plan_builder_new(&m->builder), 0);
        set_string(m, &m->header.home, "/home/a");
        set_string(m, &m->header.user, "a");
        set_string(m, &m->header.group, "a");
        set_string(m, &m->header.shell, "/bin/sh");
        set_string(m, &m->header.hostname, "host");
        set_string(m, &m->header.workspace, "/w");
        assert_int_equal(plan_builder_mount(m->builder, PLAN_BIND, PLAN_WORKSPACE | PLAN_WRITABLE, "/w",
                                            "/w", 0),
                         0);
}

static int seal(Made *m)
{
        int fd = -EBADF, r = plan_builder_seal(m->builder, &m->header, &fd);

        (void) fd_close(fd);
        m->builder = plan_builder_free(m->builder);
        return r;
}

/* The bytes of a good plan, malloc'ed. */
static size_t good_plan(char **ret)
{
        Made m;
        int fd;
        size_t size;

        make(&m);
        assert_int_equal(plan_builder_mount(m.builder, PLAN_TMPFS, 0, NULL, "/t", 4096), 0);
        assert_int_equal(plan_builder_mount(m.builder, PLAN_MASK, 0, NULL, "/w/.env", 0), 0);
        assert_int_equal(plan_builder_seal(m.builder, &m.header, &fd), 0);
        assert_true(fd_is_sealed(fd));
        {
                const void *data;

                assert_int_equal(fd_map_sealed(fd, PLAN_SIZE_MAX, &data, &size), 0);
                *ret = malloc(size);
                assert_non_null(*ret);
                memcpy(*ret, data, size);
        }
        (void) fd_close(fd);
        m.builder = plan_builder_free(m.builder);
        return size;
}

static void test_round_trip(void **state)
{
        char *data;
        size_t size = good_plan(&data);
        Plan p;

        (void) state;
        assert_int_equal(plan_open(data, size, &p), 0);
        assert_int_equal(p.header->n_mounts, 3);
        assert_string_equal(plan_string(&p, p.mounts[0].source), "/w");
        assert_string_equal(plan_string(&p, p.mounts[2].target), "/w/.env");
        assert_string_equal(plan_string(&p, p.header->user), "a");
        /* One copy of each string. */
        assert_int_equal(p.header->user, p.header->group);
        assert_int_equal(p.mounts[0].source, p.header->workspace);
        free(data);
}

static void test_paths(void **state)
{
        static const char *const bad[] = { "",       "w",       "/",   "/w/",  "//w", "/w//x",
                                           "/w/./x", "/w/../x", "/..", "/w/.", "/." };

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                Made m;

                make(&m);
                assert_int_equal(plan_builder_mount(m.builder, PLAN_BIND, 0, "/x", bad[i], 0), 0);
                assert_int_equal(seal(&m), -EBADMSG);
                make(&m);
                assert_int_equal(plan_builder_mount(m.builder, PLAN_BIND, 0, bad[i], "/x", 0), 0);
                assert_int_equal(seal(&m), -EBADMSG);
                make(&m);
                set_string(&m, &m.header.home, bad[i]);
                assert_int_equal(seal(&m), -EBADMSG);
        }
}

static void test_names(void **state)
{
        static const char *const bad[] = { "", "a:b", "a\nb", "a b", "a/b", "a\x7f", "a,b" };

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                Made m;

                make(&m);
                set_string(&m, &m.header.user, bad[i]);
                assert_int_equal(seal(&m), -EBADMSG);
                make(&m);
                set_string(&m, &m.header.hostname, bad[i]);
                assert_int_equal(seal(&m), -EBADMSG);
        }
}

static void test_workspace(void **state)
{
        Made m;

        (void) state;
        make(&m);
        m.header.has_tmp_workspace = 1;
        assert_int_equal(seal(&m), -EBADMSG);
        make(&m);
        assert_int_equal(plan_builder_mount(m.builder, PLAN_BIND, PLAN_WORKSPACE, "/v", "/v", 0), 0);
        assert_int_equal(seal(&m), -EBADMSG);
        make(&m);
        set_string(&m, &m.header.workspace, "/elsewhere");
        assert_int_equal(seal(&m), -EBADMSG);
}

static void test_mounts(void **state)
{
        static const struct {
                uint32_t type;
                uint32_t flags;
                const char *source;
                uint64_t size;
        } bad[] = {
                { _PLAN_MOUNT_TYPE_MAX, 0, NULL, 0 },
                { PLAN_BIND, 1U << 5, "/x", 0 },
                { PLAN_BIND, 0, "/x", 1 },
                { PLAN_TMPFS, 0, NULL, 0 },
                { PLAN_TMPFS, 0, "/x", 1 },
                { PLAN_TMPFS, PLAN_IDMAP, NULL, 1 },
                { PLAN_MASK, PLAN_WRITABLE, NULL, 0 },
                { PLAN_MASK, 0, NULL, 1 },
                { PLAN_BIND, 0, NULL, 0 },
                { PLAN_REPOSITORY, 0, NULL, 0 }, /* of what is not the workspace */
                { PLAN_BOUND, PLAN_IDMAP, NULL, 0 },
                { PLAN_BOUND, 0, "/x", 0 },
                { PLAN_DENY, PLAN_WRITABLE, NULL, 0 },
                { PLAN_DENY, 0, NULL, 1 },
        };

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                Made m;

                make(&m);
                assert_int_equal(plan_builder_mount(m.builder, (PlanMountType) bad[i].type, bad[i].flags,
                                                    bad[i].source, "/x", bad[i].size),
                                 0);
                assert_int_equal(seal(&m), -EBADMSG);
        }
}

/* Init looks and writes there while it makes the session. */
static void test_targets(void **state)
{
        static const char *const bad[] = { "/proc", "/proc/1", "/sys/fs", "/run/sandbox",
                                           "/run/sandbox/mask" };

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                Made m;

                make(&m);
                assert_int_equal(plan_builder_mount(m.builder, PLAN_BIND, PLAN_WRITABLE, "/x", bad[i], 0),
                                 0);
                assert_int_equal(seal(&m), -EBADMSG);
                make(&m);
                assert_int_equal(plan_builder_mount(m.builder, PLAN_TMPFS, 0, NULL, bad[i], 1), 0);
                assert_int_equal(seal(&m), -EBADMSG);
        }
}

/* No byte changed, and no length, lets plan_open() look outside (run under a sanitizer, this is the proof).
 */
static void test_every_byte(void **state)
{
        static const unsigned char values[] = { 0x00, 0x01, 0x2f, 0x7f, 0x80, 0xff };
        char *data;
        size_t size = good_plan(&data);
        Plan p;

        (void) state;
        for (size_t n = 0; n < size; n++) {
                char *cut = malloc(n + 1);

                assert_non_null(cut);
                memcpy(cut, data, n);
                assert_int_equal(plan_open(cut, n, &p), -EBADMSG);
                free(cut);
        }
        for (size_t at = 0; at < size; at++) {
                for (size_t v = 0; v < ELEMENTSOF(values); v++) {
                        char old = data[at];

                        data[at] = (char) values[v];
                        if (plan_open(data, size, &p) == 0) {
                                for (uint32_t i = 0; i < p.header->n_mounts; i++)
                                        assert_true(strlen(plan_string(&p, p.mounts[i].target)) <
                                                    PLAN_PATH_MAX);
                        }
                        data[at] = old;
                }
        }
        assert_int_equal(plan_open(data + 1, size - 1, &p), -EBADMSG);
        free(data);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_round_trip), cmocka_unit_test(test_paths),
                cmocka_unit_test(test_names),      cmocka_unit_test(test_workspace),
                cmocka_unit_test(test_mounts),     cmocka_unit_test(test_targets),
                cmocka_unit_test(test_every_byte),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
