#pragma once

/* Callers inside a session: whoever they are, they get no worker to talk to, only a no. */

#include "daemon/launcher/launcher.h"

/* Takes the connection; every call on it is answered with PermissionDenied. */
void inside_refuse(Launcher *l, uint32_t uid, int take_fd);
void inside_free_all(Launcher *l);
