#include "daemon/audit/chain.h"

#include <errno.h>
#include <openssl/evp.h>

#define CHAIN_TAG "sandboxd-audit-1"

/* Most rows fit: hashed in one piece they cost less than field by field. */
#define BLOCK_SIZE 1024U

struct Chain {
        EVP_MD *digest;
        EVP_MD_CTX *context;
        uint8_t block[BLOCK_SIZE]; /* not hashed yet */
        size_t n_block;
        bool has_failed;
};

int chain_new(Chain **ret)
{
        _cleanup_(chain_freep) Chain *c = calloc(1, sizeof(*c));

        if (!c)
                return -ENOMEM;
        c->digest = EVP_MD_fetch(NULL, "SHA256", NULL);
        c->context = EVP_MD_CTX_new();
        if (!c->digest || !c->context)
                return -ENOMEM;
        *ret = TAKE_PTR(c);
        return 0;
}

Chain *chain_free(Chain *c)
{
        if (!c)
                return NULL;
        EVP_MD_CTX_free(c->context);
        EVP_MD_free(c->digest);
        free(c);
        return NULL;
}

static void begin(Chain *c)
{
        c->n_block = 0;
        c->has_failed = EVP_DigestInit_ex(c->context, c->digest, NULL) != 1;
}

static void update(Chain *c, const void *data, size_t size)
{
        /* A context whose beginning failed for want of memory must not be touched. */
        if (c->has_failed || EVP_DigestUpdate(c->context, data, size) != 1)
                c->has_failed = true;
}

static void flush(Chain *c)
{
        if (c->n_block > 0)
                update(c, c->block, c->n_block);
        c->n_block = 0;
}

static void add(Chain *c, const void *data, size_t size)
{
        if (size > sizeof(c->block) - c->n_block)
                flush(c);
        if (size > sizeof(c->block)) {
                update(c, data, size);
                return;
        }
        if (size > 0)
                memcpy(c->block + c->n_block, data, size);
        c->n_block += size;
}

static int end(Chain *c, uint8_t ret[DIGEST_SIZE])
{
        uint8_t digest[DIGEST_SIZE];

        flush(c);
        if (c->has_failed || EVP_DigestFinal_ex(c->context, digest, NULL) != 1)
                return -EIO;
        memcpy(ret, digest, sizeof(digest));
        return 0;
}

static void add_bytes(Chain *c, RowBytes field)
{
        uint32_t n = field.data ? (uint32_t) field.size : UINT32_MAX;
        uint8_t length[4] = { (uint8_t) (n >> 24), (uint8_t) (n >> 16), (uint8_t) (n >> 8), (uint8_t) n };

        add(c, length, sizeof(length));
        if (field.data)
                add(c, field.data, field.size);
}

static void add_text(Chain *c, const char *field)
{
        add_bytes(c, (RowBytes){ .data = field, .size = field ? strlen(field) : 0 });
}

static void add_integer(Chain *c, uint64_t v)
{
        uint8_t bytes[8];

        for (unsigned i = 0; i < sizeof(bytes); i++)
                bytes[i] = (uint8_t) (v >> (56 - 8 * i));
        add_bytes(c, (RowBytes){ .data = bytes, .size = sizeof(bytes) });
}

/* Absent when negative. */
static void add_number(Chain *c, int64_t v)
{
        if (v < 0)
                add_bytes(c, (RowBytes){ .data = NULL });
        else
                add_integer(c, (uint64_t) v);
}

static void add_address(Chain *c, const PrivAddress *a)
{
        add_bytes(c,
                  (RowBytes){ .data = a->family != 0 ? a->bytes : NULL, .size = a->family == 4 ? 4 : 16 });
}

int chain_digest(Chain *c, const void *data, size_t size, uint8_t ret[DIGEST_SIZE])
{
        begin(c);
        add(c, data, size);
        return end(c, ret);
}

int chain_genesis(Chain *c, const char *machine_id, uint64_t segment, const uint8_t previous[DIGEST_SIZE],
                  RowBytes public_key, uint8_t ret[DIGEST_SIZE])
{
        begin(c);
        add_text(c, machine_id);
        add_integer(c, segment);
        add_bytes(c, (RowBytes){ .data = previous, .size = DIGEST_SIZE });
        add_bytes(c, public_key);
        return end(c, ret);
}

int chain_private(Chain *c, const Row *row, RowBytes salt, uint8_t ret[DIGEST_SIZE])
{
        begin(c);
        add(c, salt.data, salt.size);
        add_bytes(c, row->path);
        add_bytes(c, row->raw);
        add_text(c, row->detail);
        return end(c, ret);
}

static void add_session(Chain *c, const RowSession *s)
{
        add_text(c, s->id);
        add_integer(c, s->uid);
        add_text(c, s->user);
        add_text(c, s->name);
        add_text(c, s->profile);
        add_text(c, s->agent);
        add_text(c, s->agent_session);
        add_text(c, s->workspace);
        add_text(c, s->cgroup);
        add_text(c, s->degraded);
        add_integer(c, s->started_usec);
}

static void add_close(Chain *c, const Row *row)
{
        add_text(c, "f");
        add_integer(c, row->sequence);
        add_integer(c, row->realtime_usec);
        add_number(c, row->connection);
        add_text(c, row->session ? row->session->id : NULL);
        add_address(c, &row->address);
        add_number(c, row->port);
        add_number(c, row->duration_usec);
        add_number(c, row->sent_bytes);
        add_number(c, row->received_bytes);
        add_text(c, row->reason);
}

static void add_decision(Chain *c, const Row *row, const uint8_t *private_hash)
{
        const RowPolicy *policy = row->policy;

        add_text(c, "d");
        add_integer(c, row->sequence);
        add_integer(c, row->realtime_usec);
        add_integer(c, row->boottime_usec);
        add_text(c, audit_kind_to_string(row->kind));
        add_text(c, row->action);
        add_text(c, row->verdict >= 0 ? verdict_to_string((uint32_t) row->verdict) : NULL);
        add_text(c, row->session ? row->session->id : NULL);
        add_integer(c, row->uid);
        add_number(c, row->process);
        add_bytes(c, (RowBytes){ .data = policy ? policy->digest : NULL, .size = DIGEST_SIZE });
        add_number(c, policy ? (int64_t) policy->generation : -1);
        add_text(c, row->rule.layer);
        add_text(c, row->rule.name);
        add_text(c, row->rule.text);
        add_text(c, row->entry);
        add_text(c, row->protocol);
        add_text(c, row->host);
        add_address(c, &row->address);
        add_number(c, row->port);
        add_text(c, row->method);
        add_number(c, row->status);
        add_number(c, row->pid);
        add_bytes(c, row->executable);
        add_bytes(c, row->executable_digest);
        add_text(c, row->credential);
        add_number(c, row->refers_to);
        add_text(c, row->reason);
        add_bytes(c, (RowBytes){ .data = private_hash, .size = DIGEST_SIZE });
}

int chain_row(Chain *c, const Row *row, const uint8_t previous[DIGEST_SIZE], const uint8_t *private_hash,
              uint8_t ret[DIGEST_SIZE])
{
        begin(c);
        add(c, CHAIN_TAG, strlen(CHAIN_TAG));
        add(c, previous, DIGEST_SIZE);
        if (row->is_close)
                add_close(c, row);
        else
                add_decision(c, row, private_hash);
        if (row->has_session_columns)
                add_session(c, row->session);
        return end(c, ret);
}
