/*
 * sandboxctl from main() on: any command line, and a daemon that answers with any bytes. Input: the number
 * of arguments, that many strings with a NUL behind each, then all that the daemon says before it hangs up.
 * It ends with a status that it documents, and the terminal is never asked.
 */

#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/base/fd.h"
#include "tests/fuzz/channel.h"
#include "tests/fuzz/fuzz.h"

#define ARGUMENTS_MAX 24U
#define FDS_MAX       64

int LLVMFuzzerInitialize(int *argc, char ***argv);
int __lsan_is_turned_off(void);
int __wrap_connect(int fd, const struct sockaddr *address, socklen_t size);
/* client/ctl/main.c's main(), renamed by the compiler's arguments. */
int sandboxctl_main(int argc, char *argv[]);

static const uint8_t *answer;
static size_t answer_size;

/* A command frees nothing at its end. */
__attribute__((visibility("default"))) int __lsan_is_turned_off(void)
{
        return 1;
}

/* Every daemon is the target. */
int __wrap_connect(int fd, _unused_ const struct sockaddr *address, _unused_ socklen_t size)
{
        int pair[2];

        sb_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        (void) send(pair[1], answer, answer_size, MSG_NOSIGNAL | MSG_DONTWAIT);
        (void) shutdown(pair[1], SHUT_WR);
        sb_assert(dup2(pair[0], fd) == fd);
        pair[0] = fd_close(pair[0]);
        return 0;
}

int LLVMFuzzerInitialize(_unused_ int *argc, _unused_ char ***argv)
{
        int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

        sb_assert(fd >= 0 && dup2(fd, STDIN_FILENO) >= 0 && dup2(fd, STDOUT_FILENO) >= 0);
        fd = fd_close(fd);
        /* What it says is not looked at; libFuzzer and the sanitizers have the descriptor. */
        stderr = fopen("/dev/null", "w");
        sb_assert(stderr && setenv("SANDBOXD_ADDRESS", "unix:/dev/null", 1) == 0);
        sb_assert(setenv("HOME", "/nonexistent", 1) == 0);
        return 0;
}

static bool status_is_documented(int status)
{
        return status >= 0 && status <= 255;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        char *argv[ARGUMENTS_MAX + 2] = { (char *) (uintptr_t) "sandboxctl" };
        int argc = 1, first = channel_next_fd();
        uint8_t n = fuzz_take_byte(&data, &size) % (ARGUMENTS_MAX + 1);
        sigset_t before;

        while (n-- > 0 && size > 0) {
                const uint8_t *end = memchr(data, '\0', size);
                size_t length = end ? (size_t) (end - data) : size;

                argv[argc] = fuzz_copy(data, length + 1 <= size ? length + 1 : length);
                if (!end) {
                        free(argv[argc]);
                        break;
                }
                argc++;
                data += length + 1;
                size -= length + 1;
        }
        argv[argc] = NULL;
        answer = data;
        answer_size = size;
        optind = 0;
        sb_assert(sigprocmask(SIG_BLOCK, NULL, &before) == 0);
        sb_assert(status_is_documented(sandboxctl_main(argc, argv)));
        sb_assert(sigprocmask(SIG_SETMASK, &before, NULL) == 0);
        for (int fd = first; fd < FDS_MAX; fd++)
                (void) close(fd);
        for (int i = 1; i < argc; i++)
                free(argv[i]);
        return 0;
}
