/* What a taken-over worker tries with the kernel: ways out that need nobody's permission but its filter's.
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/ipv6.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "proto/base/str.h"
#include "tests/integration/hostile_egress.h"

#define CALL(name)                \
        {                         \
#name, SYS_##name \
        }

/* None with arguments that would do anything. */
static const struct {
        const char *name;
        long number;
} calls[] = {
        CALL(socket),
        CALL(socketpair),
        CALL(connect),
        CALL(bind),
        CALL(listen),
        CALL(sendmmsg),
        CALL(recvmmsg),
        CALL(getsockopt),
        CALL(io_uring_setup),
        CALL(execve),
        CALL(execveat),
        CALL(ptrace),
        CALL(openat),
        CALL(openat2),
        CALL(memfd_create),
        CALL(memfd_secret),
        CALL(pidfd_open),
        CALL(pidfd_getfd),
        CALL(process_vm_readv),
        CALL(kill),
        CALL(epoll_create1),
        CALL(eventfd2),
        CALL(pipe2),
        CALL(timerfd_create),
        CALL(dup),
        CALL(dup3),
        CALL(userfaultfd),
        CALL(bpf),
        CALL(keyctl),
        CALL(unshare),
        CALL(setns),
        CALL(mount),
        CALL(move_mount),
        CALL(setresuid),
        CALL(prctl),
        CALL(seccomp),
        CALL(ioctl),
        CALL(sendfile),
        CALL(splice),
        CALL(vmsplice),
        CALL(chdir),
        CALL(shmget),
        CALL(msgget),
        CALL(mq_open),
        CALL(inotify_init1),
        CALL(fanotify_init),
        CALL(perf_event_open),
        CALL(prlimit64),
        CALL(sched_setaffinity),
        CALL(mlock),
        CALL(remap_file_pages),
        CALL(landlock_create_ruleset),
};

static const struct {
        const char *name;
        int level;
        int option;
} options[] = {
        { "IP_OPTIONS", IPPROTO_IP, IP_OPTIONS },
        { "IP_TOS", IPPROTO_IP, IP_TOS },
        { "IP_TRANSPARENT", IPPROTO_IP, IP_TRANSPARENT },
        { "IPV6_RTHDR", IPPROTO_IPV6, IPV6_RTHDR },
        { "IPV6_ADDRFORM", IPPROTO_IPV6, IPV6_ADDRFORM },
        { "SO_BINDTODEVICE", SOL_SOCKET, SO_BINDTODEVICE },
        { "SO_MARK", SOL_SOCKET, SO_MARK },
        { "SO_ATTACH_FILTER", SOL_SOCKET, SO_ATTACH_FILTER },
        { "TCP_REPAIR", IPPROTO_TCP, TCP_REPAIR },
        { "TCP_FASTOPEN_CONNECT", IPPROTO_TCP, TCP_FASTOPEN_CONNECT },
        { "TCP_ULP", IPPROTO_TCP, TCP_ULP },
        { "TCP_MD5SIG", IPPROTO_TCP, TCP_MD5SIG },
};

/* What does not fit is not needed: one name is enough to fail the test. */
static void add_name(char *found, size_t size, const char *name)
{
        size_t n = strlen(found);

        if (str_printf(found + n, size - n, " %s", name) < 0)
                found[n] = '\0';
}

static void try_options(int fd, const char *kind)
{
        char found[512] = "", value[40] = { 0 };

        for (size_t i = 0; i < ELEMENTSOF(options); i++) {
                if (setsockopt(fd, options[i].level, options[i].option, value, sizeof(value)) < 0 &&
                    errno == EPERM)
                        continue;
                add_name(found, sizeof(found), options[i].name);
        }
        report(kind, "options%s", found);
}

void try_calls(Hostile *h)
{
        char found[1024] = "";

        for (size_t i = 0; i < ELEMENTSOF(calls); i++) {
                if (syscall(calls[i].number, -1L, -1L, -1L, -1L, -1L, -1L) < 0 && errno == EPERM)
                        continue;
                add_name(found, sizeof(found), calls[i].name);
        }
        if (fcntl(h->listener_fd, F_DUPFD_CLOEXEC, 3) >= 0)
                add_name(found, sizeof(found), "F_DUPFD");
        if (fcntl(h->listener_fd, F_SETOWN, 1) >= 0)
                add_name(found, sizeof(found), "F_SETOWN");
        report("calls", "open%s", found);
        try_options(h->listener_fd, "listener");
}

void try_memory(void)
{
        void *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        void *code = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        void *large = mmap(NULL, (size_t) 1 << 30, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                           0);

        report("memory", "shared %d, code %d, large %d", shared != MAP_FAILED, code != MAP_FAILED,
               large != MAP_FAILED);
}

static ssize_t send_fast(int fd, bool by_message, const struct sockaddr_in *to)
{
        char data[] = "evil";
        struct iovec part = { .iov_base = data, .iov_len = sizeof(data) };
        struct msghdr m = { .msg_name = (void *) (uintptr_t) to,
                            .msg_namelen = sizeof(*to),
                            .msg_iov = &part,
                            .msg_iovlen = 1 };
        int flags = MSG_FASTOPEN | MSG_NOSIGNAL | MSG_DONTWAIT;

        return by_message ? sendmsg(fd, &m, flags)
                          : sendto(fd, data, sizeof(data), flags, (const struct sockaddr *) to, sizeof(*to));
}

/* A connection that is over, in the host's network: the server sees whether it can begin anew elsewhere. */
void try_revival(Hostile *h)
{
        struct sockaddr_in denied = { .sin_family = AF_INET,
                                      .sin_port = htons((uint16_t) DENIED_PORT),
                                      .sin_addr = { htonl(INADDR_LOOPBACK) } };
        uint64_t sequence;
        char byte;
        int fd = connection_for(h, "allowed.test", RESET_PORT, &sequence), n = 0;

        if (fd < 0) {
                report("revival", "no connection");
                return;
        }
        try_options(fd, "connected");
        (void) send(fd, "x", 1, MSG_NOSIGNAL);
        for (int i = 0; i < 20 && recv(fd, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN; i++)
                (void) wait_readable(h, fd, 200);
        for (int i = 0; i < 8; i++)
                n += send_fast(fd, i % 2 == 1, &denied) >= 0;
        report("revival", "sent %d", n);
        /* Its own sockets, too, inside the session. */
        (void) shutdown(h->listener_fd, SHUT_RDWR);
        for (int i = 0; i < 4; i++)
                n += send_fast(h->listener_fd, i % 2 == 1, &denied) >= 0;
        report("revival-inside", "sent %d", n);
        (void) close(fd);
}

/* Gives a connection back, and holds on to the descriptor. */
void try_revoked(Hostile *h)
{
        PrivConnectionDone done = { .reason = CLOSE_DONE };
        int fd = connection_for(h, "allowed.test", ALLOWED_PORT, &done.sequence);
        ssize_t n = 0;
        char byte;

        if (fd < 0 || imsg_send(&h->dialer, PRIV_CONNECTION_DONE, &done, sizeof(done), NULL, 0) < 0) {
                report("revoked", "no connection");
                return;
        }
        for (int i = 0; i < 50 && n >= 0; i++) {
                (void) wait_readable(h, fd, 200);
                n = send(fd, "GET / HTTP/1.0\r\n\r\n", 18, MSG_NOSIGNAL | MSG_DONTWAIT);
        }
        report("revoked", "send %d, receive %d", n >= 0, recv(fd, &byte, 1, MSG_DONTWAIT) > 0);
        (void) close(fd);
}
