#pragma once

/* Sessions that try to ping: the kernel refuses and tells (daemon/isolate/pings.h), audit writes it down.
 * The first is a row at once, further ones are counted and a row each second. */

#include "daemon/launcher/session.h"

/* Without anything that tells there is nothing to do. */
int pings_start(Launcher *l) _must_check_;
void pings_stop(Launcher *l);

/* Before its end is told: what it still tried. Nothing of it runs any more. */
void pings_end(Session *s);
