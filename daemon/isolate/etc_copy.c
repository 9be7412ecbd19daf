#include "daemon/isolate/etc_copy.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/isolate/etc_names.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

#define DEPTH_MAX      8
#define ENTRIES_MAX    20000U
#define FILE_BYTES_MAX (8 * 1024 * 1024)

typedef struct Copy {
        unsigned n_entries;
} Copy;

/* For which the host's would say too much. */
static const char *const own_files[][2] = {
        { "nsswitch.conf",
          "passwd: files\ngroup: files\nshadow: files\ngshadow: files\nhosts: files dns\n"
          "networks: files\nprotocols: files\nservices: files\nethers: files\nrpc: files\n" },
        { "resolv.conf", "nameserver 127.0.0.1\noptions timeout:2 attempts:2\n" },
};

static int copy_bytes(int from_fd, int to_fd, off_t size)
{
        while (size > 0) {
                ssize_t n = sendfile(to_fd, from_fd, NULL, (size_t) size);

                if (n < 0)
                        return neg_errno();
                if (n == 0)
                        break;
                size -= n;
        }
        return 0;
}

static int copy_file(int from_dir, int to_dir, const char *name, mode_t mode)
{
        _cleanup_close_ int from = -EBADF, to = -EBADF;
        struct stat st;

        from = openat(from_dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (from < 0 || fstat(from, &st) < 0)
                return neg_errno();
        /* Looked at again: what was opened counts. */
        if (!S_ISREG(st.st_mode) || !(st.st_mode & S_IROTH) || st.st_size > FILE_BYTES_MAX)
                return 0;
        to = openat(to_dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444 | (mode & 0111));
        if (to < 0)
                return errno == EEXIST ? 0 : neg_errno();
        return copy_bytes(from, to, st.st_size);
}

static int copy_link(int from_dir, int to_dir, const char *name)
{
        char target[1024];
        ssize_t n = readlinkat(from_dir, name, target, sizeof(target) - 1);

        if (n < 0)
                return neg_errno();
        target[n] = '\0';
        if (symlinkat(target, to_dir, name) < 0 && errno != EEXIST)
                return neg_errno();
        return 0;
}

static int copy_entry(Copy *c, int from_dir, int to_dir, const char *name, int depth);

static int copy_directory(Copy *c, int from_dir, int to_dir, const char *name, int depth)
{
        _cleanup_close_ int from = -EBADF, to = -EBADF;
        const struct dirent *e;
        DIR *d;
        int r = 0;

        if (mkdirat(to_dir, name, 0755) < 0 && errno != EEXIST)
                return neg_errno();
        to = openat(to_dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        from = openat(from_dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (to < 0 || from < 0)
                return neg_errno();
        d = fdopendir(from);
        if (!d)
                return neg_errno();
        (void) TAKE_FD(from);
        while (r == 0 && (e = readdir(d))) {
                if (str_equal(e->d_name, ".") || str_equal(e->d_name, ".."))
                        continue;
                r = copy_entry(c, dirfd(d), to, e->d_name, depth + 1);
        }
        (void) closedir(d);
        return r;
}

/* Skips what not everybody may read, and what is neither file, directory nor link. */
static int copy_entry(Copy *c, int from_dir, int to_dir, const char *name, int depth)
{
        struct stat st;

        if (depth > DEPTH_MAX)
                return 0;
        if (++c->n_entries > ENTRIES_MAX)
                return -E2BIG;
        if (fstatat(from_dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return errno == ENOENT || errno == ENOTDIR ? 0 : neg_errno();
        if (S_ISLNK(st.st_mode))
                return copy_link(from_dir, to_dir, name);
        if (S_ISDIR(st.st_mode))
                return (st.st_mode & S_IROTH) ? copy_directory(c, from_dir, to_dir, name, depth) : 0;
        if (S_ISREG(st.st_mode))
                return (st.st_mode & S_IROTH) ? copy_file(from_dir, to_dir, name, st.st_mode) : 0;
        return 0;
}

/* "a/b": makes a, then copies b into it. */
static int copy_path(Copy *c, int from_dir, int to_dir, const char *path)
{
        _cleanup_close_ int from = -EBADF, to = -EBADF;
        const char *slash = strchr(path, '/');
        char parent[64];
        int r;

        if (!slash)
                return copy_entry(c, from_dir, to_dir, path, 0);
        r = str_printf(parent, sizeof(parent), "%.*s", (int) (slash - path), path);
        if (r < 0)
                return r;
        from = openat(from_dir, parent, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (from < 0)
                return errno == ENOENT || errno == ENOTDIR || errno == ELOOP ? 0 : neg_errno();
        if (mkdirat(to_dir, parent, 0755) < 0 && errno != EEXIST)
                return neg_errno();
        to = openat(to_dir, parent, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (to < 0)
                return neg_errno();
        return copy_entry(c, from, to, slash + 1, 1);
}

static int copy_versioned(Copy *c, int to_fd)
{
        const struct dirent *e;
        DIR *d = opendir("/etc");
        int r = 0;

        if (!d)
                return neg_errno();
        while (r == 0 && (e = readdir(d))) {
                if (etc_has_copied_prefix(e->d_name))
                        r = copy_entry(c, dirfd(d), to_fd, e->d_name, 0);
        }
        (void) closedir(d);
        return r;
}

static int write_own(int to_fd)
{
        for (size_t i = 0; etc_links[i][0]; i++) {
                if (symlinkat(etc_links[i][1], to_fd, etc_links[i][0]) < 0)
                        return neg_errno();
        }
        for (size_t i = 0; i < ELEMENTSOF(own_files); i++) {
                _cleanup_close_ int fd = openat(to_fd, own_files[i][0],
                                                O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
                int r;

                if (fd < 0)
                        return neg_errno();
                r = fd_write_all(fd, own_files[i][1], strlen(own_files[i][1]));
                if (r < 0)
                        return r;
        }
        return 0;
}

int etc_copy(int to_fd)
{
        _cleanup_close_ int etc = open("/etc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        Copy c = { 0 };
        int r;

        if (etc < 0)
                return neg_errno();
        /* First, so that no name of the host takes the place of ours. */
        r = write_own(to_fd);
        for (size_t i = 0; r == 0 && etc_copied[i]; i++)
                r = copy_path(&c, etc, to_fd, etc_copied[i]);
        if (r < 0)
                return r;
        return copy_versioned(&c, to_fd);
}
