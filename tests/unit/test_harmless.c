/* What a session may write as the settings of a repository that it begins. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/init/harmless.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"
#include "tests/unit/check.h"

static Plan plan;

static int setup(void **state)
{
        PlanHeader h = { .files_max = 1024, .tmp_size_bytes = 1, .home_size_bytes = 1 };
        PlanBuilder *b;
        const void *data;
        size_t size;
        int fd;

        (void) state;
        assert_int_equal(plan_builder_new(&b), 0);
        assert_int_equal(plan_builder_string(b, "/home/a", &h.home), 0);
        assert_int_equal(plan_builder_string(b, "a", &h.user), 0);
        assert_int_equal(plan_builder_string(b, "a", &h.group), 0);
        assert_int_equal(plan_builder_string(b, "/bin/sh", &h.shell), 0);
        assert_int_equal(plan_builder_string(b, "host", &h.hostname), 0);
        assert_int_equal(plan_builder_string(b, "/w", &h.workspace), 0);
        assert_int_equal(plan_builder_mount(b, PLAN_BIND, PLAN_WORKSPACE | PLAN_WRITABLE, "/w", "/w", 0), 0);
        assert_int_equal(plan_builder_mount(b, PLAN_PROTECT, 0, "", "/w/.husky", 0), 0);
        assert_int_equal(plan_builder_mount(b, PLAN_PROTECT, 0, "", "/w/.config/fish", 0), 0);
        assert_int_equal(plan_builder_mount(b, PLAN_PROTECT, 0, "", "/w/parts/*/.vscode", 0), 0);
        assert_int_equal(plan_builder_seal(b, &h, &fd), 0);
        assert_int_equal(fd_map_sealed(fd, PLAN_SIZE_MAX, &data, &size), 0);
        assert_int_equal(plan_open(data, size, &plan), 0);
        (void) fd_close(fd);
        plan_builder_free(b);
        return 0;
}

/* A copy of that very size: what is read beyond it a sanitizer sees. */
static int config(const char *text, const char *module)
{
        size_t n = strlen(text);
        char *copy = malloc(n + (n == 0));
        int r;

        assert_non_null(copy);
        memcpy(copy, text, n);
        r = harmless_config(copy, n, &plan, module);
        free(copy);
        return r;
}

static int modules(const char *text)
{
        return harmless_modules(text, strlen(text), &plan);
}

#define MODULE "/w/.git/modules/a/b/config"

static void test_what_git_writes(void **state)
{
        static const char *const places[] = { ".huskyx", "a..b", ".config/x", "parts/a/.vscod", "a/.husky" };
        char text[128];

        (void) state;
        assert_int_equal(config("", NULL), 0);
        assert_int_equal(config("[core]\n", NULL), 0);
        assert_int_equal(config("[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n"
                                "\tlogallrefupdates = true\n\n[user]\n\tname = A B, C\n\temail = a@b.c\n",
                                NULL),
                         0);
        assert_int_equal(
                        config("[remote \"origin\"]\n\turl = https://h.test/x.git\n\tfetch = "
                               "+refs/heads/*:refs/remotes/origin/*\n[branch \"a/b\"]\n\tremote = origin\n\tmerge = "
                               "refs/heads/a/b\n",
                               NULL),
                        0);
        assert_int_equal(
                        config("[core]\n\tworktree = ../../../../a/b\n[remote \"x\"]\n\turl = git://h.test:9/~x\n",
                               MODULE),
                        0);
        for (size_t i = 0; i < ELEMENTSOF(places); i++) {
                assert_int_equal(str_printf(text, sizeof(text), "[core]\n\tworktree = ../../../../%s\n",
                                            places[i]),
                                 0);
                assert_int_equal(config(text, MODULE), 0);
        }
        assert_int_equal(config("[submodule \"a/b\"]\n\tactive = true\n\turl = ssh://git@h.test/x\n", NULL),
                         0);
        assert_int_equal(config("[branch \"x\"]\n\tremote = .\n\tmerge = refs/heads/y\n", NULL), 0);
        assert_int_equal(
                        modules("[submodule \"a/b\"]\n\tpath = a/b\n\turl = https://h.test/x.git\n\tbranch = main\n\tshallow = true\n"),
                        0);
}

static const char *const bad[] = {
        "x\n",
        "[core]\n\tbare = false", /* no end of a line: there may come more */
        "[core]\n\tfsmonitor = x\n",
        "[core]\n\tFsMonitor = x\n",
        "[core]\n\tfsmonitor\n",
        "[core]\n\tbare = true\n",
        "[core]\n\tworktree = ../x\n",
        "[core] fsmonitor = x\n",
        "[core]fsmonitor = x\n[core]\n",
        "[core]\n\tbare = fal\\\nse\n",
        "[core]\n\tbare = false # x\n",
        "[core]\n\tbare = \"false\"\n",
        "[core]\n\tbare = false\r\n",
        "[core \"x\"]\n\tbare = false\n",
        "[core.x]\n\tbare = false\n",
        "[ core]\n\tbare = false\n",
        "[core\n\tbare = false\n",
        "[include]\n\tpath = x\n",
        "[includeIf \"gitdir:/\"]\n\tpath = x\n",
        "[alias]\n\tx = !y\n",
        "[filter \"x\"]\n\tclean = y\n",
        "[remote \"x\"]\n\turl = ext::sh\n",
        "[remote \"x\"]\n\turl = https://h/x::y\n",
        "[remote \"x\"]\n\turl = ssh://-oProxyCommand=x/y\n",
        "[remote \"x\"]\n\turl = ssh://a@-oProxyCommand=x/y\n",
        "[remote \"x\"]\n\turl = x\n",
        "[remote \"x\"]\n\turl = ../x\n",
        "[remote \"x\"]\n\turl = /w/x\n",
        "[remote \"x\"]\n\turl = /shared/../w/x\n",
        "[remote \"x\"]\n\turl = /cache\n",
        "[remote \"x\"]\n\turl = file:///w/x\n",
        "[remote \"x\"]\n\turl = file:///%77/x\n",
        "[remote \"x\"]\n\turl = file:///shared/x\n",
        "[remote \"x\"]\n\turl = file://localhost/w/x\n",
        "[remote \"x\"]\n\turl = /shared/x\n",
        "[remote \"x\"]\n\turl = /proc/self/cwd/x\n",
        "[remote \"x\"]\n\turl = /var/w/x\n",
        "[remote \"x\"]\n\turl = h.test:x\n",
        "[remote \"x\"]\n\turl = https:///w/x\n",
        "[remote \"x\"]\n\turl = ssh://\n",
        "[remote \"x\"]\n\turl = ssh://%2doProxyCommand=x/y\n",
        "[submodule \"x\"]\n\turl = /shared/x\n",
        "[submodule \"x\"]\n\turl = ../x\n",
        "[remote \"x\"]\n\tpushurl = https://h/x\n",
        "[remote \"x\"]\n\tuploadpack = x\n",
        "[remote \"x\"]\n\tvcs = x\n",
        "[remote \"../x\"]\n\turl = https://h/x\n",
        "[remote \"x\" y\"]\n\turl = https://h/x\n",
        "[branch \"x\"]\n\tremote = origin\n",
        "[branch \"x\"]\n\tremote = /w/x\n",
        "[branch \"x\"]\n\tpushremote = .\n",
        "[submodule \"x\"]\n\tupdate = !y\n",
        "[extensions]\n\tworktreeConfig = true\n",
        "[http]\n\tproxy = x\n",
        "\tbare = false\n",
};
static const char *const bad_places[] = { "../../../../.git/x",
                                          "../../../../../x",
                                          "../../../x",
                                          "/w/x",
                                          "../../../../",
                                          "../../../../a/../../x",
                                          "../../../../../../../../x",
                                          "a",
                                          "../../../../.husky",
                                          "../../../../.husky/_",
                                          "../../../../.husky/",
                                          "../../../.././.husky",
                                          "../../../../.config",
                                          "../../../../.config/fish/conf.d",
                                          "../../../../parts",
                                          "../../../../parts/a",
                                          "../../../../parts/a/.vscode/x",
                                          "../../../../.",
                                          "../../../../..",
                                          "../../../../a/.",
                                          "../../../../a/" };
static const char *const bad_lists[] = {
        "[core]\n\tbare = false\n",
        "[submodule \"../a\"]\n\tpath = a\n",
        "[submodule \"a\"]\n\tpath = ../a\n",
        "[submodule \"a\"]\n\tpath = -a\n",
        "[submodule \"a\"]\n\tpath = /a\n",
        "[submodule \"a\"]\n\tpath = .git/x\n",
        "[submodule \"a\"]\n\turl = -x\n",
        "[submodule \"a\"]\n\tupdate = none\n",
        "[submodule \"a\"]\n\tpath = .husky\n",
        "[submodule \"a\"]\n\tpath = ./.husky\n",
        "[submodule \"a\"]\n\tpath = parts/a\n",
        "[submodule]\n\tpath = a\n",
        "[submodule \"a\"]\n\turl = ./x\n",
        "[submodule \"a\"]\n\turl = ../x\n",
        "[submodule \"a\"]\n\turl = /shared/x\n",
        "[submodule \"a\"]\n\turl = file:///%77/x\n",
};

static void test_what_does_not_stay(void **state)
{
        char text[128];

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                assert_int_equal(config(bad[i], NULL), -EPERM);
                assert_int_equal(config(bad[i], MODULE), -EPERM);
        }
        for (size_t i = 0; i < ELEMENTSOF(bad_places); i++) {
                assert_int_equal(str_printf(text, sizeof(text), "[core]\n\tworktree = %s\n", bad_places[i]),
                                 0);
                assert_int_equal(config(text, MODULE), -EPERM);
        }
        for (size_t i = 0; i < ELEMENTSOF(bad_lists); i++)
                assert_int_equal(modules(bad_lists[i]), -EPERM);
}

/* Cut anywhere, with any byte in it: an answer, and never one that more than the whole was allowed. */
static void test_bytes(void **state)
{
        static const char whole[] =
                        "[remote \"origin\"]\n\turl = https://h.test/x.git\n[branch \"a\"]\n\tremote = origin\n";
        char copy[sizeof(whole)];

        (void) state;
        for (size_t i = 0; i < sizeof(whole); i++)
                (void) !harmless_config(whole, i, &plan, MODULE);
        for (size_t i = 0; i + 1 < sizeof(whole); i++)
                for (unsigned c = 0; c < 256; c++) {
                        memcpy(copy, whole, sizeof(whole));
                        copy[i] = (char) c;
                        if (c < ' ' && c != '\n' && c != '\t')
                                assert_int_equal(harmless_config(copy, sizeof(whole) - 1, &plan, NULL),
                                                 -EPERM);
                        else
                                (void) !harmless_config(copy, sizeof(whole) - 1, &plan, NULL);
                }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_what_git_writes),
                cmocka_unit_test(test_what_does_not_stay),
                cmocka_unit_test(test_bytes),
        };

        return cmocka_run_group_tests(tests, setup, NULL);
}
