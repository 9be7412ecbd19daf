/*
 * What has changed in a workspace since a session began, and which of it may take effect outside. The child
 * has the rights of the session's owner and no others; what lies there is hostile. Nothing is opened but
 * directories, each below the one before and never through a link; depth, number and time have bounds.
 * A change is known by the time of the inode, which nobody but the clock sets.
 */

#include "daemon/lookup/report.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/isolate/kernel.h"
#include "daemon/isolate/worktree.h"
#include "daemon/lookup/lookup.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

#define GIT           ".git"
#define DEPTH_MAX     64U
#define VISITS_MAX    1000000U
#define ENTRIES_MAX   8192U
#define OUTPUT_MAX    (768U * 1024U)
#define DEADLINE_USEC (4 * USEC_PER_SEC)
#define RESOLVE       (RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV)

typedef struct Scan {
        const char *workspace;
        const char *repository; /* where it lies while that is looked through; NULL: it is the workspace */
        uint64_t since_usec;
        uint64_t end_usec;
        size_t n_visits;
        size_t n_entries;
        bool has_more;
        Buf output;
} Scan;

/* What lies in a repository elsewhere is named by its whole path. */
static int put(Scan *x, PrivReportKind kind, const char *path, const char *target)
{
        PrivReportEntry e = { .kind = kind, .target_size = (uint32_t) strlen(target) };
        char full[PRIV_PATH_SIZE];
        int r;

        if (x->repository) {
                if (str_printf(full, sizeof(full), "%s%s", x->repository, path + strlen(GIT)) < 0) {
                        x->has_more = true;
                        return 0;
                }
                path = full;
        }
        e.path_size = (uint32_t) strlen(path);
        if (x->n_entries >= ENTRIES_MAX ||
            buf_size(&x->output) + sizeof(e) + e.path_size + e.target_size > OUTPUT_MAX) {
                x->has_more = true;
                return 0;
        }
        x->n_entries++;
        r = buf_put(&x->output, &e, sizeof(e));
        if (r >= 0)
                r = buf_put(&x->output, path, e.path_size);
        return r < 0 ? r : buf_put(&x->output, target, e.target_size);
}

static bool is_new(const Scan *x, const struct stat *st)
{
        uint64_t changed =
                        (uint64_t) st->st_ctim.tv_sec * USEC_PER_SEC + (uint64_t) st->st_ctim.tv_nsec / 1000;

        return changed >= x->since_usec;
}

static int put_link(Scan *x, int directory_fd, const char *name, const char *path)
{
        char target[PRIV_PATH_SIZE];
        ssize_t n = readlinkat(directory_fd, name, target, sizeof(target) - 1);

        if (n < 0)
                return put(x, REPORT_CHANGED, path, "");
        target[n] = '\0';
        return put(x,
                   report_link_leaves(x->workspace, path, target) ? REPORT_SYMLINK_OUTSIDE : REPORT_CHANGED,
                   path, target);
}

static int put_changed(Scan *x, int directory_fd, const char *name, const char *path, const struct stat *st)
{
        PrivReportKind kind = report_kind_of(path);

        if (S_ISLNK(st->st_mode))
                return put_link(x, directory_fd, name, path);
        if (!S_ISREG(st->st_mode))
                return put(x, REPORT_SPECIAL_FILE, path, "");
        if (st->st_mode & (S_ISUID | S_ISGID))
                return put(x, REPORT_SETUID, path, "");
        if (kind == REPORT_CHANGED && report_is_odd(path))
                kind = REPORT_ODD_NAME;
        if (kind == REPORT_CHANGED && st->st_nlink > 1)
                kind = REPORT_HARD_LINK;
        if (kind == REPORT_CHANGED && (st->st_mode & 0111))
                kind = REPORT_EXECUTABLE;
        /* What git keeps for itself changes all the time. */
        if (kind <= REPORT_HARD_LINK && report_is_inside_git(path))
                return 0;
        if (kind == REPORT_EXECUTABLE && report_is_inside_git(path))
                return 0;
        return put(x, kind, path, "");
}

static bool has(int directory_fd, const char *name, mode_t type)
{
        struct stat st;

        return fstatat(directory_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && (st.st_mode & S_IFMT) == type;
}

/* That git would take for a repository; those that the workspace's own consists of are none. */
static bool is_repository(const Scan *x, int fd, const char *path)
{
        struct stat st;

        if (str_equal(path, ".git") || str_has_prefix(path, ".git/") || path[0] == '\0')
                return false;
        return has(fd, "objects", S_IFDIR) && has(fd, "refs", S_IFDIR) &&
               fstatat(fd, "HEAD", &st, AT_SYMLINK_NOFOLLOW) == 0 && is_new(x, &st);
}

static int scan(Scan *x, int take_fd, const char *path, unsigned depth);

static int scan_below(Scan *x, int directory_fd, const char *name, const char *path, unsigned depth)
{
        int fd = kernel_openat2(directory_fd, name,
                                O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, RESOLVE);

        /* Another file system, or none of the user's. */
        if (fd < 0)
                return 0;
        return scan(x, fd, path, depth + 1);
}

static int visit(Scan *x, int directory_fd, const char *parent, const char *name, unsigned depth)
{
        char path[PRIV_PATH_SIZE];
        struct stat st;

        if (x->n_visits++ >= VISITS_MAX || clock_monotonic_usec() >= x->end_usec)
                x->has_more = true;
        if (x->has_more)
                return 0;
        if (str_printf(path, sizeof(path), "%s%s%s", parent, parent[0] ? "/" : "", name) < 0 ||
            depth >= DEPTH_MAX) {
                x->has_more = true;
                return 0;
        }
        if (fstatat(directory_fd, name, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0)
                return 0;
        if (S_ISDIR(st.st_mode))
                return scan_below(x, directory_fd, name, path, depth);
        return is_new(x, &st) ? put_changed(x, directory_fd, name, path, &st) : 0;
}

static int scan(Scan *x, int take_fd, const char *path, unsigned depth)
{
        const struct dirent *e;
        DIR *d = fdopendir(take_fd);
        int r = 0;

        if (!d) {
                (void) fd_close(take_fd);
                return -ENOMEM;
        }
        if (is_repository(x, dirfd(d), path))
                r = put(x, REPORT_REPOSITORY, path, "");
        while (r >= 0 && !x->has_more && (e = readdir(d)))
                if (!str_equal(e->d_name, ".") && !str_equal(e->d_name, ".."))
                        r = visit(x, dirfd(d), path, e->d_name, depth);
        (void) closedir(d);
        return r;
}

static bool is_below(const char *path, const char *folder)
{
        size_t n = strlen(folder);

        return strncmp(path, folder, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

/* The session had it, too, if its workspace is a linked worktree (daemon/init/repository.c). */
static int scan_repository(Scan *x)
{
        const char *why;
        Worktree w;
        int fd, r = worktree_resolve(x->workspace, getuid(), &w, &why);

        if (r <= 0)
                return 0;
        fd = is_below(w.repository, x->workspace) || is_below(x->workspace, w.repository)
                             ? -EBADF
                             : kernel_openat2(w.fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, RESOLVE);
        (void) fd_close(w.fd);
        if (fd < 0)
                return 0;
        x->repository = w.repository;
        r = scan(x, fd, GIT, 0);
        x->repository = NULL;
        return r;
}

/* argument: "USEC:/WORKSPACE" */
static int parse(Scan *x, const char *argument)
{
        const char *colon = strchr(argument, ':');
        char number[24];

        if (!colon || colon[1] != '/' || (size_t) (colon - argument) >= sizeof(number))
                return -EINVAL;
        memcpy(number, argument, (size_t) (colon - argument));
        number[colon - argument] = '\0';
        x->workspace = colon + 1;
        return parse_u64(number, &x->since_usec);
}

int lookup_report(const char *argument, int output_fd)
{
        Scan x = { .output = BUF_INIT(OUTPUT_MAX + 4096U),
                   .end_usec = clock_monotonic_usec() + DEADLINE_USEC };
        PrivReportEntry end = { .kind = REPORT_END };
        int fd, r;

        r = argument ? parse(&x, argument) : -EINVAL;
        if (r < 0)
                return r;
        fd = kernel_openat2(AT_FDCWD, x.workspace, O_RDONLY | O_DIRECTORY | O_CLOEXEC,
                            RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
        if (fd < 0)
                return neg_errno();
        r = scan(&x, fd, "", 0);
        if (r >= 0)
                r = scan_repository(&x);
        end.path_size = x.has_more;
        if (r >= 0)
                r = buf_put(&x.output, &end, sizeof(end));
        if (r >= 0)
                r = fd_write_all(output_fd, buf_front(&x.output), buf_size(&x.output));
        buf_done(&x.output);
        return r;
}
