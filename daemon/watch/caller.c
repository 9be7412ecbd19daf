#include "daemon/watch/caller.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "proto/base/fd.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

#define FILE_SIZE 4096U

static bool read_file(int proc_fd, uint32_t thread, const char *name, char text[FILE_SIZE])
{
        _cleanup_close_ int fd = -EBADF;
        char path[32];
        ssize_t n;

        if (proc_fd < 0 || str_printf(path, sizeof(path), "%u/%s", thread, name) < 0)
                return false;
        fd = openat(proc_fd, path, O_RDONLY | O_CLOEXEC);
        n = fd < 0 ? -1 : read(fd, text, FILE_SIZE - 1);
        if (n < 0)
                return false;
        text[n] = '\0';
        return true;
}

/* Digits at the beginning of what follows; 0: none, or too many. */
static uint32_t number_at(const char *s)
{
        size_t n = strspn(s, "0123456789");
        char digits[12];
        uint32_t number;

        if (n == 0 || n >= sizeof(digits))
                return 0;
        memcpy(digits, s, n);
        digits[n] = '\0';
        return parse_u32(digits, &number) < 0 ? 0 : number;
}

uint32_t caller_command_of(const char *text, const char *session)
{
        const char *at = strstr(text, session);
        size_t n = strlen(session);

        return n > 0 && at && strncmp(at + n, "/e", 2) == 0 ? number_at(at + n + 2) : 0;
}

/* The name is the only line that the process writes, and it comes without a line break of its own. */
static const char *value_of(const char *status, const char *name)
{
        const char *at = strstr(status, name);

        if (!at)
                return "";
        at += strlen(name);
        return at + strspn(at, " \t");
}

void caller_parse_status(const char *text, Caller *ret)
{
        const char *uid = value_of(text, "\nUid:");

        ret->pid = number_at(value_of(text, "\nTgid:"));
        ret->is_host_root = uid[0] == '0' && (uid[1] == '\t' || uid[1] == ' ');
}

static void copy_line(char to[16], const char *text)
{
        size_t n = strcspn(text, "\n");

        n = n < 15 ? n : 15;
        memcpy(to, text, n);
        to[n] = '\0';
}

bool caller_is_host_root(int proc_fd, uint32_t thread)
{
        char text[FILE_SIZE];
        Caller caller = { 0 };

        if (thread > 0 && read_file(proc_fd, thread, "status", text))
                caller_parse_status(text, &caller);
        return caller.is_host_root;
}

void caller_read(int proc_fd, uint32_t thread, const char *session, Caller *ret)
{
        char text[FILE_SIZE];

        *ret = (Caller){ 0 };
        if (thread == 0)
                return;
        if (read_file(proc_fd, thread, "status", text))
                caller_parse_status(text, ret);
        if (read_file(proc_fd, thread, "comm", text))
                copy_line(ret->program, text);
        if (read_file(proc_fd, thread, "cgroup", text))
                ret->process = caller_command_of(text, session);
}
