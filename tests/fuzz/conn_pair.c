/*
 * Our client and our server against each other, over a wire that cuts what they write anywhere and mixes
 * their turns. Input: the ways of calls and replies, then turns. What the one sends the other hears, whole,
 * in order, with its descriptors, however it was cut; and nobody gives up on the other.
 */

#include <sys/socket.h>

#include "proto/base/fd.h"
#include "proto/wire/conn.h"
#include "tests/fuzz/channel.h"
#include "tests/fuzz/fuzz.h"

#define CALLS_MAX   8U
#define STRINGS_MAX 3000U
#define WIRE_MAX    (64U * 1024U)

typedef struct Wire {
        int from_fd;
        int to_fd;
        char data[WIRE_MAX];
        size_t begin;
        size_t end;
        int fds[CONN_FDS_MAX];
        size_t n_fds;
        size_t fds_at; /* the byte that they came with */
} Wire;

typedef struct Pair {
        Conn *client;
        Conn *server;
        unsigned n_calls;
        unsigned n_heard;
        unsigned n_answers; /* final ones that the client heard */
        bool is_begun;      /* it heard one that is not final */
        size_t sizes[CALLS_MAX];
        unsigned flags[CALLS_MAX];
        size_t n_fds[CALLS_MAX];
} Pair;

/* Takes from the one side what comes in one piece: descriptors begin one. */
static void wire_take(Wire *w)
{
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int) * CONN_FDS_MAX)];
        } control;
        struct iovec iov = { .iov_base = w->data + w->end, .iov_len = WIRE_MAX - w->end };
        struct msghdr m = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
        };
        struct cmsghdr *c;
        ssize_t n;

        if (w->begin == w->end)
                w->begin = w->end = 0;
        iov.iov_base = w->data + w->end;
        iov.iov_len = WIRE_MAX - w->end;
        if (w->n_fds > 0 || iov.iov_len == 0)
                return;
        n = recvmsg(w->from_fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (n <= 0)
                return;
        sb_assert(!(m.msg_flags & MSG_CTRUNC));
        c = CMSG_FIRSTHDR(&m);
        if (c) {
                w->n_fds = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                memcpy(w->fds, CMSG_DATA(c), w->n_fds * sizeof(int));
                w->fds_at = w->end;
        }
        w->end += (size_t) n;
}

/* Gives the other side a piece of at most so many bytes: what has descriptors begins a piece of its own. */
static void wire_give(Wire *w, size_t n)
{
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int) * CONN_FDS_MAX)];
        } control = { 0 };
        struct iovec iov = { .iov_base = w->data + w->begin };
        struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
        bool has_fds = w->n_fds > 0 && w->fds_at == w->begin;
        ssize_t sent;

        n = MIN_OF(n, w->end - w->begin);
        if (w->n_fds > 0 && !has_fds)
                n = MIN_OF(n, w->fds_at - w->begin);
        if (n == 0)
                return;
        iov.iov_len = n;
        if (has_fds) {
                control.header = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int) * w->n_fds),
                                                   .cmsg_level = SOL_SOCKET,
                                                   .cmsg_type = SCM_RIGHTS };
                memcpy(CMSG_DATA(&control.header), w->fds, sizeof(int) * w->n_fds);
                m.msg_control = &control;
                m.msg_controllen = CMSG_SPACE(sizeof(int) * w->n_fds);
        }
        sent = sendmsg(w->to_fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent <= 0)
                return;
        if (has_fds) {
                fd_close_many(w->fds, w->n_fds);
                w->n_fds = 0;
        }
        w->begin += (size_t) sent;
}

static void make_parameters(size_t size, unsigned number, Json **ret)
{
        static char text[STRINGS_MAX + 1];

        memset(text, 'a' + (int) (number % 26), size);
        text[size] = '\0';
        sb_assert(json_new_object(ret) == 0 && json_set_integer(*ret, "number", number) == 0);
        sb_assert(json_set_string(*ret, "text", text) == 0);
}

static void check_parameters(const Json *p, size_t size, unsigned number)
{
        const char *text = json_string(json_get(p, "text"));

        sb_assert(json_integer(json_get(p, "number")) == number);
        sb_assert(text && strlen(text) == size &&
                  (size == 0 || text[size - 1] == 'a' + (int) (number % 26)));
}

/* The next call, once the one before has been answered. */
static void client_call(Pair *p, const uint8_t **data, size_t *size)
{
        static const unsigned flags[] = { 0, CONN_MORE, CONN_ONEWAY };
        static const int fds[CONN_FDS_MAX] = { 2, 2, 2, 2, 2, 2, 2, 2 };
        _cleanup_json_ Json *parameters = NULL;
        unsigned n = p->n_calls;
        uint8_t way = fuzz_take_byte(data, size);

        if (n == CALLS_MAX || p->n_answers < n)
                return;
        p->flags[n] = flags[way % ELEMENTSOF(flags)];
        /* The kernel may hand descriptors over with what was sent before them: they come behind what was
         * heard. */
        p->n_fds[n] = p->n_heard == n ? (way >> 2) % (CONN_FDS_MAX + 1) : 0;
        p->sizes[n] = (size_t) fuzz_take_byte(data, size) * 11 % STRINGS_MAX;
        make_parameters(p->sizes[n], n, &parameters);
        sb_assert(conn_call(p->client, "io.sandboxd.Test.Call", parameters, p->flags[n], fds, p->n_fds[n]) ==
                  0);
        p->n_calls++;
        if (p->flags[n] == CONN_ONEWAY)
                p->n_answers++;
}

static void client_turn(Pair *p)
{
        ConnMessage m;
        int r = conn_read(p->client);

        sb_assert(r >= 0 && conn_write(p->client) == 0);
        while (conn_next(p->client, &m) == 1) {
                unsigned n = p->n_answers;

                sb_assert(n < p->n_calls && !m.error && p->flags[n] != CONN_ONEWAY);
                check_parameters(m.parameters, p->sizes[n], n);
                sb_assert(!m.has_continues || p->flags[n] == CONN_MORE);
                sb_assert(m.n_fds == (p->is_begun ? 0 : p->n_fds[n]));
                p->is_begun = m.has_continues;
                p->n_answers += !m.has_continues;
                conn_message_done(&m);
        }
}

static void server_answer(Pair *p, const ConnMessage *m, uint8_t way)
{
        unsigned n = p->n_heard++;
        size_t n_fds = m->n_fds;

        sb_assert(n < p->n_calls && m->n_fds == p->n_fds[n] && !m->has_lost_fds);
        sb_assert(m->is_oneway == (p->flags[n] == CONN_ONEWAY) && m->is_more == (p->flags[n] == CONN_MORE));
        check_parameters(m->parameters, p->sizes[n], n);
        /* Descriptors go with the first. */
        for (unsigned i = 0; m->is_more && i < way % 4U; i++) {
                sb_assert(conn_reply(p->server, m->parameters, /* has_continues= */ true, m->fds, n_fds) ==
                          0);
                n_fds = 0;
        }
        sb_assert(conn_reply(p->server, m->parameters, /* has_continues= */ false, m->fds, n_fds) == 0);
}

static void server_turn(Pair *p, uint8_t way)
{
        ConnMessage m;
        int r = conn_read(p->server);

        sb_assert(r >= 0);
        while (conn_next(p->server, &m) == 1) {
                server_answer(p, &m, way);
                conn_message_done(&m);
        }
        sb_assert(conn_write(p->server) == 0);
}

static void turn(Pair *p, Wire *to_server, Wire *to_client, const uint8_t **data, size_t *size)
{
        uint8_t what = fuzz_take_byte(data, size);
        size_t n = (size_t) (what >> 3) * (what >> 3) + 1;

        switch (what % 8) {
        case 0:
                client_call(p, data, size);
                break;
        case 1:
                client_turn(p);
                break;
        case 2:
                server_turn(p, what >> 3);
                break;
        case 3:
                wire_take(to_server);
                break;
        case 4:
                wire_give(to_server, n);
                break;
        case 5:
                wire_take(to_client);
                break;
        case 6:
                wire_give(to_client, n);
                break;
        default:
                wire_take(to_server);
                wire_give(to_server, WIRE_MAX);
                wire_take(to_client);
                wire_give(to_client, WIRE_MAX);
                break;
        }
}

/* Without further cuts everything arrives. */
static void finish(Pair *p, Wire *to_server, Wire *to_client)
{
        for (unsigned i = 0; i < 400 && (p->n_answers < p->n_calls || p->n_heard < p->n_calls); i++) {
                client_turn(p);
                wire_take(to_server);
                wire_give(to_server, WIRE_MAX);
                server_turn(p, 0);
                wire_take(to_client);
                wire_give(to_client, WIRE_MAX);
        }
        client_turn(p);
        sb_assert(p->n_answers == p->n_calls && p->n_heard == p->n_calls);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static Wire to_server, to_client;
        int client[2], server[2], next = channel_next_fd();
        Pair p = { .client = NULL };

        sb_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, client) == 0);
        sb_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, server) == 0);
        sb_assert(conn_new(client[0], /* is_server= */ false, &p.client) == 0);
        sb_assert(conn_new(server[0], /* is_server= */ true, &p.server) == 0);
        to_server = (Wire){ .from_fd = client[1], .to_fd = server[1] };
        to_client = (Wire){ .from_fd = server[1], .to_fd = client[1] };
        while (size > 0)
                turn(&p, &to_server, &to_client, &data, &size);
        finish(&p, &to_server, &to_client);
        p.client = conn_free(p.client);
        p.server = conn_free(p.server);
        fd_close_many(to_server.fds, to_server.n_fds);
        fd_close_many(to_client.fds, to_client.n_fds);
        client[1] = fd_close(client[1]);
        server[1] = fd_close(server[1]);
        sb_assert(channel_next_fd() == next);
        return 0;
}
