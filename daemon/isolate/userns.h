#pragma once

/* User namespaces with one id, owned by root, held by descriptor. */

#include <stddef.h>
#include <stdint.h>

#include "proto/base/macro.h"

/* The session's: uid and gid mapped to themselves, nothing else; setgroups denied. */
int userns_new(uint32_t uid, uint32_t gid, int *ret_fd) _must_check_;

/* With further groups, in ascending order, among which gid is none. */
int userns_new_groups(uint32_t uid, uint32_t gid, const uint32_t *groups, size_t n_groups,
                      int *ret_fd) _must_check_;

/* For an idmapped mount: files of root on disk are uid's and gid's inside. */
int userns_new_idmap(uint32_t uid, uint32_t gid, int *ret_fd) _must_check_;
