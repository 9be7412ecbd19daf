#pragma once

/* Sockets of the targets that have a peer. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A stream in pieces. The input says how it is cut: a number of cuts (modulo 32), that many bytes, then the
 * stream. A cut is the length of a piece less one, 0x7f a long one, with 0x80 descriptors go along; they
 * take turns. */
typedef struct ChannelInput {
        const uint8_t *cuts;
        size_t n_cuts;
        size_t at;
        const uint8_t *data;
        size_t size;
} ChannelInput;

void channel_input_init(ChannelInput *in, const uint8_t *data, size_t size);

/* Sends the next piece. False: there was none. */
bool channel_feed(ChannelInput *in, int fd);

/* Sends the bytes as one packet with n_fds descriptors. False: the socket does not take it. */
bool channel_send(int fd, const void *data, size_t size, size_t n_fds);

/* Reads what is there, without descriptors. */
size_t channel_drain(int fd, char *to, size_t size);

/* The lowest free descriptor: the same before and after where none leaked. */
int channel_next_fd(void);
