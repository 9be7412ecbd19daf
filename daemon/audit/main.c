#include <fcntl.h>
#include <getopt.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/audit/audit.h"
#include "daemon/audit/chain.h"
#include "daemon/audit/checkpoint.h"
#include "daemon/audit/readers.h"
#include "daemon/isolate/worker.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

#define LAUNCHER_FD       3
#define SEGMENT_BYTES_MAX (UINT64_C(256) * 1024 * 1024)
#define LEFTOVER_USEC     (2 * USEC_PER_SEC)
#define FILES_MAX         65536U

typedef struct Arguments {
        const char *state_dir;
        uint32_t uid;
        uint32_t gid;
        uint64_t segment_bytes_max;
        uint64_t retention_bytes;
        QuotaSpec quota;
} Arguments;

/* SQLite on files with a mapped index, a loop, channels, and processes that read. */
static const int syscalls[] = {
        SCMP_SYS(access),         SCMP_SYS(brk),
        SCMP_SYS(clock_gettime),  SCMP_SYS(clock_nanosleep),
        SCMP_SYS(clone),          SCMP_SYS(clone3),
        SCMP_SYS(close),          SCMP_SYS(close_range),
        SCMP_SYS(dup3),           SCMP_SYS(epoll_create1),
        SCMP_SYS(epoll_ctl),      SCMP_SYS(epoll_pwait),
        SCMP_SYS(epoll_pwait2),   SCMP_SYS(epoll_wait),
        SCMP_SYS(eventfd2),       SCMP_SYS(exit),
        SCMP_SYS(exit_group),     SCMP_SYS(faccessat),
        SCMP_SYS(faccessat2),     SCMP_SYS(fallocate),
        SCMP_SYS(fchmod),         SCMP_SYS(fcntl),
        SCMP_SYS(fdatasync),      SCMP_SYS(fstat),
        SCMP_SYS(fstatfs),        SCMP_SYS(fsync),
        SCMP_SYS(ftruncate),      SCMP_SYS(futex),
        SCMP_SYS(getcwd),         SCMP_SYS(getdents64),
        SCMP_SYS(getegid),        SCMP_SYS(geteuid),
        SCMP_SYS(getgid),         SCMP_SYS(getpid),
        SCMP_SYS(getrandom),      SCMP_SYS(gettid),
        SCMP_SYS(getuid),         SCMP_SYS(gettimeofday),
        SCMP_SYS(kill),           SCMP_SYS(lseek),
        SCMP_SYS(lstat),          SCMP_SYS(madvise),
        SCMP_SYS(mlock),          SCMP_SYS(mmap),
        SCMP_SYS(mprotect),       SCMP_SYS(mremap),
        SCMP_SYS(munmap),         SCMP_SYS(newfstatat),
        SCMP_SYS(open),           SCMP_SYS(openat),
        SCMP_SYS(pipe2),          SCMP_SYS(poll),
        SCMP_SYS(ppoll),          SCMP_SYS(pread64),
        SCMP_SYS(pwrite64),       SCMP_SYS(read),
        SCMP_SYS(readlink),       SCMP_SYS(readlinkat),
        SCMP_SYS(recvmsg),        SCMP_SYS(rename),
        SCMP_SYS(renameat),       SCMP_SYS(renameat2),
        SCMP_SYS(rseq),           SCMP_SYS(rt_sigaction),
        SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn),
        SCMP_SYS(sendmsg),        SCMP_SYS(setpriority),
        SCMP_SYS(setsid),         SCMP_SYS(set_robust_list),
        SCMP_SYS(setsockopt),     SCMP_SYS(socketpair),
        SCMP_SYS(stat),           SCMP_SYS(statx),
        SCMP_SYS(sysinfo),        SCMP_SYS(tgkill),
        SCMP_SYS(timerfd_create), SCMP_SYS(timerfd_settime),
        SCMP_SYS(umask),          SCMP_SYS(time),
        SCMP_SYS(unlink),         SCMP_SYS(unlinkat),
        SCMP_SYS(wait4),          SCMP_SYS(write),
        SCMP_SYS(writev),
};

static int parse_arguments(int argc, char **argv, Arguments *ret)
{
        static const struct option options[] = {
                { "state-dir", required_argument, NULL, 's' },
                { "uid", required_argument, NULL, 'u' },
                { "gid", required_argument, NULL, 'g' },
                { "segment-bytes", required_argument, NULL, 'b' },
                { "retention-bytes", required_argument, NULL, 'r' },
                { "rows-per-second", required_argument, NULL, 'q' },
                { "rows-share", required_argument, NULL, 'p' },
                { 0 },
        };
        Arguments a = { .uid = UINT32_MAX, .gid = UINT32_MAX, .segment_bytes_max = SEGMENT_BYTES_MAX };
        int c, r = 0;

        while (r >= 0 && (c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
                if (c == 's')
                        a.state_dir = optarg;
                else if (c == 'u')
                        r = parse_u32(optarg, &a.uid);
                else if (c == 'g')
                        r = parse_u32(optarg, &a.gid);
                else if (c == 'b')
                        r = parse_u64(optarg, &a.segment_bytes_max);
                else if (c == 'r')
                        r = parse_u64(optarg, &a.retention_bytes);
                else if (c == 'q')
                        r = parse_u32(optarg, &a.quota.rows_per_second);
                else if (c == 'p')
                        r = parse_u32(optarg, &a.quota.share_percent);
                else
                        r = -EINVAL;
        }
        if (r < 0 || optind < argc || !a.state_dir || a.state_dir[0] != '/' || a.uid == 0 || a.gid == 0)
                return log_error(
                                -EINVAL,
                                "usage: sandboxd-audit --state-dir /DIR --uid N --gid N"
                                " [--segment-bytes N] [--retention-bytes N] [--rows-per-second N] [--rows-share N]");
        *ret = a;
        return 0;
}

/* First line of a small file of the kernel's or the system's; "unknown" where there is none. */
static void read_line(const char *path, char *ret, size_t size)
{
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd >= 0 ? read(fd, ret, size - 1) : -1;

        if (n <= 0) {
                sb_assert(str_copy(ret, size, "unknown") >= 0);
                return;
        }
        ret[n] = '\0';
        ret[strcspn(ret, "\n")] = '\0';
}

/* By descriptor, never by name twice: STATE belongs to root, the folder in it to us. */
static int make_directory(const Arguments *a)
{
        _cleanup_close_ int state = -EBADF, fd = -EBADF;
        struct stat st;

        state = open(a->state_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (state < 0)
                return neg_errno();
        if (mkdirat(state, "audit", 0700) < 0 && errno != EEXIST)
                return neg_errno();
        fd = openat(state, "audit", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return neg_errno();
        if (geteuid() != 0)
                return 0;
        if (fchown(fd, a->uid, a->gid) < 0 || fchmod(fd, 0700) < 0 || fstat(fd, &st) < 0)
                return neg_errno();
        return st.st_uid == a->uid ? 0 : -EPERM;
}

static int confine(const Arguments *a, const char *directory)
{
        WorkerDirectory visible = { .path = directory, .is_writable = true };
        WorkerSpec spec = { .name = "sandboxd-audit",
                            .uid = a->uid,
                            .gid = a->gid,
                            .directories = &visible,
                            .n_directories = 1,
                            .syscalls = syscalls,
                            .n_syscalls = ELEMENTSOF(syscalls),
                            .may_fork = true,
                            .files_max = FILES_MAX };

        /* Without root there is nothing to give up: a test's instance. */
        if (geteuid() != 0)
                return 0;
        if (a->uid == UINT32_MAX || a->gid == UINT32_MAX)
                return log_error(-EINVAL, "As root --uid and --gid are needed");
        return worker_confine(&spec);
}

/* What the libraries load on first use must be there before the file system goes. */
static int warm_up(void)
{
        static const uint8_t no_secret[KEY_SIZE];
        _cleanup_(signing_key_freep) SigningKey *key = NULL;
        _cleanup_(chain_freep) Chain *chain = NULL;
        uint8_t digest[DIGEST_SIZE], public_key[KEY_SIZE];
        char id[KEY_ID_SIZE];
        Checkpoint c = { .sequence = 1 };
        int r;

        r = chain_new(&chain);
        if (r >= 0)
                r = chain_digest(chain, "", 0, digest);
        if (r >= 0)
                r = signing_key_new(no_secret, &key);
        if (r >= 0)
                r = signing_key_public(key, public_key);
        if (r >= 0)
                r = key_id(public_key, id);
        if (r >= 0)
                r = checkpoint_sign(key, &c);
        if (r >= 0)
                r = checkpoint_verify(&c, public_key) == 1 ? 0 : -EIO;
        return r;
}

static int prepare(const Arguments *a, const char *directory, Readers **ret)
{
        struct sigaction ignore = { .sa_handler = SIG_IGN };
        int r;

        if (sigaction(SIGPIPE, &ignore, NULL) < 0)
                return neg_errno();
        r = fd_set_cloexec(LAUNCHER_FD, true);
        if (r < 0)
                return log_error(r, "No channel to the launcher");
        r = make_directory(a);
        if (r < 0)
                return log_error(r, "%s cannot be made ours", directory);
        r = warm_up();
        if (r >= 0)
                r = confine(a, directory);
        if (r < 0)
                return r;
        /* Not before: it would close the way to the folder, which confinement makes. */
        (void) umask(0077);
        return readers_new(directory, ret);
}

int main(int argc, char **argv)
{
        char directory[PRIV_PATH_SIZE], machine_id[PRIV_NAME_SIZE], boot_id[PRIV_NAME_SIZE];
        AuditSpec spec = { .store = { .directory = directory, .machine_id = machine_id, .boot_id = boot_id },
                           .launcher_fd = LAUNCHER_FD,
                           .leftover_usec = LEFTOVER_USEC };
        Arguments a = { 0 };
        Readers *readers = NULL;
        int r;

        log_open("sandboxd-audit");
        r = parse_arguments(argc, argv, &a);
        if (r < 0)
                return 2;
        spec.store.segment_bytes_max = a.segment_bytes_max;
        spec.store.retention_bytes = a.retention_bytes;
        spec.quota = a.quota;
        read_line("/etc/machine-id", machine_id, sizeof(machine_id));
        read_line("/proc/sys/kernel/random/boot_id", boot_id, sizeof(boot_id));
        r = str_printf(directory, sizeof(directory), "%s/audit", a.state_dir);
        if (r >= 0)
                r = prepare(&a, directory, &readers);
        if (r >= 0)
                r = audit_run(&spec, readers);
        return r < 0 ? 1 : 0;
}
