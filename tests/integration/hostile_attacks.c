/* Breaks of the protocol, each of which must be the end of the worker, and of nobody else. */

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/integration/hostile_egress.h"

typedef struct Header {
        uint32_t type;
        uint32_t size;
        uint64_t number;
} Header;

/* A message that imsg_send() would not send. */
static void forge(ImsgChannel *c, uint32_t type, const void *body, size_t size, int fd)
{
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int))];
        } control = { .header = { .cmsg_len = CMSG_LEN(sizeof(int)),
                                  .cmsg_level = SOL_SOCKET,
                                  .cmsg_type = SCM_RIGHTS } };
        Header h = { .type = type, .size = (uint32_t) size, .number = c->sent++ };
        struct iovec parts[2] = { { .iov_base = &h, .iov_len = sizeof(h) },
                                  { .iov_base = (void *) (uintptr_t) body, .iov_len = size } };
        struct msghdr m = { .msg_iov = parts, .msg_iovlen = 2 };

        if (fd >= 0) {
                memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
                m.msg_control = &control;
                m.msg_controllen = sizeof(control);
        }
        (void) sendmsg(c->fd, &m, MSG_NOSIGNAL);
}

static void send_garbage(Hostile *h, unsigned n)
{
        ImsgChannel *const channels[] = { &h->audit, &h->dialer, &h->launcher };

        (void) send(channels[n % 3]->fd, "nonsense that is no message", 28, MSG_NOSIGNAL);
}

static void forge_dial(Hostile *h)
{
        PrivDial d = { .request = 1, .sequence = 1, .port = DENIED_PORT };

        (void) snprintf(d.host, sizeof(d.host), "forged.test");
        forge(&h->dialer, PRIV_DIAL, &d, sizeof(d), -1);
}

static void forge_verdict(Hostile *h)
{
        PrivVerdict v = { .request = 1, .verdict = VERDICT_ALLOW };

        forge(&h->audit, PRIV_VERDICT, &v, sizeof(v), -1);
}

static void forge_connected(Hostile *h)
{
        PrivConnected c = { .request = 1, .sequence = 1 };

        forge(&h->dialer, PRIV_CONNECTED, &c, sizeof(c), h->listener_fd);
}

static void forge_close(Hostile *h)
{
        PrivDialClosed c = { .sequence = 1 };

        forge(&h->audit, PRIV_DIAL_CLOSED, &c, sizeof(c), -1);
}

static void send_descriptor(Hostile *h)
{
        PrivDecide d = request_for(h, "forged.test", ALLOWED_PORT);

        forge(&h->audit, PRIV_DECIDE, &d, sizeof(d), h->listener_fd);
}

static void open_session(Hostile *h)
{
        static const PrivSessionOpen open;

        forge(&h->audit, PRIV_AUDIT_SESSION_OPEN, &open, sizeof(open), h->listener_fd);
}

static void miscount(Hostile *h)
{
        PrivDecide d = request_for(h, "forged.test", ALLOWED_PORT);

        h->audit.sent += 7;
        forge(&h->audit, PRIV_DECIDE, &d, sizeof(d), -1);
}

/* Destinations that are none, or two. */
static void ask_for(Hostile *h, const char *host, uint32_t port, uint32_t family)
{
        PrivDecide d = request_for(h, host, port);

        d.address.family = family;
        forge(&h->audit, PRIV_DECIDE, &d, sizeof(d), -1);
}

static void ask_for_nothing(Hostile *h)
{
        ask_for(h, "", ALLOWED_PORT, 0);
}

static void ask_for_two(Hostile *h)
{
        ask_for(h, "allowed.test", ALLOWED_PORT, 4);
}

static void ask_in_capitals(Hostile *h)
{
        ask_for(h, "Allowed.TEST.", ALLOWED_PORT, 0);
}

static void ask_for_huge_port(Hostile *h)
{
        ask_for(h, "allowed.test", 0x10000U + ALLOWED_PORT, 0);
}

/* No rule is about connections of such a protocol, and a default of allow would be left. */
static void ask_as_datagram(Hostile *h)
{
        PrivDecide d = request_for(h, "allowed.test", ALLOWED_PORT);

        d.protocol = PROTOCOL_UDP;
        forge(&h->audit, PRIV_DECIDE, &d, sizeof(d), -1);
}

static void claim_foreign(Hostile *h)
{
        PrivConnectionDone done = { .sequence = 1 };

        forge(&h->dialer, PRIV_CONNECTION_DONE, &done, sizeof(done), -1);
}

static void be_ready_again(Hostile *h)
{
        forge(&h->launcher, PRIV_EGRESS_READY, NULL, 0, -1);
}

static void end_others(Hostile *h)
{
        static const PrivEgressRef others;

        forge(&h->launcher, PRIV_AUDIT_EGRESS_OVER, &others, sizeof(others), -1);
}

/* Answers are not read. */
static void flood(Hostile *h)
{
        int r = 0;

        while (r >= 0) {
                PrivDecide d = request_for(h, "flood.test", ALLOWED_PORT);
                Header head = { .type = PRIV_DECIDE, .size = sizeof(d), .number = h->audit.sent };
                struct iovec parts[2] = { { .iov_base = &head, .iov_len = sizeof(head) },
                                          { .iov_base = &d, .iov_len = sizeof(d) } };
                struct msghdr m = { .msg_iov = parts, .msg_iovlen = 2 };

                r = sendmsg(h->audit.fd, &m, MSG_NOSIGNAL) < 0 ? -errno : 0;
                if (r == 0)
                        h->audit.sent++;
                if (r == -EAGAIN)
                        r = epoll_wait(h->watch_fd, &(struct epoll_event){ 0 }, 1, 1);
        }
}

static void lose_audit(Hostile *h)
{
        (void) close(h->audit.fd);
}

static void lose_dialer(Hostile *h)
{
        (void) close(h->dialer.fd);
}

void attack(Hostile *h, unsigned n)
{
        static void (*const all[])(Hostile * h) = {
                forge_dial,      forge_verdict,     forge_connected, forge_close,     send_descriptor,
                open_session,    miscount,          claim_foreign,   be_ready_again,  end_others,
                flood,           lose_audit,        lose_dialer,     ask_for_nothing, ask_for_two,
                ask_in_capitals, ask_for_huge_port, ask_as_datagram
        };

        report("attack", "%u", n);
        if (n < 3)
                send_garbage(h, n);
        else if (n - 3 < ELEMENTSOF(all))
                all[n - 3](h);
}
