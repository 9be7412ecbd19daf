#include "proto/base/fd.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "proto/base/error.h"

#define FD_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL)

int fd_close(int fd)
{
        int saved_errno = errno;

        if (fd < 0)
                return -EBADF;
        /* On Linux the descriptor is gone even after EINTR: never retry. */
        if (close(fd) < 0)
                sb_assert(errno != EBADF);
        errno = saved_errno;
        return -EBADF;
}

void fd_close_many(int *fds, size_t n)
{
        for (size_t i = 0; i < n; i++)
                fds[i] = fd_close(fds[i]);
}

int fd_set_nonblock(int fd, bool on)
{
        int flags = fcntl(fd, F_GETFL);

        if (flags < 0)
                return neg_errno();
        if (fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK) < 0)
                return neg_errno();
        return 0;
}

int fd_set_cloexec(int fd, bool on)
{
        if (fcntl(fd, F_SETFD, on ? FD_CLOEXEC : 0) < 0)
                return neg_errno();
        return 0;
}

int fd_write_all(int fd, const void *data, size_t size)
{
        const char *p = data;

        while (size > 0) {
                ssize_t n = write(fd, p, size);

                if (n < 0) {
                        if (errno == EINTR)
                                continue;
                        return neg_errno();
                }
                p += n;
                size -= (size_t) n;
        }
        return 0;
}

int fd_read_all(int fd, size_t size_max, char **ret_data, size_t *ret_size)
{
        _cleanup_free_ char *data = NULL;
        size_t size = 0, room = 0;

        for (;;) {
                ssize_t n;

                if (room - size < 2) {
                        char *bigger;

                        room = room ? room * 2 : 4096;
                        bigger = realloc(data, room);
                        if (!bigger)
                                return -ENOMEM;
                        data = bigger;
                }
                n = read(fd, data + size, room - size - 1);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return neg_errno();
                if (n == 0)
                        break;
                size += (size_t) n;
                if (size > size_max)
                        return -EFBIG;
        }
        data[size] = '\0';
        *ret_data = TAKE_PTR(data);
        *ret_size = size;
        return 0;
}

int fd_memfd_sealed(const char *name, const void *data, size_t size, int *ret_fd)
{
        _cleanup_close_ int fd = -EBADF;
        int r;

        fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd < 0)
                return neg_errno();
        r = fd_write_all(fd, data, size);
        if (r < 0)
                return r;
        if (fcntl(fd, F_ADD_SEALS, FD_SEALS) < 0)
                return neg_errno();
        *ret_fd = TAKE_FD(fd);
        return 0;
}

bool fd_is_sealed(int fd)
{
        int seals = fcntl(fd, F_GET_SEALS);

        return seals >= 0 && (seals & FD_SEALS) == FD_SEALS;
}

int fd_map_sealed(int fd, size_t size_max, const void **ret_data, size_t *ret_size)
{
        struct stat st;
        void *p;

        if (!fd_is_sealed(fd))
                return -EPERM;
        if (fstat(fd, &st) < 0)
                return neg_errno();
        if (st.st_size <= 0)
                return -EINVAL;
        if ((uint64_t) st.st_size > size_max)
                return -EFBIG;
        p = mmap(NULL, (size_t) st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
                return neg_errno();
        *ret_data = p;
        *ret_size = (size_t) st.st_size;
        return 0;
}

bool fd_is_stdio(int fd)
{
        struct stat st;
        int flags = fcntl(fd, F_GETFL);

        if (flags < 0 || (flags & O_PATH) || fstat(fd, &st) < 0)
                return false;
        if (S_ISFIFO(st.st_mode) || S_ISREG(st.st_mode))
                return true;
        if (!S_ISCHR(st.st_mode))
                return false;
        return isatty(fd) || st.st_rdev == makedev(1, 3);
}
