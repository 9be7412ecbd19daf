#include "daemon/loop/loop.h"

#include <errno.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <time.h>

#include "proto/base/clock.h"
#include "proto/base/list.h"

/* What ends is freed by a deferred call, also where memory has run out: so many need none. */
#define SPARES 64

typedef struct Deferred {
        ListLink link;
        LoopCallback callback;
        void *userdata;
        bool is_spare;
} Deferred;

struct Loop {
        struct event_base *base;
        LoopCallback turn_end;
        void *turn_end_userdata;
        ListLink deferred;
        ListLink spares;
        Deferred spare[SPARES];
        int result;
        bool is_stopped;
};

struct LoopIo {
        Loop *loop;
        struct event event;
        LoopIoCallback callback;
        void *userdata;
};

struct LoopTimer {
        struct event event;
        LoopCallback callback;
        void *userdata;
};

struct LoopSignal {
        struct event event;
        LoopSignalCallback callback;
        void *userdata;
};

int loop_new(Loop **ret)
{
        struct event_config *config = event_config_new();
        Loop *l = calloc(1, sizeof(*l));

        if (!l || !config) {
                free(l);
                if (config)
                        event_config_free(config);
                return -ENOMEM;
        }
        list_init(&l->deferred);
        list_init(&l->spares);
        for (size_t i = 0; i < ELEMENTSOF(l->spare); i++) {
                l->spare[i].is_spare = true;
                list_append(&l->spares, &l->spare[i].link);
        }
        (void) event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK | EVENT_BASE_FLAG_IGNORE_ENV |
                                                             EVENT_BASE_FLAG_PRECISE_TIMER);
        l->base = event_base_new_with_config(config);
        event_config_free(config);
        if (!l->base) {
                free(l);
                return -ENOMEM;
        }
        *ret = l;
        return 0;
}

static void run_deferred(Loop *l)
{
        while (!list_is_empty(&l->deferred)) {
                Deferred *d = list_entry(l->deferred.next, Deferred, link);

                list_unlink(&d->link);
                d->callback(d->userdata);
                if (d->is_spare)
                        list_append(&l->spares, &d->link);
                else
                        free(d);
        }
}

Loop *loop_free(Loop *l)
{
        if (!l)
                return NULL;
        run_deferred(l);
        event_base_free(l->base);
        free(l);
        return NULL;
}

int loop_run(Loop *l)
{
        while (!l->is_stopped) {
                if (event_base_loop(l->base, EVLOOP_ONCE) < 0)
                        return -EIO;
                if (l->turn_end)
                        l->turn_end(l->turn_end_userdata);
                run_deferred(l);
        }
        return l->result;
}

void loop_stop(Loop *l, int result)
{
        l->is_stopped = true;
        l->result = result;
        (void) event_base_loopbreak(l->base);
}

void loop_set_turn_end(Loop *l, LoopCallback callback, void *userdata)
{
        l->turn_end = callback;
        l->turn_end_userdata = userdata;
}

int loop_defer(Loop *l, LoopCallback callback, void *userdata)
{
        Deferred *d = calloc(1, sizeof(*d));

        if (!d) {
                if (list_is_empty(&l->spares))
                        return -ENOMEM;
                d = list_entry(l->spares.next, Deferred, link);
                list_unlink(&d->link);
        }
        d->callback = callback;
        d->userdata = userdata;
        list_append(&l->deferred, &d->link);
        return 0;
}

static short to_libevent(unsigned events)
{
        return (short) (EV_PERSIST | (events & LOOP_READ ? EV_READ : 0) |
                        (events & LOOP_WRITE ? EV_WRITE : 0));
}

static void on_io(evutil_socket_t fd, short what, void *userdata)
{
        LoopIo *io = userdata;

        io->callback(io->userdata, fd,
                     (what & EV_READ ? LOOP_READ : 0U) | (what & EV_WRITE ? LOOP_WRITE : 0U));
}

int loop_io_new(Loop *l, int fd, unsigned events, LoopIoCallback callback, void *userdata, LoopIo **ret)
{
        LoopIo *io = calloc(1, sizeof(*io));

        if (!io)
                return -ENOMEM;
        *io = (LoopIo){ .loop = l, .callback = callback, .userdata = userdata };
        if (event_assign(&io->event, l->base, fd, to_libevent(events), on_io, io) < 0 ||
            (events && event_add(&io->event, NULL) < 0)) {
                free(io);
                return -EIO;
        }
        *ret = io;
        return 0;
}

int loop_io_set_events(LoopIo *io, unsigned events)
{
        int fd = event_get_fd(&io->event);

        if (event_get_events(&io->event) == to_libevent(events) &&
            (event_pending(&io->event, EV_READ | EV_WRITE, NULL) != 0) == (events != 0))
                return 0;
        if (event_del(&io->event) < 0)
                return -EIO;
        if (event_assign(&io->event, io->loop->base, fd, to_libevent(events), on_io, io) < 0)
                return -EIO;
        if (events && event_add(&io->event, NULL) < 0)
                return -EIO;
        return 0;
}

LoopIo *loop_io_free(LoopIo *io)
{
        if (io) {
                (void) event_del(&io->event);
                free(io);
        }
        return NULL;
}

static void on_timer(_unused_ evutil_socket_t fd, _unused_ short what, void *userdata)
{
        LoopTimer *t = userdata;

        t->callback(t->userdata);
}

int loop_timer_new(Loop *l, LoopCallback callback, void *userdata, LoopTimer **ret)
{
        LoopTimer *t = calloc(1, sizeof(*t));

        if (!t)
                return -ENOMEM;
        *t = (LoopTimer){ .callback = callback, .userdata = userdata };
        if (evtimer_assign(&t->event, l->base, on_timer, t) < 0) {
                free(t);
                return -EIO;
        }
        *ret = t;
        return 0;
}

int loop_timer_set(LoopTimer *t, uint64_t after_usec)
{
        struct timeval tv = { .tv_sec = (time_t) (after_usec / USEC_PER_SEC),
                              .tv_usec = (suseconds_t) (after_usec % USEC_PER_SEC) };

        return evtimer_add(&t->event, &tv) < 0 ? -EIO : 0;
}

void loop_timer_stop(LoopTimer *t)
{
        (void) evtimer_del(&t->event);
}

LoopTimer *loop_timer_free(LoopTimer *t)
{
        if (t) {
                (void) evtimer_del(&t->event);
                free(t);
        }
        return NULL;
}

static void on_signal(evutil_socket_t number, _unused_ short what, void *userdata)
{
        LoopSignal *s = userdata;

        s->callback(s->userdata, number);
}

int loop_signal_new(Loop *l, int signal_number, LoopSignalCallback callback, void *userdata,
                    LoopSignal **ret)
{
        LoopSignal *s = calloc(1, sizeof(*s));

        if (!s)
                return -ENOMEM;
        *s = (LoopSignal){ .callback = callback, .userdata = userdata };
        if (evsignal_assign(&s->event, l->base, signal_number, on_signal, s) < 0 ||
            evsignal_add(&s->event, NULL) < 0) {
                free(s);
                return -EIO;
        }
        *ret = s;
        return 0;
}

LoopSignal *loop_signal_free(LoopSignal *s)
{
        if (s) {
                (void) evsignal_del(&s->event);
                free(s);
        }
        return NULL;
}
