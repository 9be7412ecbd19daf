#pragma once

/* The public socket RUNTIME/io.sandboxd, and the accept loop. */

#include "daemon/launcher/launcher.h"

/* Makes the socket (or takes systemd's, named "varlink") but accepts nothing yet. -EADDRINUSE: another
 * instance serves this directory. */
int listen_open(Launcher *l) _must_check_;
int listen_start(Launcher *l) _must_check_;
void listen_close(Launcher *l);

/* Between the steps of what takes long for one user: takes a few of the connections that wait. */
void listen_glance(Launcher *l);
