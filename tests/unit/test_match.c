/* Addresses, host names, matching, and blocks that somebody has damaged. */

#include <stdio.h>
#include <sys/mman.h>

#include "check.h"
#include "daemon/policy/address.h"
#include "daemon/policy/block.h"
#include "daemon/policy/policy.h"
#include "proto/base/buf.h"
#include "proto/base/clock.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

static Policy *parse_text(PolicyKind kind, const char *text)
{
        PolicyDiagnostics d;
        Policy *p = NULL;

        policy_diagnostics_init(&d);
        if (policy_parse(kind, "test", text, strlen(text), &d, &p) < 0)
                LIST_FOREACH (g, &d.list, PolicyDiagnostic, link)
                        print_message("%u:%u %s: %s\n", g->line, g->column, g->key, g->message);
        policy_diagnostics_done(&d);
        assert_non_null(p);
        return p;
}

static const PolicyBlock *compile_text(const char *text)
{
        _cleanup_(policy_freep) Policy *p = parse_text(POLICY_PROFILE, text);
        _cleanup_close_ int fd = -EBADF;
        const PolicyBlock *b = NULL;

        ASSERT_OK(policy_compile(p, NULL, NULL, 7, &fd));
        ASSERT_OK(policy_block_open(fd, &b));
        return b;
}

#define RULES(default_verdict, rules) \
        "{ \"version\": 1, \"network\": { \"default\": \"" default_verdict "\", \"rules\": [" rules "] } }"

static PrivAddress address(const char *s)
{
        PrivAddress a = { 0 };

        if (address_parse(s, &a) < 0)
                fail_msg("not an address: %s", s);
        return a;
}

static const struct {
        const char *text;
        AddressClass class;
} address_rows[] = {
        { "0.1.2.3", ADDRESS_GUARDED },
        { "10.0.0.1", ADDRESS_GUARDED },
        { "100.64.0.1", ADDRESS_GUARDED },
        { "127.0.0.1", ADDRESS_GUARDED },
        { "169.254.1.1", ADDRESS_GUARDED },
        { "172.16.0.1", ADDRESS_GUARDED },
        { "172.31.255.255", ADDRESS_GUARDED },
        { "172.32.0.1", ADDRESS_GLOBAL },
        { "192.0.0.1", ADDRESS_GUARDED },
        { "192.0.2.1", ADDRESS_GUARDED },
        { "192.88.99.1", ADDRESS_GUARDED },
        { "192.168.1.1", ADDRESS_GUARDED },
        { "198.18.0.1", ADDRESS_GUARDED },
        { "198.19.255.1", ADDRESS_GUARDED },
        { "198.51.100.1", ADDRESS_GUARDED },
        { "203.0.113.1", ADDRESS_GUARDED },
        { "224.0.0.1", ADDRESS_GUARDED },
        { "240.0.0.1", ADDRESS_GUARDED },
        { "255.255.255.255", ADDRESS_GUARDED },
        { "8.8.8.8", ADDRESS_GLOBAL },
        { "::20:3:100:101:2:104", ADDRESS_GUARDED },
        { "1fff::1", ADDRESS_GUARDED },
        { "2000::1", ADDRESS_GLOBAL },
        { "3ffe::1", ADDRESS_GLOBAL },
        { "4000::1", ADDRESS_GUARDED },
        { "8000::1", ADDRESS_GUARDED },
        { "100.128.0.1", ADDRESS_GLOBAL },
        { "93.184.216.34", ADDRESS_GLOBAL },
        { "::", ADDRESS_GUARDED },
        { "::1", ADDRESS_GUARDED },
        { "fe80::1", ADDRESS_GUARDED },
        { "fec0::1", ADDRESS_GUARDED },
        { "fc00::1", ADDRESS_GUARDED },
        { "fd12::1", ADDRESS_GUARDED },
        { "ff02::1", ADDRESS_GUARDED },
        { "2001:db8::1", ADDRESS_GUARDED },
        { "100::1", ADDRESS_GUARDED },
        { "3fff::1", ADDRESS_GUARDED },
        { "5f00::1", ADDRESS_GUARDED },
        { "2a00:1450::1", ADDRESS_GLOBAL },
        { "2606:4700::1", ADDRESS_GLOBAL },
        { "169.254.169.254", ADDRESS_METADATA },
        { "169.254.170.2", ADDRESS_METADATA },
        { "169.254.170.23", ADDRESS_METADATA },
        { "fd00:ec2::254", ADDRESS_METADATA },
        { "fd00:ec2::23", ADDRESS_METADATA },
        { "fd20:ce::254", ADDRESS_METADATA },
        { "fd00:c1::a9fe:a9fe", ADDRESS_METADATA },
        { "100.100.100.200", ADDRESS_METADATA },
        { "168.63.129.16", ADDRESS_METADATA },
        { "192.0.0.192", ADDRESS_METADATA },
        { "::ffff:8.8.8.8", ADDRESS_GLOBAL },
        { "::ffff:10.0.0.1", ADDRESS_GUARDED },
        { "::ffff:169.254.169.254", ADDRESS_METADATA },
        { "64:ff9b::a9fe:a9fe", ADDRESS_METADATA },
        { "64:ff9b::808:808", ADDRESS_GUARDED },
        { "64:ff9b:1::a9fe:a9fe", ADDRESS_METADATA },
        { "64:ff9b:1:a9fe:a9:fe00::", ADDRESS_METADATA },
        { "2002:7f00:1::", ADDRESS_GUARDED },
        { "2002:a9fe:a9fe::1", ADDRESS_METADATA },
        { "2001:0:a9fe:a9fe::", ADDRESS_METADATA },
        { "2001:0:1:1::5601:5601", ADDRESS_METADATA }, /* inverted 169.254.169.254 */
        { "::169.254.169.254", ADDRESS_METADATA },
        { "::ffff:0:169.254.169.254", ADDRESS_METADATA },
        { "2a00::5efe:169.254.169.254", ADDRESS_METADATA },
        { "2a00::200:5efe:10.0.0.1", ADDRESS_GUARDED },
};

static void test_address_class(void **state)
{
        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(address_rows); i++) {
                PrivAddress a = address(address_rows[i].text);

                if (address_class(&a) != address_rows[i].class)
                        fail_msg("%s is class %d", address_rows[i].text, address_class(&a));
        }
}

static void test_address_parse(void **state)
{
        static const char *const bad[] = {
                "127.1",
                "2130706433",
                "0x7f.1",
                "0177.0.0.1",
                "017700000001",
                "169.254.43518",
                "0xa9fea9fe",
                "127.0.0.1 ",
                " 127.0.0.1",
                "0000127.0.0.1",
                "127.0.0.01",
                "256.0.0.1",
                "1.2.3",
                "1.2.3.4.5",
                "1.2.3.4.",
                "",
                ".",
                "1..2.3",
                "::1%lo",
                "[::1]",
                ":::",
                "12345::",
                "::g",
                "::1/64",
                "fe80::1%eth0",
                "1.2.3.-4",
        };
        char text[ADDRESS_TEXT_SIZE];
        PrivAddress a;

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                if (address_parse(bad[i], &a) >= 0)
                        fail_msg("taken: '%s'", bad[i]);
        a = address("2001:DB8:0::1");
        address_format(&a, text);
        assert_string_equal(text, "2001:db8::1");
}

static void test_host_canonical(void **state)
{
        static const struct {
                const char *text;
                int error;
                const char *result;
        } rows[] = {
                { "EVIL.Example.", 0, "evil.example" },
                { "a_b.test", 0, "a_b.test" },
                { "xn--bcher-kva.test", 0, "xn--bcher-kva.test" },
                { "", EINVAL, NULL },
                { ".", EINVAL, NULL },
                { "a..b", EINVAL, NULL },
                { ".a", EINVAL, NULL },
                { "a..", EINVAL, NULL },
                { "-a.test", EINVAL, NULL },
                { "a-.test", EINVAL, NULL },
                { "[evil.example]", EINVAL, NULL },
                { "u@h.test", EINVAL, NULL },
                { "a b", EINVAL, NULL },
                { "a/b", EINVAL, NULL },
                { "a%b", EINVAL, NULL },
                { "b\303\274cher.test", EINVAL, NULL },
                { "\357\274\221.0.0.1", EINVAL, NULL },
                { "::1%x.allowed.test", EINVAL, NULL },
                { "*.a.test", EINVAL, NULL },
                { "a\tb", EINVAL, NULL },
                { "a\177", EINVAL, NULL },
                { "10.0.0.1", EADDRNOTAVAIL, NULL },
                { "10.0.0.1.", EADDRNOTAVAIL, NULL },
                { "::1", EADDRNOTAVAIL, NULL },
                { "127.1", EBADMSG, NULL },
                { "2130706433", EBADMSG, NULL },
                { "0x7f.1", EBADMSG, NULL },
                { "0177.0.0.1", EBADMSG, NULL },
                { "0xa9fea9fe", EBADMSG, NULL },
                { "a.0x", EBADMSG, NULL },
                { "0000127.0.0.1", EBADMSG, NULL },
                { "169.254.43518", EBADMSG, NULL },
                { "a.test.1", EBADMSG, NULL },
        };
        char host[PRIV_HOST_SIZE], longest[300];

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
                int r = policy_host_canonical(rows[i].text, strlen(rows[i].text), host);

                if (r != -rows[i].error)
                        fail_msg("'%s': %d", rows[i].text, r);
                if (rows[i].result)
                        assert_string_equal(host, rows[i].result);
        }
        ASSERT_ERROR(policy_host_canonical("evil.test\0.allowed.test", 22, host), EINVAL);
        for (size_t i = 0; i < sizeof(longest); i++)
                longest[i] = i % 50 == 49 ? '.' : 'a';
        ASSERT_OK(policy_host_canonical(longest, 253, host));
        ASSERT_ERROR(policy_host_canonical(longest, 255, host), EINVAL);
        memset(longest, 'a', 64);
        ASSERT_ERROR(policy_host_canonical(longest, 64, host), EINVAL);
        ASSERT_OK(policy_host_canonical(longest, 63, host));
}

static Verdict decide(const PolicyBlock *b, const char *target, uint32_t port, Protocol protocol)
{
        PolicyRequest q = {
                .host = "", .port = port, .protocol = protocol, .now_usec = clock_realtime_usec()
        };
        PolicyMatch m;

        if (address_parse(target, &q.address) < 0)
                q.host = target;
        policy_match_request(b, &q, &m);
        return m.verdict;
}

static void test_hosts(void **state)
{
        _cleanup_(policy_block_closep) const PolicyBlock *b = compile_text(RULES(
                        "deny",
                        "{ \"action\": \"allow\", \"host\": \"allowed.test\" },"
                        "{ \"action\": \"allow\", \"host\": \"*.wild.test\" },"
                        "{ \"action\": \"deny\", \"host\": \"bad.wild.test\" },"
                        "{ \"action\": \"ask\", \"host\": \"*.sub.wild.test\", \"ports\": [8443] },"
                        "{ \"action\": \"allow\", \"host\": \"high.test\", \"ports\": [\"8000-8100\", 9000] },"
                        "{ \"action\": \"allow\", \"host\": \"plain.test\", \"protocol\": \"http\" },"
                        "{ \"action\": \"allow\", \"host\": \"old.test\", \"expires\": \"2001-01-01T00:00:00Z\" },"
                        "{ \"action\": \"allow\", \"host\": \"none.test\", \"ports\": [] }"));

        (void) state;
        assert_int_equal(decide(b, "allowed.test", 443, PROTOCOL_ANY), VERDICT_ALLOW);
        assert_int_equal(decide(b, "allowed.test", 80, PROTOCOL_HTTP), VERDICT_ALLOW);
        assert_int_equal(decide(b, "allowed.test", 8080, PROTOCOL_HTTP), VERDICT_DENY);
        assert_int_equal(decide(b, "allowed.test", 443, PROTOCOL_TCP), VERDICT_DENY);
        assert_int_equal(decide(b, "evilallowed.test", 443, PROTOCOL_ANY), VERDICT_DENY);
        assert_int_equal(decide(b, "x.allowed.test", 443, PROTOCOL_ANY), VERDICT_DENY);
        assert_int_equal(decide(b, "allowed.test.evil.example", 443, PROTOCOL_ANY), VERDICT_DENY);
        assert_int_equal(decide(b, "wild.test", 443, PROTOCOL_ANY), VERDICT_DENY);
        assert_int_equal(decide(b, "a.wild.test", 443, PROTOCOL_ANY), VERDICT_ALLOW);
        assert_int_equal(decide(b, "a.b.c.wild.test", 443, PROTOCOL_ANY), VERDICT_ALLOW);
        assert_int_equal(decide(b, "xwild.test", 443, PROTOCOL_ANY), VERDICT_DENY);
        assert_int_equal(decide(b, "bad.wild.test", 443, PROTOCOL_ANY), VERDICT_DENY);
        assert_int_equal(decide(b, "bad.wild.test", 9999, PROTOCOL_TCP), VERDICT_DENY);
        assert_int_equal(decide(b, "x.bad.wild.test", 443, PROTOCOL_ANY), VERDICT_ALLOW);
        assert_int_equal(decide(b, "a.sub.wild.test", 8443, PROTOCOL_TLS), VERDICT_ASK);
        assert_int_equal(decide(b, "high.test", 8050, PROTOCOL_HTTP), VERDICT_ALLOW);
        assert_int_equal(decide(b, "high.test", 9000, PROTOCOL_HTTP), VERDICT_ALLOW);
        assert_int_equal(decide(b, "high.test", 8101, PROTOCOL_HTTP), VERDICT_DENY);
        assert_int_equal(decide(b, "plain.test", 80, PROTOCOL_TLS), VERDICT_DENY);
        assert_int_equal(decide(b, "plain.test", 80, PROTOCOL_ANY), VERDICT_ALLOW);
        assert_int_equal(decide(b, "old.test", 80, PROTOCOL_ANY), VERDICT_DENY);
        assert_int_equal(decide(b, "none.test", 80, PROTOCOL_ANY), VERDICT_DENY);
        assert_int_equal(policy_block_generation(b), 7);
}

static void test_literals(void **state)
{
        _cleanup_(policy_block_closep) const PolicyBlock *b = compile_text(RULES(
                        "allow",
                        "{ \"action\": \"allow\", \"cidr\": \"0.0.0.0/0\" },"
                        "{ \"action\": \"allow\", \"cidr\": \"10.1.0.0/16\" },"
                        "{ \"action\": \"deny\", \"cidr\": \"10.1.2.0/24\" },"
                        "{ \"action\": \"allow\", \"cidr\": \"169.254.0.0/16\" },"
                        "{ \"action\": \"allow\", \"cidr\": \"100.100.100.200/32\" },"
                        "{ \"action\": \"allow\", \"host\": \"h.test\", \"cidr\": \"192.168.0.0/16\" }"));

        (void) state;
        assert_int_equal(decide(b, "93.184.216.34", 443, PROTOCOL_ANY), VERDICT_ALLOW);
        assert_int_equal(decide(b, "10.1.1.1", 443, PROTOCOL_ANY), VERDICT_ALLOW);
        assert_int_equal(decide(b, "::ffff:10.1.1.1", 443, PROTOCOL_ANY), VERDICT_ALLOW);
        assert_int_equal(decide(b, "10.1.2.1", 443, PROTOCOL_ANY), VERDICT_DENY);
        assert_int_equal(decide(b, "10.2.1.1", 443, PROTOCOL_ANY), VERDICT_DENY);
        assert_int_equal(decide(b, "192.168.1.1", 443, PROTOCOL_ANY), VERDICT_DENY);
        assert_int_equal(decide(b, "127.0.0.1", 80, PROTOCOL_HTTP), VERDICT_DENY);
        assert_int_equal(decide(b, "169.254.1.1", 80, PROTOCOL_HTTP), VERDICT_ALLOW);
        assert_int_equal(decide(b, "169.254.169.254", 80, PROTOCOL_HTTP), VERDICT_DENY);
        assert_int_equal(decide(b, "100.100.100.200", 80, PROTOCOL_HTTP), VERDICT_ALLOW);
        assert_int_equal(decide(b, "64:ff9b::a9fe:a9fe", 80, PROTOCOL_HTTP), VERDICT_DENY);
        assert_int_equal(decide(b, "localhost", 80, PROTOCOL_HTTP), VERDICT_DENY);
        assert_int_equal(decide(b, "metadata.google.internal", 80, PROTOCOL_HTTP), VERDICT_DENY);
        assert_int_equal(decide(b, "printer.local", 80, PROTOCOL_HTTP), VERDICT_DENY);
        assert_int_equal(decide(b, "any.test", 80, PROTOCOL_HTTP), VERDICT_ALLOW);
}

static bool opens(const PolicyBlock *b, const char *host, const char *text, bool is_local)
{
        PolicyRequest q = { .host = host, .port = 443, .protocol = PROTOCOL_TLS };
        PrivAddress a = address(text);

        return policy_match_address(b, &q, &a, is_local);
}

/* Only a rule of exactly that name opens this machine's loopback, and nothing but that. */
static void test_machine(void **state)
{
        _cleanup_(policy_block_closep) const PolicyBlock *b = compile_text(
                        RULES("allow", "{ \"action\": \"allow\", \"host\": \"host.sandbox.internal\" },"
                                       "{ \"action\": \"allow\", \"host\": \"*.sandbox.internal\" },"
                                       "{ \"action\": \"allow\", \"host\": \"other.internal\" }"));
        _cleanup_(policy_block_closep) const PolicyBlock *wide = compile_text(
                        RULES("allow", "{ \"action\": \"allow\", \"host\": \"*.sandbox.internal\" }"));

        (void) state;
        assert_true(opens(b, "host.sandbox.internal", "127.0.0.1", true));
        assert_true(opens(b, "host.sandbox.internal", "::1", true));
        assert_false(opens(b, "host.sandbox.internal", "10.0.0.1", true));
        assert_false(opens(b, "host.sandbox.internal", "192.168.0.1", false));
        assert_false(opens(b, "x.sandbox.internal", "127.0.0.1", true));
        assert_false(opens(b, "other.internal", "127.0.0.1", true));
        assert_false(opens(wide, "host.sandbox.internal", "127.0.0.1", true));
}

static void test_resolved(void **state)
{
        _cleanup_(policy_block_closep) const PolicyBlock *b = compile_text(RULES(
                        "deny",
                        "{ \"action\": \"allow\", \"host\": \"open.test\" },"
                        "{ \"action\": \"allow\", \"host\": \"pinned.test\", \"cidr\": \"10.1.0.0/16\" },"
                        "{ \"action\": \"allow\", \"cidr\": \"172.16.5.0/24\" },"
                        "{ \"action\": \"allow\", \"cidr\": \"127.0.0.0/8\" },"
                        "{ \"action\": \"allow\", \"cidr\": \"192.168.7.7\" },"
                        "{ \"action\": \"deny\", \"cidr\": \"172.16.5.9/32\" },"
                        "{ \"action\": \"deny\", \"cidr\": \"93.0.0.0/8\" }"));

        (void) state;
        assert_true(opens(b, "open.test", "8.8.8.8", false));
        assert_false(opens(b, "open.test", "93.184.216.34", false));
        assert_false(opens(b, "open.test", "10.1.0.1", false));
        assert_true(opens(b, "open.test", "172.16.5.1", false));
        assert_true(opens(b, "open.test", "::ffff:172.16.5.1", false));
        assert_false(opens(b, "open.test", "172.16.5.9", false));
        assert_false(opens(b, "open.test", "172.16.6.1", false));
        assert_false(opens(b, "open.test", "169.254.169.254", false));
        assert_false(opens(b, "open.test", "8.8.8.8", true));
        assert_false(opens(b, "open.test", "172.16.5.1", true));
        assert_true(opens(b, "open.test", "192.168.7.7", true));
        assert_true(opens(b, "open.test", "127.0.0.1", true));
        assert_true(opens(b, "pinned.test", "10.1.2.3", false));
        assert_false(opens(b, "pinned.test", "10.2.2.3", false));
        assert_false(opens(b, "pinned.test", "8.8.8.8", false));
}

/* Whatever the bytes are: refused, or safe to ask. */
static void try_block(const void *data, size_t size)
{
        static const char *const targets[] = { "allowed.test", "a.b.wild.test", "10.1.2.3", "x" };
        const PolicyBlock *b = data;

        if (block_check(data, size) < 0)
                return;
        for (size_t i = 0; i < ELEMENTSOF(targets); i++)
                (void) decide(b, targets[i], 443, PROTOCOL_TLS);
        (void) opens(b, "allowed.test", "10.1.2.3", false);
        assert_non_null(policy_block_text(b));
        assert_non_null(policy_block_name(b));
}

static void test_damage(void **state)
{
        _cleanup_(policy_block_closep) const PolicyBlock *b = compile_text(RULES(
                        "deny",
                        "{ \"action\": \"allow\", \"host\": \"allowed.test\", \"ports\": [1, \"2-3\"] },"
                        "{ \"action\": \"allow\", \"host\": \"*.wild.test\" },"
                        "{ \"action\": \"deny\", \"cidr\": \"10.0.0.0/8\" }"));
        size_t size = b->size;
        static const uint8_t flips[] = { 0x01, 0x80, 0xff };

        (void) state;
        for (size_t cut = 0; cut < size; cut++) {
                _cleanup_free_ uint8_t *copy = malloc(cut + 1);

                memcpy(copy, b, cut);
                ASSERT_ERROR(block_check(copy, cut), EBADMSG);
                if (cut >= sizeof(*b)) {
                        ((PolicyBlock *) (void *) copy)->size = (uint32_t) cut;
                        try_block(copy, cut);
                }
        }
        for (size_t i = 0; i < size; i++)
                for (size_t f = 0; f < sizeof(flips); f++) {
                        _cleanup_free_ uint8_t *copy = malloc(size);

                        memcpy(copy, b, size);
                        copy[i] ^= flips[f];
                        try_block(copy, size);
                }
}

static void test_unsealed(void **state)
{
        _cleanup_close_ int fd = memfd_create("test", MFD_CLOEXEC);
        _cleanup_close_ int sealed = -EBADF;
        const PolicyBlock *b;

        (void) state;
        assert_int_equal(write(fd, "nonsense", 8), 8);
        ASSERT_ERROR(policy_block_open(fd, &b), EPERM);
        ASSERT_OK(fd_memfd_sealed("test", "nonsense", 8, &sealed));
        ASSERT_ERROR(policy_block_open(sealed, &b), EBADMSG);
}

/* Other people's resolvers: a rule opens them, no default. */
static void test_resolvers(void **state)
{
        _cleanup_(policy_block_closep) const PolicyBlock *b = compile_text(RULES(
                        "allow", "{ \"id\": \"r\", \"action\": \"allow\", \"host\": \"dns.quad9.net\" }"));
        static const struct {
                const char *host;
                uint32_t port;
                Verdict verdict;
        } rows[] = {
                { "dns.google", 443, VERDICT_DENY },      { "a.dns.google", 443, VERDICT_DENY },
                { "adns.google", 443, VERDICT_ALLOW },    { "google", 443, VERDICT_ALLOW },
                { "dns.quad9.net", 443, VERDICT_ALLOW },  { "dns.quad9.net", 853, VERDICT_DENY },
                { "dns11.quad9.net", 443, VERDICT_DENY }, { "any.test", 853, VERDICT_DENY },
                { "any.test", 443, VERDICT_ALLOW },       { "mozilla.cloudflare-dns.com", 80, VERDICT_DENY },
        };

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
                PolicyRequest q = { .host = rows[i].host, .port = rows[i].port, .protocol = PROTOCOL_TLS };
                PolicyMatch m;

                policy_match_request(b, &q, &m);
                if (m.verdict != rows[i].verdict)
                        fail_msg("%s:%u: %d", rows[i].host, rows[i].port, m.verdict);
        }
}

/* One memfd is mapped once, whatever descriptor of it comes; its equal is another. */
static void test_shelf(void **state)
{
        _cleanup_(policy_freep) Policy *p = parse_text(POLICY_PROFILE, RULES("allow", ""));
        _cleanup_close_ int open_fd = memfd_create("test", MFD_CLOEXEC);
        _cleanup_close_ int fd = -EBADF, copy = -EBADF, equal = -EBADF;
        PolicyShelf shelf = { 0 };
        PolicyShare *a, *b, *c, *none = NULL;

        (void) state;
        ASSERT_OK(policy_compile(p, NULL, NULL, 1, &fd));
        ASSERT_OK(policy_compile(p, NULL, NULL, 1, &equal));
        copy = dup(fd);
        ASSERT_ERROR(policy_shelf_open(&shelf, open_fd, &none), EPERM);
        ASSERT_OK(policy_shelf_open(&shelf, fd, &a));
        ASSERT_OK(policy_shelf_open(&shelf, copy, &b));
        ASSERT_OK(policy_shelf_open(&shelf, equal, &c));
        assert_ptr_equal(policy_share_block(a), policy_share_block(b));
        assert_ptr_not_equal(policy_share_block(a), policy_share_block(c));
        policy_share_prove_text(a);
        assert_true(policy_share_is_text_proven(b));
        assert_false(policy_share_is_text_proven(c));
        a = policy_share_close(a);
        assert_int_equal(policy_block_generation(policy_share_block(b)), 1);
        b = policy_share_close(b);
        assert_int_equal(shelf.shares.n, 1);
        c = policy_share_close(c);
        assert_int_equal(shelf.shares.n, 0);
        map_done(&shelf.shares);
}

/* 100,000 hosts: the index finds each, and one decision costs a few hashes. */
static void test_many(void **state)
{
        enum { N_HOSTS = 100000, N_DECISIONS = 200000 };
        _cleanup_(buf_done) Buf text = BUF_INIT(32U << 20);
        _cleanup_(policy_block_closep) const PolicyBlock *b = NULL;
        uint64_t begin, total;
        char host[64];

        (void) state;
        ASSERT_OK(buf_put_string(&text, "{ \"version\": 1, \"network\": { \"rules\": ["));
        for (int i = 0; i < N_HOSTS; i++)
                ASSERT_OK(buf_printf(
                                &text,
                                "%s{ \"id\": \"r%d\", \"action\": \"allow\", \"host\": \"%sh%d.example.test\" }",
                                i > 0 ? "," : "", i, i % 3 == 0 ? "*." : "", i));
        ASSERT_OK(buf_put(&text, "] } }", 6));
        b = compile_text(buf_front(&text));
        begin = clock_monotonic_usec();
        for (int i = 0; i < N_DECISIONS; i++) {
                int k = (int) ((unsigned) i * 7919U % N_HOSTS);

                ASSERT_OK(str_printf(host, sizeof(host), "%sh%d.example.test", k % 3 == 0 ? "a." : "", k));
                assert_int_equal(decide(b, host, 443, PROTOCOL_TLS), VERDICT_ALLOW);
        }
        total = clock_monotonic_usec() - begin;
        print_message("%d decisions on %d rules: %llu ns each\n", N_DECISIONS, N_HOSTS,
                      (unsigned long long) (total * 1000 / N_DECISIONS));
        assert_int_equal(decide(b, "h3.example.test", 443, PROTOCOL_TLS), VERDICT_DENY);
}

/* ---- names alone ---- */

static Verdict decide_name(const PolicyBlock *b, const char *host, PolicyMatch *ret)
{
        PolicyRequest q = { .port = 0 };

        policy_match_name(b, host, clock_realtime_usec(), ret, &q);
        /* What it says is true of the request that it names. */
        assert_string_equal(q.host, host);
        assert_true(policy_name_chosen(b, host) <= strlen(host));
        assert_int_equal(decide(b, host, q.port, q.protocol), ret->verdict);
        return ret->verdict;
}

static void test_names(void **state)
{
        _cleanup_(policy_block_closep) const PolicyBlock *b = compile_text(RULES(
                        "deny",
                        "{ \"id\": \"ssh\", \"action\": \"allow\", \"host\": \"git.test\", \"ports\": [22], \"protocol\": \"tcp\" },"
                        "{ \"id\": \"wild\", \"action\": \"allow\", \"host\": \"*.wild.test\", \"dns_types\": [\"CAA\", \"TXT\"] },"
                        "{ \"id\": \"bad\", \"action\": \"deny\", \"host\": \"bad.wild.test\", \"reason\": \"no\" },"
                        "{ \"id\": \"some\", \"action\": \"deny\", \"host\": \"part.wild.test\", \"ports\": [443] },"
                        "{ \"id\": \"all\", \"action\": \"deny\", \"host\": \"none.wild.test\", \"ports\": [\"1-100\", \"400-500\"] },"
                        "{ \"id\": \"q\", \"action\": \"ask\", \"host\": \"ask.test\", \"ports\": [8443] },"
                        "{ \"id\": \"a\", \"action\": \"allow\", \"host\": \"hole.test\", \"ports\": [\"1000-2000\"] },"
                        "{ \"id\": \"d\", \"action\": \"deny\", \"host\": \"hole.test\", \"ports\": [\"1000-1999\"] },"
                        "{ \"id\": \"old\", \"action\": \"allow\", \"host\": \"old.test\", \"expires\": \"2020-01-01T00:00:00Z\" },"
                        "{ \"id\": \"net\", \"action\": \"allow\", \"cidr\": \"93.184.216.0/24\" }"));
        static const struct {
                const char *host;
                Verdict verdict;
                const char *rule;
        } rows[] = {
                { "git.test", VERDICT_ALLOW, "ssh" },       { "x.git.test", VERDICT_DENY, "" },
                { "a.b.wild.test", VERDICT_ALLOW, "wild" }, { "wild.test", VERDICT_DENY, "" },
                { "bad.wild.test", VERDICT_DENY, "bad" },   { "part.wild.test", VERDICT_ALLOW, "wild" },
                { "none.wild.test", VERDICT_DENY, "all" },  { "ask.test", VERDICT_ASK, "q" },
                { "hole.test", VERDICT_ALLOW, "a" },        { "old.test", VERDICT_DENY, "" },
                { "localhost", VERDICT_DENY, "" },
        };
        PolicyMatch m;

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
                if (decide_name(b, rows[i].host, &m) != rows[i].verdict || !str_equal(m.rule, rows[i].rule))
                        fail_msg("%s: %d by \"%s\"", rows[i].host, m.verdict, m.rule);
        }
        (void) decide_name(b, "a.b.wild.test", &m);
        assert_int_equal(policy_name_chosen(b, "a.b.wild.test"), strlen("a.b"));
        assert_int_equal(m.dns_types, POLICY_DNS_TXT | POLICY_DNS_CAA);
        (void) decide_name(b, "git.test", &m);
        assert_int_equal(policy_name_chosen(b, "git.test"), 0);
        assert_int_equal(policy_name_chosen(b, "bad.wild.test"), strlen("bad"));
        assert_int_equal(policy_name_chosen(b, "nowhere.test"), 0);
        assert_int_equal(m.dns_types, 0);
}

/* What a ceiling allows beside addresses bounds it; where it has no rule for the name, nothing does. */
static void test_names_ceiling(void **state)
{
        _cleanup_(policy_freep) Policy *p = NULL, *ceiling = NULL;
        _cleanup_(policy_block_closep) const PolicyBlock *b = NULL;
        _cleanup_close_ int fd = -EBADF;
        PolicyMatch m;

        (void) state;
        p = parse_text(POLICY_PROFILE,
                       RULES("allow",
                             "{ \"action\": \"allow\", \"host\": \"*.w.test\", \"dns_types\": [\"TXT\", \"MX\"] }"));
        ceiling = parse_text(
                        POLICY_CEILING,
                        RULES("allow",
                              "{ \"action\": \"allow\", \"host\": \"a.w.test\", \"dns_types\": [\"MX\", \"CAA\"] },"
                              "{ \"action\": \"allow\", \"host\": \"b.w.test\" },"
                              "{ \"action\": \"allow\", \"host\": \"a.other\", \"dns_types\": [\"MX\"] }"));
        ASSERT_OK(policy_compile(p, NULL, ceiling, 7, &fd));
        ASSERT_OK(policy_block_open(fd, &b));
        (void) decide_name(b, "a.w.test", &m);
        assert_int_equal(m.dns_types, POLICY_DNS_MX);
        (void) decide_name(b, "b.w.test", &m);
        assert_int_equal(m.dns_types, 0);
        (void) decide_name(b, "c.w.test", &m);
        assert_int_equal(m.dns_types, POLICY_DNS_TXT | POLICY_DNS_MX);
        (void) decide_name(b, "a.other", &m);
        assert_int_equal(m.dns_types, 0);
}

/* Where the project allows less than the default of the session's own rules, its wildcards count. */
static void test_names_chosen_by_project(void **state)
{
        _cleanup_(policy_freep) Policy *p = NULL, *project = NULL;
        _cleanup_(policy_block_closep) const PolicyBlock *b = NULL;
        _cleanup_close_ int fd = -EBADF;

        (void) state;
        p = parse_text(POLICY_PROFILE, RULES("allow", ""));
        project = parse_text(POLICY_PROJECT,
                             RULES("deny", "{ \"action\": \"allow\", \"host\": \"*.w.test\" },"
                                           "{ \"action\": \"allow\", \"host\": \"x.w.test\" }"));
        ASSERT_OK(policy_compile(p, project, NULL, 7, &fd));
        ASSERT_OK(policy_block_open(fd, &b));
        assert_int_equal(policy_name_chosen(b, "secret.a.w.test"), strlen("secret.a"));
        assert_int_equal(policy_name_chosen(b, "x.w.test"), 0);
        assert_int_equal(policy_name_chosen(b, "nowhere.test"), 0);
}

/* A default that allows: what asks about one port leaves the others. */
static void test_names_default(void **state)
{
        _cleanup_(policy_block_closep) const PolicyBlock *b = compile_text(RULES(
                        "allow",
                        "{ \"id\": \"q\", \"action\": \"ask\", \"host\": \"ask.test\", \"ports\": [\"1-443\"] },"
                        "{ \"id\": \"d\", \"action\": \"deny\", \"host\": \"evil.test\" }"));
        PolicyMatch m;

        (void) state;
        assert_int_equal(decide_name(b, "any.test", &m), VERDICT_ALLOW);
        assert_int_equal(m.reason, REASON_DEFAULT);
        assert_int_equal(policy_name_chosen(b, "any.test"), 0);
        assert_int_equal(decide_name(b, "ask.test", &m), VERDICT_ALLOW);
        assert_int_equal(decide_name(b, "evil.test", &m), VERDICT_DENY);
        assert_int_equal(decide_name(b, "printer.local", &m), VERDICT_DENY);
        assert_int_equal(m.reason, REASON_ADDRESS);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_address_class),  cmocka_unit_test(test_address_parse),
                cmocka_unit_test(test_host_canonical), cmocka_unit_test(test_hosts),
                cmocka_unit_test(test_literals),       cmocka_unit_test(test_machine),
                cmocka_unit_test(test_resolved),       cmocka_unit_test(test_damage),
                cmocka_unit_test(test_unsealed),       cmocka_unit_test(test_shelf),
                cmocka_unit_test(test_resolvers),      cmocka_unit_test(test_many),
                cmocka_unit_test(test_names),          cmocka_unit_test(test_names_default),
                cmocka_unit_test(test_names_ceiling),  cmocka_unit_test(test_names_chosen_by_project),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
