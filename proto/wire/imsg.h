#pragma once

/*
 * Private messages over an AF_UNIX SOCK_SEQPACKET pair: a small header, a body and descriptors (SCM_RIGHTS).
 * Both directions are checked against privsep.def: what no line permits is -EPROTO, and the receiver then
 * ends whoever sits at the other end.
 *
 * One packet is one message. Only on channels of decisions, which carry many at a time, may it be several,
 * one behind the other, each aligned to 8, with their descriptors in order.
 *
 * Sending never blocks: what the socket does not take is queued (descriptors are duplicated), up to a limit;
 * a peer that stops reading gets -ENOBUFS, which the sender treats as a dead peer.
 */

#include <stdbool.h>

#include "proto/base/list.h"
#include "proto/idl/privsep.h"

#define IMSG_FDS_MAX        9U
#define IMSG_PACKET_FDS_MAX 64U
#define IMSG_QUEUE_MAX      512U /* between launcher, audit and dialer: more */

typedef struct Imsg {
        PrivMessage type;
        const void *body; /* aligned for any struct; valid until the next imsg_receive() */
        size_t size;
        int fds[IMSG_FDS_MAX]; /* the receiver's: take with TAKE_FD(), the rest goes with imsg_done() */
        size_t n_fds;
} Imsg;

typedef struct ImsgBundle ImsgBundle;

typedef struct ImsgChannel {
        int fd;
        PrivChannel channel;
        PrivRole role;   /* our end */
        PrivPhase phase; /* what we accept now */
        uint64_t sent;
        uint64_t received;
        ListLink queue;
        size_t n_queued; /* messages */
        bool is_crowded; /* they wait for others who do not read: the socket will not say when */
        char *buffer;
        bool is_gathering;  /* what is sent waits for imsg_flush(), or for company enough */
        ImsgBundle *bundle; /* that waits */
        size_t at;          /* of the packet in `buffer`: what follows has not been looked at */
        size_t n_packet;
        size_t n_taken;               /* messages of it */
        int fds[IMSG_PACKET_FDS_MAX]; /* of it, from `fds_at` on */
        size_t fds_at;
        size_t n_fds;
} ImsgChannel;

/* Whether a packet of the channel may be several messages. */
bool imsg_may_gather(PrivChannel channel);

/* A connected pair for the channel, both ends close-on-exec and non-blocking; [0] is for the role that comes
 * first in the channel's name. */
int imsg_pair(int ret_fds[2]) _must_check_;

/* Takes the descriptor, also on error. The channel starts in PHASE_SETUP. */
int imsg_channel_init(ImsgChannel *c, int take_fd, PrivChannel channel, PrivRole role) _must_check_;
void imsg_channel_done(ImsgChannel *c);

/* Borrows fds. Queues when the socket is full. -ENOBUFS: the peer does not read; -EPIPE: it is gone. A
 * message that this end may not send is a bug: asserted. */
int imsg_send(ImsgChannel *c, PrivMessage type, const void *body, size_t size, const int *fds,
              size_t n_fds) _must_check_;

/* Head and tail in one message, without a copy of both by the caller. */
int imsg_send_tail(ImsgChannel *c, PrivMessage type, const void *head, size_t head_size, const void *tail,
                   size_t tail_size, const int *fds, size_t n_fds) _must_check_;

/* Sends what waits; 0 when nothing or only part of it went. */
int imsg_flush(ImsgChannel *c) _must_check_;

static inline bool imsg_has_queue(const ImsgChannel *c)
{
        return c->n_queued > 0;
}

/* The packet received last holds a further message: the socket will not say so. */
static inline bool imsg_has_more(const ImsgChannel *c)
{
        return c->at < c->n_packet;
}

/* 1: *ret is a permitted message; 0: none now; -EPIPE: the peer is gone; -EPROTO: it broke the table. */
int imsg_receive(ImsgChannel *c, Imsg *ret) _must_check_;

/* Closes the descriptors that nobody took. */
void imsg_done(Imsg *m);

static inline void imsg_donep(Imsg *m)
{
        imsg_done(m);
}

#define _cleanup_imsg_ _cleanup_(imsg_donep)
