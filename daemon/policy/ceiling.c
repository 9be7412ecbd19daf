/*
 * What the administrator's ceiling leaves of a policy beside the network. It only narrows: where it has no
 * list, it has no opinion; a list that is there bounds, also an empty one.
 */

#include <errno.h>

#include "daemon/policy/model.h"

static bool is_listed(const Policy *ceiling, const PolicyVariables *v, const char *path, PathAccess access)
{
        char above[PLAN_PATH_MAX];

        for (size_t i = 0; i < ceiling->n_paths; i++)
                if (ceiling->paths[i].access == access &&
                    path_pattern_expand(ceiling->paths[i].pattern, v, above, sizeof(above)) >= 0 &&
                    path_is_below(path, above))
                        return true;
        return false;
}

/* What may be written may be read. */
static bool may_read(const Policy *c, const PolicyVariables *v, const char *path)
{
        return !(c->has & HAS_READ) || is_listed(c, v, path, PATH_READ) ||
               ((c->has & HAS_WRITE) && is_listed(c, v, path, PATH_WRITE));
}

static bool may_write(const Policy *c, const PolicyVariables *v, const char *path)
{
        return may_read(c, v, path) && (!(c->has & HAS_WRITE) || is_listed(c, v, path, PATH_WRITE));
}

PathAccess ceiling_access(const Policy *c, const PolicyVariables *v, const char *path, PathAccess access)
{
        if (!c)
                return access;
        switch (access) {
        case PATH_WRITE:
                if (may_write(c, v, path))
                        return PATH_WRITE;
                return may_read(c, v, path) ? PATH_READ : PATH_DENY;
        case PATH_READ:
                return may_read(c, v, path) ? PATH_READ : PATH_DENY;
        case PATH_SOCKET:
                return !(c->has & HAS_SOCKETS) || is_listed(c, v, path, PATH_SOCKET) ? PATH_SOCKET
                                                                                     : PATH_DENY;
        case PATH_DENY:
        case PATH_TMPFS:
        case PATH_PROTECT:
        case _PATH_ACCESS_MAX:
        default:
                return access;
        }
}

static int strike_groups(Policy *p, const Policy *ceiling, PolicyDiagnostics *d)
{
        size_t n = 0;
        int r = 0;

        for (size_t i = 0; i < p->groups.n; i++) {
                char *name = p->groups.items[i];

                if (string_list_holds(&ceiling->groups, name)) {
                        p->groups.items[n++] = name;
                        continue;
                }
                if (r >= 0)
                        r = diagnose(d, SEVERITY_WARNING,
                                     &(DiagnosticPlace){ .source = "ceiling", .key = "groups" },
                                     "the group %s is beyond the administrator's ceiling: it is not kept",
                                     name);
                free(name);
        }
        p->groups.n = n;
        return r;
}

static bool has_port(const Policy *p, uint32_t port)
{
        for (uint32_t i = 0; i < p->n_publish; i++)
                if (p->publish[i] == port)
                        return true;
        return false;
}

static int strike_ports(Policy *p, const Policy *ceiling, PolicyDiagnostics *d)
{
        uint32_t n = 0;
        int r = 0;

        for (uint32_t i = 0; i < p->n_publish; i++) {
                if (has_port(ceiling, p->publish[i])) {
                        p->publish[n++] = p->publish[i];
                        continue;
                }
                if (r >= 0)
                        r = diagnose(d, SEVERITY_WARNING,
                                     &(DiagnosticPlace){ .source = "ceiling", .key = "network.publish" },
                                     "port %u is beyond the administrator's ceiling: it is not published",
                                     p->publish[i]);
        }
        p->n_publish = n;
        return r;
}

int ceiling_strike(Policy *p, const Policy *ceiling, PolicyDiagnostics *d)
{
        int r = 0;

        if (ceiling->has & HAS_GROUPS)
                r = strike_groups(p, ceiling, d);
        if (r >= 0 && (ceiling->has & HAS_PUBLISH))
                r = strike_ports(p, ceiling, d);
        return r;
}
