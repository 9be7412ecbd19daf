/* --publish: ports of a session that the host's loopback reaches. */

#include "client/ctl/ctl.h"
#include "proto/base/parse.h"

static int append(Json *context, uint16_t port)
{
        const Json *list = json_get(context, "publish");
        Json *fresh = NULL;
        int r;

        if (!list) {
                r = json_new_array(&fresh);
                if (r >= 0)
                        r = json_set(context, "publish", fresh);
                if (r < 0)
                        return r;
                list = fresh;
        }
        /* Ours: made above. */
        return json_append_integer((Json *) (uintptr_t) list, port);
}

int publish_add(Json *context, const char *text)
{
        uint16_t port;

        if (parse_port(text, &port) < 0)
                return fail("--publish %s: expected a port, from 1024 to 65535", shown(text));
        return append(context, port) < 0 ? fail("out of memory") : 0;
}
