/* The sockets for DNS: datagrams to port 53 of every address, all of which are local inside. */

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "daemon/isolate/netns.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"

#define DNS_PORT 53

typedef struct Option {
        int level;
        int name;
        unsigned value;
} Option;

/* Transparent: an answer comes from the address that was asked, whichever it was. */
static const Option options_v4[] = { { SOL_IP, IP_TRANSPARENT, 1 },
                                     { SOL_IP, IP_RECVORIGDSTADDR, 1 },
                                     { SOL_SOCKET, SO_MARK, STEER_MARK } };
static const Option options_v6[] = { { SOL_IPV6, IPV6_V6ONLY, 1 },
                                     { SOL_IPV6, IPV6_TRANSPARENT, 1 },
                                     { SOL_IPV6, IPV6_RECVORIGDSTADDR, 1 },
                                     { SOL_SOCKET, SO_MARK, STEER_MARK } };

static int set_options(int fd, const Option *options, size_t n)
{
        for (size_t i = 0; i < n; i++)
                if (setsockopt(fd, options[i].level, options[i].name, &options[i].value,
                               sizeof(options[i].value)) < 0)
                        return neg_errno();
        return 0;
}

static int open_v4(int *ret_fd)
{
        struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(DNS_PORT) };
        _cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        int r;

        if (fd < 0)
                return neg_errno();
        r = set_options(fd, options_v4, ELEMENTSOF(options_v4));
        if (r < 0)
                return r;
        if (bind(fd, (struct sockaddr *) &any, sizeof(any)) < 0)
                return neg_errno();
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static int open_v6(int *ret_fd)
{
        struct sockaddr_in6 any = { .sin6_family = AF_INET6, .sin6_port = htons(DNS_PORT) };
        _cleanup_close_ int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        int r;

        if (fd < 0)
                return neg_errno();
        r = set_options(fd, options_v6, ELEMENTSOF(options_v6));
        if (r < 0)
                return r;
        if (bind(fd, (struct sockaddr *) &any, sizeof(any)) < 0)
                return neg_errno();
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int netns_open_dns(bool has_ipv6, int ret_fds[2])
{
        int r = open_v4(&ret_fds[0]);

        return r < 0 || !has_ipv6 ? r : open_v6(&ret_fds[1]);
}
