/*
 * Submodules of a repository: .git/modules/NAME, where NAME is as many names as the submodule's path, and
 * submodules of those: any directory there may be one, but for what git keeps in one (objects alone are
 * hundreds of directories). Whether it is one a HEAD says, which the session can make where the host has
 * none: what was gone into when the session began, is always.
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "daemon/init/protect.h"
#include "daemon/isolate/kernel.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

static bool is_part(const char *name)
{
        static const char *const parts[] = { "objects", "refs", "logs", "lfs", "worktrees", "branches" };

        for (size_t i = 0; i < ELEMENTSOF(parts); i++)
                if (str_equal(parts[i], name))
                        return true;
        return false;
}

static bool is_repository(int directory_fd)
{
        _cleanup_close_ int fd = protect_open(directory_fd, "HEAD", O_PATH);

        return fd >= 0;
}

static int remember(Protect *p, const char *path)
{
        for (size_t i = 0; i < p->n_parts; i++)
                if (str_equal(p->parts[i], path))
                        return 0;
        if (p->n_parts >= PROTECT_PARTS_MAX)
                return -E2BIG;
        if (str_dup(path, &p->parts[p->n_parts]) < 0)
                return -ENOMEM;
        p->n_parts++;
        return 0;
}

static bool is_remembered(const Protect *p, const char *path)
{
        for (size_t i = 0; i < p->n_parts; i++)
                if (str_equal(p->parts[i], path))
                        return true;
        return false;
}

/* Too far down, and the host's: said once the session is ready. What the session makes there is its own. */
static int leave(Protect *p, const char *path)
{
        if (p->is_first && !p->left[0])
                (void) !str_copy(p->left, sizeof(p->left), path);
        return 0;
}

/* 1: to be gone into. */
static int is_wanted(Protect *p, const Place *place, const char *name)
{
        char full[PROTECT_MODULE_SIZE];
        int r;

        for (const ProtectRule *c = place->rule->first; c; c = c->next)
                if (str_equal(c->name, name))
                        return 0;
        if (str_printf(full, sizeof(full), "%s/%s", place->path, name) < 0)
                return leave(p, place->path);
        if (!is_part(name))
                return 1;
        if (is_repository(place->fd))
                return is_remembered(p, full);
        r = p->is_first ? remember(p, full) : 0;
        return r < 0 ? r : 1;
}

static bool is_directory(int directory_fd, const struct dirent *e)
{
        struct stat st;

        if (e->d_type != DT_UNKNOWN)
                return e->d_type == DT_DIR;
        return fstatat(directory_fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) == 0 &&
               S_ISDIR(st.st_mode);
}

/* Numbers are the session's to raise, for this pass and for those of later sessions: what they hide must
 * not be left out without a word. */
static int look_at(Protect *p, const Place *place, const struct dirent *e)
{
        int r;

        if (str_equal(e->d_name, ".") || str_equal(e->d_name, ".."))
                return 0;
        if (p->n_module_entries++ >= PROTECT_MODULE_ENTRIES_MAX)
                return -E2BIG;
        if (!is_directory(place->fd, e))
                return 0;
        r = is_wanted(p, place, e->d_name);
        return r > 0 && p->n_modules++ >= PROTECT_MODULES_MAX ? -E2BIG : r;
}

int modules_each(Protect *p, const Place *place, ModuleCall call, void *userdata)
{
        const struct dirent *e;
        DIR *d;
        int r;

        if (place->depth >= PROTECT_MODULE_DEPTH)
                return leave(p, place->path);
        r = protect_list(place->fd, &d);
        if (r < 0)
                return r;
        while (r == 0 && (e = readdir(d))) {
                r = look_at(p, place, e);
                if (r > 0)
                        r = call(userdata, e->d_name);
        }
        (void) closedir(d);
        return r;
}
