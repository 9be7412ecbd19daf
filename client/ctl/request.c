#include "client/ctl/request.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

#define TEXT_MAX  (16U * 1024U * 1024U)
#define PATH_SIZE 4096U

#define CANDIDATES_MAX      1024U
#define CANDIDATES_SIZE_MAX (64U * 1024U)
#define CANDIDATE_SIZE_MAX  (4U * 1024U)

static const int refused_options[] = { 'v', 'O', 'U', 'A' };

int request_init(Request *q)
{
        int r;

        *q = (Request){ .profile_fd = -EBADF };
        if ((r = json_new_object(&q->context)) < 0 || (r = json_new_object(&q->command)) < 0 ||
            (r = json_new_array(&q->environment)) < 0)
                return r;
        return json_new_object(&q->limits);
}

void request_done(Request *q)
{
        q->context = json_unref(q->context);
        q->command = json_unref(q->command);
        q->environment = json_unref(q->environment);
        q->limits = json_unref(q->limits);
        q->labels = json_unref(q->labels);
        q->profile_fd = fd_close(q->profile_fd);
        free(q->workspace);
        q->workspace = NULL;
}

static int no_memory(int r)
{
        return r < 0 ? fail("out of memory (%s)", error_name(r)) : 0;
}

/* ---- single options ---- */

static int append_to(Json *object, const char *key, const char *value)
{
        const Json *list = json_get(object, key);
        Json *fresh = NULL;
        int r;

        if (list)
                /* Ours: made below. */
                return json_append_string((Json *) (uintptr_t) list, value);
        r = json_new_array(&fresh);
        if (r >= 0)
                r = json_append_string(fresh, value);
        if (r < 0) {
                json_unref(fresh);
                return r;
        }
        return json_set(object, key, fresh);
}

static int current_folder(char path[PATH_SIZE])
{
        return getcwd(path, PATH_SIZE) ? 0 : neg_errno();
}

/* Paths of policy may begin with a variable; all others are meant from the current folder. */
static int append_path(Json *object, const char *key, const char *value)
{
        _cleanup_free_ char *path = NULL;
        char folder[PATH_SIZE];
        int r;

        if (value[0] == '/' || value[0] == '~' || value[0] == '$')
                return append_to(object, key, value);
        r = current_folder(folder);
        if (r < 0)
                return r;
        while (str_has_prefix(value, "./"))
                value += 2;
        r = str_equal(value, ".") ? str_dup(folder, &path) : str_aprintf(&path, "%s/%s", folder, value);
        return r < 0 ? r : append_to(object, key, path);
}

/* A later --env of the same name takes the earlier one's place: that one is left out when all are put
 * together. */
static int take_environment(Request *q, const char *item)
{
        _cleanup_free_ char *whole = NULL;
        const char *value;
        int r;

        if (strchr(item, '='))
                return no_memory(json_append_string(q->environment, item));
        value = secure_getenv(item);
        if (!value)
                return 0;
        r = str_aprintf(&whole, "%s=%s", item, value);
        return no_memory(r < 0 ? r : json_append_string(q->environment, whole));
}

static int read_text(const char *path, bool follows, char **ret_text, size_t *ret_size)
{
        _cleanup_close_ int fd = -EBADF;

        fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | (follows ? 0 : O_NOFOLLOW));
        if (fd < 0)
                return neg_errno();
        /* Opening must not wait for a writer; what a pipe of the caller's shell brings may come later. */
        return follows && fcntl(fd, F_SETFL, 0) < 0 ? neg_errno()
                                                    : fd_read_all(fd, TEXT_MAX, ret_text, ret_size);
}

static int take_environment_file(Request *q, const char *path)
{
        _cleanup_free_ char *text = NULL;
        size_t size;
        char *line;
        int r;

        r = read_text(path, /* follows= */ true, &text, &size);
        if (r < 0)
                return fail("%s: %s", path, error_name(r));
        for (line = text; *line;) {
                size_t n = strcspn(line, "\n");
                bool is_last = line[n] == '\0';

                line[n] = '\0';
                if (n > 0 && line[0] != '#' && !strchr(line, '='))
                        return fail("%s: %s: not NAME=VALUE", path, line);
                if (n > 0 && line[0] != '#')
                        r = take_environment(q, line);
                if (r != 0)
                        return r;
                line += n + !is_last;
        }
        return 0;
}

static int take_size(Request *q, const char *key, const char *text)
{
        uint64_t v;

        if (parse_size(text, &v) < 0 || v == 0 || v > INT64_MAX)
                return fail("%s: not a size; write for example 512M or 4G", text);
        return no_memory(json_set_integer(q->limits, key, (int64_t) v));
}

static int take_cpu(Request *q, const char *text)
{
        char number[24];
        size_t n = strcspn(text, "%");
        uint64_t v;

        if (n >= sizeof(number) || (text[n] && text[n + 1]))
                return fail("%s: not a share; write for example 200%%", text);
        memcpy(number, text, n);
        number[n] = '\0';
        if (parse_u64(number, &v) < 0 || v == 0 || v > INT64_MAX)
                return fail("%s: not a share; write for example 200%%", text);
        return no_memory(json_set_integer(q->limits, "cpuQuotaPercent", (int64_t) v));
}

static int take_time(Json *to, const char *key, const char *text)
{
        uint64_t v;

        if (parse_duration(text, &v) < 0 || v == 0 || v > INT64_MAX)
                return fail("%s: not a time; write for example 500ms, 30s or 2h", text);
        return no_memory(json_set_integer(to, key, (int64_t) v));
}

static int take_workdir(Request *q, const char *path)
{
        _cleanup_free_ char *whole = NULL;
        int r;

        if (path[0] == '/')
                return no_memory(json_set_string(q->command, "workingDirectory", path));
        if (!q->workspace)
                return fail("%s: the working directory inside must be absolute here", path);
        r = str_aprintf(&whole, "%s/%s", q->workspace, path);
        return no_memory(r < 0 ? r : json_set_string(q->command, "workingDirectory", whole));
}

int request_take_profile(Request *q, const char *name)
{
        _cleanup_free_ char *text = NULL;
        size_t size;
        int r;

        q->profile = name;
        q->profile_fd = fd_close(q->profile_fd);
        if (!strchr(name, '/') && !str_has_suffix(name, ".json"))
                return 0;
        r = read_text(name, /* follows= */ true, &text, &size);
        if (r < 0)
                return fail("%s: cannot read the profile: %s", name, error_name(r));
        r = fd_memfd_sealed("profile", text, size, &q->profile_fd);
        return no_memory(r);
}

/* The name on disk of what the user's path leads to. */
int request_take_workspace(Request *q, const char *directory)
{
        _cleanup_close_ int fd = -EBADF;
        char link[64], path[PATH_SIZE];
        ssize_t n;

        fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return fail("%s: cannot be the workspace: %s", directory, error_name(neg_errno()));
        (void) snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        n = readlink(link, path, sizeof(path));
        if (n <= 0 || (size_t) n >= sizeof(path) || path[0] != '/')
                return fail("%s: cannot find out its path", directory);
        path[n] = '\0';
        free(q->workspace);
        q->workspace = NULL;
        return no_memory(str_dup(path, &q->workspace));
}

/* ---- tables ---- */

#define COMMAND_OPTIONS                                                                        \
        { "env", required_argument, NULL, 'e' }, { "env-file", required_argument, NULL, 'E' }, \
                        { "workdir", required_argument, NULL, 'd' },                           \
        {                                                                                      \
                "timeout", required_argument, NULL, 'o'                                        \
        }

static const struct option session_options[] = {
        { "profile", required_argument, NULL, 'p' },
        { "workspace", required_argument, NULL, 'w' },
        { "read", required_argument, NULL, 'r' },
        { "write", required_argument, NULL, 'W' },
        { "deny", required_argument, NULL, 'D' },
        { "allow-host", required_argument, NULL, 'a' },
        { "deny-host", required_argument, NULL, 'b' },
        { "no-network", no_argument, NULL, 'n' },
        { "name", required_argument, NULL, 'N' },
        { "label", required_argument, NULL, 'L' },
        { "runtime", required_argument, NULL, 'R' },
        { "idle", required_argument, NULL, 'I' },
        { "memory", required_argument, NULL, 'm' },
        { "tasks", required_argument, NULL, 'k' },
        { "cpu", required_argument, NULL, 'u' },
        { "detach", no_argument, NULL, 'x' },
        { "keep", no_argument, NULL, 'K' },
        { "stats", no_argument, NULL, 's' },
        { "quiet", no_argument, NULL, 'q' },
        { "volume", required_argument, NULL, 'v' },
        { "overlay", no_argument, NULL, 'O' },
        { "user", required_argument, NULL, 'U' },
        { "publish", required_argument, NULL, 'P' },
        { "ask", required_argument, NULL, 'A' },
        { "home", required_argument, NULL, 'H' },
        COMMAND_OPTIONS,
        COMMON_OPTIONS,
};

static const struct option command_options[] = { { "quiet", no_argument, NULL, 'q' },
                                                 COMMAND_OPTIONS,
                                                 COMMON_OPTIONS };

static int refuse(const Request *q, int c, const char *value)
{
        (void) q;
        switch (c) {
        case 'v':
                return fail("-v is not available in this version: use --read or --write, which show a "
                            "path under its own name");
        case 'O':
                return fail("--overlay is not available in this version: the session writes to the "
                            "workspace itself");
        case 'U':
                return fail("--user is not available in this version");
        default:
                return str_equal(value, "deny")
                                       ? 0
                                       : fail("--ask %s is not available in this version: what policy "
                                              "leaves open is denied",
                                              value);
        }
}

static int apply_command(Request *q, int c, const char *value)
{
        switch (c) {
        case 'e':
                return take_environment(q, value);
        case 'E':
                return take_environment_file(q, value);
        case 'd':
                return take_workdir(q, value);
        case 'o':
                return take_time(q->command, "timeoutUSec", value);
        case 't':
                q->wants_terminal = true;
                return 0;
        case 'T':
                q->wants_no_terminal = true;
                return 0;
        case 'q':
                q->is_quiet = true;
                return 0;
        default:
                return EXIT_OURS; /* getopt has said why */
        }
}

static int apply_policy(Request *q, int c, const char *value)
{
        switch (c) {
        case 'P':
                return publish_add(q->context, value);
        case 'r':
                return no_memory(append_path(q->context, "read", value));
        case 'W':
                return no_memory(append_path(q->context, "write", value));
        case 'D':
                /* A pattern is meant from the workspace on. */
                return no_memory(strpbrk(value, "*?") ? append_to(q->context, "deny", value)
                                                      : append_path(q->context, "deny", value));
        case 'a':
                return no_memory(append_to(q->context, "allowHosts", value));
        case 'b':
                return no_memory(append_to(q->context, "denyHosts", value));
        default:
                return no_memory(json_set_boolean(q->context, "noNetwork", true));
        }
}

static int apply_session(Request *q, int c, const char *value)
{
        switch (c) {
        case 'p':
                return request_take_profile(q, value);
        case 'w':
                return request_take_workspace(q, value);
        case 'N':
                return no_memory(json_set_string(q->context, "name", value));
        case 'H':
                return no_memory(json_set_string(q->context, "home", value));
        case 'L':
                return label_add(&q->labels, value);
        case 'R':
                return take_time(q->limits, "runtimeMaxUSec", value);
        case 'I':
                return take_time(q->limits, "idleMaxUSec", value);
        case 'm':
                return take_size(q, "memoryMaxBytes", value);
        case 'k':
                return take_size(q, "tasksMax", value);
        case 'u':
                return take_cpu(q, value);
        case 'c':
                q->shell_string = value;
                return 0;
        case 'x':
                q->is_detached = true;
                return 0;
        case 'K':
                q->has_keep = true;
                return 0;
        case 's':
                q->has_stats = true;
                return 0;
        default:
                return apply_command(q, c, value);
        }
}

static bool is_one_of(int c, const char *letters)
{
        return c > 0 && c < 128 && strchr(letters, c);
}

int request_parse_session(Request *q, Common *common, int argc, char *argv[])
{
        const char *workdir = NULL;
        int c, status = 0;

        while (status == 0 && (c = next_option(common, argc, argv, "+p:w:v:tTc:q", session_options)) >= 0) {
                bool is_refused = false;

                for (size_t i = 0; i < ELEMENTSOF(refused_options); i++)
                        is_refused = is_refused || c == refused_options[i];
                if (is_refused)
                        status = refuse(q, c, optarg ? optarg : "");
                else if (is_one_of(c, "rWDabnP"))
                        status = apply_policy(q, c, optarg);
                else if (c == 'd')
                        workdir = optarg;
                else
                        status = apply_session(q, c, optarg);
        }
        if (status == 0 && !q->workspace)
                status = request_take_workspace(q, ".");
        if (status == 0 && workdir)
                status = take_workdir(q, workdir);
        return status;
}

int request_parse_command(Request *q, Common *common, int argc, char *argv[])
{
        int c, status = 0;

        while (status == 0 && (c = next_option(common, argc, argv, "+tTq", command_options)) >= 0)
                status = apply_command(q, c, optarg);
        return status;
}

/* ---- putting together ---- */

static bool same_name(const char *a, const char *b)
{
        size_t n = strcspn(a, "=");

        return n == strcspn(b, "=") && memcmp(a, b, n) == 0;
}

static bool is_replaced(const Json *list, size_t from, const char *item)
{
        for (size_t i = from; i < json_n(list); i++) {
                if (same_name(json_string(json_at(list, i)), item))
                        return true;
        }
        return false;
}

/* What an item takes in a message: control bytes are written as \u and four digits there. */
static size_t message_size(const char *item)
{
        size_t n = 0;

        for (const char *p = item; *p; p++)
                n += (unsigned char) *p < 0x20 ? 6 : *p == '"' || *p == '\\' ? 2 : 1;
        return n;
}

/* Our own variables, for the policy to choose from. One that is too long or no text is left out. */
static int put_candidates(Json *context)
{
        _cleanup_json_ Json *list = NULL;
        size_t room = CANDIDATES_SIZE_MAX;
        int r;

        r = json_new_array(&list);
        for (char **e = environ; r >= 0 && e && *e && json_n(list) < CANDIDATES_MAX; e++) {
                size_t n = strlen(*e);

                if (n > CANDIDATE_SIZE_MAX || !strchr(*e, '=') || !str_is_utf8(*e, n) ||
                    message_size(*e) > room)
                        continue;
                room -= message_size(*e);
                r = json_append_string(list, *e);
        }
        return r < 0 ? r : json_set(context, "passEnvironment", TAKE_PTR(list));
}

/* Those of the command line, the last of each name. */
static int finish_environment(const Request *q, Json *to)
{
        _cleanup_json_ Json *list = NULL;
        int r;

        r = json_new_array(&list);
        for (size_t i = 0; r >= 0 && i < json_n(q->environment); i++) {
                const char *item = json_string(json_at(q->environment, i));

                if (!str_is_utf8(item, strlen(item)))
                        return fail("--env %s: not UTF-8", item);
                if (!is_replaced(q->environment, i + 1, item))
                        r = json_append_string(list, item);
        }
        if (r >= 0 && json_n(list) > 0)
                r = json_set(to, "environment", TAKE_PTR(list));
        return no_memory(r);
}

static int read_layer(Json *object, const char *key, const char *path, bool follows)
{
        _cleanup_free_ char *text = NULL;
        size_t size;
        int r;

        r = read_text(path, follows, &text, &size);
        if (r == -ENOENT || r == -ENOTDIR)
                return 0;
        if (r < 0)
                return fail("%s: cannot be read: %s", path, error_name(r));
        if (strlen(text) != size || !str_is_utf8(text, size))
                return fail("%s: not a text in UTF-8", path);
        return no_memory(json_set_string(object, key, text));
}

static bool can_enter(const char *directory)
{
        _cleanup_close_ int fd = -EBADF;
        char path[PATH_SIZE];

        if (str_printf(path, sizeof(path), "%s/.", directory) >= 0)
                fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
        return fd >= 0;
}

int request_read_policy(Json *object, const char *workspace)
{
        const char *home = secure_getenv("HOME");
        char path[PATH_SIZE];
        int status = 0;

        if (home && home[0] == '/' &&
            str_printf(path, sizeof(path), "%s/.config/sandboxd/policy.json", home) >= 0)
                status = read_layer(object, "userPolicy", path, /* follows= */ true);
        /* What we may not enter, the daemon refuses as a workspace, and records it. */
        if (status == 0 && workspace && can_enter(workspace) &&
            str_printf(path, sizeof(path), "%s/.sandboxd.json", workspace) >= 0)
                status = read_layer(object, "projectPolicy", path, /* follows= */ false);
        return status;
}

int request_finish_context(Request *q)
{
        int status, r;

        r = json_set_string(q->context, "workspace", q->workspace);
        if (r >= 0 && q->profile_fd < 0)
                r = json_set_string(q->context, "profile", q->profile);
        if (r >= 0 && json_n(q->limits) > 0)
                r = json_set(q->context, "limits", TAKE_PTR(q->limits));
        if (r >= 0 && q->labels)
                r = json_set(q->context, "labels", TAKE_PTR(q->labels));
        if (r >= 0 && q->is_detached)
                r = json_set_string(q->context, "lifetime", "detached");
        if (r >= 0)
                r = put_candidates(q->context);
        if (r < 0)
                return no_memory(r);
        status = request_read_policy(q->context, q->workspace);
        return status != 0 ? status : finish_environment(q, q->context);
}

int request_finish_command(Request *q, int argc, char *argv[], bool has_own_environment)
{
        _cleanup_json_ Json *list = NULL;
        int r;

        if (!q->shell_string && argc == 0)
                return fail("which command? Write it behind the options, or -c STRING");
        r = json_new_array(&list);
        if (r >= 0 && q->shell_string &&
            ((r = json_append_string(list, "/bin/sh")) < 0 || (r = json_append_string(list, "-c")) < 0 ||
             (r = json_append_string(list, q->shell_string)) < 0))
                return no_memory(r);
        for (int i = 0; r >= 0 && i < argc; i++) {
                if (!str_is_utf8(argv[i], strlen(argv[i])))
                        return fail("%s: arguments must be UTF-8", argv[i]);
                r = json_append_string(list, argv[i]);
        }
        if (r >= 0)
                r = json_set(q->command, "commandLine", TAKE_PTR(list));
        if (r < 0)
                return no_memory(r);
        return has_own_environment ? finish_environment(q, q->command) : 0;
}

int request_finish_environment(Request *q)
{
        return finish_environment(q, q->command);
}

int request_parameters(Request *q, bool has_command, size_t profile_index, Json **ret)
{
        _cleanup_json_ Json *p = NULL;
        int r;

        r = json_new_object(&p);
        if (r >= 0)
                r = json_set(p, "context", TAKE_PTR(q->context));
        if (r >= 0 && has_command)
                r = json_set(p, "command", TAKE_PTR(q->command));
        if (r >= 0 && q->profile_fd >= 0)
                r = json_set_integer(p, "profileFileDescriptor", (int64_t) profile_index);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(p);
        return 0;
}
