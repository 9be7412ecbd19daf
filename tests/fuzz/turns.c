#include "tests/fuzz/turns.h"

#include <poll.h>

#include "proto/base/list.h"
#include "tests/fuzz/fuzz.h"

#define SOURCES_MAX 512U
/* More turns than any input has reason for: something spins. */
#define TURNS_MAX 20000U

typedef struct Deferred {
        ListLink link;
        LoopCallback callback;
        void *userdata;
} Deferred;

struct Loop {
        ListLink ios;
        ListLink timers;
        ListLink deferred;
        LoopCallback turn_end;
        void *turn_end_userdata;
        uint64_t ids;
        bool is_stopped;
};

struct LoopIo {
        ListLink link;
        Loop *loop;
        uint64_t id;
        int fd;
        unsigned events;
        LoopIoCallback callback;
        void *userdata;
};

struct LoopTimer {
        ListLink link;
        LoopCallback callback;
        void *userdata;
        bool is_armed;
};

struct LoopSignal {
        int number;
};

int loop_new(Loop **ret)
{
        Loop *l = calloc(1, sizeof(*l));

        sb_assert(l);
        list_init(&l->ios);
        list_init(&l->timers);
        list_init(&l->deferred);
        *ret = l;
        return 0;
}

static void run_deferred(Loop *l)
{
        while (!list_is_empty(&l->deferred)) {
                Deferred *d = list_entry(l->deferred.next, Deferred, link);

                list_unlink(&d->link);
                d->callback(d->userdata);
                free(d);
        }
}

Loop *loop_free(Loop *l)
{
        if (!l)
                return NULL;
        run_deferred(l);
        sb_assert(list_is_empty(&l->ios) && list_is_empty(&l->timers));
        free(l);
        return NULL;
}

static void (*driver)(Loop *l);

void turns_set_driver(void (*f)(Loop *l))
{
        driver = f;
}

int loop_run(Loop *l)
{
        if (driver)
                driver(l);
        return 0;
}

void loop_stop(Loop *l, _unused_ int result)
{
        l->is_stopped = true;
}

bool turns_are_over(const Loop *l)
{
        return l->is_stopped;
}

void loop_set_turn_end(Loop *l, LoopCallback callback, void *userdata)
{
        l->turn_end = callback;
        l->turn_end_userdata = userdata;
}

int loop_defer(Loop *l, LoopCallback callback, void *userdata)
{
        Deferred *d = calloc(1, sizeof(*d));

        sb_assert(d);
        *d = (Deferred){ .callback = callback, .userdata = userdata };
        list_append(&l->deferred, &d->link);
        return 0;
}

int loop_io_new(Loop *l, int fd, unsigned events, LoopIoCallback callback, void *userdata, LoopIo **ret)
{
        LoopIo *io = calloc(1, sizeof(*io));

        sb_assert(io && fd >= 0);
        *io = (LoopIo){ .loop = l,
                        .id = ++l->ids,
                        .fd = fd,
                        .events = events,
                        .callback = callback,
                        .userdata = userdata };
        list_append(&l->ios, &io->link);
        *ret = io;
        return 0;
}

int loop_io_set_events(LoopIo *io, unsigned events)
{
        io->events = events;
        return 0;
}

LoopIo *loop_io_free(LoopIo *io)
{
        if (!io)
                return NULL;
        list_unlink(&io->link);
        free(io);
        return NULL;
}

int loop_timer_new(Loop *l, LoopCallback callback, void *userdata, LoopTimer **ret)
{
        LoopTimer *t = calloc(1, sizeof(*t));

        sb_assert(t);
        *t = (LoopTimer){ .callback = callback, .userdata = userdata };
        list_append(&l->timers, &t->link);
        *ret = t;
        return 0;
}

int loop_timer_set(LoopTimer *t, _unused_ uint64_t after_usec)
{
        t->is_armed = true;
        return 0;
}

void loop_timer_stop(LoopTimer *t)
{
        if (t)
                t->is_armed = false;
}

LoopTimer *loop_timer_free(LoopTimer *t)
{
        if (!t)
                return NULL;
        list_unlink(&t->link);
        free(t);
        return NULL;
}

int loop_signal_new(_unused_ Loop *l, int signal_number, _unused_ LoopSignalCallback callback,
                    _unused_ void *userdata, LoopSignal **ret)
{
        LoopSignal *s = calloc(1, sizeof(*s));

        sb_assert(s);
        s->number = signal_number;
        *ret = s;
        return 0;
}

LoopSignal *loop_signal_free(LoopSignal *s)
{
        free(s);
        return NULL;
}

static void end_turn(Loop *l)
{
        if (l->turn_end)
                l->turn_end(l->turn_end_userdata);
        run_deferred(l);
}

/* Callbacks free sources: each is found again by its number. */
static LoopIo *find(Loop *l, uint64_t id)
{
        LIST_FOREACH (io, &l->ios, LoopIo, link) {
                if (io->id == id)
                        return io;
        }
        return NULL;
}

bool turns_once(Loop *l)
{
        struct pollfd fds[SOURCES_MAX];
        uint64_t ids[SOURCES_MAX];
        nfds_t n = 0;

        LIST_FOREACH (io, &l->ios, LoopIo, link) {
                sb_assert(n < SOURCES_MAX);
                fds[n].fd = io->fd;
                fds[n].events = (short) ((io->events & LOOP_READ ? POLLIN : 0) |
                                         (io->events & LOOP_WRITE ? POLLOUT : 0));
                if (fds[n].events == 0)
                        fds[n].fd = -1; /* as with epoll without the source */
                ids[n++] = io->id;
        }
        if (poll(fds, n, 0) <= 0) {
                end_turn(l);
                return false;
        }
        for (nfds_t i = 0; i < n && !l->is_stopped; i++) {
                LoopIo *io = fds[i].revents ? find(l, ids[i]) : NULL;
                unsigned events;

                sb_assert(!(fds[i].revents & POLLNVAL));
                if (!io)
                        continue;
                events = (fds[i].revents & (POLLIN | POLLHUP | POLLERR) ? LOOP_READ : 0U) |
                         (fds[i].revents & (POLLOUT | POLLERR) ? LOOP_WRITE : 0U);
                if ((events & io->events) != 0)
                        io->callback(io->userdata, io->fd, events & io->events);
        }
        end_turn(l);
        return true;
}

void turns_all(Loop *l)
{
        unsigned n = 0;

        while (!l->is_stopped && turns_once(l))
                sb_assert(n++ < TURNS_MAX);
}

void turns_fire(Loop *l, unsigned n)
{
        unsigned n_armed = 0;
        LoopTimer *found = NULL;

        LIST_FOREACH (t, &l->timers, LoopTimer, link)
                n_armed += t->is_armed;
        if (n_armed == 0)
                return;
        n %= n_armed;
        LIST_FOREACH (t, &l->timers, LoopTimer, link) {
                if (t->is_armed && n-- == 0) {
                        found = t;
                        break;
                }
        }
        found->is_armed = false;
        found->callback(found->userdata);
        end_turn(l);
}
