/* `fault-as UID GID PROGRAM ARGUMENT…`: starts a client of that user. Python would have to fork() for it. */

#include <grp.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
        gid_t gid;

        if (argc < 4)
                return 127;
        gid = (gid_t) atoi(argv[2]);
        if (setgroups(1, &gid) < 0 || setresgid(gid, gid, gid) < 0)
                return 127;
        if (setuid((uid_t) atoi(argv[1])) < 0)
                return 127;
        (void) execv(argv[3], argv + 3);
        return 127;
}
