#include "daemon/launcher/session.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "daemon/init/plan.h"
#include "daemon/isolate/userns.h"
#include "daemon/launcher/admin.h"
#include "daemon/launcher/blank.h"
#include "daemon/launcher/home.h"
#include "daemon/launcher/listen.h"
#include "daemon/launcher/service.h"
#include "daemon/launcher/setup.h"
#include "daemon/launcher/watch.h"
#include "daemon/launcher/worker.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

/*
 * Creation: everything that the kernel does at once happens here, in the order of the table below; then the
 * session waits for init, for its row and for an egress worker, all at the same time. Whatever fails,
 * session_fail() tears down by descriptor.
 */

#define SESSION_START_USEC  (10 * USEC_PER_SEC)
#define SESSION_TEXT(field) PRIV_STRING_OK(field)

static void send_refusal(User *u, uint64_t token, int error, const char *step, const char *detail)
{
        PrivSessionCreated body = { .token = token, .error = error };

        (void) !str_copy(body.step, sizeof(body.step), step);
        (void) !str_copy(body.detail, sizeof(body.detail), detail);
        if (error != -EDQUOT && quota_take_row(u))
                service_report(u->launcher, AUDIT_KIND_SESSION, u->uid, /* is_denial= */ true, "refuse",
                               detail);
        user_send(u, PRIV_SESSION_CREATED, &body, sizeof(body), NULL, 0);
}

static bool is_sealed_block(int fd, off_t size_max)
{
        struct stat st;

        return fd_is_sealed(fd) && fstat(fd, &st) >= 0 && st.st_size > 0 && st.st_size <= size_max;
}

static bool claims_are_sound(const PrivSessionClaims *c)
{
        return SESSION_TEXT(c->name) && SESSION_TEXT(c->profile) && SESSION_TEXT(c->agent) &&
               SESSION_TEXT(c->agent_session) && SESSION_TEXT(c->workspace);
}

static bool ports_are_sound(const PrivSessionCreate *body)
{
        if (body->n_publish > PRIV_PUBLISH_MAX || (body->n_publish > 0 && body->has_no_network))
                return false;
        for (uint32_t i = 0; i < body->n_publish; i++)
                if (body->publish[i] == 0 || body->publish[i] > UINT16_MAX)
                        return false;
        return true;
}

static int step_cgroup(Session *s)
{
        const CgroupBase *base = s->launcher->kernel->cgroups;

        return s->cgroup_fd >= 0 ? cgroup_limit(base, s->cgroup_fd, &s->limits)
                                 : cgroup_make(base, &s->id, &s->limits, &s->cgroup_fd);
}

static int step_audit(Session *s)
{
        return session_open_audit(s, /* is_known= */ false);
}

static int step_dialer(Session *s)
{
        session_open_dialer(s);
        return 0;
}

static int step_network(Session *s)
{
        const Kernel *k = s->launcher->kernel;

        return s->network.fd >= 0 ? 0 : netns_new(k->network_fd, k->steering, &s->network);
}

static int step_user_namespace(Session *s)
{
        User *u = s->user;
        int r = 0;

        if (u->spare_user_fd >= 0 && u->spare_gid == s->gid && s->n_kept_groups == 0)
                s->user_fd = TAKE_FD(u->spare_user_fd);
        else
                r = userns_new_groups(s->uid, s->gid, s->kept_groups, s->n_kept_groups, &s->user_fd);
        u->spare_user_fd = fd_close(u->spare_user_fd);
        u->spare_gid = s->caller.uid != 0 ? s->gid : 0;
        if (r >= 0 && s->caller.uid == 0)
                r = userns_new_idmap(s->uid, s->gid, &s->idmap_fd);
        return r;
}

/* Before api hears of the session: its first process finds the rules. */
static int take_rules(Session *s, const PrivInitResult *result, const Imsg *m)
{
        Prevention *p = s->launcher->kernel->prevention;
        int r;

        if (m->n_fds != (result->has_rules != 0) || (result->has_rules && !p))
                return -EPROTO;
        if (!result->has_rules)
                return 0;
        r = prevention_enter(p, s->cgroup_fd, m->fds[0]);
        s->is_prevented = r >= 0;
        return r;
}

static int on_init_message(void *owner, _unused_ PrivLink *link, Imsg *m)
{
        Session *s = owner;
        const PrivInitResult *result = m->body;
        int r;

        if (m->type != PRIV_INIT_RESULT || s->is_init_ready || s->state != SESSION_STARTING)
                return -EPROTO;
        if (!SESSION_TEXT(result->step) || !SESSION_TEXT(result->detail) || !SESSION_TEXT(result->missing))
                return -EPROTO;
        if (result->error != 0) {
                session_fail(s, result->error < 0 ? result->error : -EPROTO, result->step, result->detail);
                return 0;
        }
        r = take_rules(s, result, m);
        if (r == -EPROTO)
                return r;
        if (r < 0) {
                session_fail(s, r, "protect", "the kernel does not take the rules of protected paths");
                return 0;
        }
        memcpy(s->answer.missing, result->missing, sizeof(s->answer.missing));
        s->has_guard = result->has_guard != 0;
        s->is_init_ready = true;
        session_maybe_answer(s);
        return 0;
}

/* Until the answer this is a failed start; afterwards init has simply closed what it no longer needs, or has
 * been taken over and tries what it may say. */
static void on_init_closed(void *owner, _unused_ PrivLink *link, int reason)
{
        Session *s = owner;

        if (!s->is_init_ready)
                session_fail(s, reason, "init", "sandbox-init ended while it made the session");
        else if (reason != -EPIPE)
                session_stop(s, END_TERMINATED);
}

static int spawn_init(Session *s)
{
        _cleanup_close_ int mask = watch_mount(s->launcher, &s->id);
        InitSpec spec = { .cgroup_fd = s->cgroup_fd, .network = &s->network, .mask_fd = mask };

        s->is_watched = mask >= 0;
        return init_spawn(s->launcher, &spec, &s->init_pid, &s->init_pidfd, &s->init_link);
}

static int step_init(Session *s)
{
        int r = s->init_link ? 0 : spawn_init(s);

        if (r < 0)
                return r;
        priv_link_set_handler(s->init_link, on_init_message, on_init_closed, s);
        session_watch_init(s, &r);
        /* Only now: to be born in the group needs its cgroup.procs, which is then the user's. */
        return r < 0 ? r : cgroup_give(s->cgroup_fd, s->uid, s->gid);
}

/* One too many: init makes an empty one and says so. */
static int step_home(Session *s)
{
        int r;

        if (!s->wants_home)
                return 0;
        r = home_open(s->launcher, s->uid, s->gid, s->home_key, &s->home_fd);
        return r < 0 ? r : 0;
}

static int step_start(Session *s)
{
        const Kernel *k = s->launcher->kernel;
        PrivInitStart body = { .uid = s->uid,
                               .gid = s->gid,
                               .caller_uid = s->caller.uid,
                               .caller_gid = s->caller.gid,
                               .n_groups = s->caller.n_groups,
                               .is_idmapped = s->idmap_fd >= 0,
                               .has_home = s->home_fd >= 0,
                               .has_marks = k->prevention != NULL,
                               .n_kept_groups = s->n_kept_groups };
        int pair[2], fds[IMSG_FDS_MAX], r;
        size_t n = 6;

        memcpy(body.groups, s->caller.groups, sizeof(body.groups));
        memcpy(body.kept_groups, s->kept_groups, sizeof(body.kept_groups));
        r = imsg_pair(pair);
        if (r < 0)
                return r;
        watch_open_session(s);
        s->answer.is_unwatched = watch_is_missed(s);
        s->api_fd = pair[0];
        memcpy(fds,
               (int[]){ s->plan_fd, s->user_fd, s->cgroup_fd, k->session_filter_fd, k->command_filter_fd,
                        pair[1] },
               6 * sizeof(int));
        if (s->idmap_fd >= 0)
                fds[n++] = s->idmap_fd;
        if (s->home_fd >= 0)
                fds[n++] = s->home_fd;
        if (k->prevention)
                fds[n++] = prevention_marks(k->prevention);
        r = priv_link_send(s->init_link, PRIV_INIT_START, &body, sizeof(body), fds, n);
        (void) fd_close(pair[1]);
        /* init has them, or the start fails. */
        s->plan_fd = fd_close(s->plan_fd);
        s->user_fd = fd_close(s->user_fd);
        s->idmap_fd = fd_close(s->idmap_fd);
        s->home_fd = fd_close(s->home_fd);
        return r;
}

static int step_egress(Session *s)
{
        s->wants_egress = true;
        session_attach_egress(s);
        return 0;
}

static const struct {
        const char *name;
        const char *detail;
        int (*run)(Session *s);
} steps[] = {
        { "audit", "the start cannot be recorded", step_audit },
        { "dialer", "the dialer is not there", step_dialer },
        { "publish", "a port to publish is taken on this machine, or below 1024", publish_open },
        { "cgroup", "the control group cannot be made, or a limit needs a controller that is missing",
          step_cgroup },
        { "network", "the network namespace cannot be made", step_network },
        { "user-namespace", "the user namespace cannot be made", step_user_namespace },
        { "init", "sandbox-init cannot be started", step_init },
        { "home", "the persistent home cannot be opened or made", step_home },
        { "start", "sandbox-init cannot be told to start", step_start },
        { "egress", "no egress worker can be had", step_egress },
};

static void run_steps(Session *s)
{
        for (size_t i = 0; i < ELEMENTSOF(steps) && s->state == SESSION_STARTING; i++) {
                int r = steps[i].run(s);

                if (r < 0) {
                        session_fail(s, r, steps[i].name, steps[i].detail);
                        return;
                }
                listen_glance(s->launcher);
        }
}

static void on_deadline(void *userdata);

static void take_over(Session *s, Blank *take)
{
        if (!take)
                return;
        s->cgroup_fd = TAKE_FD(take->cgroup_fd);
        s->network = take->network;
        take->network = NETNS_INIT;
        s->init_pid = take->init_pid;
        s->init_pidfd = TAKE_FD(take->init_pidfd);
        s->init_link = TAKE_PTR(take->init_link);
        s->is_watched = take->is_watched;
        take->is_watched = false;
        /* At once: what fails before the step that waits for init must not leave its end to the blank. */
        priv_link_set_handler(s->init_link, on_init_message, on_init_closed, s);
        (void) blank_free(take);
}

/* Into the table, under the id of what was made ahead or one of its own. */
static int enter(Session *s, const Blank *b)
{
        Map *sessions = &s->launcher->sessions;
        int r = 0;

        if (b)
                s->id = b->id;
        else
                r = id_random(&s->id);
        if (r >= 0)
                r = loop_timer_new(s->launcher->loop, on_deadline, s, &s->timer);
        if (r >= 0)
                r = loop_timer_set(s->timer, SESSION_START_USEC);
        return r < 0 ? r : map_put(sessions, &s->id, sizeof(s->id), s);
}

static Session *session_new(User *u)
{
        Session *s = calloc(1, sizeof(*s));
        Blank *b;

        if (!s)
                return NULL;
        *s = (Session){ .launcher = u->launcher,
                        .user = u,
                        .plan_fd = -EBADF,
                        .policy_fd = -EBADF,
                        .cgroup_fd = -EBADF,
                        .user_fd = -EBADF,
                        .idmap_fd = -EBADF,
                        .home_fd = -EBADF,
                        .api_fd = -EBADF,
                        .init_pidfd = -EBADF,
                        .network = NETNS_INIT,
                        .names_fd = -EBADF,
                        .pool = u->launcher->settings.pool,
                        .created_usec = clock_realtime_usec() };
        list_init(&s->inbounds);
        b = blank_take(u->launcher);
        if (enter(s, b) < 0) {
                (void) blank_free(b);
                s->timer = loop_timer_free(s->timer);
                free(s);
                return NULL;
        }
        take_over(s, b);
        user_count_session(u, 1);
        return s;
}

static void fill(Session *s, const PrivSessionCreate *body, const Peer *caller, Imsg *m)
{
        char id[ID_TEXT_SIZE];

        s->token = body->token;
        s->has_no_network = body->has_no_network != 0;
        s->wants_home = body->has_home != 0;
        memcpy(s->home_key, body->home_key, sizeof(s->home_key));
        s->n_publish = body->n_publish;
        memcpy(s->publish, body->publish, sizeof(s->publish));
        session_choose_pool(s, &body->pool);
        s->limits = body->limits;
        s->claims = body->claims;
        s->caller = *caller;
        s->uid = caller->uid ? caller->uid : s->launcher->settings.root_session_uid;
        s->gid = caller->uid ? caller->gid : s->launcher->settings.root_session_uid;
        s->plan_fd = TAKE_FD(m->fds[0]);
        s->policy_fd = TAKE_FD(m->fds[1]);
        id_format(&s->id, id);
        s->answer = (PrivSessionCreated){
                .token = s->token, .session = s->id, .created_usec = s->created_usec, .claims = s->claims
        };
        (void) !str_printf(s->answer.cgroup, sizeof(s->answer.cgroup), "%s/%s",
                           cgroup_base_path(s->launcher->kernel->cgroups), id);
}

static bool is_in_group(const Peer *caller, uint32_t gid)
{
        for (uint32_t i = 0; i < caller->n_groups; i++) {
                if (caller->groups[i] == gid)
                        return true;
        }
        return false;
}

/* Whose they are the kernel has said; api says which of them are meant. */
static int take_groups(Session *s, const PrivSessionCreate *body)
{
        uint32_t last = 0;

        for (uint32_t i = 0; i < body->n_kept_groups; i++) {
                uint32_t gid = body->kept_groups[i];

                if (gid <= last || !is_in_group(&s->caller, gid))
                        return -EPERM;
                last = gid;
                if (gid != s->gid)
                        s->kept_groups[s->n_kept_groups++] = gid;
        }
        return 0;
}

/* What stands in the way before anything was made; NULL: nothing. */
static const char *find_objection(const User *u, const Peer *caller, int *ret_error)
{
        const Launcher *l = u->launcher;

        *ret_error = -ESHUTDOWN;
        if (l->is_stopping)
                return "the daemon is stopping";
        if (l->is_draining)
                return "the daemon takes no new sessions";
        *ret_error = -EAGAIN;
        if (!service_is_up(l))
                return "the audit writer or the dialer is not ready";
        if (admin_is_ending(u))
                return "an administrator is ending all sessions of this user";
        *ret_error = -E2BIG;
        if (caller->has_too_many_groups)
                return "the caller is in more groups than a session can have";
        *ret_error = -EOPNOTSUPP;
        if (l->settings.needs_prevention && !l->kernel->prevention)
                return "the kernel does not prevent changes of protected paths, and sessions.protect asks for it: "
                       "sandboxctl doctor says why";
        *ret_error = -EPERM;
        return caller->uid == 0 && l->settings.root_session_uid == 0
                               ? "no user id is set for sessions of root"
                               : NULL;
}

int session_create(User *u, Imsg *m)
{
        const PrivSessionCreate *body = m->body;
        const Connection *c = user_find_connection(u, body->connection);
        const char *objection, *quota;
        Session *s;
        int error;

        if (!claims_are_sound(&body->claims) || !ports_are_sound(body) ||
            !session_pool_is_sound(&body->pool) || body->n_kept_groups > PRIV_GROUPS_MAX ||
            !is_sealed_block(m->fds[0], PLAN_SIZE_MAX) || !is_sealed_block(m->fds[1], LAUNCHER_BLOCK_MAX))
                return -EPROTO;
        quota = quota_take_start(u);
        if (quota) {
                send_refusal(u, body->token, -EDQUOT, quota, "");
                return 0;
        }
        /* It may have been closed while the message was under way: no fault of api's. */
        if (!c) {
                send_refusal(u, body->token, -ENOTCONN, "connection", "the connection is gone");
                return 0;
        }
        objection = find_objection(u, &c->peer, &error);
        if (objection) {
                send_refusal(u, body->token, error, "launcher", objection);
                return 0;
        }
        s = session_new(u);
        if (!s) {
                send_refusal(u, body->token, -ENOMEM, "launcher", "out of memory");
                return 0;
        }
        fill(s, body, &c->peer, m);
        if (take_groups(s, body) < 0) {
                session_fail(s, -EPERM, "groups",
                             "the caller is not in a group that the session is to keep");
                return 0;
        }
        run_steps(s);
        return 0;
}

static void on_deadline(void *userdata)
{
        Session *s = userdata;

        if (s->state == SESSION_STARTING && !s->is_init_ready)
                watch_suspect(s);
        if (s->state == SESSION_STARTING)
                session_fail(s, -ETIMEDOUT,
                             !s->is_init_ready ? "init"
                             : !s->is_recorded ? "audit"
                                               : "egress",
                             "the session did not start in time");
        else if (s->state == SESSION_RUNNING)
                /* Nobody came back for a session that ends with its client. */
                session_stop(s, END_CLIENT_GONE);
        else if (s->init_io)
                session_hurry(s);
        else
                session_stop(s, s->reason);
}

int session_terminate(User *u, const PrivSessionEnd *body)
{
        Session *s = map_get(&u->launcher->sessions, &body->session, sizeof(body->session));

        if (body->reason >= _END_REASON_MAX)
                return -EPROTO;
        /* A session that ended meanwhile is no fault; one of somebody else does not exist for this channel.
         */
        if (s && s->user == u && s->state != SESSION_STOPPING)
                session_stop(s, (EndReason) body->reason);
        return 0;
}
