#include "daemon/init/modes.h"

#include <fcntl.h>

#include "proto/base/error.h"
#include "proto/base/str.h"

static int change_mode(int fd, mode_t mode)
{
        char link[32];
        int r = str_printf(link, sizeof(link), "/proc/self/fd/%d", fd);

        return r < 0 ? r : fchmodat(AT_FDCWD, link, mode, 0) < 0 ? neg_errno() : 0;
}

bool modes_open(int fd, mode_t *ret_mode)
{
        struct stat st;

        if (fstat(fd, &st) < 0 || (st.st_mode & 0700) == 0700)
                return false;
        *ret_mode = st.st_mode & 07777;
        return change_mode(fd, *ret_mode | 0700) >= 0;
}

void modes_back(int fd, bool is_changed, mode_t mode)
{
        if (is_changed)
                (void) change_mode(fd, mode);
}
