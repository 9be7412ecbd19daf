/*
 * swapper A B [A B]...: exchanges the names of each pair, as fast as it can, until it is killed. The moment
 * of each exchange is the scheduler's; between two rounds a pause of random length, so that it is not always
 * the same.
 */

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
        unsigned seed = (unsigned) time(NULL) ^ (unsigned) getpid();

        for (;;) {
                for (int i = 1; i + 1 < argc; i += 2)
                        syscall(SYS_renameat2, AT_FDCWD, argv[i], AT_FDCWD, argv[i + 1],
                                2 /* RENAME_EXCHANGE */);
                if (rand_r(&seed) % 16 == 0) {
                        struct timespec pause = { 0, (rand_r(&seed) % 300) * 1000 };

                        nanosleep(&pause, NULL);
                }
        }
}
