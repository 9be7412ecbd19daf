#pragma once

/*
 * The template mount namespace: made once by a child of the launcher, held by descriptor, copied by each
 * session's init. It shows /usr (and /opt, /etc in parts, see template.c) read-only, nosuid, nodev; private
 * device nodes; empty directories to mount on; nothing else of the host.
 */

#include "proto/base/macro.h"

/* *ret_fd: the mount namespace (nsfs). */
int template_new(int *ret_fd) _must_check_;
