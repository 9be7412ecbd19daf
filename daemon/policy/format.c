/*
 * The canonical text of a policy: one order of keys, lists sorted, duplicates gone. Two policies that mean
 * the same by the same words have the same text, in whichever order their rules stood.
 */

#include <errno.h>
#include <string.h>

#include "daemon/policy/compiled.h"
#include "daemon/policy/model.h"
#include "proto/base/str.h"

#define FORMAT_BYTES_MAX (48U * 1024U * 1024U)

static int compare_strings(const void *a, const void *b)
{
        return strcmp(*(const char *const *) a, *(const char *const *) b);
}

/* Sorts, then writes each once, by put. */
static int format_sorted(Buf *b, char **items, size_t n, const char *separator,
                         int (*put)(Buf *, const char *))
{
        const char *previous = NULL;
        int r = 0;

        if (n > 1)
                qsort(items, n, sizeof(*items), compare_strings);
        for (size_t i = 0; r >= 0 && i < n; i++) {
                if (previous && str_equal(previous, items[i]))
                        continue;
                if (previous)
                        r = buf_put_string(b, separator);
                if (r >= 0)
                        r = put(b, items[i]);
                previous = items[i];
        }
        return r;
}

static int format_list(Buf *b, const char *key, const StringList *l, int (*put)(Buf *, const char *))
{
        _cleanup_free_ char **items = NULL;
        int r;

        items = calloc(l->n + 1, sizeof(*items));
        if (!items)
                return -ENOMEM;
        for (size_t i = 0; i < l->n; i++)
                items[i] = l->items[i];
        r = buf_printf(b, "\"%s\": [", key);
        if (r >= 0)
                r = format_sorted(b, items, l->n, ", ", put);
        return r < 0 ? r : buf_put_string(b, "]");
}

/* An empty list of a ceiling says much, of others nothing. */
static bool has_bound(const Policy *p, PathAccess access)
{
        static const uint32_t has[_PATH_ACCESS_MAX] = {
                [PATH_READ] = HAS_READ, [PATH_WRITE] = HAS_WRITE, [PATH_SOCKET] = HAS_SOCKETS
        };

        return p->kind == POLICY_CEILING && (p->has & has[access]);
}

static int format_paths(const Policy *p, Buf *b, PathAccess access, const char *key)
{
        _cleanup_free_ char **items = NULL;
        size_t n = 0;
        int r;

        items = calloc(p->n_paths + 1, sizeof(*items));
        if (!items)
                return -ENOMEM;
        for (size_t i = 0; i < p->n_paths; i++)
                if (p->paths[i].access == access)
                        items[n++] = p->paths[i].pattern;
        if (n == 0 && !has_bound(p, access))
                return 0;
        r = buf_printf(b, ",\n    \"%s\": [", key);
        if (r >= 0)
                r = format_sorted(b, items, n, ", ", format_string);
        return r < 0 ? r : buf_put_string(b, "]");
}

static int compare_sizes(const void *a, const void *b)
{
        const PathRule *const *x = a, *const *y = b;
        int r = strcmp((*x)->pattern, (*y)->pattern);

        return r ? r : ((*x)->size_bytes > (*y)->size_bytes) - ((*x)->size_bytes < (*y)->size_bytes);
}

/* Each path once, with the smallest size: which is what holds. */
static int format_tmpfs_paths(const Policy *p, Buf *b, bool has_one)
{
        _cleanup_free_ const PathRule **found = NULL;
        size_t n = 0;
        int r = 0;

        found = calloc(p->n_paths + 1, sizeof(*found));
        if (!found)
                return -ENOMEM;
        for (size_t i = 0; i < p->n_paths; i++)
                if (p->paths[i].access == PATH_TMPFS)
                        found[n++] = &p->paths[i];
        qsort(found, n, sizeof(const PathRule *), compare_sizes);
        for (size_t i = 0; r >= 0 && i < n; i++) {
                if (i > 0 && str_equal(found[i - 1]->pattern, found[i]->pattern))
                        continue;
                r = buf_put_string(b, has_one || i > 0 ? ", " : "");
                if (r >= 0)
                        r = format_string(b, found[i]->pattern);
                if (r >= 0)
                        r = buf_printf(b, ": \"%llu\"", (unsigned long long) found[i]->size_bytes);
        }
        return r;
}

static int format_tmpfs(const Policy *p, Buf *b)
{
        bool has_tmp = (p->has & HAS_TMP) != 0, has_any = has_tmp;
        int r;

        for (size_t i = 0; i < p->n_paths; i++)
                has_any = has_any || p->paths[i].access == PATH_TMPFS;
        if (!has_any)
                return 0;
        r = buf_put_string(b, ",\n    \"tmpfs\": { ");
        if (r >= 0 && has_tmp)
                r = buf_printf(b, "\"/tmp\": \"%llu\"", (unsigned long long) p->tmp_bytes);
        if (r >= 0)
                r = format_tmpfs_paths(p, b, has_tmp);
        return r < 0 ? r : buf_put_string(b, " }");
}

static int format_filesystem(const Policy *p, Buf *b)
{
        int r;

        r = buf_put_string(b, ",\n  \"filesystem\": {\n    ");
        if (r >= 0)
                r = mode_format(p, b);
        if (r >= 0)
                r = format_paths(p, b, PATH_READ, "read");
        if (r >= 0)
                r = format_paths(p, b, PATH_WRITE, "write");
        if (r >= 0)
                r = format_paths(p, b, PATH_DENY, "deny");
        if (r >= 0)
                r = format_paths(p, b, PATH_PROTECT, "protect");
        if (r >= 0)
                r = format_paths(p, b, PATH_SOCKET, "sockets");
        if (r >= 0)
                r = format_tmpfs(p, b);
        return r < 0 ? r : buf_put_string(b, "\n  }");
}

static int rule_to_string(const NetRule *rule, char **ret)
{
        Buf b = BUF_INIT(64U * 1024U);
        int r;

        r = rule_format(rule, &b);
        if (r >= 0)
                r = buf_put(&b, "", 1);
        if (r >= 0)
                r = str_dup(buf_front(&b), ret);
        buf_done(&b);
        return r;
}

static int format_rules(const Policy *p, Buf *b)
{
        char **items = NULL;
        int r = 0;

        if (p->n_rules == 0)
                return 0;
        items = calloc(p->n_rules, sizeof(*items));
        if (!items)
                return -ENOMEM;
        for (size_t i = 0; r >= 0 && i < p->n_rules; i++)
                r = rule_to_string(&p->rules[i], &items[i]);
        if (r >= 0)
                r = buf_put_string(b, ",\n    \"rules\": [\n      ");
        if (r >= 0)
                r = format_sorted(b, items, p->n_rules, ",\n      ", buf_put_string);
        for (size_t i = 0; i < p->n_rules; i++)
                free(items[i]);
        free(items);
        return r < 0 ? r : buf_put_string(b, "\n    ]");
}

static int format_pool(Buf *b, const char *key, const PrivPrefix *p)
{
        char text[ADDRESS_TEXT_SIZE];

        address_format(&p->address, text);
        return buf_printf(b, ",\n    \"%s\": \"%s/%u\"", key, text, p->length);
}

static int format_network(const Policy *p, Buf *b)
{
        int r;

        r = buf_printf(b, ",\n  \"network\": {\n    \"default\": \"%s\"",
                       verdict_to_string(p->network_default));
        if (r >= 0 && p->has & HAS_DNS)
                r = buf_printf(b, ",\n    \"dns\": \"%s\"", p->is_dns_real ? "real" : "synthetic");
        if (r >= 0 && p->has & HAS_POOL4)
                r = format_pool(b, "pool", &p->pool.v4);
        if (r >= 0 && p->has & HAS_POOL6)
                r = format_pool(b, "pool6", &p->pool.v6);
        for (uint32_t i = 0; r >= 0 && i < p->n_publish; i++)
                r = buf_printf(b, i == 0 ? ",\n    \"publish\": [%u" : ", %u", p->publish[i]);
        if (r >= 0 && p->n_publish > 0)
                r = buf_put_string(b, "]");
        if (r >= 0)
                r = format_rules(p, b);
        return r < 0 ? r : buf_put_string(b, "\n  }");
}

static int format_limits(const Policy *p, Buf *b)
{
        static const struct {
                uint32_t has;
                const char *format;
        } limits[] = {
                { HAS_MEMORY, "\"memory\": \"%llu\"" },
                { HAS_SWAP, "\"swap\": \"%llu\"" },
                { HAS_TASKS, "\"tasks\": %llu" },
                { HAS_CPU, "\"cpu\": \"%llu%%\"" },
                { HAS_IO, "\"io\": \"%llu\"" },
                { HAS_FILES, "\"files\": %llu" },
                { HAS_RUNTIME, "\"runtime\": \"%lluus\"" },
                { HAS_IDLE, "\"idle\": \"%lluus\"" },
                { HAS_OUTPUT, "\"output\": \"%llu\"" },
        };
        const PolicyLimits *l = &p->limits;
        const uint64_t values[] = { l->memory_bytes, l->swap_bytes,       l->tasks,
                                    l->cpu_percent,  l->io_bytes_per_sec, l->files,
                                    l->runtime_usec, l->idle_usec,        l->output_bytes };
        const char *separator = ",\n  \"limits\": { ";
        bool has_any = false;

        for (size_t i = 0; i < ELEMENTSOF(limits); i++) {
                char text[64];
                int r;

                if (!(p->has & limits[i].has))
                        continue;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
                r = str_printf(text, sizeof(text), limits[i].format, (unsigned long long) values[i]);
#pragma GCC diagnostic pop
                if (r >= 0)
                        r = buf_put_string(b, separator);
                if (r >= 0)
                        r = buf_put_string(b, text);
                if (r < 0)
                        return r;
                separator = ", ";
                has_any = true;
        }
        return has_any ? buf_put_string(b, " }") : 0;
}

static int put_pair(Buf *b, const char *pair)
{
        char name[256];
        size_t n = strcspn(pair, "=");
        int r;

        if (n >= sizeof(name))
                return -EINVAL;
        memcpy(name, pair, n);
        name[n] = '\0';
        r = format_string(b, name);
        if (r >= 0)
                r = buf_put_string(b, ": ");
        return r < 0 ? r : format_string(b, pair + n + 1);
}

static int format_set(const Policy *p, Buf *b)
{
        _cleanup_free_ char **items = NULL;
        int r;

        if (p->set.n == 0)
                return 0;
        items = calloc(p->set.n, sizeof(*items));
        if (!items)
                return -ENOMEM;
        for (size_t i = 0; i < p->set.n; i++)
                items[i] = p->set.items[i];
        r = buf_put_string(b, ", \"set\": { ");
        if (r >= 0)
                r = format_sorted(b, items, p->set.n, ", ", put_pair);
        return r < 0 ? r : buf_put_string(b, " }");
}

static int format_environment(const Policy *p, Buf *b)
{
        int r;

        if (p->pass.n == 0 && p->set.n == 0)
                return 0;
        r = buf_put_string(b, ",\n  \"environment\": { ");
        if (r >= 0)
                r = format_list(b, "pass", &p->pass, format_string);
        if (r >= 0)
                r = format_set(p, b);
        return r < 0 ? r : buf_put_string(b, " }");
}

static int format_head(const Policy *p, Buf *b)
{
        int r;

        r = buf_put_string(b, "{\n  \"version\": 1");
        if (r >= 0 && p->name) {
                r = buf_put_string(b, ",\n  \"name\": ");
                if (r >= 0)
                        r = format_string(b, p->name);
        }
        if (r >= 0 && p->description) {
                r = buf_put_string(b, ",\n  \"description\": ");
                if (r >= 0)
                        r = format_string(b, p->description);
        }
        if (r >= 0 && p->extends.n > 0) {
                r = buf_put_string(b, ",\n  ");
                if (r >= 0)
                        r = format_list(b, "extends", &p->extends, format_string);
        }
        return r;
}

static int format_policy(const Policy *p, Buf *b)
{
        bool is_narrowing = p->kind == POLICY_PROJECT, is_ceiling = p->kind == POLICY_CEILING;
        int r;

        r = format_head(p, b);
        if (r >= 0 && !is_narrowing)
                r = format_filesystem(p, b);
        if (r >= 0)
                r = format_network(p, b);
        if (r >= 0 && !is_narrowing)
                r = format_limits(p, b);
        if (r >= 0 && (p->groups.n > 0 || (is_ceiling && (p->has & HAS_GROUPS)))) {
                r = buf_put_string(b, ",\n  ");
                if (r >= 0)
                        r = format_list(b, "groups", &p->groups, format_string);
        }
        if (r >= 0 && !is_narrowing && !is_ceiling)
                r = format_environment(p, b);
        if (r >= 0 && (p->has & HAS_ASK_TIMEOUT))
                r = buf_printf(b, ",\n  \"ask\": { \"timeout\": \"%lluus\" }",
                               (unsigned long long) p->ask_timeout_usec);
        return r < 0 ? r : buf_put(b, "\n}\n", sizeof("\n}\n"));
}

int policy_format(const Policy *p, char **ret)
{
        Buf b = BUF_INIT(FORMAT_BYTES_MAX);
        int r;

        r = format_policy(p, &b);
        if (r >= 0)
                r = str_dup(buf_front(&b), ret);
        buf_done(&b);
        return r;
}
