#include <errno.h>
#include <string.h>

#include "daemon/init/matches.h"
#include "daemon/isolate/kernel.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

/*
 * Mount points. A path is walked name by name from the session's root and never through a link. Missing
 * directories are made only in file systems that are ours, never in what the user's directories show (no
 * litter); the root belongs to root, everything else is walked, and made, with the session user's rights.
 */

typedef struct Walk {
        int fd;
        dev_t device;
        bool is_directory;
} Walk;

/* Where the last mask was made. */
typedef struct MaskFolder {
        int fd;
        dev_t device;
        char path[PLAN_PATH_MAX];
} MaskFolder;

static bool device_is_ours(const Setup *s, dev_t device)
{
        for (size_t i = 0; i < s->n_devices; i++) {
                if (s->devices[i] == device)
                        return true;
        }
        return false;
}

static int open_child(int directory_fd, const char *name)
{
        int fd = kernel_openat2(directory_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC,
                                RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);

        return fd < 0 ? neg_errno() : fd;
}

static int make_child(const Setup *s, const Walk *w, const char *name, bool is_directory)
{
        _cleanup_close_ int file = -EBADF;

        if (!device_is_ours(s, w->device) && !home_holds(s, w->fd))
                return -ENOENT;
        if (is_directory)
                return mkdirat(w->fd, name, 0755) < 0 ? neg_errno() : 0;
        file = openat(w->fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
        return file < 0 ? neg_errno() : 0;
}

static int step_into(Setup *s, Walk *w, const char *name, bool make, bool is_directory)
{
        _cleanup_close_ int fd = -EBADF;
        struct stat st;
        int r;

        r = w->device == s->root_device ? identity_walk_as_root(s) : identity_walk_as_session(s);
        if (r < 0)
                return r;
        if (make && is_directory && home_holds(s, w->fd)) {
                /* What earlier sessions left there must not keep the next one from starting. */
                r = home_clear(w->fd, name);
                if (r < 0)
                        return r;
        }
        fd = open_child(w->fd, name);
        if (fd == -ENOENT && make) {
                r = make_child(s, w, name, is_directory);
                if (r < 0)
                        return r;
                fd = open_child(w->fd, name);
        }
        if (fd < 0)
                return fd;
        if (fstat(fd, &st) < 0)
                return neg_errno();
        if (S_ISLNK(st.st_mode))
                return -ELOOP;
        if (make && is_directory) {
                r = home_open_up(s, fd);
                if (r < 0)
                        return r;
        }
        (void) fd_close(w->fd);
        *w = (Walk){ .fd = TAKE_FD(fd), .device = st.st_dev, .is_directory = S_ISDIR(st.st_mode) };
        return 0;
}

/* The object at the path, of the kind given if it must be made. */
static int walk(Setup *s, const char *path, bool make, bool is_directory, Walk *ret)
{
        char copy[PLAN_PATH_MAX], *name = copy + 1;
        Walk w = { .device = s->root_device, .is_directory = true };
        int r;

        r = str_copy(copy, sizeof(copy), path);
        if (r < 0)
                return r;
        w.fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (w.fd < 0)
                return neg_errno();
        while (r == 0 && *name) {
                char *end = strchrnul(name, '/');
                bool is_last = *end == '\0';

                *end = '\0';
                r = step_into(s, &w, name, make, !is_last || is_directory);
                name = is_last ? end : end + 1;
        }
        if (identity_walk_as_root(s) < 0)
                r = -EPERM;
        if (r < 0) {
                (void) fd_close(w.fd);
                return r;
        }
        *ret = w;
        return 0;
}

int target_attach(Setup *s, int mount_fd, const char *path, bool is_directory)
{
        Walk w;
        int r;

        r = walk(s, path, /* make= */ true, is_directory, &w);
        if (r < 0)
                return r;
        if (kernel_move_mount(mount_fd, w.fd) < 0)
                r = neg_errno();
        (void) fd_close(w.fd);
        return r;
}

static int attach_memory_at(Setup *s, const char *path, const char *mode, uint64_t size_bytes, int *ret_fd)
{
        char size[32], uid[16], gid[16];
        const char *const options[] = { "source", "sandbox", "mode", mode, "size", size,
                                        "uid",    uid,       "gid",  gid,  NULL };
        _cleanup_close_ int fd = -EBADF;
        int r;

        r = str_printf(size, sizeof(size), "%llu", (unsigned long long) size_bytes);
        if (r == 0)
                r = str_printf(uid, sizeof(uid), "%u", s->start.uid);
        if (r == 0)
                r = str_printf(gid, sizeof(gid), "%u", s->start.gid);
        if (r == 0)
                r = root_tmpfs_new(s, options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, &fd);
        if (r == 0)
                r = target_attach(s, fd, path, /* is_directory= */ true);
        if (r < 0)
                return setup_fail(s, r, "%s", path);
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int target_attach_tmpfs(Setup *s, const char *path, const char *mode, uint64_t size_bytes)
{
        _cleanup_close_ int fd = -EBADF;
        int r;

        r = attach_memory_at(s, path, mode, size_bytes, &fd);
        if (r < 0)
                return r;
        r = layers_allow_write(s, fd, /* is_directory= */ true);
        return r < 0 ? setup_fail(s, r, "%s", path) : 0;
}

int target_attach_sealed(Setup *s, const char *path, const char *mode, uint64_t size_bytes)
{
        int r;

        if (s->n_sealed >= ELEMENTSOF(s->sealed))
                return setup_fail(s, -E2BIG, "%s", path);
        r = attach_memory_at(s, path, mode, size_bytes, &s->sealed[s->n_sealed]);
        if (r == 0)
                s->n_sealed++;
        return r;
}

/* The directory that path lies in, and its name there. */
static int walk_to_parent(Setup *s, const char *path, const char **ret_name, Walk *ret)
{
        char parent[PLAN_PATH_MAX];
        const char *slash = strrchr(path, '/');

        *ret_name = slash + 1;
        if (slash == path) {
                *ret = (Walk){ .fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), .device = s->root_device };
                return ret->fd < 0 ? neg_errno() : 0;
        }
        memcpy(parent, path, (size_t) (slash - path));
        parent[slash - path] = '\0';
        return walk(s, parent, /* make= */ true, /* is_directory= */ true, ret);
}

int target_link(Setup *s, const char *link, const char *path)
{
        const char *name;
        Walk w;
        int r;

        r = walk_to_parent(s, path, &name, &w);
        if (r < 0)
                return r;
        r = w.device == s->root_device ? 0 : identity_walk_as_session(s);
        if (r == 0 && !device_is_ours(s, w.device))
                r = -EPERM;
        if (r == 0 && symlinkat(link, w.fd, name) < 0)
                r = neg_errno();
        (void) fd_close(w.fd);
        return identity_walk_as_root(s) < 0 ? -EPERM : r;
}

int target_make_directory(Setup *s, const char *path, int *ret_fd)
{
        Walk w;
        int r;

        r = walk(s, path, /* make= */ true, /* is_directory= */ true, &w);
        if (r == 0)
                *ret_fd = w.fd;
        return r;
}

bool target_exists(Setup *s, const char *path)
{
        Walk w;
        int r;

        r = walk(s, path, /* make= */ false, /* is_directory= */ false, &w);
        if (r == 0)
                (void) fd_close(w.fd);
        /* A link ends the walk, and is there. */
        return r == 0 || r == -ELOOP;
}

/* What earlier sessions made of a persistent home is no reason not to start: less is shown. */
static bool may_leave_out(Setup *s, const PlanMount *m, int r)
{
        if (s->home_mount_id == 0 || !(m->flags & (PLAN_OPTIONAL | PLAN_EXEC_TOOLS)))
                return false;
        if (r != -ELOOP && r != -ENOTDIR && r != -EACCES)
                return false;
        if (!(m->flags & PLAN_EXEC_TOOLS))
                setup_missing(s, plan_string(&s->plan, m->target));
        return true;
}

static int attach_bind(Setup *s, uint32_t i)
{
        const PlanMount *m = &s->plan.mounts[i];
        const char *path = plan_string(&s->plan, m->target);
        int r;

        if (s->sources[i] < 0)
                return 0;
        r = target_attach(s, s->sources[i], path, s->source_is_directory[i]);
        if (r == 0 && (m->flags & PLAN_WRITABLE))
                r = layers_allow_write(s, s->sources[i], s->source_is_directory[i]);
        s->sources[i] = fd_close(s->sources[i]);
        if (r < 0 && may_leave_out(s, m, r))
                return 0;
        return r < 0 ? setup_fail(s, r, "%s", path) : 0;
}

/* A link that leads through /proc means another place to each process: nothing to put a mask on. A loop is
 * none. */
static bool leads_through_proc(const char *path)
{
        _cleanup_close_ int fd = open(path, O_PATH | O_CLOEXEC);

        return fd >= 0 || errno != ELOOP;
}

/* What is hidden may be reached by a link in the user's own directory: the mask goes where it leads, within
 * the session's root. What is not there needs no mask. */
int target_mask(Setup *s, const char *path, uint32_t number)
{
        _cleanup_close_ int target = -EBADF, mask = -EBADF;
        struct stat st;
        int r;

        r = identity_walk_as_session(s);
        if (r < 0)
                return setup_fail(s, r, "identity");
        target = kernel_openat2(AT_FDCWD, path, O_PATH | O_CLOEXEC, RESOLVE_NO_MAGICLINKS);
        r = target < 0 ? neg_errno() : 0;
        if (r == -ELOOP && leads_through_proc(path))
                return setup_fail(s, r, "%s is denied and leads through /proc", path);
        if (identity_walk_as_root(s) < 0)
                return setup_fail(s, -EPERM, "identity");
        if (r == -ENOENT || r == -ENOTDIR || r == -ELOOP)
                return -ENOENT;
        if (r < 0)
                return setup_fail(s, r, "mask %s", path);
        if (fstat(target, &st) < 0)
                return setup_fail(s, neg_errno(), "mask %s", path);
        r = mask_clone(s, number, S_ISDIR(st.st_mode), &mask);
        if (r == 0 && kernel_move_mount(mask, target) < 0)
                r = neg_errno();
        return r < 0 ? setup_fail(s, r, "mask %s", path) : 0;
}

/* The folder that a mask goes into. Most of them go into the home: that is walked to once. */
static int walk_to_folder(Setup *s, const char *path, const char **ret_name, MaskFolder *last)
{
        size_t n = (size_t) (strrchr(path, '/') - path);
        Walk w;
        int r;

        *ret_name = path + n + 1;
        if (last->fd >= 0 && n == strlen(last->path) && memcmp(path, last->path, n) == 0)
                return 0;
        last->fd = fd_close(last->fd);
        r = walk_to_parent(s, path, ret_name, &w);
        if (r < 0)
                return r;
        last->fd = w.fd;
        last->device = w.device;
        memcpy(last->path, path, n);
        last->path[n] = '\0';
        return 0;
}

static int make_place(const Setup *s, const char *name, const MaskFolder *folder)
{
        const Walk w = { .fd = folder->fd, .device = folder->device, .is_directory = true };

        return make_child(s, &w, name, /* is_directory= */ true);
}

/* A link there is not followed: an earlier session may have made it, to have something else masked. In the
 * home that was given it goes, elsewhere it stays, and what it leads to has its own mask. */
static int open_place(Setup *s, const char *name, const MaskFolder *folder)
{
        struct stat st;
        int r;

        if (home_holds(s, folder->fd) && fstatat(folder->fd, name, &st, AT_SYMLINK_NOFOLLOW) >= 0 &&
            S_ISLNK(st.st_mode)) {
                r = home_clear(folder->fd, name);
                if (r < 0)
                        return r;
        }
        return open_child(folder->fd, name);
}

/* What is there already is masked as what it is: an earlier session's file stays. */
static int target_mask_made(Setup *s, const char *path, uint32_t number, MaskFolder *last)
{
        _cleanup_close_ int place = -EBADF, mask = -EBADF;
        const char *name;
        struct stat st;
        int r;

        r = walk_to_folder(s, path, &name, last);
        /* With the rights of whose folder it is. */
        if (r == 0)
                r = last->device == s->root_device ? identity_walk_as_root(s) : identity_walk_as_session(s);
        if (r == 0) {
                place = open_place(s, name, last);
                if (place == -ENOENT) {
                        r = make_place(s, name, last);
                        place = r < 0 ? r : open_child(last->fd, name);
                }
                r = place < 0 ? place : fstat(place, &st) < 0 ? neg_errno() : 0;
        }
        if (identity_walk_as_root(s) < 0)
                return setup_fail(s, -EPERM, "identity");
        /* Where nothing of ours is there is nothing to hide, and nobody's folder gets one more. */
        if (r == -ENOENT || r == -ENOTDIR || r == -ELOOP || r == -EACCES)
                return 0;
        if (r == 0 && S_ISLNK(st.st_mode))
                return 0;
        if (r == 0)
                r = mask_clone(s, number, S_ISDIR(st.st_mode), &mask);
        if (r == 0 && kernel_move_mount(mask, place) < 0)
                r = neg_errno();
        return r < 0 ? setup_fail(s, r, "mask %s", path) : 0;
}

/* Where nothing is that it could lie over there is nothing to hide either. */
static int attach_memory(Setup *s, const PlanMount *m)
{
        const char *path = plan_string(&s->plan, m->target);
        Walk w;
        int r;

        if (m->flags & PLAN_OPTIONAL) {
                r = walk(s, path, /* make= */ true, /* is_directory= */ true, &w);
                if (r == -ENOENT || r == -ENOTDIR || r == -ELOOP || r == -EACCES) {
                        setup_missing(s, path);
                        return 0;
                }
                if (r < 0)
                        return setup_fail(s, r, "%s", path);
                (void) fd_close(w.fd);
        }
        return target_attach_tmpfs(s, path, "0700", m->size_bytes);
}

static int attach_mount(Setup *s, uint32_t i)
{
        const PlanMount *m = &s->plan.mounts[i];
        const char *path = plan_string(&s->plan, m->target);
        int r;

        switch ((PlanMountType) m->type) {
        case PLAN_BIND:
        case PLAN_SOCKET:
                return attach_bind(s, i);
        case PLAN_TMPFS:
                return attach_memory(s, m);
        case PLAN_MASK_MATCHES: /* after everything else */
        case PLAN_COMPOSE:      /* all of them before everything else */
        case PLAN_HIDE:
        case PLAN_PROTECT:    /* when all is attached */
        case PLAN_REPOSITORY: /* where it belongs among the others */
        case PLAN_BOUND:
        case PLAN_DENY:
                return 0;
        case PLAN_MASK:
                /* Those that are made come last: nothing else may make their folder another. */
                r = m->flags & PLAN_MADE ? 0 : target_mask(s, path, i);
                return r == -ENOENT ? 0 : r;
        case _PLAN_MOUNT_TYPE_MAX:
                break;
        }
        return setup_fail(s, -EINVAL, "%s", path);
}

/* In the session's home it is a directory there, elsewhere a file system of its own. */
static int make_workspace(Setup *s)
{
        const char *path = plan_string(&s->plan, s->plan.header->workspace);
        bool is_in_root;
        Walk w;
        int r;

        r = walk(s, path, /* make= */ true, /* is_directory= */ true, &w);
        if (r < 0)
                return setup_fail(s, r, "%s", path);
        is_in_root = w.device == s->root_device;
        if (!device_is_ours(s, w.device))
                r = -EPERM;
        (void) fd_close(w.fd);
        if (r < 0)
                return setup_fail(s, r, "%s", path);
        return is_in_root ? target_attach_tmpfs(s, path, "0700", s->plan.header->home_size_bytes) : 0;
}

static int mask_matches(Setup *s)
{
        _cleanup_(matches_freep) Matches *m = NULL;
        int r = matches_new(s, &m);

        return r < 0 || !m ? r : matches_walk(m);
}

static int make_masks(Setup *s)
{
        MaskFolder last = { .fd = -EBADF };
        int r = 0;

        for (uint32_t i = 0; r == 0 && i < s->plan.header->n_mounts; i++) {
                const PlanMount *m = &s->plan.mounts[i];

                if (m->type == PLAN_MASK && m->flags & PLAN_MADE)
                        r = target_mask_made(s, plan_string(&s->plan, m->target), i, &last);
        }
        last.fd = fd_close(last.fd);
        return r;
}

int target_attach_all(Setup *s)
{
        const PlanHeader *h = s->plan.header;
        int r;

        setup_step(s, "mounts");
        r = target_attach_tmpfs(s, "/tmp", "1777", h->tmp_size_bytes);
        if (r == 0)
                r = target_attach_tmpfs(s, "/var/tmp", "1777", h->tmp_size_bytes);
        if (r == 0)
                r = target_attach_tmpfs(s, "/dev/shm", "1777", h->tmp_size_bytes);
        if (r == 0)
                r = home_attach(s);
        if (r == 0)
                r = compose_attach(s);
        for (uint32_t i = 0; r == 0 && i < h->n_mounts; i++) {
                r = repository_attach(s, plan_string(&s->plan, s->plan.mounts[i].target));
                if (r == 0)
                        r = attach_mount(s, i);
        }
        if (r == 0)
                r = repository_attach(s, NULL);
        if (r == 0 && h->has_tmp_workspace)
                r = make_workspace(s);
        if (r == 0)
                r = compose_mask(s);
        if (r == 0)
                r = mask_matches(s);
        if (r == 0)
                r = make_masks(s);
        if (r == 0)
                r = compose_close(s);
        compose_done(s);
        return r;
}
