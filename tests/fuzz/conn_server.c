/* A hostile client: bytes and descriptors cut anywhere. What comes back must be messages that pass our own
 * gate. */

#include <sys/socket.h>

#include "proto/base/buf.h"
#include "proto/base/fd.h"
#include "proto/wire/conn.h"
#include "tests/fuzz/channel.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/messages.h"

static int answer(Conn *c, const ConnMessage *m, unsigned i)
{
        fuzz_read_string(m->method);
        sb_assert(json_type(m->parameters) == JSON_OBJECT && m->is_oneway + m->is_more + m->is_upgrade <= 1);
        sb_assert(conn_has_call(c) && !conn_has_partial(c));
        if (i % 3 == 1)
                return conn_reply_error(c, "io.sandboxd.Session.NotFound", m->parameters);
        if (m->is_more && conn_reply(c, m->parameters, /* has_continues= */ true, NULL, 0) < 0)
                return -EPIPE;
        return conn_reply(c, i % 3 == 2 ? m->parameters : NULL, /* has_continues= */ false, m->fds,
                          m->n_fds);
}

static int pump(Conn *c, int peer_fd, Buf *out, unsigned *i)
{
        int r, k;

        do {
                ConnMessage m;
                char *tail;

                r = conn_read(c);
                while ((k = conn_next(c, &m)) == 1) {
                        k = answer(c, &m, (*i)++);
                        conn_message_done(&m);
                        if (k < 0)
                                return k;
                        sb_assert(!conn_has_call(c));
                }
                if (k < 0 || conn_write(c) < 0 || buf_reserve(out, CONN_OUTPUT_MAX, &tail) < 0)
                        return -EBADMSG;
                buf_commit(out, channel_drain(peer_fd, tail, CONN_OUTPUT_MAX));
        } while (r == 1 || conn_wants_write(c));
        return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        int fds[2], next = channel_next_fd(), r = 0;
        Buf out = BUF_INIT(64U * 1024U * 1024U);
        ChannelInput in;
        unsigned i = 0;
        Conn *c;

        channel_input_init(&in, data, size);
        sb_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
        sb_assert(conn_new(fds[0], /* is_server= */ true, &c) == 0);
        while (r >= 0 && channel_feed(&in, fds[1]))
                r = pump(c, fds[1], &out, &i);
        if (r >= 0 && shutdown(fds[1], SHUT_WR) == 0)
                sb_assert(pump(c, fds[1], &out, &i) < 0);
        if (!conn_wants_write(c))
                messages_check(&out);
        c = conn_free(c);
        fds[1] = fd_close(fds[1]);
        buf_done(&out);
        sb_assert(channel_next_fd() == next);
        return 0;
}
