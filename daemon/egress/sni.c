#include "daemon/egress/sni.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#define RECORD_HEADER_SIZE     5U
#define RECORD_PAYLOAD_MAX     16384U
#define RECORD_HANDSHAKE       22U
#define HANDSHAKE_HEADER_SIZE  4U
#define HANDSHAKE_CLIENT_HELLO 1U
#define EXTENSION_SERVER_NAME  0U
#define NAME_TYPE_HOST         0U

/* What is left of a vector. A read beyond its end sets is_broken and yields 0. */
typedef struct Reader {
        const unsigned char *at;
        size_t size;
        bool is_broken;
} Reader;

static const unsigned char *take(Reader *r, size_t n)
{
        const unsigned char *p = r->at;

        if (r->is_broken || n > r->size) {
                r->is_broken = true;
                return NULL;
        }
        r->at += n;
        r->size -= n;
        return p;
}

static size_t take_number(Reader *r, size_t n_bytes)
{
        const unsigned char *p = take(r, n_bytes);
        size_t v = 0;

        for (size_t i = 0; p && i < n_bytes; i++)
                v = v << 8 | p[i];
        return v;
}

static Reader take_vector(Reader *r, size_t n_length_bytes)
{
        size_t n = take_number(r, n_length_bytes);
        const unsigned char *p = take(r, n);

        return (Reader){ .at = p, .size = p ? n : 0, .is_broken = !p };
}

static int read_server_name(Reader extension, char ret_name[SNI_NAME_SIZE], size_t *ret_size)
{
        Reader list = take_vector(&extension, 2), name;
        size_t type;

        if (list.is_broken || extension.size > 0)
                return -EBADMSG;
        type = take_number(&list, 1);
        name = take_vector(&list, 2);
        /* A second entry could be the one that the server takes. */
        if (name.is_broken || list.is_broken || list.size > 0 || type != NAME_TYPE_HOST)
                return -EBADMSG;
        if (name.size == 0 || name.size >= SNI_NAME_SIZE)
                return -EBADMSG;
        memcpy(ret_name, name.at, name.size);
        *ret_size = name.size;
        return 0;
}

static int read_hello(Reader hello, char ret_name[SNI_NAME_SIZE], size_t *ret_size)
{
        Reader extensions;
        bool has_name = false;

        *ret_size = 0;
        (void) take(&hello, 2 + 32);
        (void) take_vector(&hello, 1);
        (void) take_vector(&hello, 2);
        (void) take_vector(&hello, 1);
        if (hello.is_broken)
                return -EBADMSG;
        if (hello.size == 0)
                return 0;
        extensions = take_vector(&hello, 2);
        if (extensions.is_broken || hello.size > 0)
                return -EBADMSG;
        while (extensions.size > 0) {
                size_t type = take_number(&extensions, 2);
                Reader extension = take_vector(&extensions, 2);
                int r;

                if (extension.is_broken || extensions.is_broken)
                        return -EBADMSG;
                if (type != EXTENSION_SERVER_NAME)
                        continue;
                if (has_name)
                        return -EBADMSG;
                has_name = true;
                r = read_server_name(extension, ret_name, ret_size);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* Bytes of the hello, its header included; 0: the header is not there yet. */
static size_t hello_size(const unsigned char *hello, size_t n)
{
        if (n < HANDSHAKE_HEADER_SIZE)
                return 0;
        return HANDSHAKE_HEADER_SIZE + ((size_t) hello[1] << 16 | (size_t) hello[2] << 8 | hello[3]);
}

/* Copies the payload of the records up to the end of the hello: what follows it is not judged, so that the
 * answer does not depend on how the bytes arrive. The last record may be cut. */
static int gather(const unsigned char *data, size_t size, unsigned char *hello, size_t *ret_n)
{
        size_t n = 0, at = 0;

        while (size - at >= RECORD_HEADER_SIZE && (n < HANDSHAKE_HEADER_SIZE || n < hello_size(hello, n))) {
                size_t length = (size_t) data[at + 3] << 8 | data[at + 4], got;

                if (data[at] != RECORD_HANDSHAKE || data[at + 1] != 3 || length == 0 ||
                    length > RECORD_PAYLOAD_MAX)
                        return -EBADMSG;
                at += RECORD_HEADER_SIZE;
                got = MIN_OF(length, size - at);
                memcpy(hello + n, data + at, got);
                n += got;
                at += got;
        }
        *ret_n = n;
        return 0;
}

int sni_find(const char *data, size_t size, char ret_name[SNI_NAME_SIZE], size_t *ret_size)
{
        const unsigned char *p = (const unsigned char *) data;
        _cleanup_free_ unsigned char *hello = NULL;
        size_t n = 0, whole;
        int r;

        if (size == 0)
                return 0;
        if (p[0] != RECORD_HANDSHAKE)
                return -EBADMSG;
        hello = malloc(MIN_OF(size, SNI_HELLO_MAX));
        if (!hello)
                return -ENOMEM;
        r = gather(p, MIN_OF(size, SNI_HELLO_MAX), hello, &n);
        if (r < 0)
                return r;
        whole = hello_size(hello, n);
        if (n > 0 && hello[0] != HANDSHAKE_CLIENT_HELLO)
                return -EBADMSG;
        if (whole > SNI_HELLO_MAX)
                return -EBADMSG;
        if (whole == 0 || n < whole)
                return size >= SNI_HELLO_MAX ? -EBADMSG : 0;
        r = read_hello((Reader){ .at = hello + HANDSHAKE_HEADER_SIZE,
                                 .size = whole - HANDSHAKE_HEADER_SIZE },
                       ret_name, ret_size);
        return r < 0 ? r : 1;
}
