/* PATTERN, a line end, PATH: what is clear stays the same when it is written on, and the automaton says what
 * a matcher says that tries every place. */

#include "daemon/policy/url_path.h"

#include <errno.h>

#include "daemon/policy/compiled.h"
#include "tests/fuzz/fuzz.h"

#define PLACES_MAX (URL_PATTERN_MAX + 1U)

/* One row for each place in the path, from its end on: may the pattern from each place on match the rest? */
static bool matches(const char *pattern, const char *path)
{
        size_t m = strlen(pattern), n = strlen(path);
        bool rows[2][PLACES_MAX] = { { false } }, *here = rows[0], *next = rows[1];
        bool behind_slash[PLACES_MAX] = { false }; /* of URL_PATTERN_SEGMENTS: after some later slash */

        for (size_t i = n + 1; i-- > 0;) {
                bool *swap = next;

                next = here;
                here = swap;
                for (size_t k = m + 1; k-- > 0;) {
                        if (k == m)
                                here[k] = i == n;
                        else if (pattern[k] == URL_PATTERN_STAR)
                                here[k] = here[k + 1] || (i < n && path[i] != '/' && next[k]);
                        else if (pattern[k] == URL_PATTERN_ALL)
                                here[k] = here[k + 1] || (i < n && next[k]);
                        else if (pattern[k] == URL_PATTERN_SEGMENTS)
                                here[k] = here[k + 1] || behind_slash[k];
                        else
                                here[k] = i < n && path[i] == pattern[k] && next[k + 1];
                }
                for (size_t k = 0; i > 0 && path[i - 1] == '/' && k < m; k++)
                        behind_slash[k] = behind_slash[k] || here[k + 1];
        }
        return here[0];
}

static void check_match(const char *pattern, const char *path)
{
        unsigned steps = URL_PATH_STEPS_MAX;
        int r = url_path_match(pattern, path, &steps);

        sb_assert(r == 0 || r == 1 || (r == -E2BIG && steps == 0));
        if (r >= 0)
                sb_assert((r > 0) == matches(pattern, path));
}

static void check_path(const char *s, size_t size, const char *pattern)
{
        char canonical[URL_PATH_MAX + 1], again[URL_PATH_MAX + 1];
        _cleanup_free_ char *written = malloc(size + 1);
        size_t n = policy_path_rewrite(s, size, written);

        sb_assert(n <= size);
        if (url_path_canonical(s, size, canonical) < 0) {
                sb_assert(url_path_canonical(written, n, again) < 0);
                return;
        }
        sb_assert(canonical[0] == '/' && !strstr(canonical, "//") && !strstr(canonical, "/../"));
        sb_assert(url_path_canonical(written, n, again) == 0 && strcmp(canonical, again) == 0);
        if (pattern)
                check_match(pattern, canonical);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        _cleanup_free_ char *text = fuzz_copy(data, size);
        char pattern[URL_PATTERN_MAX + 1];
        char *end = size > 0 ? memchr(text, '\n', size) : NULL;
        bool has_pattern = false;

        if (!end)
                return 0;
        *end = '\0';
        has_pattern = url_pattern_compile(text, pattern) == NULL;
        check_path(end + 1, size - (size_t) (end + 1 - text), has_pattern ? pattern : NULL);
        return 0;
}
