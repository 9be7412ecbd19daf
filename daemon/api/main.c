#include <fcntl.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/api/events.h"
#include "daemon/api/manager.h"
#include "daemon/api/session.h"
#include "daemon/api/store.h"
#include "daemon/isolate/worker.h"
#include "daemon/policy/policy.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

#define LAUNCHER_FD          3
#define RETENTION_CHECK_USEC (60 * USEC_PER_SEC)
#define API_MEMORY_MAX       (UINT64_C(1) << 30)
#define BOOT_ID_PATH         "/proc/sys/kernel/random/boot_id"

/* The launcher brings a new audit within this time, or has not seen that the channel ended. */
#define ORPHAN_USEC (10 * USEC_PER_SEC)

typedef struct Arguments {
        uint32_t uid;
        uint32_t worker_uid;
        uint32_t worker_gid;
        const char *state_dir;
        unsigned seen;
} Arguments;

static const int syscalls[] = {
        SCMP_SYS(brk),
        SCMP_SYS(clock_gettime),
        SCMP_SYS(close),
        SCMP_SYS(epoll_create1),
        SCMP_SYS(epoll_ctl),
        SCMP_SYS(epoll_pwait),
        SCMP_SYS(epoll_wait),
        SCMP_SYS(eventfd2),
        SCMP_SYS(exit_group),
        SCMP_SYS(fcntl),
        SCMP_SYS(fstat),
        SCMP_SYS(futex),
        SCMP_SYS(getdents64),
        SCMP_SYS(getpid),
        SCMP_SYS(getrandom),
        SCMP_SYS(getsockopt),
        SCMP_SYS(gettid),
        SCMP_SYS(ioctl),
        SCMP_SYS(lseek),
        SCMP_SYS(madvise),
        SCMP_SYS(memfd_create),
        SCMP_SYS(mmap),
        SCMP_SYS(mprotect),
        SCMP_SYS(mremap),
        SCMP_SYS(munmap),
        SCMP_SYS(newfstatat),
        SCMP_SYS(openat),
        SCMP_SYS(pipe2),
        SCMP_SYS(poll),
        SCMP_SYS(ppoll),
        SCMP_SYS(pread64),
        SCMP_SYS(read),
        SCMP_SYS(readv),
        SCMP_SYS(recvfrom),
        SCMP_SYS(recvmsg),
        SCMP_SYS(renameat),
        SCMP_SYS(renameat2),
        SCMP_SYS(restart_syscall),
        SCMP_SYS(rt_sigaction),
        SCMP_SYS(rt_sigprocmask),
        SCMP_SYS(rt_sigreturn),
        SCMP_SYS(sched_yield),
        SCMP_SYS(sendmsg),
        SCMP_SYS(sendto),
        SCMP_SYS(shutdown),
        SCMP_SYS(socketpair),
        SCMP_SYS(tgkill),
        SCMP_SYS(timerfd_create),
        SCMP_SYS(timerfd_settime),
        SCMP_SYS(unlinkat),
        SCMP_SYS(write),
        SCMP_SYS(writev),
};

static int parse_arguments(int argc, char *argv[], Arguments *ret)
{
        const struct {
                const char *name;
                uint32_t *number;
                const char **text;
        } options[] = {
                { "--uid", &ret->uid, NULL },
                { "--worker-uid", &ret->worker_uid, NULL },
                { "--worker-gid", &ret->worker_gid, NULL },
                { "--state-dir", NULL, &ret->state_dir },
        };

        for (int i = 1; i + 1 < argc; i += 2) {
                size_t o = 0;

                while (o < ELEMENTSOF(options) && !str_equal(argv[i], options[o].name))
                        o++;
                if (o == ELEMENTSOF(options))
                        return -EINVAL;
                if (options[o].number && parse_u32(argv[i + 1], options[o].number) < 0)
                        return -EINVAL;
                if (options[o].text)
                        *options[o].text = argv[i + 1];
                ret->seen |= 1U << o;
        }
        return argc % 2 == 1 && ret->seen == (1U << ELEMENTSOF(options)) - 1 ? 0 : -EINVAL;
}

/* ---- start ---- */

static int make_directory(const char *path, const Arguments *a)
{
        if (mkdir(path, 0700) < 0 && errno != EEXIST)
                return neg_errno();
        return geteuid() == 0 && lchown(path, a->worker_uid, a->worker_gid) < 0 ? neg_errno() : 0;
}

/* The parent belongs to root: nobody else may make a directory for another uid there. */
static int make_state(const Arguments *a, const char *parent, const char *own)
{
        if (mkdir(parent, 0711) < 0 && errno != EEXIST)
                return neg_errno();
        return make_directory(own, a);
}

static int confine(const Arguments *a, const char *state)
{
        const WorkerDirectory directories[] = {
                { .path = state, .is_writable = true },
        };
        const WorkerSpec spec = {
                .name = "sandboxd-api",
                .uid = a->worker_uid,
                .gid = a->worker_gid,
                .directories = directories,
                .n_directories = ELEMENTSOF(directories),
                .syscalls = syscalls,
                .n_syscalls = ELEMENTSOF(syscalls),
                .files_max = 16384,
                .memory_max = API_MEMORY_MAX,
        };

        return geteuid() == 0 ? worker_confine(&spec) : 0;
}

/* What is not there any more once the worker is confined. */
static int open_before(Api *api)
{
        _cleanup_close_ int fd = -EBADF;
        char text[64], *to = api->boot_id;
        ssize_t n;

        api->null_fd = open("/dev/null", O_RDWR | O_CLOEXEC | O_NOCTTY);
        if (api->null_fd < 0)
                return neg_errno();
        fd = open(BOOT_ID_PATH, O_RDONLY | O_CLOEXEC);
        n = fd < 0 ? 0 : read(fd, text, sizeof(text));
        for (ssize_t i = 0; i < n && to < api->boot_id + sizeof(api->boot_id) - 1; i++) {
                if (text[i] != '-' && text[i] != '\n')
                        *to++ = text[i];
        }
        return 0;
}

/* ---- audit ---- */

static int on_audit_message(void *owner, _unused_ PrivLink *link, Imsg *m)
{
        if (m->type == PRIV_RECORDED)
                return on_recorded(owner, m->body);
        if (m->type == PRIV_DENIED)
                return session_on_denied(owner, m->body);
        if (m->type == PRIV_AUDIT_STATE)
                return on_audit_state(owner, m->body);
        if (m->type == PRIV_AUDIT_GAP) {
                events_gap(owner, m->body);
                return 0;
        }
        return m->type == PRIV_QUERY_STARTED ? on_query_started(owner, m) : -EPROTO;
}

static void on_audit_closed(void *owner, _unused_ PrivLink *link, _unused_ int reason)
{
        Api *api = owner;

        api->audit = priv_link_free(api->audit);
        sessions_audit_lost(api);
        processes_audit_lost(api);
        audit_queries_fail(api);
        if (loop_timer_set(api->orphan_timer, ORPHAN_USEC) < 0)
                loop_stop(api->loop, -ENOMEM);
}

/* Our successor gets a new channel. */
static void on_orphaned(void *userdata)
{
        Api *api = userdata;

        loop_stop(api->loop, log_error(-EPIPE, "no audit has come"));
}

static int attach_audit(Api *api, Imsg *m)
{
        int r;

        if (api->audit)
                on_audit_closed(api, api->audit, -EPIPE);
        r = priv_link_new(api->loop, TAKE_FD(m->fds[0]), CHANNEL_API_AUDIT, ROLE_API, &api->audit);
        if (r < 0)
                return r;
        loop_timer_stop(api->orphan_timer);
        priv_link_set_handler(api->audit, on_audit_message, on_audit_closed, api);
        priv_link_set_phase(api->audit, PHASE_RUN);
        return 0;
}

/* ---- launcher ---- */

static void on_retention(void *userdata)
{
        Api *api = userdata;
        uint64_t retention = api->loaded.settings.retention_usec;

        (void) sessions_prune(api, UINT64_MAX);
        if (loop_timer_set(api->retention_timer,
                           MIN_OF(RETENTION_CHECK_USEC, retention / 2 + USEC_PER_MSEC)) < 0)
                loop_stop(api->loop, -ENOMEM);
}

static int on_start(Api *api, Imsg *m)
{
        const PrivApiStart *start = m->body;

        if (api->is_started || !PRIV_STRING_OK(start->identity.user) ||
            !PRIV_STRING_OK(start->identity.group) || !PRIV_STRING_OK(start->identity.home) ||
            !PRIV_STRING_OK(start->identity.shell) || !PRIV_STRING_OK(start->degraded))
                return -EPROTO;
        for (size_t i = 0; i < PRIV_FOLDERS_MAX; i++)
                if (!PRIV_STRING_OK(start->folders[i]))
                        return -EPROTO;
        api->start = *start;
        api->is_started = true;
        api->is_draining = start->is_draining != 0;
        log_set_level((LogLevel) start->log_level);
        if (requests_load(api) < 0 || sessions_load(api) < 0)
                (void) log_error(-EIO, "the store of uid %u cannot be read", start->identity.uid);
        return attach_audit(api, m);
}

/* Behind the first message, and when something else counts. */
static int on_settings(Api *api, Imsg *m)
{
        bool is_first = api->loaded.generation == 0;
        int r = on_api_settings(api, m);

        if (r >= 0 && is_first)
                on_retention(api);
        return r;
}

static int on_launcher_message(void *owner, _unused_ PrivLink *link, Imsg *m)
{
        Api *api = owner;

        if (m->type == PRIV_API_START)
                return on_start(api, m);
        if (!api->is_started)
                return -EPROTO;
        if (m->type == PRIV_API_CLIENT) {
                /* Sessions that live on came before. */
                if (!api->is_settled)
                        sessions_settle(api);
                api->is_settled = true;
                events_reconcile(api);
                return client_new(api, m->body, TAKE_FD(m->fds[0]));
        }
        if (m->type == PRIV_MANAGER_ANSWER)
                return on_manager_answer(api, m);
        if (m->type == PRIV_API_STATE)
                return on_api_state(api, m->body);
        if (m->type == PRIV_API_SETTINGS)
                return on_settings(api, m);
        if (m->type == PRIV_API_AUDIT_ATTACH)
                return attach_audit(api, m);
        if (m->type == PRIV_API_ADOPT)
                return session_on_adopt(api, m);
        if (m->type == PRIV_SESSION_CREATED)
                return session_on_created(api, m);
        if (m->type == PRIV_ADMIN_OPENED)
                return on_admin_opened(api, m);
        if (m->type == PRIV_ADMIN_TERMINATED)
                return on_admin_terminated(api, m->body);
        if (m->type == PRIV_SESSION_FORWARDED)
                return on_session_forwarded(api, m);
        if (m->type == PRIV_SESSION_REPORTED)
                return on_session_reported(api, m);
        if (m->type == PRIV_SESSION_STOP)
                return on_session_stop(api, m->body);
        if (m->type == PRIV_SESSION_FROZEN)
                return session_on_frozen(api, m->body);
        if (m->type == PRIV_SESSION_COMMAND_KILLED)
                return on_command_killed(api, m->body);
        return m->type == PRIV_SESSION_ENDED ? session_on_ended(api, m->body) : -EPROTO;
}

static void on_launcher_closed(void *owner, _unused_ PrivLink *link, int reason)
{
        Api *api = owner;

        loop_stop(api->loop, reason == -EPIPE ? 0 : reason);
}

static int serve(Api *api)
{
        int r;

        r = loop_new(&api->loop);
        if (r >= 0)
                r = idl_set_new(&api->idl);
        if (r >= 0)
                r = loop_timer_new(api->loop, on_retention, api, &api->retention_timer);
        if (r >= 0)
                r = loop_timer_new(api->loop, on_orphaned, api, &api->orphan_timer);
        if (r >= 0)
                r = priv_link_new(api->loop, LAUNCHER_FD, CHANNEL_LAUNCHER_API, ROLE_API, &api->launcher);
        if (r < 0)
                return r;
        priv_link_set_handler(api->launcher, on_launcher_message, on_launcher_closed, api);
        r = priv_link_send(api->launcher, PRIV_API_READY, NULL, 0, NULL, 0);
        if (r < 0)
                return r;
        priv_link_set_phase(api->launcher, PHASE_RUN);
        return loop_run(api->loop);
}

static void api_done(Api *api)
{
        api->store_fd = fd_close(api->store_fd);
        LIST_FOREACH (c, &api->clients, Client, link)
                client_close(c);
        LIST_FOREACH (s, &api->sessions, Session, link)
                session_free(s);
        while (!list_is_empty(&api->orphans)) {
                Session *s = list_entry(api->orphans.next, Session, link);

                list_unlink(&s->link);
                session_free(s);
        }
        requests_free(api);
        api->retention_timer = loop_timer_free(api->retention_timer);
        api->quota_timer = loop_timer_free(api->quota_timer);
        api->orphan_timer = loop_timer_free(api->orphan_timer);
        api->audit = priv_link_free(api->audit);
        /* What is on the loop goes before it. */
        api->launcher = priv_link_free(api->launcher);
        if (api->loop)
                api->loop = loop_free(api->loop);
        /* The end of sessions is an event, too: what was deferred for those who listen looks for them. */
        api->events = events_free(api->events);
        api->idl = idl_set_free(api->idl);
        api->profiles = bundle_free(api->profiles);
        api->null_fd = fd_close(api->null_fd);
}

int main(int argc, char *argv[])
{
        _cleanup_free_ char *parent = NULL, *state = NULL;
        static Api api = { .null_fd = -EBADF, .store_fd = -EBADF };
        struct sigaction ignore = { .sa_handler = SIG_IGN };
        Arguments a = { 0 };
        int r;

        log_open("sandboxd-api");
        list_init(&api.clients);
        list_init(&api.sessions);
        list_init(&api.blocks);
        list_init(&api.orphans);
        list_init(&api.request_list);
        output_store_init(&api.outputs, OUTPUT_STORE_MAX);
        if (parse_arguments(argc, argv, &a) < 0) {
                (void) log_error(-EINVAL, "this program is started by sandboxd, with its arguments");
                return 2;
        }
        (void) sigaction(SIGPIPE, &ignore, NULL);
        r = str_aprintf(&parent, "%s/api", a.state_dir);
        if (r >= 0)
                r = str_aprintf(&state, "%s/%u", parent, a.uid);
        if (r >= 0)
                r = make_state(&a, parent, state);
        if (r >= 0)
                r = open_before(&api);
        if (r >= 0)
                r = confine(&a, state);
        if (r >= 0)
                r = policy_prepare();
        if (r >= 0)
                r = store_open(&api, state);
        if (r >= 0)
                r = events_new(&api, state, &api.events);
        if (r >= 0)
                r = serve(&api);
        api_done(&api);
        return r < 0 ? (log_error(r, "ending"), 1) : 0;
}
