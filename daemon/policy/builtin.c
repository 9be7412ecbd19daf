/* What the minimal root shows without a word of the policy. */

#include "daemon/policy/model.h"

#define OWN "(the session's own, empty at its start)"

const char builtin_own[] = OWN;

typedef struct Tree {
        const char *path;
        bool is_writable;
        const char *rule;
} Tree;

/* What the minimal root has without a word of the policy; /etc is asked by name. */
static const Tree trees[] = {
        { "/usr", false, "" },
        { "/opt", false, "" },
        { "/bin", false, "" },
        { "/sbin", false, "" },
        { "/lib", false, "" },
        { "/lib32", false, "" },
        { "/lib64", false, "" },
        { "/libx32", false, "" },
        { "/proc", false, "(the session's own processes)" },
        { "/tmp", true, OWN },
        { "/var/tmp", true, OWN },
        { "/dev/shm", true, OWN },
        { "/dev/pts", true, "" },
        { "/dev/fd", true, "" },
        { "/dev/null", true, "" },
        { "/dev/zero", true, "" },
        { "/dev/full", true, "" },
        { "/dev/random", true, "" },
        { "/dev/urandom", true, "" },
        { "/dev/tty", true, "" },
        { "/dev/ptmx", true, "" },
        { "/dev/stdin", true, "" },
        { "/dev/stdout", true, "" },
        { "/dev/stderr", true, "" },
};

bool builtin_shows(const char *path, bool for_writing, const char **ret_rule)
{
        for (size_t i = 0; i < ELEMENTSOF(trees); i++) {
                if (path_is_below(path, trees[i].path) && (trees[i].is_writable || !for_writing)) {
                        *ret_rule = trees[i].rule;
                        return true;
                }
        }
        return false;
}
