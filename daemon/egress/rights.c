/*
 * The worker reads hostile bytes all its life, and holds sockets of the host's network that the dialer
 * connected. So it can do nothing but move bytes between descriptors that it was given:
 *
 * - MSG_FASTOPEN connects as connect() does, and a socket whose connection is over can be connected again;
 * - options of the IP layer (source routes, headers) send what a socket sends elsewhere;
 * - a second descriptor of a file is a second watch of it, and all workers share one limit of those.
 *
 * Its loop, which needs descriptors of its own, is made before.
 */

#include "daemon/egress/rights.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <seccomp.h>
#include <sys/socket.h>

static const int syscalls[] = {
        SCMP_SYS(accept4),        SCMP_SYS(brk),
        SCMP_SYS(clock_gettime),  SCMP_SYS(close),
        SCMP_SYS(epoll_ctl),      SCMP_SYS(epoll_pwait),
        SCMP_SYS(epoll_pwait2),   SCMP_SYS(epoll_wait),
        SCMP_SYS(futex),          SCMP_SYS(getpid),
        SCMP_SYS(getrandom),      SCMP_SYS(getsockname),
        SCMP_SYS(gettid),         SCMP_SYS(gettimeofday),
        SCMP_SYS(madvise),        SCMP_SYS(mmap),
        SCMP_SYS(mremap),         SCMP_SYS(munmap),
        SCMP_SYS(read),           SCMP_SYS(recvfrom),
        SCMP_SYS(recvmsg),        SCMP_SYS(rt_sigaction),
        SCMP_SYS(rt_sigprocmask), SCMP_SYS(shutdown),
        SCMP_SYS(tgkill),         SCMP_SYS(timerfd_settime),
        SCMP_SYS(write),          SCMP_SYS(writev),
};

#define EXACTLY UINT32_MAX

static const WorkerCall calls[] = {
        { SCMP_SYS(sendto), { { 3, MSG_FASTOPEN, 0 } } },
        { SCMP_SYS(sendmsg), { { 2, MSG_FASTOPEN, 0 } } },
        { SCMP_SYS(setsockopt), { { 1, EXACTLY, SOL_SOCKET }, { 2, EXACTLY, SO_LINGER } } },
        { SCMP_SYS(setsockopt), { { 1, EXACTLY, SOL_SOCKET }, { 2, EXACTLY, SO_SNDBUFFORCE } } },
        { SCMP_SYS(setsockopt), { { 1, EXACTLY, IPPROTO_TCP }, { 2, EXACTLY, TCP_NODELAY } } },
        { SCMP_SYS(fcntl), { { 1, EXACTLY, F_GETFL } } },
        { SCMP_SYS(fcntl), { { 1, EXACTLY, F_SETFL } } },
        { SCMP_SYS(fcntl), { { 1, EXACTLY, F_GETFD } } },
        { SCMP_SYS(fcntl), { { 1, EXACTLY, F_SETFD } } },
        { SCMP_SYS(fcntl), { { 1, EXACTLY, F_GET_SEALS } } },
};

WorkerSpec egress_rights(void)
{
        return (WorkerSpec){ .name = "sandboxd-egress",
                             .syscalls = syscalls,
                             .n_syscalls = ELEMENTSOF(syscalls),
                             .calls = calls,
                             .n_calls = ELEMENTSOF(calls),
                             .files_max = EGRESS_FILES_MAX,
                             .memory_max = EGRESS_MEMORY_MAX };
}
