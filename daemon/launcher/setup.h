#pragma once

/* What needs rights that the launcher gives up before it serves, and the giving up. */

#include "daemon/launcher/launcher.h"

/* Opens programs, namespaces and filters; makes directories and the base group. Logs what fails. */
int setup_kernel(const Config *config, Kernel *k) _must_check_;
void kernel_done(Kernel *k);

/* -EPERM with a message that names what is missing. */
int setup_check_capabilities(void) _must_check_;

/* Keeps what a running launcher needs; the bounding set keeps what its children need besides. */
int setup_drop_capabilities(void) _must_check_;

/* What an api worker is told of the kernel and of the daemon's own folders; -ENOSPC for one that is too
 * long. */
int setup_describe(const Launcher *l, PrivApiStart *body) _must_check_;
