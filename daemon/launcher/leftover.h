#pragma once

/* Children that were killed and may take their time. */

#include "daemon/launcher/launcher.h"

int leftover_open(Launcher *l) _must_check_;
/* Lets go of those that are left: they are reaped by whoever inherits them. */
void leftover_done(Launcher *l);

/* Kills a child that runs with the rights of uid, and reaps it now or later; never waits. Takes the pidfd.
 */
void leftover_kill(Launcher *l, uint32_t uid, int take_pidfd);
/* How many of this user's are not gone yet. */
size_t leftover_count(const Launcher *l, uint32_t uid);
