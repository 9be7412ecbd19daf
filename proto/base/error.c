#include "proto/base/error.h"

#include <string.h>

const char *error_name(int r)
{
        const char *name = strerrorname_np(r < 0 ? -r : r);

        return name ? name : "E?";
}
