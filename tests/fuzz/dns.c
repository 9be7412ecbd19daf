/* A question from inside: what is taken is complete and canonical, and every answer to it fits. */

#include "daemon/egress/dns_message.h"
#include "daemon/policy/compiled.h"
#include "tests/fuzz/fuzz.h"

static void check_name(const DnsQuestion *q)
{
        PrivAddress a;

        sb_assert(memchr(q->name, '\0', sizeof(q->name)));
        sb_assert(q->n_wire >= 1 && q->n_wire <= sizeof(q->wire) && q->wire[q->n_wire - 1] == 0);
        sb_assert(!q->has_odd_bytes || q->name[0] == '\0');
        sb_assert(q->has_odd_bytes || strlen(q->name) == (q->n_wire > 1 ? q->n_wire - 2 : 0));
        for (const char *c = q->name; *c; c++)
                sb_assert((*c >= 'a' && *c <= 'z') || (*c >= '0' && *c <= '9') || *c == '-' || *c == '_' ||
                          *c == '.');
        if (dns_reverse_parse(q->name, &a) == 0)
                sb_assert(a.family == 4 || a.family == 6);
}

static void answer(const DnsQuestion *q, const uint8_t *data, size_t size, size_t limit)
{
        PrivAddress v6 = { .family = 6 };
        DnsAnswer a;
        uint8_t *copy;

        dns_answer_begin(&a, q, limit);
        if (q->n_wire > 0) {
                dns_answer_put(&a, q, data, size);
                dns_answer_put_address(&a, q, &v6);
                dns_answer_put_name(&a, q, "allowed.test");
                dns_answer_put_name(&a, q, q->name);
        }
        dns_answer_end(&a, q, DNS_NO_NAME, DNS_DETAIL_BLOCKED);
        sb_assert(a.size <= limit && a.size <= DNS_ANSWER_MAX);
        /* It is an answer: nobody answers it. */
        copy = fuzz_copy(a.data, a.size);
        sb_assert(dns_parse(copy, a.size, &(DnsQuestion){ .id = 0 }) < 0);
        free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        _cleanup_free_ uint8_t *copy = fuzz_copy(data, size);
        char text[DNS_TYPE_TEXT_SIZE];
        DnsQuestion q;
        int r = dns_parse(copy, size, &q);

        sb_assert(r < 0 || size >= DNS_HEADER_SIZE);
        if (r < 0)
                return 0;
        if (r == 0)
                check_name(&q);
        else
                sb_assert(q.n_wire == 0);
        sb_assert(q.udp_size >= DNS_UDP_MIN);
        dns_type_format(q.type, text);
        fuzz_read_string(text);
        answer(&q, copy, size, DNS_UDP_MIN);
        answer(&q, copy, size, DNS_ANSWER_MAX);
        return 0;
}
