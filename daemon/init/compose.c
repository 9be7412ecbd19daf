#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "daemon/init/setup.h"
#include "daemon/isolate/kernel.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

/*
 * A directory of the host without what is hidden in it. A mask would go when the host renames another file
 * over the one that it lies on, and there is none for what does not exist yet. So the directory is put
 * together anew in memory: what is not hidden is bound there, entry by entry; a directory with something
 * hidden below it, whether that exists or not, is put together in the same way. What appears in such a
 * directory later does not show.
 */

#define PIECES_MAX 8192U
#define DEPTH_MAX  16U

struct Piece {
        char *path;
        char *link; /* what a symbolic link says; NULL: none */
        int fd;     /* detached mount; -EBADF: a link, or a directory that is put together */
        bool is_directory;
        bool is_mask; /* what is hidden lies here in truth */
        int made_fd;  /* a directory that was made for it; -EBADF: none */
        mode_t mode;  /* of the one that it stands for, as the next two */
        uid_t uid;
        gid_t gid;
};

/* What a session has of its own: the host's does not show there. */
static const char *const own_paths[] = {
        "/proc", "/sys",        "/dev",     "/run",     "/tmp",      "/usr",    "/opt",
        "/bin",  "/sbin",       "/lib",     "/lib32",   "/lib64",    "/libx32", "/home",
        "/root", "/lost+found", "/var/tmp", "/var/run", "/var/lock",
};

static bool is_or_below(const char *path, const char *top)
{
        size_t n = strlen(top);

        return strncmp(path, top, n) == 0 && (path[n] == '\0' || path[n] == '/');
}

static bool is_hidden(const Setup *s, const char *path)
{
        for (uint32_t i = 0; i < s->plan.header->n_mounts; i++) {
                const PlanMount *m = &s->plan.mounts[i];

                if (m->type == PLAN_HIDE && str_equal(plan_string(&s->plan, m->target), path))
                        return true;
        }
        return false;
}

static bool is_own(const char *path)
{
        for (size_t i = 0; i < ELEMENTSOF(own_paths); i++) {
                if (str_equal(own_paths[i], path))
                        return true;
        }
        return false;
}

/* Something below it is hidden, or is the session's own: it cannot be shown as it is. */
static bool is_composed(const Setup *s, const char *path)
{
        for (uint32_t i = 0; i < s->plan.header->n_mounts; i++) {
                const PlanMount *m = &s->plan.mounts[i];

                if (m->type == PLAN_HIDE && is_or_below(plan_string(&s->plan, m->target), path))
                        return true;
        }
        for (size_t i = 0; i < ELEMENTSOF(own_paths); i++) {
                if (is_or_below(own_paths[i], path))
                        return true;
        }
        return str_equal(path, "/etc");
}

static int add_piece(Setup *s, const char *path, const char *link, int take_fd, bool is_directory)
{
        Piece p = { .fd = take_fd, .made_fd = -EBADF, .is_directory = is_directory };
        int r;

        r = s->n_pieces < PIECES_MAX ? str_dup(path, &p.path) : -E2BIG;
        if (r >= 0 && link)
                r = str_dup(link, &p.link);
        if (r >= 0 && s->n_pieces % 256 == 0) {
                Piece *pieces = reallocarray(s->pieces, s->n_pieces + 256, sizeof(*pieces));

                r = pieces ? 0 : -ENOMEM;
                if (pieces)
                        s->pieces = pieces;
        }
        if (r < 0) {
                (void) fd_close(p.fd);
                free(p.path);
                free(p.link);
                return r;
        }
        s->pieces[s->n_pieces++] = p;
        return 0;
}

static int add_link(Setup *s, int directory_fd, const char *name, const char *path)
{
        char target[PLAN_PATH_MAX];
        ssize_t n = readlinkat(directory_fd, name, target, sizeof(target) - 1);

        if (n < 0)
                return neg_errno();
        target[n] = '\0';
        return add_piece(s, path, target, -EBADF, /* is_directory= */ false);
}

/* What the caller cannot open, and what is neither a file nor a directory, does not show. */
static bool may_pass_over(int r)
{
        return r == -ENOENT || r == -EACCES || r == -EPERM || r == -ELOOP || r == -ENOTSUP ||
               r == -ENOTDIR || r == -EAGAIN || r == -EIO || r == -ENODEV || r == -ENXIO;
}

static int add_bind(Setup *s, const char *path)
{
        bool is_directory;
        int fd, r;

        r = source_clone(s, path, &fd, &is_directory);
        return r < 0 ? r : add_piece(s, path, NULL, fd, is_directory);
}

static int compose(Setup *s, const char *path, unsigned depth);

static int add_entry(Setup *s, int directory_fd, const char *parent, const char *name, unsigned depth)
{
        char path[PLAN_PATH_MAX];
        struct stat st;
        int r;

        r = str_printf(path, sizeof(path), "%s/%s", str_equal(parent, "/") ? "" : parent, name);
        if (r < 0 || is_hidden(s, path) || is_own(path))
                return 0;
        if (fstatat(directory_fd, name, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0)
                r = neg_errno();
        else if (S_ISLNK(st.st_mode))
                r = add_link(s, directory_fd, name, path);
        else if (S_ISDIR(st.st_mode) && is_composed(s, path))
                r = compose(s, path, depth + 1);
        else
                r = add_bind(s, path);
        return may_pass_over(r) ? 0 : r;
}

/* The directory keeps the rights that it had: a session may have fewer groups than its caller, who opens all
 * of this. What an access list says of others than the owning group is not known from the mode. */
static int add_directory(Setup *s, const char *path, int fd)
{
        struct stat st;
        int r;

        if (fstat(fd, &st) < 0)
                return neg_errno();
        r = add_piece(s, path, NULL, -EBADF, /* is_directory= */ true);
        if (r == 0) {
                Piece *p = &s->pieces[s->n_pieces - 1];

                p->mode = st.st_mode & 01777;
                p->uid = st.st_uid;
                p->gid = st.st_gid;
                if (fgetxattr(fd, "system.posix_acl_access", NULL, 0) > 0)
                        p->mode &= ~(mode_t) 070;
        }
        return r;
}

/* Opened as the caller: who may not list it has nothing of it. */
static int compose(Setup *s, const char *path, unsigned depth)
{
        const struct dirent *e;
        DIR *d = NULL;
        int fd, r;

        if (depth > DEPTH_MAX)
                return -ELOOP;
        r = source_open_directory(s, path, &fd);
        if (r < 0)
                return r;
        d = fdopendir(fd);
        if (!d) {
                (void) fd_close(fd);
                return -ENOMEM;
        }
        r = depth > 0 ? add_directory(s, path, dirfd(d)) : 0;
        while (r >= 0 && (e = readdir(d))) {
                if (str_equal(e->d_name, ".") || str_equal(e->d_name, ".."))
                        continue;
                r = identity_lower(s);
                if (r >= 0)
                        r = add_entry(s, dirfd(d), path, e->d_name, depth);
        }
        (void) closedir(d);
        return r < 0 ? r : 0;
}

int compose_open(Setup *s, const char *path)
{
        return compose(s, path, 0);
}

/* A link among the caller's own directories may lead to a place that is shown. */
static int add_mask(Setup *s, const char *path)
{
        _cleanup_close_ int fd = open(path, O_PATH | O_CLOEXEC);
        char link[32], target[PLAN_PATH_MAX];
        ssize_t n;
        int r;

        /* What the caller cannot reach now is nothing to hide; whatever else fails is not known to be so. */
        if (fd < 0 && (errno == ENOENT || errno == ENOTDIR || errno == EACCES || errno == ELOOP))
                return 0;
        if (fd < 0)
                return neg_errno();
        r = str_printf(link, sizeof(link), "/proc/self/fd/%d", fd);
        if (r < 0)
                return r;
        n = readlink(link, target, sizeof(target) - 1);
        if (n < 0)
                return neg_errno();
        target[n] = '\0';
        if (str_equal(target, path))
                return 0;
        r = add_piece(s, target, NULL, -EBADF, /* is_directory= */ false);
        if (r == 0)
                s->pieces[s->n_pieces - 1].is_mask = true;
        return r;
}

int compose_resolve(Setup *s)
{
        int r = 0;

        if (s->n_pieces == 0)
                return 0;
        r = identity_lower(s);
        for (uint32_t i = 0; r == 0 && i < s->plan.header->n_mounts; i++) {
                const PlanMount *m = &s->plan.mounts[i];

                if (m->type == PLAN_HIDE && (m->flags & PLAN_FOLLOW))
                        r = add_mask(s, plan_string(&s->plan, m->target));
        }
        return r;
}

int compose_mask(Setup *s)
{
        int r = 0;

        for (size_t i = 0; r == 0 && i < s->n_pieces; i++) {
                if (s->pieces[i].is_mask)
                        r = target_mask(s, s->pieces[i].path, UINT32_MAX);
                if (r == -ENOENT)
                        r = 0;
        }
        return r;
}

/* ---- in the session's own mount namespace ---- */

/* The session's /etc is the template's, in which nothing can be made: its entries are taken over into a new
 * one, and stand before those of the host. */
static int take_over_entry(Setup *s, int from_fd, const char *name)
{
        _cleanup_close_ int mount = -EBADF;
        char path[PLAN_PATH_MAX], target[PLAN_PATH_MAX];
        struct stat st;
        ssize_t n;
        int r;

        r = str_printf(path, sizeof(path), "/etc/%s", name);
        if (r < 0 || fstatat(from_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return r < 0 ? r : neg_errno();
        if (S_ISLNK(st.st_mode)) {
                n = readlinkat(from_fd, name, target, sizeof(target) - 1);
                if (n < 0)
                        return neg_errno();
                target[n] = '\0';
                return target_link(s, target, path);
        }
        mount = kernel_open_tree(from_fd, name, OPEN_TREE_CLONE);
        return mount < 0 ? neg_errno() : target_attach(s, mount, path, S_ISDIR(st.st_mode));
}

static int renew_etc(Setup *s)
{
        int fd = open("/etc", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r;
        const struct dirent *e;
        DIR *d;

        if (fd < 0)
                return neg_errno();
        d = fdopendir(fd);
        if (!d) {
                (void) fd_close(fd);
                return -ENOMEM;
        }
        r = target_attach_sealed(s, "/etc", "0755", 16U << 20);
        while (r >= 0 && (e = readdir(d))) {
                if (!str_equal(e->d_name, ".") && !str_equal(e->d_name, ".."))
                        r = take_over_entry(s, dirfd(d), e->d_name);
        }
        (void) closedir(d);
        return r < 0 ? r : 0;
}

static int attach_piece(Setup *s, Piece *p)
{
        int r;

        if (p->link)
                r = target_link(s, p->link, p->path);
        else if (p->fd >= 0)
                r = target_attach(s, p->fd, p->path, p->is_directory);
        else
                r = target_make_directory(s, p->path, &p->made_fd);
        /* The file was removed on the host, or replaced as accounts are, since it was opened: the kernel
         * mounts no such thing. It does not show. */
        if (r == -ENOENT && p->fd >= 0)
                r = 0;
        p->fd = fd_close(p->fd);
        /* /etc has its own already; of the rest nothing is there. */
        return r == -EEXIST ? 0 : r;
}

int compose_attach(Setup *s)
{
        int r = 0;

        for (size_t i = 0; i < s->n_pieces; i++) {
                Piece *p = &s->pieces[i];

                if (p->is_mask)
                        continue;
                if (str_equal(p->path, "/etc"))
                        r = renew_etc(s);
                else if (!is_or_below(p->path, "/etc") || !target_exists(s, p->path))
                        r = attach_piece(s, p);
                if (r < 0)
                        return setup_fail(s, r, "%s", p->path);
        }
        return 0;
}

int compose_close(Setup *s)
{
        for (size_t i = 0; i < s->n_pieces; i++) {
                Piece *p = &s->pieces[i];
                char link[32];
                int r;

                if (p->made_fd < 0)
                        continue;
                r = str_printf(link, sizeof(link), "/proc/self/fd/%d", p->made_fd);
                if (r >= 0 && (fchownat(p->made_fd, "", p->uid, p->gid, AT_EMPTY_PATH) < 0 ||
                               chmod(link, p->mode) < 0))
                        r = neg_errno();
                p->made_fd = fd_close(p->made_fd);
                if (r < 0)
                        return setup_fail(s, r, "%s", p->path);
        }
        return 0;
}

void compose_done(Setup *s)
{
        for (size_t i = 0; i < s->n_pieces; i++) {
                (void) fd_close(s->pieces[i].fd);
                (void) fd_close(s->pieces[i].made_fd);
                free(s->pieces[i].path);
                free(s->pieces[i].link);
        }
        free(s->pieces);
        s->pieces = NULL;
        s->n_pieces = 0;
}
