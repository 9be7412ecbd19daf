/*
 * An egress worker that has been taken over: it takes the place of the real one in a test's daemon, confined
 * as that is, and writes to standard error what it got. Beside the program a test's file "mode" says what it
 * does: "real" runs the real worker; "asks" tries what the kernel and policy deny, in every form that there
 * is, and then breaks the protocol; "attacks" breaks it, each worker in the next way; "flood" asks for ever.
 */

#include "tests/integration/hostile_egress.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/egress/rights.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

#define LAUNCHER_FD 3
#define MODE_SIZE   16

Board *board;

void report(const char *name, const char *format, ...)
{
        char text[2048];
        va_list arguments;

        va_start(arguments, format);
        (void) vsnprintf(text, sizeof(text), format, arguments);
        va_end(arguments);
        (void) fprintf(stderr, "hostile %s: %s\n", name, text);
}

bool wait_readable(Hostile *h, int fd, int timeout_msec)
{
        struct epoll_event event = { .events = EPOLLIN | EPOLLRDHUP }, found;
        bool is_there;

        if (epoll_ctl(h->watch_fd, EPOLL_CTL_ADD, fd, &event) < 0)
                return false;
        is_there = epoll_wait(h->watch_fd, &found, 1, timeout_msec) > 0;
        (void) epoll_ctl(h->watch_fd, EPOLL_CTL_DEL, fd, &event);
        return is_there;
}

int receive(Hostile *h, ImsgChannel *c, Imsg *ret, int timeout_msec)
{
        int r = imsg_receive(c, ret);

        if (r != 0)
                return r;
        return wait_readable(h, c->fd, timeout_msec) ? imsg_receive(c, ret) : 0;
}

PrivDecide request_for(Hostile *h, const char *host, uint32_t port)
{
        PrivDecide d = {
                .request = ++h->next_request, .entry = ENTRY_CONNECT, .port = port, .wants_connection = 1
        };

        (void) snprintf(d.host, sizeof(d.host), "%s", host);
        (void) snprintf(d.method, sizeof(d.method), "CONNECT");
        return d;
}

int connection_for(Hostile *h, const char *host, uint32_t port, uint64_t *ret_sequence)
{
        PrivDecide d = request_for(h, host, port);
        PrivConnected connected;
        int fd = -EBADF;
        Imsg m;

        if (imsg_send(&h->audit, PRIV_DECIDE, &d, sizeof(d), NULL, 0) < 0 ||
            receive(h, &h->audit, &m, 20 * WAIT_MSEC) <= 0)
                return -EBADF;
        imsg_done(&m);
        if (receive(h, &h->dialer, &m, 20 * WAIT_MSEC) <= 0)
                return -EBADF;
        if (m.type == PRIV_CONNECTED) {
                memcpy(&connected, m.body, sizeof(connected));
                *ret_sequence = connected.sequence;
                fd = m.fds[0];
                m.n_fds = 0;
        }
        imsg_done(&m);
        return fd;
}

/* What became of it: verdicts and descriptors, as one line. */
static void ask(Hostile *h, const char *name, const PrivDecide *d)
{
        int verdict = -1, n_connected = 0, r = imsg_send(&h->audit, PRIV_DECIDE, d, sizeof(*d), NULL, 0);
        bool is_over;
        Imsg m;

        while (r >= 0 && verdict != VERDICT_DENY) {
                r = receive(h, &h->audit, &m, WAIT_MSEC);
                if (r <= 0)
                        break;
                if (m.type == PRIV_VERDICT)
                        verdict = (int) ((const PrivVerdict *) m.body)->verdict;
                imsg_done(&m);
        }
        is_over = r < 0;
        while (receive(h, &h->dialer, &m, 300) > 0) {
                n_connected += m.type == PRIV_CONNECTED && m.n_fds == 1;
                imsg_done(&m);
        }
        report(name, "verdict %d, descriptors %d%s", verdict, n_connected, is_over ? ", over" : "");
}

static void ask_for_hosts(Hostile *h)
{
        PrivDecide d = request_for(h, "allowed.test", ALLOWED_PORT);

        ask(h, "allowed", &d);
        d = request_for(h, "evil.test", ALLOWED_PORT);
        ask(h, "denied-host", &d);
        d = request_for(h, "allowed.test", DENIED_PORT);
        ask(h, "denied-port", &d);
        d = request_for(h, "metadata.test", 80);
        ask(h, "denied-address", &d);
        d = request_for(h, "evil.test", 0);
        d.entry = ENTRY_DNS;
        d.protocol = PROTOCOL_DNS;
        ask(h, "denied-name", &d);
}

static void ask_for_addresses(Hostile *h)
{
        static const uint8_t loopback[4] = { 127, 0, 0, 1 }, metadata[4] = { 169, 254, 169, 254 };
        PrivDecide d = request_for(h, "", DENIED_PORT);

        d.address.family = 4;
        memcpy(d.address.bytes, loopback, sizeof(loopback));
        ask(h, "literal", &d);
        d = request_for(h, "", 80);
        d.address.family = 4;
        memcpy(d.address.bytes, metadata, sizeof(metadata));
        ask(h, "literal-metadata", &d);
}

static void ask_for_odd_things(Hostile *h)
{
        PrivDecide d = request_for(h, "evil.test", ALLOWED_PORT);

        d.is_malformed = 1;
        ask(h, "malformed", &d);
        d = request_for(h, "evil.test", ALLOWED_PORT);
        d.wants_connection = 0;
        ask(h, "further-request", &d);
        d = request_for(h, "allowed.test", ALLOWED_PORT);
        d.entry = ENTRY_TRANSPARENT;
        d.protocol = PROTOCOL_TCP;
        ask(h, "other-protocol", &d);
        d = request_for(h, "allowed.test", 0);
        ask(h, "no-port", &d);
        d = request_for(h, "sub.allowed.test", ALLOWED_PORT);
        ask(h, "below", &d);
}

/* ---- what it does ---- */

static void wait_for_end(Hostile *h)
{
        Imsg m;

        while (receive(h, &h->launcher, &m, -1) > 0)
                imsg_done(&m);
        /* One that is not killed does not go. */
        for (;;)
                (void) epoll_wait(h->watch_fd, &(struct epoll_event){ 0 }, 1, -1);
}

static void run_asks(Hostile *h)
{
        PrivConnectionDone done = { .sequence = 1 };

        try_calls(h);
        try_memory();
        ask_for_hosts(h);
        ask_for_addresses(h);
        ask_for_odd_things(h);
        try_revoked(h);
        try_revival(h);
        report("finished", "all");
        (void) !imsg_send(&h->dialer, PRIV_CONNECTION_DONE, &done, sizeof(done), NULL, 0);
}

/* Always within its credit. */
static void run_flood(Hostile *h)
{
        unsigned n_open = 0;
        Imsg m;

        report("flood", "begins");
        for (;;) {
                PrivDecide d = request_for(h, "flood.test", ALLOWED_PORT);

                if (imsg_send(&h->audit, PRIV_DECIDE, &d, sizeof(d), NULL, 0) < 0)
                        return;
                n_open++;
                while (n_open > 200 && receive(h, &h->audit, &m, -1) > 0) {
                        imsg_done(&m);
                        n_open--;
                }
        }
}

static int start(Hostile *h)
{
        Imsg m;

        if (imsg_channel_init(&h->launcher, LAUNCHER_FD, CHANNEL_LAUNCHER_EGRESS, ROLE_EGRESS) < 0)
                return -1;
        h->launcher.phase = PHASE_RUN;
        if (imsg_send(&h->launcher, PRIV_EGRESS_READY, NULL, 0, NULL, 0) < 0 ||
            receive(h, &h->launcher, &m, -1) <= 0 || m.type != PRIV_EGRESS_START || m.n_fds < 3)
                return -1;
        if (imsg_channel_init(&h->audit, m.fds[0], CHANNEL_EGRESS_AUDIT, ROLE_EGRESS) < 0 ||
            imsg_channel_init(&h->dialer, m.fds[1], CHANNEL_DIALER_EGRESS, ROLE_EGRESS) < 0)
                return -1;
        h->listener_fd = m.fds[2];
        return 0;
}

/* ---- before it is confined ---- */

static int beside(char path[PATH_MAX], const char *name)
{
        ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 1);
        char *last;

        if (n <= 0)
                return -1;
        path[n] = '\0';
        last = strrchr(path, '/') + 1;
        return str_copy(last, PATH_MAX - (size_t) (last - path), name);
}

static int open_beside(const char *name, int flags)
{
        char path[PATH_MAX];

        return beside(path, name) < 0 ? -1 : open(path, flags | O_CLOEXEC);
}

static int read_mode(char mode[MODE_SIZE])
{
        int fd = open_beside("mode", O_RDONLY);
        ssize_t n = read(fd, mode, MODE_SIZE - 1);

        mode[n < 0 ? 0 : n] = '\0';
        return n > 0 ? close(fd) : -1;
}

static int confine(int argc, char **argv)
{
        WorkerSpec spec = egress_rights();

        for (int i = 1; i + 1 < argc; i += 2) {
                if (strcmp(argv[i], "--uid") == 0 && parse_u32(argv[i + 1], &spec.uid) < 0)
                        return -1;
                if (strcmp(argv[i], "--gid") == 0 && parse_u32(argv[i + 1], &spec.gid) < 0)
                        return -1;
        }
        return worker_confine(&spec);
}

int main(int argc, char **argv)
{
        static Hostile h;
        char mode[MODE_SIZE], real[PATH_MAX];
        unsigned n;

        h.watch_fd = epoll_create1(EPOLL_CLOEXEC);
        if (read_mode(mode) < 0 || beside(real, "real-sandboxd-egress") < 0)
                return 1;
        if (strcmp(mode, "real") == 0)
                return execv(real, argv);
        board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED, open_beside("board", O_RDWR),
                     0);
        if (board == MAP_FAILED || confine(argc, argv) < 0 || start(&h) < 0)
                return 1;
        n = atomic_fetch_add(&board->turn, 1);
        if (strcmp(mode, "flood") == 0)
                run_flood(&h);
        else if (strcmp(mode, "attacks") == 0)
                attack(&h, n);
        else if (n == 0)
                run_asks(&h);
        wait_for_end(&h);
        return 0;
}
