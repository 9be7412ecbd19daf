#include "daemon/egress/authority.h"

#include <errno.h>

#include "daemon/policy/compiled.h"
#include "proto/base/str.h"

#define PORT_DIGITS_MAX 5U

static int parse_port_digits(const char *s, size_t size, uint16_t *ret)
{
        uint32_t port = 0;

        if (size == 0 || size > PORT_DIGITS_MAX)
                return -EINVAL;
        for (size_t i = 0; i < size; i++) {
                if (s[i] < '0' || s[i] > '9')
                        return -EINVAL;
                port = port * 10 + (uint32_t) (s[i] - '0');
        }
        if (port == 0 || port > UINT16_MAX)
                return -EINVAL;
        *ret = (uint16_t) port;
        return 0;
}

/* Brackets hold an IPv6 address and nothing else: no name, no IPv4, no zone. */
static int parse_bracketed(const char *s, size_t size, PrivAddress *ret)
{
        char text[ADDRESS_TEXT_SIZE];
        int r;

        if (size == 0 || size >= sizeof(text) || memchr(s, '\0', size))
                return -EINVAL;
        memcpy(text, s, size);
        text[size] = '\0';
        r = address_parse(text, ret);
        if (r < 0 || ret->family != 6)
                return -EINVAL;
        return 0;
}

static int parse_plain(const char *s, size_t size, Authority *ret)
{
        char text[ADDRESS_TEXT_SIZE];
        int r = policy_host_canonical(s, size, ret->host);

        if (r >= 0)
                return 0;
        ret->host[0] = '\0';
        if (r != -EADDRNOTAVAIL || size >= sizeof(text))
                return -EINVAL;
        memcpy(text, s, size);
        text[size] = '\0';
        r = address_parse(text, &ret->address);
        if (r < 0 || ret->address.family != 4)
                return -EINVAL;
        return 0;
}

int authority_parse(const char *s, size_t size, uint16_t default_port, Authority *ret)
{
        Authority a = { .port = default_port };
        size_t host_size, at;
        int r;

        if (size > 0 && s[0] == '[') {
                const char *end = memchr(s, ']', size);

                if (!end)
                        return -EINVAL;
                at = (size_t) (end - s) + 1;
                r = parse_bracketed(s + 1, at - 2, &a.address);
        } else {
                const char *colon = size > 0 ? memchr(s, ':', size) : NULL;

                host_size = colon ? (size_t) (colon - s) : size;
                at = host_size;
                r = host_size > 0 ? parse_plain(s, host_size, &a) : -EINVAL;
        }
        if (r < 0)
                return -EINVAL;
        if (at < size) {
                if (s[at] != ':')
                        return -EINVAL;
                r = parse_port_digits(s + at + 1, size - at - 1, &a.port);
                if (r < 0)
                        return r;
        }
        if (a.port == 0)
                return -EINVAL;
        *ret = a;
        return 0;
}

int authority_from_host(const char *s, size_t size, uint16_t port, Authority *ret)
{
        Authority a = { .port = port };
        int r = size > 0 && port > 0 ? parse_plain(s, size, &a) : -EINVAL;

        if (r >= 0)
                *ret = a;
        return r;
}

bool authority_equal(const Authority *a, const Authority *b)
{
        if (a->port != b->port || a->address.family != b->address.family)
                return false;
        if (a->address.family != 0)
                return address_equal(&a->address, &b->address);
        return str_equal(a->host, b->host);
}

void authority_format_host(const Authority *a, char text[PRIV_HOST_SIZE])
{
        if (a->address.family != 0)
                address_format(&a->address, text);
        else
                memcpy(text, a->host, sizeof(a->host));
}

void authority_format(const Authority *a, uint16_t default_port, char text[AUTHORITY_TEXT_SIZE])
{
        char host[PRIV_HOST_SIZE];
        bool is_bracketed = a->address.family == 6;
        int r;

        authority_format_host(a, host);
        if (a->port == default_port)
                r = str_printf(text, AUTHORITY_TEXT_SIZE, is_bracketed ? "[%s]" : "%s", host);
        else
                r = str_printf(text, AUTHORITY_TEXT_SIZE, is_bracketed ? "[%s]:%u" : "%s:%u", host, a->port);
        sb_assert(r >= 0);
}
