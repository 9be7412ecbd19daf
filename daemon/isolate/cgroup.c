#include "daemon/isolate/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/isolate/cgroup_find.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/hash.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

/*
 * A session's user owns its group's directory and cgroup.procs, so that init can make a child group per
 * command; limits stay root's. The launcher has no CAP_DAC_OVERRIDE: before it reads, kills or removes it
 * takes the directory back (CAP_CHOWN), whatever mode the user gave it.
 */

#define CGROUP_NAME_PREFIX  "sandboxd-"
#define CGROUP_OWN_GROUP    "sandboxd-daemon"
#define CGROUP_PARENT       "sandboxd"
#define CGROUP_HASH_DIGITS  8U
#define CGROUP_DEPTH_MAX    4U
#define CGROUP_CHILDREN_MAX "1024"
/* A group for each command, none below: its user could build a tower that nobody clears away. */
#define CGROUP_LEVELS_MAX      "1"
#define CGROUP_CLEAN_ROUNDS    500U
#define CGROUP_CLEAN_WAIT_MSEC 10
#define CGROUP_CPU_PERIOD_USEC 100000U
#define CGROUP_FILE_MAX        65536U

struct CgroupBase {
        int fd;
        int parent_fd; /* holds the base groups of all instances; ours to remove from, unlike the tree's top
                        */
        uint32_t controllers;
        char path[PATH_MAX];     /* of the base group, as /proc/PID/cgroup shows it */
        char own_path[PATH_MAX]; /* of the group that the daemon was started in */
};

static const struct {
        uint32_t bit;
        const char *name;
} controller_names[] = {
        { CONTROLLER_MEMORY, "memory" },
        { CONTROLLER_PIDS, "pids" },
        { CONTROLLER_CPU, "cpu" },
        { CONTROLLER_IO, "io" },
};

static int write_file(int directory_fd, const char *name, const char *text)
{
        _cleanup_close_ int fd = -EBADF;

        fd = openat(directory_fd, name, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
                return neg_errno();
        return fd_write_all(fd, text, strlen(text));
}

static int read_file(int directory_fd, const char *name, char **ret_text)
{
        _cleanup_close_ int fd = -EBADF;
        size_t size;

        fd = openat(directory_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
                return neg_errno();
        return fd_read_all(fd, CGROUP_FILE_MAX, ret_text, &size);
}

static int open_directory(int directory_fd, const char *name)
{
        int fd = openat(directory_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

        return fd < 0 ? neg_errno() : fd;
}

static bool has_word(const char *text, const char *word)
{
        size_t n = strlen(word);

        while (*text) {
                size_t length = strcspn(text, " \n");

                if (length == n && memcmp(text, word, n) == 0)
                        return true;
                text += length;
                text += strspn(text, " \n");
        }
        return false;
}

/* Turns each controller on for the groups below; one that is missing or busy stays off. Never where
 * processes are: cpu and pids would be taken, and make a threaded group of it, in whose children no process
 * can be born. */
static void enable_controllers(int directory_fd)
{
        for (size_t i = 0; i < ELEMENTSOF(controller_names); i++) {
                char text[16];

                if (str_printf(text, sizeof(text), "+%s", controller_names[i].name) >= 0)
                        (void) !write_file(directory_fd, "cgroup.subtree_control", text);
        }
}

/* Of the hierarchy: the only group without a type, and the only one that may have both processes and
 * controllers below. */
static bool is_root(int directory_fd)
{
        return faccessat(directory_fd, "cgroup.type", F_OK, 0) < 0;
}

static int read_controllers(int directory_fd, uint32_t *ret_controllers)
{
        _cleanup_free_ char *text = NULL;
        uint32_t found = 0;
        int r;

        r = read_file(directory_fd, "cgroup.subtree_control", &text);
        if (r < 0)
                return r;
        for (size_t i = 0; i < ELEMENTSOF(controller_names); i++) {
                if (has_word(text, controller_names[i].name))
                        found |= controller_names[i].bit;
        }
        *ret_controllers = found;
        return 0;
}

/* A group with processes of its own cannot have controllers below: where we are its only one, we move into a
 * group beside the base group. -EBUSY: others are in it. */
static int leave_own_group(int own_fd)
{
        _cleanup_free_ char *text = NULL;
        _cleanup_close_ int fd = -EBADF;
        char pid[32];
        int r;

        r = read_file(own_fd, "cgroup.procs", &text);
        if (r < 0)
                return r;
        r = str_printf(pid, sizeof(pid), "%d\n", (int) getpid());
        if (r < 0)
                return r;
        if (!str_equal(text, pid))
                return -EBUSY;
        if (mkdirat(own_fd, CGROUP_OWN_GROUP, 0755) < 0 && errno != EEXIST)
                return neg_errno();
        fd = open_directory(own_fd, CGROUP_OWN_GROUP);
        if (fd < 0)
                return fd;
        return write_file(fd, "cgroup.procs", "0");
}

static int open_parent(CgroupBase *b)
{
        _cleanup_close_ int own_fd = -EBADF;
        int r;

        r = cgroup_find_own(b->own_path, sizeof(b->own_path), &own_fd);
        if (r < 0)
                return r;
        if (!is_root(own_fd))
                r = leave_own_group(own_fd);
        if (r >= 0)
                enable_controllers(own_fd);
        if (mkdirat(own_fd, CGROUP_PARENT, 0755) < 0 && errno != EEXIST)
                return neg_errno();
        b->parent_fd = open_directory(own_fd, CGROUP_PARENT);
        if (b->parent_fd < 0)
                return b->parent_fd;
        enable_controllers(b->parent_fd);
        return 0;
}

static int open_base(CgroupBase *b, const char *runtime_dir)
{
        static const uint8_t no_key[16] = { 0 };
        char name[sizeof(CGROUP_NAME_PREFIX) + CGROUP_HASH_DIGITS];
        uint64_t hash = hash_siphash(no_key, runtime_dir, strlen(runtime_dir));
        int r;

        r = str_printf(name, sizeof(name), CGROUP_NAME_PREFIX "%08x", (unsigned) (hash & UINT32_MAX));
        if (r >= 0)
                r = str_printf(b->path, sizeof(b->path), "%s/" CGROUP_PARENT "/%s",
                               str_equal(b->own_path, "/") ? "" : b->own_path, name);
        if (r < 0)
                return r;
        if (mkdirat(b->parent_fd, name, 0755) < 0 && errno != EEXIST)
                return neg_errno();
        b->fd = open_directory(b->parent_fd, name);
        if (b->fd < 0)
                return b->fd;
        enable_controllers(b->fd);
        return 0;
}

int cgroup_base_new(const char *runtime_dir, CgroupBase **ret)
{
        _cleanup_(cgroup_base_freep) CgroupBase *b = calloc(1, sizeof(*b));
        int r;

        if (!b)
                return -ENOMEM;
        b->fd = b->parent_fd = -EBADF;
        r = open_parent(b);
        if (r >= 0)
                r = open_base(b, runtime_dir);
        if (r >= 0)
                r = read_controllers(b->fd, &b->controllers);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(b);
        return 0;
}

CgroupBase *cgroup_base_free(CgroupBase *b)
{
        if (b) {
                /* Busy while a session is left: then the next start finds it. */
                if (b->fd >= 0)
                        (void) unlinkat(b->parent_fd, strrchr(b->path, '/') + 1, AT_REMOVEDIR);
                b->parent_fd = fd_close(b->parent_fd);
                b->fd = fd_close(b->fd);
                free(b);
        }
        return NULL;
}

uint32_t cgroup_base_controllers(const CgroupBase *b)
{
        return b->controllers;
}

int cgroup_base_fd(const CgroupBase *b)
{
        return b->fd;
}

const char *cgroup_base_path(const CgroupBase *b)
{
        return b->path;
}

static bool is_hex(const char *s, size_t n)
{
        return strspn(s, "0123456789abcdef") >= n;
}

/* Looks for ".../sandboxd-XXXXXXXX/ID": the names that only launchers make. */
static bool names_session(const char *path)
{
        const size_t n = sizeof(CGROUP_NAME_PREFIX) - 1;

        for (const char *p = strstr(path, "/" CGROUP_NAME_PREFIX); p;
             p = strstr(p + 1, "/" CGROUP_NAME_PREFIX)) {
                const char *hash = p + 1 + n, *id = hash + CGROUP_HASH_DIGITS + 1;

                if (is_hex(hash, CGROUP_HASH_DIGITS) && hash[CGROUP_HASH_DIGITS] == '/' &&
                    is_hex(id, ID_TEXT_SIZE - 1))
                        return true;
        }
        return false;
}

int cgroup_base_holds(const CgroupBase *b, pid_t pid)
{
        char path[PATH_MAX];
        size_t n = strlen(b->own_path);
        int r;

        r = cgroup_find_of_process(pid, path, sizeof(path));
        if (r < 0)
                return r;
        /* A daemon that itself runs inside a session has callers beside it: its own path does not count. */
        return names_session(str_has_prefix(path, b->own_path) && n > 1 ? path + n : path);
}

static int write_number(int fd, const char *name, uint64_t value)
{
        char text[32];
        int r = str_printf(text, sizeof(text), "%llu", (unsigned long long) value);

        return r < 0 ? r : write_file(fd, name, text);
}

static int limit_memory(int fd, const PrivLimits *limits)
{
        int r = 0;

        if (limits->memory_bytes > 0)
                r = write_number(fd, "memory.max", limits->memory_bytes);
        if (r >= 0 && limits->has_swap) {
                r = write_number(fd, "memory.swap.max", limits->swap_bytes);
                /* No swap accounting: nothing to limit. */
                if (r == -ENOENT && limits->swap_bytes == 0)
                        r = 0;
        }
        return r;
}

static int limit_cpu(int fd, uint64_t percent)
{
        char text[64];
        int r;

        if (percent > UINT32_MAX)
                return -ERANGE;
        r = str_printf(text, sizeof(text), "%llu %u",
                       (unsigned long long) (percent * CGROUP_CPU_PERIOD_USEC / 100),
                       CGROUP_CPU_PERIOD_USEC);
        return r < 0 ? r : write_file(fd, "cpu.max", text);
}

static int write_limits(int fd, const PrivLimits *limits, uint32_t controllers)
{
        uint32_t wanted = (limits->memory_bytes > 0 || limits->has_swap ? CONTROLLER_MEMORY : 0U) |
                          (limits->tasks > 0 ? CONTROLLER_PIDS : 0U) |
                          (limits->cpu_percent > 0 ? CONTROLLER_CPU : 0U) |
                          (limits->io_bytes_per_sec > 0 ? CONTROLLER_IO : 0U);
        int r;

        if (wanted & ~controllers)
                return -EOPNOTSUPP;
        r = write_file(fd, "cgroup.max.descendants", CGROUP_CHILDREN_MAX);
        if (r >= 0)
                r = write_file(fd, "cgroup.max.depth", CGROUP_LEVELS_MAX);
        if (r >= 0)
                r = limit_memory(fd, limits);
        if (r >= 0 && limits->tasks > 0)
                r = write_number(fd, "pids.max", limits->tasks);
        if (r >= 0 && limits->cpu_percent > 0)
                r = limit_cpu(fd, limits->cpu_percent);
        if (r >= 0 && limits->io_bytes_per_sec > 0)
                r = cgroup_limit_devices(fd, limits->io_bytes_per_sec);
        return r;
}

int cgroup_make(const CgroupBase *b, const Id *session, const PrivLimits *limits, int *ret_fd)
{
        _cleanup_close_ int fd = -EBADF;
        char name[ID_TEXT_SIZE];
        int r;

        id_format(session, name);
        if (mkdirat(b->fd, name, 0755) < 0)
                return neg_errno();
        fd = open_directory(b->fd, name);
        r = fd < 0 ? fd : write_limits(fd, limits, b->controllers);
        if (r < 0) {
                (void) unlinkat(b->fd, name, AT_REMOVEDIR);
                return r;
        }
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int cgroup_limit(const CgroupBase *b, int cgroup_fd, const PrivLimits *limits)
{
        return write_limits(cgroup_fd, limits, b->controllers);
}

int cgroup_give(int cgroup_fd, uint32_t uid, uint32_t gid)
{
        if (fchownat(cgroup_fd, "cgroup.procs", uid, gid, AT_SYMLINK_NOFOLLOW) < 0)
                return neg_errno();
        if (fchown(cgroup_fd, uid, gid) < 0)
                return neg_errno();
        return 0;
}

/* Whatever owner and mode its user gave it: root's again, and searchable. */
static int take_back(int cgroup_fd)
{
        if (fchown(cgroup_fd, 0, 0) < 0 || fchmod(cgroup_fd, 0755) < 0)
                return neg_errno();
        return 0;
}

int cgroup_kill(int cgroup_fd)
{
        int r = take_back(cgroup_fd);

        if (r < 0)
                return r;
        return write_file(cgroup_fd, "cgroup.kill", "1");
}

/* A file of a group that was given away. Its user may have taken our right to search it: then it is ours for
 * a moment. Not before, because init makes groups in it. */
int cgroup_open_given(int cgroup_fd, const char *name, int flags, uint32_t uid, uint32_t gid, int *ret_fd)
{
        int fd = openat(cgroup_fd, name, flags | O_CLOEXEC | O_NOFOLLOW), r = 0;

        if (fd < 0 && errno == EACCES) {
                r = take_back(cgroup_fd);
                if (r < 0)
                        return r;
                fd = openat(cgroup_fd, name, flags | O_CLOEXEC | O_NOFOLLOW);
                r = fd < 0 ? neg_errno() : 0;
                if (fchown(cgroup_fd, uid, gid) < 0 && r >= 0)
                        r = neg_errno();
        } else if (fd < 0) {
                r = neg_errno();
        }
        if (r < 0) {
                (void) fd_close(fd);
                return r;
        }
        *ret_fd = fd;
        return 0;
}

int cgroup_freeze(int cgroup_fd, bool is_frozen, uint32_t uid, uint32_t gid)
{
        _cleanup_close_ int fd = -EBADF;
        int r;

        r = cgroup_open_given(cgroup_fd, "cgroup.freeze", O_WRONLY, uid, gid, &fd);
        return r < 0 ? r : fd_write_all(fd, is_frozen ? "1" : "0", 1);
}

int cgroup_is_frozen(int cgroup_fd, uint32_t uid, uint32_t gid)
{
        _cleanup_free_ char *text = NULL;
        _cleanup_close_ int fd = -EBADF;
        size_t size;
        int r;

        r = cgroup_open_given(cgroup_fd, "cgroup.events", O_RDONLY, uid, gid, &fd);
        if (r >= 0)
                r = fd_read_all(fd, CGROUP_FILE_MAX, &text, &size);
        if (r < 0)
                return r;
        return str_has_prefix(text, "frozen 1") || strstr(text, "\nfrozen 1") != NULL;
}

int cgroup_kill_child(int cgroup_fd, const char *name, uint32_t uid, uint32_t gid)
{
        _cleanup_close_ int fd = -EBADF;
        int r;

        r = cgroup_open_given(cgroup_fd, name, O_RDONLY | O_DIRECTORY, uid, gid, &fd);
        /* Made by init: directory and file belong to the user, and root alone may not write what is not its
         * own. */
        if (r < 0 || (r = take_back(fd)) < 0)
                return r;
        if (fchownat(fd, "cgroup.kill", 0, 0, AT_SYMLINK_NOFOLLOW) < 0)
                return neg_errno();
        return write_file(fd, "cgroup.kill", "1");
}

int cgroup_is_populated(int cgroup_fd)
{
        _cleanup_free_ char *text = NULL;
        int r;

        r = read_file(cgroup_fd, "cgroup.events", &text);
        if (r < 0)
                return r;
        return !str_has_prefix(text, "populated 0") && !strstr(text, "\npopulated 0");
}

static int remove_below(int parent_fd, const char *name, unsigned depth);

static int remove_children(int fd, unsigned depth)
{
        int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3), result = 0;
        DIR *directory = copy < 0 ? NULL : fdopendir(copy);

        if (!directory) {
                (void) fd_close(copy);
                return neg_errno();
        }
        for (struct dirent *e = readdir(directory); e; e = readdir(directory)) {
                if (e->d_type != DT_DIR || e->d_name[0] == '.')
                        continue;
                int r = remove_below(fd, e->d_name, depth + 1);

                if (r < 0)
                        result = r;
        }
        (void) closedir(directory);
        return result;
}

static int remove_below(int parent_fd, const char *name, unsigned depth)
{
        _cleanup_close_ int fd = -EBADF;
        int r;

        if (unlinkat(parent_fd, name, AT_REMOVEDIR) >= 0 || errno == ENOENT)
                return 0;
        if (depth > CGROUP_DEPTH_MAX)
                return -ELOOP;
        if (fchownat(parent_fd, name, 0, 0, AT_SYMLINK_NOFOLLOW) < 0 ||
            fchmodat(parent_fd, name, 0755, 0) < 0)
                return neg_errno();
        fd = open_directory(parent_fd, name);
        if (fd < 0)
                return fd;
        r = remove_children(fd, depth);
        if (r < 0)
                return r;
        return unlinkat(parent_fd, name, AT_REMOVEDIR) < 0 ? neg_errno() : 0;
}

int cgroup_remove(const CgroupBase *b, const Id *session)
{
        char name[ID_TEXT_SIZE];

        id_format(session, name);
        return remove_below(b->fd, name, 0);
}

/* *n_rounds: what is left for all of them together. */
static int clean_one(const CgroupBase *b, const Id *session, unsigned *n_rounds)
{
        _cleanup_close_ int fd = -EBADF;
        char name[ID_TEXT_SIZE];
        int r;

        id_format(session, name);
        /* The mode may keep even root out without CAP_DAC_OVERRIDE. */
        if (fchownat(b->fd, name, 0, 0, AT_SYMLINK_NOFOLLOW) < 0 || fchmodat(b->fd, name, 0755, 0) < 0)
                return neg_errno();
        fd = open_directory(b->fd, name);
        if (fd < 0)
                return fd;
        cgroup_end_left(fd);
        for (;;) {
                r = cgroup_kill(fd);
                if (r >= 0)
                        r = cgroup_is_populated(fd);
                if (r < 0)
                        return r;
                if (r == 0)
                        return cgroup_remove(b, session);
                if (*n_rounds == 0)
                        return -EBUSY;
                (*n_rounds)--;
                (void) poll(NULL, 0, CGROUP_CLEAN_WAIT_MSEC);
        }
}

int cgroup_base_clean(CgroupBase *b, CgroupLeft on_left, void *userdata)
{
        int copy = fcntl(b->fd, F_DUPFD_CLOEXEC, 3), result = 0;
        DIR *directory = copy < 0 ? NULL : fdopendir(copy);
        unsigned n_rounds = CGROUP_CLEAN_ROUNDS;

        if (!directory) {
                (void) fd_close(copy);
                return neg_errno();
        }
        for (struct dirent *e = readdir(directory); e; e = readdir(directory)) {
                Id session;
                int r;

                if (e->d_type != DT_DIR || id_parse(e->d_name, &session) < 0)
                        continue;
                r = clean_one(b, &session, &n_rounds);
                /* It was killed, and waits for a file system that its user does not let answer. It will run
                 * no further instruction of its own: no reason to keep everybody else waiting. */
                if (r == -EBUSY)
                        (void) log_warning(r, "processes of session %s are killed but do not end",
                                           e->d_name);
                else if (r < 0)
                        result = log_error(r, "cannot remove the control group of session %s", e->d_name);
                else if (on_left)
                        on_left(userdata, &session);
        }
        (void) closedir(directory);
        return result;
}
