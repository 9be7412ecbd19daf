#pragma once

/* Where control groups are: /proc/PID/cgroup, the v2 mount, block devices. Used by cgroup.c alone. */

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "proto/base/macro.h"

/* The v2 group of a process as /proc/PID/cgroup shows it. -ENOENT: none. -ESRCH: no such process. */
int cgroup_find_of_process(pid_t pid, char *path, size_t size) _must_check_;

/* Our own group: its path as above, and its directory. -ENOENT: no v2 tree is mounted that shows it. */
int cgroup_find_own(char *path, size_t size, int *ret_fd) _must_check_;

/* io.max of each disk. */
int cgroup_limit_devices(int cgroup_fd, uint64_t bytes_per_sec) _must_check_;
