/* A link to one who reads, beside others who do not. */

#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "daemon/loop/link.h"
#include "proto/base/clock.h"
#include "proto/base/fd.h"
#include "tests/unit/check.h"

/* Nobody else has descriptors in flight as this user. */
#define NOBODY_ELSE 61357
#define FILES_MAX   64U
#define IN_FLIGHT   100U

typedef struct Crowd {
        Loop *loop;
        PrivLink *dialer;
        PrivLink *egress;
        int others[2];
        unsigned n_came;
        bool is_over;
} Crowd;

static int on_message(void *owner, _unused_ PrivLink *link, Imsg *m)
{
        Crowd *c = owner;

        c->n_came += m->type == PRIV_CONNECTED && m->n_fds == 1;
        loop_stop(c->loop, 0);
        return 0;
}

static void on_closed(void *owner, _unused_ PrivLink *link, _unused_ int reason)
{
        Crowd *c = owner;

        c->is_over = true;
        loop_stop(c->loop, 0);
}

static void on_deadline(void *userdata)
{
        on_closed(userdata, NULL, 0);
}

/* The others read: what came with it is closed. */
static void on_read(void *userdata)
{
        Crowd *c = userdata;
        char byte;

        while (recv(c->others[1], &byte, 1, MSG_DONTWAIT) > 0)
                ;
}

/* Too early: the reader of the others has not had its turn. */
static void on_send(void *userdata)
{
        PrivConnected connected = { 0 };
        Crowd *c = userdata;

        if (priv_link_send(c->dialer, PRIV_CONNECTED, &connected, sizeof(connected), &c->others[0], 1) < 0)
                on_closed(c, NULL, 0);
}

/* As many descriptors as the kernel lets this user have under way. */
static bool fill(int fd)
{
        int fds[IN_FLIGHT];
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(fds))];
        } control = { .header = { .cmsg_len = CMSG_LEN(sizeof(fds)),
                                  .cmsg_level = SOL_SOCKET,
                                  .cmsg_type = SCM_RIGHTS } };
        char byte = 0;
        struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
        struct msghdr m = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
        };

        for (size_t i = 0; i < IN_FLIGHT; i++)
                fds[i] = fd;
        memcpy(CMSG_DATA(&control.header), fds, sizeof(fds));
        while (sendmsg(fd, &m, MSG_DONTWAIT) > 0)
                ;
        return errno == ETOOMANYREFS;
}

static bool is_told_in_the_end(void)
{
        const struct rlimit files = { .rlim_cur = FILES_MAX, .rlim_max = FILES_MAX };
        LoopTimer *send_timer, *read_timer, *deadline;
        Crowd c = { .n_came = 0 };
        int fds[2];

        if (setrlimit(RLIMIT_NOFILE, &files) < 0 || (geteuid() == 0 && setuid(NOBODY_ELSE) < 0) ||
            imsg_pair(c.others) < 0 || imsg_pair(fds) < 0 || loop_new(&c.loop) < 0 ||
            priv_link_new(c.loop, fds[0], CHANNEL_DIALER_EGRESS, ROLE_DIALER, &c.dialer) < 0 ||
            priv_link_new(c.loop, fds[1], CHANNEL_DIALER_EGRESS, ROLE_EGRESS, &c.egress) < 0 ||
            loop_timer_new(c.loop, on_send, &c, &send_timer) < 0 ||
            loop_timer_new(c.loop, on_read, &c, &read_timer) < 0 ||
            loop_timer_new(c.loop, on_deadline, &c, &deadline) < 0 || !fill(c.others[0]))
                return false;
        priv_link_set_handler(c.dialer, NULL, on_closed, &c);
        priv_link_set_handler(c.egress, on_message, on_closed, &c);
        if (loop_timer_set(send_timer, 0) < 0 || loop_timer_set(read_timer, 100 * USEC_PER_MSEC) < 0 ||
            loop_timer_set(deadline, 20 * USEC_PER_SEC) < 0 || loop_run(c.loop) < 0)
                return false;
        return c.n_came == 1 && !c.is_over && priv_link_queued(c.dialer) == 0;
}

static void who_reads_is_not_ended_for_others(void **state _unused_)
{
        pid_t pid = fork();
        int status;

        assert_true(pid >= 0);
        if (pid == 0)
                _exit(is_told_in_the_end() ? 0 : 1);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(who_reads_is_not_ended_for_others),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
