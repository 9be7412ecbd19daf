#include "daemon/launcher/home.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

/*
 * What lies below a home belongs to sessions and is hostile: it is never opened, walked or removed here. The
 * directories above it are root's alone, so a name in them is what we made of it.
 */

#define HOMES_PER_USER_MAX 4096U
#define FLAGS              (O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

static int make_and_open(int parent_fd, const char *name, int *ret_fd)
{
        int fd;

        if (mkdirat(parent_fd, name, 0700) < 0 && errno != EEXIST)
                return neg_errno();
        fd = openat(parent_fd, name, O_PATH | FLAGS);
        if (fd < 0)
                return neg_errno();
        *ret_fd = fd;
        return 0;
}

int homes_open(int state_fd, int *ret_fd)
{
        return make_and_open(state_fd, "homes", ret_fd);
}

/* With "." and "..". */
static int count_entries(int parent_fd, unsigned *ret)
{
        DIR *d;
        int fd;

        fd = openat(parent_fd, ".", O_RDONLY | FLAGS);
        if (fd < 0)
                return neg_errno();
        d = fdopendir(fd);
        if (!d) {
                (void) fd_close(fd);
                return -ENOMEM;
        }
        *ret = 0;
        while (*ret < HOMES_PER_USER_MAX + 2 && readdir(d))
                (*ret)++;
        (void) closedir(d);
        return 0;
}

/* 1: there are too many. */
static int make_home(int parent_fd, const char *name, uint32_t uid, uint32_t gid)
{
        unsigned n;
        int r;

        r = count_entries(parent_fd, &n);
        if (r < 0)
                return r;
        if (n >= HOMES_PER_USER_MAX + 2)
                return 1;
        if (mkdirat(parent_fd, name, 0700) < 0)
                return neg_errno();
        if (fchownat(parent_fd, name, uid, gid, AT_SYMLINK_NOFOLLOW) < 0) {
                r = neg_errno();
                (void) unlinkat(parent_fd, name, AT_REMOVEDIR);
                return r;
        }
        return 0;
}

static int open_home(int parent_fd, const char *name, uint32_t uid, int *ret_fd)
{
        _cleanup_close_ int fd = openat(parent_fd, name, O_PATH | FLAGS);
        struct stat st;

        if (fd < 0 || fstat(fd, &st) < 0)
                return neg_errno();
        /* Made, and not given away: the daemon ended between the two. Nobody was ever in it. */
        if (st.st_uid == 0 && uid != 0 && unlinkat(parent_fd, name, AT_REMOVEDIR) >= 0)
                return -ENOENT;
        if (st.st_uid != uid)
                return -EPERM;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int home_open(const Launcher *l, uint32_t uid, uint32_t gid, const uint8_t key[PRIV_HOME_KEY_SIZE],
              int *ret_fd)
{
        char name[2 * PRIV_HOME_KEY_SIZE + 1], folder[16];
        _cleanup_close_ int parent = -EBADF;
        int r;

        str_hex(name, key, PRIV_HOME_KEY_SIZE);
        r = str_printf(folder, sizeof(folder), "%u", uid);
        if (r >= 0)
                r = make_and_open(l->homes_fd, folder, &parent);
        if (r < 0)
                return r;
        r = open_home(parent, name, uid, ret_fd);
        if (r != -ENOENT)
                return r;
        r = make_home(parent, name, uid, gid);
        return r != 0 ? r : open_home(parent, name, uid, ret_fd);
}
