#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "daemon/launcher/blank.h"
#include "daemon/launcher/home.h"
#include "daemon/launcher/launcher.h"
#include "daemon/launcher/listen.h"
#include "daemon/launcher/load.h"
#include "daemon/launcher/lookup.h"
#include "daemon/launcher/manager.h"
#include "daemon/launcher/pings.h"
#include "daemon/launcher/quota.h"
#include "daemon/launcher/reload.h"
#include "daemon/launcher/service.h"
#include "daemon/launcher/session.h"
#include "daemon/launcher/user.h"
#include "daemon/launcher/watch.h"
#include "daemon/launcher/worker.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

/*
 * workers' ids -> settings -> resolvers -> audit, dialer and the pool -> the socket serves. A step that
 * fails ends the daemon: nothing serves halfway.
 */

#define STOP_ROUND_USEC (100 * USEC_PER_MSEC)
#define STOP_ROUNDS_MAX 50U

static void fail(Launcher *l, int error, const char *what)
{
        launcher_stop(l, log_error(error < 0 ? error : -EPROTO, "%s", what));
}

static int make_directory(int parent_fd, const char *name, uint32_t uid, uint32_t gid)
{
        if (mkdirat(parent_fd, name, 0700) < 0 && errno != EEXIST)
                return neg_errno();
        if (fchownat(parent_fd, name, uid, gid, AT_SYMLINK_NOFOLLOW) < 0)
                return neg_errno();
        return 0;
}

static int make_state(Launcher *l)
{
        _cleanup_close_ int fd = -EBADF;
        int r;

        fd = open(l->config->state_dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return neg_errno();
        r = manager_load_state_id(l, fd);
        if (r >= 0)
                r = make_directory(fd, "audit", l->ids.audit_uid, l->ids.audit_gid);
        if (r >= 0)
                r = make_directory(fd, "api", 0, 0);
        if (r >= 0)
                r = homes_open(fd, &l->homes_fd);
        return r;
}

void launcher_maybe_serve(Launcher *l)
{
        int r;

        if (l->is_serving || l->is_stopping || !service_is_up(l) || !service_pool_is_full(l) ||
            !watch_is_settled(l))
                return;
        r = listen_start(l);
        if (r < 0) {
                fail(l, r, "cannot serve");
                return;
        }
        r = pings_start(l);
        if (r < 0) {
                fail(l, r, "cannot hear of pings");
                return;
        }
        r = blanks_start(l);
        if (r < 0) {
                fail(l, r, "cannot make sessions ahead");
                return;
        }
        l->is_serving = true;
        (void) sd_notify(0, "READY=1");
        if (!l->config->prints_ready)
                return;
        r = fd_write_all(STDOUT_FILENO, "ready\n", 6);
        /* Who asked for the word waits for it. */
        if (r < 0)
                fail(l, r, "cannot say that the daemon is ready");
}

static void on_resolver(Launcher *l, int error, const PrivResolver *resolver, int take_hosts_fd)
{
        int r = error;

        if (r >= 0) {
                resolver_use(l, resolver, take_hosts_fd);
                r = launcher_watch_resolver(l);
        }
        if (r >= 0)
                r = service_start(l);
        if (r < 0)
                fail(l, r, "cannot read the machine's resolvers");
}

/* Settings, a ceiling or additions with errors are no start. A profile with errors keeps nobody but its
 * users from work: they hear of them. A reload is stricter. */
static void on_loaded(Launcher *l, int error)
{
        Loading *x = l->loading;
        int r = error;

        if (r >= 0 && !x->loaded.has_settings)
                r = -EINVAL;
        if (r >= 0) {
                l->settings = x->loaded.settings;
                l->profiles_fd = TAKE_FD(x->profiles_fd);
                memcpy(l->digest, x->loaded.digest, sizeof(l->digest));
                l->generation = 1;
                l->loaded_usec = clock_realtime_usec();
                r = resolver_look_up(l, on_resolver, &l->resolver_lookup);
        }
        if (r < 0)
                fail(l, r, "cannot read the daemon's settings");
        l->loading = loading_free(x);
}

static int load(Launcher *l)
{
        l->loading = loading_new(l, on_loaded);
        return l->loading ? loading_begin(l->loading, /* is_running= */ false) : -ENOMEM;
}

static bool ids_are_sound(const PrivWorkerIds *i)
{
        const uint32_t ids[] = { i->api_uid,    i->api_gid,    i->audit_uid,  i->audit_gid, i->dialer_uid,
                                 i->dialer_gid, i->egress_uid, i->egress_gid, i->watch_uid, i->watch_gid };

        for (size_t n = 0; n < ELEMENTSOF(ids); n++) {
                if (ids[n] == 0 || ids[n] == UINT32_MAX)
                        return false;
        }
        return true;
}

static void on_ids(void *userdata, int error, const void *data, size_t size)
{
        Launcher *l = userdata;
        int r = error;

        if (r >= 0 && size != sizeof(l->ids))
                r = -EPROTO;
        if (r >= 0) {
                memcpy(&l->ids, data, sizeof(l->ids));
                if (!ids_are_sound(&l->ids))
                        r = -ENOENT;
        }
        if (r >= 0)
                r = make_state(l);
        if (r < 0) {
                fail(l, r,
                     "cannot start: users sandboxd-api, -audit, -dialer, -egress and -watch must exist");
                return;
        }
        r = load(l);
        if (r < 0)
                fail(l, r, "cannot read the daemon's settings");
}

static void on_signal(void *userdata, int signal_number)
{
        if (signal_number == SIGHUP) {
                reload_signal(userdata);
                return;
        }
        log_info("signal %d: stopping", signal_number);
        launcher_stop(userdata, 0);
}

int launcher_start(Launcher *l)
{
        static const int numbers[] = { SIGTERM, SIGINT, SIGHUP };
        Lookup *lookup;
        int r = 0;

        quota_read_descriptors(l);
        r = reload_new(l);
        if (r < 0)
                return log_error(r, "cannot prepare");
        for (size_t i = 0; i < ELEMENTSOF(numbers) && r >= 0; i++)
                r = loop_signal_new(l->loop, numbers[i], on_signal, l, &l->signals[i]);
        if (r < 0)
                return log_error(r, "cannot watch signals");
        r = listen_open(l);
        if (r < 0)
                return r;
        r = lookup_new(l, &(LookupQuestion){ .what = "workers" }, on_ids, l, &lookup);
        return r < 0 ? log_error(r, "cannot look the workers' users up") : 0;
}

/* First the sessions, then audit, which must write what it was told, and its own row of the stop, before it
 * may end. */
static void on_stop_round(void *userdata)
{
        Launcher *l = userdata;

        if (l->n_stop_rounds++ >= STOP_ROUNDS_MAX || !l->audit) {
                loop_stop(l->loop, 0);
                return;
        }
        if (l->sessions.n == 0 && worker_is_ready(l->audit)) {
                worker_close(l->audit);
        }
        if (loop_timer_set(l->stop_timer, STOP_ROUND_USEC) < 0)
                loop_stop(l->loop, 0);
}

void launcher_stop(Launcher *l, int result)
{
        if (result < 0) {
                l->is_stopping = true;
                loop_stop(l->loop, result);
                return;
        }
        if (!l->is_stopping) {
                l->is_stopping = true;
                (void) sd_notify(0, "STOPPING=1");
                l->listen_io = loop_io_free(l->listen_io);
                sessions_stop_all(l);
                if (loop_timer_new(l->loop, on_stop_round, l, &l->stop_timer) < 0) {
                        loop_stop(l->loop, 0);
                        return;
                }
        }
        /* None where it ends with an error: the loop has stopped, and what this turn deferred may still
         * come. */
        if (l->stop_timer && loop_timer_set(l->stop_timer, l->sessions.n == 0 ? 0 : STOP_ROUND_USEC) < 0)
                loop_stop(l->loop, 0);
}
