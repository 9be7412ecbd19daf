#include "daemon/dialer/records.h"

#include <ares.h>
#include <arpa/nameser.h>
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "daemon/policy/compiled.h"
#include "proto/base/str.h"

#define DATA_MAX  2048U /* of one record */
#define CHUNK_MAX 255U

typedef struct Data {
        unsigned char bytes[DATA_MAX];
        size_t size;
        bool is_whole; /* all that was put did fit and could be said */
} Data;

static void data_put(Data *d, const void *bytes, size_t size)
{
        d->is_whole = d->is_whole && size <= sizeof(d->bytes) - d->size;
        if (!d->is_whole)
                return;
        memcpy(d->bytes + d->size, bytes, size);
        d->size += size;
}

static void data_put_number(Data *d, unsigned v, size_t n_bytes)
{
        unsigned char bytes[2] = { (unsigned char) (v >> 8), (unsigned char) v };

        data_put(d, bytes + sizeof(bytes) - n_bytes, n_bytes);
}

/* A host name as c-ares wrote it: one with bytes that it had to escape is none that anybody could use. */
static void data_put_name(Data *d, const char *name)
{
        char canonical[PRIV_HOST_SIZE];
        bool is_root = name[0] == '\0' || str_equal(name, ".");

        d->is_whole = d->is_whole && (is_root || policy_host_canonical(name, strlen(name), canonical) >= 0);
        if (!d->is_whole)
                return;
        for (const char *at = is_root ? "" : canonical; *at;) {
                size_t n = strcspn(at, ".");

                data_put_number(d, (unsigned) n, 1);
                data_put(d, at, n);
                at += n + (at[n] == '.');
        }
        data_put(d, "", 1);
}

static int put_record(Buf *to, const Data *d)
{
        unsigned char length[2] = { (unsigned char) (d->size >> 8), (unsigned char) d->size };
        int r;

        if (!d->is_whole || d->size == 0 || buf_size(to) + sizeof(length) + d->size > to->size_max)
                return 0;
        r = buf_put(to, length, sizeof(length));
        return r < 0 ? r : buf_put(to, d->bytes, d->size);
}

static int put_texts(Buf *to, const unsigned char *answer, int size)
{
        struct ares_txt_ext *all;
        unsigned n = 0;
        int r = 0;

        if (ares_parse_txt_reply_ext(answer, size, &all) != ARES_SUCCESS)
                return -EBADMSG;
        for (const struct ares_txt_ext *t = all; r >= 0 && t && n < RECORDS_MAX; n++) {
                Data d = { .is_whole = true };

                do {
                        d.is_whole = d.is_whole && t->length <= CHUNK_MAX;
                        data_put_number(&d, (unsigned) t->length, 1);
                        data_put(&d, t->txt, t->length);
                        t = t->next;
                } while (t && !t->record_start);
                r = put_record(to, &d);
        }
        ares_free_data(all);
        return r;
}

static int put_services(Buf *to, const unsigned char *answer, int size)
{
        struct ares_srv_reply *all;
        unsigned n = 0;
        int r = 0;

        if (ares_parse_srv_reply(answer, size, &all) != ARES_SUCCESS)
                return -EBADMSG;
        for (const struct ares_srv_reply *s = all; r >= 0 && s && n < RECORDS_MAX; s = s->next, n++) {
                Data d = { .is_whole = true };

                data_put_number(&d, s->priority, 2);
                data_put_number(&d, s->weight, 2);
                data_put_number(&d, s->port, 2);
                data_put_name(&d, s->host);
                r = put_record(to, &d);
        }
        ares_free_data(all);
        return r;
}

static int put_mailers(Buf *to, const unsigned char *answer, int size)
{
        struct ares_mx_reply *all;
        unsigned n = 0;
        int r = 0;

        if (ares_parse_mx_reply(answer, size, &all) != ARES_SUCCESS)
                return -EBADMSG;
        for (const struct ares_mx_reply *m = all; r >= 0 && m && n < RECORDS_MAX; m = m->next, n++) {
                Data d = { .is_whole = true };

                data_put_number(&d, m->priority, 2);
                data_put_name(&d, m->host);
                r = put_record(to, &d);
        }
        ares_free_data(all);
        return r;
}

static int put_authorities(Buf *to, const unsigned char *answer, int size)
{
        struct ares_caa_reply *all;
        unsigned n = 0;
        int r = 0;

        if (ares_parse_caa_reply(answer, size, &all) != ARES_SUCCESS)
                return -EBADMSG;
        for (const struct ares_caa_reply *c = all; r >= 0 && c && n < RECORDS_MAX; c = c->next, n++) {
                Data d = { .is_whole = c->plength > 0 && c->plength <= CHUNK_MAX };

                data_put_number(&d, (unsigned) c->critical & 0xffU, 1);
                data_put_number(&d, (unsigned) c->plength, 1);
                data_put(&d, c->property, c->plength);
                data_put(&d, c->value, c->length);
                r = put_record(to, &d);
        }
        ares_free_data(all);
        return r;
}

int records_type(uint32_t dns_type)
{
        switch (dns_type) {
        case POLICY_DNS_TXT:
                return ns_t_txt;
        case POLICY_DNS_SRV:
                return ns_t_srv;
        case POLICY_DNS_MX:
                return ns_t_mx;
        case POLICY_DNS_CAA:
                return ns_t_caa;
        default:
                return -EINVAL;
        }
}

int records_put(Buf *to, uint32_t dns_type, const unsigned char *answer, size_t size)
{
        if (size > INT_MAX)
                return -EBADMSG;
        switch (dns_type) {
        case POLICY_DNS_TXT:
                return put_texts(to, answer, (int) size);
        case POLICY_DNS_SRV:
                return put_services(to, answer, (int) size);
        case POLICY_DNS_MX:
                return put_mailers(to, answer, (int) size);
        case POLICY_DNS_CAA:
                return put_authorities(to, answer, (int) size);
        default:
                return -EINVAL;
        }
}
