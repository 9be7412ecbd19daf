#include "daemon/dialer/hosts.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "daemon/policy/compiled.h"
#include "proto/base/fd.h"
#include "proto/base/hash.h"

#define HOSTS_BYTES_MAX (16U * 1024U * 1024U)

struct HostsTable {
        Map entries;
};

static int add(HostsTable *t, const char *name, const PrivAddress *a)
{
        HostsEntry *e = map_get(&t->entries, name, strlen(name));
        int r;

        if (!e) {
                e = calloc(1, sizeof(*e));
                if (!e)
                        return -ENOMEM;
                memcpy(e->name, name, strlen(name) + 1);
                r = map_put(&t->entries, e->name, strlen(e->name), e);
                if (r < 0) {
                        free(e);
                        return r;
                }
        }
        if (e->n < HOSTS_ENTRY_ADDRESSES_MAX)
                e->addresses[e->n++] = *a;
        return 0;
}

static int add_line(HostsTable *t, const char *line, size_t size)
{
        const char *space = memchr(line, ' ', size);
        char text[ADDRESS_TEXT_SIZE], name[PRIV_HOST_SIZE];
        PrivAddress a;
        size_t n;

        if (!space)
                return 0;
        n = (size_t) (space - line);
        if (n == 0 || n >= sizeof(text) || memchr(line, '\0', n))
                return 0;
        memcpy(text, line, n);
        text[n] = '\0';
        if (address_parse(text, &a) < 0 || policy_host_canonical(space + 1, size - n - 1, name) < 0)
                return 0;
        return add(t, name, &a);
}

int hosts_table_load(int fd, HostsTable **ret)
{
        HostsTable *t = calloc(1, sizeof(*t));
        const void *data = NULL;
        const char *at;
        size_t size = 0;
        int r;

        if (!t)
                return -ENOMEM;
        r = fd_map_sealed(fd, HOSTS_BYTES_MAX, &data, &size);
        if (r < 0) {
                free(t);
                return r;
        }
        at = data;
        for (size_t left = size; r >= 0 && left > 0;) {
                const char *end = memchr(at, '\n', left);
                size_t n = end ? (size_t) (end - at) : left;

                r = add_line(t, at, n);
                at += n + (end ? 1 : 0);
                left -= n + (end ? 1 : 0);
        }
        (void) munmap((void *) (uintptr_t) data, size);
        if (r < 0) {
                (void) hosts_table_free(t);
                return r;
        }
        *ret = t;
        return 0;
}

HostsTable *hosts_table_free(HostsTable *t)
{
        size_t cursor = 0;

        if (!t)
                return NULL;
        for (HostsEntry *e; (e = map_next(&t->entries, &cursor));)
                free(e);
        map_done(&t->entries);
        free(t);
        return NULL;
}

const HostsEntry *hosts_table_find(const HostsTable *t, const char *name)
{
        return t ? map_get(&t->entries, name, strlen(name)) : NULL;
}
