#include "daemon/launcher/manager.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/launcher/reload.h"
#include "daemon/launcher/service.h"
#include "daemon/launcher/session.h"
#include "daemon/launcher/worker.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

#define STATE_ID_NAME "id"
#define STATE_ID_NEW  "id.new"

/* ---- the identity of the state directory ---- */

static int read_state_id(int state_fd, Id *ret)
{
        _cleanup_close_ int fd = openat(state_fd, STATE_ID_NAME, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        char text[ID_TEXT_SIZE] = "";
        ssize_t n;

        if (fd < 0)
                return neg_errno();
        n = read(fd, text, sizeof(text) - 1);
        if (n < 0)
                return neg_errno();
        return id_parse(text, ret);
}

/* Whole or not at all, also when the power fails: clients keep what they know only for the same id. */
static int write_state_id(int state_fd, const Id *id)
{
        _cleanup_close_ int fd = openat(state_fd, STATE_ID_NEW,
                                        O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
        char text[ID_TEXT_SIZE];
        int r;

        if (fd < 0)
                return neg_errno();
        id_format(id, text);
        text[ID_TEXT_SIZE - 1] = '\n';
        r = fd_write_all(fd, text, sizeof(text));
        if (r < 0)
                return r;
        if (fsync(fd) < 0 || renameat(state_fd, STATE_ID_NEW, state_fd, STATE_ID_NAME) < 0 ||
            fsync(state_fd) < 0)
                return neg_errno();
        return 0;
}

int manager_load_state_id(Launcher *l, int state_fd)
{
        int r;

        r = read_state_id(state_fd, &l->state);
        if (r >= 0)
                return 0;
        if (r != -ENOENT)
                (void) log_warning(r,
                                   "%s/" STATE_ID_NAME
                                   " is damaged: clients will take this for another state",
                                   l->config->state_dir);
        r = id_random(&l->state);
        return r < 0 ? r : write_state_id(state_fd, &l->state);
}

/* ---- telling the workers ---- */

static void send_state(User *u)
{
        const Launcher *l = u->launcher;
        PrivApiState body = { .is_draining = l->is_draining,
                              .remaining = u->has_drain ? (uint32_t) l->sessions.n : PRIV_REMAINING_UNKNOWN,
                              .log_level = l->log_level };

        user_send(u, PRIV_API_STATE, &body, sizeof(body), NULL, 0);
        if (l->sessions.n == 0 || !l->is_draining)
                u->has_drain = false;
}

static void send_state_to_all(Launcher *l)
{
        size_t cursor = 0;

        for (User *u = map_next(&l->users, &cursor); u; u = map_next(&l->users, &cursor))
                send_state(u);
}

void manager_session_ended(Launcher *l)
{
        size_t cursor = 0;

        if (!l->is_draining)
                return;
        for (User *u = map_next(&l->users, &cursor); u; u = map_next(&l->users, &cursor)) {
                if (u->has_drain)
                        send_state(u);
        }
}

/* ---- the verbs ---- */

static void fill_status(const User *u, bool sees_all, PrivManagerAnswer *a)
{
        const Launcher *l = u->launcher;

        a->is_draining = l->is_draining;
        a->n_sessions = sees_all ? (uint32_t) l->sessions.n : u->n_sessions;
        a->log_level = l->log_level;
        a->has_audit = worker_is_ready(l->audit);
        a->has_dialer = worker_is_ready(l->dialer);
        a->n_egress_max = ELEMENTSOF(l->pool);
        a->n_blanks_max = ELEMENTSOF(l->blanks);
        for (size_t i = 0; i < ELEMENTSOF(l->pool); i++)
                a->n_egress += worker_is_ready(l->pool[i]);
        for (size_t i = 0; i < ELEMENTSOF(l->blanks); i++)
                a->n_blanks += l->blanks[i] != NULL;
        memcpy(a->probes, l->kernel->probes, sizeof(a->probes));
}

static void drain(User *u, bool is_cancel)
{
        Launcher *l = u->launcher;
        bool was_draining = l->is_draining;

        l->is_draining = !is_cancel;
        u->has_drain = !is_cancel && l->sessions.n > 0;
        if (was_draining == l->is_draining)
                return;
        service_report(l, AUDIT_KIND_ADMIN, u->uid, /* is_denial= */ false, "drain",
                       is_cancel ? "new sessions are taken again" : "no new sessions");
        send_state_to_all(l);
}

static int set_log_level(Launcher *l, uint32_t level)
{
        if (level > LOG_LEVEL_DEBUG)
                return -EINVAL;
        l->log_level = level;
        log_set_level((LogLevel) level);
        workers_set_log_level(l);
        send_state_to_all(l);
        return 0;
}

void manager_answer(User *u, const PrivManagerAnswer *a, const void *tail, size_t n_tail)
{
        _cleanup_free_ char *body = malloc(sizeof(*a) + n_tail);

        if (!body) {
                user_send(u, PRIV_MANAGER_ANSWER, a, sizeof(*a), NULL, 0);
                return;
        }
        memcpy(body, a, sizeof(*a));
        if (n_tail > 0)
                memcpy(body + sizeof(*a), tail, n_tail);
        user_send(u, PRIV_MANAGER_ANSWER, body, sizeof(*a) + n_tail, NULL, 0);
}

/* ---- asked ---- */

/* What does not fit is cut at a variable. */
static size_t copy_environment(char *to, size_t size)
{
        size_t used = 0;

        for (char **e = environ; e && *e; e++) {
                size_t n = strlen(*e) + 1;

                if (n > size - used)
                        break;
                memcpy(to + used, *e, n);
                used += n;
        }
        return used;
}

static int check(const Connection *c, uint32_t verb)
{
        if (!c)
                return -ENOTCONN;
        if (verb == MANAGER_STATUS)
                return 0;
        if (verb == MANAGER_DRAIN || verb == MANAGER_DRAIN_CANCEL || verb == MANAGER_RELOAD)
                return c->peer.is_admin ? 0 : -EPERM;
        return c->peer.uid == 0 ? 0 : -EPERM;
}

static int reload(User *u, const PrivManagerAsk *ask, int error)
{
        if (error == -EPERM)
                reload_refuse(u);
        return error < 0 ? error : reload_ask(u, ask->token);
}

int manager_ask(User *u, const PrivManagerAsk *ask)
{
        const Connection *c = user_find_connection(u, ask->connection);
        PrivManagerAnswer a = { .token = ask->token };
        char environment[8192];
        size_t n = 0;

        if (ask->verb >= _MANAGER_VERB_MAX)
                return -EPROTO;
        a.error = check(c, ask->verb);
        if (a.error >= 0 && (ask->verb == MANAGER_DRAIN || ask->verb == MANAGER_DRAIN_CANCEL))
                drain(u, ask->verb == MANAGER_DRAIN_CANCEL);
        else if (a.error >= 0 && ask->verb == MANAGER_SET_LOG_LEVEL)
                a.error = set_log_level(u->launcher, ask->value);
        else if (a.error >= 0 && ask->verb == MANAGER_ENVIRONMENT)
                n = copy_environment(environment, sizeof(environment));
        else if (ask->verb == MANAGER_RELOAD || ask->verb == MANAGER_RELOAD_ROOT)
                a.error = reload(u, ask, a.error);
        /* Answered when all has been read. */
        if (a.error > 0)
                return 0;
        if (a.error >= 0)
                fill_status(u, c->peer.is_admin, &a);
        manager_answer(u, &a, environment, n);
        return 0;
}
