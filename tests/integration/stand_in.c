/*
 * Takes the place of a worker in a test's daemon: where the daemon's folder (--state-dir) holds a program of
 * the test for the user that the worker serves (hostile-UID, in Python), that runs in its place, with all
 * that the launcher gave; else the real worker does.
 */

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PATH_SIZE      4096
#define ARGUMENTS_SIZE 64

static const char *value_of(char **argv, const char *name)
{
        for (char **a = argv; a[0] && a[1]; a++) {
                if (strcmp(a[0], name) == 0)
                        return a[1];
        }
        return "";
}

int main(int argc, char **argv)
{
        char script[PATH_SIZE], program[PATH_SIZE], python[] = "/usr/bin/python3";
        char *arguments[ARGUMENTS_SIZE] = { python, script };
        const char *state = value_of(argv, "--state-dir");

        if (argc < 1 || argc > ARGUMENTS_SIZE - 3)
                return 2;
        (void) snprintf(script, sizeof(script), "%s/../hostile-%s", state, value_of(argv, "--uid"));
        (void) snprintf(program, sizeof(program), "%s/../libexec/real-%s", state, argv[0]);
        for (int i = 1; i < argc; i++)
                arguments[i + 1] = argv[i];
        if (faccessat(AT_FDCWD, script, R_OK, 0) == 0)
                (void) execv(python, arguments);
        (void) execv(program, argv);
        return 127;
}
