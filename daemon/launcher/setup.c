#include "daemon/launcher/setup.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/isolate/filter.h"
#include "daemon/isolate/fuse.h"
#include "daemon/isolate/netns.h"
#include "daemon/isolate/prevention.h"
#include "daemon/isolate/probe.h"
#include "daemon/isolate/spawn.h"
#include "daemon/isolate/template.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"
#include "proto/base/tcp_peer.h"

static const char *const program_names[] = {
        [PROGRAM_API] = "sandboxd-api",       [PROGRAM_AUDIT] = "sandboxd-audit",
        [PROGRAM_DIALER] = "sandboxd-dialer", [PROGRAM_EGRESS] = "sandboxd-egress",
        [PROGRAM_LOOKUP] = "sandboxd-lookup", [PROGRAM_INIT] = "sandbox-init",
        [PROGRAM_WATCH] = "sandboxd-watch",
};
ASSERT_TABLE(program_names, _PROGRAM_MAX);

/* KILL: workers run as users of their own. */
static const struct {
        unsigned number;
        const char *name;
} needed[] = {
        { CAP_SYS_ADMIN, "SYS_ADMIN" }, { CAP_SETUID, "SETUID" },
        { CAP_SETGID, "SETGID" },       { CAP_NET_ADMIN, "NET_ADMIN" },
        { CAP_CHOWN, "CHOWN" },         { CAP_SYS_CHROOT, "SYS_CHROOT" },
        { CAP_KILL, "KILL" },           { CAP_NET_BIND_SERVICE, "NET_BIND_SERVICE" },
};

/* Until they confine themselves: workers empty their bounding set, and open directories that belong to the
 * user that they are about to become. */
static const unsigned needed_by_children[] = { CAP_SETPCAP, CAP_DAC_OVERRIDE, CAP_FOWNER };

static int get_capabilities(struct __user_cap_data_struct data[2])
{
        struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };

        return syscall(SYS_capget, &header, data) < 0 ? neg_errno() : 0;
}

static bool has(const struct __user_cap_data_struct data[2], unsigned number)
{
        return data[number / 32].effective & (1U << (number % 32));
}

int setup_check_capabilities(void)
{
        struct __user_cap_data_struct data[2];
        int r;

        r = get_capabilities(data);
        if (r < 0)
                return r;
        for (size_t i = 0; i < ELEMENTSOF(needed); i++) {
                if (!has(data, needed[i].number))
                        return log_error(-EPERM, "capability %s is missing: start sandboxd as root",
                                         needed[i].name);
        }
        if (!has(data, CAP_SETPCAP))
                return log_error(-EPERM, "capability SETPCAP is missing: start sandboxd as root");
        return 0;
}

static bool children_need(unsigned number)
{
        for (size_t i = 0; i < ELEMENTSOF(needed); i++) {
                if (needed[i].number == number)
                        return true;
        }
        for (size_t i = 0; i < ELEMENTSOF(needed_by_children); i++) {
                if (needed_by_children[i] == number)
                        return true;
        }
        return false;
}

int setup_drop_capabilities(void)
{
        struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct data[2] = { 0 };

        for (unsigned number = 0; number <= CAP_LAST_CAP; number++) {
                /* EINVAL: newer than this kernel. */
                if (!children_need(number) && prctl(PR_CAPBSET_DROP, (unsigned long) number, 0, 0, 0) < 0 &&
                    errno != EINVAL)
                        return neg_errno();
        }
        for (size_t i = 0; i < ELEMENTSOF(needed); i++) {
                data[needed[i].number / 32].effective |= 1U << (needed[i].number % 32);
                data[needed[i].number / 32].permitted |= 1U << (needed[i].number % 32);
        }
        if (syscall(SYS_capset, &header, data) < 0)
                return neg_errno();
        return 0;
}

static int open_programs(const Config *config, Kernel *k)
{
        for (size_t i = 0; i < ELEMENTSOF(program_names); i++) {
                char path[PRIV_PATH_SIZE];
                int r = str_printf(path, sizeof(path), "%s/%s", config->libexec_dir, program_names[i]);

                if (r < 0)
                        return r;
                k->program_fds[i] = open(path, O_PATH | O_CLOEXEC);
                if (k->program_fds[i] < 0)
                        return log_error(neg_errno(), "cannot open %s", path);
        }
        return 0;
}

static int open_own(Kernel *k)
{
        int r;

        k->null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (k->null_fd < 0)
                return log_error(neg_errno(), "cannot open /dev/null");
        k->mount_fd = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
        if (k->mount_fd < 0)
                return log_error(neg_errno(), "cannot open the mount namespace");
        if (tcp_peer_open(&k->diag_fd) < 0)
                k->diag_fd = -EBADF;
        if (proc_mount_new(&k->proc_fd) < 0)
                k->proc_fd = -EBADF;
        r = netns_open_home(&k->network_fd);
        return r < 0 ? log_error(r, "cannot open the network namespace") : 0;
}

static int make_directories(const Config *config)
{
        if (mkdir(config->state_dir, 0700) < 0 && errno != EEXIST)
                return log_error(neg_errno(), "cannot make %s", config->state_dir);
        return 0;
}

static int make_group(const Config *config, Kernel *k)
{
        int r = cgroup_base_new(config->runtime_dir, &k->cgroups);

        if (r < 0)
                return log_error(r, "cannot make a control group (v2) below our own");
        r = cgroup_base_clean(k->cgroups, NULL, NULL);
        if (r < 0)
                return log_error(r, "an earlier run left processes that cannot be ended");
        return 0;
}

static int make_template(Kernel *k)
{
        int r = template_new(&k->template_fd);

        return r < 0 ? log_error(r, "cannot make the template mount namespace") : 0;
}

/* A socket for pings gets as far as what refuses it and tells, where there is that. */
static int make_filters(Kernel *k)
{
        int r = filter_session_new(k->pings != NULL, &k->session_filter_fd);

        if (r >= 0)
                r = filter_command_new(&k->command_filter_fd);
        if (r < 0)
                return log_error(r, "cannot make the system call filters");
        return 0;
}

static void add_degraded(Kernel *k, const char *word)
{
        char text[sizeof(k->degraded)];

        if (str_printf(text, sizeof(text), "%s%s%s", k->degraded, k->degraded[0] ? "," : "", word) >= 0)
                memcpy(k->degraded, text, sizeof(text));
}

/* What sessions go without on this machine. */
static void note_degraded(Kernel *k)
{
        for (uint32_t i = 0; i < _PROBE_MAX; i++) {
                if (k->probes[i].error < 0 && probe_layer(i))
                        add_degraded(k, probe_layer(i));
        }
}

/* Without one of these no session can be made as it should be. The start of each would say so; so does that
 * of the daemon, before anybody relies on it. */
static int refuse_without(const PrivProbe probes[_PROBE_MAX])
{
        static const struct {
                PrivProbeName probe;
                const char *name;
        } musts[] = {
                { PROBE_LANDLOCK, "Landlock, ABI 2 or later" },
                { PROBE_OPENAT2, "openat2()" },
                { PROBE_MOUNT_API, "open_tree(), move_mount() and mount_setattr()" },
                { PROBE_CLONE_INTO_CGROUP, "clone3() into a control group" },
                { PROBE_CGROUP_KILL, "cgroup.kill" },
                { PROBE_SECCOMP, "seccomp filters" },
                { PROBE_USER_NAMESPACE, "user namespaces" },
                { PROBE_NETWORK_NAMESPACE, "network namespaces" },
                { PROBE_REDIRECT, "nftables with TPROXY, or BPF with sk_lookup" },
        };

        for (size_t i = 0; i < ELEMENTSOF(musts); i++) {
                int error = probes[musts[i].probe].error;

                if (error < 0)
                        return log_error(error, "this kernel must have %s, and it does not work",
                                         musts[i].name);
        }
        return 0;
}

/* In the kernel, where it lets us: the probe says what sessions have. */
static void make_prevention(const Config *config, Kernel *k)
{
        PrivProbe *probe = &k->probes[PROBE_BPF_LSM];
        _cleanup_close_ int fd = -EBADF;
        char path[PRIV_PATH_SIZE];

        if (probe->error < 0)
                return;
        if (str_printf(path, sizeof(path), "%s/sandboxd-bpf", config->libexec_dir) >= 0)
                fd = open(path, O_PATH | O_CLOEXEC);
        probe->error = prevention_new(k->cgroups, fd, k->null_fd, &k->prevention, &probe->value);
        if (probe->error < 0)
                (void) log_warning(probe->error, "protected paths are kept by mounts and a guard alone");
}

#define SETUP_NICE (-10)

static void raise_limits(void)
{
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) >= 0) {
                limit.rlim_cur = limit.rlim_max;
                (void) setrlimit(RLIMIT_NOFILE, &limit);
        }
        /* Everybody waits for us and the log: a user who keeps the processors busy must not make others
         * wait. */
        spawn_set_priority(SETUP_NICE, /* is_prompt= */ true);
}

int setup_kernel(const Config *config, Kernel *k)
{
        int r;

        raise_limits();
        r = make_directories(config);
        if (r >= 0)
                r = open_programs(config, k);
        if (r >= 0)
                r = open_own(k);
        if (r >= 0)
                r = make_group(config, k);
        if (r >= 0)
                r = make_template(k);
        if (r < 0)
                return r;
        probe_all(k->cgroups, k->network_fd, k->probes, &k->steering, &k->pings);
        make_prevention(config, k);
        note_degraded(k);
        r = refuse_without(k->probes);
        return r < 0 ? r : make_filters(k);
}

void kernel_done(Kernel *k)
{
        fd_close_many(k->program_fds, ELEMENTSOF(k->program_fds));
        k->null_fd = fd_close(k->null_fd);
        k->network_fd = fd_close(k->network_fd);
        k->mount_fd = fd_close(k->mount_fd);
        k->diag_fd = fd_close(k->diag_fd);
        k->proc_fd = fd_close(k->proc_fd);
        k->template_fd = fd_close(k->template_fd);
        k->session_filter_fd = fd_close(k->session_filter_fd);
        k->command_filter_fd = fd_close(k->command_filter_fd);
        k->steering = steering_free(k->steering);
        k->pings = pings_free(k->pings);
        k->prevention = prevention_free(k->prevention);
        k->cgroups = cgroup_base_free(k->cgroups);
}

int setup_describe(const Launcher *l, PrivApiStart *body)
{
        const Config *c = l->config;
        const char *const all[] = { c->config_dir, c->state_dir, c->runtime_dir };
        int r = 0;

        memcpy(body->degraded, l->kernel->degraded, sizeof(body->degraded));
        for (size_t i = 0; r >= 0 && i < PRIV_FOLDERS_MAX; i++)
                r = str_printf(body->folders[i], sizeof(body->folders[i]), "%s", all[i]);
        return r;
}
