#include <errno.h>
#include <linux/keyctl.h>
#include <linux/magic.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "daemon/init/setup.h"
#include "daemon/isolate/kernel.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

/*
 * Each layer is tried by something that only it refuses, so that one layer cannot hide that another is
 * missing. An attempt that succeeds, or fails in another way than it should, ends the start.
 */

#define TEXT_MAX         8192
#define STATFS_READ_ONLY 1U
#define STATFS_NOSUID    2U

/* Whole content of a small file of /proc. */
static int read_text(const char *path, char *text, size_t size)
{
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        size_t n = 0;

        if (fd < 0)
                return neg_errno();
        for (;;) {
                ssize_t got = read(fd, text + n, size - n - 1);

                if (got < 0)
                        return neg_errno();
                if (got == 0)
                        break;
                n += (size_t) got;
                if (n >= size - 1)
                        return -EFBIG;
        }
        text[n] = '\0';
        return 0;
}

static bool has_line(const char *text, const char *line)
{
        size_t n = strlen(line);

        for (const char *p = text; *p;) {
                const char *end = strchrnul(p, '\n');

                if ((size_t) (end - p) == n && strncmp(p, line, n) == 0)
                        return true;
                p = *end ? end + 1 : end;
        }
        return false;
}

/* errno of a call that had to fail with this one. */
static int expect(Setup *s, long result, int error, const char *what)
{
        int got = result >= 0 ? 0 : errno;

        if (got == error)
                return 0;
        return setup_fail(s, -ENOTRECOVERABLE, "%s: %s instead of %s", what,
                          got ? error_name(got) : "success", error_name(error));
}

static int check_seccomp(Setup *s)
{
        uint8_t parameters[256] = { 0 };
        int r;

        setup_step(s, "check-seccomp");
        if (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) != 2)
                return setup_fail(s, -ENOTRECOVERABLE, "no filter");
        r = expect(s, syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0), EPERM,
                   "keyctl");
        if (r == 0)
                r = expect(s, syscall(SYS_io_uring_setup, 1, parameters), ENOSYS, "io_uring_setup");
        if (r == 0)
                r = expect(s, unshare(CLONE_NEWUSER), EPERM, "unshare");
        if (r == 0)
                r = expect(s, socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0), EAFNOSUPPORT,
                           "socket(AF_VSOCK)");
        if (r == 0)
                r = expect(s, syscall(SYS_personality, 0x0040000UL), EPERM, "personality");
        return r;
}

/* The directory is writable in every other respect. */
static int check_landlock(Setup *s)
{
        setup_step(s, "check-landlock");
        return expect(s, openat(s->proof_fd, "x", O_WRONLY | O_CREAT | O_CLOEXEC, 0600), EACCES,
                      "a file where no rule allows one");
}

static int check_mounts(Setup *s)
{
        static const char *const read_only[] = { "/", "/usr", "/etc", "/dev", "/run/sandbox/mask" };
        struct stat st;
        struct statfs fs;
        int r;

        setup_step(s, "check-mounts");
        if (stat("/", &st) < 0 || st.st_dev != s->root_device)
                return setup_fail(s, -ENOTRECOVERABLE, "the root is not ours");
        for (size_t i = 0; i < ELEMENTSOF(read_only); i++) {
                if (statfs(read_only[i], &fs) < 0)
                        return setup_fail(s, neg_errno(), "%s", read_only[i]);
                if (!(fs.f_flags & STATFS_READ_ONLY) || !(fs.f_flags & STATFS_NOSUID))
                        return setup_fail(s, -ENOTRECOVERABLE, "%s is writable", read_only[i]);
        }
        r = expect(s, open("/etc/shadow", O_RDONLY | O_CLOEXEC), ENOENT, "/etc/shadow");
        if (r == 0)
                r = expect(s, mkdir("/usr/sandbox", 0700), EROFS, "mkdir in /usr");
        return r;
}

/* must_hide: something else than /proc shows there; read-only in any case. */
static int check_proc_entry(Setup *s, const char *name, bool must_hide)
{
        struct statfs fs;
        char path[64];
        int r;

        r = str_printf(path, sizeof(path), "/proc/%s", name);
        if (r < 0)
                return setup_fail(s, r, "path");
        if (statfs(path, &fs) < 0)
                return errno == ENOENT ? 0 : setup_fail(s, neg_errno(), "%s", path);
        if (!(fs.f_flags & STATFS_READ_ONLY))
                return setup_fail(s, -ENOTRECOVERABLE, "%s is writable", path);
        if (must_hide && fs.f_type == PROC_SUPER_MAGIC)
                return setup_fail(s, -ENOTRECOVERABLE, "%s shows", path);
        return 0;
}

static int check_masks(Setup *s)
{
        int r = 0;

        setup_step(s, "check-masks");
        for (size_t i = 0; r == 0 && root_proc_empty[i]; i++)
                r = check_proc_entry(s, root_proc_empty[i], /* must_hide= */ true);
        for (size_t i = 0; r == 0 && root_proc_read_only[i]; i++)
                r = check_proc_entry(s, root_proc_read_only[i], /* must_hide= */ false);
        return r;
}

static int add_map_line(char *text, size_t size, uint32_t id)
{
        size_t n = strlen(text);

        return str_printf(text + n, size - n, "%10u %10u %10u\n", id, id, 1U);
}

/* The kernel shows few lines as they were written and many in their order: the number of ids, and that each
 * is there, is what counts. */
static int check_map(Setup *s, const char *path, uint32_t id, uint32_t n_more, const uint32_t *more)
{
        char text[TEXT_MAX], line[64] = "";
        size_t n_expected = 0;
        int r;

        r = read_text(path, text, sizeof(text));
        if (r < 0)
                return setup_fail(s, r, "%s", path);
        for (uint32_t i = 0; i <= n_more; i++) {
                line[0] = '\0';
                r = add_map_line(line, sizeof(line), i == 0 ? id : more[i - 1]);
                if (r < 0 || !strstr(text, line))
                        return setup_fail(s, -ENOTRECOVERABLE, "%s does not map %u", path,
                                          i == 0 ? id : more[i - 1]);
                n_expected += strlen(line);
        }
        if (strlen(text) != n_expected)
                return setup_fail(s, -ENOTRECOVERABLE, "%s maps more than the session's own", path);
        return 0;
}

static int check_identity(Setup *s)
{
        uid_t uid, euid, suid;
        gid_t gid, egid, sgid;
        char text[TEXT_MAX];
        int r;

        setup_step(s, "check-identity");
        if (getresuid(&uid, &euid, &suid) < 0 || getresgid(&gid, &egid, &sgid) < 0)
                return setup_fail(s, neg_errno(), "ids");
        if (uid != s->start.uid || euid != uid || suid != uid || gid != s->start.gid || egid != gid ||
            sgid != gid)
                return setup_fail(s, -ENOTRECOVERABLE, "ids");
        if (setresuid(0, 0, 0) >= 0)
                return setup_fail(s, -ENOTRECOVERABLE, "could become root again");
        r = check_map(s, "/proc/self/uid_map", s->start.uid, 0, NULL);
        if (r == 0)
                r = check_map(s, "/proc/self/gid_map", s->start.gid, s->start.n_kept_groups,
                              s->start.kept_groups);
        if (r < 0)
                return r;
        r = read_text("/proc/self/setgroups", text, sizeof(text));
        if (r < 0 || !str_equal(text, "deny\n"))
                return setup_fail(s, -ENOTRECOVERABLE, "setgroups is not denied");
        r = read_text("/proc/sys/user/max_user_namespaces", text, sizeof(text));
        if (r < 0 || !str_equal(text, "0\n"))
                return setup_fail(s, -ENOTRECOVERABLE, "max_user_namespaces");
        return 0;
}

/* Their number only: in the session's user namespace most of them have no name. */
static int check_groups(Setup *s)
{
        int n = getgroups(0, NULL);

        setup_step(s, "check-groups");
        if (n < 0 || (uint32_t) n > s->start.n_kept_groups)
                return setup_fail(s, -ENOTRECOVERABLE, "%d groups, %u were kept", n, s->start.n_kept_groups);
        return 0;
}

static int check_limits(Setup *s)
{
        struct rlimit core;

        setup_step(s, "check-limits");
        if (getrlimit(RLIMIT_CORE, &core) < 0)
                return setup_fail(s, neg_errno(), "getrlimit");
        return core.rlim_max <= 1 ? 0 : setup_fail(s, -ENOTRECOVERABLE, "core files");
}

static int check_capabilities(Setup *s)
{
        static const char *const lines[] = {
                "CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000",
                "CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1",
        };
        char text[TEXT_MAX];
        int r;

        setup_step(s, "check-capabilities");
        r = read_text("/proc/self/status", text, sizeof(text));
        if (r < 0)
                return setup_fail(s, r, "status");
        for (size_t i = 0; i < ELEMENTSOF(lines); i++) {
                if (!has_line(text, lines[i]))
                        return setup_fail(s, -ENOTRECOVERABLE, "not %s", lines[i]);
        }
        if (prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 0)
                return setup_fail(s, -ENOTRECOVERABLE, "dumpable");
        return 0;
}

/* Other hierarchies (cgroup v1) have lines of their own. */
static int check_cgroup(Setup *s)
{
        char text[TEXT_MAX];
        int r;

        setup_step(s, "check-cgroup");
        r = read_text("/proc/self/cgroup", text, sizeof(text));
        if (r < 0)
                return setup_fail(s, r, "/proc/self/cgroup");
        return has_line(text, "0::/")
                               ? 0
                               : setup_fail(s, -ENOTRECOVERABLE, "not the root of a cgroup namespace");
}

static int check_network(Setup *s)
{
        char text[TEXT_MAX];
        int r, n = 0;

        setup_step(s, "check-network");
        r = read_text("/proc/self/net/dev", text, sizeof(text));
        if (r < 0)
                return setup_fail(s, r, "/proc/self/net/dev");
        /* Two lines of headings, then a line for each device. */
        for (const char *line = text; *line; n++) {
                const char *end = strchrnul(line, '\n');

                if (n >= 2 && !str_has_prefix(line + strspn(line, " "), "lo:"))
                        return setup_fail(s, -ENOTRECOVERABLE, "a device but lo");
                line = *end ? end + 1 : end;
        }
        return n >= 3 ? 0 : setup_fail(s, -ENOTRECOVERABLE, "no lo");
}

int check_all(Setup *s)
{
        static const struct {
                unsigned layer;
                int (*run)(Setup *s);
        } checks[] = {
                { LAYER_MOUNTS, check_mounts },           { LAYER_MASKS, check_masks },
                { LAYER_USER_NAMESPACE, check_identity }, { LAYER_GROUPS, check_groups },
                { LAYER_LIMITS, check_limits },           { LAYER_CAPABILITIES, check_capabilities },
                { LAYER_CGROUP, check_cgroup },           { LAYER_NETWORK, check_network },
                { LAYER_LANDLOCK, check_landlock },       { LAYER_SECCOMP, check_seccomp },
        };

        for (size_t i = 0; i < ELEMENTSOF(checks); i++) {
                int r = SETUP_CHECKS(s, checks[i].layer) ? checks[i].run(s) : 0;

                if (r < 0)
                        return r;
        }
        return 0;
}
