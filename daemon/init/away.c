/* What the session made at protected places. */

#include <dirent.h>
#include <errno.h>
#include <linux/stat.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "daemon/init/protect.h"
#include "daemon/isolate/kernel.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

/* Beside it, under a name that nobody could have taken beforehand. */
static int move_aside(int directory_fd, const char *name)
{
        char aside[256];
        uint64_t random;

        for (unsigned i = 0; i < 10; i++) {
                int r;

                if (getrandom(&random, sizeof(random), 0) != (ssize_t) sizeof(random))
                        return -EIO;
                /* The longest names leave no room for it. */
                r = str_printf(aside, sizeof(aside), "%.220s.refused-%016llx", name,
                               (unsigned long long) random);
                if (r < 0)
                        return r;
                if (syscall(SYS_renameat2, directory_fd, name, directory_fd, aside, 1 /* NOREPLACE */) == 0)
                        return 0;
                if (errno != EEXIST)
                        return neg_errno();
        }
        return -EEXIST;
}

/* Everything in it was made after it: nobody loses what was brought there. */
static int made_after(int fd, uint64_t *ret_usec)
{
        struct statx st;

        if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_BTIME, &st) < 0)
                return neg_errno();
        if (!(st.stx_mask & STATX_BTIME))
                return -EOPNOTSUPP;
        *ret_usec = (uint64_t) st.stx_btime.tv_sec * 1000000U + st.stx_btime.tv_nsec / 1000U;
        return 0;
}

static int empty(int directory_fd, uint64_t since_usec, bool is_real, unsigned depth, unsigned *n);

static int empty_entry(int directory_fd, const char *name, uint64_t since_usec, bool is_real, unsigned depth,
                       unsigned *n)
{
        _cleanup_close_ int fd = protect_open(directory_fd, name, O_PATH);
        struct stat st;
        uint64_t made;
        int r;

        if (fd < 0 || fstat(fd, &st) < 0)
                return fd < 0 ? fd : neg_errno();
        r = made_after(fd, &made);
        if (r < 0)
                return r;
        if (made < since_usec || (*n)++ >= PROTECT_ENTRIES_MAX)
                return -EEXIST;
        if (S_ISDIR(st.st_mode)) {
                fd = fd_close(fd);
                fd = protect_open(directory_fd, name, O_RDONLY | O_DIRECTORY | O_NONBLOCK);
                r = fd < 0 ? fd : empty(fd, since_usec, is_real, depth + 1, n);
        }
        if (r < 0 || !is_real)
                return r;
        return unlinkat(directory_fd, name, S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0) < 0 ? neg_errno() : 0;
}

/* First without is_real, to see whether it may be done. */
static int empty(int directory_fd, uint64_t since_usec, bool is_real, unsigned depth, unsigned *n)
{
        const struct dirent *e;
        DIR *d;
        int r = depth < PROTECT_DEPTH_MAX ? protect_list(directory_fd, &d) : -ELOOP;

        if (r < 0)
                return r;
        while (r >= 0 && (e = readdir(d)))
                if (!str_equal(e->d_name, ".") && !str_equal(e->d_name, ".."))
                        r = empty_entry(directory_fd, e->d_name, since_usec, is_real, depth, n);
        (void) closedir(d);
        return r;
}

static int remove_made(int directory_fd, const char *name, bool is_directory)
{
        _cleanup_close_ int fd = -EBADF;
        uint64_t made;
        unsigned n = 0, n_again = 0;
        int r;

        if (!is_directory)
                return unlinkat(directory_fd, name, 0) < 0 ? neg_errno() : 0;
        fd = protect_open(directory_fd, name, O_RDONLY | O_DIRECTORY | O_NONBLOCK);
        if (fd < 0)
                return fd;
        r = made_after(fd, &made);
        if (r >= 0)
                r = empty(fd, made, /* is_real= */ false, 0, &n);
        if (r >= 0)
                r = empty(fd, made, /* is_real= */ true, 0, &n_again);
        if (r < 0)
                return r;
        return unlinkat(directory_fd, name, AT_REMOVEDIR) < 0 ? neg_errno() : 0;
}

int away_take(Protect *p, int directory_fd, const char *path, const char *name, Maker maker,
              bool is_directory)
{
        int r = maker == MAKER_SESSION ? remove_made(directory_fd, name, is_directory) : -EEXIST;

        if (r >= 0) {
                protect_note(p, GUARD_REMOVED, path);
                return 0;
        }
        if (r == -ENOENT)
                return 0;
        if (move_aside(directory_fd, name) < 0)
                return -EPERM;
        protect_note(p, GUARD_MOVED, path);
        return 0;
}
