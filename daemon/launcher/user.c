#include "daemon/launcher/user.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/launcher/admin.h"
#include "daemon/launcher/lookup.h"
#include "daemon/launcher/manager.h"
#include "daemon/launcher/reload.h"
#include "daemon/launcher/service.h"
#include "daemon/launcher/session.h"
#include "daemon/launcher/setup.h"
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

#define USER_IDLE_USEC  (30 * USEC_PER_SEC)
#define USER_RETRY_USEC (2 * USEC_PER_SEC) /* for a worker that could not be started */

/* An unknown uid stays unknown for so long: many of them must not keep us starting children. */
#define USER_REFUSED_USEC (10 * USEC_PER_SEC)

/* A name service that is slow is asked for so many at once. */
#define USER_LOOKUPS_MAX 16U

static void user_advance(User *u);

static void connection_free(User *u, Connection *c)
{
        list_unlink(&c->link);
        u->n_connections--;
        if (u->uid != 0)
                u->launcher->n_connections--;
        c->fd = fd_close(c->fd);
        free(c);
}

static void drop_connections(User *u)
{
        LIST_FOREACH (c, &u->connections, Connection, link)
                connection_free(u, c);
}

static void count_worker(User *u, bool is_there)
{
        if (u->uid == 0 || u->is_worker_counted == is_there)
                return;
        u->is_worker_counted = is_there;
        if (is_there)
                u->launcher->n_workers_of_users++;
        else
                u->launcher->n_workers_of_users--;
}

static void count_lookup(User *u, bool is_there)
{
        if (u->uid == 0 || u->is_looked_up == is_there)
                return;
        u->is_looked_up = is_there;
        if (is_there)
                u->launcher->n_identity_lookups++;
        else
                u->launcher->n_identity_lookups--;
}

static void user_free(User *u)
{
        u->lookup = lookup_free(u->lookup);
        u->report = lookup_free(u->report);
        count_lookup(u, false);
        u->timer = loop_timer_free(u->timer);
        worker_retire(u->api);
        count_worker(u, false);
        quota_done(u);
        drop_connections(u);
        u->spare_user_fd = fd_close(u->spare_user_fd);
        admin_forget(u);
        free(u->ended);
        (void) map_remove(&u->launcher->users, &u->uid, sizeof(u->uid));
        free(u->ends);
        free(u);
}

static bool is_idle(const User *u)
{
        return list_is_empty(&u->connections) && u->n_sessions == 0 && !u->has_unsaid_ends;
}

/* Whoever has sessions gets a worker again, even if none could be started and nobody connects. */
static void user_check_idle(User *u)
{
        uint64_t now = clock_monotonic_usec(), retry = USER_RETRY_USEC;

        if (u->no_worker_until_usec > now)
                retry = u->no_worker_until_usec - now;
        if (is_idle(u))
                (void) !loop_timer_set(u->timer, USER_IDLE_USEC);
        else if (!u->api && u->has_identity)
                (void) !loop_timer_set(u->timer, retry);
        else
                loop_timer_stop(u->timer);
}

void user_count_session(User *u, int difference)
{
        Launcher *l = u->launcher;

        u->n_sessions = (unsigned) ((int) u->n_sessions + difference);
        if (u->uid != 0)
                l->n_sessions = (unsigned) ((int) l->n_sessions + difference);
        user_check_idle(u);
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

void user_send_end(User *u, const PrivSessionEnd *end)
{
        if (!u->ends)
                u->ends = calloc(USER_ENDS_KEPT, sizeof(*u->ends));
        if (u->ends)
                u->ends[u->n_ends++ % USER_ENDS_KEPT] = *end;
        if (u->is_started)
                user_send(u, PRIV_SESSION_ENDED, end, sizeof(*end), NULL, 0);
        else
                u->has_unsaid_ends = u->ends != NULL && !u->launcher->is_stopping;
}

static void repeat_ends(User *u)
{
        size_t first = u->n_ends > USER_ENDS_KEPT ? u->n_ends - USER_ENDS_KEPT : 0;

        for (size_t i = first; i < u->n_ends; i++)
                user_send(u, PRIV_SESSION_ENDED, &u->ends[i % USER_ENDS_KEPT], sizeof(*u->ends), NULL, 0);
        u->has_unsaid_ends = false;
        user_check_idle(u);
}

void user_send_settings(User *u)
{
        const Launcher *l = u->launcher;
        PrivApiSettings body = { .generation = l->generation,
                                 .loaded_usec = l->loaded_usec,
                                 .settings = l->settings };

        memcpy(body.digest, l->digest, sizeof(body.digest));
        user_send(u, PRIV_API_SETTINGS, &body, sizeof(body), &l->profiles_fd, 1);
}

static int send_start(User *u)
{
        const Launcher *l = u->launcher;
        _cleanup_close_ int audit_fd = -EBADF;
        PrivApiStart body = { .identity = u->identity,
                              .instance = l->instance,
                              .state = l->state,
                              .started_usec = l->started_usec,
                              .session_uid = u->uid ? u->uid : l->settings.root_session_uid,
                              .session_gid = u->uid ? u->identity.gid : l->settings.root_session_uid,
                              .controllers = cgroup_base_controllers(l->kernel->cgroups),
                              .is_draining = l->is_draining,
                              .log_level = l->log_level };
        int r;

        if ((r = setup_describe(l, &body)) < 0 || (r = attach_audit(u, &audit_fd)) < 0)
                return r;
        u->is_started = true;
        user_send(u, PRIV_API_START, &body, sizeof(body), &audit_fd, 1);
        user_send_settings(u);
        sessions_adopt(u);
        repeat_ends(u);
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
                            .over = c->over };

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

/* What api refused by itself: a start, which counts as one; or something beyond a quota. */
static int on_refuse(User *u, const PrivReport *body)
{
        if (body->kind == AUDIT_KIND_LIMIT)
                return PRIV_STRING_OK(body->reason) ? quota_note(u, body->reason, body->count) : -EPROTO;
        quota_charge_start(u);
        return quota_take_row(u) ? service_report_of_user(u->launcher, u->uid, body) : 0;
}

static int on_create(User *u, Imsg *m)
{
        uint64_t begin = clock_monotonic_usec();
        int r = session_create(u, m);

        if (r >= 0)
                worker_pause(u->api, quota_charge_time(u, clock_monotonic_usec() - begin));
        return r;
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
                return on_create(u, m);
        case PRIV_MANAGER_ASK:
                return manager_ask(u, m->body);
        case PRIV_SESSION_TERMINATE:
                return session_terminate(u, m->body);
        case PRIV_SESSION_FREEZE:
                return session_freeze(u, m->body);
        case PRIV_SESSION_KILL_COMMAND:
                return session_kill_command(u, m->body);
        case PRIV_SESSION_FORWARD:
                return inbound_forward(u, m->body);
        case PRIV_SESSION_REPORT:
                return report_ask(u, m->body);
        case PRIV_ADMIN_OPEN:
                return admin_open(u, m->body);
        case PRIV_ADMIN_TERMINATE:
                return admin_terminate(u, m->body);
        case PRIV_SESSION_STOPPING:
                return admin_on_stopping(u, m->body);
        case PRIV_SESSION_REFUSE:
                return on_refuse(u, m->body);
        default:
                return -EPROTO;
        }
}

/* Whoever connects meanwhile has us start none either. */
static bool wait_for_worker(User *u)
{
        uint64_t now = clock_monotonic_usec();

        if (now >= u->no_worker_until_usec)
                return false;
        drop_connections(u);
        (void) !loop_timer_set(u->timer, u->no_worker_until_usec - now);
        return true;
}

static void on_api_gone(void *owner, _unused_ Worker *w)
{
        User *u = owner;

        u->api = NULL;
        count_worker(u, false);
        u->is_started = false;
        u->has_drain = false;
        /* Their other ends died with the worker; those that it never got are served by the next one. */
        LIST_FOREACH (c, &u->connections, Connection, link) {
                if (c->fd < 0)
                        connection_free(u, c);
        }
        sessions_lose_api(u);
        admin_forget(u);
        reload_forget(u);
        if (!restart_guard_permits(&u->guard)) {
                (void) log_error(0, "api worker of uid %u ended too often: waiting", u->uid);
                u->no_worker_until_usec = clock_monotonic_usec() + RESTARTS_USEC;
                wait_for_worker(u);
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

static void refuse_all(User *u)
{
        drop_connections(u);
        user_check_idle(u);
}

static void start_api(User *u)
{
        int r;

        if (wait_for_worker(u))
                return;
        if (!quota_may_have_worker(u)) {
                refuse_all(u);
                return;
        }
        r = make_state_directory(u);
        if (r >= 0)
                r = worker_new(u->launcher, WORKER_API, u->uid, &api_events, u, &u->api);
        if (r < 0) {
                (void) log_error(r, "cannot start the api worker of uid %u", u->uid);
                refuse_all(u);
                return;
        }
        count_worker(u, true);
}

/* Somebody may have waited for its turn. */
static void lookup_next(Launcher *l)
{
        size_t cursor = 0;

        for (User *u = map_next(&l->users, &cursor); u; u = map_next(&l->users, &cursor)) {
                if (!u->has_identity && !u->lookup && !list_is_empty(&u->connections)) {
                        user_advance(u);
                        return;
                }
        }
}

static void on_identity(void *userdata, int error, const void *data, size_t size)
{
        User *u = userdata;

        u->lookup = NULL;
        count_lookup(u, false);
        lookup_next(u->launcher);
        if (error >= 0 && size == sizeof(u->identity)) {
                memcpy(&u->identity, data, sizeof(u->identity));
                u->has_identity = lookup_identity_is_sound(&u->identity, u->uid);
        }
        if (!u->has_identity) {
                (void) log_warning(0, "uid %u has no usable identity: its connections are closed", u->uid);
                u->refused_until_usec = clock_monotonic_usec() + USER_REFUSED_USEC;
                refuse_all(u);
                return;
        }
        user_advance(u);
}

static void start_lookup(User *u)
{
        char uid[16];
        int r;

        if (clock_monotonic_usec() < u->refused_until_usec) {
                refuse_all(u);
                return;
        }
        /* Root never waits for others. */
        if (u->uid != 0 && u->launcher->n_identity_lookups >= USER_LOOKUPS_MAX)
                return;

        r = str_printf(uid, sizeof(uid), "%u", u->uid);
        if (r >= 0)
                r = lookup_new(u->launcher, &(LookupQuestion){ .what = "identity", .argument = uid },
                               on_identity, u, &u->lookup);
        if (r < 0) {
                (void) log_error(r, "cannot look up uid %u", u->uid);
                refuse_all(u);
                return;
        }
        count_lookup(u, true);
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

        /* One person may have the ids of a whole range (subuid): they keep nobody from root's share. */
        if (uid != 0 && l->users.n >= LAUNCHER_USERS_MAX)
                return -EUSERS;
        u = calloc(1, sizeof(*u));
        if (!u)
                return -ENOMEM;
        *u = (User){ .launcher = l, .uid = uid, .spare_user_fd = -EBADF };
        list_init(&u->connections);
        r = quota_init(u);
        if (r >= 0)
                r = loop_timer_new(l->loop, on_idle, u, &u->timer);
        if (r >= 0)
                r = map_put(&l->users, &u->uid, sizeof(u->uid), u);
        if (r < 0) {
                quota_done(u);
                u->timer = loop_timer_free(u->timer);
                free(u);
                return r;
        }
        *ret = u;
        return 0;
}

User *user_of_peer(Launcher *l, uint32_t uid)
{
        User *u = map_get(&l->users, &uid, sizeof(uid));

        if (u || user_new(l, uid, &u) < 0)
                return u;
        /* Its connection may still be refused: then it goes again. */
        user_check_idle(u);
        return u;
}

void user_add_connection(User *u, const Peer *peer, uint32_t over, int take_fd)
{
        _cleanup_close_ int fd = take_fd;
        Connection *c = calloc(1, sizeof(*c));

        if (!c)
                return;
        *c = (Connection){
                .number = ++u->launcher->last_connection, .fd = TAKE_FD(fd), .over = over, .peer = *peer
        };
        list_append(&u->connections, &c->link);
        u->n_connections++;
        if (u->uid != 0)
                u->launcher->n_connections++;
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
