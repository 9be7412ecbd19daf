#pragma once

/*
 * Names to addresses: the host's table first, then DNS (A and AAAA, once each, no search list).
 * resolver_new() is called before the worker gives up the file system, since c-ares takes its random seed
 * from a file.
 */

#include "daemon/loop/loop.h"
#include "proto/base/macro.h"
#include "proto/idl/privsep.h"

#define RESOLVE_ADDRESSES_MAX 32U

typedef struct Resolver Resolver;
typedef struct Lookup Lookup;

/* Addresses: IPv6 and IPv4 in turn. n 0: the name does not resolve, for the reason that status has. Called
 * once, never from within resolver_lookup(). */
typedef struct LookupResult {
        const PrivAddress *addresses;
        size_t n;
        PrivResolvedStatus status;
        const void *records; /* of a lookup of records, as PrivResolved has them */
        size_t records_size;
} LookupResult;

typedef void (*LookupCallback)(void *userdata, const LookupResult *result);

int resolver_new(Resolver **ret) _must_check_;
Resolver *resolver_free(Resolver *r);
int resolver_start(Resolver *r, Loop *loop) _must_check_;

/* Replaces servers and table; hosts_fd is borrowed. Lookups under way are asked again. After -ENOMEM there
 * may be no servers any more, after any other error the old ones are kept. */
int resolver_configure(Resolver *r, const PrivResolver *servers, int hosts_fd) _must_check_;

/* name is canonical, and copied. */
int resolver_lookup(Resolver *r, const char *name, LookupCallback callback, void *userdata,
                    Lookup **ret) _must_check_;
/* dns_type: PolicyDnsType. The hosts table has nothing to say to it. */
int resolver_lookup_records(Resolver *r, const char *name, uint32_t dns_type, LookupCallback callback,
                            void *userdata, Lookup **ret) _must_check_;
/* Is it known without asking a name server? */
bool resolver_has_name(const Resolver *r, const char *name);
/* The callback will not be called. */
void lookup_cancel(Lookup *l);
