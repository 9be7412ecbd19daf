#pragma once

/*
 * File descriptors: start as -EBADF, opened with O_CLOEXEC, closed once. Parameters named x_fd borrow,
 * take_fd own.
 */

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "proto/base/macro.h"

/* Closes if >= 0; aborts on EBADF, which is the descriptor's use-after-free. Keeps errno. Returns -EBADF. */
int fd_close(int fd);

static inline void fd_closep(int *fd)
{
        *fd = fd_close(*fd);
}

#define _cleanup_close_ _cleanup_(fd_closep)

void fd_close_many(int *fds, size_t n);

int fd_set_nonblock(int fd, bool on) _must_check_;
int fd_set_cloexec(int fd, bool on) _must_check_;

/* Whole buffer or error; -EPIPE instead of SIGPIPE is the caller's business. */
int fd_write_all(int fd, const void *data, size_t size) _must_check_;

/* Reads up to the end of the file; *ret_data is NUL-terminated beyond its size and the caller's to free.
 * -EFBIG when there are more than size_max bytes. */
int fd_read_all(int fd, size_t size_max, char **ret_data, size_t *ret_size) _must_check_;

/* A memfd that holds the data and can never change again. */
int fd_memfd_sealed(const char *name, const void *data, size_t size, int *ret_fd) _must_check_;

/* Maps a descriptor read-only after checking that it is a memfd sealed against every change, at most
 * size_max bytes. The caller unmaps (munmap) *ret_data. -EPERM: not sealed. -EFBIG: too large. */
int fd_map_sealed(int fd, size_t size_max, const void **ret_data, size_t *ret_size) _must_check_;

/* Sealed with SHRINK|GROW|WRITE|SEAL, and a memfd at all. */
bool fd_is_sealed(int fd);

/* What a client may hand us as stdio: pipe, terminal, regular file, /dev/null. Looks at the object, never at
 * a name. False for sockets, directories, O_PATH and everything else. */
bool fd_is_stdio(int fd);
