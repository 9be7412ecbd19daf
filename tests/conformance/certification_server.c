/*
 * A varlink service on the daemon's own library: org.varlink.certification, which compares each message with
 * the only one that is right, and org.example.upper behind an upgrade. Usage: certification-server SOCKET
 */

#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"
#include "proto/idl/idl.h"
#include "proto/wire/conn.h"
#include "tests/conformance/certification.h"

#define SERVICE     "org.varlink.service."
#define UPPER       "org.example.upper.Convert"
#define LINKS_MAX   64U
#define CLIENTS_MAX 64U
#define ID_SIZE     32U

typedef struct Link {
        Conn *conn;
        int upper_fd; /* after an upgrade: bytes; else -EBADF */
        bool has_upgrade;
} Link;

/* Who has called Start: which step comes next. */
typedef struct Client {
        char id[ID_SIZE];
        size_t next;
} Client;

typedef struct Server {
        IdlSet *idl;
        int listen_fd;
        Link links[LINKS_MAX];
        Client clients[CLIENTS_MAX];
        size_t n_clients; /* ever */
} Server;

/* ---- org.varlink.service ---- */

static int reply_error(Conn *c, const char *error, const char *key, const char *value)
{
        _cleanup_json_ Json *p = NULL;
        int r = json_new_object(&p);

        if (r >= 0)
                r = json_set_string(p, key, value);
        return r < 0 ? r : conn_reply_error(c, error, p);
}

static int get_info(Server *s, Conn *c)
{
        _cleanup_json_ Json *p = NULL, *names = NULL;
        int r = parse_text(
                        "{\"vendor\":\"sandboxd\",\"product\":\"certification\",\"version\":\"1\",\"url\":\"\"}",
                        &p);

        if (r >= 0)
                r = json_new_array(&names);
        for (size_t i = 0; r >= 0 && idl_set_at(s->idl, i); i++)
                r = json_append_string(names, idl_set_at(s->idl, i)->name);
        if (r >= 0)
                r = json_set(p, "interfaces", TAKE_PTR(names));
        return r < 0 ? r : conn_reply(c, p, false, NULL, 0);
}

static int get_description(Server *s, Conn *c, const ConnMessage *m)
{
        const char *name = json_string(json_get(m->parameters, "interface"));
        const IdlInterface *interface = idl_set_find(s->idl, name);
        _cleanup_json_ Json *p = NULL;
        int r;

        if (!interface)
                return reply_error(c, SERVICE "InterfaceNotFound", "interface", name);
        r = json_new_object(&p);
        if (r >= 0)
                r = json_set_string(p, "description", interface->text);
        return r < 0 ? r : conn_reply(c, p, false, NULL, 0);
}

/* ---- org.varlink.certification ---- */

static int set_flag(Json *message, StepKind kind)
{
        if (kind == STEP_PLAIN)
                return 0;
        return json_set_boolean(message, kind == STEP_MORE ? "more" : "oneway", true);
}

/* The only message that is right for the step. */
static int expected_message(size_t i, const char *id, Json **ret)
{
        _cleanup_json_ Json *message = NULL, *parameters = NULL;
        int r = json_new_object(&message);

        if (r >= 0)
                r = json_set_string(message, "method", steps[i].method);
        if (r >= 0)
                r = set_flag(message, steps[i].kind);
        if (r >= 0)
                r = step_parameters(i, &parameters);
        if (r >= 0 && id)
                r = json_set_string(parameters, "client_id", id);
        if (r >= 0)
                r = json_set(message, "parameters", TAKE_PTR(parameters));
        if (r < 0)
                return r;
        *ret = TAKE_PTR(message);
        return 0;
}

static int refuse(Conn *c, Json *expected, const ConnMessage *m)
{
        _cleanup_json_ Json *p = NULL;
        int r = json_new_object(&p);

        if (r >= 0)
                r = json_set(p, "wants", json_ref(expected));
        if (r >= 0)
                r = json_set(p, "got", json_ref(m->json));
        return r < 0 ? r : conn_reply_error(c, CERTIFICATION "CertificationError", p);
}

static Client *client_find(Server *s, const char *id)
{
        for (size_t i = 0; i < MIN_OF(s->n_clients, (size_t) CLIENTS_MAX); i++) {
                if (str_equal(s->clients[i].id, id))
                        return &s->clients[i];
        }
        return NULL;
}

static int start(Server *s, Conn *c)
{
        _cleanup_json_ Json *p = NULL;
        /* The oldest makes room. */
        Client *client = &s->clients[s->n_clients % CLIENTS_MAX];
        int r;

        *client = (Client){ .next = 1 };
        r = str_printf(client->id, sizeof(client->id), "client-%zu", s->n_clients);
        if (r >= 0)
                r = json_new_object(&p);
        if (r >= 0)
                r = json_set_string(p, "client_id", client->id);
        if (r < 0)
                return r;
        s->n_clients++;
        return conn_reply(c, p, false, NULL, 0);
}

static int reply_step(Conn *c, const Step *step)
{
        _cleanup_json_ Json *p = NULL;
        int r = 0;

        if (step->kind != STEP_MORE) {
                r = parse_text(step->reply, &p);
                return r < 0 ? r : conn_reply(c, p, false, NULL, 0);
        }
        for (size_t n = 1; r >= 0 && n <= CERTIFICATION_REPLIES; n++) {
                _cleanup_json_ Json *reply = NULL;

                r = step_more_reply(n, &reply);
                if (r >= 0)
                        r = conn_reply(c, reply, /* has_continues= */ n < CERTIFICATION_REPLIES, NULL, 0);
        }
        return r;
}

/* A client that was wrong once is never all right: its next step is none. */
static int certify(Server *s, Conn *c, const ConnMessage *m)
{
        const char *id = json_string(json_get(m->parameters, "client_id"));
        _cleanup_json_ Json *expected = NULL;
        Client *client = id ? client_find(s, id) : NULL;
        size_t i;
        int r;

        if (id && !client)
                return conn_reply_error(c, CERTIFICATION "ClientIdError", NULL);
        i = client ? client->next : 0;
        if (i >= n_steps)
                return conn_reply_error(c, CERTIFICATION "ClientIdError", NULL);
        r = expected_message(i, id, &expected);
        if (r < 0)
                return r;
        if (!json_same(m->json, expected)) {
                if (client)
                        client->next = n_steps;
                return refuse(c, expected, m);
        }
        if (!client)
                return start(s, c);
        client->next++;
        return reply_step(c, &steps[i]);
}

/* ---- org.example.upper ---- */

/* The greeting is put behind the reply in the same write, so that a client reads both at once. */
static int upgrade(Link *l, const ConnMessage *m)
{
        const char *greeting = json_string(json_get(m->parameters, "greeting"));
        _cleanup_(buf_done) Buf b = BUF_INIT(CONN_MESSAGE_MAX);
        int r;

        l->has_upgrade = true;
        if (!greeting)
                return conn_reply(l->conn, NULL, false, NULL, 0);
        conn_call_done(l->conn);
        r = buf_put(&b, "{}", sizeof("{}"));
        if (r >= 0)
                r = buf_put_string(&b, greeting);
        return r < 0 ? r : fd_write_all(conn_fd(l->conn), buf_front(&b), buf_size(&b));
}

static void serve_bytes(Link *l)
{
        char bytes[4096];
        ssize_t n = read(l->upper_fd, bytes, sizeof(bytes));

        for (ssize_t i = 0; i < n; i++)
                bytes[i] = (char) toupper((unsigned char) bytes[i]);
        if (n > 0 && fd_write_all(l->upper_fd, bytes, (size_t) n) >= 0)
                return;
        l->upper_fd = fd_close(l->upper_fd);
}

/* ---- calls ---- */

static int dispatch(Server *s, Link *l, const ConnMessage *m)
{
        const IdlMember *member = idl_set_find_method(s->idl, m->method);
        char field[IDL_FIELD_SIZE];

        if (!member)
                return reply_error(l->conn, SERVICE "MethodNotFound", "method", m->method);
        if (m->n_fds > 0 || m->has_lost_fds)
                return -EBADMSG;
        if ((member->flags & IDL_REQUIRES_UPGRADE) && !m->is_upgrade)
                return conn_reply_error(l->conn, SERVICE "ExpectedUpgrade", NULL);
        if (str_has_prefix(m->method, CERTIFICATION))
                return certify(s, l->conn, m);
        if (idl_check_parameters(member, m->parameters, field) < 0)
                return reply_error(l->conn, SERVICE "InvalidParameter", "parameter", field);
        if (str_equal(m->method, UPPER))
                return upgrade(l, m);
        if (str_equal(m->method, SERVICE "GetInfo"))
                return get_info(s, l->conn);
        return get_description(s, l->conn, m);
}

static int serve_calls(Server *s, Link *l)
{
        int r = conn_read(l->conn);

        while (r >= 0 && !l->has_upgrade) {
                ConnMessage m;

                r = conn_next(l->conn, &m);
                if (r <= 0)
                        break;
                r = dispatch(s, l, &m);
                conn_message_done(&m);
        }
        if (r < 0)
                return r;
        r = conn_write(l->conn);
        if (r < 0 || !l->has_upgrade || conn_wants_write(l->conn))
                return r;
        l->upper_fd = conn_take_fd(l->conn);
        l->conn = conn_free(l->conn);
        return fd_set_nonblock(l->upper_fd, false);
}

/* ---- connections ---- */

static void link_close(Link *l)
{
        l->conn = conn_free(l->conn);
        l->upper_fd = fd_close(l->upper_fd);
        *l = (Link){ .upper_fd = -EBADF };
}

static void accept_one(Server *s)
{
        int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC);

        for (size_t i = 0; fd >= 0 && i < LINKS_MAX; i++) {
                Link *l = &s->links[i];

                if (!l->conn && l->upper_fd < 0) {
                        *l = (Link){ .upper_fd = -EBADF };
                        if (conn_new(fd, /* is_server= */ true, &l->conn) < 0)
                                return;
                        fd = -EBADF;
                }
        }
        (void) fd_close(fd);
}

static void on_link(Server *s, Link *l, short events)
{
        if (!events)
                return;
        if (l->upper_fd >= 0)
                serve_bytes(l);
        else if (serve_calls(s, l) < 0)
                link_close(l);
}

static int turn(Server *s)
{
        struct pollfd polls[LINKS_MAX + 1];

        for (size_t i = 0; i < LINKS_MAX; i++) {
                Link *l = &s->links[i];

                polls[i] = (struct pollfd){ .fd = l->conn ? conn_fd(l->conn) : l->upper_fd,
                                            .events = POLLIN };
                if (l->conn && conn_wants_write(l->conn))
                        polls[i].events |= POLLOUT;
        }
        polls[LINKS_MAX] = (struct pollfd){ .fd = s->listen_fd, .events = POLLIN };
        if (poll(polls, ELEMENTSOF(polls), -1) < 0)
                return errno == EINTR ? 0 : neg_errno();
        for (size_t i = 0; i < LINKS_MAX; i++)
                on_link(s, &s->links[i], polls[i].revents);
        if (polls[LINKS_MAX].revents)
                accept_one(s);
        return 0;
}

static int listen_at(const char *path)
{
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        struct sockaddr_un sa = { .sun_family = AF_UNIX };

        if (str_copy(sa.sun_path, sizeof(sa.sun_path), path) < 0)
                return -ENAMETOOLONG;
        if (fd < 0 || bind(fd, (const struct sockaddr *) &sa, sizeof(sa)) < 0 || listen(fd, 8) < 0)
                return neg_errno();
        return TAKE_FD(fd);
}

int main(int argc, char *argv[])
{
        struct sigaction ignore = { .sa_handler = SIG_IGN };
        Server s = { .listen_fd = -EBADF };
        int r;

        if (argc != 2 || sigaction(SIGPIPE, &ignore, NULL) < 0)
                return 2;
        for (size_t i = 0; i < LINKS_MAX; i++)
                s.links[i].upper_fd = -EBADF;
        r = idl_set_new(&s.idl);
        if (r >= 0)
                r = s.listen_fd = listen_at(argv[1]);
        while (r >= 0)
                r = turn(&s);
        (void) fprintf(stderr, "certification-server: %s\n", error_name(r));
        return 1;
}
