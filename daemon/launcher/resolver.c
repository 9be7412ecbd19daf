#include <errno.h>
#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/launcher/launcher.h"
#include "daemon/launcher/lookup.h"
#include "daemon/launcher/worker.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

/*
 * A child reads resolv.conf and hosts; the launcher passes on what it says and looks again when one changed.
 * The settings' servers, where there are any, replace those of the file.
 */

#define RESOLVER_SETTLE_USEC (200 * USEC_PER_MSEC)
#define RESOLVER_DIRECTORY   "/etc"

static const char *const files[] = { "resolv.conf", "hosts" };

typedef struct Request {
        Launcher *launcher;
        ResolverCallback callback;
        Lookup **lookup;
        int hosts_fd; /* the child writes the table into it */
} Request;

static int take_result(const Request *request, const void *data, size_t size, PrivResolver *ret)
{
        if (size != sizeof(*ret))
                return -EPROTO;
        memcpy(ret, data, sizeof(*ret));
        if (ret->n_servers > PRIV_RESOLVERS_MAX)
                return -EPROTO;
        /* An empty table is one line. */
        if (lseek(request->hosts_fd, 0, SEEK_END) == 0 && write(request->hosts_fd, "\n", 1) != 1)
                return neg_errno();
        if (fcntl(request->hosts_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) <
            0)
                return neg_errno();
        return 0;
}

static Request *request_free(Request *request)
{
        if (request) {
                request->hosts_fd = fd_close(request->hosts_fd);
                free(request);
        }
        return NULL;
}

static void on_resolver(void *userdata, int error, const void *data, size_t size)
{
        Request *request = userdata;
        PrivResolver resolver = { 0 };
        int r = error;

        *request->lookup = NULL;
        if (r >= 0)
                r = take_result(request, data, size, &resolver);
        request->callback(request->launcher, r, &resolver, r < 0 ? -EBADF : TAKE_FD(request->hosts_fd));
        (void) request_free(request);
}

int resolver_look_up(Launcher *l, ResolverCallback callback, Lookup **lookup)
{
        Request *request;
        int r;

        if (*lookup)
                return -EALREADY;
        request = malloc(sizeof(*request));
        if (!request)
                return -ENOMEM;
        *request = (Request){ .launcher = l, .callback = callback, .lookup = lookup };
        request->hosts_fd = memfd_create("hosts", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        r = request->hosts_fd < 0 ? neg_errno() : 0;
        if (r >= 0)
                r = lookup_new(l,
                               &(LookupQuestion){ .what = "resolver",
                                                  .child_fds = { request->hosts_fd },
                                                  .n_child_fds = 1 },
                               on_resolver, request, lookup);
        if (r < 0)
                (void) request_free(request);
        return r;
}

void resolver_use(Launcher *l, const PrivResolver *resolver, int take_hosts_fd)
{
        (void) fd_close(l->hosts_fd);
        l->hosts_fd = take_hosts_fd;
        l->resolver = *resolver;
        if (l->settings.n_servers > 0) {
                l->resolver.n_servers = l->settings.n_servers;
                memcpy(l->resolver.servers, l->settings.servers, sizeof(l->resolver.servers));
        }
        launcher_send_resolver(l);
}

static void on_changed(Launcher *l, int error, const PrivResolver *resolver, int take_hosts_fd)
{
        if (error >= 0)
                resolver_use(l, resolver, take_hosts_fd);
}

void launcher_send_resolver(Launcher *l)
{
        worker_send(l->dialer, PRIV_DIALER_PROXY, &l->settings.proxy, sizeof(l->settings.proxy), NULL, 0);
        if (l->hosts_fd >= 0)
                worker_send(l->dialer, PRIV_DIALER_RESOLVER, &l->resolver, sizeof(l->resolver), &l->hosts_fd,
                            1);
}

static void watch_files(Launcher *l)
{
        /* The file that the name leads to now: it may be changed in place, outside /etc. */
        for (size_t i = 0; i < ELEMENTSOF(files); i++) {
                char path[64];

                if (str_printf(path, sizeof(path), RESOLVER_DIRECTORY "/%s", files[i]) >= 0)
                        (void) inotify_add_watch(l->watch_fd, path,
                                                 IN_CLOSE_WRITE | IN_MODIFY | IN_DELETE_SELF);
        }
}

static void on_settled(void *userdata)
{
        Launcher *l = userdata;
        int r;

        watch_files(l);
        r = resolver_look_up(l, on_changed, &l->resolver_lookup);
        if (r == -EALREADY)
                r = loop_timer_set(l->watch_timer, RESOLVER_SETTLE_USEC);
        if (r < 0)
                (void) log_warning(r, "cannot look up the resolvers again, keeping the old ones");
}

static bool concerns_us(const struct inotify_event *e)
{
        if (e->len == 0)
                return !(e->mask & IN_IGNORED);
        for (size_t i = 0; i < ELEMENTSOF(files); i++) {
                if (str_equal(e->name, files[i]))
                        return true;
        }
        return false;
}

static void on_change(void *userdata, int fd, _unused_ unsigned events)
{
        _Alignas(struct inotify_event) char data[4096];
        Launcher *l = userdata;
        bool is_concerned = false;
        ssize_t n = read(fd, data, sizeof(data));

        for (ssize_t at = 0; at < n;) {
                const struct inotify_event *e = (const void *) (data + at);

                is_concerned = is_concerned || concerns_us(e);
                at += (ssize_t) (sizeof(*e) + e->len);
        }
        if (is_concerned)
                (void) !loop_timer_set(l->watch_timer, RESOLVER_SETTLE_USEC);
}

int launcher_watch_resolver(Launcher *l)
{
        int r;

        l->watch_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
        if (l->watch_fd < 0)
                return neg_errno();
        if (inotify_add_watch(l->watch_fd, RESOLVER_DIRECTORY,
                              IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_ONLYDIR) < 0)
                return neg_errno();
        watch_files(l);
        r = loop_timer_new(l->loop, on_settled, l, &l->watch_timer);
        if (r >= 0)
                r = loop_io_new(l->loop, l->watch_fd, LOOP_READ, on_change, l, &l->watch_io);
        return r;
}
