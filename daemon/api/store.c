#include "daemon/api/store.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

#define NEW_NAME     "new"
#define ASIDE_SUFFIX ".damaged"

int store_open(Api *api, const char *path)
{
        api->store_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return api->store_fd < 0 ? neg_errno() : 0;
}

int store_put(Buf *b, const Json *line)
{
        int r = json_format(line, b);

        return r < 0 ? r : buf_put(b, "\n", 1);
}

int store_write(const Api *api, const char *name, Buf *b)
{
        _cleanup_close_ int fd = -EBADF;
        int r;

        if (unlinkat(api->store_fd, NEW_NAME, 0) < 0 && errno != ENOENT)
                return neg_errno();
        fd = openat(api->store_fd, NEW_NAME, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return neg_errno();
        r = fd_write_all(fd, buf_front(b), buf_size(b));
        if (r < 0)
                return r;
        return renameat(api->store_fd, NEW_NAME, api->store_fd, name) < 0 ? neg_errno() : 0;
}

int store_append(const Api *api, const char *name, const Json *line)
{
        Buf b = BUF_INIT(STORE_FILE_MAX);
        _cleanup_close_ int fd = -EBADF;
        int r;

        fd = openat(api->store_fd, name, O_WRONLY | O_APPEND | O_NOFOLLOW | O_CLOEXEC);
        r = fd < 0 ? neg_errno() : store_put(&b, line);
        if (r >= 0)
                r = fd_write_all(fd, buf_front(&b), buf_size(&b));
        buf_done(&b);
        return r;
}

void store_remove(const Api *api, const char *name)
{
        if (unlinkat(api->store_fd, name, 0) < 0 && errno != ENOENT)
                (void) log_warning(neg_errno(), "cannot remove %s from the store of uid %u", name,
                                   api->start.identity.uid);
}

/* The one that was set aside before under the same name makes room. */
static void set_aside(const Api *api, const char *name, int error)
{
        char aside[STORE_NAME_MAX + sizeof(ASIDE_SUFFIX)];

        (void) log_error(error, "%s in the store of uid %u is damaged and set aside as %s" ASIDE_SUFFIX,
                         name, api->start.identity.uid, name);
        if (str_printf(aside, sizeof(aside), "%s" ASIDE_SUFFIX, name) < 0 ||
            renameat(api->store_fd, name, api->store_fd, aside) < 0)
                store_remove(api, name);
}

static int read_lines(char *text, size_t size, StoreLine callback, void *userdata)
{
        char *end = text + size;
        size_t number = 0;

        for (char *at = text, *newline; (newline = memchr(at, '\n', (size_t) (end - at)));
             at = newline + 1) {
                _cleanup_json_ Json *line = NULL;
                size_t n = (size_t) (newline - at);
                int r;

                r = json_parse(at, n, /* string_max= */ n, &line);
                if (r >= 0)
                        r = callback(userdata, number++, line);
                if (r < 0)
                        return r;
        }
        return number > 0 ? 0 : -EBADMSG;
}

int store_read(const Api *api, const char *name, StoreLine callback, void *userdata)
{
        _cleanup_close_ int fd = -EBADF;
        _cleanup_free_ char *text = NULL;
        struct stat st;
        size_t size;
        int r = 0;

        fd = openat(api->store_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (fd < 0 && errno == ENOENT)
                return -ENOENT;
        if (fd < 0 || fstat(fd, &st) < 0)
                r = neg_errno();
        else if (!S_ISREG(st.st_mode))
                r = -EINVAL;
        if (r >= 0)
                r = fd_read_all(fd, STORE_FILE_MAX, &text, &size);
        if (r >= 0)
                r = read_lines(text, size, callback, userdata);
        /* Without memory nothing is known about the file. */
        if (r < 0 && r != -ENOMEM)
                set_aside(api, name, r);
        return r;
}

int store_each(Api *api, StoreVisit visit)
{
        int copy = fcntl(api->store_fd, F_DUPFD_CLOEXEC, 3);
        DIR *directory = copy < 0 ? NULL : fdopendir(copy);

        if (!directory) {
                (void) fd_close(copy);
                return neg_errno();
        }
        for (struct dirent *e = readdir(directory); e; e = readdir(directory))
                visit(api, e->d_name);
        (void) closedir(directory);
        return 0;
}
