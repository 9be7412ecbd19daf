#include "daemon/egress/dns_message.h"

#include <errno.h>
#include <string.h>

#include "proto/base/parse.h"
#include "proto/base/str.h"

#define LABEL_MAX   63U
#define CLASS_IN    1U
#define RECORD_SIZE 12U /* without its data; the name is a pointer to the question's */
#define OPT_SIZE    11U
#define DETAIL_SIZE 6U
/* One for all answers: an upstream's numbers and changes tell a program inside nothing. */
#define ANSWER_TTL UINT32_C(10)

#define FLAG_ANSWER       0x8000U
#define FLAG_OPCODE       0x7800U
#define FLAG_TRUNCATED    0x0200U
#define FLAG_WANTS_RECURS 0x0100U
#define FLAG_DOES_RECURS  0x0080U
#define FLAG_NO_CHECKING  0x0010U

typedef struct Reader {
        const uint8_t *data;
        size_t size;
        size_t at;
} Reader;

static bool read_number(Reader *r, size_t n_bytes, uint32_t *ret)
{
        uint32_t v = 0;

        if (r->size - r->at < n_bytes)
                return false;
        for (size_t i = 0; i < n_bytes; i++)
                v = v << 8 | r->data[r->at++];
        *ret = v;
        return true;
}

static bool read_u16(Reader *r, uint16_t *ret)
{
        uint32_t v;

        if (!read_number(r, 2, &v))
                return false;
        *ret = (uint16_t) v;
        return true;
}

static char text_byte(uint8_t c, bool *has_odd_bytes)
{
        if (c >= 'A' && c <= 'Z')
                return (char) (c - 'A' + 'a');
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_'))
                *has_odd_bytes = true;
        return (char) c;
}

/* A pointer has no place in a question: there is nothing before it to point to. */
static bool read_name(Reader *r, DnsQuestion *q)
{
        size_t begin = r->at, n_text = 0;

        for (;;) {
                uint32_t n;

                if (!read_number(r, 1, &n) || n > LABEL_MAX || r->size - r->at < n ||
                    r->at - begin + n + (n > 0) > DNS_WIRE_MAX)
                        return false;
                if (n == 0)
                        break;
                if (n_text > 0)
                        q->name[n_text++] = '.';
                for (uint32_t i = 0; i < n; i++)
                        q->name[n_text++] = text_byte(r->data[r->at++], &q->has_odd_bytes);
        }
        q->name[n_text] = '\0';
        if (q->has_odd_bytes)
                q->name[0] = '\0';
        q->n_wire = r->at - begin;
        memcpy(q->wire, r->data + begin, q->n_wire);
        return true;
}

/* What options hold (client subnet, cookies) is nobody's business. Returns a DnsCode. */
static int read_opt(Reader *r, DnsQuestion *q)
{
        uint32_t owner, ttl;
        uint16_t type, size, length;

        if (!read_number(r, 1, &owner) || !read_u16(r, &type) || !read_u16(r, &size) ||
            !read_number(r, 4, &ttl) || !read_u16(r, &length) || r->size - r->at < length)
                return DNS_FORMAT_ERROR;
        if (owner != 0 || type != DNS_OPT)
                return DNS_FORMAT_ERROR;
        r->at += length;
        q->has_edns = true;
        q->udp_size = MAX_OF(size, (uint16_t) DNS_UDP_MIN);
        return (ttl >> 16 & 0xffU) != 0 ? DNS_BAD_VERSION : 0;
}

static int fail(DnsQuestion *q, int code)
{
        q->n_wire = 0;
        q->name[0] = '\0';
        return code;
}

int dns_parse(const uint8_t *data, size_t size, DnsQuestion *ret)
{
        Reader r = { .data = data, .size = size };
        uint16_t n_questions, n_answers, n_authorities, n_additional;
        int code = 0;

        *ret = (DnsQuestion){ .udp_size = DNS_UDP_MIN };
        if (!read_u16(&r, &ret->id) || !read_u16(&r, &ret->flags) || !read_u16(&r, &n_questions) ||
            !read_u16(&r, &n_answers) || !read_u16(&r, &n_authorities) || !read_u16(&r, &n_additional) ||
            ret->flags & FLAG_ANSWER)
                return -EBADMSG;
        if (ret->flags & FLAG_OPCODE)
                return fail(ret, DNS_NOT_IMPLEMENTED);
        if (ret->flags & FLAG_TRUNCATED || n_questions != 1 || n_answers != 0 || n_authorities != 0 ||
            n_additional > 1)
                return fail(ret, DNS_FORMAT_ERROR);
        if (!read_name(&r, ret) || !read_u16(&r, &ret->type) || !read_u16(&r, &ret->class))
                return fail(ret, DNS_FORMAT_ERROR);
        if (n_additional == 1)
                code = read_opt(&r, ret);
        if (code == 0 && r.at != r.size)
                code = DNS_FORMAT_ERROR;
        if (code == 0 && ret->class != CLASS_IN)
                code = DNS_NOT_IMPLEMENTED;
        return code == 0 ? 0 : fail(ret, code);
}

/* ---- answers ---- */

static void put_u16(uint8_t *to, unsigned v)
{
        to[0] = (uint8_t) (v >> 8);
        to[1] = (uint8_t) v;
}

static size_t size_of_end(const DnsQuestion *q)
{
        return q->has_edns ? OPT_SIZE + DETAIL_SIZE : 0;
}

void dns_answer_begin(DnsAnswer *a, const DnsQuestion *q, size_t limit)
{
        *a = (DnsAnswer){ .limit = MIN_OF(limit, (size_t) DNS_ANSWER_MAX), .size = DNS_HEADER_SIZE };
        memset(a->data, 0, DNS_HEADER_SIZE);
        put_u16(a->data, q->id);
        if (q->n_wire == 0)
                return;
        memcpy(a->data + a->size, q->wire, q->n_wire);
        a->size += q->n_wire;
        put_u16(a->data + a->size, q->type);
        put_u16(a->data + a->size + 2, q->class);
        a->size += 4;
}

void dns_answer_put(DnsAnswer *a, const DnsQuestion *q, const void *data, size_t size)
{
        uint8_t *to = a->data + a->size;

        if (size > DNS_ANSWER_MAX || a->size + RECORD_SIZE + size + size_of_end(q) > a->limit) {
                a->is_truncated = true;
                return;
        }
        put_u16(to, 0xc000U | DNS_HEADER_SIZE);
        put_u16(to + 2, q->type);
        put_u16(to + 4, CLASS_IN);
        put_u16(to + 6, ANSWER_TTL >> 16);
        put_u16(to + 8, ANSWER_TTL & 0xffffU);
        put_u16(to + 10, (unsigned) size);
        memcpy(to + RECORD_SIZE, data, size);
        a->size += RECORD_SIZE + size;
        a->n_answers++;
}

void dns_answer_put_address(DnsAnswer *a, const DnsQuestion *q, const PrivAddress *address)
{
        dns_answer_put(a, q, address->bytes, address->family == 4 ? 4 : 16);
}

void dns_answer_put_name(DnsAnswer *a, const DnsQuestion *q, const char *name)
{
        uint8_t wire[DNS_WIRE_MAX + 1];
        size_t n = 0;

        for (const char *at = name; *at && strlen(name) < DNS_WIRE_MAX - 1;) {
                size_t n_label = strcspn(at, ".");

                if (n_label == 0 || n_label > LABEL_MAX)
                        return;
                wire[n++] = (uint8_t) n_label;
                memcpy(wire + n, at, n_label);
                n += n_label;
                at += n_label + (at[n_label] == '.');
        }
        wire[n++] = 0;
        dns_answer_put(a, q, wire, n);
}

static void put_opt(DnsAnswer *a, DnsCode code, unsigned detail)
{
        uint8_t *to = a->data + a->size;

        memset(to, 0, OPT_SIZE);
        put_u16(to + 1, DNS_OPT);
        put_u16(to + 3, DNS_UDP_MAX);
        to[5] = (uint8_t) ((unsigned) code >> 4);
        a->size += OPT_SIZE;
        if (detail == DNS_DETAIL_NONE)
                return;
        put_u16(to + 9, DETAIL_SIZE);
        put_u16(to + 11, 15);
        put_u16(to + 13, 2);
        put_u16(to + 15, detail);
        a->size += DETAIL_SIZE;
}

/* An answer with no bit for recursion, and no data, counts as a lame referral for some. */
void dns_answer_end(DnsAnswer *a, const DnsQuestion *q, DnsCode code, unsigned detail)
{
        unsigned flags = FLAG_ANSWER | FLAG_DOES_RECURS |
                         (q->flags & (FLAG_WANTS_RECURS | FLAG_NO_CHECKING)) | ((unsigned) code & 0xfU);

        if (a->is_truncated)
                flags |= FLAG_TRUNCATED;
        if (code == DNS_NOT_IMPLEMENTED)
                flags |= q->flags & FLAG_OPCODE;
        put_u16(a->data + 2, flags);
        put_u16(a->data + 4, q->n_wire > 0);
        put_u16(a->data + 6, a->n_answers);
        if (!q->has_edns)
                return;
        put_u16(a->data + 10, 1);
        put_opt(a, code, detail);
}

/* ---- names of types ---- */

void dns_type_format(uint16_t type, char text[DNS_TYPE_TEXT_SIZE])
{
        static const struct {
                uint16_t type;
                const char *name;
        } all[] = {
                { DNS_A, "A" },       { DNS_NS, "NS" },     { DNS_CNAME, "CNAME" }, { DNS_SOA, "SOA" },
                { DNS_NULL, "NULL" }, { DNS_PTR, "PTR" },   { DNS_MX, "MX" },       { DNS_TXT, "TXT" },
                { DNS_AAAA, "AAAA" }, { DNS_SRV, "SRV" },   { DNS_NAPTR, "NAPTR" }, { DNS_SSHFP, "SSHFP" },
                { DNS_TLSA, "TLSA" }, { DNS_SVCB, "SVCB" }, { DNS_HTTPS, "HTTPS" }, { DNS_ANY, "ANY" },
                { DNS_CAA, "CAA" },
        };

        for (size_t i = 0; i < ELEMENTSOF(all); i++) {
                if (all[i].type == type) {
                        (void) !str_copy(text, DNS_TYPE_TEXT_SIZE, all[i].name);
                        return;
                }
        }
        (void) !str_printf(text, DNS_TYPE_TEXT_SIZE, "TYPE%u", type);
}

/* ---- reverse names ---- */

static int hex_digit(char c)
{
        if (c >= '0' && c <= '9')
                return c - '0';
        return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -EINVAL;
}

static int reverse_v6(const char *name, PrivAddress *ret)
{
        PrivAddress a = { .family = 6 };

        if (strlen(name) != 64 + strlen("ip6.arpa") || !str_equal(name + 64, "ip6.arpa"))
                return -EINVAL;
        for (size_t i = 0; i < 32; i++) {
                int digit = hex_digit(name[2 * i]);

                if (digit < 0 || name[2 * i + 1] != '.')
                        return -EINVAL;
                a.bytes[15 - i / 2] |= (uint8_t) (i % 2 == 0 ? digit : digit << 4);
        }
        *ret = a;
        return 0;
}

static int reverse_v4(const char *name, PrivAddress *ret)
{
        PrivAddress a = { .family = 4 };

        for (size_t i = 0; i < 4; i++) {
                size_t n = strcspn(name, ".");
                char text[4] = "";
                uint32_t v;

                if (n == 0 || n >= sizeof(text) || name[n] != '.')
                        return -EINVAL;
                memcpy(text, name, n);
                if (parse_u32(text, &v) < 0 || v > 255 || (text[0] == '0' && n > 1))
                        return -EINVAL;
                a.bytes[3 - i] = (uint8_t) v;
                name += n + 1;
        }
        if (!str_equal(name, "in-addr.arpa"))
                return -EINVAL;
        *ret = a;
        return 0;
}

int dns_reverse_parse(const char *name, PrivAddress *ret)
{
        return str_has_suffix(name, ".ip6.arpa") ? reverse_v6(name, ret) : reverse_v4(name, ret);
}
