#include <errno.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/init/setup.h"
#include "daemon/isolate/kernel.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

/*
 * What is shown brings along what is mounted below it (AT_RECURSIVE). source.c judges the top of each tree;
 * here the whole table is read: a kernel interface below a workspace (the /proc and /sys of somebody's
 * chroot) is detached from the session, and all the others must have the attributes that every mount of a
 * session has. A path is known by the kernel's number of its mount, since the directories above it may be
 * renamed on the host at any moment.
 */

#define TABLE_MAX  (8U << 20)
#define ROUNDS_MAX 256U

typedef struct Line {
        const char *id;
        char *path; /* unescaped */
        const char *options;
        const char *type;
} Line;

static const char *const refused_types[] = {
        "proc",   "sysfs",       "cgroup",     "cgroup2",  "devpts", "devtmpfs",  "debugfs", "tracefs",
        "bpf",    "pstore",      "securityfs", "efivarfs", "nsfs",   "selinuxfs", "smackfs", "binder",
        "autofs", "binfmt_misc", "configfs",   "fusectl",  "mqueue", "resctrl",   "nfsd",    "rpc_pipefs",
};

/* Spaces and the like stand there as \040. */
static void unescape(char *s)
{
        char *to = s;

        for (; *s; s++) {
                if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' &&
                    s[3] >= '0' && s[3] <= '7') {
                        *to++ = (char) ((s[1] - '0') * 64 + (s[2] - '0') * 8 + (s[3] - '0'));
                        s += 3;
                } else
                        *to++ = *s;
        }
        *to = '\0';
}

static bool has_option(const char *options, const char *name)
{
        size_t n = strlen(name);

        for (const char *p = options; *p; p += *p == ',') {
                size_t length = strcspn(p, ",");

                if (length == n && memcmp(p, name, n) == 0)
                        return true;
                p += length;
        }
        return false;
}

/* "ID PARENT MAJOR:MINOR ROOT PATH OPTIONS [TAG...] - TYPE SOURCE MORE", cut to pieces. */
static int parse_line(char *text, Line *ret)
{
        char *fields[6], *rest = text, *type;

        for (size_t i = 0; i < ELEMENTSOF(fields); i++) {
                fields[i] = strsep(&rest, " ");
                if (!rest)
                        return -EBADMSG;
        }
        type = str_has_prefix(rest, "- ") ? rest + 2 : strstr(rest, " - ");
        if (!type)
                return -EBADMSG;
        if (type != rest + 2)
                type += 3;
        type[strcspn(type, " ")] = '\0';
        *ret = (Line){ .id = fields[0], .path = fields[4], .options = fields[5], .type = type };
        unescape(ret->path);
        return 0;
}

static bool is_ours(const Line *l)
{
        return (str_equal(l->type, "proc") &&
                (str_equal(l->path, "/proc") || str_has_prefix(l->path, "/proc/"))) ||
               (str_equal(l->type, "devpts") && str_equal(l->path, "/dev/pts"));
}

static bool is_refused(const Line *l)
{
        for (size_t i = 0; i < ELEMENTSOF(refused_types); i++) {
                if (str_equal(l->type, refused_types[i]))
                        return !is_ours(l);
        }
        return false;
}

static int detach_by_fd(const Line *l, int fd)
{
        struct statx st;
        char path[32], id[24];
        int r;

        if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &st) < 0)
                return neg_errno();
        r = str_printf(id, sizeof(id), "%llu", (unsigned long long) st.stx_mnt_id);
        if (r < 0)
                return r;
        if (!(st.stx_mask & STATX_MNT_ID) || !str_equal(id, l->id))
                return -EAGAIN;
        r = str_printf(path, sizeof(path), "/proc/self/fd/%d", fd);
        if (r < 0)
                return r;
        return kernel_umount2(path, MNT_DETACH) < 0 ? neg_errno() : 0;
}

static int detach(Setup *s, const Line *l)
{
        _cleanup_close_ int fd = -EBADF;
        int r;

        r = identity_walk_as_session(s);
        if (r < 0)
                return r;
        fd = kernel_openat2(AT_FDCWD, l->path, O_PATH | O_CLOEXEC,
                            RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
        r = fd < 0 ? neg_errno() : 0;
        if (identity_walk_as_root(s) < 0)
                return -EPERM;
        return r < 0 ? r : detach_by_fd(l, fd);
}

/* 1: something was detached, so the table is another. */
static int look_at(Setup *s, char *text)
{
        Line l;
        int r;

        r = parse_line(text, &l);
        if (r < 0)
                return setup_fail(s, r, "the table of mounts");
        if (is_refused(&l)) {
                r = detach(s, &l);
                return r < 0 ? setup_fail(s, r, "%s is mounted at %s and cannot be taken away", l.type,
                                          l.path)
                             : 1;
        }
        if (!has_option(l.options, "nosuid") ||
            (!has_option(l.options, "nodev") && !str_equal(l.path, "/dev") &&
             !str_has_prefix(l.path, "/dev/")))
                return setup_fail(s, -ENOTRECOVERABLE, "%s may have devices or setuid programs", l.path);
        return 0;
}

/* From the last line: what is mounted over something else comes behind it. */
static int look_at_table(Setup *s)
{
        _cleanup_close_ int fd = -EBADF;
        _cleanup_free_ char *text = NULL;
        size_t size;
        int r;

        fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return setup_fail(s, neg_errno(), "the table of mounts");
        r = fd_read_all(fd, TABLE_MAX, &text, &size);
        if (r < 0)
                return setup_fail(s, r, "the table of mounts");
        while (r == 0 && text[0] != '\0') {
                char *line;

                text[strlen(text) - 1] = '\0';
                line = strrchr(text, '\n');
                r = look_at(s, line ? line + 1 : text);
                if (!line)
                        break;
                line[1] = '\0';
        }
        return r;
}

int submounts_check(Setup *s)
{
        setup_step(s, "submounts");
        if (!SETUP_CHECKS(s, LAYER_MOUNTS))
                return 0;
        for (unsigned i = 0; i < ROUNDS_MAX; i++) {
                int r = look_at_table(s);

                if (r <= 0)
                        return r;
        }
        return setup_fail(s, -E2BIG, "too many kernel interfaces are mounted below what is shown");
}
