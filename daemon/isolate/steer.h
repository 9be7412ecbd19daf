#pragma once

/*
 * What brings every connection of a session to one listener of ours, whatever address and port it is for:
 * an nftables table with TPROXY, or a program at the kernel's look-up of sockets where that is missing. All
 * else that leaves a process is refused at once, but for what stays with the session's own addresses. Both
 * keep no state of connections.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/base/macro.h"
#include "proto/idl/privsep.h"

/* Where the listener is: an address that no program has for itself, so that its port is nobody's either. */
#define STEER_PORT 15001U
/* On the sockets of ours that answer in the name of others: their packets are let through. */
#define STEER_MARK      0x53420001U
#define STEER_LOG_GROUP 5U

extern const uint8_t steer_own_v4[4];
extern const uint8_t steer_own_v6[16];
extern const uint8_t steer_door_v4[4];
extern const uint8_t steer_door_v6[16];

typedef struct Steering Steering;

/* Makes the bytes that steering_apply() sends: tried out by nobody yet. has_log: without it TPROXY refuses
 * untold. */
int steering_new(enum PrivRedirect kind, bool has_log, Steering **ret) _must_check_;
Steering *steering_free(Steering *s);
DEFINE_CLEANUP(Steering *, steering_free)

/* May sockets for pings be made in the namespaces that are steered so, as far as these say? At first not. */
void steering_set_pings(Steering *s, bool are_let);
bool steering_lets_pings(const Steering *s);

/* In the calling thread's network namespace, which netns_fd holds as well. door_fds: the listeners for IPv4
 * and IPv6, the second negative where there is no IPv6. *ret_fd keeps the steering up, or is -EBADF where
 * the namespace does so itself; of *ret_log_fd and *ret_ring_fd one tells of refused datagrams
 * (PrivEgressSocket), or none, and the others are -EBADF. The caller owns them, also on error. */
int steering_apply(const Steering *s, int netns_fd, const int door_fds[2], int *ret_fd, int *ret_log_fd,
                   int *ret_ring_fd) _must_check_;

/* steer_nft.c: the netlink batch; the caller frees *ret_data. */
int steer_nft_build(bool has_ipv6, bool has_log, char **ret_data, size_t *ret_size,
                    uint32_t *ret_last) _must_check_;
/* Sends it; `last` is the message that is acknowledged when all took effect. */
int steer_nft_load(const char *data, size_t size, uint32_t last) _must_check_;

/* steer_log.c: a socket that hears of each datagram refused in the thread's namespace. */
int steer_log_open(int *ret_fd) _must_check_;

/* steer_bpf.c */
int steer_bpf_attach(int netns_fd, const int door_fds[2], int *ret_fd, int *ret_ring_fd) _must_check_;
