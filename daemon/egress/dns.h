#pragma once

/*
 * DNS inside the session, for whatever server address a program asks. Each question goes to audit, like any
 * other request; what policy denies does not exist. What it allows the dialer looks up, and if it exists, it
 * gets a synthetic address (names.h): what a program connects to is decided and resolved anew, by name.
 *
 * Askers: who waits for an answer, on a datagram socket or a stream. Lookup: one name under decision or
 * being looked up, with all who ask for it meanwhile.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "daemon/egress/dns_message.h"
#include "daemon/egress/egress.h"

#define DNS_LOOKUPS_MAX   256U
#define DNS_UNDECIDED_MAX 32U /* of them; audit has room for these beside EGRESS_UNDECIDED_MAX */
#define DNS_ASKERS_MAX    1024U
#define DNS_DATAGRAMS_MAX 2U
#define DNS_STREAMS_MAX   32U

typedef struct DnsStream DnsStream;

/* The way back to who asked. */
typedef struct DnsPath {
        DnsStream *stream; /* NULL: datagrams */
        int fd;            /* borrowed; of datagrams */
        struct sockaddr_storage peer;
        socklen_t peer_size;
        PrivAddress asked; /* the server address that was asked; family 0: not known */
} DnsPath;

typedef struct DnsAsker {
        ListLink link; /* of DnsLookup.askers */
        struct DnsLookup *lookup;
        DnsPath path;
        DnsQuestion question;
} DnsAsker;

typedef struct DnsLookup {
        ListLink link; /* of Dns.waiting or .running */
        struct Dns *dns;
        uint64_t request; /* 0: waits for its turn */
        LoopTimer *timer;
        PrivDecide decide;
        size_t n_raw;
        uint8_t raw[DNS_WIRE_MAX];
        char key[PRIV_HOST_SIZE + 8U];
        bool is_undecided;
        bool is_allowed;
        bool is_askable;   /* allowed, in so far as a connection to it is asked about */
        bool is_looked_up; /* the dialer answers */
        bool has_result;   /* the dialer's answer came before the verdict */
        PrivResolved result;
        Buf records; /* behind the result */
        ListLink askers;
} DnsLookup;

typedef struct DnsDoor {
        struct Dns *dns;
        int fd;
        LoopIo *io;
} DnsDoor;

typedef struct Dns {
        Egress *egress;
        DnsDoor datagrams[DNS_DATAGRAMS_MAX];
        size_t n_datagrams;
        ListLink streams;
        size_t n_streams;
        ListLink waiting;
        ListLink running;
        Map requests; /* number -> DnsLookup */
        Map lookups;  /* key -> DnsLookup, while more may join */
        size_t n_lookups;
        size_t n_askers;
        size_t n_undecided;
} Dns;

/* dns.c */
int dns_new(Egress *e, Dns **ret) _must_check_;
Dns *dns_free(Dns *d);
/* A message from inside. -EBADMSG: it is none that gets an answer, ever; -ENOBUFS: too many wait. */
int dns_ask(Dns *d, const DnsPath *path, const void *data, size_t size) _must_check_;
/* False: the number is none of ours. */
bool dns_on_verdict(Dns *d, const PrivVerdict *v);
/* records: what PrivResolved says is behind it. */
void dns_on_resolved(Dns *d, const PrivResolved *m, const void *records, size_t size);
/* Whoever waits on this stream waits no more. */
void dns_forget(Dns *d, const DnsStream *stream);

/* dns_socket.c. They take the descriptor, also on error. */
int dns_take_datagrams(Dns *d, int take_fd) _must_check_;
/* A connection to port 53 of any address. */
int dns_accept(Dns *d, int take_fd) _must_check_;
void dns_sockets_close(Dns *d);
/* How large an answer may be on this path. */
size_t dns_path_limit(const DnsPath *path, const DnsQuestion *q);
void dns_send(const DnsPath *path, const DnsAnswer *a);
