#pragma once

/*
 * A compiled policy: one immutable block without pointers, shared as a sealed memfd by audit (which decides)
 * and the dialer (which decides again). It is written by api, whose word the readers do not take:
 * policy_block_open() checks every offset once; afterwards matching neither allocates nor fails.
 *
 * A block holds one or more rule sets; the verdict is the minimum over them (deny < ask < allow). Set 0 is
 * the union of profile, system layer, user layer, flags and grants; further ones are the project layer and
 * the ceiling.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/base/hash.h"
#include "proto/base/macro.h"
#include "proto/idl/privsep.h"

#define POLICY_BLOCK_MAX (64U * 1024U * 1024U)

typedef struct PolicyBlock PolicyBlock; /* the mapped bytes, checked */

/* Maps and checks a sealed memfd (borrowed). -EPERM: not sealed; -EBADMSG: not a sound block. */
int policy_block_open(int fd, const PolicyBlock **ret) _must_check_;
const PolicyBlock *policy_block_close(const PolicyBlock *b);
DEFINE_CLEANUP(const PolicyBlock *, policy_block_close)

/* The blocks that a process has open: a memfd that several sessions come with is mapped and checked once. */
typedef struct PolicyShelf {
        Map shares;
} PolicyShelf;

typedef struct PolicyShare PolicyShare; /* one session's hold on a block */

/* As policy_block_open(). The shelf outlives what is on it. */
int policy_shelf_open(PolicyShelf *shelf, int fd, PolicyShare **ret) _must_check_;
PolicyShare *policy_share_close(PolicyShare *s);
DEFINE_CLEANUP(PolicyShare *, policy_share_close)
const PolicyBlock *policy_share_block(const PolicyShare *s);
/* Somebody has computed that the digest is that of the text: once is enough for all that share it. */
bool policy_share_is_text_proven(const PolicyShare *s);
void policy_share_prove_text(PolicyShare *s);

/* SHA-256 over the canonical text of the effective policy, and that text (JSON, NUL-terminated, for the
 * audit). */
const uint8_t *policy_block_digest(const PolicyBlock *b);
const char *policy_block_text(const PolicyBlock *b);
const char *policy_block_name(const PolicyBlock *b);
uint64_t policy_block_generation(const PolicyBlock *b);

/* The name by which sessions reach the loopback of the machine that they run on: by a rule that has exactly
 * this name, and needs no cidr then. It is never asked for outside. */
#define POLICY_HOST_MACHINE "host.sandbox.internal"

typedef struct PolicyRequest {
        const char *host; /* canonical (policy_host_canonical()), or "" where address is the destination */
        PrivAddress address; /* literal destination; family 0 where host is */
        uint32_t port;
        Protocol protocol;  /* PROTOCOL_ANY for CONNECT before its first byte */
        uint64_t now_usec;  /* real time, for rules that expire; 0: none expires */
        const char *method; /* of an HTTP request; NULL: not known */
        const char *path;   /* as it was written, n_path bytes; NULL: not known */
        size_t n_path;
} PolicyRequest;

/* Which rule decided. Strings live in the block; "" where there is none. */
typedef struct PolicyMatch {
        Verdict verdict;
        DecisionReason reason; /* REASON_RULE, REASON_DEFAULT, REASON_ADDRESS (literal in a guarded range) or
                                * REASON_PATH (a rule for paths might allow it, but its path is not clear) */
        const char *layer;     /* builtin, profile, user, flags … */
        const char *rule;      /* its id */
        const char *rule_text; /* its JSON, as it stands in the effective policy */
        const char *rule_reason;
        uint32_t dns_types; /* of policy_match_name(): PolicyDnsType, what may be asked beside addresses */
} PolicyMatch;

/* The decision about a request, before anything was resolved. Rules with host and cidr count by their host
 * here. A literal address matches cidr rules only, and one in a guarded range (policy_address_class()) only
 * a rule whose cidr lies inside that range (a metadata address: only a rule for that very address).
 *
 * Rules with methods or paths are about HTTP requests. Where a request's are not known, one that allows
 * counts for the destination (what is asked there is decided when it is known), and one that denies does
 * not; a tunnel whose bytes are not looked at is none that such a rule allows, and one that such a rule
 * denies. A path that is not clear is one that no rule allows and every rule denies. */
void policy_match_request(const PolicyBlock *b, const PolicyRequest *q, PolicyMatch *ret);

/* Programs are told the real addresses of allowed names. */
bool policy_block_is_dns_real(const PolicyBlock *b);

/* What holds for a request that is allowed: of all rules that allow it the narrowest. */
#define POLICY_COUNTS_MAX 8U

typedef struct PolicyCount {
        uint64_t key; /* of the rule, the same in every generation that has it unchanged */
        uint32_t max;
        const char *layer;
        const char *rule;
        const char *text;
} PolicyCount;

typedef struct PolicyTerms {
        uint64_t max_upload_bytes; /* 0: no limit, as below */
        uint64_t max_download_bytes;
        uint64_t idle_usec;
        uint64_t expires_usec; /* from then on it is not allowed any more */
        bool needs_sni;        /* of PROTOCOL_TLS: the hello must name the host */
        bool has_methods;      /* a rule for this destination looks at methods */
        bool has_paths;
        bool is_uncounted; /* more rules limit connections than there is room for: none may be made */
        size_t n_counts;
        PolicyCount counts[POLICY_COUNTS_MAX];
} PolicyTerms;

/* False: no rule of the block has any, and TLS must name its host. */
bool policy_block_has_terms(const PolicyBlock *b);

/* For a request that policy_match_request() allows: narrows *terms (zeros at first) to what the rules that
 * allow it say. */
void policy_match_terms(const PolicyBlock *b, const PolicyRequest *q, PolicyTerms *terms);

/* What DNS may be asked about a name beside its addresses, where a rule for its host says so. */
enum PolicyDnsType {
        POLICY_DNS_TXT = 1 << 0,
        POLICY_DNS_SRV = 1 << 1,
        POLICY_DNS_MX = 1 << 2,
        POLICY_DNS_CAA = 1 << 3,
        POLICY_DNS_ALL = (1 << 4) - 1,
};

/* "TXT" and so on; 0: none of them. */
uint32_t policy_dns_type_from_string(const char *s);
/* The name of the i-th, from 0; NULL: there is none. */
const char *policy_dns_type_name(size_t i);

/* The decision about a name alone, for DNS: the best that a connection to it may get, whatever its port and
 * protocol. *ret_request: the one that gets it; its host is borrowed. Names with very many different ports
 * in their rules may be judged worse than that, never better. */
void policy_match_name(const PolicyBlock *b, const char *host, uint64_t now_usec, PolicyMatch *ret,
                       PolicyRequest *ret_request);

/* How many bytes at the begin of a name whoever asks could choose freely: 0 where a rule names it, or the
 * defaults let everything through anyway; else what stands before the longest wildcard's own name. */
size_t policy_name_chosen(const PolicyBlock *b, const char *host);

/* The dialer's judgement of one address that the request's host resolved to: false where a deny rule covers
 * it, or it is guarded and no matching allow rule's cidr lies inside the range, or the rule that allowed the
 * host names a cidr that does not hold it. is_local: one of this machine's own addresses (guarded as well).
 */
bool policy_match_address(const PolicyBlock *b, const PolicyRequest *q, const PrivAddress *address,
                          bool is_local);

/* Is there a rule for this very name that says where it may lead? Then nobody else may resolve it. */
bool policy_match_pins(const PolicyBlock *b, const PolicyRequest *q);

/* ---- addresses ---- */

typedef enum AddressClass {
        ADDRESS_GLOBAL = 0,
        ADDRESS_GUARDED, /* private, loopback, link-local, multicast, documentation …: table in address.c */
        ADDRESS_METADATA, /* cloud metadata services: opened by a rule for that address alone */
} AddressClass;

/* Forms of IPv4 inside IPv6 (mapped, compatible, 6to4, Teredo, NAT64, ISATAP) are unwrapped: the stricter
 * class of the two counts. */
AddressClass address_class(const PrivAddress *a);

/* IPv4-mapped IPv6 to IPv4; others unchanged. */
PrivAddress address_unmap(const PrivAddress *a);

/* Strict: four decimal numbers without leading zeros, or RFC 4291 text (no zone, no brackets). -EINVAL else.
 */
int address_parse(const char *s, PrivAddress *ret) _must_check_;

#define ADDRESS_TEXT_SIZE 46U
void address_format(const PrivAddress *a, char text[ADDRESS_TEXT_SIZE]);
bool address_equal(const PrivAddress *a, const PrivAddress *b);
bool address_in_prefix(const PrivAddress *a, const PrivAddress *network, uint32_t prefix_length);
/* 127.0.0.0/8 and ::1. */
bool address_is_loopback(const PrivAddress *a);

/* ---- names ---- */

/* Canonical form of a host name as a client wrote it: lower case, no trailing dot, LDH and '_' labels of 1
 * to 63 bytes, at most 253 in all. -EINVAL for all else; -EADDRNOTAVAIL when it is an address in strict form
 * (parse it with address_parse(), brackets already removed); -EBADMSG when it ends in a number and is none
 * (127.1, 0x7f.1, 2130706433): those are refused, whatever a libc would make of them. */
int policy_host_canonical(const char *s, size_t size, char ret[PRIV_HOST_SIZE]) _must_check_;

/* ---- paths ---- */

/* How a path that rules judge is written on: letters, digits and -._~ without escapes. What follows a '?',
 * and a path that is not clear, stays as it is. ret has size bytes at least; returns how many were written.
 */
size_t policy_path_rewrite(const char *s, size_t size, char *ret);
