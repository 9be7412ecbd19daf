/* The parts filesystem, limits and environment of a policy text. */

#include <errno.h>
#include <string.h>

#include "daemon/policy/model.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

#define TMP_BYTES_MIN         (UINT64_C(1) << 20)
#define SIZE_BYTES_MAX        (UINT64_C(1) << 50)
#define ENVIRONMENT_VALUE_MAX 4096U

static const char *layer_of(const Policy *p)
{
        return policy_kind_to_string(p->kind);
}

static int read_root(SchemaReader *x, const TextNode *n)
{
        return mode_read(x, n, MODE_ROOT);
}

static int read_home(SchemaReader *x, const TextNode *n)
{
        return mode_read(x, n, MODE_HOME);
}

static int read_workspace(SchemaReader *x, const TextNode *n)
{
        return mode_read(x, n, MODE_WORKSPACE);
}

static int add_path(SchemaReader *x, const TextNode *n, PathAccess access)
{
        char pattern[PLAN_PATH_MAX];
        const char *message;

        message = access == PATH_DENY ? path_glob_check(n->string, pattern, sizeof(pattern))
                                      : path_pattern_check(n->string, pattern, sizeof(pattern));
        if (message)
                return schema_fail(x, n, "%s", message);
        if (str_equal(pattern, "/") && access != PATH_DENY)
                return schema_fail(x, n, "the whole file system cannot be shown; name folders");
        return policy_add_path(x->policy, access, pattern, layer_of(x->policy));
}

static int add_read(SchemaReader *x, const TextNode *n)
{
        return add_path(x, n, PATH_READ);
}

static int add_write(SchemaReader *x, const TextNode *n)
{
        return add_path(x, n, PATH_WRITE);
}

static int add_deny(SchemaReader *x, const TextNode *n)
{
        return add_path(x, n, PATH_DENY);
}

static int read_read(SchemaReader *x, const TextNode *n)
{
        x->policy->has |= HAS_READ;
        return schema_read_strings(x, n, add_read);
}

static int read_write(SchemaReader *x, const TextNode *n)
{
        x->policy->has |= HAS_WRITE;
        return schema_read_strings(x, n, add_write);
}

static int add_socket(SchemaReader *x, const TextNode *n)
{
        return add_path(x, n, PATH_SOCKET);
}

static int read_sockets(SchemaReader *x, const TextNode *n)
{
        x->policy->has |= HAS_SOCKETS;
        return schema_read_strings(x, n, add_socket);
}

static int read_deny(SchemaReader *x, const TextNode *n)
{
        return schema_read_strings(x, n, add_deny);
}

static int add_protect(SchemaReader *x, const TextNode *n)
{
        char pattern[PLAN_PATH_MAX];
        const char *message = protect_pattern_check(n->string, pattern, sizeof(pattern));

        if (message)
                return schema_fail(x, n, "%s", message);
        return policy_add_path(x->policy, PATH_PROTECT, pattern, layer_of(x->policy));
}

static int read_protect(SchemaReader *x, const TextNode *n)
{
        return schema_read_strings(x, n, add_protect);
}

static int read_bytes(SchemaReader *x, const TextNode *n, uint64_t min, uint64_t *ret)
{
        int r;

        r = schema_expect(x, n, TEXT_STRING);
        if (r <= 0)
                return r;
        if (parse_size(n->string, ret) < 0 || *ret > SIZE_BYTES_MAX || *ret < min) {
                r = schema_fail(x, n, "expected a size such as \"512M\" or \"4G\", at least %llu bytes",
                                (unsigned long long) min);
                return r < 0 ? r : 0;
        }
        return 1;
}

static int read_tmp(SchemaReader *x, const TextNode *n)
{
        int r;

        r = read_bytes(x, n, TMP_BYTES_MIN, &x->policy->tmp_bytes);
        if (r > 0)
                x->policy->has |= HAS_TMP;
        return r < 0 ? r : 0;
}

/* What every session has of its own, or could not do without. */
static bool is_place_for_tmpfs(const char *pattern)
{
        static const char *const taken[] = {
                "/proc", "/sys",   "/etc",   "/usr",    "/bin", "/sbin",
                "/lib",  "/lib32", "/lib64", "/libx32", "/dev", "/run/sandbox"
        };

        if (str_equal(pattern, "/dev/shm"))
                return true;
        for (size_t i = 0; i < ELEMENTSOF(taken); i++)
                if (path_is_below(pattern, taken[i]) || path_is_below(taken[i], pattern))
                        return false;
        return !str_equal(pattern, "${workspace}");
}

static int read_tmpfs_at(SchemaReader *x, const TextNode *n)
{
        char pattern[PLAN_PATH_MAX];
        const char *message;
        uint64_t size;
        int r;

        message = path_pattern_check(n->key, pattern, sizeof(pattern));
        if (!message && !is_place_for_tmpfs(pattern))
                message = "nothing can lie over this path; name a folder below it";
        if (message)
                return schema_fail(x, n, "%s", message);
        r = read_bytes(x, n, TMP_BYTES_MIN, &size);
        if (r <= 0)
                return r;
        return policy_add_tmpfs(x->policy, pattern, size, layer_of(x->policy), /* replaces= */ false);
}

static int read_tmpfs(SchemaReader *x, const TextNode *n)
{
        int r;

        r = schema_expect(x, n, TEXT_OBJECT);
        if (r <= 0)
                return r;
        for (const TextNode *c = n->first; c; c = c->next) {
                r = str_equal(c->key, "/tmp") ? read_tmp(x, c) : read_tmpfs_at(x, c);
                if (r == -E2BIG)
                        return schema_fail(x, c, "too many entries");
                if (r < 0)
                        return r;
        }
        return 0;
}

static const KeyRule filesystem_rules[] = {
        { "root", read_root, NULL },
        { "home", read_home, NULL },
        { "workspace", read_workspace, NULL },
        { "read", read_read, NULL },
        { "write", read_write, NULL },
        { "deny", read_deny, NULL },
        { "tmpfs", read_tmpfs, NULL },
        { "protect", read_protect, NULL },
        { "ask", NULL, "name the paths under read or write, or leave them out" },
        { "sockets", read_sockets, NULL },
};
static const KeyTable filesystem_table = { filesystem_rules, ELEMENTSOF(filesystem_rules) };

static const KeyRule ceiling_rules[] = {
        { "root", read_root, NULL },
        { "home", read_home, NULL },
        { "workspace", read_workspace, NULL },
        { "read", read_read, NULL },
        { "write", read_write, NULL },
        { "deny", read_deny, NULL },
        { "sockets", read_sockets, NULL },
        { "tmpfs", NULL, "memory of a session is bounded by limits.memory" },
        { "protect", NULL, "name the paths under deny" },
        { "ask", NULL, "name the paths under deny, or leave them out of read and write" },
};
static const KeyTable ceiling_table = { ceiling_rules, ELEMENTSOF(ceiling_rules) };

int schema_read_filesystem(SchemaReader *x, const TextNode *n)
{
        return schema_read_object(x, n,
                                  x->policy->kind == POLICY_CEILING ? &ceiling_table : &filesystem_table);
}

/* ---- groups ---- */

static int add_group(SchemaReader *x, const TextNode *n)
{
        size_t size = strlen(n->string);

        if (size == 0 || size >= PRIV_NAME_SIZE || strpbrk(n->string, ":,/ \t\n"))
                return schema_fail(x, n, "expected the name of a group");
        return string_list_holds(&x->policy->groups, n->string)
                               ? 0
                               : string_list_add(&x->policy->groups, n->string);
}

int schema_read_groups(SchemaReader *x, const TextNode *n)
{
        x->policy->has |= HAS_GROUPS;
        return schema_read_strings(x, n, add_group);
}

/* ---- limits ---- */

static int read_limit_bytes(SchemaReader *x, const TextNode *n, uint64_t min, uint64_t *to, uint32_t has)
{
        int r;

        r = read_bytes(x, n, min, to);
        if (r > 0)
                x->policy->has |= has;
        return r < 0 ? r : 0;
}

static int read_memory(SchemaReader *x, const TextNode *n)
{
        return read_limit_bytes(x, n, 4U << 20, &x->policy->limits.memory_bytes, HAS_MEMORY);
}

static int read_swap(SchemaReader *x, const TextNode *n)
{
        int r;

        r = read_limit_bytes(x, n, 0, &x->policy->limits.swap_bytes, HAS_SWAP);
        x->policy->limits.has_swap = (x->policy->has & HAS_SWAP) != 0;
        return r;
}

static int read_io(SchemaReader *x, const TextNode *n)
{
        return read_limit_bytes(x, n, 64U << 10, &x->policy->limits.io_bytes_per_sec, HAS_IO);
}

static int read_output(SchemaReader *x, const TextNode *n)
{
        return read_limit_bytes(x, n, 1, &x->policy->limits.output_bytes, HAS_OUTPUT);
}

static int read_count(SchemaReader *x, const TextNode *n, int64_t min, int64_t max, uint64_t *to)
{
        int r;

        r = schema_expect(x, n, TEXT_INTEGER);
        if (r <= 0)
                return r;
        if (n->integer < min || n->integer > max) {
                r = schema_fail(x, n, "expected a number from %lld to %lld", (long long) min,
                                (long long) max);
                return r < 0 ? r : 0;
        }
        *to = (uint64_t) n->integer;
        return 1;
}

static int read_tasks(SchemaReader *x, const TextNode *n)
{
        int r = read_count(x, n, 2, 1 << 22, &x->policy->limits.tasks);

        if (r > 0)
                x->policy->has |= HAS_TASKS;
        return r < 0 ? r : 0;
}

static int read_files(SchemaReader *x, const TextNode *n)
{
        int r = read_count(x, n, 16, 1 << 20, &x->policy->limits.files);

        if (r > 0)
                x->policy->has |= HAS_FILES;
        return r < 0 ? r : 0;
}

static int read_cpu(SchemaReader *x, const TextNode *n)
{
        char number[16] = "";
        uint64_t percent = 0;
        size_t size;
        int r;

        r = schema_expect(x, n, TEXT_STRING);
        if (r <= 0)
                return r;
        size = strlen(n->string);
        if (size >= 2 && size < sizeof(number) && n->string[size - 1] == '%')
                memcpy(number, n->string, size - 1);
        if (parse_u64(number, &percent) < 0 || percent == 0 || percent > 100000)
                return schema_fail(x, n, "expected a share of one processor such as \"200%%\"");
        x->policy->limits.cpu_percent = percent;
        x->policy->has |= HAS_CPU;
        return 0;
}

static int read_limit_duration(SchemaReader *x, const TextNode *n, uint32_t has, uint64_t *to)
{
        int r;

        r = schema_expect(x, n, TEXT_STRING);
        if (r <= 0)
                return r;
        if (parse_duration(n->string, to) < 0 || *to == 0 || *to > INT64_MAX)
                return schema_fail(x, n, "expected a duration such as \"2h\"");
        x->policy->has |= has;
        return 0;
}

static int read_runtime(SchemaReader *x, const TextNode *n)
{
        return read_limit_duration(x, n, HAS_RUNTIME, &x->policy->limits.runtime_usec);
}

static int read_idle(SchemaReader *x, const TextNode *n)
{
        return read_limit_duration(x, n, HAS_IDLE, &x->policy->limits.idle_usec);
}

static const KeyRule limit_rules[] = {
        { "memory", read_memory, NULL },   { "swap", read_swap, NULL }, { "tasks", read_tasks, NULL },
        { "cpu", read_cpu, NULL },         { "io", read_io, NULL },     { "files", read_files, NULL },
        { "runtime", read_runtime, NULL }, { "idle", read_idle, NULL }, { "output", read_output, NULL },
};
static const KeyTable limit_table = { limit_rules, ELEMENTSOF(limit_rules) };

int schema_read_limits(SchemaReader *x, const TextNode *n)
{
        return schema_read_object(x, n, &limit_table);
}

/* ---- environment ---- */

static bool is_variable_name(const char *s)
{
        size_t n = strlen(s);

        if (n == 0 || n > 128 || (s[0] >= '0' && s[0] <= '9'))
                return false;
        return s[strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")] == '\0';
}

static int add_pass(SchemaReader *x, const TextNode *n)
{
        if (!is_variable_name(n->string))
                return schema_fail(x, n, "expected the exact name of a variable: letters, digits and '_'");
        return string_list_holds(&x->policy->pass, n->string) ? 0
                                                              : string_list_add(&x->policy->pass, n->string);
}

static int read_pass(SchemaReader *x, const TextNode *n)
{
        return schema_read_strings(x, n, add_pass);
}

static int add_set(SchemaReader *x, const TextNode *n)
{
        _cleanup_free_ char *pair = NULL;
        int r;

        r = schema_expect(x, n, TEXT_STRING);
        if (r <= 0)
                return r;
        if (!is_variable_name(n->key))
                return schema_fail(x, n, "the name of a variable has letters, digits and '_'");
        if (strlen(n->string) > ENVIRONMENT_VALUE_MAX)
                return schema_fail(x, n, "this value is too long (at most 4096 bytes)");
        r = str_aprintf(&pair, "%s=%s", n->key, n->string);
        return r < 0 ? r : string_list_add(&x->policy->set, pair);
}

static int read_set(SchemaReader *x, const TextNode *n)
{
        int r;

        r = schema_expect(x, n, TEXT_OBJECT);
        if (r <= 0)
                return r;
        for (const TextNode *c = n->first; c; c = c->next) {
                r = add_set(x, c);
                if (r < 0)
                        return r;
        }
        return 0;
}

static const KeyRule environment_rules[] = {
        { "pass", read_pass, NULL },
        { "set", read_set, NULL },
};
static const KeyTable environment_table = { environment_rules, ELEMENTSOF(environment_rules) };

int schema_read_environment(SchemaReader *x, const TextNode *n)
{
        return schema_read_object(x, n, &environment_table);
}
