/*
 * What the kernel charges for a sandbox: clone3 with the namespaces of a session, the same mounts and masks,
 * execve. No filter, no control group, no record: nothing that takes this many namespaces can be faster. An
 * ordinary user may run it: the user namespace comes first.
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *const masks[] = {
        "kallsyms",     "keys",          "key-users",     "kcore",     "kmsg",     "kpagecount",
        "kpageflags",   "kpagecgroup",   "timer_list",    "schedstat", "slabinfo", "vmallocinfo",
        "pagetypeinfo", "interrupts",    "softirqs",      "iomem",     "ioports",  "modules",
        "config.gz",    "latency_stats", "sysrq-trigger", "cmdline",   "acpi",     "asound",
};

static void must(const char *what, long result)
{
        if (result < 0) {
                perror(what);
                _exit(1);
        }
}

static void write_file(const char *path, const char *text)
{
        int fd = open(path, O_WRONLY | O_CLOEXEC);

        must(path, fd);
        must(path, write(fd, text, strlen(text)));
        close(fd);
}

static void become(uid_t uid, gid_t gid)
{
        char line[64];

        write_file("/proc/self/setgroups", "deny");
        snprintf(line, sizeof(line), "%u %u 1", uid, uid);
        write_file("/proc/self/uid_map", line);
        snprintf(line, sizeof(line), "%u %u 1", gid, gid);
        write_file("/proc/self/gid_map", line);
}

static void make_mounts(const char *workspace)
{
        static const char *const links[] = { "bin", "sbin", "lib", "lib64" };
        static const char *const folders[] = { "usr",     "etc", "proc", "dev",  "dev/pts",
                                               "dev/shm", "tmp", "home", "work", "old" };

        must("private", mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
        must("root", mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755"));
        must("chdir", chdir("/tmp"));
        for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++)
                must(folders[i], mkdir(folders[i], 0755));
        for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++) {
                char target[32];

                snprintf(target, sizeof(target), "usr/%s", links[i]);
                must(target, symlink(target, links[i]));
        }
        must("usr", mount("/usr", "usr", NULL, MS_BIND | MS_REC, NULL));
        must("etc", mount("/etc", "etc", NULL, MS_BIND | MS_REC, NULL));
        must("work", mount(workspace, "work", NULL, MS_BIND | MS_REC, NULL));
        must("pts",
             mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666"));
        must("shm", mount("tmpfs", "dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, NULL));
        must("home", mount("tmpfs", "home", "tmpfs", MS_NOSUID | MS_NODEV, NULL));
        must("proc", mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
        for (size_t i = 0; i < sizeof(masks) / sizeof(masks[0]); i++) {
                char target[64];

                snprintf(target, sizeof(target), "proc/%s", masks[i]);
                if (mount("/dev/null", target, NULL, MS_BIND, NULL) < 0 && errno != ENOENT &&
                    errno != ENOTDIR)
                        must(target, -1);
        }
        must("pivot_root", syscall(SYS_pivot_root, ".", "old"));
        must("umount", umount2("old", MNT_DETACH));
        must("chdir", chdir("/work"));
}

int main(int argc, char **argv)
{
        struct clone_args arguments = { .flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC |
                                                 CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWCGROUP,
                                        .exit_signal = SIGCHLD };
        uid_t uid = getuid();
        gid_t gid = getgid();
        int status;
        long pid;

        if (argc < 3)
                return 2;
        pid = syscall(SYS_clone3, &arguments, sizeof(arguments));
        must("clone3", pid);
        if (pid == 0) {
                become(uid, gid);
                make_mounts(argv[1]);
                execv(argv[2], argv + 2);
                _exit(127);
        }
        if (waitpid((pid_t) pid, &status, 0) != pid)
                return 1;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
