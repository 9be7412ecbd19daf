#pragma once

/* The requests of SOCKS 4, 4a and 5 (RFC 1928): parsing only, no sockets. */

#include "daemon/egress/authority.h"

typedef enum SocksCommand {
        SOCKS_CONNECT = 1,
        SOCKS_BIND = 2,
        SOCKS_UDP_ASSOCIATE = 3,
} SocksCommand;

/* What became of a request; socks_put_reply() knows how each version says it. */
typedef enum SocksReply {
        SOCKS_GRANTED = 0,
        SOCKS_FAILED,
        SOCKS_DENIED,
        SOCKS_NETWORK_UNREACHABLE,
        SOCKS_HOST_UNREACHABLE,
        SOCKS_REFUSED,
        SOCKS_TIMED_OUT,
        SOCKS_NO_COMMAND,
        SOCKS_NO_ADDRESS_TYPE,
        _SOCKS_REPLY_MAX,
} SocksReply;

#define SOCKS_REPLY_SIZE 10U

typedef struct SocksRequest {
        uint8_t command;
        Authority authority;
        const char *raw; /* the host as written, or ""; into the data */
        size_t n_raw;
} SocksRequest;

/* The greeting of version 5. > 0: its size; 0: more is needed; -EOPNOTSUPP: it offers no way in without a
 * password. */
int socks_parse_greeting(const char *data, size_t size) _must_check_;

/* > 0: the size of the request; 0: more is needed. Else *ret has what could be understood: -EBADMSG: broken,
 * or its host is none; -EAFNOSUPPORT: an unknown type of address. A command other than SOCKS_CONNECT is no
 * error here. */
int socks_parse_request(const char *data, size_t size, SocksRequest *ret) _must_check_;

/* The answer in the words of version 4 or 5; returns its size. */
size_t socks_put_reply(uint8_t version, SocksReply reply, char to[SOCKS_REPLY_SIZE]);
