#include "proto/base/error.h"

#include <stdlib.h>
#include <string.h>

#ifdef __GLIBC__
static const char *name_of(int e)
{
        return strerrorname_np(e);
}
#else
/* What sandbox-init, built with another C library, meets. */
static const char *name_of(int e)
{
        switch (e) {
        case EPERM:
                return "EPERM";
        case ENOENT:
                return "ENOENT";
        case EACCES:
                return "EACCES";
        case EINVAL:
                return "EINVAL";
        case EROFS:
                return "EROFS";
        case ENOSYS:
                return "ENOSYS";
        case ELOOP:
                return "ELOOP";
        case ENOTDIR:
                return "ENOTDIR";
        case EAFNOSUPPORT:
                return "EAFNOSUPPORT";
        case EBADF:
                return "EBADF";
        default:
                return NULL;
        }
}
#endif

const char *error_name(int r)
{
        const char *name = name_of(r < 0 ? -r : r);

        return name ? name : "E?";
}
