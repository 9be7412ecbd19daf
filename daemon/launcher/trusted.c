#include "daemon/launcher/trusted.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

#define TRUSTED_BYTES_MAX   (1024LL * 1024)
#define TRUSTED_OTHERS_MASK ((mode_t) (S_IWGRP | S_IWOTH))

static bool is_ours(const struct stat *st)
{
        return st->st_uid == 0 || st->st_uid == geteuid();
}

/* NULL: it is as it should be. */
static const char *find_fault_of_directory(const struct stat *st)
{
        if (!is_ours(st))
                return "belongs to somebody else";
        if ((st->st_mode & TRUSTED_OTHERS_MASK) && !(st->st_mode & S_ISVTX))
                return "is writable by others";
        return NULL;
}

static const char *find_fault_of_file(const struct stat *st)
{
        if (!S_ISREG(st->st_mode))
                return "is not a regular file";
        if (!is_ours(st))
                return "belongs to somebody else";
        if (st->st_mode & TRUSTED_OTHERS_MASK)
                return "is writable by others";
        if (st->st_nlink != 1)
                return "has a second name";
        if (st->st_size > TRUSTED_BYTES_MAX)
                return "is too large";
        return NULL;
}

static int refuse(TrustedFault *to, const char *name, const char *fault)
{
        if (str_printf(to->text, sizeof(to->text), "%s %s: it is not read", name, fault) < 0)
                (void) !str_copy(to->text, sizeof(to->text), fault);
        return log_error(-EPERM, "%s %s: it is not read", name, fault);
}

static int check(int fd, const char *name, const char *(*find_fault)(const struct stat *st),
                 TrustedFault *to)
{
        const char *fault;
        struct stat st;

        if (fstat(fd, &st) < 0)
                return neg_errno();
        fault = find_fault(&st);
        return fault ? refuse(to, name, fault) : 0;
}

/* Into the next directory of the path; *fd is replaced. */
static int enter(int *fd, const char *name, TrustedFault *fault)
{
        int next = openat(*fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

        if (next < 0)
                return errno == ELOOP || errno == ENOTDIR
                                       ? refuse(fault, name, "is not a directory, or a link")
                                       : neg_errno();
        (void) fd_close(*fd);
        *fd = next;
        return check(next, name, find_fault_of_directory, fault);
}

int trusted_open_directory(const char *path, int *ret_fd, TrustedFault *fault)
{
        _cleanup_close_ int fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        int r;

        if (fd < 0)
                return neg_errno();
        fault->text[0] = '\0';
        r = check(fd, "/", find_fault_of_directory, fault);
        while (r >= 0) {
                char name[NAME_MAX + 1];
                size_t n;

                path += strspn(path, "/");
                n = strcspn(path, "/");
                if (n == 0)
                        break;
                if (n >= sizeof(name))
                        return -ENAMETOOLONG;
                memcpy(name, path, n);
                name[n] = '\0';
                path += n;
                r = enter(&fd, name, fault);
        }
        if (r < 0)
                return r;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int trusted_open_at(int directory_fd, const char *name, int *ret_fd, TrustedFault *fault)
{
        _cleanup_close_ int fd = -EBADF;
        int r;

        fault->text[0] = '\0';
        fd = openat(directory_fd, name, O_RDONLY | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0)
                return errno == ELOOP ? refuse(fault, name, "is a symbolic link") : neg_errno();
        r = check(fd, name, find_fault_of_file, fault);
        if (r < 0)
                return r;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int trusted_open(const char *directory, const char *name, int *ret_fd, TrustedFault *fault)
{
        _cleanup_close_ int directory_fd = -EBADF;
        int r;

        r = trusted_open_directory(directory, &directory_fd, fault);
        return r < 0 ? r : trusted_open_at(directory_fd, name, ret_fd, fault);
}
