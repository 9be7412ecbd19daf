/*
 * Hostile bytes on a private channel. Input: channel, role and phase, then packets: flags, length (2 bytes),
 * bytes. Flags: 1 the size and number in the header are put right, 2 the body grows to the least that its
 * message takes, the upper half is how many descriptors go along.
 */

#include "proto/wire/imsg.h"

#include "proto/base/fd.h"
#include "tests/fuzz/channel.h"
#include "tests/fuzz/fuzz.h"

#define HEADER_SIZE (2 * sizeof(uint32_t) + sizeof(uint64_t))

/* Takes a packet from the input. */
static void send_packet(int fd, uint64_t number, const uint8_t **data, size_t *size)
{
        static uint8_t packet[HEADER_SIZE + UINT16_MAX];
        uint8_t flags = fuzz_take_byte(data, size);
        uint32_t n = fuzz_take_byte(data, size), body, type;
        const PrivRule *rule;

        n |= (uint32_t) fuzz_take_byte(data, size) << 8;
        n = MIN_OF(n, (uint32_t) *size);
        memset(packet, 0, sizeof(packet));
        memcpy(packet, *data, n);
        *data += n;
        *size -= n;
        memcpy(&type, packet, sizeof(type));
        rule = priv_rule(type);
        if (flags & 2 && n >= HEADER_SIZE && rule)
                n = MAX_OF(n, (uint32_t) HEADER_SIZE + MIN_OF(rule->body_min, (uint32_t) UINT16_MAX));
        body = n - (uint32_t) HEADER_SIZE;
        if (flags & 1 && n >= HEADER_SIZE) {
                memcpy(packet + sizeof(type), &body, sizeof(body));
                memcpy(packet + 2 * sizeof(type), &number, sizeof(number));
        }
        (void) channel_send(fd, packet, n, flags >> 4);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        PrivChannel channel = (PrivChannel) (fuzz_take_byte(&data, &size) % _CHANNEL_MAX);
        PrivRole role = (PrivRole) (fuzz_take_byte(&data, &size) % _ROLE_MAX);
        uint8_t phase = fuzz_take_byte(&data, &size);
        int fds[2], next = channel_next_fd(), r = 1;
        ImsgChannel c;
        Imsg m;

        sb_assert(imsg_pair(fds) == 0 && imsg_channel_init(&c, fds[0], channel, role) == 0);
        c.phase = phase & 1 ? PHASE_RUN : PHASE_SETUP;
        for (uint64_t i = 0; size > 0 && r == 1; i++) {
                send_packet(fds[1], i, &data, &size);
                r = imsg_receive(&c, &m);
                sb_assert(r == 1 || r == 0 || r == -EPROTO || r == -EPIPE);
                if (r != 1)
                        continue;
                sb_assert(priv_rule(m.type)->channel == channel && priv_rule(m.type)->sender != role);
                sb_assert(m.size >= priv_rule(m.type)->body_min && (uintptr_t) m.body % 8 == 0);
                sb_assert(memchr(m.body, 1, m.size) == NULL || m.size <= priv_rule(m.type)->body_max);
                imsg_done(&m);
        }
        imsg_channel_done(&c);
        fds[1] = fd_close(fds[1]);
        sb_assert(channel_next_fd() == next);
        return 0;
}
