/* The private protocol: what the table permits passes, everything else ends the channel. */

#include <sys/resource.h>

#include "proto/base/fd.h"
#include "proto/base/str.h"
#include "proto/wire/imsg.h"
#include "tests/unit/check.h"

/* As on the wire; the sender of these tests does not keep the rules. */
typedef struct RawHeader {
        uint32_t type;
        uint32_t size;
        uint64_t sequence;
} RawHeader;

static void send_raw(int fd, const RawHeader *h, const void *body, size_t size, const int *fds, size_t n_fds)
{
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int) * 16)];
        } control = { 0 };
        struct iovec iov[2] = {
                { .iov_base = (void *) (uintptr_t) h, .iov_len = sizeof(*h) },
                { .iov_base = (void *) (uintptr_t) body, .iov_len = size },
        };
        struct msghdr m = { .msg_iov = iov, .msg_iovlen = 2 };

        if (n_fds > 0) {
                control.header = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int) * n_fds),
                                                   .cmsg_level = SOL_SOCKET,
                                                   .cmsg_type = SCM_RIGHTS };
                memcpy(CMSG_DATA(&control.header), fds, sizeof(int) * n_fds);
                m.msg_control = &control;
                m.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
        }
        assert_int_equal(sendmsg(fd, &m, MSG_NOSIGNAL), (ssize_t) (sizeof(*h) + size));
}

static void setup_pair(ImsgChannel *launcher, ImsgChannel *dialer)
{
        int fds[2];

        ASSERT_OK(imsg_pair(fds));
        ASSERT_OK(imsg_channel_init(launcher, fds[0], CHANNEL_LAUNCHER_DIALER, ROLE_LAUNCHER));
        ASSERT_OK(imsg_channel_init(dialer, fds[1], CHANNEL_LAUNCHER_DIALER, ROLE_DIALER));
}

static void done_pair(ImsgChannel *a, ImsgChannel *b)
{
        imsg_channel_done(a);
        imsg_channel_done(b);
}

static void permitted_messages_pass(void **state _unused_)
{
        ImsgChannel launcher, dialer;
        PrivSessionRef ref = { 0 };
        int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        unsigned before = count_fds();
        Imsg m;

        setup_pair(&launcher, &dialer);
        assert_int_equal(imsg_receive(&launcher, &m), 0);
        ASSERT_OK(imsg_send(&dialer, PRIV_DIALER_READY, NULL, 0, NULL, 0));
        assert_int_equal(imsg_receive(&launcher, &m), 1);
        assert_int_equal(m.type, PRIV_DIALER_READY);
        assert_int_equal(m.size, 0);
        ASSERT_OK(imsg_send(&launcher, PRIV_DIALER_SESSION_OPEN, &ref, sizeof(ref), &null_fd, 1));
        assert_int_equal(imsg_receive(&dialer, &m), 1);
        assert_int_equal(m.n_fds, 1);
        assert_true(fcntl(m.fds[0], F_GETFD) & FD_CLOEXEC);
        imsg_done(&m);
        imsg_channel_done(&dialer);
        assert_int_equal(imsg_receive(&launcher, &m), -EPIPE);
        imsg_channel_done(&launcher);
        assert_int_equal(count_fds(), before);
        null_fd = fd_close(null_fd);
}

/* One hostile message to a fresh launcher end. */
static void assert_refused(PrivPhase phase, const RawHeader *h, size_t size, size_t n_fds)
{
        int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC), fds[16];
        unsigned before = count_fds();
        ImsgChannel launcher, dialer;
        char body[4096] = { 0 };
        Imsg m;

        for (size_t i = 0; i < ELEMENTSOF(fds); i++)
                fds[i] = null_fd;
        setup_pair(&launcher, &dialer);
        launcher.phase = phase;
        send_raw(dialer.fd, h, body, size, fds, n_fds);
        ASSERT_ERROR(imsg_receive(&launcher, &m), EPROTO);
        done_pair(&launcher, &dialer);
        assert_int_equal(count_fds(), before);
        null_fd = fd_close(null_fd);
}

static void everything_else_is_refused(void **state _unused_)
{
        /* unknown type, and one of another channel */
        assert_refused(PHASE_SETUP, &(RawHeader){ .type = 9999 }, 0, 0);
        assert_refused(PHASE_SETUP, &(RawHeader){ .type = PRIV_EGRESS_READY }, 0, 0);
        /* a message that only the launcher sends */
        assert_refused(PHASE_SETUP, &(RawHeader){ .type = PRIV_DIALER_AUDIT_ATTACH }, 0, 1);
        /* twice: the first one ended the phase */
        assert_refused(PHASE_RUN, &(RawHeader){ .type = PRIV_DIALER_READY }, 0, 0);
        /* sizes: longer than the table says, and a header that lies */
        assert_refused(PHASE_SETUP, &(RawHeader){ .type = PRIV_DIALER_READY, .size = 8 }, 8, 0);
        assert_refused(PHASE_SETUP, &(RawHeader){ .type = PRIV_DIALER_READY, .size = 0 }, 8, 0);
        assert_refused(PHASE_SETUP, &(RawHeader){ .type = PRIV_DIALER_READY, .size = 0xfffffff0U }, 0, 0);
        /* descriptors: one, and more than the receiver has room for */
        assert_refused(PHASE_SETUP, &(RawHeader){ .type = PRIV_DIALER_READY }, 0, 1);
        assert_refused(PHASE_SETUP, &(RawHeader){ .type = PRIV_DIALER_READY }, 0, 16);
        /* a gap in the sequence */
        assert_refused(PHASE_SETUP, &(RawHeader){ .type = PRIV_DIALER_READY, .sequence = 1 }, 0, 0);
}

static void short_packets_are_refused(void **state _unused_)
{
        ImsgChannel launcher, dialer;
        Imsg m;

        setup_pair(&launcher, &dialer);
        assert_int_equal(send(dialer.fd, "abc", 3, MSG_NOSIGNAL), 3);
        ASSERT_ERROR(imsg_receive(&launcher, &m), EPROTO);
        done_pair(&launcher, &dialer);
}

/* What the socket does not take waits, with its descriptors, in order. */
static void full_socket_queues(void **state _unused_)
{
        int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC), r = 0;
        unsigned before = count_fds();
        ImsgChannel launcher, dialer;
        PrivSessionRef ref = { 0 };
        size_t n_sent = 0, n_received = 0;
        Imsg m;

        setup_pair(&launcher, &dialer);
        while (r == 0 && n_sent < 100000) {
                r = imsg_send(&launcher, PRIV_DIALER_SESSION_OPEN, &ref, sizeof(ref), &null_fd, 1);
                n_sent += r == 0;
                /* The kernel limits descriptors in flight (ETOOMANYREFS): stay well below. */
                if (launcher.n_queued >= 20)
                        break;
        }
        ASSERT_OK(r);
        assert_true(imsg_has_queue(&launcher));
        while (n_received < n_sent) {
                ASSERT_OK(imsg_flush(&launcher));
                while (imsg_receive(&dialer, &m) == 1) {
                        assert_int_equal(m.n_fds, 1);
                        imsg_done(&m);
                        n_received++;
                }
        }
        assert_false(imsg_has_queue(&launcher));
        done_pair(&launcher, &dialer);
        assert_int_equal(count_fds(), before);
        null_fd = fd_close(null_fd);
}

static void who_does_not_read_is_dropped(void **state _unused_)
{
        ImsgChannel dialer, egress;
        PrivConnectFailed failed = { 0 };
        unsigned before = count_fds();
        int r = 0, fds[2];

        ASSERT_OK(imsg_pair(fds));
        ASSERT_OK(imsg_channel_init(&dialer, fds[0], CHANNEL_DIALER_EGRESS, ROLE_DIALER));
        ASSERT_OK(imsg_channel_init(&egress, fds[1], CHANNEL_DIALER_EGRESS, ROLE_EGRESS));
        for (size_t i = 0; r == 0 && i < 1000000; i++)
                r = imsg_send(&dialer, PRIV_CONNECT_FAILED, &failed, sizeof(failed), NULL, 0);
        ASSERT_ERROR(r, ENOBUFS);
        assert_int_equal(dialer.n_queued, IMSG_QUEUE_MAX);
        done_pair(&dialer, &egress);
        assert_int_equal(count_fds(), before);
}

/* One message for each session of a machine, in one turn. */
static void singletons_may_have_much_to_say(void **state _unused_)
{
        ImsgChannel launcher, dialer;
        PrivSessionRef ref = { 0 };
        size_t n = 8192;
        Imsg m;

        setup_pair(&launcher, &dialer);
        for (size_t i = 0; i < n; i++)
                ASSERT_OK(imsg_send(&launcher, PRIV_DIALER_SESSION_CLOSE, &ref, sizeof(ref), NULL, 0));
        while (n > 0) {
                ASSERT_OK(imsg_flush(&launcher));
                while (imsg_receive(&dialer, &m) == 1)
                        n--;
        }
        done_pair(&launcher, &dialer);
}

static void largest_message_passes(void **state _unused_)
{
        ImsgChannel api, init;
        _cleanup_free_ char *body = calloc(1, PRIV_EXEC_MAX);
        int fds[2];
        Imsg m;

        assert_non_null(body);
        ASSERT_OK(imsg_pair(fds));
        ASSERT_OK(imsg_channel_init(&api, fds[0], CHANNEL_API_INIT, ROLE_API));
        ASSERT_OK(imsg_channel_init(&init, fds[1], CHANNEL_API_INIT, ROLE_INIT));
        body[PRIV_EXEC_MAX - 1] = 'z';
        ASSERT_OK(imsg_send_tail(&api, PRIV_EXEC, body, sizeof(PrivExec), body + sizeof(PrivExec),
                                 PRIV_EXEC_MAX - sizeof(PrivExec), &init.fd, 1));
        assert_int_equal(imsg_receive(&init, &m), 1);
        assert_int_equal(m.size, PRIV_EXEC_MAX);
        assert_memory_equal(m.body, body, PRIV_EXEC_MAX);
        assert_int_equal(m.n_fds, 1);
        imsg_done(&m);
        done_pair(&api, &init);
}

static void setup_decisions(ImsgChannel *dialer, ImsgChannel *egress)
{
        int fds[2];

        ASSERT_OK(imsg_pair(fds));
        ASSERT_OK(imsg_channel_init(dialer, fds[0], CHANNEL_DIALER_EGRESS, ROLE_DIALER));
        ASSERT_OK(imsg_channel_init(egress, fds[1], CHANNEL_DIALER_EGRESS, ROLE_EGRESS));
}

/* What is gathered goes as one packet, in order, each message with its own descriptors. */
static void gathered_messages_pass(void **state _unused_)
{
        int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        unsigned before = count_fds();
        ImsgChannel dialer, egress;
        PrivConnectFailed failed = { 0 };
        Imsg m;

        setup_decisions(&dialer, &egress);
        dialer.is_gathering = true;
        for (uint64_t i = 0; i < 20; i++) {
                PrivConnected connected = { .request = i };

                ASSERT_OK(imsg_send(&dialer, PRIV_CONNECTED, &connected, sizeof(connected), &null_fd, 1));
                ASSERT_OK(imsg_send(&dialer, PRIV_CONNECT_FAILED, &failed, sizeof(failed), NULL, 0));
        }
        assert_int_equal(imsg_receive(&egress, &m), 0);
        ASSERT_OK(imsg_flush(&dialer));
        for (uint64_t i = 0; i < 20; i++) {
                assert_int_equal(imsg_receive(&egress, &m), 1);
                assert_int_equal(m.type, PRIV_CONNECTED);
                assert_int_equal(((const PrivConnected *) m.body)->request, i);
                assert_int_equal(m.n_fds, 1);
                assert_true(imsg_has_more(&egress));
                imsg_done(&m);
                assert_int_equal(imsg_receive(&egress, &m), 1);
                assert_int_equal(m.type, PRIV_CONNECT_FAILED);
                assert_int_equal(m.n_fds, 0);
        }
        assert_false(imsg_has_more(&egress));
        assert_int_equal(imsg_receive(&egress, &m), 0);
        done_pair(&dialer, &egress);
        assert_int_equal(count_fds(), before);
        null_fd = fd_close(null_fd);
}

/* More than fits into one packet, and what nobody takes. */
static void gathered_messages_are_bounded(void **state _unused_)
{
        int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC), r = 0;
        unsigned before = count_fds();
        ImsgChannel dialer, egress;
        PrivConnected connected = { 0 };
        PrivConnectFailed failed = { 0 };
        Imsg m;

        setup_decisions(&dialer, &egress);
        dialer.is_gathering = true;
        for (size_t i = 0; i < 200; i++)
                ASSERT_OK(imsg_send(&dialer, PRIV_CONNECTED, &connected, sizeof(connected), &null_fd, 1));
        for (size_t i = 0; i < 128; i++) {
                assert_int_equal(imsg_receive(&egress, &m), 1);
                imsg_done(&m);
        }
        for (size_t i = 0; r == 0 && i < 1000000; i++)
                r = imsg_send(&dialer, PRIV_CONNECT_FAILED, &failed, sizeof(failed), NULL, 0);
        ASSERT_ERROR(r, ENOBUFS);
        /* In the middle of a packet: what is left of it goes as well. */
        assert_int_equal(imsg_receive(&egress, &m), 1);
        imsg_done(&m);
        done_pair(&dialer, &egress);
        assert_int_equal(count_fds(), before);
        null_fd = fd_close(null_fd);
}

/* Every number is taken: descriptors are sent at once then, behind what waited. */
static void gathering_needs_no_free_number(void **state _unused_)
{
        unsigned before = count_fds();
        int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC), taken[16];
        struct rlimit old, full;
        ImsgChannel dialer, egress;
        PrivConnectFailed failed = { 0 };
        size_t n_taken = 0;
        Imsg m;

        setup_decisions(&dialer, &egress);
        dialer.is_gathering = true;
        ASSERT_OK(getrlimit(RLIMIT_NOFILE, &old));
        full = (struct rlimit){ .rlim_cur = (rlim_t) egress.fd + 4, .rlim_max = old.rlim_max };
        ASSERT_OK(setrlimit(RLIMIT_NOFILE, &full));
        while (n_taken < ELEMENTSOF(taken) && (taken[n_taken] = fcntl(null_fd, F_DUPFD_CLOEXEC, 3)) >= 0)
                n_taken++;
        assert_true(n_taken < ELEMENTSOF(taken));
        for (uint64_t i = 0; i < 3; i++) {
                PrivConnected connected = { .request = i };

                ASSERT_OK(imsg_send(&dialer, PRIV_CONNECT_FAILED, &failed, sizeof(failed), NULL, 0));
                ASSERT_OK(imsg_send(&dialer, PRIV_CONNECTED, &connected, sizeof(connected), &null_fd, 1));
        }
        ASSERT_OK(imsg_flush(&dialer));
        fd_close_many(taken, n_taken);
        ASSERT_OK(setrlimit(RLIMIT_NOFILE, &old));
        for (uint64_t i = 0; i < 3; i++) {
                assert_int_equal(imsg_receive(&egress, &m), 1);
                assert_int_equal(m.type, PRIV_CONNECT_FAILED);
                assert_int_equal(m.n_fds, 0);
                assert_int_equal(imsg_receive(&egress, &m), 1);
                assert_int_equal(m.type, PRIV_CONNECTED);
                assert_int_equal(((const PrivConnected *) m.body)->request, i);
                assert_int_equal(m.n_fds, 1);
                imsg_done(&m);
        }
        done_pair(&dialer, &egress);
        null_fd = fd_close(null_fd);
        assert_int_equal(count_fds(), before);
}

/* Of several descriptors of one message none stays behind without it. */
static void half_a_message_is_not_gathered(void **state _unused_)
{
        unsigned before = count_fds();
        int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC), both[2] = { null_fd, null_fd };
        struct rlimit old, full;
        ImsgChannel dialer, egress;
        PrivInbound inbound = { .sequence = 7 };
        Imsg m;

        setup_decisions(&dialer, &egress);
        dialer.is_gathering = true;
        ASSERT_OK(getrlimit(RLIMIT_NOFILE, &old));
        /* Room for one. */
        full = (struct rlimit){ .rlim_cur = (rlim_t) egress.fd + 2, .rlim_max = old.rlim_max };
        ASSERT_OK(setrlimit(RLIMIT_NOFILE, &full));
        ASSERT_OK(imsg_send(&dialer, PRIV_INBOUND, &inbound, sizeof(inbound), both, 2));
        ASSERT_OK(setrlimit(RLIMIT_NOFILE, &old));
        ASSERT_OK(imsg_send(&dialer, PRIV_INBOUND, &inbound, sizeof(inbound), both, 2));
        ASSERT_OK(imsg_flush(&dialer));
        for (unsigned i = 0; i < 2; i++) {
                assert_int_equal(imsg_receive(&egress, &m), 1);
                assert_int_equal(m.type, PRIV_INBOUND);
                assert_int_equal(m.n_fds, 2);
                imsg_done(&m);
        }
        done_pair(&dialer, &egress);
        null_fd = fd_close(null_fd);
        assert_int_equal(count_fds(), before);
}

typedef struct RawPair {
        RawHeader first;
        PrivConnected connected;
        RawHeader second;
        PrivConnected other;
        char rest[12];
} RawPair;

static const RawPair sound_pair = {
        .first = { .type = PRIV_CONNECTED, .size = sizeof(PrivConnected), .sequence = 0 },
        .second = { .type = PRIV_CONNECTED, .size = sizeof(PrivConnected), .sequence = 1 },
};

/* Which message of a packet is the first that is not taken; 3: none. Nothing is left open. */
static unsigned refused_at(const RawPair *p, size_t size, size_t n_fds)
{
        int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC), fds[16], pair[2];
        unsigned before = count_fds(), n = 1;
        ImsgChannel sender, egress;
        Imsg m;
        int r;

        for (size_t i = 0; i < ELEMENTSOF(fds); i++)
                fds[i] = null_fd;
        ASSERT_OK(imsg_pair(pair));
        ASSERT_OK(imsg_channel_init(&sender, pair[0], CHANNEL_DIALER_EGRESS, ROLE_DIALER));
        ASSERT_OK(imsg_channel_init(&egress, pair[1], CHANNEL_DIALER_EGRESS, ROLE_EGRESS));
        send_raw(sender.fd, &p->first, &p->connected, size - sizeof(p->first), fds, n_fds);
        while ((r = imsg_receive(&egress, &m)) == 1) {
                imsg_done(&m);
                n++;
        }
        assert_true(r == -EPROTO || (r == 0 && n == 3));
        done_pair(&sender, &egress);
        assert_int_equal(count_fds(), before);
        null_fd = fd_close(null_fd);
        return n;
}

static void packets_that_lie_are_refused(void **state _unused_)
{
        const size_t size = offsetof(RawPair, rest);
        RawPair p = sound_pair;

        assert_int_equal(refused_at(&p, size, 2), 3);
        /* descriptors: too few for both, one too many */
        assert_int_equal(refused_at(&p, size, 0), 1);
        assert_int_equal(refused_at(&p, size, 1), 2);
        assert_int_equal(refused_at(&p, size, 3), 2);
        /* what follows is no message, or less than one */
        assert_int_equal(refused_at(&p, size + sizeof(p.rest), 2), 2);
        assert_int_equal(refused_at(&p, size - 1, 2), 2);
        assert_int_equal(refused_at(&p, offsetof(RawPair, second) + 3, 1), 1);
        p.second.size = 0xfffffff8U;
        assert_int_equal(refused_at(&p, size, 2), 2);
        p = sound_pair;
        p.first.size = 0xfffffff0U;
        assert_int_equal(refused_at(&p, size, 2), 1);
        p = sound_pair;
        p.second.sequence = 2;
        assert_int_equal(refused_at(&p, size, 2), 2);
        p = sound_pair;
        p.second.type = PRIV_CONNECTION_DONE;
        assert_int_equal(refused_at(&p, size, 2), 2);
}

/* How many messages of one packet of n, whose bodies have so many bytes, are taken. */
static unsigned taken_of(unsigned n, uint32_t body_size)
{
        const size_t size = sizeof(RawHeader) + body_size;
        _cleanup_free_ char *packet = calloc(n, size);
        ImsgChannel sender, egress;
        unsigned n_taken = 0;
        Imsg m;
        int r;

        assert_non_null(packet);
        setup_decisions(&sender, &egress);
        for (unsigned i = 0; i < n; i++) {
                RawHeader h = { .type = PRIV_RESOLVED, .size = body_size, .sequence = i };

                memcpy(packet + i * size, &h, sizeof(h));
        }
        assert_int_equal(send(sender.fd, packet, n * size, MSG_NOSIGNAL), (ssize_t) (n * size));
        while ((r = imsg_receive(&egress, &m)) == 1) {
                imsg_done(&m);
                n_taken++;
        }
        assert_true(r == (n_taken == n ? 0 : -EPROTO));
        done_pair(&sender, &egress);
        return n_taken;
}

static void packets_are_bounded(void **state _unused_)
{
        const uint32_t small = sizeof(PrivResolved), large = sizeof(PrivResolved) + 3072U;

        assert_int_equal(taken_of(64, small), 64);
        assert_int_equal(taken_of(65, small), 63);
        assert_int_equal(taken_of(200, small), 63);
        assert_int_equal(taken_of(5, large), 5);
        assert_int_equal(taken_of(6, large), 0);
}

/* Elsewhere a packet is one message. */
static void only_decisions_are_gathered(void **state _unused_)
{
        ImsgChannel launcher, dialer;
        struct {
                RawHeader first;
                PrivSessionRef ref;
                RawHeader second;
                PrivSessionRef other;
        } p = {
                .first = { .type = PRIV_DIALER_SESSION_CLOSE,
                           .size = sizeof(PrivSessionRef),
                           .sequence = 0 },
                .second = { .type = PRIV_DIALER_SESSION_CLOSE,
                            .size = sizeof(PrivSessionRef),
                            .sequence = 1 },
        };
        Imsg m;

        setup_pair(&launcher, &dialer);
        send_raw(launcher.fd, &p.first, &p.ref, sizeof(p) - sizeof(p.first), NULL, 0);
        ASSERT_ERROR(imsg_receive(&dialer, &m), EPROTO);
        done_pair(&launcher, &dialer);
}

static void table_is_sound(void **state _unused_)
{
        for (uint32_t i = 0; i < _PRIV_MESSAGE_MAX; i++) {
                const PrivRule *rule = priv_rule(i);

                assert_non_null(rule);
                assert_non_null(rule->name);
                assert_true(rule->body_min <= rule->body_max && rule->body_max <= PRIV_EXEC_MAX);
                assert_true(rule->fds_min <= rule->fds_max && rule->fds_max <= IMSG_FDS_MAX);
                assert_true(rule->phase != 0);
        }
        assert_null(priv_rule(_PRIV_MESSAGE_MAX));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(permitted_messages_pass),
                cmocka_unit_test(everything_else_is_refused),
                cmocka_unit_test(short_packets_are_refused),
                cmocka_unit_test(full_socket_queues),
                cmocka_unit_test(who_does_not_read_is_dropped),
                cmocka_unit_test(singletons_may_have_much_to_say),
                cmocka_unit_test(largest_message_passes),
                cmocka_unit_test(gathered_messages_pass),
                cmocka_unit_test(gathered_messages_are_bounded),
                cmocka_unit_test(gathering_needs_no_free_number),
                cmocka_unit_test(half_a_message_is_not_gathered),
                cmocka_unit_test(packets_that_lie_are_refused),
                cmocka_unit_test(packets_are_bounded),
                cmocka_unit_test(only_decisions_are_gathered),
                cmocka_unit_test(table_is_sound),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
