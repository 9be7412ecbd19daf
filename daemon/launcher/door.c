#include "daemon/launcher/door.h"

#include <endian.h>
#include <errno.h>
#include <linux/posix_acl_xattr.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/xattr.h>

#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

/* More users at once are turned away one connection after the other. */
#define DOOR_USERS_MAX 64U

#define DOOR_LIST "system.posix_acl_access"

/* The kernel's tags of entries (acl(5)); no header of it for programs has them. */
#define TAG_USER_OBJ  0x01
#define TAG_USER      0x02
#define TAG_GROUP_OBJ 0x04
#define TAG_MASK      0x10
#define TAG_OTHER     0x20

typedef struct Shut {
        uint64_t until_usec;
        uint32_t uid;
} Shut;

struct Door {
        Shut shut[DOOR_USERS_MAX];
        unsigned n_shut;
        LoopTimer *timer;
        char path[sizeof("/proc/self/fd//") + 10 + sizeof(((struct sockaddr_un *) NULL)->sun_path)];
        bool has_lists;
};

/* Root's entry and three more are not of users that are shut out. */
typedef struct List {
        struct posix_acl_xattr_header header;
        struct posix_acl_xattr_entry entries[DOOR_USERS_MAX + 5];
} List;

static struct posix_acl_xattr_entry entry(uint16_t tag, uint16_t permissions, uint32_t id)
{
        return (struct posix_acl_xattr_entry){ .e_tag = htole16(tag),
                                               .e_perm = htole16(permissions),
                                               .e_id = htole32(id) };
}

/* An entry for a user comes before all that grant, whatever the user's groups. For the rest the file's mode
 * stays what it is. That of root, whom no list refuses, says that the list is ours. */
static int write_list(const Door *d)
{
        List list = { .header.a_version = htole32(POSIX_ACL_XATTR_VERSION) };
        struct stat st;
        unsigned n = 0;

        if (lstat(d->path, &st) < 0)
                return neg_errno();
        list.entries[n++] = entry(TAG_USER_OBJ, (st.st_mode >> 6) & 07, UINT32_MAX);
        list.entries[n++] = entry(TAG_USER, 0, 0);
        for (unsigned i = 0; i < d->n_shut; i++)
                list.entries[n++] = entry(TAG_USER, 0, d->shut[i].uid);
        list.entries[n++] = entry(TAG_GROUP_OBJ, (st.st_mode >> 3) & 07, UINT32_MAX);
        list.entries[n++] = entry(TAG_MASK, (st.st_mode >> 3) & 07, UINT32_MAX);
        list.entries[n++] = entry(TAG_OTHER, st.st_mode & 07, UINT32_MAX);
        if (lsetxattr(d->path, DOOR_LIST, &list, sizeof(list.header) + n * sizeof(list.entries[0]), 0) < 0)
                return neg_errno();
        return 0;
}

static bool is_ours(const List *list, size_t size)
{
        const struct posix_acl_xattr_entry mark = entry(TAG_USER, 0, 0);

        return size > sizeof(list->header) + 2 * sizeof(mark) &&
               memcmp(&list->entries[1], &mark, sizeof(mark)) == 0;
}

/* -EEXIST: there is one, an administrator's. */
static int check_no_list(const Door *d, bool may_be_ours)
{
        List list;
        ssize_t size = lgetxattr(d->path, DOOR_LIST, &list, sizeof(list));

        if (size < 0)
                return errno == ENODATA ? 0 : errno == ERANGE ? -EEXIST : neg_errno();
        if (!may_be_ours || !is_ours(&list, (size_t) size))
                return -EEXIST;
        return lremovexattr(d->path, DOOR_LIST) < 0 ? neg_errno() : 0;
}

static void open_for_all(const Door *d)
{
        if (lremovexattr(d->path, DOOR_LIST) < 0 && errno != ENODATA)
                (void) log_error(neg_errno(),
                                 "%s: cannot take its access control list away; setfacl -b does it",
                                 d->path);
}

static void on_over(void *userdata)
{
        Door *d = userdata;
        uint64_t now = clock_monotonic_usec(), next = UINT64_MAX;
        unsigned n = 0;

        for (unsigned i = 0; i < d->n_shut; i++) {
                if (d->shut[i].until_usec <= now)
                        continue;
                next = MIN_OF(next, d->shut[i].until_usec);
                d->shut[n++] = d->shut[i];
        }
        d->n_shut = n;
        if (n == 0) {
                open_for_all(d);
                return;
        }
        if (write_list(d) < 0 || loop_timer_set(d->timer, next - now) < 0) {
                d->n_shut = 0;
                open_for_all(d);
        }
}

/* Ours was bound in the runtime directory as the working directory, systemd's has a path. */
static bool find_path(const Launcher *l, Door *d)
{
        struct sockaddr_un address = { 0 };
        socklen_t size = sizeof(address) - 1;

        if (getsockname(l->listen_fd, (struct sockaddr *) &address, &size) < 0 ||
            address.sun_path[0] == '\0')
                return false;
        if (address.sun_path[0] == '/')
                return str_printf(d->path, sizeof(d->path), "%s", address.sun_path) >= 0;
        return str_printf(d->path, sizeof(d->path), "/proc/self/fd/%d/%s", l->runtime_fd,
                          address.sun_path) >= 0;
}

int door_new(Launcher *l, Door **ret)
{
        Door *d = calloc(1, sizeof(*d));
        int r;

        if (!d)
                return -ENOMEM;
        r = loop_timer_new(l->loop, on_over, d, &d->timer);
        if (r < 0) {
                free(d);
                return r;
        }
        r = find_path(l, d) ? check_no_list(d, true) : -EOPNOTSUPP;
        d->has_lists = r >= 0;
        if (r < 0)
                log_info("no access control lists for the socket (%s): who floods it is turned away by us",
                         strerror(-r));
        *ret = d;
        return 0;
}

Door *door_free(Door *d)
{
        if (!d)
                return NULL;
        if (d->n_shut > 0)
                open_for_all(d);
        d->timer = loop_timer_free(d->timer);
        free(d);
        return NULL;
}

static bool is_shut(const Door *d, uint32_t uid)
{
        for (unsigned i = 0; i < d->n_shut; i++)
                if (d->shut[i].uid == uid)
                        return true;
        return false;
}

bool door_shut(Door *d, uint32_t uid, uint64_t until_usec)
{
        uint64_t now = clock_monotonic_usec();

        if (!d || !d->has_lists)
                return false;
        /* Connections that were made before stand in the queue still. */
        if (is_shut(d, uid))
                return true;
        if (d->n_shut == ELEMENTSOF(d->shut) || (d->n_shut == 0 && check_no_list(d, false) < 0))
                return false;
        d->shut[d->n_shut++] = (Shut){ .until_usec = until_usec, .uid = uid };
        if (d->n_shut == 1 && loop_timer_set(d->timer, until_usec - MIN_OF(now, until_usec)) < 0) {
                d->n_shut = 0;
                return false;
        }
        if (write_list(d) < 0) {
                d->n_shut--;
                return false;
        }
        return true;
}
