#include "tests/fuzz/processes.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/isolate/cgroup.h"
#include "daemon/isolate/fuse.h"
#include "daemon/isolate/netns.h"
#include "daemon/isolate/pings.h"
#include "daemon/isolate/prevention.h"
#include "daemon/isolate/spawn.h"
#include "daemon/isolate/userns.h"
#include "daemon/launcher/listen.h"
#include "daemon/launcher/lookup.h"
#include "daemon/launcher/peer.h"
#include "daemon/launcher/setup.h"
#include "proto/base/fd.h"
#include "tests/fuzz/fuzz.h"

#define CONTROLLERS 0x7U

struct Lookup {
        ListLink link;
        Launcher *launcher;
        bool is_load;
        LookupCallback callback;
        void *userdata;
        uint32_t uid;
};

FakeProcess fake_processes[FAKE_PROCESSES_MAX];
unsigned fake_n_processes;
unsigned fake_fail_in;
static ListLink lookups = { &lookups, &lookups };

/* Linked with -Wl,--wrap: the launcher's own calls, not those of the runtime. */
long __wrap_syscall(long number, ...);
int __wrap_waitid(idtype_t type, id_t id, siginfo_t *info, int options);

static int null_fd(void)
{
        int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

        sb_assert(fd >= 0);
        return fd;
}

static bool fails(void)
{
        return fake_fail_in > 0 && --fake_fail_in == 0;
}

static FakeProcess *find(int pidfd)
{
        for (unsigned i = 0; i < fake_n_processes; i++) {
                if (fake_processes[i].pidfd == pidfd && !fake_processes[i].is_reaped)
                        return &fake_processes[i];
        }
        return NULL;
}

void fake_process_kill(FakeProcess *p)
{
        if (!p->is_alive)
                return;
        p->is_alive = false;
        p->channel_fd = fd_close(p->channel_fd);
        sb_assert(write(p->state_fd, &(uint64_t){ 1 }, sizeof(uint64_t)) == sizeof(uint64_t));
}

long __wrap_syscall(long number, ...)
{
        FakeProcess *p;
        va_list ap;
        int fd;

        va_start(ap, number);
        fd = va_arg(ap, int);
        va_end(ap);
        sb_assert(number == SYS_pidfd_send_signal);
        /* None: it has been reaped. */
        p = find(fd);
        if (p)
                fake_process_kill(p);
        return 0;
}

int __wrap_waitid(_unused_ idtype_t type, id_t id, siginfo_t *info, _unused_ int options)
{
        FakeProcess *p = find((int) id);

        sb_assert(p && !p->is_reaped);
        if (p->is_alive)
                return 0;
        p->is_reaped = true;
        info->si_pid = 1000 + (pid_t) (p - fake_processes);
        info->si_code = CLD_KILLED;
        info->si_status = SIGKILL;
        return 0;
}

static uint32_t uid_of(char *const *arguments)
{
        uint32_t uid = 0;

        for (size_t i = 0; arguments[i] && arguments[i + 1]; i++) {
                if (strcmp(arguments[i], "--uid") == 0)
                        uid = (uint32_t) strtoul(arguments[i + 1], NULL, 10);
        }
        return uid;
}

int spawn(const SpawnSpec *spec, pid_t *ret_pid, int *ret_pidfd)
{
        FakeProcess *p = &fake_processes[fake_n_processes];

        if (fake_n_processes == FAKE_PROCESSES_MAX || fails())
                return -EAGAIN;
        *p = (FakeProcess){ .is_alive = true };
        if (strcmp(spec->arguments[0], "sandboxd-api") == 0)
                p->program = PROGRAM_API;
        else if (strcmp(spec->arguments[0], "sandboxd-audit") == 0)
                p->program = PROGRAM_AUDIT;
        else if (strcmp(spec->arguments[0], "sandboxd-dialer") == 0)
                p->program = PROGRAM_DIALER;
        else if (strcmp(spec->arguments[0], "sandboxd-egress") == 0)
                p->program = PROGRAM_EGRESS;
        else if (strcmp(spec->arguments[0], "sandboxd-watch") == 0)
                p->program = PROGRAM_WATCH;
        else
                p->program = PROGRAM_INIT;
        if (p->program == PROGRAM_API)
                p->uid = uid_of(spec->arguments);
        p->channel_fd = fcntl(spec->fds[0], F_DUPFD_CLOEXEC, 3);
        p->state_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        p->pidfd = *ret_pidfd = fcntl(p->state_fd, F_DUPFD_CLOEXEC, 3);
        sb_assert(p->channel_fd >= 0 && p->state_fd >= 0 && p->pidfd >= 0);
        *ret_pid = 1000 + (pid_t) fake_n_processes++;
        return 0;
}

int spawn_reap_within(int pidfd, int msec)
{
        FakeProcess *p = find(pidfd);

        (void) msec;
        if (p) {
                sb_assert(!p->is_reaped);
                fake_process_kill(p);
                p->is_reaped = true;
        }
        return 0;
}

int fuse_mount_new(int *ret_device_fd, int *ret_mount_fd)
{
        if (fails())
                return -EOPNOTSUPP;
        *ret_device_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        *ret_mount_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        return 0;
}

void spawn_reap(int take_pidfd)
{
        FakeProcess *p = take_pidfd >= 0 ? find(take_pidfd) : NULL;

        if (p) {
                sb_assert(!p->is_reaped);
                fake_process_kill(p);
                p->is_reaped = true;
        }
        (void) fd_close(take_pidfd);
}

void fake_processes_done(bool is_orderly)
{
        for (unsigned i = 0; i < fake_n_processes; i++) {
                FakeProcess *p = &fake_processes[i];

                /* Whoever was started was reaped, but for inits that a failing daemon leaves to the next
                 * one. */
                sb_assert(p->is_reaped || (p->program == PROGRAM_INIT && !is_orderly));
                p->channel_fd = fd_close(p->channel_fd);
                p->state_fd = fd_close(p->state_fd);
        }
        fake_n_processes = 0;
        fake_fail_in = 0;
}

/* ---- control groups and namespaces ---- */

uint32_t cgroup_base_controllers(_unused_ const CgroupBase *b)
{
        return CONTROLLERS;
}

const char *cgroup_base_path(_unused_ const CgroupBase *b)
{
        return "/sandboxd";
}

int cgroup_make(_unused_ const CgroupBase *b, _unused_ const Id *session, _unused_ const PrivLimits *limits,
                int *ret_fd)
{
        if (fails())
                return -ENOSPC;
        *ret_fd = null_fd();
        return 0;
}

int cgroup_limit(_unused_ const CgroupBase *b, _unused_ int cgroup_fd, const PrivLimits *limits)
{
        return fails() || limits->cpu_percent > 1000 ? -EOPNOTSUPP : 0;
}

int cgroup_give(_unused_ int cgroup_fd, uint32_t uid, uint32_t gid)
{
        sb_assert(uid != 0 && gid != 0);
        return fails() ? -EPERM : 0;
}

int cgroup_kill(_unused_ int cgroup_fd)
{
        return 0;
}

int cgroup_kill_commands(_unused_ int cgroup_fd, uint32_t uid, uint32_t gid)
{
        sb_assert(uid != 0 && gid != 0);
        return fails() ? -EIO : 0;
}

int cgroup_freeze(_unused_ int cgroup_fd, _unused_ bool is_frozen, uint32_t uid, uint32_t gid)
{
        sb_assert(uid != 0 && gid != 0);
        return fails() ? -EIO : 0;
}

int cgroup_is_frozen(_unused_ int cgroup_fd, _unused_ uint32_t uid, _unused_ uint32_t gid)
{
        return fails() ? 0 : 1;
}

int cgroup_kill_child(_unused_ int cgroup_fd, _unused_ const char *name, _unused_ uint32_t uid,
                      _unused_ uint32_t gid)
{
        return fails() ? -ENOENT : 0;
}

int cgroup_is_populated(_unused_ int cgroup_fd)
{
        return fails() ? 1 : 0;
}

int cgroup_remove(_unused_ const CgroupBase *b, _unused_ const Id *session)
{
        return fails() ? -EBUSY : 0;
}

int netns_new(_unused_ int home_fd, _unused_ const Steering *steering, NetworkNamespace *ret)
{
        if (fails())
                return -ENOSPC;
        *ret = NETNS_INIT;
        ret->fd = null_fd();
        ret->socket_fds[EGRESS_PROXY4] = null_fd();
        ret->dns_fds[0] = null_fd();
        return 0;
}

/* The kernel prevents nothing. */
int prevention_marks(_unused_ const Prevention *p)
{
        return -EBADF;
}

int prevention_enter(_unused_ Prevention *p, _unused_ int cgroup_fd, _unused_ int rules_fd)
{
        return -EOPNOTSUPP;
}

void prevention_leave(_unused_ Prevention *p, _unused_ int cgroup_fd) {}

/* Nobody tells of pings. */
int pings_fd(_unused_ const Pings *p)
{
        return -EBADF;
}

bool pings_take(_unused_ Pings *p, _unused_ uint64_t *ret_cookie)
{
        return false;
}

uint64_t pings_count(_unused_ const Pings *p, _unused_ uint64_t cookie, bool *ret_is_awake)
{
        *ret_is_awake = true;
        return 0;
}

void pings_forget(_unused_ const Pings *p, _unused_ uint64_t cookie) {}

int netns_connect(_unused_ int home_fd, const NetworkNamespace *n, _unused_ bool is_v6, uint16_t port,
                  int *ret_fd)
{
        sb_assert(n->fd >= 0 && port != 0);
        if (fails())
                return -ECONNREFUSED;
        *ret_fd = null_fd();
        return 0;
}

int netns_go_on_connecting(int fd, _unused_ bool is_v6, _unused_ uint16_t port)
{
        sb_assert(fd >= 0);
        return fails() ? -ECONNREFUSED : 0;
}

void netns_done(NetworkNamespace *n)
{
        n->fd = fd_close(n->fd);
        fd_close_many(n->socket_fds, ELEMENTSOF(n->socket_fds));
        n->dns_fds[0] = fd_close(n->dns_fds[0]);
}

int userns_new(uint32_t uid, uint32_t gid, int *ret_fd)
{
        sb_assert(uid != 0 && gid != 0);
        if (fails())
                return -ENOSPC;
        *ret_fd = null_fd();
        return 0;
}

int userns_new_groups(uint32_t uid, uint32_t gid, const uint32_t *groups, size_t n_groups, int *ret_fd)
{
        for (size_t i = 0; i < n_groups; i++)
                sb_assert(groups[i] != gid && (i == 0 || groups[i - 1] < groups[i]));
        return userns_new(uid, gid, ret_fd);
}

int userns_new_idmap(uint32_t uid, uint32_t gid, int *ret_fd)
{
        return userns_new(uid, gid, ret_fd);
}

void fake_kernel_init(Kernel *k)
{
        int *const fds[] = { &k->null_fd,     &k->network_fd,        &k->mount_fd,
                             &k->template_fd, &k->session_filter_fd, &k->command_filter_fd };

        *k = (Kernel){ .cgroups = NULL };
        for (size_t i = 0; i < ELEMENTSOF(k->program_fds); i++)
                k->program_fds[i] = -EBADF;
        for (size_t i = 0; i < ELEMENTSOF(fds); i++)
                *fds[i] = null_fd();
}

void fake_kernel_done(Kernel *k)
{
        int *const fds[] = { &k->null_fd,     &k->network_fd,        &k->mount_fd,
                             &k->template_fd, &k->session_filter_fd, &k->command_filter_fd };

        for (size_t i = 0; i < ELEMENTSOF(fds); i++)
                *fds[i] = fd_close(*fds[i]);
}

/* ---- the launcher's other files ---- */

const char *setup_unenforced_layer(_unused_ const Config *config)
{
        return fails() ? "a layer" : NULL;
}

int listen_open(_unused_ Launcher *l)
{
        return 0;
}

int listen_start(_unused_ Launcher *l)
{
        return 0;
}

void listen_close(_unused_ Launcher *l) {}

void listen_glance(_unused_ Launcher *l) {}

int resolver_look_up(Launcher *l, ResolverCallback callback, _unused_ Lookup **lookup)
{
        static const PrivResolver none;

        if (fails())
                return -ENOMEM;
        callback(l, 0, &none, null_fd());
        return 0;
}

void resolver_use(Launcher *l, _unused_ const PrivResolver *resolver, int take_hosts_fd)
{
        (void) fd_close(l->hosts_fd);
        l->hosts_fd = take_hosts_fd;
}

int launcher_watch_resolver(_unused_ Launcher *l)
{
        return 0;
}

int setup_describe(_unused_ const Launcher *l, _unused_ PrivApiStart *body)
{
        return 0;
}

void launcher_send_resolver(_unused_ Launcher *l) {}

int lookup_new(Launcher *l, const LookupQuestion *question, LookupCallback callback, void *userdata,
               Lookup **ret)
{
        Lookup *k = calloc(1, sizeof(*k));

        sb_assert(k);
        *k = (Lookup){ .launcher = l,
                       .is_load = strcmp(question->what, "load") == 0,
                       .callback = callback,
                       .userdata = userdata,
                       .uid = question->argument ? (uint32_t) strtoul(question->argument, NULL, 10) : 0 };
        list_append(&lookups, &k->link);
        *ret = k;
        return 0;
}

Lookup *lookup_free(Lookup *k)
{
        if (!k)
                return NULL;
        list_unlink(&k->link);
        free(k);
        return NULL;
}

/* Valid, and another one each time. */
static void answer_load(Lookup *k)
{
        static PrivLoaded loaded;

        loaded.has_settings = loaded.is_valid = 1;
        loaded.settings = k->launcher->settings;
        loaded.digest[0]++;
        k->callback(k->userdata, 0, &loaded, sizeof(loaded));
        free(k);
}

bool fake_lookup_answer(const PrivIdentity *identity)
{
        LIST_FOREACH (k, &lookups, Lookup, link) {
                list_unlink(&k->link);
                if (k->is_load && identity) {
                        answer_load(k);
                        return true;
                }
                k->callback(k->userdata, identity ? 0 : -EIO, identity, identity ? sizeof(*identity) : 0);
                free(k);
                return true;
        }
        return false;
}

uint32_t fake_lookup_uid(void)
{
        LIST_FOREACH (k, &lookups, Lookup, link)
                return k->uid;
        return 0;
}
