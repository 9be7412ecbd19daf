/*
 * What a command's environment holds: a fixed base, what the policy sets, and what the client named. Nothing
 * of the daemon's own environment is in it.
 */

#include "daemon/api/context.h"
#include "proto/base/error.h"
#include "proto/base/str.h"

#define ENVIRONMENT_MAX 1024U
#define VARIABLES_MAX   (5U * ENVIRONMENT_MAX) /* built in, passed, set, of the context, of the command */
#define VALUE_SIZE_MAX  (32U * 1024U)

/* Tool folders come last: what lies in a home never takes the place of a program of the system. */
#define PATH_SYSTEM "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/games"

static const char *const tool_folders[] = {
        ".local/bin",   ".cargo/bin", "go/bin",   ".go/bin",   ".pyenv/bin",
        ".pyenv/shims", ".volta/bin", ".bun/bin", ".deno/bin", ".nix-profile/bin",
};

typedef struct Variables {
        const char **items;
        size_t n;
        size_t room;
} Variables;

static size_t name_size(const char *item)
{
        const char *equals = strchr(item, '=');

        return equals ? (size_t) (equals - item) : strlen(item);
}

static bool name_equal(const char *a, const char *b)
{
        size_t n = name_size(a);

        return n == name_size(b) && memcmp(a, b, n) == 0;
}

static bool is_name_byte(char c, bool is_first)
{
        return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_' ||
               (!is_first && c >= '0' && c <= '9');
}

/* A zone's name is a path below the zone folder to every libc. */
static bool timezone_is_sound(const char *value)
{
        size_t n = strlen(value);

        if (n < 1 || n > 64 || strstr(value, ".."))
                return false;
        return value[0] != '/' &&
               strspn(value, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+/-") == n;
}

static bool item_is_sound(const char *item)
{
        size_t n = name_size(item);

        if (n == 0 || item[n] != '=' || strlen(item) > VALUE_SIZE_MAX || strchr(item, '\n'))
                return false;
        for (size_t i = 0; i < n; i++) {
                if (!is_name_byte(item[i], i == 0))
                        return false;
        }
        return !str_has_prefix(item, "TZ=") || timezone_is_sound(item + 3);
}

int directory_parse(const char *path, char *ret, size_t size)
{
        int r;

        r = policy_path_canonical(path, ret, size);
        if (r < 0)
                return r;
        return str_equal(ret, "/proc") || str_has_prefix(ret, "/proc/") ? -EINVAL : 0;
}

int environment_check(const Json *list, size_t *ret_index)
{
        for (size_t i = 0; i < json_n(list); i++) {
                const char *item = json_string(json_at(list, i));

                *ret_index = i;
                if (i >= ENVIRONMENT_MAX || !item_is_sound(item))
                        return -EINVAL;
                for (size_t j = 0; j < i; j++) {
                        if (name_equal(item, json_string(json_at(list, j))))
                                return -EINVAL;
                }
        }
        return 0;
}

static bool may_pass(const Policy *p, const char *item)
{
        for (size_t i = 0; i < policy_n_pass(p); i++) {
                if (name_equal(policy_pass(p, i), item))
                        return item_is_sound(item);
        }
        return false;
}

int environment_pass(const Policy *p, const Json *candidates, Json *to)
{
        int r = 0;

        if (json_n(candidates) > ENVIRONMENT_MAX)
                return -EINVAL;
        /* From behind: of two of a name, what is put last counts. */
        for (size_t i = json_n(candidates); r >= 0 && i > 0; i--) {
                const char *item = json_string(json_at(candidates, i - 1));

                if (may_pass(p, item))
                        r = json_append_string(to, item);
        }
        return r;
}

/* item is borrowed. A later one replaces an earlier one of its name. */
static int variables_put(Variables *v, const char *item)
{
        for (size_t i = 0; i < v->n; i++) {
                if (name_equal(v->items[i], item)) {
                        v->items[i] = item;
                        return 0;
                }
        }
        if (v->n >= v->room)
                return -E2BIG;
        v->items[v->n++] = item;
        return 0;
}

static int variables_put_list(Variables *v, const Json *list)
{
        int r = 0;

        for (size_t i = 0; list && r >= 0 && i < json_n(list); i++)
                r = variables_put(v, json_string(json_at(list, i)));
        return r;
}

static int put_proxies(Variables *v)
{
        static const char *const items[] = {
                "HTTP_PROXY=http://127.0.0.1:3128",
                "http_proxy=http://127.0.0.1:3128",
                "HTTPS_PROXY=http://127.0.0.1:3128",
                "https_proxy=http://127.0.0.1:3128",
                "ALL_PROXY=http://127.0.0.1:3128",
                "all_proxy=http://127.0.0.1:3128",
                "NO_PROXY=localhost,127.0.0.0/8,::1",
                "no_proxy=localhost,127.0.0.0/8,::1",
                "NODE_USE_ENV_PROXY=1",
        };
        int r = 0;

        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(items); i++)
                r = variables_put(v, items[i]);
        return r;
}

static int format_path(const char *home, char **ret)
{
        Buf b = BUF_INIT(64U * 1024U);
        int r;

        r = buf_put_string(&b, "PATH=" PATH_SYSTEM);
        /* A home with a colon would become two relative folders. */
        for (size_t i = 0; r >= 0 && !strchr(home, ':') && i < ELEMENTSOF(tool_folders); i++)
                r = buf_printf(&b, ":%s/%s", home, tool_folders[i]);
        if (r >= 0)
                r = buf_put(&b, "", 1);
        if (r < 0) {
                buf_done(&b);
                return r;
        }
        *ret = b.data;
        return 0;
}

static int put_base(const Api *api, Variables *v, char *ret_owned[5])
{
        const PrivIdentity *who = &api->start.identity;
        const char *user = who->uid == 0 ? "sandbox" : who->user;
        int r;

        r = format_path(who->home, &ret_owned[0]);
        if (r >= 0)
                r = str_aprintf(&ret_owned[1], "HOME=%s", who->home);
        if (r >= 0)
                r = str_aprintf(&ret_owned[2], "USER=%s", user);
        if (r >= 0)
                r = str_aprintf(&ret_owned[3], "LOGNAME=%s", user);
        if (r >= 0)
                r = str_aprintf(&ret_owned[4], "SHELL=%s", who->shell[0] ? who->shell : "/bin/sh");
        for (size_t i = 0; r >= 0 && i < 5; i++)
                r = variables_put(v, ret_owned[i]);
        return r;
}

int environment_build(const Session *s, const Json *command, Buf *b, uint32_t *ret_n)
{
        const Json *terminal = get_value(command, "terminal");
        const char *term = terminal ? get_string(terminal, "term") : NULL;
        _cleanup_free_ const char **items = calloc(VARIABLES_MAX, sizeof(*items));
        Variables v = { .items = items, .room = VARIABLES_MAX };
        char *owned[6] = { NULL };
        int r;

        if (!items)
                return -ENOMEM;
        r = put_base(s->api, &v, owned);
        if (r >= 0)
                r = put_proxies(&v);
        if (r >= 0)
                r = variables_put_list(&v, s->environment);
        if (r >= 0)
                r = variables_put_list(&v, get_value(command, "environment"));
        if (r >= 0 && term) {
                r = str_aprintf(&owned[5], "TERM=%s", term);
                if (r >= 0)
                        r = variables_put(&v, owned[5]);
        }
        for (size_t i = 0; r >= 0 && i < v.n; i++)
                r = buf_put(b, v.items[i], strlen(v.items[i]) + 1);
        for (size_t i = 0; i < ELEMENTSOF(owned); i++)
                free(owned[i]);
        *ret_n = (uint32_t) v.n;
        return r;
}
