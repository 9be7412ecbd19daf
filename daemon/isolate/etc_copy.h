#pragma once

/* The session's /etc: copies of what developer tools read there and everybody may read, and our own files
 * where the host's would say too much (users, hosts, name service). */

#include "proto/base/macro.h"

/* to_fd: an empty directory. Files of the table that the host lacks are skipped. */
int etc_copy(int to_fd) _must_check_;
