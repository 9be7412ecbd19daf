/* The values inside a network rule: text to meaning and back. */

#include <errno.h>
#include <libpsl.h>
#include <string.h>
#include <time.h>

#include "daemon/policy/model.h"
#include "proto/base/clock.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

/* Not public suffixes themselves, but above some: libpsl cannot be asked about that. */
static const char *const above_suffixes[] = {
        "amazonaws.com", "amazonaws.com.cn", "azure.com", "azure.net", "core.windows.net", "windows.net",
};

/* libpsl needs no list for the rule "everything below the root", which applies where no list is at hand. */
static bool is_public_suffix(const char *name)
{
        const psl_ctx_t *list = psl_builtin();
        psl_ctx_t *latest = NULL;
        bool is_suffix = !strchr(name, '.');

        for (size_t i = 0; i < ELEMENTSOF(above_suffixes); i++)
                if (str_equal(name, above_suffixes[i]))
                        return true;
        if (!list)
                list = latest = psl_latest(NULL);
        if (list)
                is_suffix = psl_is_public_suffix2(list, name, PSL_TYPE_ANY) == 1;
        psl_free(latest);
        return is_suffix;
}

static const char *host_error(int r)
{
        if (r == -EADDRNOTAVAIL)
                return "an address is no host; write it as \"cidr\"";
        if (r == -EBADMSG)
                return "a host that ends in a number is no name; write addresses as \"cidr\"";
        return "not a host name: labels of a-z, 0-9, '-' and '_' (international names as xn--…), "
               "wildcards as *.name";
}

int rule_host_parse(const char *s, char ret[PRIV_HOST_SIZE], bool *ret_is_wildcard, const char **ret_message)
{
        bool is_wildcard = str_has_prefix(s, "*.");
        int r;

        if (is_wildcard)
                s += 2;
        r = policy_host_canonical(s, strlen(s), ret);
        if (r < 0) {
                *ret_message = host_error(r);
                return -EINVAL;
        }
        if (!str_equal(s, ret)) {
                *ret_message = "write the host in canonical form: lower case, no dot at the end";
                return -EINVAL;
        }
        if (is_wildcard && is_public_suffix(ret)) {
                *ret_message = "a wildcard at a public suffix would cover names of strangers; name the "
                               "hosts";
                return -EINVAL;
        }
        *ret_is_wildcard = is_wildcard;
        return 0;
}

static bool has_host_bits(const PrivAddress *a, uint32_t prefix_length)
{
        uint32_t size = a->family == 4 ? 4 : 16;

        for (uint32_t i = prefix_length; i < size * 8; i++)
                if (a->bytes[i / 8] & (0x80U >> (i % 8)))
                        return true;
        return false;
}

int rule_cidr_parse(const char *s, PrivAddress *ret_network, uint32_t *ret_prefix_length,
                    const char **ret_message)
{
        static const PrivAddress mapped = { .family = 6, .bytes = { [10] = 0xff, [11] = 0xff } };
        char text[ADDRESS_TEXT_SIZE];
        const char *slash = strchr(s, '/');
        size_t n = slash ? (size_t) (slash - s) : strlen(s);
        PrivAddress a;
        uint32_t length;

        *ret_message = "expected a network such as \"10.1.0.0/16\" or \"2001:db8::/32\"";
        if (n >= sizeof(text))
                return -EINVAL;
        memcpy(text, s, n);
        text[n] = '\0';
        if (address_parse(text, &a) < 0)
                return -EINVAL;
        length = a.family == 4 ? 32 : 128;
        if (slash && (slash[1] == '\0' || (slash[1] == '0' && slash[2]) ||
                      parse_u32(slash + 1, &length) < 0 || length > (a.family == 4 ? 32U : 128U)))
                return -EINVAL;
        if (has_host_bits(&a, length)) {
                *ret_message = "bits are set behind the prefix; write the network's own address";
                return -EINVAL;
        }
        if (a.family == 6 && length >= 80 && address_in_prefix(&a, &mapped, 96)) {
                *ret_message = "write an IPv4 network in its own form";
                return -EINVAL;
        }
        *ret_network = a;
        *ret_prefix_length = length;
        return 0;
}

static int digits(const char *s, size_t n, int *ret)
{
        int v = 0;

        for (size_t i = 0; i < n; i++) {
                if (s[i] < '0' || s[i] > '9')
                        return -EINVAL;
                v = v * 10 + (s[i] - '0');
        }
        *ret = v;
        return 0;
}

int rule_time_parse(const char *s, uint64_t *ret_usec)
{
        static const char form[] = "0000-00-00T00:00:00Z";
        struct tm tm = { 0 }, check;
        time_t t;

        if (strlen(s) != strlen(form))
                return -EINVAL;
        for (size_t i = 0; form[i]; i++)
                if (form[i] != '0' && s[i] != form[i])
                        return -EINVAL;
        if (digits(s, 4, &tm.tm_year) < 0 || digits(s + 5, 2, &tm.tm_mon) < 0 ||
            digits(s + 8, 2, &tm.tm_mday) < 0 || digits(s + 11, 2, &tm.tm_hour) < 0 ||
            digits(s + 14, 2, &tm.tm_min) < 0 || digits(s + 17, 2, &tm.tm_sec) < 0)
                return -EINVAL;
        tm.tm_year -= 1900;
        tm.tm_mon -= 1;
        check = tm;
        t = timegm(&check);
        /* timegm() carries a 30 February over into March. */
        if (t <= 0 || check.tm_mon != tm.tm_mon || check.tm_mday != tm.tm_mday ||
            check.tm_hour != tm.tm_hour || check.tm_min != tm.tm_min || check.tm_sec != tm.tm_sec)
                return -EINVAL;
        *ret_usec = (uint64_t) t * USEC_PER_SEC;
        return 0;
}

int format_string(Buf *b, const char *s)
{
        int r;

        r = buf_put(b, "\"", 1);
        for (; r >= 0 && *s; s++) {
                if (*s == '"' || *s == '\\')
                        r = buf_printf(b, "\\%c", *s);
                else if ((unsigned char) *s < 0x20)
                        r = buf_printf(b, "\\u%04x", (unsigned) *s);
                else
                        r = buf_put(b, s, 1);
        }
        return r < 0 ? r : buf_put(b, "\"", 1);
}

static int format_member(Buf *b, const char *key, const char *value)
{
        int r;

        if (!value)
                return 0;
        r = buf_printf(b, ", \"%s\": ", key);
        return r < 0 ? r : format_string(b, value);
}

static int format_cidr(const NetRule *rule, Buf *b)
{
        char text[ADDRESS_TEXT_SIZE];

        if (!rule->has_cidr)
                return 0;
        address_format(&rule->network, text);
        return buf_printf(b, ", \"cidr\": \"%s/%u\"", text, rule->prefix_length);
}

static int format_ports(const NetRule *rule, Buf *b)
{
        int r;

        if (rule->n_ports == 0 && !rule->is_empty_ports)
                return 0;
        r = buf_put_string(b, ", \"ports\": [");
        for (size_t i = 0; r >= 0 && i < rule->n_ports; i++) {
                const PortRange *p = &rule->ports[i];

                if (p->first == p->last)
                        r = buf_printf(b, "%s%u", i > 0 ? ", " : "", p->first);
                else
                        r = buf_printf(b, "%s\"%u-%u\"", i > 0 ? ", " : "", p->first, p->last);
        }
        return r < 0 ? r : buf_put_string(b, "]");
}

int rule_format(const NetRule *rule, Buf *b)
{
        int r;

        r = buf_printf(b, "{ \"action\": \"%s\"", verdict_to_string(rule->action));
        if (r >= 0)
                r = format_member(b, "id", rule->id);
        if (r >= 0 && rule->host)
                r = buf_printf(b, ", \"host\": \"%s%s\"", rule->is_wildcard ? "*." : "", rule->host);
        if (r >= 0)
                r = format_cidr(rule, b);
        if (r >= 0)
                r = format_ports(rule, b);
        if (r >= 0 && rule->has_protocol)
                r = format_member(b, "protocol", rule_protocol_to_string(rule->protocol));
        if (r >= 0)
                r = rule_format_terms(rule, b);
        if (r >= 0)
                r = format_member(b, "expires", rule->expires);
        if (r >= 0)
                r = format_member(b, "reason", rule->reason);
        return r < 0 ? r : buf_put_string(b, " }");
}

int rule_name(const NetRule *rule, char ret[PRIV_NAME_SIZE])
{
        char target[PRIV_HOST_SIZE + 2];
        char network[ADDRESS_TEXT_SIZE];
        int r;

        if (rule->id)
                return str_copy(ret, PRIV_NAME_SIZE, rule->id);
        address_format(&rule->network, network);
        if (rule->host)
                r = str_printf(target, sizeof(target), "%s%s", rule->is_wildcard ? "*." : "", rule->host);
        else
                r = str_printf(target, sizeof(target), "%s/%u", network, rule->prefix_length);
        if (r < 0)
                return r;
        /* A long name keeps its end, which says whose it is. */
        if (strlen(target) > 48)
                return str_printf(ret, PRIV_NAME_SIZE, "%s:..%s", verdict_to_string(rule->action),
                                  target + strlen(target) - 46);
        return str_printf(ret, PRIV_NAME_SIZE, "%s:%s", verdict_to_string(rule->action), target);
}
