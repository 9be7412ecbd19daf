#include "tests/fuzz/upstream.h"

#include <ares.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/base/fd.h"
#include "proto/base/macro.h"
#include "tests/fuzz/fuzz.h"

#define SOCKETS_MAX 16U
#define HEADER      12U
#define ANSWER_MAX  1400U
#define RECORDS_MAX 32U

typedef struct Question {
        uint8_t bytes[512];
        size_t size;
} Question;

/* The resolver's descriptor and our end of it. */
static struct {
        int fd;
        int end;
        bool is_stream;
} sockets[SOCKETS_MAX];
static size_t n_sockets;
static bool has_spoken;
static uint8_t last_id[2];

static const uint8_t v4[][4] = { { 93, 184, 216, 40 }, { 93, 184, 216, 41 },   { 10, 0, 0, 1 },
                                 { 127, 0, 0, 1 },     { 169, 254, 169, 254 }, { 100, 64, 0, 1 },
                                 { 192, 168, 1, 1 },   { 8, 8, 8, 8 },         { 172, 16, 0, 1 },
                                 { 0, 0, 0, 0 },       { 224, 0, 0, 251 },     { 100, 100, 100, 200 } };
static const uint8_t v6[][16] = { { 0x26, 0x06, 0x28, [15] = 1 },
                                  { [15] = 1 },
                                  { [10] = 0xff, 0xff, 127, 0, 0, 1 },
                                  { [10] = 0xff, 0xff, 93, 184, 216, 42 },
                                  { 0x00, 0x64, 0xff, 0x9b, [12] = 169, 254, 169, 254 },
                                  { 0x20, 0x02, 10, 0, 0, 1 },
                                  { 0xfe, 0x80, [15] = 1 },
                                  { 0xfd, 0x00, 0x0e, 0xc2, [14] = 2, 0x54 } };
static const char *const targets[] = { "\2up\4test", "\1a\2up\4test", "\4evil\4test", "\11localhost", "" };

int __wrap_ares_init_options(ares_channel *channel, struct ares_options *options, int mask);
int __real_ares_init_options(ares_channel *channel, struct ares_options *options, int mask);

static ares_socket_t open_socket(_unused_ int family, int type, _unused_ int protocol,
                                 _unused_ void *userdata)
{
        bool is_stream = type == SOCK_STREAM;
        int fds[2];

        if (n_sockets == SOCKETS_MAX) {
                errno = EMFILE;
                return ARES_SOCKET_BAD;
        }
        sb_assert(socketpair(AF_UNIX, (is_stream ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC | SOCK_NONBLOCK,
                             0, fds) == 0);
        sockets[n_sockets].fd = fds[0];
        sockets[n_sockets].end = fds[1];
        sockets[n_sockets++].is_stream = is_stream;
        return fds[0];
}

static int close_socket(ares_socket_t fd, _unused_ void *userdata)
{
        for (size_t i = 0; i < n_sockets; i++) {
                if (sockets[i].fd != fd)
                        continue;
                (void) close(sockets[i].end);
                sockets[i] = sockets[--n_sockets];
                break;
        }
        return close(fd);
}

static int connect_socket(_unused_ ares_socket_t fd, _unused_ const struct sockaddr *to,
                          _unused_ ares_socklen_t size, _unused_ void *userdata)
{
        return 0;
}

static ares_ssize_t receive(ares_socket_t fd, void *data, size_t size, int flags, struct sockaddr *from,
                            ares_socklen_t *from_size, _unused_ void *userdata)
{
        struct sockaddr_in server = { .sin_family = AF_INET,
                                      .sin_port = htons(9),
                                      .sin_addr = { .s_addr = htonl(INADDR_LOOPBACK) } };

        if (from && from_size && *from_size >= (ares_socklen_t) sizeof(server)) {
                memcpy(from, &server, sizeof(server));
                *from_size = sizeof(server);
        }
        return recv(fd, data, size, flags | MSG_DONTWAIT);
}

static ares_ssize_t send_all(ares_socket_t fd, const struct iovec *parts, int n, _unused_ void *userdata)
{
        struct msghdr m = { .msg_iov = (struct iovec *) (uintptr_t) parts, .msg_iovlen = (size_t) n };

        return sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
}

int __wrap_ares_init_options(ares_channel *channel, struct ares_options *options, int mask)
{
        static const struct ares_socket_functions functions = { open_socket, close_socket, connect_socket,
                                                                receive, send_all };
        int status = __real_ares_init_options(channel, options, mask);

        if (status == ARES_SUCCESS)
                ares_set_socket_functions(*channel, &functions, NULL);
        return status;
}

void upstream_reset(void)
{
        sb_assert(n_sockets == 0);
        has_spoken = false;
        memset(last_id, 0, sizeof(last_id));
}

bool upstream_has_spoken(void)
{
        return has_spoken;
}

/* ---- answers ---- */

typedef struct Answer {
        uint8_t bytes[ANSWER_MAX];
        size_t size;
        const uint8_t **data;
        size_t *left;
} Answer;

static uint8_t take(Answer *a)
{
        return fuzz_take_byte(a->data, a->left);
}

static void put(Answer *a, const void *bytes, size_t size)
{
        size = MIN_OF(size, sizeof(a->bytes) - a->size);
        memcpy(a->bytes + a->size, bytes, size);
        a->size += size;
}

static void put16(Answer *a, unsigned value)
{
        put(a, (uint8_t[]){ (uint8_t) (value >> 8), (uint8_t) value }, 2);
}

static void put_raw(Answer *a, size_t size)
{
        size = MIN_OF(size, *a->left);
        put(a, *a->data, size);
        *a->data += size;
        *a->left -= size;
}

static void put_target(Answer *a)
{
        const char *name = targets[take(a) % ELEMENTSOF(targets)];

        put(a, name, strlen(name) + 1);
}

static void put_data(Answer *a, uint8_t kind)
{
        switch (kind % 8) {
        case 0:
                put(a, v4[take(a) % ELEMENTSOF(v4)], 4);
                break;
        case 1:
                put(a, v6[take(a) % ELEMENTSOF(v6)], 16);
                break;
        case 2:
                put_target(a);
                break;
        case 3:
                put_raw(a, 4);
                break;
        case 4:
                put_raw(a, 16);
                break;
        case 5: /* MX and SRV begin with numbers */
                put16(a, take(a));
                put_target(a);
                break;
        case 6: /* SRV */
                put(a, "\0\0\0\0\1\273", 6);
                put_target(a);
                break;
        default:
                put_raw(a, take(a));
                break;
        }
}

static void put_record(Answer *a)
{
        static const uint16_t types[] = { 1, 28, 5, 1, 28, 15, 33, 16, 257, 6, 41, 46, 64, 65, 2, 255 };
        uint8_t kind = take(a), owner = take(a);
        size_t at;

        /* The question's name; a pointer to anywhere, itself for one; a name of its own. */
        if (owner < 160)
                put16(a, 0xc000 | HEADER);
        else if (owner < 200)
                put16(a, 0xc000U | take(a));
        else
                put_target(a);
        put16(a, kind & 0x80 ? take(a) : types[kind % ELEMENTSOF(types)]);
        put16(a, owner % 16 == 15 ? take(a) : 1);
        put(a, "\0\0\0\1", 4);
        at = a->size;
        put16(a, 0);
        put_data(a, kind & 0x40 ? take(a) : kind);
        if (at + 2 <= a->size) {
                size_t n = a->size - at - 2 + (owner % 16 == 14 ? take(a) : 0U);

                a->bytes[at] = (uint8_t) (n >> 8);
                a->bytes[at + 1] = (uint8_t) n;
        }
}

/* What is read of the question: its number and what follows the header, as far as it can be told. */
static void build(Answer *a, const Question *q)
{
        static const uint8_t codes[] = { 0, 0, 0, 0, 3, 2, 5, 1 };
        uint8_t how = take(a), n = take(a) % RECORDS_MAX, more = n & 16 ? take(a) : 0;
        size_t counts;

        put(a, how & 0x40 ? last_id : q->bytes, 2);
        put(a, (uint8_t[]){ how & 0x08 ? 0x83 : 0x81, (uint8_t) (0x80 | codes[how % 8]) }, 2);
        counts = a->size;
        put(a, "\0\1\0\0\0\0\0\0", 8);
        a->bytes[counts + 3] = (uint8_t) (n % 16 + (more & 1));
        a->bytes[counts + 5] = more & 2 ? 1 : 0;
        a->bytes[counts + 7] = more & 4 ? 1 : 0;
        if (how & 0x10)
                put_raw(a, take(a));
        else
                put(a, q->bytes + HEADER, q->size - HEADER);
        for (unsigned i = 0; i < n % 16; i++)
                put_record(a);
        if (how & 0x20)
                put_raw(a, take(a));
        memcpy(last_id, q->bytes, sizeof(last_id));
}

static bool read_question(size_t i, Question *ret)
{
        uint8_t head[2];
        ssize_t n = sizeof(ret->bytes);

        if (sockets[i].is_stream) {
                if (recv(sockets[i].end, head, sizeof(head), MSG_DONTWAIT) != sizeof(head))
                        return false;
                n = MIN_OF(n, head[0] << 8 | head[1]);
        }
        n = recv(sockets[i].end, ret->bytes, (size_t) n, MSG_DONTWAIT);
        ret->size = n > 0 ? (size_t) n : 0;
        return ret->size > HEADER;
}

void upstream_answer(const uint8_t **data, size_t *size)
{
        Answer a = { .data = data, .left = size };
        Question q;

        for (size_t i = 0; i < n_sockets; i++) {
                uint8_t head[2];

                if (!read_question(i, &q))
                        continue;
                build(&a, &q);
                head[0] = (uint8_t) (a.size >> 8);
                head[1] = (uint8_t) a.size;
                has_spoken = true;
                if (sockets[i].is_stream)
                        (void) send(sockets[i].end, head, sizeof(head), MSG_NOSIGNAL | MSG_DONTWAIT);
                (void) send(sockets[i].end, a.bytes, a.size, MSG_NOSIGNAL | MSG_DONTWAIT);
                return;
        }
}
