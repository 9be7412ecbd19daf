/* libsandboxd against a server end of the same library, in a child. */

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "client/lib/client.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"
#include "proto/wire/conn.h"
#include "tests/unit/check.h"

static char folder[] = "/tmp/sandboxd-client-XXXXXX";
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
        if (str_equal(m->method, "a.b.Silence"))
                return 0;
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

static int listen_at(const char *path)
{
        struct sockaddr_un sa = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (str_copy(sa.sun_path, sizeof(sa.sun_path), path) < 0 ||
            bind(fd, (const struct sockaddr *) &sa, sizeof(sa)) < 0 || listen(fd, 8) < 0) {
                (void) fd_close(fd);
                return -1;
        }
        return fd;
}

static int setup(void **state _unused_)
{
        int listener, fd;

        if (!mkdtemp(folder))
                return -1;
        (void) snprintf(address, sizeof(address), "unix:%s/socket", folder);
        listener = listen_at(address + 5);
        if (listener < 0)
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
        (void) unlink(address + 5);
        (void) rmdir(folder);
        return waitpid(server_pid, NULL, 0) == server_pid ? 0 : -1;
}

static void calls_and_errors(void **state _unused_)
{
        unsigned before = count_fds();
        SandboxdClient *c;
        SandboxdReply reply;
        Json *j;

        ASSERT_OK(client_connect(address, geteuid(), &c));
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

        ASSERT_OK(client_connect(address, geteuid(), &c));
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
        ASSERT_ERROR(sandboxd_connect("unix:@anybodys", &c), EINVAL);
        ASSERT_ERROR(sandboxd_connect("unix:/a;mode=1", &c), EINVAL);
        ASSERT_ERROR(sandboxd_connect("unix:/nonexistent/socket", &c), ENOENT);
        ASSERT_ERROR(sandboxd_connect(
                                     "unix:/0123456789012345678901234567890123456789012345678901234567890123456789"
                                     "01234567890123456789012345678901234567890123456789",
                                     &c),
                     ENAMETOOLONG);
}

/* The owner of the path is another than who is asked for. */
static void strangers_are_refused(void **state _unused_)
{
        SandboxdClient *c;

        ASSERT_ERROR(client_connect(address, geteuid() + 1, &c), EPERM);
        if (geteuid() != 0)
                ASSERT_ERROR(sandboxd_connect(address, &c), EPERM);
        else
                ASSERT_OK(chown(address + 5, 65533, 0));
        ASSERT_ERROR(sandboxd_connect(address, &c), EPERM);
        if (geteuid() == 0)
                ASSERT_OK(chown(address + 5, 0, 0));
}

/* The path is root's and the listener is not: its credentials are those of listen(). */
static void listeners_of_strangers_are_refused(void **state _unused_)
{
        char path[64], stranger[72];
        SandboxdClient *c;
        int status;
        pid_t pid;

        if (geteuid() != 0)
                skip();
        (void) snprintf(path, sizeof(path), "%s/stranger", folder);
        (void) snprintf(stranger, sizeof(stranger), "unix:%s", path);
        ASSERT_OK(chmod(folder, 0777));
        pid = fork();
        if (pid == 0) {
                if (setresuid(65533, 65533, 65533) < 0 || listen_at(path) < 0)
                        _exit(1);
                (void) raise(SIGSTOP);
                _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
        assert_true(WIFSTOPPED(status));
        ASSERT_ERROR(sandboxd_connect(stranger, &c), EPERM);
        ASSERT_OK(chown(path, 0, 0));
        ASSERT_ERROR(sandboxd_connect(stranger, &c), EPERM);
        ASSERT_OK(kill(pid, SIGKILL));
        assert_int_equal(waitpid(pid, &status, 0), pid);
        ASSERT_OK(unlink(path));
}

/* A daemon that does not answer, with a time-out. */
static void waits_end(void **state _unused_)
{
        SandboxdClient *c;
        SandboxdReply reply;

        ASSERT_OK(client_connect(address, geteuid(), &c));
        sandboxd_set_timeout(c, 1000);
        ASSERT_ERROR(sandboxd_call(c, "a.b.Silence", NULL, &reply), ETIMEDOUT);
        c = sandboxd_client_free(c);
}

static void values_of_programs(void **state _unused_)
{
        _cleanup_(sandboxd_value_unrefp) SandboxdValue *object = NULL, *array = NULL;
        const SandboxdValue *v;
        SandboxdValue *wrong;
        const char *key;
        void *cursor = NULL;
        char *text;

        ASSERT_OK(sandboxd_value_parse("{\"a\":null,\"b\":1.5,\"c\":[true,\"x\"]}", &object));
        assert_int_equal(sandboxd_value_type(sandboxd_value_get(object, "a")), SANDBOXD_NULL);
        assert_int_equal(sandboxd_value_type(sandboxd_value_get(object, "none")), SANDBOXD_NULL);
        assert_true(sandboxd_value_real(sandboxd_value_get(object, "b")) == 1.5);
        assert_true(sandboxd_value_integer(sandboxd_value_get(object, "b")) == 0);
        v = sandboxd_value_get(object, "c");
        assert_int_equal(sandboxd_value_size(v), 2);
        assert_true(sandboxd_value_boolean(sandboxd_value_at(v, 0)));
        assert_string_equal(sandboxd_value_string(sandboxd_value_at(v, 1)), "x");
        assert_null(sandboxd_value_at(v, 2));
        assert_true(sandboxd_value_next(object, &cursor, &key, &v));
        assert_string_equal(key, "a");
        ASSERT_OK(sandboxd_value_new_array(&array));
        ASSERT_OK(sandboxd_value_append_string(array, "s"));
        ASSERT_OK(sandboxd_value_append_integer(array, -7));
        ASSERT_OK(sandboxd_value_append(array, sandboxd_value_ref(object)));
        ASSERT_ERROR(sandboxd_value_append_string(array, NULL), EINVAL);
        ASSERT_ERROR(sandboxd_value_set_string(array, "k", "v"), EINVAL);
        ASSERT_ERROR(sandboxd_value_append_integer(object, 1), EINVAL);
        ASSERT_OK(sandboxd_value_new_object(&wrong));
        ASSERT_ERROR(sandboxd_value_set(NULL, "k", wrong), EINVAL);
        ASSERT_OK(sandboxd_value_set_boolean(object, "a", false));
        ASSERT_OK(sandboxd_value_format(array, &text));
        assert_string_equal(text, "[\"s\",-7,{\"a\":false,\"b\":1.5,\"c\":[true,\"x\"]}]");
        free(text);
        ASSERT_ERROR(sandboxd_value_parse("[]", &wrong), EBADMSG);
        ASSERT_ERROR(sandboxd_value_parse("{\"a\":1,\"a\":1}", &wrong), EBADMSG);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(calls_and_errors),
                cmocka_unit_test(several_replies),
                cmocka_unit_test(wrong_addresses),
                cmocka_unit_test(strangers_are_refused),
                cmocka_unit_test(listeners_of_strangers_are_refused),
                cmocka_unit_test(waits_end),
                cmocka_unit_test(values_of_programs),
        };

        return cmocka_run_group_tests(tests, setup, teardown);
}
