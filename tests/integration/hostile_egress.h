#pragma once

/* What the parts of the hostile worker share. It is confined as the real one is. */

#include <stdatomic.h>

#include "proto/wire/imsg.h"

#define WAIT_MSEC 1500

/* The file "board" beside the program, which the test fills and all workers share. */
typedef struct Board {
        atomic_uint turn;
        uint32_t allowed_port;
        uint32_t denied_port;
        uint32_t reset_port; /* allowed; the server resets what it accepts */
} Board;

extern Board *board;

#define ALLOWED_PORT (board->allowed_port)
#define DENIED_PORT  (board->denied_port)
#define RESET_PORT   (board->reset_port)

typedef struct Hostile {
        ImsgChannel launcher;
        ImsgChannel audit;
        ImsgChannel dialer;
        int listener_fd;
        int watch_fd; /* epoll: made before the filter */
        uint64_t next_request;
} Hostile;

void report(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* True: there is something to read, or the end, within so many milliseconds (-1: for ever). */
bool wait_readable(Hostile *h, int fd, int timeout_msec);
/* 1: a message; 0: silence; negative: the channel is over. */
int receive(Hostile *h, ImsgChannel *c, Imsg *ret, int timeout_msec);

PrivDecide request_for(Hostile *h, const char *host, uint32_t port);
/* The descriptor of an allowed connection, and its number. -EBADF: none came. */
int connection_for(Hostile *h, const char *host, uint32_t port, uint64_t *ret_sequence);

/* hostile_calls.c: what the kernel lets it do */
void try_calls(Hostile *h);
void try_memory(void);
void try_revival(Hostile *h);
void try_revoked(Hostile *h);

/* hostile_attacks.c: breaks the protocol in the n-th way; returns if nobody ends it. */
void attack(Hostile *h, unsigned n);
