/* Patterns of paths, against a matcher that tries everything. */

#include <stdlib.h>

#include "check.h"
#include "proto/base/glob.h"
#include "proto/base/str.h"

static bool name_fits(const char *p, const char *s)
{
        if (*p == '\0' || *p == '/')
                return *s == '\0' || *s == '/';
        if (*p == '*')
                return name_fits(p + 1, s) || (*s != '\0' && *s != '/' && name_fits(p, s + 1));
        return *s != '\0' && *s != '/' && (*p == '?' || *p == *s) && name_fits(p + 1, s + 1);
}

static const char *next(const char *s)
{
        s += strcspn(s, "/");
        return *s ? s + 1 : NULL;
}

static bool path_fits(const char *p, const char *s)
{
        if (!p)
                return !s;
        if (strncmp(p, "**", 2) == 0)
                return path_fits(next(p), s) || (s && path_fits(p, next(s)));
        return s && name_fits(p, s) && path_fits(next(p), next(s));
}

static bool matches(const Glob *g, const char *path)
{
        char copy[256], *rest = copy, *name;
        uint32_t places = glob_begin(g);

        ASSERT_OK(str_copy(copy, sizeof(copy), path));
        while ((name = strsep(&rest, "/")))
                places = glob_step(g, places, name);
        return glob_is_match(g, places);
}

static void make(char *to, const char *const *of, size_t n, size_t n_names)
{
        to[0] = '\0';
        for (size_t i = 0; i < n_names; i++) {
                if (i)
                        strncat(to, "/", 255 - strlen(to));
                strncat(to, of[(size_t) random() % n], 255 - strlen(to));
        }
}

static void test_all_ways(void **state)
{
        static const char *const parts[] = { "**", "**", "a", "b*", "*a", "?", "a*b*a", "*", "*??" };
        static const char *const names[] = { "a", "b", "ab", "ba", "aba", "abba", "abaabba", ".a" };
        size_t n_matches = 0;

        (void) state;
        srandom(1);
        for (int i = 0; i < 200000; i++) {
                char pattern[256], path[256];
                bool fits;
                Glob g;

                make(pattern, parts, ELEMENTSOF(parts), 1 + (size_t) random() % 5);
                make(path, names, ELEMENTSOF(names), 1 + (size_t) random() % 5);
                ASSERT_OK(glob_parse(pattern, &g));
                fits = path_fits(pattern, path);
                if (matches(&g, path) != fits)
                        print_message("%s %s\n", pattern, path);
                assert_int_equal(matches(&g, path), fits);
                n_matches += fits;
        }
        assert_true(n_matches > 1000);
}

static void test_refused(void **state)
{
        static const char *const texts[] = {
                "",       "/a",  "a/",  "a//b",  ".",
                "a/../b", "**a", "a**", "a/***", "1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17"
        };
        Glob g;

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(texts); i++)
                assert_true(glob_parse(texts[i], &g) < 0);
        ASSERT_OK(glob_parse("1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16", &g));
        assert_true(matches(&g, "1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16"));
}

int main(void)
{
        const struct CMUnitTest all[] = {
                cmocka_unit_test(test_all_ways),
                cmocka_unit_test(test_refused),
        };

        return cmocka_run_group_tests(all, NULL, NULL);
}
