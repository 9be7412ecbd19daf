#pragma once

/*
 * Addresses that stand for names: a session's programs get them from DNS in place of real ones, and what
 * they connect to leads back to the name. The n-th name has the n-th address of either pool; no address ever
 * stands for a second name. The table is memory that the launcher keeps for the session, so that a worker's
 * successor goes on with it.
 *
 * There is one writer. What an earlier worker left is checked as it is read: where it is broken, it ends.
 */

#include <stdbool.h>
#include <stdint.h>

#include "proto/base/macro.h"
#include "proto/idl/privsep.h"

typedef struct Names Names;

/* Takes the descriptor of the table (PRIV_NAMES_BYTES), also on error. -EPERM: its size may change under us.
 */
int names_open(int take_fd, const PrivPool *pool, Names **ret) _must_check_;
Names *names_close(Names *n);
DEFINE_CLEANUP(Names *, names_close)

/* The number of a canonical name, which is new or has one already. -ENOSPC: there are no more. */
int names_add(Names *n, const char *name, uint32_t *ret_number) _must_check_;
/* family: 4 or 6. */
PrivAddress names_address(const Names *n, uint32_t number, uint32_t family);
/* Is it one that stands for names, or would? */
bool names_hold(const Names *n, const PrivAddress *a);
/* NULL: it stands for none. The name lives as long as the table. */
const char *names_find(const Names *n, const PrivAddress *a);
