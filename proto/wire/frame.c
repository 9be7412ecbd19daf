#include "proto/wire/frame.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

typedef struct FrameRule {
        bool is_for_daemon;
        bool is_for_client;
        size_t size_min;
        size_t size_max;
        unsigned flags; /* that may be set */
} FrameRule;

static const FrameRule rules[] = {
        [FRAME_STDIN] = { .is_for_daemon = true, .size_max = FRAME_PAYLOAD_MAX },
        [FRAME_STDOUT] = { .is_for_client = true, .size_max = FRAME_PAYLOAD_MAX },
        [FRAME_RESIZE] = { .is_for_daemon = true, .size_min = 4, .size_max = 4 },
        [FRAME_SIGNAL] = { .is_for_daemon = true, .size_min = 1, .size_max = FRAME_SIGNAL_MAX },
        [FRAME_CREDIT] = { .is_for_daemon = true, .is_for_client = true, .size_min = 4, .size_max = 4 },
        [FRAME_STDERR] = { .is_for_client = true, .size_max = FRAME_PAYLOAD_MAX },
        [FRAME_EXIT] = { .is_for_client = true,
                         .size_min = 4,
                         .size_max = 4,
                         .flags = FRAME_EXIT_SIGNAL | FRAME_EXIT_CORE },
        [FRAME_DROPPED] = { .is_for_client = true, .size_min = 8, .size_max = 8 },
        [FRAME_PING] = { .is_for_client = true },
};

static const FrameRule *find_rule(unsigned type, bool is_daemon)
{
        if (type >= ELEMENTSOF(rules) ||
            !(is_daemon ? rules[type].is_for_daemon : rules[type].is_for_client))
                return NULL;
        return &rules[type];
}

int frame_next(Buf *input, bool is_daemon, Frame *ret)
{
        const FrameRule *rule;
        unsigned char head[FRAME_HEADER_SIZE];
        uint32_t size;

        if (buf_size(input) < sizeof(head))
                return 0;
        memcpy(head, buf_front(input), sizeof(head));
        memcpy(&size, head + 4, sizeof(size));
        size = be32toh(size);
        rule = find_rule(head[0], is_daemon);
        if (!rule || (head[1] & ~rule->flags) || head[2] || head[3] || size < rule->size_min ||
            size > rule->size_max)
                return -EBADMSG;
        if (buf_size(input) - sizeof(head) < size)
                return 0;
        *ret = (Frame){ .type = (FrameType) head[0],
                        .flags = head[1],
                        .payload = buf_front(input) + sizeof(head),
                        .size = size };
        return 1;
}

void frame_consume(Buf *input, const Frame *f)
{
        buf_consume(input, FRAME_HEADER_SIZE + f->size);
}

uint32_t frame_number(const Frame *f)
{
        uint32_t n;

        sb_assert(f->size == sizeof(n));
        memcpy(&n, f->payload, sizeof(n));
        return be32toh(n);
}

uint64_t frame_long_number(const Frame *f)
{
        uint64_t n;

        sb_assert(f->size == sizeof(n));
        memcpy(&n, f->payload, sizeof(n));
        return be64toh(n);
}

void frame_terminal_size(const Frame *f, uint16_t *ret_columns, uint16_t *ret_rows)
{
        uint32_t n = frame_number(f);

        *ret_columns = (uint16_t) (n >> 16);
        *ret_rows = (uint16_t) (n & 0xffff);
}

int frame_put(Buf *output, FrameType type, unsigned flags, const void *payload, size_t size)
{
        uint32_t length = htobe32((uint32_t) size);
        char *tail;
        int r;

        sb_assert(size <= FRAME_PAYLOAD_MAX && flags <= UINT8_MAX);
        r = buf_reserve(output, FRAME_HEADER_SIZE + size, &tail);
        if (r < 0)
                return r;
        tail[0] = (char) type;
        tail[1] = (char) flags;
        tail[2] = tail[3] = 0;
        memcpy(tail + 4, &length, sizeof(length));
        if (size > 0)
                memcpy(tail + FRAME_HEADER_SIZE, payload, size);
        buf_commit(output, FRAME_HEADER_SIZE + size);
        return 0;
}

int frame_put_number(Buf *output, FrameType type, unsigned flags, uint32_t number)
{
        uint32_t n = htobe32(number);

        return frame_put(output, type, flags, &n, sizeof(n));
}

int frame_put_long_number(Buf *output, FrameType type, uint64_t number)
{
        uint64_t n = htobe64(number);

        return frame_put(output, type, 0, &n, sizeof(n));
}

int frame_put_resize(Buf *output, uint16_t columns, uint16_t rows)
{
        return frame_put_number(output, FRAME_RESIZE, 0, (uint32_t) columns << 16 | rows);
}
