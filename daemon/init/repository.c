/*
 * A workspace that is a linked worktree of git brings the directory of its repository along, which lies
 * somewhere else: shown at its own place, with the workspace's rights, kept by the guard as a .git in the
 * workspace is. Where that place is the files of the user say (worktree.h); whether it may be shown, the
 * plan.
 */

#include <errno.h>
#include <string.h>

#include "daemon/init/setup.h"
#include "daemon/isolate/worktree.h"
#include "proto/base/fd.h"
#include "proto/base/glob.h"
#include "proto/base/str.h"

#define GIT "/.git"

static bool is_below(const char *path, const char *folder)
{
        size_t n = strlen(folder);

        return n == 1 || (strncmp(path, folder, n) == 0 && (path[n] == '\0' || path[n] == '/'));
}

static bool is_closed(const PlanMount *m)
{
        return m->type == PLAN_DENY || m->type == PLAN_MASK ||
               (m->type == PLAN_HIDE && (m->flags & PLAN_FOLLOW));
}

static bool is_denied(const Setup *s, const char *path)
{
        for (uint32_t i = 0; i < s->plan.header->n_mounts; i++) {
                const PlanMount *m = &s->plan.mounts[i];

                if (is_closed(m) && is_below(path, plan_string(&s->plan, m->target)))
                        return true;
        }
        return false;
}

static bool is_bound(const Setup *s, const char *path, uint32_t flags)
{
        for (uint32_t i = 0; i < s->plan.header->n_mounts; i++) {
                const PlanMount *m = &s->plan.mounts[i];

                if (m->type == PLAN_BOUND && (m->flags & flags) == flags &&
                    is_below(path, plan_string(&s->plan, m->target)))
                        return true;
        }
        return false;
}

/* The policy has a word about the .git of a workspace, which this one's stands for. */
static bool is_said_of_git(const Setup *s, const char *workspace, PlanMountType type)
{
        char path[PLAN_PATH_MAX];

        if (str_printf(path, sizeof(path), "%s" GIT, workspace) < 0)
                return false;
        if (type == PLAN_MASK && is_denied(s, path))
                return true;
        for (uint32_t i = 0; i < s->plan.header->n_mounts; i++) {
                const PlanMount *m = &s->plan.mounts[i];
                Glob g;

                if (m->type != (uint32_t) type)
                        continue;
                if (type == PLAN_PROTECT && str_equal(plan_string(&s->plan, m->target), path))
                        return true;
                if (type == PLAN_MASK_MATCHES && glob_parse(plan_string(&s->plan, m->source), &g) >= 0 &&
                    glob_is_match(&g, glob_step(&g, glob_begin(&g), &GIT[1])))
                        return true;
        }
        return false;
}

/* NULL: it may be shown, with *flags. */
static const char *judge(const Setup *s, const char *workspace, const char *path, uint32_t *flags)
{
        const char *home = plan_string(&s->plan, s->plan.header->home);

        if (is_below(workspace, path) || is_below(home, path))
                return "it holds the workspace or the home";
        if (is_denied(s, path) || is_said_of_git(s, workspace, PLAN_MASK) ||
            is_said_of_git(s, workspace, PLAN_MASK_MATCHES))
                return "the policy denies it";
        if (!is_bound(s, path, 0))
                return "it is beyond the administrator's ceiling";
        if (!is_bound(s, path, PLAN_WRITABLE) || is_said_of_git(s, workspace, PLAN_PROTECT))
                *flags &= ~(uint32_t) PLAN_WRITABLE;
        return NULL;
}

static int tell(Setup *s, const char *why)
{
        char text[PRIV_TEXT_SIZE];

        if (str_printf(text, sizeof(text), PRIV_MISSING_REPOSITORY "%s", why) >= 0)
                setup_missing(s, text);
        return 0;
}

static int show(Setup *s, const char *workspace, const Worktree *w, uint32_t flags)
{
        const char *why = judge(s, workspace, w->repository, &flags);
        int r = 0;

        if (why)
                return tell(s, why);
        /* Part of the workspace: shown already, and still to be kept. */
        if (!is_below(w->repository, workspace)) {
                r = source_clone_directory(s, w->repository, w->fd, flags, &s->repository_fd);
                if (r == -ENOMEM)
                        return r;
        }
        if (r >= 0)
                r = str_copy(s->worktree, sizeof(s->worktree), w->name);
        if (r >= 0)
                r = str_copy(s->repository, sizeof(s->repository), w->repository);
        if (r >= 0)
                s->repository_flags = flags;
        return r < 0 ? tell(s, "it cannot be opened") : 0;
}

int repository_open(Setup *s, uint32_t i)
{
        const PlanMount *m = &s->plan.mounts[i];
        const char *workspace = plan_string(&s->plan, m->target), *why;
        Worktree w;
        int r = identity_lower(s);

        if (r < 0 || s->repository[0])
                return r;
        r = worktree_resolve(workspace, s->start.caller_uid, &w, &why);
        if (r == 0)
                return 0;
        r = r < 0 ? tell(s, why) : show(s, workspace, &w, m->flags);
        (void) fd_close(w.fd);
        return r;
}

/* Denied in it. */
static int mask_below(Setup *s)
{
        int r = 0;

        for (uint32_t i = 0; r == 0 && i < s->plan.header->n_mounts; i++) {
                const PlanMount *m = &s->plan.mounts[i];
                const char *path = plan_string(&s->plan, m->target);

                if (is_closed(m) && is_below(path, s->repository))
                        r = target_mask(s, path, m->type == PLAN_MASK ? i : UINT32_MAX);
                if (r == -ENOENT)
                        r = 0;
        }
        return r;
}

/* What is named below it comes on top of it, and what is above before it. */
int repository_attach(Setup *s, const char *path)
{
        int r;

        if (s->repository_fd < 0 || (path && !is_below(path, s->repository)))
                return 0;
        r = target_attach(s, s->repository_fd, s->repository, /* is_directory= */ true);
        if (r == 0 && (s->repository_flags & PLAN_WRITABLE))
                r = layers_allow_write(s, s->repository_fd, /* is_directory= */ true);
        s->repository_fd = fd_close(s->repository_fd);
        if (r == 0)
                return mask_below(s);
        s->repository[0] = '\0';
        return r == -ELOOP || r == -ENOTDIR || r == -EACCES || r == -ENOENT
                               ? tell(s, "there is no place for it among what is shown")
                               : setup_fail(s, r, "the repository of the workspace");
}
