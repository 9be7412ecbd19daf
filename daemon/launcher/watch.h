#pragma once

/* The watch answers for the masks of denied paths. Without it, or on a kernel without FUSE, masks are plain
 * ones: they hide as much, and nobody hears of attempts. */

#include "daemon/launcher/session.h"

int watch_start(Launcher *l) _must_check_;

/* It serves, or will never: nothing need wait for it. */
bool watch_is_settled(const Launcher *l);

/* Whenever audit is new. */
void watch_attach_audit(Launcher *l);

/* A file system for the masks of this session, which the watch answers for. -EBADF: there is none. */
int watch_mount(Launcher *l, const Id *session);

/* Nothing of it runs any more; of a watch that has never heard of it, too. */
void watch_over(Launcher *l, const Id *session);

/* Its init does not get on, or does not end: the watch is asked, and killed where it does not answer. */
void watch_suspect(const Session *s);

/* The end of an init that was not told to start: waits for it, but not for long, and not for the watch. */
void watch_reap_init(Launcher *l, int take_pidfd);

/* Nobody answers for its masks, though this kernel has what that takes. */
bool watch_is_missed(const Session *s);

/* What its masks stand for: while the plan is at hand, before init has it. */
void watch_open_session(const Session *s);
