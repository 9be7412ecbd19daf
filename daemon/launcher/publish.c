#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "daemon/launcher/session.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/tcp_peer.h"

/*
 * Published ports: listeners on the loopback of the host, which every user of the machine can connect to.
 * Only the session's owner, and root, gets further: the kernel says whose the other end is. The dialer is
 * neither, so no session reaches another one's port by way of the host.
 */

#define PUBLISH_BACKLOG        64
#define PUBLISH_BATCH          16U
#define PUBLISH_PORT_MIN       1024U
#define PUBLISH_PORTS_PER_USER 64U
#define PUBLISH_PAUSE_USEC     (50 * USEC_PER_MSEC)
#define REFUSAL_ROW_USEC       USEC_PER_SEC

typedef struct Door {
        Session *session;
        uint32_t port;
        int fd;
        LoopIo *io;
} Door;

typedef struct Publisher {
        Door doors[2 * PRIV_PUBLISH_MAX];
        size_t n_doors;
        LoopTimer *timer;      /* set while nothing is accepted */
        uint64_t refused_usec; /* when a row about strangers was written last */
} Publisher;

typedef union Address {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
} Address;

static int listen_on(uint32_t port, bool is_v6, int *ret_fd)
{
        _cleanup_close_ int fd =
                        socket(is_v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        Address a = { .v4 = { .sin_family = AF_INET,
                              .sin_port = htons((uint16_t) port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) } };
        int one = 1;

        if (fd < 0)
                return neg_errno();
        if (is_v6)
                a.v6 = (struct sockaddr_in6){ .sin6_family = AF_INET6,
                                              .sin6_port = htons((uint16_t) port),
                                              .sin6_addr = IN6ADDR_LOOPBACK_INIT };
        if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
            (is_v6 && setsockopt(fd, SOL_IPV6, IPV6_V6ONLY, &one, sizeof(one)) < 0) ||
            bind(fd, &a.any, is_v6 ? sizeof(a.v6) : sizeof(a.v4)) < 0 || listen(fd, PUBLISH_BACKLOG) < 0)
                return neg_errno();
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static bool has_no_ipv6(int error)
{
        return error == -EAFNOSUPPORT || error == -EADDRNOTAVAIL;
}

static int open_port(Session *s, uint32_t port)
{
        Publisher *p = s->publisher;

        /* A user could not listen there, and we do not for one. */
        if (port < PUBLISH_PORT_MIN)
                return -EACCES;
        for (unsigned is_v6 = 0; is_v6 < 2; is_v6++) {
                Door *door = &p->doors[p->n_doors];
                int r;

                *door = (Door){ .session = s, .port = port, .fd = -EBADF };
                r = listen_on(port, is_v6 != 0, &door->fd);
                if (r < 0 && !(is_v6 && has_no_ipv6(r)))
                        return r;
                if (r >= 0)
                        p->n_doors++;
        }
        return 0;
}

static void set_listening(Publisher *p, bool is_listening)
{
        for (size_t i = 0; i < p->n_doors; i++)
                if (p->doors[i].io && loop_io_set_events(p->doors[i].io, is_listening ? LOOP_READ : 0U) < 0)
                        (void) log_warning(-ENOMEM, "cannot change what a published port waits for");
}

static void pause_listening(Publisher *p)
{
        if (loop_timer_set(p->timer, PUBLISH_PAUSE_USEC) >= 0)
                set_listening(p, false);
}

static void on_pause_over(void *userdata)
{
        set_listening(userdata, true);
}

/* Of all sessions of a user, those that start among them: each is two descriptors of ours. */
static unsigned ports_of(const User *u)
{
        size_t cursor = 0;
        unsigned n = 0;

        for (const Session *s = map_next(&u->launcher->sessions, &cursor); s;
             s = map_next(&u->launcher->sessions, &cursor))
                if (s->user == u)
                        n += s->n_publish;
        return n;
}

int publish_open(Session *s)
{
        int r = 0;

        if (s->n_publish == 0)
                return 0;
        if (s->launcher->kernel->diag_fd < 0)
                return -EOPNOTSUPP;
        if (ports_of(s->user) > PUBLISH_PORTS_PER_USER)
                return -EDQUOT;
        s->publisher = calloc(1, sizeof(*s->publisher));
        if (!s->publisher)
                return -ENOMEM;
        for (uint32_t i = 0; i < s->n_publish && r >= 0; i++)
                r = open_port(s, s->publish[i]);
        if (r >= 0)
                r = loop_timer_new(s->launcher->loop, on_pause_over, s->publisher, &s->publisher->timer);
        return r;
}

/* So many may knock as like: one row a second says so, and they cost a bounded part of our time. */
static void refuse(Door *door, uint32_t uid, int take_fd)
{
        Publisher *p = door->session->publisher;
        struct linger at_once = { .l_onoff = 1 };
        uint64_t now = clock_monotonic_usec();

        (void) setsockopt(take_fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
        (void) fd_close(take_fd);
        if (p->refused_usec != 0 && now < p->refused_usec + REFUSAL_ROW_USEC)
                return;
        p->refused_usec = now;
        inbound_refuse(door->session, door->port, uid);
}

/* False: it was not for them. */
static bool take_connection(Door *door, int take_fd)
{
        Session *s = door->session;
        uint32_t uid = UINT32_MAX;
        int r = tcp_peer_uid(s->launcher->kernel->diag_fd, take_fd, &uid);

        if (r < 0 || (uid != s->user->uid && uid != 0)) {
                refuse(door, uid, take_fd);
                return false;
        }
        inbound_publish(s, door->port, uid, take_fd);
        return true;
}

static void on_connection(void *userdata, int fd, _unused_ unsigned events)
{
        Door *door = userdata;
        Session *s = door->session;
        bool has_refused = false;

        for (unsigned i = 0; i < PUBLISH_BATCH; i++) {
                int client;

                /* They wait in the queue until others are through. */
                if (inbound_is_full(s))
                        break;
                client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
                if (client >= 0)
                        has_refused |= !take_connection(door, client);
                else if (errno != ECONNABORTED && errno != EINTR) {
                        if (errno != EAGAIN || has_refused)
                                pause_listening(s->publisher);
                        return;
                }
        }
        pause_listening(s->publisher);
}

void publish_start(Session *s)
{
        Publisher *p = s->publisher;

        for (size_t i = 0; p && i < p->n_doors; i++) {
                Door *door = &p->doors[i];
                int r = loop_io_new(s->launcher->loop, door->fd, LOOP_READ, on_connection, door, &door->io);

                if (r < 0)
                        (void) log_warning(r, "a published port of a session is deaf");
        }
}

void publish_close(Session *s)
{
        Publisher *p = s->publisher;

        if (!p)
                return;
        s->publisher = NULL;
        p->timer = loop_timer_free(p->timer);
        for (size_t i = 0; i < p->n_doors; i++) {
                p->doors[i].io = loop_io_free(p->doors[i].io);
                p->doors[i].fd = fd_close(p->doors[i].fd);
        }
        free(p);
}
