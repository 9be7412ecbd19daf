/*
 * Addresses: strict text, prefixes, and which ones a name may not lead to. An IPv6 address that carries an
 * IPv4 one (NAT64, 6to4, Teredo, ISATAP …) is judged as both; the stricter judgement counts.
 */

#include "daemon/policy/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

typedef struct Range {
        PrivAddress network;
        uint32_t prefix_length;
        AddressClass class;
} Range;

#define V4(a, b, c, d)                                      \
        {                                                   \
                .family = 4, .bytes = {(a), (b), (c), (d) } \
        }
#define V6(...)                                       \
        {                                             \
                .family = 6, .bytes = { __VA_ARGS__ } \
        }

static const Range ranges[] = {
        { V4(0, 0, 0, 0), 8, ADDRESS_GUARDED },
        { V4(10, 0, 0, 0), 8, ADDRESS_GUARDED },
        { V4(100, 64, 0, 0), 10, ADDRESS_GUARDED },
        { V4(127, 0, 0, 0), 8, ADDRESS_GUARDED },
        { V4(169, 254, 0, 0), 16, ADDRESS_GUARDED },
        { V4(172, 16, 0, 0), 12, ADDRESS_GUARDED },
        { V4(192, 0, 0, 0), 24, ADDRESS_GUARDED },
        { V4(192, 0, 2, 0), 24, ADDRESS_GUARDED },
        { V4(192, 88, 99, 0), 24, ADDRESS_GUARDED },
        { V4(192, 168, 0, 0), 16, ADDRESS_GUARDED },
        { V4(198, 18, 0, 0), 15, ADDRESS_GUARDED },
        { V4(198, 51, 100, 0), 24, ADDRESS_GUARDED },
        { V4(203, 0, 113, 0), 24, ADDRESS_GUARDED },
        { V4(224, 0, 0, 0), 4, ADDRESS_GUARDED },
        { V4(240, 0, 0, 0), 4, ADDRESS_GUARDED },
        { V4(255, 255, 255, 255), 32, ADDRESS_GUARDED },
        { V4(169, 254, 169, 254), 32, ADDRESS_METADATA },
        { V4(169, 254, 170, 2), 32, ADDRESS_METADATA },
        { V4(169, 254, 170, 23), 32, ADDRESS_METADATA },
        { V4(100, 100, 100, 200), 32, ADDRESS_METADATA },
        { V4(168, 63, 129, 16), 32, ADDRESS_METADATA },
        { V4(192, 0, 0, 192), 32, ADDRESS_METADATA },
        /* Nothing beyond 2000::/3 is the internet's. */
        { V6(0), 3, ADDRESS_GUARDED },
        { V6(0x40), 2, ADDRESS_GUARDED },
        { V6(0x80), 1, ADDRESS_GUARDED },
        { V6(0), 96, ADDRESS_GUARDED },  /* ::/96: unspecified, compatible */
        { V6(0), 128, ADDRESS_GUARDED }, /* :: */
        { V6(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1), 128, ADDRESS_GUARDED },
        { V6(0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff), 96, ADDRESS_GUARDED }, /* ::ffff:0:0:0/96: SIIT */
        { V6(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff), 96, ADDRESS_GUARDED },
        { V6(0, 0x64, 0xff, 0x9b), 96, ADDRESS_GUARDED },
        { V6(0, 0x64, 0xff, 0x9b, 0, 1), 48, ADDRESS_GUARDED },
        { V6(1), 64, ADDRESS_GUARDED },                /* 100::/64: discard */
        { V6(0x20, 0x01, 0, 0), 32, ADDRESS_GUARDED }, /* Teredo */
        { V6(0x20, 0x01, 0x0d, 0xb8), 32, ADDRESS_GUARDED },
        { V6(0x20, 0x02), 16, ADDRESS_GUARDED }, /* 6to4 */
        { V6(0x3f, 0xff), 20, ADDRESS_GUARDED },
        { V6(0x5f, 0x00), 16, ADDRESS_GUARDED },
        { V6(0xfc), 7, ADDRESS_GUARDED },
        { V6(0xfe, 0x80), 10, ADDRESS_GUARDED },
        { V6(0xfe, 0xc0), 10, ADDRESS_GUARDED },
        { V6(0xff), 8, ADDRESS_GUARDED },
        { V6(0xfd, 0, 0x0e, 0xc2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x02, 0x54), 128, ADDRESS_METADATA },
        { V6(0xfd, 0, 0x0e, 0xc2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x23), 128, ADDRESS_METADATA },
        { V6(0xfd, 0x20, 0, 0xce, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x02, 0x54), 128, ADDRESS_METADATA },
        { V6(0xfd, 0, 0, 0xc1, 0, 0, 0, 0, 0, 0, 0, 0, 0xa9, 0xfe, 0xa9, 0xfe), 128, ADDRESS_METADATA },
};

/* An IPv4 address inside an IPv6 one, and the bit at which it stands. */
typedef struct Embedded {
        PrivAddress address;
        uint32_t offset_bits;
} Embedded;

#define EMBEDDED_MAX 4U

static const Range v4_mapped = { V6(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff), 96, ADDRESS_GUARDED };
static const Range v4_compatible = { V6(0), 96, ADDRESS_GUARDED };
static const Range v4_siit = { V6(0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff), 96, ADDRESS_GUARDED };
static const Range nat64 = { V6(0, 0x64, 0xff, 0x9b), 96, ADDRESS_GUARDED };
static const Range nat64_local = { V6(0, 0x64, 0xff, 0x9b, 0, 1), 48, ADDRESS_GUARDED };
static const Range teredo = { V6(0x20, 0x01, 0, 0), 32, ADDRESS_GUARDED };
static const Range six_to_four = { V6(0x20, 0x02), 16, ADDRESS_GUARDED };

bool address_equal(const PrivAddress *a, const PrivAddress *b)
{
        if (a->family != b->family)
                return false;
        return memcmp(a->bytes, b->bytes, a->family == 4 ? 4 : 16) == 0;
}

bool address_in_prefix(const PrivAddress *a, const PrivAddress *network, uint32_t prefix_length)
{
        uint32_t whole = prefix_length / 8, rest = prefix_length % 8;

        if (a->family != network->family || (a->family != 4 && a->family != 6))
                return false;
        if (prefix_length > (a->family == 4 ? 32U : 128U))
                return false;
        if (memcmp(a->bytes, network->bytes, whole) != 0)
                return false;
        return rest == 0 || ((a->bytes[whole] ^ network->bytes[whole]) >> (8 - rest)) == 0;
}

static bool in_range(const PrivAddress *a, const Range *r)
{
        return address_in_prefix(a, &r->network, r->prefix_length);
}

PrivAddress address_unmap(const PrivAddress *a)
{
        PrivAddress v4 = { .family = 4 };

        if (!in_range(a, &v4_mapped))
                return *a;
        memcpy(v4.bytes, a->bytes + 12, 4);
        return v4;
}

static void embed(Embedded list[EMBEDDED_MAX], size_t *n, const PrivAddress *a, uint32_t offset_bits)
{
        Embedded *e = &list[(*n)++];

        *e = (Embedded){ .address.family = 4, .offset_bits = offset_bits };
        memcpy(e->address.bytes, a->bytes + offset_bits / 8, 4);
}

/* RFC 6052: behind a /48 the four bytes stand around the eighth, which is zero. */
static void embed_around(Embedded list[EMBEDDED_MAX], size_t *n, const PrivAddress *a)
{
        Embedded *e = &list[(*n)++];

        *e = (Embedded){ .address.family = 4, .offset_bits = 56 };
        memcpy(e->address.bytes, a->bytes + 6, 2);
        memcpy(e->address.bytes + 2, a->bytes + 9, 2);
}

static bool is_isatap(const PrivAddress *a)
{
        return (a->bytes[8] & 0xfd) == 0 && a->bytes[9] == 0 && a->bytes[10] == 0x5e && a->bytes[11] == 0xfe;
}

static size_t unwrap(const PrivAddress *a, Embedded list[EMBEDDED_MAX])
{
        size_t n = 0;

        if (a->family != 6)
                return 0;
        if (in_range(a, &six_to_four))
                embed(list, &n, a, 16);
        if (in_range(a, &teredo)) {
                embed(list, &n, a, 32);
                embed(list, &n, a, 96);
                for (size_t i = 0; i < 4; i++)
                        list[n - 1].address.bytes[i] ^=
                                        0xff; /* RFC 4380: the client's address is inverted */
        }
        if (in_range(a, &nat64_local))
                embed_around(list, &n, a);
        if (in_range(a, &v4_mapped) || in_range(a, &v4_compatible) || in_range(a, &v4_siit) ||
            in_range(a, &nat64) || in_range(a, &nat64_local) || is_isatap(a))
                embed(list, &n, a, 96);
        return n;
}

static AddressClass class_of(const PrivAddress *a)
{
        AddressClass class = ADDRESS_GLOBAL;

        if (a->family != 4 && a->family != 6)
                return ADDRESS_GUARDED;
        for (size_t i = 0; i < ELEMENTSOF(ranges); i++)
                if (ranges[i].class > class && in_range(a, &ranges[i]))
                        class = ranges[i].class;
        return class;
}

AddressClass address_class(const PrivAddress *a)
{
        PrivAddress plain = address_unmap(a);
        AddressClass class = class_of(&plain);
        Embedded list[EMBEDDED_MAX];
        size_t n = unwrap(&plain, list);

        for (size_t i = 0; i < n; i++) {
                AddressClass inner = class_of(&list[i].address);

                if (inner > class)
                        class = inner;
        }
        return class;
}

/* Does the prefix lie inside every guarded range that holds a, which stands at offset_bits of the rule's
 * address? */
static bool is_inside_ranges(const PrivAddress *a, uint32_t offset_bits, uint32_t prefix_length)
{
        for (size_t i = 0; i < ELEMENTSOF(ranges); i++)
                if (in_range(a, &ranges[i]) && prefix_length < offset_bits + ranges[i].prefix_length)
                        return false;
        return true;
}

bool address_guard_admits(const PrivAddress *a, const PrivAddress *network, uint32_t prefix_length)
{
        PrivAddress plain = address_unmap(a);
        Embedded list[EMBEDDED_MAX];
        size_t n;

        if (!address_in_prefix(&plain, network, prefix_length))
                return false;
        if (address_class(&plain) == ADDRESS_METADATA)
                return prefix_length == (plain.family == 4 ? 32U : 128U);
        if (!is_inside_ranges(&plain, 0, prefix_length))
                return false;
        n = unwrap(&plain, list);
        for (size_t i = 0; i < n; i++)
                if (!is_inside_ranges(&list[i].address, list[i].offset_bits, prefix_length))
                        return false;
        return true;
}

bool address_is_loopback(const PrivAddress *a)
{
        static const PrivAddress one = V6(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1);

        return a->family == 4 ? a->bytes[0] == 127 : address_equal(a, &one);
}

static int parse_v4(const char *s, PrivAddress *ret)
{
        PrivAddress a = { .family = 4 };

        for (size_t i = 0; i < 4; i++) {
                unsigned v = 0, n = 0;

                for (; *s >= '0' && *s <= '9' && n < 3; s++, n++)
                        v = v * 10 + (unsigned) (*s - '0');
                if (n == 0 || v > 255 || (n > 1 && s[-(int) n] == '0'))
                        return -EINVAL;
                if (*s != (i < 3 ? '.' : '\0'))
                        return -EINVAL;
                if (i < 3)
                        s++;
                a.bytes[i] = (uint8_t) v;
        }
        *ret = a;
        return 0;
}

int address_parse(const char *s, PrivAddress *ret)
{
        PrivAddress a = { .family = 6 };

        if (!strchr(s, ':'))
                return parse_v4(s, ret);
        if (strlen(s) >= ADDRESS_TEXT_SIZE || s[strspn(s, "0123456789abcdefABCDEF:.")] != '\0')
                return -EINVAL;
        if (inet_pton(AF_INET6, s, a.bytes) != 1)
                return -EINVAL;
        *ret = a;
        return 0;
}

void address_format(const PrivAddress *a, char text[ADDRESS_TEXT_SIZE])
{
        text[0] = '\0';
        if (a->family == 4)
                (void) inet_ntop(AF_INET, a->bytes, text, ADDRESS_TEXT_SIZE);
        else if (a->family == 6)
                (void) inet_ntop(AF_INET6, a->bytes, text, ADDRESS_TEXT_SIZE);
}
