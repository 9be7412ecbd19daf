#pragma once

/* What needs rights that the launcher gives up before it serves, and the giving up. */

#include "daemon/launcher/launcher.h"

/* Opens programs, namespaces and filters; makes directories and the base group. Logs what fails. */
int setup_kernel(const Config *config, Kernel *k) _must_check_;
void kernel_done(Kernel *k);

/* Why no session may start while an administrator's layer that this version does not enforce lies in the
 * configuration folder; NULL: none does. The files may come and go while the daemon runs. */
const char *setup_unenforced_layer(const Config *config);

/* -EPERM with a message that names what is missing. */
int setup_check_capabilities(void) _must_check_;

/* Keeps what a running launcher needs; the bounding set keeps what its children need besides. */
int setup_drop_capabilities(void) _must_check_;
