/* libsandboxd against a server end of the same library, in a child. */

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "client/lib/sandboxd.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"
#include "proto/wire/conn.h"
#include "tests/unit/check.h"

static char address[64];
static pid_t server_pid;

/* a.b.Count: three replies to more, the first with a descriptor. a.b.Big: a long reply. a.b.Echo: the
 * parameters. */
static int answer(Conn *c, const ConnMessage *m)
{
        _cleanup_json_ Json *j = NULL;
        int null_fd = STDERR_FILENO, r = 0;
        char *text;

        if (str_equal(m->method, "a.b.Count")) {
                for (size_t i = 0; r == 0 && i < 3; i++)
                        r = conn_reply(c, NULL, i < 2, &null_fd, i == 0);
                return r;
        }
        if (str_equal(m->method, "a.b.Big")) {
                text = malloc(600001);
                memset(text, 'x', 600000);
                text[600000] = '\0';
                ASSERT_OK(json_new_object(&j));
                ASSERT_OK(json_set_string(j, "text", text));
                free(text);
                return conn_reply(c, j, false, NULL, 0);
        }
        if (str_equal(m->method, "a.b.Echo"))
                return conn_reply(c, m->parameters, false, m->fds, m->n_fds);
        if (str_equal(m->method, "a.b.Vanish"))
                return -EPIPE;
        return conn_reply_error(c, "org.varlink.service.MethodNotFound", NULL);
}

static void serve_one(int take_fd)
{
        Conn *c;
        int r = conn_new(take_fd, /* is_server= */ true, &c);

        while (r >= 0) {
                struct pollfd p = { .fd = conn_fd(c), .events = POLLIN };
                ConnMessage m;

                if (conn_wants_write(c))
                        p.events |= POLLOUT;
                (void) poll(&p, 1, -1);
                r = conn_write(c);
                if (r >= 0)
                        r = conn_read(c);
                while (r >= 0 && (r = conn_next(c, &m)) == 1) {
                        r = answer(c, &m);
                        conn_message_done(&m);
                }
        }
        c = conn_free(c);
}

static int setup(void **state _unused_)
{
        struct sockaddr_un sa = { .sun_family = AF_UNIX };
        int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), fd;

        (void) snprintf(address, sizeof(address), "unix:@sandboxd-test-%d", (int) getpid());
        memcpy(sa.sun_path + 1, address + 6, strlen(address) - 6);
        if (bind(listener, (struct sockaddr *) &sa,
                 (socklen_t) (offsetof(struct sockaddr_un, sun_path) + strlen(address) - 5)) < 0)
                return -1;
        if (listen(listener, 8) < 0)
                return -1;
        server_pid = fork();
        if (server_pid == 0) {
                while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0)
                        serve_one(fd);
                _exit(0);
        }
        (void) fd_close(listener);
        return server_pid > 0 ? 0 : -1;
}

static int teardown(void **state _unused_)
{
        (void) kill(server_pid, SIGKILL);
        return waitpid(server_pid, NULL, 0) == server_pid ? 0 : -1;
}

static void calls_and_errors(void **state _unused_)
{
        unsigned before = count_fds();
        SandboxdClient *c;
        SandboxdReply reply;
        Json *j;

        ASSERT_OK(sandboxd_connect(address, &c));
        ASSERT_OK(json_new_object(&j));
        ASSERT_OK(json_set_integer(j, "n", 7));
        ASSERT_OK(sandboxd_call_fds(c, "a.b.Echo", j, (int[]){ STDERR_FILENO }, 1, &reply));
        assert_null(reply.error);
        assert_true(json_integer(json_get(reply.parameters, "n")) == 7);
        assert_int_equal(reply.n_fds, 1);
        sandboxd_reply_done(&reply);
        ASSERT_OK(sandboxd_call(c, "a.b.Nothing", NULL, &reply));
        assert_string_equal(reply.error, "org.varlink.service.MethodNotFound");
        sandboxd_reply_done(&reply);
        ASSERT_OK(sandboxd_call(c, "a.b.Big", NULL, &reply));
        assert_int_equal(strlen(json_string(json_get(reply.parameters, "text"))), 600000);
        sandboxd_reply_done(&reply);
        ASSERT_ERROR(sandboxd_call(c, "a.b.Vanish", NULL, &reply), ECONNRESET);
        c = sandboxd_client_free(c);
        j = json_unref(j);
        assert_int_equal(count_fds(), before);
}

static void several_replies(void **state _unused_)
{
        SandboxdClient *c;
        SandboxdReply reply;

        ASSERT_OK(sandboxd_connect(address, &c));
        ASSERT_OK(sandboxd_send(c, "a.b.Count", NULL, SANDBOXD_MORE, NULL, 0));
        for (size_t i = 0; i < 3; i++) {
                ASSERT_OK(sandboxd_next(c, &reply));
                assert_int_equal(reply.has_more, i < 2);
                assert_int_equal(reply.n_fds, i == 0);
                sandboxd_reply_done(&reply);
        }
        assert_int_equal(sandboxd_try_next(c, &reply), 0);
        c = sandboxd_client_free(c);
}

static void wrong_addresses(void **state _unused_)
{
        SandboxdClient *c;

        ASSERT_ERROR(sandboxd_connect("tcp:127.0.0.1:1", &c), EINVAL);
        ASSERT_ERROR(sandboxd_connect("unix:relative", &c), EINVAL);
        ASSERT_ERROR(sandboxd_connect("unix:", &c), EINVAL);
        ASSERT_ERROR(sandboxd_connect("unix:/a;mode=1", &c), EINVAL);
        ASSERT_ERROR(sandboxd_connect("unix:/nonexistent/socket", &c), ENOENT);
        ASSERT_ERROR(sandboxd_connect(
                                     "unix:/0123456789012345678901234567890123456789012345678901234567890123456789"
                                     "01234567890123456789012345678901234567890123456789",
                                     &c),
                     ENAMETOOLONG);
}

/* Who is neither root nor the caller gets nothing. The listener's credentials are those of listen(). */
static void strangers_are_refused(void **state _unused_)
{
        struct sockaddr_un sa = { .sun_family = AF_UNIX };
        char stranger[64];
        SandboxdClient *c;
        int status, listener;
        socklen_t size;
        pid_t pid;

        if (geteuid() != 0)
                skip();
        (void) snprintf(stranger, sizeof(stranger), "unix:@sandboxd-stranger-%d", (int) getpid());
        memcpy(sa.sun_path + 1, stranger + 6, strlen(stranger) - 6);
        size = (socklen_t) (offsetof(struct sockaddr_un, sun_path) + strlen(stranger) - 5);
        listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        pid = fork();
        if (pid == 0)
                _exit(setresuid(65533, 65533, 65533) < 0 ||
                      bind(listener, (struct sockaddr *) &sa, size) < 0 || listen(listener, 1) < 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        ASSERT_ERROR(sandboxd_connect(stranger, &c), EPERM);
        listener = fd_close(listener);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(calls_and_errors),
                cmocka_unit_test(several_replies),
                cmocka_unit_test(wrong_addresses),
                cmocka_unit_test(strangers_are_refused),
        };

        return cmocka_run_group_tests(tests, setup, teardown);
}
