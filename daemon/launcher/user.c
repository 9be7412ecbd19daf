#include "daemon/launcher/user.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/launcher/lookup.h"
#include "daemon/launcher/service.h"
#include "daemon/launcher/session.h"
#include "daemon/launcher/worker.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

/*
 * identity (child, once) -> api worker -> API_START, adopted sessions -> connections. user_advance() does
 * whatever comes next; each callback ends with it.
 */

#define USER_IDLE_USEC (30 * USEC_PER_SEC)

#define USER_REPORTS_PER_SEC 128U

/* So many beyond the quota are still answered by api with an error; more are closed at once. */
#define USER_CONNECTIONS_BEYOND 16U

static void user_advance(User *u);

static void connection_free(User *u, Connection *c)
{
        list_unlink(&c->link);
        u->n_connections--;
        c->fd = fd_close(c->fd);
        free(c);
}

static void drop_connections(User *u)
{
        LIST_FOREACH (c, &u->connections, Connection, link)
                connection_free(u, c);
}

static void user_free(User *u)
{
        u->lookup = lookup_free(u->lookup);
        u->timer = loop_timer_free(u->timer);
        worker_retire(u->api);
        drop_connections(u);
        u->spare_user_fd = fd_close(u->spare_user_fd);
        (void) map_remove(&u->launcher->users, &u->uid, sizeof(u->uid));
        free(u);
}

static bool is_idle(const User *u)
{
        return list_is_empty(&u->connections) && u->n_sessions == 0;
}

void user_check_idle(User *u)
{
        if (is_idle(u))
                (void) !loop_timer_set(u->timer, USER_IDLE_USEC);
        else
                loop_timer_stop(u->timer);
}

static void on_idle(void *userdata)
{
        User *u = userdata;

        if (is_idle(u))
                user_free(u);
        else
                user_advance(u);
}

const Connection *user_find_connection(const User *u, uint64_t number)
{
        LIST_FOREACH (c, &u->connections, Connection, link) {
                if (c->number == number)
                        return c;
        }
        return NULL;
}

void user_send(User *u, PrivMessage type, const void *body, size_t size, const int *fds, size_t n_fds)
{
        if (u->is_started)
                worker_send(u->api, type, body, size, fds, n_fds);
}

bool user_may_report(User *u)
{
        ReportQuota *q = &u->reports;
        uint64_t now = clock_monotonic_usec();
        char text[PRIV_TEXT_SIZE];

        if (now - q->since_usec >= USEC_PER_SEC) {
                if (q->n_dropped > 0 &&
                    str_printf(text, sizeof(text), "%u refusals have no row of their own", q->n_dropped) >=
                                    0)
                        service_report(u->launcher, AUDIT_KIND_LIMIT, u->uid, /* is_denial= */ true,
                                       "refuse", text);
                *q = (ReportQuota){ .since_usec = now };
        }
        if (q->n_rows < USER_REPORTS_PER_SEC) {
                q->n_rows++;
                return true;
        }
        q->n_dropped++;
        return false;
}

static bool sees_all_rows(const User *u)
{
        uint32_t auditors = u->launcher->ids.auditors_gid;

        if (u->uid == 0)
                return true;
        for (uint32_t i = 0; auditors != UINT32_MAX && i < u->identity.n_groups; i++) {
                if (u->identity.groups[i] == auditors)
                        return true;
        }
        return false;
}

/* A pair whose one end audit has; without audit it is closed, and api hears of a new one later. */
static int attach_audit(User *u, int *ret_fd)
{
        PrivApiAttach body = { .uid = u->uid, .sees_all = sees_all_rows(u) };
        int pair[2], r;

        r = imsg_pair(pair);
        if (r < 0)
                return r;
        worker_send(u->launcher->audit, PRIV_AUDIT_API_ATTACH, &body, sizeof(body), &pair[1], 1);
        pair[1] = fd_close(pair[1]);
        *ret_fd = pair[0];
        return 0;
}

static int send_start(User *u)
{
        const Launcher *l = u->launcher;
        _cleanup_close_ int audit_fd = -EBADF;
        PrivApiStart body = { .identity = u->identity,
                              .settings = l->settings,
                              .instance = l->instance,
                              .state = l->state,
                              .started_usec = l->started_usec,
                              .session_uid = u->uid ? u->uid : l->settings.root_session_uid,
                              .session_gid = u->uid ? u->identity.gid : l->settings.root_session_uid,
                              .controllers = cgroup_base_controllers(l->kernel->cgroups) };
        int r;

        memcpy(body.degraded, l->kernel->degraded, sizeof(body.degraded));
        r = attach_audit(u, &audit_fd);
        if (r < 0)
                return r;
        u->is_started = true;
        user_send(u, PRIV_API_START, &body, sizeof(body), &audit_fd, 1);
        sessions_adopt(u);
        return 0;
}

static void pass_connection(User *u, Connection *c)
{
        PrivClient body = { .connection = c->number,
                            .pid = c->peer.pid,
                            .uid = c->peer.uid,
                            .gid = c->peer.gid,
                            .is_admin = c->peer.is_admin,
                            .is_auditor = c->peer.is_auditor,
                            .is_over_quota = c->is_over_quota };

        user_send(u, PRIV_API_CLIENT, &body, sizeof(body), &c->fd, 1);
        c->fd = fd_close(c->fd);
}

static void on_api_ready(void *owner, _unused_ Worker *w, _unused_ const Imsg *m)
{
        user_advance(owner);
}

static void on_client_closed(User *u, const PrivClientClosed *body)
{
        LIST_FOREACH (c, &u->connections, Connection, link) {
                if (c->number == body->connection && c->fd < 0) {
                        connection_free(u, c);
                        break;
                }
        }
        user_check_idle(u);
}

static int on_api_message(void *owner, _unused_ Worker *w, Imsg *m)
{
        User *u = owner;

        if (!u->is_started)
                return -EPROTO;
        switch ((unsigned) m->type) {
        case PRIV_API_CLIENT_CLOSED:
                on_client_closed(u, m->body);
                return 0;
        case PRIV_SESSION_CREATE:
                return session_create(u, m);
        case PRIV_SESSION_TERMINATE:
                return session_terminate(u, m->body);
        case PRIV_SESSION_FREEZE:
                return session_freeze(u, m->body);
        case PRIV_SESSION_KILL_COMMAND:
                return session_kill_command(u, m->body);
        case PRIV_SESSION_REFUSE:
                return user_may_report(u) ? service_report_of_user(u->launcher, u->uid, m->body) : 0;
        default:
                return -EPROTO;
        }
}

static void on_api_gone(void *owner, _unused_ Worker *w)
{
        User *u = owner;

        u->api = NULL;
        u->is_started = false;
        /* Their other ends died with the worker; those that it never got are served by the next one. */
        LIST_FOREACH (c, &u->connections, Connection, link) {
                if (c->fd < 0)
                        connection_free(u, c);
        }
        sessions_lose_api(u);
        if (!restart_guard_permits(&u->guard)) {
                (void) log_error(0, "api worker of uid %u ended too often: waiting", u->uid);
                drop_connections(u);
                (void) !loop_timer_set(u->timer, RESTARTS_USEC);
                return;
        }
        user_check_idle(u);
        if (!is_idle(u))
                user_advance(u);
}

static const WorkerEvents api_events = { on_api_ready, on_api_message, on_api_gone };

/* STATE/api is root's, STATE/api/UID belongs to the workers' user and is all that this worker sees of it. */
static int make_state_directory(const User *u)
{
        const Launcher *l = u->launcher;
        _cleanup_close_ int fd = -EBADF;
        char name[16], path[PRIV_PATH_SIZE];
        int r;

        r = str_printf(path, sizeof(path), "%s/api", l->config->state_dir);
        if (r >= 0)
                r = str_printf(name, sizeof(name), "%u", u->uid);
        if (r < 0)
                return r;
        fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return neg_errno();
        if (mkdirat(fd, name, 0700) < 0 && errno != EEXIST)
                return neg_errno();
        if (fchownat(fd, name, l->ids.api_uid, l->ids.api_gid, AT_SYMLINK_NOFOLLOW) < 0)
                return neg_errno();
        return 0;
}

static void start_api(User *u)
{
        int r = make_state_directory(u);

        if (r >= 0)
                r = worker_new(u->launcher, WORKER_API, u->uid, &api_events, u, &u->api);
        if (r < 0) {
                (void) log_error(r, "cannot start the api worker of uid %u", u->uid);
                drop_connections(u);
                user_check_idle(u);
        }
}

static bool identity_is_sound(const User *u, const PrivIdentity *i)
{
        return i->uid == u->uid && i->n_groups <= PRIV_GROUPS_MAX && PRIV_STRING_OK(i->user) &&
               PRIV_STRING_OK(i->group) && PRIV_STRING_OK(i->home) && PRIV_STRING_OK(i->shell);
}

static void on_identity(void *userdata, int error, const void *data, size_t size)
{
        User *u = userdata;

        u->lookup = NULL;
        if (error >= 0 && size == sizeof(u->identity)) {
                memcpy(&u->identity, data, sizeof(u->identity));
                u->has_identity = identity_is_sound(u, &u->identity);
        }
        if (!u->has_identity) {
                (void) log_warning(0, "uid %u has no usable identity: its connections are closed", u->uid);
                drop_connections(u);
                user_check_idle(u);
                return;
        }
        user_advance(u);
}

static void start_lookup(User *u)
{
        char uid[16];
        int r;

        r = str_printf(uid, sizeof(uid), "%u", u->uid);
        if (r >= 0)
                r = lookup_new(u->launcher, &(LookupQuestion){ "identity", uid, -EBADF }, on_identity, u,
                               &u->lookup);
        if (r < 0) {
                (void) log_error(r, "cannot look up uid %u", u->uid);
                drop_connections(u);
                user_check_idle(u);
        }
}

static void user_advance(User *u)
{
        if (!u->has_identity) {
                if (!u->lookup)
                        start_lookup(u);
                return;
        }
        if (!u->api) {
                start_api(u);
                return;
        }
        if (!worker_is_ready(u->api))
                return;
        if (!u->is_started && send_start(u) < 0) {
                worker_kill(u->api);
                return;
        }
        LIST_FOREACH (c, &u->connections, Connection, link) {
                if (c->fd >= 0)
                        pass_connection(u, c);
        }
}

static int user_new(Launcher *l, uint32_t uid, User **ret)
{
        User *u;
        int r;

        if (l->users.n >= LAUNCHER_USERS_MAX)
                return -EUSERS;
        u = calloc(1, sizeof(*u));
        if (!u)
                return -ENOMEM;
        *u = (User){ .launcher = l, .uid = uid, .spare_user_fd = -EBADF };
        list_init(&u->connections);
        r = loop_timer_new(l->loop, on_idle, u, &u->timer);
        if (r >= 0)
                r = map_put(&l->users, &u->uid, sizeof(u->uid), u);
        if (r < 0) {
                u->timer = loop_timer_free(u->timer);
                free(u);
                return r;
        }
        *ret = u;
        return 0;
}

void user_add_connection(Launcher *l, const Peer *peer, int take_fd)
{
        _cleanup_close_ int fd = take_fd;
        User *u = map_get(&l->users, &peer->uid, sizeof(peer->uid));
        unsigned max = l->settings.connections_per_user_max;
        Connection *c;

        if (!u && user_new(l, peer->uid, &u) < 0)
                return;
        if (u->n_connections >= max + USER_CONNECTIONS_BEYOND)
                return;
        c = calloc(1, sizeof(*c));
        if (!c)
                return;
        *c = (Connection){ .number = ++l->last_connection,
                           .fd = TAKE_FD(fd),
                           .is_over_quota = u->n_connections >= max,
                           .peer = *peer };
        list_append(&u->connections, &c->link);
        u->n_connections++;
        user_check_idle(u);
        user_advance(u);
}

void users_attach_audit(Launcher *l)
{
        size_t cursor = 0;

        for (User *u = map_next(&l->users, &cursor); u; u = map_next(&l->users, &cursor)) {
                int fd;

                if (!u->is_started || attach_audit(u, &fd) < 0)
                        continue;
                user_send(u, PRIV_API_AUDIT_ATTACH, NULL, 0, &fd, 1);
                (void) fd_close(fd);
        }
}

void users_free(Launcher *l)
{
        size_t cursor = 0;
        User *u;

        while ((u = map_next(&l->users, &cursor))) {
                user_free(u);
                cursor = 0;
        }
        map_done(&l->users);
}
