#include "daemon/isolate/prevention.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/isolate/kernel.h"
#include "daemon/isolate/rulemap.h"
#include "daemon/isolate/spawn.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/id.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

#define FOLDER        "/sys/fs/bpf"
#define PATH_SIZE     256U
#define LOAD_MSEC     60000
#define TRIAL_MSEC    10000
#define TRIAL_ENTRIES 8U

struct Prevention {
        char folder[PATH_SIZE];
        int sessions_fd;
        int marks_fd;
};

/* ---- loading ---- */

/* Groups of sessions lie right below the base group. */
static unsigned level_of_sessions(const CgroupBase *base)
{
        unsigned n = 1;

        for (const char *p = cgroup_base_path(base); *p; p++)
                n += *p == '/';
        return n;
}

static int run_loader(const CgroupBase *base, int program_fd, int null_fd)
{
        const char *name = strrchr(cgroup_base_path(base), '/') + 1;
        char level[16];
        const char *const arguments[] = { "sandboxd-bpf", name, level, NULL };
        SpawnSpec spec = { .program_fd = program_fd,
                           .arguments = (char *const *) (uintptr_t) arguments,
                           .cgroup_fd = -EBADF,
                           .null_fd = null_fd,
                           .output_fd = -EBADF };
        int pidfd, r;
        pid_t pid;

        r = str_printf(level, sizeof(level), "%u", level_of_sessions(base));
        if (r >= 0)
                r = spawn(&spec, &pid, &pidfd);
        if (r >= 0)
                r = spawn_wait(pidfd, LOAD_MSEC);
        return r > 0 ? -ECHILD : r;
}

static int open_map(const Prevention *p, const char *name, int *ret_fd)
{
        char path[PATH_SIZE];
        int r = str_printf(path, sizeof(path), "%s/%s", p->folder, name);

        return r < 0 ? r : rulemap_open(path, ret_fd);
}

static int open_maps(Prevention *p, const CgroupBase *base)
{
        int r = str_printf(p->folder, sizeof(p->folder), FOLDER "%s", strrchr(cgroup_base_path(base), '/'));

        if (r >= 0)
                r = open_map(p, "sessions", &p->sessions_fd);
        if (r >= 0)
                r = open_map(p, "marks", &p->marks_fd);
        return r;
}

static void take_away(const Prevention *p)
{
        const struct dirent *e;
        DIR *d = opendir(p->folder);

        while (d && (e = readdir(d)))
                if (e->d_name[0] != '.')
                        (void) unlinkat(dirfd(d), e->d_name, 0);
        if (d)
                (void) closedir(d);
        (void) rmdir(p->folder);
}

Prevention *prevention_free(Prevention *p)
{
        if (!p)
                return NULL;
        if (p->sessions_fd >= 0 && rulemap_is_empty(p->sessions_fd) == 1)
                take_away(p);
        p->sessions_fd = fd_close(p->sessions_fd);
        p->marks_fd = fd_close(p->marks_fd);
        free(p);
        return NULL;
}

/* ---- the trial ---- */

static bool can_make(int directory_fd, const char *name)
{
        _cleanup_close_ int fd = openat(directory_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

        return fd >= 0;
}

static bool is_refused(int r)
{
        return r < 0 && errno == EPERM;
}

/* What must fail does, what must work does. Runs in the group. */
static int try_inside(const void *userdata)
{
        int fd = *(const int *) userdata;

        return !(can_make(fd, "free") && !can_make(fd, "kept") && errno == EPERM &&
                 is_refused(mkdirat(fd, "kept", 0700)) && is_refused(renameat(fd, "free", fd, "kept")) &&
                 is_refused(mkdirat(fd, "above/kept", 0700)) && is_refused(unlinkat(fd, "marked", 0)) &&
                 unlinkat(fd, "free", 0) == 0);
}

static int tmpfs_new(int *ret_fd)
{
        _cleanup_close_ int context = kernel_fsopen("tmpfs");
        int fd;

        if (context < 0 || kernel_fsconfig_string(context, "size", "64k") < 0 ||
            kernel_fsconfig_create(context) < 0)
                return neg_errno();
        fd = kernel_fsmount(context, 0);
        if (fd < 0)
                return neg_errno();
        *ret_fd = fd;
        return 0;
}

static int put_name(int rules_fd, uint64_t parent, const char *name, const PreventNode *node)
{
        PreventKey key = { .parent = parent };
        int r = str_copy(key.name, sizeof(key.name), name);

        return r < 0 ? r : rulemap_put(rules_fd, &key, node);
}

/* One name that is kept, one below a folder, and a file that is whatever its name. */
static int put_rules(const Prevention *p, int rules_fd, int directory_fd)
{
        _cleanup_close_ int file = -EBADF;
        int r;

        if (mkdirat(directory_fd, "above", 0700) < 0)
                return neg_errno();
        file = openat(directory_fd, "marked", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        if (file < 0)
                return neg_errno();
        r = put_name(rules_fd, 0, "kept", &(PreventNode){ 1, PREVENT_PROTECTED });
        if (r >= 0)
                r = put_name(rules_fd, 0, "above", &(PreventNode){ 2, PREVENT_ABOVE });
        if (r >= 0)
                r = put_name(rules_fd, 2, "kept", &(PreventNode){ 3, PREVENT_PROTECTED });
        if (r >= 0)
                r = rulemap_mark(rules_fd, p->marks_fd, file, &(PreventNode){ 4, PREVENT_PROTECTED });
        return r < 0 ? r
                     : rulemap_mark(rules_fd, p->marks_fd, directory_fd, &(PreventNode){ 0, PREVENT_TOP });
}

static int try_in(Prevention *p, int group_fd)
{
        _cleanup_close_ int directory = -EBADF, rules = -EBADF;
        int pidfd, r;

        r = tmpfs_new(&directory);
        if (r >= 0)
                r = rulemap_new(TRIAL_ENTRIES, &rules);
        if (r >= 0)
                r = put_rules(p, rules, directory);
        if (r >= 0)
                r = prevention_enter(p, group_fd, rules);
        if (r < 0)
                return r;
        r = spawn_trial_into(group_fd, try_inside, &directory, &pidfd);
        if (r >= 0)
                r = spawn_wait(pidfd, TRIAL_MSEC);
        /* Others are not concerned: neither while the rules hold, nor after. */
        if (r >= 0 && !can_make(directory, "kept"))
                r = -EPERM;
        prevention_leave(p, group_fd);
        return r > 0 ? -EOPNOTSUPP : r;
}

static int try(Prevention *p, const CgroupBase *base)
{
        _cleanup_close_ int group = -EBADF;
        Id id;
        int r;

        r = id_random(&id);
        if (r >= 0)
                r = cgroup_make(base, &id, &(PrivLimits){ 0 }, &group);
        if (r < 0)
                return r;
        r = try_in(p, group);
        if (cgroup_remove(base, &id) < 0)
                (void) log_warning(0, "cannot remove a control group, leaving it to the next start");
        return r;
}

/* ---- sessions ---- */

int prevention_new(const CgroupBase *base, int program_fd, int null_fd, Prevention **ret, uint32_t *ret_step)
{
        _cleanup_(prevention_freep) Prevention *p = calloc(1, sizeof(*p));
        int r;

        if (!p)
                return -ENOMEM;
        p->sessions_fd = p->marks_fd = -EBADF;
        *ret_step = PREVENTION_PROGRAM;
        if (program_fd < 0)
                return -ENOENT;
        *ret_step = PREVENTION_LOAD;
        r = run_loader(base, program_fd, null_fd);
        if (r >= 0)
                r = open_maps(p, base);
        if (r < 0)
                return r;
        *ret_step = PREVENTION_TRIAL;
        r = try(p, base);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(p);
        return 0;
}

int prevention_marks(const Prevention *p)
{
        return p->marks_fd;
}

/* A group's number is that of its directory. */
static int number_of(int cgroup_fd, uint64_t *ret)
{
        struct stat st;

        if (fstat(cgroup_fd, &st) < 0)
                return neg_errno();
        *ret = st.st_ino;
        return 0;
}

int prevention_enter(Prevention *p, int cgroup_fd, int rules_fd)
{
        uint64_t number;
        int r = number_of(cgroup_fd, &number);

        return r < 0 ? r : rulemap_enter(p->sessions_fd, number, rules_fd);
}

void prevention_leave(Prevention *p, int cgroup_fd)
{
        uint64_t number;

        if (number_of(cgroup_fd, &number) >= 0)
                (void) !rulemap_leave(p->sessions_fd, number);
}
