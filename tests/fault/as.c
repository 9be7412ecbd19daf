/* `fault-as UID GID PROGRAM ARGUMENT…`: starts a client of that user. Python would have to fork() for it. */

#include <errno.h>
#include <grp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

/* What is no number must not become root's. */
static bool parse_id(const char *text, unsigned *ret)
{
        char *end;
        unsigned long n;

        errno = 0;
        n = strtoul(text, &end, 10);
        *ret = (unsigned) n;
        return errno == 0 && *text >= '0' && *text <= '9' && *end == '\0' && n < UINT32_MAX;
}

int main(int argc, char **argv)
{
        unsigned uid;
        gid_t gid;

        if (argc < 4 || !parse_id(argv[1], &uid) || !parse_id(argv[2], &gid))
                return 127;
        if (setgroups(1, &gid) < 0 || setresgid(gid, gid, gid) < 0)
                return 127;
        if (setuid(uid) < 0)
                return 127;
        (void) execv(argv[3], argv + 3);
        return 127;
}
