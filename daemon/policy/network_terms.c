/* Keys of a network rule that say which requests it is about, and how far what it allows may go. */

#include <errno.h>
#include <string.h>

#include "daemon/policy/block.h"
#include "daemon/policy/model.h"
#include "daemon/policy/url_path.h"
#include "proto/base/clock.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

#define BYTES_MAX       (UINT64_C(1) << 50)
#define CONNECTIONS_MAX 1000000
#define IDLE_MIN_USEC   USEC_PER_SEC
#define IDLE_MAX_USEC   (24 * 3600 * USEC_PER_SEC)
#define METHOD_BYTES    "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

/* ---- which requests ---- */

static int add_method(SchemaReader *x, const TextNode *n)
{
        const char *s = n->string;

        if (s[0] == '\0' || strlen(s) >= BLOCK_METHOD_SIZE || s[strspn(s, METHOD_BYTES)])
                return schema_fail(x, n, "expected a method in capitals, such as \"GET\"");
        if (str_equal(s, "CONNECT") || str_equal(s, "TRACE"))
                return schema_fail(x, n, "%s is never passed on; remove it", s);
        return x->rule->methods.n < BLOCK_METHODS_MAX ? string_list_add(&x->rule->methods, s) : -E2BIG;
}

int rule_read_methods(SchemaReader *x, const TextNode *n)
{
        x->rule->has_methods = true;
        return schema_read_strings(x, n, add_method);
}

static int add_path(SchemaReader *x, const TextNode *n)
{
        char pattern[URL_PATTERN_MAX + 1];
        const char *message = url_pattern_compile(n->string, pattern);

        if (message)
                return schema_fail(x, n, "%s", message);
        return x->rule->paths.n < BLOCK_PATHS_MAX ? string_list_add(&x->rule->paths, n->string) : -E2BIG;
}

int rule_read_paths(SchemaReader *x, const TextNode *n)
{
        x->rule->has_paths = true;
        return schema_read_strings(x, n, add_path);
}

/* ---- how far ---- */

int rule_read_tls(SchemaReader *x, const TextNode *n)
{
        int r;

        r = schema_expect(x, n, TEXT_STRING);
        if (r <= 0)
                return r;
        if (str_equal(n->string, "inspect"))
                return schema_fail(x, n,
                                   "\"inspect\" is not enforced by this version; write \"sni\" or \"any\"");
        x->rule->is_tls_any = str_equal(n->string, "any");
        if (!x->rule->is_tls_any && !str_equal(n->string, "sni"))
                return schema_fail(x, n, "expected \"sni\" or \"any\"");
        x->rule->has_tls = true;
        return 0;
}

static int read_bytes(SchemaReader *x, const TextNode *n, uint64_t *to)
{
        int r;

        r = schema_expect(x, n, TEXT_STRING);
        if (r <= 0)
                return r;
        if (parse_size(n->string, to) < 0 || *to == 0 || *to > BYTES_MAX)
                return schema_fail(x, n, "expected a size such as \"512K\" or \"10M\", at least 1 byte");
        return 0;
}

int rule_read_max_upload(SchemaReader *x, const TextNode *n)
{
        return read_bytes(x, n, &x->rule->max_upload_bytes);
}

int rule_read_max_download(SchemaReader *x, const TextNode *n)
{
        return read_bytes(x, n, &x->rule->max_download_bytes);
}

int rule_read_max_connections(SchemaReader *x, const TextNode *n)
{
        int r;

        r = schema_expect(x, n, TEXT_INTEGER);
        if (r <= 0)
                return r;
        if (n->integer < 1 || n->integer > CONNECTIONS_MAX)
                return schema_fail(x, n, "expected a number from 1 to %d", CONNECTIONS_MAX);
        x->rule->max_connections = (uint32_t) n->integer;
        return 0;
}

int rule_read_idle(SchemaReader *x, const TextNode *n)
{
        int r;

        r = schema_expect(x, n, TEXT_STRING);
        if (r <= 0)
                return r;
        if (parse_duration(n->string, &x->rule->idle_usec) < 0 || x->rule->idle_usec < IDLE_MIN_USEC ||
            x->rule->idle_usec > IDLE_MAX_USEC)
                return schema_fail(x, n, "expected a duration from \"1s\" to \"24h\"");
        return 0;
}

static int add_dns_type(SchemaReader *x, const TextNode *n)
{
        uint32_t type = policy_dns_type_from_string(n->string);

        if (type == 0)
                return schema_fail(x, n, "expected \"TXT\", \"SRV\", \"MX\" or \"CAA\"");
        x->rule->dns_types |= type;
        return 0;
}

int rule_read_dns_types(SchemaReader *x, const TextNode *n)
{
        return schema_read_strings(x, n, add_dns_type);
}

/* ---- together ---- */

static const TextNode *member(const TextNode *n, const char *key)
{
        for (const TextNode *c = n->first; c; c = c->next)
                if (str_equal(c->key, key))
                        return c;
        return n;
}

int rule_check_terms(SchemaReader *x, const TextNode *n)
{
        static const char *const limits[] = { "tls",  "max_upload", "max_download", "max_connections",
                                              "idle", "dns_types" };
        const NetRule *rule = x->rule;

        if ((rule->has_methods || rule->has_paths) && rule->protocol != RULE_HTTP)
                return schema_fail(x, member(n, rule->has_methods ? "methods" : "paths"),
                                   "requests inside TLS are not seen; add \"protocol\": \"http\"");
        if (rule->has_tls && (rule->protocol == RULE_HTTP || rule->protocol == RULE_TCP))
                return schema_fail(x, member(n, "tls"),
                                   "a rule for %s alone looks at no TLS; remove the key",
                                   rule_protocol_to_string(rule->protocol));
        if (rule->dns_types != 0 && (!rule->host || (rule->has_action && rule->action == VERDICT_ASK)))
                return schema_fail(x, member(n, "dns_types"),
                                   "only a rule that allows a host says what DNS may be asked about it");
        for (size_t i = 0; rule->has_action && rule->action == VERDICT_DENY && i < ELEMENTSOF(limits); i++)
                if (member(n, limits[i]) != n)
                        return schema_fail(
                                        x, member(n, limits[i]),
                                        "a rule that denies lets nothing through to limit; remove the key");
        return 0;
}

/* ---- writing ---- */

static int format_list(Buf *b, const char *key, const StringList *l)
{
        int r;

        r = buf_printf(b, ", \"%s\": [", key);
        for (size_t i = 0; r >= 0 && i < l->n; i++) {
                r = buf_put_string(b, i > 0 ? ", " : "");
                if (r >= 0)
                        r = format_string(b, l->items[i]);
        }
        return r < 0 ? r : buf_put_string(b, "]");
}

static int format_number(Buf *b, const char *key, uint64_t v, const char *before, const char *behind)
{
        if (v == 0)
                return 0;
        return buf_printf(b, ", \"%s\": %s%llu%s", key, before, (unsigned long long) v, behind);
}

static int format_dns_types(Buf *b, uint32_t types)
{
        const char *name, *before = ", \"dns_types\": [";
        int r = 0;

        for (size_t i = 0; r >= 0 && (name = policy_dns_type_name(i)); i++) {
                if (!(types & UINT32_C(1) << i))
                        continue;
                r = buf_printf(b, "%s\"%s\"", before, name);
                before = ", ";
        }
        return r < 0 || types == 0 ? r : buf_put_string(b, "]");
}

int rule_format_terms(const NetRule *rule, Buf *b)
{
        int r = 0;

        if (rule->has_methods)
                r = format_list(b, "methods", &rule->methods);
        if (r >= 0 && rule->has_paths)
                r = format_list(b, "paths", &rule->paths);
        if (r >= 0 && rule->has_tls)
                r = buf_printf(b, ", \"tls\": \"%s\"", rule->is_tls_any ? "any" : "sni");
        if (r >= 0)
                r = format_number(b, "max_upload", rule->max_upload_bytes, "\"", "\"");
        if (r >= 0)
                r = format_number(b, "max_download", rule->max_download_bytes, "\"", "\"");
        if (r >= 0)
                r = format_number(b, "max_connections", rule->max_connections, "", "");
        if (r >= 0)
                r = format_number(b, "idle", rule->idle_usec, "\"", "us\"");
        return r < 0 ? r : format_dns_types(b, rule->dns_types);
}
