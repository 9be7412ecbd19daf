#pragma once

/* The maps of prevent.h, by descriptor. Whoever has one may change it: the kernel asks for no right besides.
 */

#include <stdint.h>

#include "daemon/isolate/prevent.h"
#include "proto/base/macro.h"

/* What lies at a path below /sys/fs/bpf; the caller owns *ret_fd. */
int rulemap_open(const char *path, int *ret_fd) _must_check_;

/* A session's map, empty, for so many nodes and marks. Needs CAP_BPF or CAP_SYS_ADMIN. */
int rulemap_new(uint32_t entries_max, int *ret_fd) _must_check_;
/* -E2BIG: it is full. */
int rulemap_put(int rules_fd, const PreventKey *key, const PreventNode *node) _must_check_;

/* What inode_fd (O_PATH will do) is in this map: its token, a new one if it has none, leads to the node. */
int rulemap_mark(int rules_fd, int marks_fd, int inode_fd, const PreventNode *node) _must_check_;

/* From now on the rules hold for all in the group of that number; and no more. */
int rulemap_enter(int sessions_fd, uint64_t session, int rules_fd) _must_check_;
int rulemap_leave(int sessions_fd, uint64_t session) _must_check_;
/* 1: nobody is entered. */
int rulemap_is_empty(int sessions_fd) _must_check_;
