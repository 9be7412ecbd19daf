#include "daemon/loop/link.h"

#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"

/* One peer may not keep the others waiting: so many messages a turn. */
#define LINK_BATCH 64U

/* When others may have read theirs. */
#define CROWDED_USEC (20 * USEC_PER_MSEC)

struct PrivLink {
        Loop *loop;
        LoopIo *io;
        LoopTimer *retry;
        ImsgChannel channel;
        PrivLinkHandler handler;
        PrivLinkClosed on_closed;
        void *owner;
        unsigned n_users; /* callbacks on the stack and deferred calls: free() waits for them */
        int reason;
        unsigned batch;
        bool is_reading;
        bool is_flushing; /* after this turn */
        bool is_retrying; /* the timer runs */
        bool is_closed;
        bool is_freed;
};

static void link_unref(PrivLink *l)
{
        l->n_users--;
        if (l->is_freed && l->n_users == 0)
                free(l);
}

static int update_events(PrivLink *l)
{
        bool is_waiting = imsg_has_queue(&l->channel) && !l->channel.is_crowded;
        int r;

        if (!l->io)
                return 0;
        if (l->channel.is_crowded && !l->is_retrying) {
                r = loop_timer_set(l->retry, CROWDED_USEC);
                if (r < 0)
                        return r;
                l->is_retrying = true;
        }
        return loop_io_set_events(l->io, (l->is_reading ? LOOP_READ : 0U) | (is_waiting ? LOOP_WRITE : 0U));
}

static void link_close(PrivLink *l, int reason)
{
        if (l->is_closed || l->is_freed)
                return;
        l->is_closed = true;
        l->io = loop_io_free(l->io);
        l->retry = loop_timer_free(l->retry);
        l->n_users++;
        if (l->on_closed)
                l->on_closed(l->owner, l, reason);
        link_unref(l);
}

static void close_deferred(void *userdata)
{
        PrivLink *l = userdata;

        link_close(l, l->reason);
        link_unref(l);
}

static void read_messages(PrivLink *l)
{
        for (unsigned i = 0; !l->is_closed && !l->is_freed && l->is_reading; i++) {
                _cleanup_imsg_ Imsg m = { .n_fds = 0 };
                int r;

                /* A packet is read to its end: nothing would call us for the rest. */
                if (i >= l->batch && !imsg_has_more(&l->channel))
                        return;
                r = imsg_receive(&l->channel, &m);

                if (r == 0)
                        return;
                if (r > 0)
                        r = l->handler ? l->handler(l->owner, l, &m) : -EPROTO;
                if (r < 0) {
                        link_close(l, r);
                        return;
                }
        }
}

static void on_link_io(void *userdata, _unused_ int fd, unsigned events)
{
        PrivLink *l = userdata;
        int r = 0;

        l->n_users++;
        if (events & LOOP_WRITE)
                r = imsg_flush(&l->channel);
        if (r >= 0 && (events & LOOP_READ))
                read_messages(l);
        if (r >= 0 && !l->is_closed && !l->is_freed)
                r = update_events(l);
        if (r < 0)
                link_close(l, r);
        link_unref(l);
}

static void on_retry(void *userdata)
{
        PrivLink *l = userdata;
        int r;

        l->is_retrying = false;
        r = imsg_flush(&l->channel);
        if (r >= 0)
                r = update_events(l);
        if (r < 0)
                link_close(l, r);
}

int priv_link_new(Loop *loop, int take_fd, PrivChannel channel, PrivRole role, PrivLink **ret)
{
        PrivLink *l = calloc(1, sizeof(*l));
        int r;

        if (!l) {
                (void) fd_close(take_fd);
                return -ENOMEM;
        }
        *l = (PrivLink){ .loop = loop, .batch = LINK_BATCH, .is_reading = true };
        r = imsg_channel_init(&l->channel, take_fd, channel, role);
        if (r < 0) {
                free(l);
                return r;
        }
        l->channel.is_gathering = imsg_may_gather(channel);
        r = loop_timer_new(loop, on_retry, l, &l->retry);
        if (r >= 0)
                r = loop_io_new(loop, l->channel.fd, LOOP_READ, on_link_io, l, &l->io);
        if (r < 0) {
                l->retry = loop_timer_free(l->retry);
                imsg_channel_done(&l->channel);
                free(l);
                return r;
        }
        *ret = l;
        return 0;
}

void priv_link_set_handler(PrivLink *l, PrivLinkHandler handler, PrivLinkClosed on_closed, void *owner)
{
        l->handler = handler;
        l->on_closed = on_closed;
        l->owner = owner;
}

PrivLink *priv_link_free(PrivLink *l)
{
        if (!l)
                return NULL;
        /* What was said last is still said. */
        if (!l->is_closed && !l->is_freed)
                (void) !imsg_flush(&l->channel);
        l->is_freed = true;
        l->io = loop_io_free(l->io);
        l->retry = loop_timer_free(l->retry);
        imsg_channel_done(&l->channel);
        if (l->n_users == 0)
                free(l);
        return NULL;
}

void priv_link_set_phase(PrivLink *l, PrivPhase phase)
{
        l->channel.phase = phase;
}

void priv_link_set_batch(PrivLink *l, unsigned n)
{
        l->batch = n;
}

int priv_link_set_reading(PrivLink *l, bool on)
{
        l->is_reading = on;
        return update_events(l);
}

static int flush(PrivLink *l)
{
        int r = imsg_flush(&l->channel);

        return r < 0 ? r : update_events(l);
}

static void flush_deferred(void *userdata)
{
        PrivLink *l = userdata;
        int r = 0;

        l->is_flushing = false;
        if (!l->is_closed && !l->is_freed)
                r = flush(l);
        if (r < 0)
                link_close(l, r);
        link_unref(l);
}

/* Messages of one turn go together: the peer wakes up once. */
static int flush_later(PrivLink *l)
{
        if (l->is_flushing)
                return 0;
        if (loop_defer(l->loop, flush_deferred, l) < 0)
                return flush(l);
        l->is_flushing = true;
        l->n_users++;
        return 0;
}

int priv_link_send_tail(PrivLink *l, PrivMessage type, const void *head, size_t head_size, const void *tail,
                        size_t tail_size, const int *fds, size_t n_fds)
{
        int r;

        if (l->is_closed || l->is_freed)
                return -EPIPE;
        r = imsg_send_tail(&l->channel, type, head, head_size, tail, tail_size, fds, n_fds);
        if (r >= 0)
                r = l->channel.is_gathering ? flush_later(l) : update_events(l);
        if (r < 0 && l->reason == 0) {
                l->reason = r;
                l->n_users++;
                if (loop_defer(l->loop, close_deferred, l) < 0)
                        l->n_users--;
        }
        return r;
}

int priv_link_send(PrivLink *l, PrivMessage type, const void *body, size_t size, const int *fds,
                   size_t n_fds)
{
        return priv_link_send_tail(l, type, body, size, NULL, 0, fds, n_fds);
}

size_t priv_link_queued(const PrivLink *l)
{
        return l->channel.n_queued;
}
