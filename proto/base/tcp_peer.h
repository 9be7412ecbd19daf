#pragma once

/* Who made a TCP connection that comes from this machine: the kernel knows, but says it only by
 * sock_diag(7). */

#include <stdint.h>

#include "proto/base/macro.h"

/* For tcp_peer_uid(); of the network namespace that the caller is in. The caller owns *ret_fd. */
int tcp_peer_open(int *ret_fd) _must_check_;

/* The uid of the process that connected to us over fd, an accepted socket; diag_fd is borrowed. Never waits.
 * -ENOENT: nobody on this machine holds the other end (any more); else the kernel cannot say: -EOPNOTSUPP …
 */
int tcp_peer_uid(int diag_fd, int fd, uint32_t *ret_uid) _must_check_;
