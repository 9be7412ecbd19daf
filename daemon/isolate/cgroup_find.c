#include "daemon/isolate/cgroup_find.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

#define FIND_FILE_MAX    (1024U * 1024U)
#define FIND_DISK_PREFIX "/sys/block"

static int read_path(const char *path, char **ret_text)
{
        _cleanup_close_ int fd = -EBADF;
        size_t size;

        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return neg_errno();
        return fd_read_all(fd, FIND_FILE_MAX, ret_text, &size);
}

/* The line of the v2 hierarchy is "0::PATH". */
static int take_v2_line(char *text, char *path, size_t size)
{
        char *rest = NULL;

        for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
                if (str_has_prefix(line, "0::/"))
                        return str_copy(path, size, line + 3);
        }
        return -ENOENT;
}

int cgroup_find_of_process(pid_t pid, char *path, size_t size)
{
        _cleanup_free_ char *text = NULL;
        char name[64];
        int r;

        r = str_printf(name, sizeof(name), "/proc/%d/cgroup", (int) pid);
        if (r >= 0)
                r = read_path(name, &text);
        if (r == -ENOENT)
                return -ESRCH;
        if (r < 0)
                return r;
        return take_v2_line(text, path, size);
}

/* The n-th word of a line of mountinfo, cut out of a copy. */
static int take_word(const char *line, unsigned n, char *word, size_t size)
{
        for (; n > 0; n--) {
                line += strcspn(line, " ");
                line += strspn(line, " ");
        }
        return str_printf(word, size, "%.*s", (int) strcspn(line, " "), line);
}

/* mountinfo: "ID PARENT DEV ROOT MOUNTPOINT OPTIONS ... - TYPE ..."; a group is seen where the mount's root
 * is one of its ancestors. */
static int open_through(const char *line, const char *path, int *ret_fd)
{
        char root[PATH_MAX], mount_point[PATH_MAX], full[PATH_MAX];
        _cleanup_close_ int fd = -EBADF;
        struct statfs fs;
        size_t n;
        int r;

        r = take_word(line, 3, root, sizeof(root));
        if (r >= 0)
                r = take_word(line, 4, mount_point, sizeof(mount_point));
        if (r < 0)
                return r;
        n = str_equal(root, "/") ? 0 : strlen(root);
        if (strncmp(path, root, n) != 0 || (path[n] != '/' && path[n] != '\0'))
                return -ENOENT;
        r = str_printf(full, sizeof(full), "%s%s", mount_point, path + n);
        if (r < 0)
                return r;
        fd = open(full, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0 || fstatfs(fd, &fs) < 0)
                return neg_errno();
        if (fs.f_type != CGROUP2_SUPER_MAGIC)
                return -ENOENT;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int cgroup_find_own(char *path, size_t size, int *ret_fd)
{
        _cleanup_free_ char *text = NULL;
        char *rest = NULL;
        int r;

        r = cgroup_find_of_process(getpid(), path, size);
        if (r < 0)
                return r;
        r = read_path("/proc/self/mountinfo", &text);
        if (r < 0)
                return r;
        for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
                if (strstr(line, " - cgroup2 ") && open_through(line, path, ret_fd) >= 0)
                        return 0;
        }
        return -ENOENT;
}

static int limit_device(int cgroup_fd, const char *name, uint64_t bytes_per_sec)
{
        _cleanup_free_ char *device = NULL;
        _cleanup_close_ int fd = -EBADF;
        char path[PATH_MAX], text[128];
        int r;

        r = str_printf(path, sizeof(path), FIND_DISK_PREFIX "/%s/dev", name);
        if (r >= 0)
                r = read_path(path, &device);
        if (r < 0)
                return r;
        device[strcspn(device, "\n")] = '\0';
        r = str_printf(text, sizeof(text), "%s rbps=%llu wbps=%llu", device,
                       (unsigned long long) bytes_per_sec, (unsigned long long) bytes_per_sec);
        if (r < 0)
                return r;
        fd = openat(cgroup_fd, "io.max", O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
                return neg_errno();
        return fd_write_all(fd, text, strlen(text));
}

int cgroup_limit_devices(int cgroup_fd, uint64_t bytes_per_sec)
{
        DIR *directory = opendir(FIND_DISK_PREFIX);
        int result = 0;

        if (!directory)
                return neg_errno();
        for (struct dirent *e = readdir(directory); e && result >= 0; e = readdir(directory)) {
                if (e->d_name[0] == '.' || str_has_prefix(e->d_name, "loop") ||
                    str_has_prefix(e->d_name, "ram"))
                        continue;
                result = limit_device(cgroup_fd, e->d_name, bytes_per_sec);
        }
        (void) closedir(directory);
        return result;
}
