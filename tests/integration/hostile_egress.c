/*
 * An egress worker that has been taken over: it takes the place of the real one in a test's daemon, asks for
 * what the session's policy denies in every form that the protocol has, and writes to standard error what it
 * got. The test reads that. Last it breaks the protocol, which must be its end.
 */

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/wire/imsg.h"

#define LAUNCHER_FD  3
#define ALLOWED_PORT 25891
#define DENIED_PORT  25892
#define WAIT_MSEC    1500

static ImsgChannel launcher, audit, dialer;
static uint64_t next_request = 1;

/* 1: a message; 0: silence; negative: the channel is over. */
static int receive(ImsgChannel *c, Imsg *ret, int timeout_msec)
{
        struct pollfd p = { .fd = c->fd, .events = POLLIN };
        int r = imsg_receive(c, ret);

        if (r != 0)
                return r;
        if (poll(&p, 1, timeout_msec) <= 0)
                return 0;
        return imsg_receive(c, ret);
}

static PrivDecide request_for(const char *host, uint32_t port)
{
        PrivDecide d = {
                .request = next_request++, .entry = ENTRY_CONNECT, .port = port, .wants_connection = 1
        };

        (void) snprintf(d.host, sizeof(d.host), "%s", host);
        (void) snprintf(d.method, sizeof(d.method), "CONNECT");
        return d;
}

/* What became of it: verdicts and descriptors, as one line. */
static void ask(const char *name, const PrivDecide *d)
{
        int verdict = -1, n_connected = 0, r;
        bool is_over = false;

        r = imsg_send(&audit, PRIV_DECIDE, d, sizeof(*d), NULL, 0);
        for (;;) {
                Imsg m;

                r = r < 0 ? r : receive(&audit, &m, WAIT_MSEC);
                if (r <= 0)
                        break;
                if (m.type == PRIV_VERDICT)
                        verdict = (int) ((const PrivVerdict *) m.body)->verdict;
                imsg_done(&m);
                if (verdict == VERDICT_DENY)
                        break;
        }
        is_over = r < 0;
        for (;;) {
                Imsg m;

                r = receive(&dialer, &m, 300);
                if (r <= 0)
                        break;
                if (m.type == PRIV_CONNECTED && m.n_fds == 1)
                        n_connected++;
                imsg_done(&m);
        }
        (void) fprintf(stderr, "hostile %s: verdict %d, descriptors %d%s\n", name, verdict, n_connected,
                       is_over ? ", over" : "");
}

static void ask_for_hosts(void)
{
        PrivDecide d = request_for("allowed.test", ALLOWED_PORT);

        ask("allowed", &d);
        d = request_for("evil.test", ALLOWED_PORT);
        ask("denied-host", &d);
        d = request_for("allowed.test", DENIED_PORT);
        ask("denied-port", &d);
        d = request_for("metadata.test", 80);
        ask("denied-address", &d);
        d = request_for("", ALLOWED_PORT);
        ask("no-host", &d);
        d = request_for("evil.test", 0);
        d.entry = ENTRY_DNS;
        d.protocol = PROTOCOL_DNS;
        ask("denied-name", &d);
}

static void ask_for_addresses(void)
{
        static const uint8_t loopback[4] = { 127, 0, 0, 1 }, metadata[4] = { 169, 254, 169, 254 };
        PrivDecide d = request_for("", DENIED_PORT);

        d.address.family = 4;
        memcpy(d.address.bytes, loopback, sizeof(loopback));
        ask("literal", &d);
        d = request_for("allowed.test", 80);
        d.address.family = 4;
        memcpy(d.address.bytes, metadata, sizeof(metadata));
        ask("host-and-address", &d);
}

static void ask_for_odd_things(void)
{
        PrivDecide d = request_for("evil.test", ALLOWED_PORT);

        d.is_malformed = 1;
        ask("malformed", &d);
        d = request_for("evil.test", ALLOWED_PORT);
        d.wants_connection = 0;
        ask("further-request", &d);
        d = request_for("Allowed.TEST.", DENIED_PORT);
        ask("not-canonical", &d);
        d = request_for("evil.test", 0x10000U + ALLOWED_PORT);
        ask("huge-port", &d);
}

int main(void)
{
        Imsg m;
        PrivConnectionDone done = { .sequence = 1 };

        if (imsg_channel_init(&launcher, LAUNCHER_FD, CHANNEL_LAUNCHER_EGRESS, ROLE_EGRESS) < 0)
                return 1;
        launcher.phase = PHASE_RUN;
        if (imsg_send(&launcher, PRIV_EGRESS_READY, NULL, 0, NULL, 0) < 0 || receive(&launcher, &m, -1) <= 0)
                return 1;
        if (m.type != PRIV_EGRESS_START || m.n_fds < 2)
                return 1;
        if (imsg_channel_init(&audit, m.fds[0], CHANNEL_EGRESS_AUDIT, ROLE_EGRESS) < 0 ||
            imsg_channel_init(&dialer, m.fds[1], CHANNEL_DIALER_EGRESS, ROLE_EGRESS) < 0)
                return 1;
        ask_for_hosts();
        ask_for_addresses();
        /* Somebody else's connection. */
        (void) fprintf(stderr, "hostile done-foreign: %d\n",
                       imsg_send(&dialer, PRIV_CONNECTION_DONE, &done, sizeof(done), NULL, 0));
        ask_for_odd_things();
        (void) fprintf(stderr, "hostile finished\n");
        /* What no line of the table permits. */
        (void) send(audit.fd, "nonsense that is no message", 28, MSG_NOSIGNAL);
        while (receive(&launcher, &m, -1) > 0)
                imsg_done(&m);
        (void) fprintf(stderr, "hostile over\n");
        return 0;
}
