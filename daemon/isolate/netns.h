#pragma once

/*
 * A session's network namespace: nothing but lo, every address local, and the sockets of its egress worker,
 * which are made inside: the explicit proxy's listeners, and those that every other connection reaches.
 */

#include <stdbool.h>
#include <stdint.h>

#include "daemon/isolate/steer.h"
#include "proto/base/macro.h"
#include "proto/idl/privsep.h"

#define NETNS_PROXY_PORT 3128U

typedef struct NetworkNamespace {
        int fd;          /* nsfs */
        uint64_t cookie; /* the kernel's number for it, never used again; 0: it gives none */
        int steer_fd;    /* keeps the steering up; -EBADF where nothing need */
        int socket_fds[_EGRESS_SOCKET_MAX]; /* -EBADF: the kernel has no such thing */
        int dns_fds[2];                     /* datagrams to port 53, for IPv4 and IPv6; likewise */
} NetworkNamespace;

#define NETNS_INIT                                                                      \
        ((NetworkNamespace){ .fd = -EBADF,                                              \
                             .steer_fd = -EBADF,                                        \
                             .socket_fds = { [0 ... _EGRESS_SOCKET_MAX - 1] = -EBADF }, \
                             .dns_fds = { -EBADF, -EBADF } })

/* The namespace that the calling thread is in; the caller owns *ret_fd. */
int netns_open_home(int *ret_fd) _must_check_;

/* The calling thread enters a new namespace and comes home: one that cannot come home aborts. The caller
 * owns the result (netns_done()). */
int netns_new(int home_fd, const Steering *steering, NetworkNamespace *ret) _must_check_;
/* Begins a connection to a port of the namespace's own loopback: *ret_fd is a socket inside that becomes
 * writable when netns_go_on_connecting() can say how it went; the caller's. */
int netns_connect(int home_fd, const NetworkNamespace *n, bool is_v6, uint16_t port,
                  int *ret_fd) _must_check_;
/* 0: it stands. To the kernel a socket is still connecting until it is asked again, and could be connected
 * elsewhere. */
int netns_go_on_connecting(int fd, bool is_v6, uint16_t port) _must_check_;
void netns_done(NetworkNamespace *n);

/* Does what is made with such a steering bring a connection to the door, with the address that it was for?
 */
int netns_try(int home_fd, const Steering *steering) _must_check_;

/* netns_dns.c: in the namespace that the thread is in. What was opened is the caller's, also on error. */
int netns_open_dns(bool has_ipv6, int ret_fds[2]) _must_check_;
