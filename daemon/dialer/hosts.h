#pragma once

/* The host's table of names: lines "ADDRESS NAME" in a sealed memfd, names canonical. */

#include <stddef.h>

#include "proto/base/macro.h"
#include "proto/idl/privsep.h"

#define HOSTS_ENTRY_ADDRESSES_MAX 8U

typedef struct HostsTable HostsTable;

typedef struct HostsEntry {
        char name[PRIV_HOST_SIZE];
        size_t n;
        PrivAddress addresses[HOSTS_ENTRY_ADDRESSES_MAX];
} HostsEntry;

/* fd is borrowed. -EPERM: not sealed. Lines that are none are skipped. */
int hosts_table_load(int fd, HostsTable **ret) _must_check_;
HostsTable *hosts_table_free(HostsTable *t);
/* NULL: no such name, or no table. */
const HostsEntry *hosts_table_find(const HostsTable *t, const char *name);
