#include "proto/base/glob.h"

#include <errno.h>
#include <string.h>

static size_t length_of(const char *name)
{
        return strcspn(name, "/");
}

static bool is_any_number(const char *name)
{
        return length_of(name) == 2 && name[0] == '*' && name[1] == '*';
}

static bool name_is_sound(const char *name)
{
        size_t n = length_of(name);

        if (n == 0 || n > 255 || (n == 1 && name[0] == '.') || (n == 2 && name[0] == '.' && name[1] == '.'))
                return false;
        return is_any_number(name) || !memmem(name, n, "**", 2);
}

int glob_parse(const char *text, Glob *ret)
{
        Glob g = { .n = 0 };

        for (;;) {
                if (!name_is_sound(text))
                        return -EINVAL;
                if (g.n >= GLOB_NAMES_MAX)
                        return -E2BIG;
                g.names[g.n++] = text;
                text += length_of(text);
                if (*text == '\0')
                        break;
                text++;
        }
        *ret = g;
        return 0;
}

/* One star at a time: where what follows does not fit, the last star takes one byte more. */
static bool name_matches(const char *pattern, const char *name)
{
        const char *end = pattern + length_of(pattern), *star = NULL, *tried = name;

        while (*name) {
                if (pattern < end && *pattern == '*') {
                        star = pattern++;
                        tried = name;
                } else if (pattern < end && (*pattern == '?' || *pattern == *name)) {
                        pattern++;
                        name++;
                } else if (star) {
                        pattern = star + 1;
                        name = ++tried;
                } else {
                        return false;
                }
        }
        while (pattern < end && *pattern == '*')
                pattern++;
        return pattern == end;
}

/* "**" may stand for no name at all. */
static uint32_t pass_over(const Glob *g, uint32_t places)
{
        for (unsigned i = 0; i < g->n; i++)
                if ((places & UINT32_C(1) << i) && is_any_number(g->names[i]))
                        places |= UINT32_C(1) << (i + 1);
        return places;
}

uint32_t glob_begin(const Glob *g)
{
        return pass_over(g, 1);
}

uint32_t glob_step(const Glob *g, uint32_t places, const char *name)
{
        uint32_t next = 0;

        for (unsigned i = 0; i < g->n; i++) {
                if (!(places & UINT32_C(1) << i))
                        continue;
                if (is_any_number(g->names[i]))
                        next |= UINT32_C(1) << i;
                else if (name_matches(g->names[i], name))
                        next |= UINT32_C(1) << (i + 1);
        }
        return pass_over(g, next);
}

bool glob_is_match(const Glob *g, uint32_t places)
{
        return (places & UINT32_C(1) << g->n) != 0;
}
