#include <errno.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/egress/answered.h"
#include "daemon/egress/dns.h"
#include "daemon/egress/egress.h"
#include "daemon/egress/names.h"
#include "daemon/egress/park.h"
#include "daemon/egress/rights.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

/*
 * Started by the launcher with its channel as descriptor 3. Reads hostile bytes all its life, so it can do
 * nothing but move bytes between descriptors that it was given: no socket(), no connect(), no file.
 */

#define LAUNCHER_FD  3
#define ACCEPT_BATCH 64U
#define IDLE_SECONDS 1800U
/* For channels, listeners and DNS, and for connections in. */
#define FILES_RESERVED 2560U

static int take_door(Egress *e, int take_fd)
{
        Authority a;
        int r = transparent_address(take_fd, &a);

        if (r < 0) {
                (void) fd_close(take_fd);
                return r;
        }
        /* Whoever a program asks for names by TCP, it asks us. */
        return e->dns && a.port == DNS_PORT ? dns_accept(e->dns, take_fd) : client_new(e, take_fd, &a);
}

/* It listens no more: somebody before us shut it down, and it would be ready for ever. */
static void give_up(Listener *l)
{
        (void) log_warning(-EINVAL, "a listener is over");
        l->io = loop_io_free(l->io);
}

static void on_accept(void *userdata, int fd, _unused_ unsigned events)
{
        Listener *l = userdata;
        Egress *e = l->egress;

        for (unsigned i = 0; i < ACCEPT_BATCH && e->is_accepting; i++) {
                int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), r;

                if (client < 0 && errno == EINVAL)
                        give_up(l);
                if (client < 0)
                        return;
                r = l->is_transparent ? take_door(e, client) : client_new(e, client, NULL);
                if (r < 0)
                        (void) log_warning(r, "cannot take a connection");
                egress_update_listeners(e);
        }
}

void egress_update_listeners(Egress *e)
{
        bool is_accepting = e->n_clients < e->clients_max && park_make_room(e);

        if (is_accepting == e->is_accepting)
                return;
        e->is_accepting = is_accepting;
        for (size_t i = 0; i < e->n_listeners; i++) {
                int r = 0;

                if (e->listeners[i].io)
                        r = loop_io_set_events(e->listeners[i].io, is_accepting ? LOOP_READ : 0U);
                if (r < 0)
                        (void) log_warning(r, "cannot change what a listener waits for, ignoring");
        }
}

static void on_turn_end(void *userdata)
{
        Egress *e = userdata;

        egress_sweep(e);
        /* A tunnel may have come to rest. */
        park_on_turn_end(e);
        if (e->n_listeners > 0 && !e->is_accepting)
                egress_update_listeners(e);
}

static void on_link_closed(void *owner, PrivLink *link, int reason)
{
        Egress *e = owner;

        /* Without one of the three nothing can be decided or connected any more. Their end is no fault of
         * ours. */
        if (reason != -EPIPE)
                (void) log_warning(reason, link == e->launcher ? "the launcher's channel closed"
                                           : link == e->audit  ? "the audit channel closed"
                                                               : "the dialer's channel closed");
        loop_stop(e->loop, reason == -EPIPE ? 0 : reason);
}

static int on_audit_message(void *owner, _unused_ PrivLink *link, Imsg *m)
{
        Egress *e = owner;
        PrivVerdict v;

        if (m->type != PRIV_VERDICT)
                return -EPROTO;
        memcpy(&v, m->body, sizeof(v));
        if (v.verdict > VERDICT_ALLOW || v.reason >= _REASON_MAX || !PRIV_STRING_OK(v.rule) ||
            !PRIV_STRING_OK(v.text) || v.allows_any_tls > 1 || v.has_methods > 1 || v.has_paths > 1 ||
            v.is_by_request > 1)
                return -EPROTO;
        if (!refused_on_verdict(e, v.request) && (!e->dns || !dns_on_verdict(e->dns, &v)))
                request_on_verdict(e, &v);
        return 0;
}

static int on_resolved(Egress *e, const Imsg *m)
{
        PrivResolved body;

        memcpy(&body, m->body, sizeof(body));
        if (body.status >= _RESOLVED_MAX || body.is_real > 1 || !e->dns)
                return -EPROTO;
        dns_on_resolved(e->dns, &body, (const uint8_t *) m->body + sizeof(body), m->size - sizeof(body));
        return 0;
}

static int on_dialer_message(void *owner, _unused_ PrivLink *link, Imsg *m)
{
        if (m->type == PRIV_CONNECTED) {
                PrivConnected body;

                memcpy(&body, m->body, sizeof(body));
                return request_on_connected(owner, &body, TAKE_FD(m->fds[0]));
        }
        if (m->type == PRIV_CONNECT_FAILED) {
                PrivConnectFailed body;

                memcpy(&body, m->body, sizeof(body));
                if (body.reason >= _CLOSE_REASON_MAX)
                        return -EPROTO;
                request_on_failed(owner, &body);
                return 0;
        }
        if (m->type == PRIV_INBOUND)
                return inbound_new(owner, m->body, &m->fds[0]);
        if (m->type == PRIV_CONNECTION_BACK)
                park_on_back(owner, m->body, TAKE_FD(m->fds[0]));
        if (m->type == PRIV_CONNECTION_STIRS)
                park_on_stirs(owner, m->body);
        if (m->type == PRIV_CONNECTION_GONE)
                park_on_gone(owner, m->body);
        if (m->type == PRIV_CONNECTION_BACK || m->type == PRIV_CONNECTION_STIRS ||
            m->type == PRIV_CONNECTION_GONE)
                return 0;
        return m->type == PRIV_RESOLVED ? on_resolved(owner, m) : -EPROTO;
}

static int take_listener(Egress *e, PrivEgressSocket which, int take_fd)
{
        Listener *l = &e->listeners[e->n_listeners++];
        int r;

        *l = (Listener){ .egress = e,
                         .fd = take_fd,
                         .is_transparent = which == EGRESS_DOOR4 || which == EGRESS_DOOR6 };
        r = fd_set_nonblock(l->fd, true);
        if (r >= 0)
                r = transparent_address(l->fd, &l->authority);
        return r < 0 ? r : loop_io_new(e->loop, l->fd, LOOP_READ, on_accept, l, &l->io);
}

static int take_sockets(Egress *e, Imsg *m, uint32_t sockets)
{
        size_t n = 2;

        e->is_accepting = true;
        for (unsigned i = 0; i < _EGRESS_SOCKET_MAX; i++) {
                int r = 0;

                if (!(sockets & 1U << i))
                        continue;
                if (i == EGRESS_LOG || i == EGRESS_RING)
                        r = refused_new(e, (PrivEgressSocket) i, TAKE_FD(m->fds[n++]), &e->refused);
                else
                        r = take_listener(e, (PrivEgressSocket) i, TAKE_FD(m->fds[n++]));
                if (r < 0)
                        return r;
        }
        return 0;
}

static int on_start(Egress *e, Imsg *m)
{
        const uint32_t both = 1U << EGRESS_LOG | 1U << EGRESS_RING;
        PrivEgressStart body;
        int r;

        memcpy(&body, m->body, sizeof(body));
        if (e->audit || body.sockets >> _EGRESS_SOCKET_MAX || (body.sockets & both) == both ||
            m->n_fds != 2 + (size_t) __builtin_popcount(body.sockets))
                return -EPROTO;
        e->is_offline = body.is_offline != 0;
        r = priv_link_new(e->loop, TAKE_FD(m->fds[0]), CHANNEL_EGRESS_AUDIT, ROLE_EGRESS, &e->audit);
        if (r >= 0)
                r = priv_link_new(e->loop, TAKE_FD(m->fds[1]), CHANNEL_DIALER_EGRESS, ROLE_EGRESS,
                                  &e->dialer);
        if (r < 0)
                return r;
        priv_link_set_handler(e->audit, on_audit_message, on_link_closed, e);
        priv_link_set_handler(e->dialer, on_dialer_message, on_link_closed, e);
        return take_sockets(e, m, body.sockets);
}

static int on_dns(Egress *e, Imsg *m)
{
        PrivEgressDns body;
        int r;

        memcpy(&body, m->body, sizeof(body));
        if (!e->audit || e->dns)
                return -EPROTO;
        r = names_open(TAKE_FD(m->fds[0]), &body.pool, &e->names);
        if (r >= 0)
                r = answered_new(&e->answered);
        if (r >= 0)
                r = dns_new(e, &e->dns);
        for (size_t i = 1; r >= 0 && i < m->n_fds; i++)
                r = dns_take_datagrams(e->dns, TAKE_FD(m->fds[i]));
        return r;
}

static int on_launcher_message(void *owner, _unused_ PrivLink *link, Imsg *m)
{
        if (m->type == PRIV_EGRESS_LOG_LEVEL) {
                log_set_level((LogLevel) ((const PrivLogLevel *) m->body)->level);
                return 0;
        }
        if (m->type == PRIV_EGRESS_DNS)
                return on_dns(owner, m);
        return m->type == PRIV_EGRESS_START ? on_start(owner, m) : -EPROTO;
}

static int serve(Egress *e)
{
        int r;

        e->scratch = malloc(EGRESS_SCRATCH_SIZE);
        if (!e->scratch)
                return -ENOMEM;
        loop_set_turn_end(e->loop, on_turn_end, e);
        r = priv_link_new(e->loop, LAUNCHER_FD, CHANNEL_LAUNCHER_EGRESS, ROLE_EGRESS, &e->launcher);
        if (r < 0)
                return r;
        priv_link_set_handler(e->launcher, on_launcher_message, on_link_closed, e);
        r = priv_link_send(e->launcher, PRIV_EGRESS_READY, NULL, 0, NULL, 0);
        if (r < 0)
                return r;
        priv_link_set_phase(e->launcher, PHASE_RUN);
        r = loop_run(e->loop);
        if (r >= 0 && e->refused)
                refused_finish(e->refused);
        return r;
}

static void egress_done(Egress *e)
{
        LIST_FOREACH (w, &e->waiting, Client, waiting)
                list_unlink(&w->waiting);
        LIST_FOREACH (x, &e->wanting, Client, wanting)
                list_unlink(&x->wanting);
        while (!list_is_empty(&e->clients)) {
                Client *c = list_entry(e->clients.next, Client, link);

                client_close(c, CLOSE_EGRESS_GONE);
                if (request_outlives(c))
                        client_bury(c);
        }
        egress_sweep(e);
        for (size_t i = 0; i < e->n_listeners; i++) {
                e->listeners[i].io = loop_io_free(e->listeners[i].io);
                e->listeners[i].fd = fd_close(e->listeners[i].fd);
        }
        e->dns = dns_free(e->dns);
        e->names = names_close(e->names);
        e->refused = refused_free(e->refused);
        e->answered = answered_free(e->answered);
        map_done(&e->requests);
        map_done(&e->parked);
        e->audit = priv_link_free(e->audit);
        e->dialer = priv_link_free(e->dialer);
        e->launcher = priv_link_free(e->launcher);
        e->loop = loop_free(e->loop);
        free(e->scratch);
}

/* For clients and their servers, beside what else there is. */
static size_t files_max(void)
{
        struct rlimit limit;
        rlim_t n;

        if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
                return 0;
        n = MIN_OF(limit.rlim_cur, (rlim_t) EGRESS_FILES_MAX);
        return (size_t) (n - MIN_OF(n, (rlim_t) FILES_RESERVED));
}

static int parse_arguments(int argc, char *argv[], WorkerSpec *spec, Egress *e)
{
        uint32_t idle_seconds = IDLE_SECONDS;

        for (int i = 1; i + 1 < argc; i += 2) {
                int r = -EINVAL;

                if (str_equal(argv[i], "--uid"))
                        r = parse_u32(argv[i + 1], &spec->uid);
                else if (str_equal(argv[i], "--gid"))
                        r = parse_u32(argv[i + 1], &spec->gid);
                else if (str_equal(argv[i], "--idle-seconds"))
                        r = parse_u32(argv[i + 1], &idle_seconds);
                if (r < 0)
                        return r;
        }
        e->idle_usec = idle_seconds * USEC_PER_SEC;
        return argc % 2 == 1 ? 0 : -EINVAL;
}

int main(int argc, char *argv[])
{
        Egress e = { .files_max = files_max(), .parked = MAP_INIT };
        WorkerSpec spec = egress_rights();
        int r;

        log_open("sandboxd-egress");
        r = parse_arguments(argc, argv, &spec, &e);
        if (r < 0) {
                (void) log_error(r, "usage: sandboxd-egress --uid N --gid N [--idle-seconds N]");
                return EXIT_FAILURE;
        }
        /* Its descriptors can be made only now. Nothing is read yet. */
        r = loop_new(&e.loop);
        if (r < 0) {
                (void) log_error(r, "cannot prepare");
                return EXIT_FAILURE;
        }
        /* Only root has something to give up. */
        if (geteuid() == 0) {
                r = worker_confine(&spec);
                if (r < 0)
                        return EXIT_FAILURE;
        }
        list_init(&e.clients);
        list_init(&e.dead);
        list_init(&e.waiting);
        list_init(&e.wanting);
        /* Some have a server beside them at any time. */
        e.clients_max = MIN_OF(e.files_max - e.files_max / 4, (size_t) EGRESS_CLIENTS_MAX);
        r = serve(&e);
        egress_done(&e);
        return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
