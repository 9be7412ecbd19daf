#pragma once

/*
 * The event loop of every process: descriptors, timers, signals, and work at the end of a turn. libevent is
 * used below this folder only.
 *
 * A source may be freed from its own callback; an owner that other code on the stack still uses frees itself
 * by loop_defer(), after the turn, when no callback is on the stack.
 */

#include <stdbool.h>
#include <stdint.h>

#include "proto/base/macro.h"

typedef struct Loop Loop;
typedef struct LoopIo LoopIo;
typedef struct LoopTimer LoopTimer;
typedef struct LoopSignal LoopSignal;

enum LoopEvents {
        LOOP_READ = 1 << 0,
        LOOP_WRITE = 1 << 1,
};

typedef void (*LoopIoCallback)(void *userdata, int fd, unsigned events);
typedef void (*LoopCallback)(void *userdata);
typedef void (*LoopSignalCallback)(void *userdata, int signal_number);

int loop_new(Loop **ret) _must_check_;
Loop *loop_free(Loop *l);
DEFINE_CLEANUP(Loop *, loop_free)
#define _cleanup_loop_ _cleanup_(loop_freep)

/* Runs until loop_stop(); returns what loop_stop() was given. */
int loop_run(Loop *l);
void loop_stop(Loop *l, int result);

/* Called at the end of each turn that had events, e.g. to commit what the turn collected. One a loop. */
void loop_set_turn_end(Loop *l, LoopCallback callback, void *userdata);

/* Calls callback(userdata) after this turn. Without memory, too, for 64 calls in a turn; then -ENOMEM. */
int loop_defer(Loop *l, LoopCallback callback, void *userdata) _must_check_;

/* The descriptor is borrowed and must outlive the source. */
int loop_io_new(Loop *l, int fd, unsigned events, LoopIoCallback callback, void *userdata,
                LoopIo **ret) _must_check_;
int loop_io_set_events(LoopIo *io, unsigned events) _must_check_;
LoopIo *loop_io_free(LoopIo *io);

/* One shot; armed by loop_timer_set(). */
int loop_timer_new(Loop *l, LoopCallback callback, void *userdata, LoopTimer **ret) _must_check_;
int loop_timer_set(LoopTimer *t, uint64_t after_usec) _must_check_;
void loop_timer_stop(LoopTimer *t);
LoopTimer *loop_timer_free(LoopTimer *t);

int loop_signal_new(Loop *l, int signal_number, LoopSignalCallback callback, void *userdata,
                    LoopSignal **ret) _must_check_;
LoopSignal *loop_signal_free(LoopSignal *s);
