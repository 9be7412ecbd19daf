#pragma once

/* The audit worker as a child, with the test in the place of launcher, api, egress and dialer. */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/policy/compiled.h"
#include "proto/wire/imsg.h"

#define ASSERT_EQ(a, b)    assert_int_equal((a), (b))
#define ASSERT_STREQ(a, b) assert_string_equal((a), (b))
#define ASSERT_TRUE(x)     assert_true(x)

#define WAIT_MSEC 15000

typedef struct World {
        char directory[64];
        pid_t pid;
        uint64_t segment_bytes_max;
        uint64_t leftover_usec; /* 0: few */
        ImsgChannel launcher;
        ImsgChannel dialer;
        ImsgChannel api;
        ImsgChannel egress;
        Id session;
        uint64_t ready_head;
} World;

/* The confined program, or NULL: the worker's code in a child of the test. */
extern const char *arg_program;

/* 1: a message; 0: none for so long; -EPIPE: the other side has gone. */
int channel_receive(ImsgChannel *c, Imsg *m, int timeout_msec);
/* The next message is of this type. */
void channel_expect(ImsgChannel *c, PrivMessage type, Imsg *m);
/* The caller owns *ret_theirs. */
void channel_pair(ImsgChannel *ours, PrivChannel channel, PrivRole role, int *ret_theirs);
/* Closes take_fd, which may be negative. */
void channel_say(ImsgChannel *c, PrivMessage type, const void *body, size_t size, int take_fd);

/* A folder for the log; no worker yet. */
void world_init(World *w);
void world_done(World *w);
/* In a static buffer. */
const char *world_audit_path(const World *w);

void world_start(World *w);
/* Its status, as of waitpid(). */
int world_stop(World *w);
void world_crash(World *w);
/* Until sessions that nobody claims after a restart are closed. */
void world_wait_for_leftovers(void);

/* The worker's answer: 0 or a negative errno. Policy: default as given; 9.9.9.9 denied by rule "nine". */
int world_open_session(World *w, Verdict default_verdict, bool is_forged, uint32_t is_known);
/* Channels of api, egress and, if asked for, dialer. */
void world_attach(World *w, bool with_dialer);
/* All of these for one session. */
void world_begin(World *w, Verdict default_verdict);

PrivDecide question(uint64_t number, const char *host);
PrivVerdict world_ask(World *w, const PrivDecide *d);

/* The only value of the first row, from whichever segment is the newest; -1: none. */
int64_t world_number(World *w, const char *sql);
/* The log is whole and has at least so many rows. */
void world_assert_chain(World *w, uint64_t n_min);
