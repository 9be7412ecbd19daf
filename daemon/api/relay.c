/*
 * An administrator's calls about sessions of others. What the session's id names is not ours: the launcher
 * is asked for a way to the worker of its owner, which is a connection like any client's; the call goes
 * there as it stands, with its descriptors, and what comes back goes to the client.
 *
 * That worker may have been taken over by its user, who may lie about own sessions and about nothing else:
 * replies that name another owner end the call, and only methods whose replies carry descriptors pass any.
 */

#include "daemon/api/relay.h"

#include <errno.h>

#include "daemon/api/session.h"
#include "proto/base/clock.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

#define SESSION_PREFIX SESSION_ERROR
#define LIST           SESSION_PREFIX "List"

/* A worker that does not answer is left out of a list. */
#define LIST_USEC (2 * USEC_PER_SEC)

struct Relay {
        Client *client;
        uint64_t token;
        Conn *conn; /* NULL: the launcher has not answered yet, or there is nothing to open */
        LoopIo *io;
        LoopTimer *timer;    /* of a list */
        Json *list;          /* what the other workers are asked; NULL: one call goes through as it is */
        RelayStream *stream; /* after an upgrade */
        bool is_one_user;
        uint32_t uid; /* whose worker it is */
};

static void on_relay_io(void *userdata, int fd, unsigned events);
static void list_next(Relay *r);

static void relay_hang_up(Relay *r)
{
        if (r->timer)
                loop_timer_stop(r->timer);
        r->io = loop_io_free(r->io);
        r->conn = conn_free(r->conn);
}

Relay *relay_free(Relay *r)
{
        if (!r)
                return NULL;
        r->stream = relay_stream_free(r->stream);
        relay_hang_up(r);
        r->timer = loop_timer_free(r->timer);
        json_unref(r->list);
        free(r);
        return NULL;
}

/* The call is over; what answers it comes behind. */
static Client *relay_end(Relay *r)
{
        Client *c = r->client;

        c->relay = relay_free(r);
        return c;
}

static const char *method_name(const Client *c)
{
        return c->call.method + sizeof(SESSION_PREFIX) - 1;
}

static int ask(Relay *r, uint32_t what, const Id *session)
{
        Client *c = r->client;
        PrivAdminOpen m = {
                .token = ++c->api->next_token, .connection = c->peer.connection, .what = what, .uid = r->uid
        };

        if (session)
                m.session = *session;
        if (str_copy(m.method, sizeof(m.method), method_name(c)) < 0)
                return -EINVAL;
        r->token = m.token;
        return priv_link_send(c->api->launcher, PRIV_ADMIN_OPEN, &m, sizeof(m), NULL, 0);
}

static int relay_new(Client *c, Relay **ret)
{
        Relay *r = calloc(1, sizeof(*r));

        if (!r)
                return -ENOMEM;
        *r = (Relay){ .client = c };
        c->relay = r;
        c->wait = WAIT_RELAY;
        *ret = r;
        return 0;
}

bool admin_names_other(const Client *c)
{
        const char *id;
        Id parsed;

        if (!c->peer.is_admin || !str_has_prefix(c->call.method, SESSION_PREFIX))
                return false;
        id = get_string(c->call.parameters, "id");
        return id && id_parse(id, &parsed) >= 0 && !session_find(c->api, id);
}

bool relay_is_needed(const Client *c)
{
        return !str_equal(c->call.method, SESSION_PREFIX "Terminate") && admin_names_other(c);
}

int relay_start(Client *c)
{
        Relay *r;
        Id id;
        int e;

        if (id_parse(get_string(c->call.parameters, "id"), &id) < 0)
                return -EINVAL;
        e = relay_new(c, &r);
        if (e < 0)
                return e;
        e = ask(r, ADMIN_SESSION, &id);
        if (e < 0)
                c->relay = relay_free(r);
        return e;
}

/* What an administrator may do here by way of another worker. */
bool relay_permits(const char *method)
{
        static const char *const own[] = { "Create", "Spawn", "Prune" };

        if (!str_has_prefix(method, SESSION_PREFIX))
                return false;
        for (size_t i = 0; i < ELEMENTSOF(own); i++)
                if (str_equal(method + sizeof(SESSION_PREFIX) - 1, own[i]))
                        return false;
        return true;
}

int relay_bytes(Client *c, int take_fd)
{
        Relay *r;
        int e = relay_new(c, &r);

        if (e < 0) {
                (void) fd_close(take_fd);
                return e;
        }
        e = conn_new(take_fd, /* is_server= */ false, &r->conn);
        if (e >= 0)
                e = conn_wants_write(c->conn) ? -EAGAIN : relay_stream_new(c, r->conn, &r->stream);
        return e;
}

/* ---- the other worker ---- */

static int send_call(Relay *r)
{
        const ConnMessage *call = &r->client->call;
        unsigned flags = call->is_more ? CONN_MORE : call->is_upgrade ? CONN_UPGRADE : 0;

        if (r->list)
                return conn_call(r->conn, LIST, r->list, CONN_MORE, NULL, 0);
        return conn_call(r->conn, call->method, call->parameters, flags, call->fds, call->n_fds);
}

static void update_events(Relay *r)
{
        bool is_held = conn_wants_write(r->client->conn);
        unsigned events = (conn_wants_write(r->conn) ? LOOP_WRITE : 0U) |
                          (!is_held && conn_wants_read(r->conn) ? LOOP_READ : 0U);

        if (loop_io_set_events(r->io, events) < 0)
                client_failure(relay_end(r), -ENOMEM);
}

static int open_conn(Relay *r, int take_fd)
{
        Loop *loop = r->client->api->loop;
        int e;

        e = conn_new(take_fd, /* is_server= */ false, &r->conn);
        if (e >= 0)
                e = loop_io_new(loop, conn_fd(r->conn), LOOP_READ, on_relay_io, r, &r->io);
        if (e >= 0 && r->list)
                e = loop_timer_set(r->timer, LIST_USEC);
        return e < 0 ? e : send_call(r);
}

static void answer_unknown(Client *c)
{
        client_error_string(c, SESSION_ERROR "NoSuchSession", "id", get_string(c->call.parameters, "id"));
}

static void open_failed(Relay *r, int error)
{
        Client *c = relay_end(r);

        if (error == -ENOENT)
                answer_unknown(c);
        else
                client_failure(c, error);
}

static Client *find_client(Api *api, uint64_t token)
{
        LIST_FOREACH (c, &api->clients, Client, link) {
                if (c->relay && c->relay->token == token && !c->relay->conn)
                        return c;
        }
        return NULL;
}

static void list_end(Relay *r, int error)
{
        Client *c = relay_end(r);

        if (error < 0)
                client_failure(c, error);
        else
                client_reply(c, NULL, false, NULL, 0);
}

int on_admin_opened(Api *api, Imsg *m)
{
        const PrivAdminOpened *opened = m->body;
        Client *c = find_client(api, opened->token);
        Relay *r = c ? c->relay : NULL;
        int e = opened->error;

        if (!r)
                return 0;
        if (e >= 0 && m->n_fds != 1)
                return -EPROTO;
        if (r->list && e == -ENOENT) {
                list_end(r, 0);
                return 0;
        }
        r->uid = e >= 0 ? opened->uid : r->uid;
        if (e >= 0)
                e = open_conn(r, TAKE_FD(m->fds[0]));
        if (e < 0 && r->list)
                list_end(r, e);
        else if (e < 0)
                open_failed(r, e);
        else
                update_events(r);
        return 0;
}

/* ---- what comes back ---- */

/* A session of this worker's user, as far as the reply says whose it is. */
static bool names_owner(const Relay *r, const Json *parameters)
{
        const Json *runtime = json_get(parameters, "runtime"), *owner;

        if (!runtime || json_type(runtime) != JSON_OBJECT)
                return true;
        owner = json_get(runtime, "ownerUid");
        return owner && json_type(owner) == JSON_INTEGER && json_integer(owner) == (int64_t) r->uid;
}

static bool replies_with_fds(const char *method)
{
        return str_equal(method, "Exec") || str_equal(method, "Attach") || str_equal(method, "Forward");
}

/* From here on bytes are carried. */
static void upgrade(Relay *r, const ConnMessage *m)
{
        Client *c = r->client;

        r->io = loop_io_free(r->io);
        if (client_upgrade(c, json_keep(m->parameters)) < 0)
                return; /* closed */
        if (conn_wants_write(c->conn) || relay_stream_new(c, r->conn, &r->stream) < 0)
                client_close(c);
}

/* 1: go on; 0: the call is over, and r is gone, or carries bytes; < 0: nonsense. */
static int pass_reply(Relay *r, const ConnMessage *m)
{
        Client *c = r->client;
        bool passes_fds = replies_with_fds(method_name(c));

        if (!names_owner(r, m->parameters) || (m->has_continues && (m->error || !c->call.is_more)))
                return -EBADMSG;
        if (m->error) {
                client_error(relay_end(r), m->error, json_keep(m->parameters));
                return 0;
        }
        if (m->has_continues) {
                client_reply(c, json_keep(m->parameters), true, m->fds, passes_fds ? m->n_fds : 0);
                return !c->is_closing;
        }
        if (c->call.is_upgrade) {
                upgrade(r, m);
                return 0;
        }
        c = relay_end(r);
        client_reply(c, json_keep(m->parameters), false, m->fds, passes_fds ? m->n_fds : 0);
        return 0;
}

static int pass_listed(Relay *r, const ConnMessage *m)
{
        Client *c = r->client;

        if (!names_owner(r, m->parameters) || m->error)
                return -EBADMSG;
        if (!m->has_continues) {
                list_next(r);
                return 0;
        }
        if (!json_get(m->parameters, "runtime"))
                return -EBADMSG;
        client_reply(c, json_keep(m->parameters), true, NULL, 0);
        return !c->is_closing;
}

/* That worker ended, or says what it may not. */
static void fail(Relay *r, int error)
{
        if (r->list)
                list_next(r);
        else
                client_failure(relay_end(r), error);
}

static void read_replies(Relay *r)
{
        Client *c = r->client;
        int e = 1;

        while (e > 0 && !conn_wants_write(c->conn)) {
                ConnMessage m;

                e = conn_next(r->conn, &m);
                if (e <= 0)
                        break;
                e = r->list ? pass_listed(r, &m) : pass_reply(r, &m);
                conn_message_done(&m);
                if (e == 0)
                        return;
        }
        if (e < 0)
                fail(r, e);
        else if (!conn_wants_read(r->conn) && !conn_has_message(r->conn))
                fail(r, -ECONNRESET);
        else
                update_events(r);
}

static void on_relay_io(void *userdata, _unused_ int fd, unsigned events)
{
        Relay *r = userdata;
        int e = 0;

        if (events & LOOP_WRITE)
                e = conn_write(r->conn);
        if (e >= 0 && (events & LOOP_READ))
                e = conn_read(r->conn);
        if (e < 0 && e != -EPIPE)
                fail(r, e);
        else
                read_replies(r);
}

void relay_resume(Relay *r)
{
        if (r->conn)
                read_replies(r);
}

/* ---- lists ---- */

static void on_list_timer(void *userdata)
{
        list_next(userdata);
}

static void list_next(Relay *r)
{
        int e;

        relay_hang_up(r);
        if (r->is_one_user) {
                list_end(r, 0);
                return;
        }
        e = ask(r, ADMIN_NEXT, NULL);
        if (e < 0)
                list_end(r, e);
}

/* The filters that go along: not whose. */
static int copy_filters(const Json *parameters, Json **ret)
{
        static const char *const keys[] = { "states", "labels" };
        _cleanup_json_ Json *p = NULL;
        int e;

        e = json_new_object(&p);
        for (size_t i = 0; i < ELEMENTSOF(keys) && e >= 0; i++) {
                const Json *value = get_value(parameters, keys[i]);

                if (value)
                        e = json_set(p, keys[i], json_keep(value));
        }
        if (e < 0)
                return e;
        *ret = TAKE_PTR(p);
        return 0;
}

int relay_list(Client *c, const Json *parameters)
{
        const Json *owner = get_value(parameters, "ownerUid");
        int64_t uid = owner ? json_integer(owner) : 0;
        Relay *r;
        int e;

        if (uid < 0 || uid > UINT32_MAX) {
                client_reply(c, NULL, false, NULL, 0);
                return 0;
        }
        e = relay_new(c, &r);
        if (e < 0)
                return e;
        r->uid = (uint32_t) uid;
        r->is_one_user = owner != NULL;
        e = copy_filters(parameters, &r->list);
        if (e >= 0)
                e = loop_timer_new(c->api->loop, on_list_timer, r, &r->timer);
        if (e >= 0)
                e = ask(r, owner ? ADMIN_USER : ADMIN_FIRST, NULL);
        if (e < 0)
                c->relay = relay_free(r);
        return e;
}

/* ---- the end of others' sessions: the launcher's own doing ---- */

/* Terminate(): checked by its method. */
int admin_end_sessions(Client *c, const Json *parameters)
{
        const Json *owner = get_value(parameters, "ownerUid"), *grace = get_value(parameters, "graceUSec");
        const char *id = get_string(parameters, "id");
        PrivAdminTerminate m = { .token = ++c->api->next_token,
                                 .connection = c->peer.connection,
                                 .scope = id      ? ADMIN_SESSION
                                          : owner ? ADMIN_USER
                                                  : ADMIN_ALL,
                                 .grace_usec = TERMINATE_GRACE_USEC };
        int64_t uid = owner ? json_integer(owner) : 0;

        if (grace)
                m.grace_usec = (uint64_t) json_integer(grace);
        if (id && id_parse(id, &m.session) < 0)
                return -EINVAL;
        if (uid < 0 || uid > UINT32_MAX) {
                client_invalid(c, "ownerUid");
                return 0;
        }
        m.uid = (uint32_t) uid;
        c->wait = WAIT_ADMIN_END;
        c->wait_token = m.token;
        return priv_link_send(c->api->launcher, PRIV_ADMIN_TERMINATE, &m, sizeof(m), NULL, 0);
}

int on_admin_terminated(Api *api, const PrivAdminTerminated *m)
{
        LIST_FOREACH (c, &api->clients, Client, link) {
                if (c->wait != WAIT_ADMIN_END || c->wait_token != m->token)
                        continue;
                if (m->error == -ENOENT)
                        answer_unknown(c);
                else if (m->error < 0 || session_answer_terminated(c, m->n_sessions) < 0)
                        client_failure(c, m->error < 0 ? m->error : -ENOMEM);
                return 0;
        }
        return 0;
}

/* An administrator ends a session of ours. Said at once: a worker that is silent loses it without grace. */
int on_session_stop(Api *api, const PrivSessionStop *m)
{
        PrivSessionRef ref = { .session = m->session };
        Session *s = session_find_id(api, &m->session);

        if (!s)
                return 0;
        session_terminate(s, m->grace_usec);
        return priv_link_send(api->launcher, PRIV_SESSION_STOPPING, &ref, sizeof(ref), NULL, 0);
}
