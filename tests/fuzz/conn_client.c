/* A hostile server: replies to one call of each kind, cut anywhere. */

#include <sys/socket.h>

#include "proto/base/fd.h"
#include "proto/wire/conn.h"
#include "tests/fuzz/channel.h"
#include "tests/fuzz/fuzz.h"

static void check_reply(const ConnMessage *m)
{
        if (m->error)
                fuzz_read_string(m->error);
        sb_assert(!m->method && json_type(m->parameters) == JSON_OBJECT && m->n_fds <= CONN_FDS_MAX);
        sb_assert(!(m->error && m->has_continues));
}

static int pump(Conn *c)
{
        int r, k;

        do {
                ConnMessage m;

                r = conn_read(c);
                while ((k = conn_next(c, &m)) == 1) {
                        check_reply(&m);
                        conn_message_done(&m);
                }
                if (k < 0)
                        return k;
        } while (r == 1);
        return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static const unsigned flags[] = { 0, CONN_MORE, CONN_ONEWAY, CONN_UPGRADE };
        int fds[2], taken, next = channel_next_fd(), r = 0;
        unsigned flag = flags[fuzz_take_byte(&data, &size) % ELEMENTSOF(flags)];
        ChannelInput in;
        Conn *c;

        channel_input_init(&in, data, size);
        sb_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
        sb_assert(conn_new(fds[0], /* is_server= */ false, &c) == 0);
        sb_assert(conn_call(c, "io.sandboxd.Session.List", NULL, flag, NULL, 0) == 0 && conn_write(c) == 0);
        while (r >= 0 && channel_feed(&in, fds[1]))
                r = pump(c);
        if (r >= 0 && shutdown(fds[1], SHUT_WR) == 0)
                sb_assert(pump(c) < 0);
        if (flag == CONN_UPGRADE) {
                sb_assert(buf_size(conn_input(c)) <= CONN_OUTPUT_MAX + 1);
                taken = conn_take_fd(c);
                taken = fd_close(taken);
        }
        c = conn_free(c);
        fds[1] = fd_close(fds[1]);
        sb_assert(channel_next_fd() == next);
        return 0;
}
