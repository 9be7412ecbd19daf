#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "daemon/dialer/dialer.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"

/*
 * epoll reports EPOLLHUP (both directions ended) and EPOLLERR without being asked. Registered with no other
 * event, a connection costs nothing while it carries data, and we never look at what it carries.
 */

#define WATCH_BATCH 64

static void count_bytes(const Connection *c, PrivDialClosed *closed)
{
        struct tcp_info info = { 0 };
        socklen_t size = sizeof(info);

        if (getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0)
                return;
        /* The kernel counts a repetition also where it could not be sent. */
        if (info.tcpi_bytes_sent > info.tcpi_bytes_retrans)
                closed->sent_bytes = info.tcpi_bytes_sent - info.tcpi_bytes_retrans;
        closed->received_bytes = info.tcpi_bytes_received;
        closed->sent_bytes -= MIN_OF(closed->sent_bytes, c->proxy_sent);
        closed->received_bytes -= MIN_OF(closed->received_bytes, c->proxy_received);
        /* Seen from the session: what our end sends, it receives. */
        if (c->is_inbound) {
                uint64_t sent = closed->received_bytes;

                closed->received_bytes = closed->sent_bytes;
                closed->sent_bytes = sent;
        }
}

void connection_end(Connection *c, CloseReason reason)
{
        PrivDialClosed closed = { .session = c->session->id,
                                  .sequence = c->sequence,
                                  .duration_usec = clock_monotonic_usec() - c->started_usec,
                                  .address = c->address,
                                  .port = c->port,
                                  .reason = reason };

        if (c->fd < 0)
                return;
        count_bytes(c, &closed);
        list_unlink(&c->expiring);
        /* The egress worker's copy keeps the registration alive: closing ours does not take it away. */
        (void) epoll_ctl(c->session->dialer->watch_fd, EPOLL_CTL_DEL, c->fd, NULL);
        /* The socket is shared: this ends it for the egress worker too. What was sent still goes out. */
        (void) shutdown(c->fd, SHUT_RDWR);
        c->fd = fd_close(c->fd);
        park_stirs(c);
        c->session->dialer->n_connections--;
        dialer_report_closed(c->session->dialer, &closed);
}

Connection *connection_free(Connection *c)
{
        if (!c)
                return NULL;
        sb_assert(c->fd < 0);
        (void) map_remove(&c->session->connections, &c->sequence, sizeof(c->sequence));
        free(c);
        return NULL;
}

/* The kernel gives the lowest number that is free, so the number tells how many there are. */
int dialer_check_file(const Dialer *d, int take_fd, int *ret_fd)
{
        _cleanup_close_ int fd = take_fd;

        if (fd < 0)
                return neg_errno();
        if (fd >= d->files_max)
                return -EMFILE;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static int watch(Dialer *d, Connection *c)
{
        struct epoll_event event = { .events = EPOLLET, .data = { .ptr = c } };

        return epoll_ctl(d->watch_fd, EPOLL_CTL_ADD, c->fd, &event) < 0 ? neg_errno() : 0;
}

int connection_add(Session *s, const Connection *what, int fd)
{
        Connection *c = calloc(1, sizeof(*c));
        int r;

        if (!c)
                return -ENOMEM;
        *c = *what;
        c->session = s;
        c->fd = fd;
        c->started_usec = clock_monotonic_usec();
        list_init(&c->expiring);
        r = map_put(&s->connections, &c->sequence, sizeof(c->sequence), c);
        if (r < 0) {
                free(c);
                return r;
        }
        r = expiry_watch(c);
        /* Last: others hold the file, too, whose end alone would take it out of the set. */
        if (r >= 0)
                r = watch(s->dialer, c);
        if (r < 0) {
                list_unlink(&c->expiring);
                c->fd = -EBADF;
                (void) connection_free(c);
                return r;
        }
        s->dialer->n_connections++;
        return 0;
}

int connection_new(Session *s, const Dial *dial, int take_fd, const PrivAddress *address)
{
        PrivConnected message = { .request = dial->order.request, .sequence = dial->order.sequence };
        _cleanup_close_ int fd = take_fd;
        Connection c = { .sequence = dial->order.sequence,
                         .expires_usec = dial->expires_usec,
                         .address = *address,
                         .port = dial->port,
                         .proxy_sent = dial->n_asked,
                         .proxy_received = dial->n_peeked };
        int r = connection_add(s, &c, fd);

        if (r < 0)
                return r;
        (void) priv_link_send(s->egress, PRIV_CONNECTED, &message, sizeof(message), &fd, 1);
        (void) TAKE_FD(fd);
        return 0;
}

static CloseReason reason_of(uint32_t events)
{
        return events & EPOLLERR ? CLOSE_ERROR : CLOSE_DONE;
}

static void on_watch(void *userdata, int fd, _unused_ unsigned events)
{
        struct epoll_event found[WATCH_BATCH];
        int n = epoll_wait(fd, found, WATCH_BATCH, 0);

        (void) userdata;
        for (int i = 0; i < n; i++) {
                if (found[i].events & (EPOLLHUP | EPOLLERR))
                        connection_end(found[i].data.ptr, reason_of(found[i].events));
                else if (found[i].events & (EPOLLIN | EPOLLRDHUP))
                        park_stirs(found[i].data.ptr);
        }
}

int connection_watch_open(Dialer *d)
{
        d->watch_fd = epoll_create1(EPOLL_CLOEXEC);
        if (d->watch_fd < 0)
                return neg_errno();
        return loop_io_new(d->loop, d->watch_fd, LOOP_READ, on_watch, d, &d->watch_io);
}
