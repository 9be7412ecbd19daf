/* The varlink connection, one end of it against raw bytes, and both ends against each other. */

#include <sys/resource.h>

#include "proto/base/fd.h"
#include "proto/base/str.h"
#include "proto/wire/conn.h"
#include "tests/unit/check.h"

#define PING "{\"method\":\"a.b.Ping\"}"

/* A server end and the raw socket of its client. */
static Conn *new_server(int *ret_client_fd)
{
        int fds[2];
        Conn *c;

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        ASSERT_OK(conn_new(fds[0], /* is_server= */ true, &c));
        *ret_client_fd = fds[1];
        return c;
}

static void send_fds(int fd, const char *data, size_t size, const int *fds, size_t n_fds)
{
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int) * 32)];
        } control = { 0 };
        struct iovec iov = { .iov_base = (void *) (uintptr_t) data, .iov_len = size };
        struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

        if (n_fds > 0) {
                control.header = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int) * n_fds),
                                                   .cmsg_level = SOL_SOCKET,
                                                   .cmsg_type = SCM_RIGHTS };
                memcpy(CMSG_DATA(&control.header), fds, sizeof(int) * n_fds);
                m.msg_control = &control;
                m.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
        }
        assert_int_equal(sendmsg(fd, &m, MSG_NOSIGNAL), (ssize_t) size);
}

/* Reads until a message or an error: 1, 0 (nothing more to read), or negative. */
static int pump(Conn *c, ConnMessage *m)
{
        int r, k;

        for (;;) {
                k = conn_next(c, m);
                if (k != 0)
                        return k;
                r = conn_read(c);
                if (r <= 0)
                        return r;
        }
}

static void assert_output(Conn *c, int fd, const char *expected)
{
        char text[4096];
        ssize_t n;

        ASSERT_OK(conn_write(c));
        n = recv(fd, text, sizeof(text) - 1, MSG_DONTWAIT);
        if (n < 0)
                n = 0;
        text[n] = '\0';
        assert_int_equal(n, expected[0] ? (ssize_t) strlen(expected) + 1 : 0);
        assert_string_equal(text, expected);
}

static void refused_headers(void **state _unused_)
{
        static const struct {
                const char *text;
                size_t size;
        } bad[] = {
#define BAD(s) { s, sizeof(s) }
                BAD(""),
                BAD("x"),
                BAD("[1]"),
                BAD("{}"),
                BAD("{\"method\":1}"),
                BAD("{\"method\":null}"),
                BAD("{\"method\":\"a.B\",\"parameters\":[]}"),
                BAD("{\"method\":\"a.B\",\"parameters\":1}"),
                BAD("{\"method\":\"a.B\",\"more\":1}"),
                BAD("{\"method\":\"a.B\",\"more\":null}"),
                BAD("{\"method\":\"a.B\",\"more\":\"true\"}"),
                BAD("{\"method\":\"a.B\",\"more\":true,\"oneway\":true}"),
                BAD("{\"method\":\"a.B\",\"more\":true,\"upgrade\":true}"),
                BAD("{\"method\":\"a.B\",\"more\":false,\"more\":true}"),
                BAD("{\"method\":\"a.B\",\"unknown\":{}}"),
                BAD("{\"method\":\"a.B\",\"com.example.key\":1}"),
                BAD("{\"method\":\"a.B\"} x"),
                BAD("{'method':\"a.B\"}"),
                BAD("{\"method\":\"a.B\xff\"}"),
                BAD("{\"method\":\"a.B\\u0000\"}"),
                BAD("{\"method\":\"a.B\",\"parameters\":{\"a\":1,\"a\":1}}"),
                BAD("{\"method\":\"a.B\",\"com.example\":{\"x\":1e999}}"),
        };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                ConnMessage m;
                int fd;
                Conn *c = new_server(&fd);

                send_fds(fd, bad[i].text, bad[i].size, NULL, 0);
                if (pump(c, &m) != -EBADMSG)
                        fail_msg("accepted: %s", bad[i].text);
                c = conn_free(c);
                fd = fd_close(fd);
        }
}

static void accepted_headers(void **state _unused_)
{
        static const char *const good[] = {
                "{\"method\":\"a.B\"}",
                "{\"method\":\"a.B\",\"parameters\":null}",
                "{\"method\":\"a.B\",\"parameters\":{}}",
                "{\"method\":\"a.B\",\"more\":false,\"oneway\":false,\"upgrade\":false}",
                " { \"parameters\" : { } , \"method\" : \"a\\u002eB\" } ",
                "{\"method\":\"a.B\",\"com.example.trace\":{\"id\":1}}",
        };

        for (size_t i = 0; i < ELEMENTSOF(good); i++) {
                ConnMessage m;
                int fd;
                Conn *c = new_server(&fd);

                send_fds(fd, good[i], strlen(good[i]) + 1, NULL, 0);
                assert_int_equal(pump(c, &m), 1);
                assert_string_equal(m.method, "a.B");
                assert_int_equal(json_type(m.parameters), JSON_OBJECT);
                assert_int_equal(json_n(m.parameters), 0);
                conn_message_done(&m);
                c = conn_free(c);
                fd = fd_close(fd);
        }
}

static void byte_at_a_time(void **state _unused_)
{
        ConnMessage m;
        int fd;
        Conn *c = new_server(&fd);

        for (size_t i = 0; i + 1 < sizeof(PING); i++) {
                send_fds(fd, &PING[i], 1, NULL, 0);
                assert_int_equal(pump(c, &m), 0);
                assert_true(conn_has_partial(c));
        }
        send_fds(fd, "", 1, NULL, 0);
        assert_int_equal(pump(c, &m), 1);
        assert_false(conn_has_partial(c));
        conn_message_done(&m);
        ASSERT_OK(conn_reply(c, NULL, false, NULL, 0));
        assert_output(c, fd, "{}");
        c = conn_free(c);
        fd = fd_close(fd);
}

static void one_call_at_a_time(void **state _unused_)
{
        ConnMessage m;
        int fd;
        Conn *c = new_server(&fd);

        send_fds(fd, PING "\0" PING "\0" PING, 3 * sizeof(PING), NULL, 0);
        for (int i = 0; i < 3; i++) {
                assert_int_equal(pump(c, &m), 1);
                conn_message_done(&m);
                assert_int_equal(pump(c, &m), 0);
                assert_true(conn_has_call(c));
                ASSERT_OK(conn_reply_error(c, "a.b.No", NULL));
                assert_output(c, fd, "{\"error\":\"a.b.No\"}");
        }
        assert_int_equal(pump(c, &m), 0);
        c = conn_free(c);
        fd = fd_close(fd);
}

static void back_pressure(void **state _unused_)
{
        ConnMessage m;
        size_t n_sent = 0;
        int fd;
        Conn *c = new_server(&fd);

        ASSERT_OK(fd_set_nonblock(fd, true));
        for (;;) {
                ssize_t n = send(fd, PING, sizeof(PING), MSG_NOSIGNAL);

                if (n <= 0 && conn_read(c) <= 0)
                        break;
                n_sent += n > 0 ? (size_t) n : 0;
                if (n_sent > 8 * CONN_MESSAGE_MAX)
                        fail_msg("reads without end");
                if (!conn_has_call(c) && pump(c, &m) == 1)
                        conn_message_done(&m);
        }
        assert_false(conn_wants_read(c));
        c = conn_free(c);
        fd = fd_close(fd);
}

static void oneway_has_no_reply(void **state _unused_)
{
        static const char text[] = "{\"method\":\"a.B\",\"oneway\":true}\0" PING;
        ConnMessage m;
        int fd;
        Conn *c = new_server(&fd);

        send_fds(fd, text, sizeof(text), NULL, 0);
        assert_int_equal(pump(c, &m), 1);
        assert_true(m.is_oneway);
        conn_message_done(&m);
        ASSERT_OK(conn_reply_error(c, "a.b.No", NULL));
        assert_int_equal(pump(c, &m), 1);
        conn_message_done(&m);
        ASSERT_OK(conn_reply(c, NULL, false, NULL, 0));
        assert_output(c, fd, "{}");
        c = conn_free(c);
        fd = fd_close(fd);
}

static void more_keeps_the_call_open(void **state _unused_)
{
        static const char text[] = "{\"method\":\"a.B\",\"more\":true}\0" PING;
        ConnMessage m;
        int fd;
        Conn *c = new_server(&fd);

        send_fds(fd, text, sizeof(text), NULL, 0);
        assert_int_equal(pump(c, &m), 1);
        assert_true(m.is_more);
        conn_message_done(&m);
        ASSERT_OK(conn_reply(c, NULL, true, NULL, 0));
        assert_output(c, fd, "{\"continues\":true}");
        assert_int_equal(pump(c, &m), 0);
        ASSERT_OK(conn_reply(c, NULL, false, NULL, 0));
        assert_output(c, fd, "{}");
        assert_int_equal(pump(c, &m), 1);
        assert_false(m.is_more);
        conn_message_done(&m);
        c = conn_free(c);
        fd = fd_close(fd);
}

static void upgrade_with_bytes_behind_it(void **state _unused_)
{
        static const char text[] = "{\"method\":\"a.B\",\"upgrade\":true}";
        ConnMessage m;
        int fd;
        Conn *c = new_server(&fd);

        send_fds(fd, text, sizeof(text), NULL, 0);
        assert_int_equal(pump(c, &m), 1);
        assert_true(m.is_upgrade);
        conn_message_done(&m);
        c = conn_free(c);
        fd = fd_close(fd);

        c = new_server(&fd);
        send_fds(fd, "{\"method\":\"a.B\",\"upgrade\":true}\0raw", sizeof(text) + 3, NULL, 0);
        ASSERT_ERROR(pump(c, &m), EBADMSG);
        c = conn_free(c);
        fd = fd_close(fd);
}

static void oversize(void **state _unused_)
{
        size_t size = CONN_MESSAGE_MAX + 1;
        char *text = malloc(size);

        for (size_t excess = 0; excess < 2; excess++) {
                ConnMessage m = { 0 };
                int fd, r = 0;
                Conn *c = new_server(&fd);

                ASSERT_OK(fd_set_nonblock(fd, true));
                memset(text, ' ', size);
                memcpy(text, PING, strlen(PING));
                if (!excess)
                        text[size - 1] = '\0';
                for (size_t at = 0; r == 0;) {
                        ssize_t n = at < size ? send(fd, text + at, size - at, MSG_NOSIGNAL) : 0;

                        at += n > 0 ? (size_t) n : 0;
                        r = pump(c, &m);
                }
                assert_int_equal(r, excess ? -EBADMSG : 1);
                conn_message_done(&m);
                c = conn_free(c);
                fd = fd_close(fd);
        }
        free(text);
}

static void too_much_is_answered(void **state _unused_)
{
        static const char text[] =
                        "{\"method\":\"a.B\",\"parameters\":{\"limits\":{\"x\":9223372036854775808}}}\0"
                        "{\"method\":\"a.B\",\"oneway\":true,\"parameters\":{\"x\":1e999}}\0" PING;
        int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC), fd;
        unsigned before = count_fds();
        ConnMessage m;
        Conn *c = new_server(&fd);

        send_fds(fd, text, sizeof(text), NULL, 0);
        assert_int_equal(pump(c, &m), 1);
        assert_string_equal(m.method, "a.b.Ping");
        conn_message_done(&m);
        assert_output(c, fd,
                      "{\"error\":\"org.varlink.service.InvalidParameter\",\"parameters\":"
                      "{\"parameter\":\"limits.x\"}}");
        ASSERT_OK(conn_reply(c, NULL, false, NULL, 0));
        assert_output(c, fd, "{}");
        send_fds(fd, text, strlen(text) + 1, &null_fd, 1);
        assert_int_equal(pump(c, &m), 0);
        c = conn_free(c);
        fd = fd_close(fd);
        assert_int_equal(count_fds(), before);
        null_fd = fd_close(null_fd);
}

static void descriptors_go_to_their_message(void **state _unused_)
{
        int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC), fd;
        unsigned before = count_fds();
        ConnMessage m;
        Conn *c = new_server(&fd);

        /* without, then with: two reads when the first was taken in between */
        send_fds(fd, PING, sizeof(PING), NULL, 0);
        assert_int_equal(pump(c, &m), 1);
        assert_int_equal(m.n_fds, 0);
        conn_message_done(&m);
        ASSERT_OK(conn_reply(c, NULL, false, NULL, 0));
        send_fds(fd, PING, sizeof(PING), (int[]){ null_fd, null_fd }, 2);
        send_fds(fd, PING, sizeof(PING), NULL, 0);
        assert_int_equal(pump(c, &m), 1);
        assert_int_equal(m.n_fds, 2);
        assert_true(m.fds[0] > 2 && (fcntl(m.fds[0], F_GETFD) & FD_CLOEXEC));
        conn_message_done(&m);
        ASSERT_OK(conn_reply(c, NULL, false, NULL, 0));
        assert_int_equal(pump(c, &m), 1);
        assert_int_equal(m.n_fds, 0);
        conn_message_done(&m);
        c = conn_free(c);
        fd = fd_close(fd);
        assert_int_equal(count_fds(), before);
        null_fd = fd_close(null_fd);
}

/* Each of them leaves open whose descriptors they are. */
static void ambiguous_descriptors_close(void **state _unused_)
{
        int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

        for (int variant = 0; variant < 4; variant++) {
                int fd, many[9] = { null_fd, null_fd, null_fd, null_fd, null_fd,
                                    null_fd, null_fd, null_fd, null_fd };
                unsigned before = count_fds();
                ConnMessage m;
                Conn *c = new_server(&fd);

                if (variant == 0) { /* glued by the kernel: the second message's */
                        send_fds(fd, PING, sizeof(PING), NULL, 0);
                        send_fds(fd, PING, sizeof(PING), &null_fd, 1);
                } else if (variant == 1) { /* two messages in one packet */
                        send_fds(fd, PING "\0" PING, 2 * sizeof(PING), &null_fd, 1);
                } else if (variant == 2) { /* in the middle of a message */
                        send_fds(fd, PING, 5, NULL, 0);
                        assert_int_equal(pump(c, &m), 0);
                        send_fds(fd, &PING[5], sizeof(PING) - 5, &null_fd, 1);
                } else { /* more than a message may have */
                        send_fds(fd, PING, sizeof(PING), many, ELEMENTSOF(many));
                }
                ASSERT_ERROR(pump(c, &m), EBADMSG);
                c = conn_free(c);
                fd = fd_close(fd);
                assert_int_equal(count_fds(), before);
        }
        null_fd = fd_close(null_fd);
}

static void lost_descriptors_are_told(void **state _unused_)
{
        int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC), fd;
        struct rlimit saved, tight;
        ConnMessage m;
        Conn *c = new_server(&fd);
        unsigned before = count_fds();

        send_fds(fd, PING, sizeof(PING), (int[]){ null_fd, null_fd, null_fd }, 3);
        assert_int_equal(getrlimit(RLIMIT_NOFILE, &saved), 0);
        tight = (struct rlimit){ .rlim_cur = (rlim_t) null_fd + 4, .rlim_max = saved.rlim_max };
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
        assert_int_equal(pump(c, &m), 1);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &saved), 0);
        assert_true(m.has_lost_fds);
        assert_int_equal(m.n_fds, 0);
        conn_message_done(&m);
        assert_int_equal(count_fds(), before);
        ASSERT_OK(conn_reply_error(c, "a.b.No", NULL));
        send_fds(fd, PING, sizeof(PING), &null_fd, 1);
        assert_int_equal(pump(c, &m), 1);
        assert_false(m.has_lost_fds);
        assert_int_equal(m.n_fds, 1);
        conn_message_done(&m);
        c = conn_free(c);
        fd = fd_close(fd);
        null_fd = fd_close(null_fd);
}

static void end_of_connection(void **state _unused_)
{
        ConnMessage m;
        int fd;
        Conn *c = new_server(&fd);

        /* half-closed: what came whole is answered */
        send_fds(fd, PING, sizeof(PING), NULL, 0);
        assert_int_equal(shutdown(fd, SHUT_WR), 0);
        assert_int_equal(conn_read(c), 1);
        ASSERT_ERROR(conn_read(c), EPIPE);
        assert_false(conn_wants_read(c));
        assert_int_equal(conn_next(c, &m), 1);
        conn_message_done(&m);
        ASSERT_OK(conn_reply(c, NULL, false, NULL, 0));
        assert_output(c, fd, "{}");
        fd = fd_close(fd);
        ASSERT_ERROR(conn_read(c), ECONNRESET);
        c = conn_free(c);

        /* gone while a call is open */
        c = new_server(&fd);
        send_fds(fd, PING, sizeof(PING), NULL, 0);
        assert_int_equal(pump(c, &m), 1);
        conn_message_done(&m);
        assert_int_equal(conn_read(c), 0);
        fd = fd_close(fd);
        ASSERT_ERROR(conn_read(c), ECONNRESET);
        ASSERT_OK(conn_reply(c, NULL, false, NULL, 0));
        assert_true(conn_write(c) < 0);
        c = conn_free(c);
}

static void slow_reader_is_dropped(void **state _unused_)
{
        ConnMessage m;
        Json *big;
        char *text = calloc(1, 100001);
        int fd, r = 0;
        Conn *c = new_server(&fd);

        memset(text, 'x', 100000);
        ASSERT_OK(json_new_object(&big));
        ASSERT_OK(json_set_string(big, "text", text));
        send_fds(fd, "{\"method\":\"a.B\",\"more\":true}", 29, NULL, 0);
        assert_int_equal(pump(c, &m), 1);
        conn_message_done(&m);
        for (int i = 0; r == 0 && i < 1000; i++) {
                r = conn_reply(c, big, true, NULL, 0);
                if (r == 0)
                        ASSERT_OK(conn_write(c));
        }
        ASSERT_ERROR(r, ENOBUFS);
        assert_true(conn_wants_write(c));
        big = json_unref(big);
        free(text);
        c = conn_free(c);
        fd = fd_close(fd);
}

/* Both ends: replies with and without descriptors, all put before the first is sent. */
static void replies_keep_their_descriptors(void **state _unused_)
{
        int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC), fd;
        unsigned before = count_fds();
        static const size_t n_fds[] = { 1, 0, 0, 0 };
        ConnMessage m;
        Conn *server = new_server(&fd), *client;

        ASSERT_OK(conn_new(fd, /* is_server= */ false, &client));
        ASSERT_OK(conn_call(client, "a.b.Stream", NULL, CONN_MORE, &null_fd, 1));
        assert_true(conn_wants_write(client));
        ASSERT_OK(conn_write(client));
        assert_int_equal(pump(server, &m), 1);
        assert_true(m.is_more);
        assert_int_equal(m.n_fds, 1);
        conn_message_done(&m);
        for (size_t i = 0; i < ELEMENTSOF(n_fds); i++)
                ASSERT_OK(conn_reply(server, NULL, i + 1 < ELEMENTSOF(n_fds), &null_fd, n_fds[i]));
        ASSERT_OK(conn_write(server));
        for (size_t i = 0; i < ELEMENTSOF(n_fds); i++) {
                assert_int_equal(pump(client, &m), 1);
                assert_int_equal(m.n_fds, n_fds[i]);
                assert_int_equal(m.has_continues, i + 1 < ELEMENTSOF(n_fds));
                conn_message_done(&m);
        }
        ASSERT_ERROR(conn_call(client, "a.b.C", NULL, CONN_MORE | CONN_ONEWAY, NULL, 0), EINVAL);
        server = conn_free(server);
        client = conn_free(client);
        assert_int_equal(count_fds(), before);
        null_fd = fd_close(null_fd);
}

static void client_judges_replies(void **state _unused_)
{
        static const struct {
                const char *text;
                int r;
        } replies[] = {
                { "{}", 1 },
                { "{\"parameters\":{\"new\":1}}", 1 },
                { "{\"error\":\"a.b.E\",\"parameters\":{}}", 1 },
                { "{\"com.example.x\":{}}", 1 },
                { "{\"error\":\"a.b.E\",\"continues\":true}", -EBADMSG },
                { "{\"error\":1}", -EBADMSG },
                { "{\"parameters\":[]}", -EBADMSG },
                { "{\"method\":\"a.b.C\"}", -EBADMSG },
                { "[]", -EBADMSG },
                { "{\"parameters\":{\"x\":1e999}}", -EBADMSG },
        };

        for (size_t i = 0; i < ELEMENTSOF(replies); i++) {
                ConnMessage m;
                int fds[2];
                Conn *c;

                assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
                ASSERT_OK(conn_new(fds[0], /* is_server= */ false, &c));
                send_fds(fds[1], replies[i].text, strlen(replies[i].text) + 1, NULL, 0);
                if (pump(c, &m) != replies[i].r)
                        fail_msg("wrong about %s", replies[i].text);
                if (replies[i].r == 1)
                        conn_message_done(&m);
                c = conn_free(c);
                fds[1] = fd_close(fds[1]);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(refused_headers),
                cmocka_unit_test(accepted_headers),
                cmocka_unit_test(byte_at_a_time),
                cmocka_unit_test(one_call_at_a_time),
                cmocka_unit_test(back_pressure),
                cmocka_unit_test(oneway_has_no_reply),
                cmocka_unit_test(more_keeps_the_call_open),
                cmocka_unit_test(upgrade_with_bytes_behind_it),
                cmocka_unit_test(oversize),
                cmocka_unit_test(too_much_is_answered),
                cmocka_unit_test(descriptors_go_to_their_message),
                cmocka_unit_test(ambiguous_descriptors_close),
                cmocka_unit_test(lost_descriptors_are_told),
                cmocka_unit_test(end_of_connection),
                cmocka_unit_test(slow_reader_is_dropped),
                cmocka_unit_test(replies_keep_their_descriptors),
                cmocka_unit_test(client_judges_replies),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
