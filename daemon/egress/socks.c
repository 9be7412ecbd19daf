#include "daemon/egress/socks.h"

#include <errno.h>
#include <string.h>

#define GREETING_SIZE   2U
#define METHOD_NONE     0
#define HEAD4_SIZE      8U
#define HEAD5_SIZE      4U
#define USER_MAX        255U
#define TYPE_IPV4       1
#define TYPE_NAME       3
#define TYPE_IPV6       4
#define REPLY4_GRANTED  90
#define REPLY4_REJECTED 91
#define REPLY4_SIZE     8U

static uint8_t byte(const char *data, size_t at)
{
        return (uint8_t) data[at];
}

static uint16_t port_at(const char *data, size_t at)
{
        return (uint16_t) (byte(data, at) << 8 | byte(data, at + 1));
}

int socks_parse_greeting(const char *data, size_t size)
{
        size_t n;

        if (size < GREETING_SIZE)
                return 0;
        n = byte(data, 1);
        if (size < GREETING_SIZE + n)
                return 0;
        if (!memchr(data + GREETING_SIZE, METHOD_NONE, n))
                return -EOPNOTSUPP;
        return (int) (GREETING_SIZE + n);
}

static void set_address(SocksRequest *q, uint32_t family, const char *bytes, size_t n)
{
        q->authority.address.family = family;
        memcpy(q->authority.address.bytes, bytes, n);
}

/* A name as a string of bytes: what a parser might cut at a NUL, or read as host and port, is no host. */
static int set_name(SocksRequest *q, const char *name, size_t n)
{
        uint16_t port = q->authority.port;
        int r;

        q->raw = name;
        q->n_raw = n;
        r = authority_from_host(name, n, port, &q->authority);
        if (r < 0)
                q->authority = (Authority){ .port = port };
        return r < 0 ? -EBADMSG : 0;
}

/* 0.0.0.x, x not 0, says that a name follows (4a). */
static bool is_4a(const char *data)
{
        return byte(data, 4) == 0 && byte(data, 5) == 0 && byte(data, 6) == 0 && byte(data, 7) != 0;
}

/* The string with its NUL: > 0: its size; 0: more is needed. */
static int find_string(const char *data, size_t size, size_t at, size_t max)
{
        const char *end = memchr(data + at, '\0', size - at);
        size_t n = end ? (size_t) (end - data) - at + 1 : size - at + 1;

        if (n > max + 1)
                return -EBADMSG;
        return end ? (int) n : 0;
}

static int parse4(const char *data, size_t size, SocksRequest *q)
{
        size_t at = HEAD4_SIZE;
        int n, r;

        if (size < HEAD4_SIZE)
                return 0;
        q->command = byte(data, 1);
        q->authority.port = port_at(data, 2);
        n = find_string(data, size, at, USER_MAX);
        if (n <= 0)
                return n;
        at += (size_t) n;
        if (!is_4a(data)) {
                set_address(q, 4, data + 4, 4);
                return q->authority.port == 0 ? -EBADMSG : (int) at;
        }
        n = find_string(data, size, at, PRIV_HOST_SIZE - 1);
        if (n <= 0)
                return n;
        r = set_name(q, data + at, (size_t) n - 1);
        return r < 0 ? r : (int) at + n;
}

static size_t size_of_address5(const char *data, size_t size)
{
        switch (byte(data, 3)) {
        case TYPE_IPV4:
                return 4;
        case TYPE_IPV6:
                return 16;
        case TYPE_NAME:
                return size > HEAD5_SIZE ? 1U + byte(data, HEAD5_SIZE) : 1U;
        default:
                return 0;
        }
}

static int parse5(const char *data, size_t size, SocksRequest *q)
{
        size_t n, whole;
        int r = 0;

        if (size < HEAD5_SIZE)
                return 0;
        q->command = byte(data, 1);
        n = size_of_address5(data, size);
        if (n == 0)
                return -EAFNOSUPPORT;
        whole = HEAD5_SIZE + n + 2;
        if (size < whole)
                return 0;
        q->authority.port = port_at(data, HEAD5_SIZE + n);
        if (byte(data, 3) == TYPE_NAME)
                r = set_name(q, data + HEAD5_SIZE + 1, n - 1);
        else
                set_address(q, byte(data, 3) == TYPE_IPV4 ? 4 : 6, data + HEAD5_SIZE, n);
        if (r < 0)
                return r;
        return q->authority.port == 0 || byte(data, 2) != 0 ? -EBADMSG : (int) whole;
}

int socks_parse_request(const char *data, size_t size, SocksRequest *ret)
{
        int r;

        *ret = (SocksRequest){ .raw = "" };
        if (size == 0)
                return 0;
        r = byte(data, 0) == 4   ? parse4(data, size, ret)
            : byte(data, 0) == 5 ? parse5(data, size, ret)
                                 : -EBADMSG;
        return r;
}

size_t socks_put_reply(uint8_t version, SocksReply reply, char to[SOCKS_REPLY_SIZE])
{
        memset(to, 0, SOCKS_REPLY_SIZE);
        if (version == 4) {
                to[1] = reply == SOCKS_GRANTED ? REPLY4_GRANTED : REPLY4_REJECTED;
                return REPLY4_SIZE;
        }
        to[0] = 5;
        to[1] = (char) reply;
        to[3] = TYPE_IPV4;
        return SOCKS_REPLY_SIZE;
}
