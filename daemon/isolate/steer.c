#include "daemon/isolate/steer.h"

#include <errno.h>
#include <stdlib.h>

typedef struct Batch {
        char *data;
        size_t size;
        uint32_t last;
} Batch;

struct Steering {
        enum PrivRedirect kind;
        bool has_log;
        bool lets_pings;
        Batch batches[2]; /* of TPROXY: for IPv4 alone, for both */
};

const uint8_t steer_own_v4[4] = { 10, 0, 2, 15 };
const uint8_t steer_own_v6[16] = { 0xfd, 0x00, 0x00, 0x5a, [15] = 0x15 };
const uint8_t steer_door_v4[4] = { 10, 0, 2, 3 };
const uint8_t steer_door_v6[16] = { 0xfd, 0x00, 0x00, 0x5a, [15] = 0x03 };

int steering_new(enum PrivRedirect kind, bool has_log, Steering **ret)
{
        _cleanup_(steering_freep) Steering *s = calloc(1, sizeof(*s));
        int r = 0;

        if (!s)
                return -ENOMEM;
        s->kind = kind;
        s->has_log = has_log;
        for (unsigned i = 0; kind == REDIRECT_TPROXY && r >= 0 && i < ELEMENTSOF(s->batches); i++) {
                Batch *b = &s->batches[i];

                r = steer_nft_build(/* has_ipv6= */ i == 1, has_log, &b->data, &b->size, &b->last);
        }
        if (r < 0)
                return r;
        *ret = TAKE_PTR(s);
        return 0;
}

Steering *steering_free(Steering *s)
{
        if (!s)
                return NULL;
        for (size_t i = 0; i < ELEMENTSOF(s->batches); i++)
                free(s->batches[i].data);
        free(s);
        return NULL;
}

void steering_set_pings(Steering *s, bool are_let)
{
        s->lets_pings = are_let;
}

bool steering_lets_pings(const Steering *s)
{
        return s->lets_pings;
}

int steering_apply(const Steering *s, int netns_fd, const int door_fds[2], int *ret_fd, int *ret_log_fd,
                   int *ret_ring_fd)
{
        const Batch *b = &s->batches[door_fds[1] >= 0 ? 1 : 0];
        int r = 0;

        *ret_fd = *ret_log_fd = *ret_ring_fd = -EBADF;
        if (s->kind == REDIRECT_SK_LOOKUP)
                return steer_bpf_attach(netns_fd, door_fds, ret_fd, ret_ring_fd);
        if (s->has_log)
                r = steer_log_open(ret_log_fd);
        return r < 0 ? r : steer_nft_load(b->data, b->size, b->last);
}
