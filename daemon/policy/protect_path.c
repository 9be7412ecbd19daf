/* Protected paths as a policy names them. */

#include <string.h>

#include "daemon/policy/model.h"
#include "proto/base/str.h"

#define WORKSPACE      "${workspace}/"
#define COMPONENTS_MAX 8U
/* A longer name fits no rule of the kernel's. */
#define NAME_BYTES_MAX 55U

static const char *check_name(const char *name, size_t n, bool is_last)
{
        if (n == 1 && name[0] == '*')
                return is_last ? "name the folder itself instead of everything in it" : NULL;
        if (memchr(name, '*', n) || memchr(name, '?', n) || memchr(name, '[', n))
                return "\"*\" stands for a whole name between two slashes; other globs are not enforced by this "
                       "version";
        return n > NAME_BYTES_MAX ? "a protected name has at most 55 bytes" : NULL;
}

const char *protect_pattern_check(const char *s, char *ret, size_t size)
{
        char plain[PLAN_PATH_MAX], checked[PLAN_PATH_MAX];
        const char *message;
        size_t n = 0;

        if (!str_has_prefix(s, WORKSPACE))
                return "a protected path begins with ${workspace}/";
        for (const char *p = s + strlen(WORKSPACE);; n++) {
                size_t part = strcspn(p, "/");

                if (n >= COMPONENTS_MAX)
                        return "a protected path has at most 8 names below the workspace";
                message = check_name(p, part, p[part] == '\0');
                if (message)
                        return message;
                if (p[part] == '\0')
                        break;
                p += part + 1;
        }
        if (str_copy(plain, sizeof(plain), s) < 0 || str_copy(ret, size, s) < 0)
                return "this path is too long";
        for (char *p = strchr(plain, '*'); p; p = strchr(p, '*'))
                *p = 'x';
        return path_pattern_check(plain, checked, sizeof(checked));
}
