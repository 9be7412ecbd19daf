#pragma once

/* A session's network namespace: nothing but lo, and the proxy's listeners inside. */

#include <stdint.h>

#include "proto/base/macro.h"

#define NETNS_LISTENERS_MAX 2U
#define NETNS_PROXY_PORT    3128U

typedef struct NetworkNamespace {
        int fd;                                /* nsfs */
        int listener_fds[NETNS_LISTENERS_MAX]; /* 127.0.0.1:3128 and, where the kernel has IPv6, [::1]:3128
                                                */
        uint32_t n_listeners;
} NetworkNamespace;

#define NETNS_INIT ((NetworkNamespace){ .fd = -EBADF, .listener_fds = { -EBADF, -EBADF } })

/* The namespace that the calling thread is in; the caller owns *ret_fd. */
int netns_open_home(int *ret_fd) _must_check_;

/* The calling thread enters a new namespace and comes home: one that cannot come home aborts. The caller
 * owns the result (netns_done()). */
int netns_new(int home_fd, NetworkNamespace *ret) _must_check_;
void netns_done(NetworkNamespace *n);
