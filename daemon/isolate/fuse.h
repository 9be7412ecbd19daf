#pragma once

/* A FUSE file system that is attached nowhere: denied paths of a session are masked with its nodes. */

#include "proto/base/macro.h"

/* Needs CAP_SYS_ADMIN. *ret_device_fd: non-blocking, whoever has it answers; while nobody does, whoever
 * touches a node waits, and once it is closed gets ENOTCONN. *ret_mount_fd: the root; its clones are mounts
 * of the nodes. Process ids in requests are those of the caller's namespace. */
int fuse_mount_new(int *ret_device_fd, int *ret_mount_fd) _must_check_;

/* The processes of our pid namespace, and nothing else of /proc, attached nowhere. */
int proc_mount_new(int *ret_fd) _must_check_;
