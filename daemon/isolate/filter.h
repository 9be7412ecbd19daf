#pragma once

/* The seccomp programs of a session as ready bytes (struct sock_filter[]) in sealed memfds: built once by
 * the launcher with libseccomp, loaded by init. */

#include <stdbool.h>

#include "proto/base/macro.h"

/* The session's filter, but clone3 allowed: init needs it. lets_pings: others refuse sockets for pings. */
int filter_session_new(bool lets_pings, int *ret_fd) _must_check_;

/* On top of it for each command: clone3 answers ENOSYS. */
int filter_command_new(int *ret_fd) _must_check_;
