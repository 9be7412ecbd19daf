#pragma once

/*
 * A private channel on the loop: reads messages and hands each permitted one to the handler, sends what is
 * queued.
 *
 * The owner frees the link; it may do so from the handler or from on_closed. After on_closed nothing more is
 * called for this link.
 */

#include "daemon/loop/loop.h"
#include "proto/wire/imsg.h"

typedef struct PrivLink PrivLink;

/* Takes what it keeps of m->fds with TAKE_FD(). A negative return value means that the peer broke a rule:
 * the link is closed with it (on_closed is called). */
typedef int (*PrivLinkHandler)(void *owner, PrivLink *link, Imsg *m);

/* -EPIPE: the peer is gone; -ENOBUFS: it does not read; else what it did wrong. */
typedef void (*PrivLinkClosed)(void *owner, PrivLink *link, int reason);

/* Takes the descriptor, also on error. The link starts in PHASE_SETUP. */
int priv_link_new(Loop *loop, int take_fd, PrivChannel channel, PrivRole role, PrivLink **ret) _must_check_;
void priv_link_set_handler(PrivLink *l, PrivLinkHandler handler, PrivLinkClosed on_closed, void *owner);
PrivLink *priv_link_free(PrivLink *l);
DEFINE_CLEANUP(PrivLink *, priv_link_free)

void priv_link_set_phase(PrivLink *l, PrivPhase phase);

/* How many messages a turn are read: few where each is much work, so that others get their turn. */
void priv_link_set_batch(PrivLink *l, unsigned n);

/* Stops or resumes reading: back-pressure. */
int priv_link_set_reading(PrivLink *l, bool on) _must_check_;

/* As imsg_send(), on channels of decisions at the end of the turn; an error also closes the link after this
 * turn, so callers may ignore it with (void). */
int priv_link_send(PrivLink *l, PrivMessage type, const void *body, size_t size, const int *fds,
                   size_t n_fds);
int priv_link_send_tail(PrivLink *l, PrivMessage type, const void *head, size_t head_size, const void *tail,
                        size_t tail_size, const int *fds, size_t n_fds);
size_t priv_link_queued(const PrivLink *l);
