/* The daemon's own settings: CONFIG/sandboxd.json. */

#include <errno.h>
#include <string.h>

#include "daemon/policy/model.h"
#include "proto/base/clock.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

#define DNS_PORT         53U
#define ROOT_SESSION_UID UINT32_C(1879048192)

void policy_settings_default(PrivSettings *ret)
{
        *ret = (PrivSettings){
                .ask_timeout_usec = 25 * USEC_PER_SEC,
                .connections_max = 512,
                .connections_per_user_max = 64,
                .connects_per_second = 500,
                .sessions_max = 4096,
                .sessions_per_user_max = 256,
                .starts_per_second = 250,
                .users_max = 256,
                .rows_per_second = 20000,
                .rows_share_percent = 25,
                .buffer_per_user_bytes = UINT64_C(32) << 20,
                .root_session_uid = ROOT_SESSION_UID,
                .retention_usec = 24 * 3600 * USEC_PER_SEC,
                .audit_segment_bytes_max = UINT64_C(256) << 20,
                .audit_retention_bytes = UINT64_C(4) << 30,
                /* Public to whoever looks at an address, and nobody's in practice; nothing is ever sent
                   there. */
                .pool = { .v4 = { .address = { .family = 4, .bytes = { 28 } }, .length = 8 },
                          .v6 = { .address = { .family = 6, .bytes = { 0x3f, 0xfe } }, .length = 16 } },
        };
}

void policy_settings(const Policy *p, PrivSettings *ret)
{
        *ret = p->settings;
}

int policy_settings_check_fixed(const Policy *p, const PrivSettings *running, PolicyDiagnostics *diagnostics)
{
        DiagnosticPlace place = { .source = p->source,
                                  .line = p->root_uid_line,
                                  .column = p->root_uid_column,
                                  .key = "sessions.root_uid" };

        if (p->settings.root_session_uid == running->root_session_uid)
                return 0;
        return diagnose(diagnostics, SEVERITY_FAILURE, &place,
                        "is %u while the daemon runs, and %u here: restart it to change it",
                        running->root_session_uid, p->settings.root_session_uid);
}

/* ADDRESS, IPV4:PORT or [IPV6]:PORT. */
static int server_parse(const char *s, PrivServer *ret)
{
        char text[ADDRESS_TEXT_SIZE] = "";
        const char *colon = strrchr(s, ':'), *end;
        uint16_t port = DNS_PORT;

        if (s[0] == '[') {
                end = strchr(s, ']');
                if (!end || end[1] != ':')
                        return -EINVAL;
                s++;
                colon = end + 1;
        } else {
                if (!colon || strchr(s, ':') != colon)
                        colon = s + strlen(s);
                end = colon;
        }
        if ((size_t) (end - s) >= sizeof(text))
                return -EINVAL;
        memcpy(text, s, (size_t) (end - s));
        if (*colon == ':' && parse_port(colon + 1, &port) < 0)
                return -EINVAL;
        *ret = (PrivServer){ .port = port };
        return address_parse(text, &ret->address);
}

static int add_server(SchemaReader *x, const TextNode *n)
{
        PrivSettings *s = &x->policy->settings;

        if (s->n_servers >= PRIV_RESOLVERS_MAX)
                return schema_fail(x, n, "at most %u servers", PRIV_RESOLVERS_MAX);
        if (server_parse(n->string, &s->servers[s->n_servers]) < 0)
                return schema_fail(x, n,
                                   "expected an address: \"192.0.2.1\", \"127.0.0.1:53\" or \"[::1]:53\"");
        s->n_servers++;
        return 0;
}

static int read_servers(SchemaReader *x, const TextNode *n)
{
        return schema_read_strings(x, n, add_server);
}

static const KeyRule resolver_rules[] = { { "servers", read_servers, NULL } };
static const KeyTable resolver_table = { resolver_rules, ELEMENTSOF(resolver_rules) };

static int read_resolver(SchemaReader *x, const TextNode *n)
{
        return schema_read_object(x, n, &resolver_table);
}

static int read_number(SchemaReader *x, const TextNode *n, int64_t min, int64_t max, uint32_t *to)
{
        int r;

        r = schema_expect(x, n, TEXT_INTEGER);
        if (r <= 0)
                return r;
        if (n->integer < min || n->integer > max)
                return schema_fail(x, n, "expected a number from %lld to %lld", (long long) min,
                                   (long long) max);
        *to = (uint32_t) n->integer;
        return 0;
}

#define READ_LIMIT(name, min, max)                                                 \
        static int read_##name(SchemaReader *x, const TextNode *n)                 \
        {                                                                          \
                return read_number(x, n, (min), (max), &x->policy->settings.name); \
        }

READ_LIMIT(connections_max, 1, 16384)
READ_LIMIT(connections_per_user_max, 1, 16384)
READ_LIMIT(connects_per_second, 1, 100000)
READ_LIMIT(sessions_max, 1, 65536)
READ_LIMIT(sessions_per_user_max, 1, 65536)
READ_LIMIT(starts_per_second, 1, 10000)
READ_LIMIT(users_max, 1, 4000)
READ_LIMIT(rows_per_second, 1, 1000000)
READ_LIMIT(rows_share_percent, 1, 100)

static int read_buffer(SchemaReader *x, const TextNode *n);

static const KeyRule limit_rules[] = {
        { "connections", read_connections_max, NULL },
        { "connections_per_user", read_connections_per_user_max, NULL },
        { "connects_per_second", read_connects_per_second, NULL },
        { "sessions", read_sessions_max, NULL },
        { "sessions_per_user", read_sessions_per_user_max, NULL },
        { "starts_per_second", read_starts_per_second, NULL },
        { "users", read_users_max, NULL },
        { "rows_per_second", read_rows_per_second, NULL },
        { "rows_share", read_rows_share_percent, NULL },
        { "buffer_per_user", read_buffer, NULL },
};
static const KeyTable limit_table = { limit_rules, ELEMENTSOF(limit_rules) };

static int read_limits(SchemaReader *x, const TextNode *n)
{
        return schema_read_object(x, n, &limit_table);
}

static int read_pool_v4(SchemaReader *x, const TextNode *n)
{
        return schema_read_pool(x, n, 4, &x->policy->settings.pool.v4);
}

static int read_pool_v6(SchemaReader *x, const TextNode *n)
{
        return schema_read_pool(x, n, 6, &x->policy->settings.pool.v6);
}

static const KeyRule dns_rules[] = {
        { "pool", read_pool_v4, NULL },
        { "pool6", read_pool_v6, NULL },
};
static const KeyTable dns_table = { dns_rules, ELEMENTSOF(dns_rules) };

static int read_dns(SchemaReader *x, const TextNode *n)
{
        return schema_read_object(x, n, &dns_table);
}

static int read_timeout(SchemaReader *x, const TextNode *n)
{
        uint64_t usec;
        int r;

        r = schema_expect(x, n, TEXT_STRING);
        if (r <= 0)
                return r;
        if (parse_duration(n->string, &usec) < 0 || usec == 0 || usec > 3600 * USEC_PER_SEC)
                return schema_fail(x, n, "expected a duration of at most an hour such as \"25s\"");
        x->policy->settings.ask_timeout_usec = usec;
        return 0;
}

static const KeyRule ask_rules[] = { { "timeout", read_timeout, NULL } };
static const KeyTable ask_table = { ask_rules, ELEMENTSOF(ask_rules) };

static int read_ask(SchemaReader *x, const TextNode *n)
{
        return schema_read_object(x, n, &ask_table);
}

/* 65534 is nobody, and the last two of 32 bits mean "none" to the kernel or to 16-bit callers. */
static int read_root_uid(SchemaReader *x, const TextNode *n)
{
        if (n->type == TEXT_INTEGER && (n->integer == 65534 || n->integer == 65535))
                return schema_fail(x, n, "this uid means nobody; choose one that no account has");
        x->policy->root_uid_line = n->line;
        x->policy->root_uid_column = n->column;
        return read_number(x, n, 1, INT64_C(4294967293), &x->policy->settings.root_session_uid);
}

/* A year: beyond it nobody waits, and additions cannot wrap. */
static int read_session_retention(SchemaReader *x, const TextNode *n)
{
        uint64_t usec;
        int r;

        r = schema_expect(x, n, TEXT_STRING);
        if (r <= 0)
                return r;
        if (parse_duration(n->string, &usec) < 0 || usec == 0 || usec > 366 * 86400 * USEC_PER_SEC)
                return schema_fail(x, n, "expected a duration of at most 366 days such as \"24h\"");
        x->policy->settings.retention_usec = usec;
        return 0;
}

static int read_protect(SchemaReader *x, const TextNode *n)
{
        int r;

        r = schema_expect(x, n, TEXT_STRING);
        if (r <= 0)
                return r;
        x->policy->settings.needs_prevention = str_equal(n->string, "prevent");
        return str_equal(n->string, "prevent") || str_equal(n->string, "any")
                               ? 0
                               : schema_fail(x, n, "expected \"any\" or \"prevent\"");
}

static const KeyRule session_rules[] = {
        { "root_uid", read_root_uid, NULL },
        { "protect", read_protect, NULL },
        { "retention", read_session_retention, NULL },
};
static const KeyTable session_table = { session_rules, ELEMENTSOF(session_rules) };

static int read_session_settings(SchemaReader *x, const TextNode *n)
{
        return schema_read_object(x, n, &session_table);
}

static int read_size(SchemaReader *x, const TextNode *n, uint64_t min, uint64_t *to)
{
        uint64_t bytes;
        int r;

        r = schema_expect(x, n, TEXT_STRING);
        if (r <= 0)
                return r;
        if (parse_size(n->string, &bytes) < 0 || bytes < min)
                return schema_fail(x, n, "expected a size such as \"256M\", at least %llu bytes",
                                   (unsigned long long) min);
        *to = bytes;
        return 0;
}

/* One message and one answer of the largest size must fit. */
static int read_buffer(SchemaReader *x, const TextNode *n)
{
        return read_size(x, n, 2U << 20, &x->policy->settings.buffer_per_user_bytes);
}

static int read_segment(SchemaReader *x, const TextNode *n)
{
        return read_size(x, n, 1U << 20, &x->policy->settings.audit_segment_bytes_max);
}

static int read_retention(SchemaReader *x, const TextNode *n)
{
        return read_size(x, n, 1U << 20, &x->policy->settings.audit_retention_bytes);
}

static int read_on_failure(SchemaReader *x, const TextNode *n)
{
        int r;

        r = schema_expect(x, n, TEXT_STRING);
        if (r <= 0)
                return r;
        return str_equal(n->string, "deny") ? 0
                                            : schema_fail(x, n, "only \"deny\" is enforced by this version");
}

static const KeyRule audit_rules[] = {
        { "segment_size", read_segment, NULL },
        { "retention_size", read_retention, NULL },
        { "on_failure", read_on_failure, NULL },
};
static const KeyTable audit_table = { audit_rules, ELEMENTSOF(audit_rules) };

static int read_audit(SchemaReader *x, const TextNode *n)
{
        return schema_read_object(x, n, &audit_table);
}

/* HOST:PORT, ADDRESS:PORT or [ADDRESS]:PORT. */
static int read_proxy_server(SchemaReader *x, const TextNode *n)
{
        static const char expected[] = "expected a proxy such as \"proxy.example.org:3128\", with its port";
        PrivProxy *p = &x->policy->settings.proxy;
        const char *colon;
        PrivServer server;
        uint16_t port;
        int r;

        r = schema_expect(x, n, TEXT_STRING);
        if (r <= 0)
                return r;
        colon = strrchr(n->string, ':');
        if (!colon || parse_port(colon + 1, &port) < 0)
                return schema_fail(x, n, "%s", expected);
        if (server_parse(n->string, &server) >= 0)
                p->address = server.address;
        else if (policy_host_canonical(n->string, (size_t) (colon - n->string), p->host) < 0)
                return schema_fail(x, n, "%s", expected);
        p->port = port;
        return 0;
}

static int add_bypass(SchemaReader *x, const TextNode *n)
{
        PrivProxy *p = &x->policy->settings.proxy;
        const char *message = NULL;
        char host[PRIV_HOST_SIZE];
        bool is_wildcard;

        if (p->n_bypass >= PRIV_PROXY_BYPASS_MAX)
                return schema_fail(x, n, "at most %u names", PRIV_PROXY_BYPASS_MAX);
        if (rule_host_parse(n->string, host, &is_wildcard, &message) < 0)
                return schema_fail(x, n, "%s", message);
        if (str_copy(p->bypass[p->n_bypass], PRIV_HOST_SIZE, n->string) < 0)
                return schema_fail(x, n, "the name is too long");
        p->n_bypass++;
        return 0;
}

static int read_bypass(SchemaReader *x, const TextNode *n)
{
        return schema_read_strings(x, n, add_bypass);
}

static const KeyRule proxy_rules[] = {
        { "server", read_proxy_server, NULL },
        { "bypass", read_bypass, NULL },
};
static const KeyTable proxy_table = { proxy_rules, ELEMENTSOF(proxy_rules) };

static int read_proxy(SchemaReader *x, const TextNode *n)
{
        return schema_read_object(x, n, &proxy_table);
}

static const KeyRule settings_rules[] = {
        { "version", schema_read_version, NULL },
        { "resolver", read_resolver, NULL },
        { "dns", read_dns, NULL },
        { "limits", read_limits, NULL },
        { "ask", read_ask, NULL },
        { "sessions", read_session_settings, NULL },
        { "audit", read_audit, NULL },
        { "proxy", read_proxy, NULL },
        { "approvers", NULL, "questions are answered with deny for now" },
};
static const KeyTable settings_table = { settings_rules, ELEMENTSOF(settings_rules) };

int schema_read_settings(SchemaReader *x, const TextNode *root)
{
        return schema_read_object(x, root, &settings_table);
}
