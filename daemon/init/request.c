/* What an api worker asks init to execute. */

#include <errno.h>
#include <string.h>

#include "daemon/init/serve.h"
#include "proto/base/str.h"

#define TERMINAL_MAX 10000U

static char *next_string(char **at, const char *end)
{
        char *s = *at, *nul = memchr(s, '\0', (size_t) (end - s));

        if (!nul)
                return NULL;
        *at = nul + 1;
        return s;
}

static bool take_strings(char **at, const char *end, char **pointers, uint32_t n)
{
        for (uint32_t i = 0; i < n; i++) {
                pointers[i] = next_string(at, end);
                if (!pointers[i])
                        return false;
        }
        pointers[n] = NULL;
        return true;
}

static bool directory_ok(const char *path)
{
        return path[0] == '/' && strlen(path) < PRIV_PATH_SIZE &&
               !(str_has_prefix(path, "/proc") && (path[5] == '\0' || path[5] == '/'));
}

/* The strings must fill the message to its last byte. */
int command_request_parse(const Server *s, const Imsg *m, CommandRequest *ret)
{
        static char *pointers[PRIV_EXEC_STRINGS_MAX + 2]; /* one request at a time */
        char *at = (char *) (uintptr_t) m->body + sizeof(PrivExec);
        const char *end = (const char *) m->body + m->size;
        PrivExec e;
        char *directory;

        memcpy(&e, m->body, sizeof(e));
        if (e.n_arguments == 0 || e.n_arguments > PRIV_EXEC_STRINGS_MAX ||
            e.n_environment > PRIV_EXEC_STRINGS_MAX ||
            e.n_arguments + e.n_environment > PRIV_EXEC_STRINGS_MAX || e.process == 0)
                return -EINVAL;
        if (e.columns > TERMINAL_MAX || e.rows > TERMINAL_MAX)
                return -EINVAL;
        directory = next_string(&at, end);
        if (!directory || !take_strings(&at, end, pointers, e.n_arguments) ||
            !take_strings(&at, end, pointers + e.n_arguments + 1, e.n_environment) || at != end)
                return -EINVAL;
        if (directory[0] != '\0' && !directory_ok(directory))
                return -EINVAL;
        *ret = (CommandRequest){ .process = e.process,
                                 .has_pty = e.has_pty,
                                 .columns = (uint16_t) e.columns,
                                 .rows = (uint16_t) e.rows,
                                 .directory = directory[0] ? directory : s->workspace,
                                 .arguments = pointers,
                                 .environment = pointers + e.n_arguments + 1 };
        return 0;
}
