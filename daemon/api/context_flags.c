/* What a context adds to a policy by its own lists: as a layer of the user's. */

#include <errno.h>
#include <stdlib.h>

#include "daemon/api/context.h"

static int take_strings(const Json *context, const char *key, const char *const **ret, size_t *ret_n)
{
        const Json *list = get_value(context, key);
        const char **strings;

        if (!list || json_n(list) == 0)
                return 0;
        strings = calloc(json_n(list), sizeof(*strings));
        if (!strings)
                return -ENOMEM;
        for (size_t i = 0; i < json_n(list); i++)
                strings[i] = json_string(json_at(list, i));
        *ret = strings;
        *ret_n = json_n(list);
        return 0;
}

static int take_ports(const Json *context, PolicyFlags *f)
{
        const Json *list = get_value(context, "publish");
        uint16_t *ports;

        if (!list || json_n(list) == 0)
                return 0;
        ports = calloc(json_n(list), sizeof(*ports));
        if (!ports)
                return -ENOMEM;
        for (size_t i = 0; i < json_n(list); i++)
                ports[i] = (uint16_t) json_integer(json_at(list, i));
        f->publish = ports;
        f->n_publish = json_n(list);
        return 0;
}

int flags_take(const Json *context, PolicyFlags *f)
{
        int r;

        f->has_no_network = get_boolean(context, "noNetwork");
        r = take_ports(context, f);
        if (r < 0)
                return r;
        if ((r = take_strings(context, "allowHosts", &f->allow_hosts, &f->n_allow_hosts)) < 0 ||
            (r = take_strings(context, "denyHosts", &f->deny_hosts, &f->n_deny_hosts)) < 0 ||
            (r = take_strings(context, "read", &f->read, &f->n_read)) < 0 ||
            (r = take_strings(context, "write", &f->write, &f->n_write)) < 0)
                return r;
        return take_strings(context, "deny", &f->deny, &f->n_deny);
}

void flags_done(PolicyFlags *f)
{
        const char *const *const lists[] = { f->allow_hosts, f->deny_hosts, f->read, f->write, f->deny };

        for (size_t i = 0; i < ELEMENTSOF(lists); i++)
                free((void *) (uintptr_t) lists[i]);
        free((void *) (uintptr_t) f->publish);
}
