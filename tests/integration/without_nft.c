/* Preloaded: a kernel without nftables, as far as the daemon can see. */

#include <dlfcn.h>
#include <errno.h>
#include <linux/netlink.h>
#include <sys/socket.h>

__attribute__((visibility("default"))) int socket(int family, int type, int protocol)
{
        int (*real)(int, int, int) = (int (*)(int, int, int)) dlsym(RTLD_NEXT, "socket");

        if (family == AF_NETLINK && protocol == NETLINK_NETFILTER) {
                errno = EPROTONOSUPPORT;
                return -1;
        }
        return real(family, type, protocol);
}
