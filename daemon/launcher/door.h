#pragma once

/*
 * The access control list of the public socket's file. A user who connects again and again, faster than
 * anybody may, has an entry in it for a while: the kernel refuses the user's connect() with EACCES, and
 * nobody waits behind connections that are only turned away.
 */

#include "daemon/launcher/launcher.h"

/* For the socket that listens; the list that an earlier instance left is taken away. -errno: not without
 * memory. Without such lists on the file's file system door_shut() does nothing. */
int door_new(Launcher *l, Door **ret) _must_check_;

/* Takes all entries away. */
Door *door_free(Door *d);

/* until_usec: CLOCK_MONOTONIC, when it opens again. False: this user is not refused by the kernel. */
bool door_shut(Door *d, uint32_t uid, uint64_t until_usec);
