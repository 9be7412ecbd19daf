#include "daemon/audit/checkpoint.h"

#include <errno.h>
#include <openssl/evp.h>

#include "proto/base/parse.h"
#include "proto/base/str.h"

#define CHECKPOINT_TAG "sandboxd-checkpoint-1"
#define KEY_TYPE       "ED25519"

struct SigningKey {
        EVP_PKEY *key;
        EVP_MD_CTX *context;
};

int signing_key_new(const uint8_t *secret, SigningKey **ret)
{
        _cleanup_(signing_key_freep) SigningKey *k = calloc(1, sizeof(*k));

        if (!k)
                return -ENOMEM;
        k->key = EVP_PKEY_new_raw_private_key_ex(NULL, KEY_TYPE, NULL, secret, KEY_SIZE);
        k->context = EVP_MD_CTX_new();
        if (!k->key || !k->context)
                return -ENOMEM;
        *ret = TAKE_PTR(k);
        return 0;
}

SigningKey *signing_key_free(SigningKey *k)
{
        if (!k)
                return NULL;
        EVP_MD_CTX_free(k->context);
        EVP_PKEY_free(k->key);
        free(k);
        return NULL;
}

int signing_key_public(const SigningKey *k, uint8_t ret[KEY_SIZE])
{
        size_t n = KEY_SIZE;

        return EVP_PKEY_get_raw_public_key(k->key, ret, &n) == 1 && n == KEY_SIZE ? 0 : -EIO;
}

/* The text that is signed, and the first part of the line. */
static int format_signed(const Checkpoint *c, char text[CHECKPOINT_LINE_SIZE], const char *prefix)
{
        char head[2 * DIGEST_SIZE + 1];

        str_hex(head, c->head, sizeof(c->head));
        return str_printf(text, CHECKPOINT_LINE_SIZE, "%s%llu %s %llu", prefix,
                          (unsigned long long) c->sequence, head, (unsigned long long) c->realtime_usec);
}

static int format_message(const Checkpoint *c, char text[CHECKPOINT_LINE_SIZE])
{
        size_t n;
        int r;

        r = format_signed(c, text, CHECKPOINT_TAG " ");
        if (r < 0)
                return r;
        n = strlen(text);
        return str_copy(text + n, CHECKPOINT_LINE_SIZE - n, "\n");
}

int checkpoint_sign(const SigningKey *k, Checkpoint *c)
{
        char text[CHECKPOINT_LINE_SIZE];
        size_t n = sizeof(c->signature);
        int r;

        r = format_message(c, text);
        if (r < 0)
                return r;
        if (EVP_MD_CTX_reset(k->context) != 1 ||
            EVP_DigestSignInit_ex(k->context, NULL, NULL, NULL, NULL, k->key, NULL) != 1 ||
            EVP_DigestSign(k->context, c->signature, &n, (const uint8_t *) text, strlen(text)) != 1 ||
            n != sizeof(c->signature))
                return -EIO;
        return 0;
}

int checkpoint_verify(const Checkpoint *c, const uint8_t public_key[KEY_SIZE])
{
        EVP_PKEY *key = EVP_PKEY_new_raw_public_key_ex(NULL, KEY_TYPE, NULL, public_key, KEY_SIZE);
        EVP_MD_CTX *context = EVP_MD_CTX_new();
        char text[CHECKPOINT_LINE_SIZE];
        int r;

        r = format_message(c, text);
        if (r >= 0 &&
            (!context || (key && EVP_DigestVerifyInit_ex(context, NULL, NULL, NULL, NULL, key, NULL) != 1)))
                r = -ENOMEM;
        /* Bytes that are no point of the curve are no key, and sign nothing. */
        if (r >= 0)
                r = key && EVP_DigestVerify(context, c->signature, sizeof(c->signature),
                                            (const uint8_t *) text, strlen(text)) == 1;
        EVP_MD_CTX_free(context);
        EVP_PKEY_free(key);
        return r;
}

void checkpoint_format(const Checkpoint *c, char line[CHECKPOINT_LINE_SIZE])
{
        char signature[2 * SIGNATURE_SIZE + 1];
        size_t n;

        str_hex(signature, c->signature, sizeof(c->signature));
        sb_assert(format_signed(c, line, "") >= 0);
        n = strlen(line);
        sb_assert(str_printf(line + n, CHECKPOINT_LINE_SIZE - n, " %s\n", signature) >= 0);
}

int checkpoint_parse(const char *line, Checkpoint *ret)
{
        char copy[CHECKPOINT_LINE_SIZE], *words[4];
        size_t n = 0;
        Checkpoint c;

        if (str_copy(copy, sizeof(copy), line) < 0)
                return -EINVAL;
        for (char *at = copy; at; n++) {
                char *space = strchr(at, ' ');

                if (n == ELEMENTSOF(words))
                        return -EINVAL;
                words[n] = at;
                at = space ? space + 1 : NULL;
                if (space)
                        *space = '\0';
        }
        if (n != ELEMENTSOF(words) || parse_u64(words[0], &c.sequence) < 0 || c.sequence == 0 ||
            parse_hex(words[1], c.head, sizeof(c.head)) < 0 || parse_u64(words[2], &c.realtime_usec) < 0 ||
            parse_hex(words[3], c.signature, sizeof(c.signature)) < 0)
                return -EINVAL;
        *ret = c;
        return 0;
}

int key_id(const uint8_t public_key[KEY_SIZE], char ret[KEY_ID_SIZE])
{
        uint8_t digest[DIGEST_SIZE];
        size_t n = sizeof(digest);

        if (EVP_Q_digest(NULL, "SHA256", NULL, public_key, KEY_SIZE, digest, &n) != 1)
                return -EIO;
        str_hex(ret, digest, (KEY_ID_SIZE - 1) / 2);
        return 0;
}
