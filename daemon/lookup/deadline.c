/*
 * A name service may accept a question and never answer it, and nothing of the C library's takes a time-out.
 * So a child asks, and after the deadline what the machine's own files say must do.
 */

#include <fcntl.h>
#include <nss.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/lookup/lookup.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"

#define NSS_DEADLINE_USEC (3 * USEC_PER_SEC)

_noreturn_ static void run_child(int fd, const LookupCall *call)
{
        int r = prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0 ? neg_errno() : call->ask(call);

        if (fd_write_all(fd, &r, sizeof(r)) < 0 || fd_write_all(fd, call->answer, call->size) < 0)
                _exit(1);
        _exit(0);
}

static int wait_readable(int fd, uint64_t end_usec)
{
        struct pollfd p = { .fd = fd, .events = POLLIN };
        int n;

        do {
                uint64_t now = clock_monotonic_usec();

                n = poll(&p, 1, now < end_usec ? (int) ((end_usec - now) / USEC_PER_MSEC) + 1 : 0);
        } while (n < 0 && errno == EINTR);
        return n < 0 ? neg_errno() : n == 0 ? -ETIMEDOUT : 0;
}

static int read_answer(int fd, void *to, size_t size, uint64_t end_usec)
{
        size_t at = 0;

        while (at < size) {
                ssize_t n;
                int r = wait_readable(fd, end_usec);

                if (r < 0)
                        return r;
                n = read(fd, (char *) to + at, size - at);
                if (n < 0 && errno != EINTR)
                        return neg_errno();
                if (n == 0)
                        return -EPIPE;
                at += n > 0 ? (size_t) n : 0;
        }
        return 0;
}

int lookup_in_child(const LookupCall *call)
{
        uint64_t end_usec = clock_monotonic_usec() +
                            (call->deadline_usec > 0 ? call->deadline_usec : NSS_DEADLINE_USEC);
        int pipe_fds[2], r, result = 0;
        pid_t pid;

        if (pipe2(pipe_fds, O_CLOEXEC) < 0)
                return neg_errno();
        pid = fork(); /* banned:ok */
        if (pid == 0)
                run_child(pipe_fds[1], call);
        (void) fd_close(pipe_fds[1]);
        r = pid < 0 ? neg_errno() : read_answer(pipe_fds[0], &result, sizeof(result), end_usec);
        if (r >= 0)
                r = read_answer(pipe_fds[0], call->answer, call->size, end_usec);
        (void) fd_close(pipe_fds[0]);
        if (pid > 0) {
                (void) kill(pid, SIGKILL);
                (void) waitpid(pid, NULL, 0);
        }
        return r < 0 ? r : result;
}

int lookup_within(const LookupCall *call)
{
        static const char *const databases[] = { "passwd", "group", "initgroups" };
        int r = lookup_in_child(call);

        if (r != -ETIMEDOUT)
                return r;
        (void) log_warning(
                        0,
                        "the name service did not answer within %llu s: going by /etc/passwd and /etc/group",
                        (unsigned long long) (NSS_DEADLINE_USEC / USEC_PER_SEC));
        for (size_t i = 0; i < ELEMENTSOF(databases); i++) {
                if (__nss_configure_lookup(databases[i], "files") < 0)
                        return neg_errno();
        }
        return call->ask(call);
}
