#pragma once

/*
 * DNS messages (RFC 1035, 6891, 8914) as a program inside sends them and as we answer: one question, at most
 * an OPT record, nothing compressed. What is not exactly that is no question.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/base/macro.h"
#include "proto/idl/privsep.h"

#define DNS_HEADER_SIZE  12U
#define DNS_WIRE_MAX     255U /* a name with its lengths and the root */
#define DNS_UDP_MIN      512U
#define DNS_UDP_MAX      1232U /* the largest datagram that we send, and say that we take */
#define DNS_QUESTION_MAX 1024U /* the largest question that we read */
#define DNS_ANSWER_MAX   4096U

enum DnsType {
        DNS_A = 1,
        DNS_NS = 2,
        DNS_CNAME = 5,
        DNS_SOA = 6,
        DNS_NULL = 10,
        DNS_PTR = 12,
        DNS_MX = 15,
        DNS_TXT = 16,
        DNS_AAAA = 28,
        DNS_SRV = 33,
        DNS_NAPTR = 35,
        DNS_OPT = 41,
        DNS_SSHFP = 44,
        DNS_TLSA = 52,
        DNS_SVCB = 64,
        DNS_HTTPS = 65,
        DNS_META = 128, /* up to 255: about the server, or zones */
        DNS_ANY = 255,
        DNS_CAA = 257,
};

typedef enum DnsCode {
        DNS_NO_ERROR = 0,
        DNS_FORMAT_ERROR = 1,
        DNS_SERVER_FAILURE = 2,
        DNS_NO_NAME = 3,
        DNS_NOT_IMPLEMENTED = 4,
        DNS_BAD_VERSION = 16,
} DnsCode;

/* Extended errors, for those who understand EDNS. */
enum DnsDetail {
        DNS_DETAIL_NONE = 0,
        DNS_DETAIL_BLOCKED = 15,
        DNS_DETAIL_NETWORK = 23,
};

typedef struct DnsQuestion {
        uint16_t id;
        uint16_t flags;
        uint16_t type;
        uint16_t class;
        bool has_edns;
        uint16_t udp_size;          /* what the asker takes in one datagram */
        char name[PRIV_HOST_SIZE];  /* in lower case, no final dot; "": the root, or has_odd_bytes */
        bool has_odd_bytes;         /* what no host name has: no policy names it */
        uint8_t wire[DNS_WIRE_MAX]; /* as asked: the answer repeats its letters' case */
        size_t n_wire;
} DnsQuestion;

typedef struct DnsAnswer {
        uint8_t data[DNS_ANSWER_MAX];
        size_t size;
        size_t limit; /* what is beyond it sets TC instead */
        uint16_t n_answers;
        bool is_truncated;
} DnsAnswer;

/* 0: a question; > 0: none, to be answered with this DnsCode (id and flags are set, n_wire is 0); -EBADMSG:
 * nothing that anybody should answer. */
int dns_parse(const uint8_t *data, size_t size, DnsQuestion *ret) _must_check_;

/* limit: the size that the way back allows; the asker's own limit counts for datagrams only. */
void dns_answer_begin(DnsAnswer *a, const DnsQuestion *q, size_t limit);
/* A record of the question's name. */
void dns_answer_put(DnsAnswer *a, const DnsQuestion *q, const void *data, size_t size);
void dns_answer_put_address(DnsAnswer *a, const DnsQuestion *q, const PrivAddress *address);
/* name: canonical, as PTR has it. */
void dns_answer_put_name(DnsAnswer *a, const DnsQuestion *q, const char *name);
void dns_answer_end(DnsAnswer *a, const DnsQuestion *q, DnsCode code, unsigned detail);

/* "A", "HTTPS", else "TYPE12345". */
#define DNS_TYPE_TEXT_SIZE 16U
void dns_type_format(uint16_t type, char text[DNS_TYPE_TEXT_SIZE]);

/* The address whose PTR name this is (in-addr.arpa, ip6.arpa, complete). -EINVAL: none. */
int dns_reverse_parse(const char *name, PrivAddress *ret) _must_check_;
