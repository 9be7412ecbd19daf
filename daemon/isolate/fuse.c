#include "daemon/isolate/fuse.h"

#include <errno.h>

#include "daemon/isolate/kernel.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

static int make_mount(const char *type, const char *const options[], unsigned attributes, int *ret_fd)
{
        _cleanup_close_ int context = kernel_fsopen(type);
        int fd;

        if (context < 0)
                return neg_errno();
        for (size_t i = 0; options[i]; i += 2) {
                int r = options[i + 1][0] == '\0'
                                        ? kernel_fsconfig_flag(context, options[i])
                                        : kernel_fsconfig_string(context, options[i], options[i + 1]);

                if (r < 0)
                        return neg_errno();
        }
        if (kernel_fsconfig_create(context) < 0)
                return neg_errno();
        fd = kernel_fsmount(context, attributes);
        if (fd < 0)
                return neg_errno();
        *ret_fd = fd;
        return 0;
}

int fuse_mount_new(int *ret_device_fd, int *ret_mount_fd)
{
        _cleanup_close_ int device = open("/dev/fuse", O_RDWR | O_NONBLOCK | O_CLOEXEC);
        char number[16];
        /* Not default_permissions: the kernel would answer by itself, and nobody would hear of it. */
        const char *const options[] = { "source",      "sandbox", "fd", number,     "rootmode",
                                        "40000",       "user_id", "0",  "group_id", "0",
                                        "allow_other", "",        NULL };
        int r;

        if (device < 0)
                return neg_errno();
        r = str_printf(number, sizeof(number), "%d", device);
        if (r < 0)
                return r;
        /* Not read-only: the kernel would refuse writing by itself. */
        r = make_mount("fuse", options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC,
                       ret_mount_fd);
        if (r < 0)
                return r;
        *ret_device_fd = TAKE_FD(device);
        return 0;
}

int proc_mount_new(int *ret_fd)
{
        static const char *const options[] = { "source", "proc", "subset", "pid", NULL };

        return make_mount("proc", options,
                          MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC,
                          ret_fd);
}
