#include "tests/fuzz/channel.h"

#include <fcntl.h>
#include <stdint.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/base/fd.h"
#include "tests/fuzz/fuzz.h"

#define FDS_MAX       16U
#define CUT_FD        0x80U
#define CUT_LONG      0x7fU
#define CUT_LONG_SIZE 4096U

int channel_next_fd(void)
{
        int fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3), next = fd;

        sb_assert(fd >= 0);
        fd = fd_close(fd);
        return next;
}

bool channel_send(int fd, const void *data, size_t size, size_t n_fds)
{
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int) * FDS_MAX)];
        } control = { 0 };
        struct iovec iov = { .iov_base = (void *) (uintptr_t) data, .iov_len = size };
        struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
        int fds[FDS_MAX];

        n_fds = MIN_OF(n_fds, (size_t) FDS_MAX);
        for (size_t i = 0; i < n_fds; i++)
                fds[i] = STDERR_FILENO;
        if (n_fds > 0) {
                control.header = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int) * n_fds),
                                                   .cmsg_level = SOL_SOCKET,
                                                   .cmsg_type = SCM_RIGHTS };
                memcpy(CMSG_DATA(&control.header), fds, sizeof(int) * n_fds);
                m.msg_control = &control;
                m.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
        }
        return sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t) size;
}

void channel_input_init(ChannelInput *in, const uint8_t *data, size_t size)
{
        size_t n = fuzz_take_byte(&data, &size) % 32U;

        n = MIN_OF(n, size);
        *in = (ChannelInput){ .cuts = data, .n_cuts = n, .data = data + n, .size = size - n };
}

bool channel_feed(ChannelInput *in, int fd)
{
        uint8_t cut = in->n_cuts > 0 ? in->cuts[in->at++ % in->n_cuts] : CUT_LONG;
        size_t n = (cut & CUT_LONG) == CUT_LONG ? CUT_LONG_SIZE : (cut & CUT_LONG) + 1U;

        if (in->size == 0)
                return false;
        n = MIN_OF(n, in->size);
        sb_assert(channel_send(fd, in->data, n, cut & CUT_FD ? 1 + (cut & 1U) : 0));
        in->data += n;
        in->size -= n;
        return true;
}

size_t channel_drain(int fd, char *to, size_t size)
{
        ssize_t n = recv(fd, to, size, MSG_DONTWAIT);

        return n > 0 ? (size_t) n : 0;
}
