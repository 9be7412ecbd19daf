/*
 * rounds N WARM PAUSE COMMAND... --- COMMAND... : runs the commands in turn, N times after WARM rounds that
 * do not count, and prints one line of nanoseconds per command. In turn, so that what else the machine does
 * meets all alike; PAUSE milliseconds before each, because the kernel takes namespaces down after their last
 * process has gone, and whatever runs then would pay for the command before it.
 */

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define COMMANDS_MAX 32

extern char **environ;

static uint64_t now(void)
{
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t) t.tv_sec * 1000000000U + (uint64_t) t.tv_nsec;
}

static uint64_t run_once(char **command)
{
        int status, r;
        pid_t pid;
        uint64_t start = now();

        r = posix_spawnp(&pid, command[0], NULL, NULL, command, environ);
        if (r != 0 || waitpid(pid, &status, 0) != pid || status != 0) {
                fprintf(stderr, "%s failed: %s, status %d\n", command[0], strerror(r), r ? 0 : status);
                exit(1);
        }
        return now() - start;
}

static int split(char **argv, int argc, char ***commands)
{
        int n = 0;

        commands[n++] = argv;
        for (int i = 0; i < argc; i++)
                if (strcmp(argv[i], "---") == 0 && n < COMMANDS_MAX) {
                        argv[i] = NULL;
                        commands[n++] = argv + i + 1;
                }
        return n;
}

int main(int argc, char **argv)
{
        char **commands[COMMANDS_MAX];
        uint64_t *times[COMMANDS_MAX];
        int n_commands, rounds, warm, pause_ms;

        if (argc < 5)
                return 2;
        rounds = atoi(argv[1]);
        warm = atoi(argv[2]);
        pause_ms = atoi(argv[3]);
        n_commands = split(argv + 4, argc - 4, commands);
        for (int c = 0; c < n_commands; c++)
                times[c] = calloc((size_t) rounds, sizeof(uint64_t));
        for (int round = -warm; round < rounds; round++)
                for (int c = 0; c < n_commands; c++) {
                        uint64_t t;

                        usleep((useconds_t) pause_ms * 1000);
                        t = run_once(commands[c]);
                        if (round >= 0)
                                times[c][round] = t;
                }
        for (int c = 0; c < n_commands; c++) {
                for (int round = 0; round < rounds; round++)
                        printf("%llu ", (unsigned long long) times[c][round]);
                printf("\n");
        }
        return 0;
}
