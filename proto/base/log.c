#include "proto/base/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LOG_LINE_MAX 2048

#ifdef __GLIBC__
#define DESCRIPTION(e) strerrordesc_np(e)
#else
#define DESCRIPTION(e) strerror(e)
#endif

static const char *log_program = "sandboxd";
static LogLevel log_max_level = LOG_LEVEL_INFO;

void log_open(const char *program)
{
        log_program = program;
}

void log_set_level(LogLevel level)
{
        log_max_level = level;
}

static size_t escape_into(char *to, size_t size, const char *from)
{
        static const char hex[] = "0123456789abcdef";
        size_t n = 0;

        for (; *from && n + 5 < size; from++) {
                unsigned char c = (unsigned char) *from;

                if (c >= 0x20 && c < 0x7f) {
                        to[n++] = (char) c;
                        continue;
                }
                to[n++] = '\\';
                to[n++] = 'x';
                to[n++] = hex[c >> 4];
                to[n++] = hex[c & 15];
        }
        to[n] = '\0';
        return n;
}

int log_message(LogLevel level, int r, const char *format, ...)
{
        char text[LOG_LINE_MAX], line[LOG_LINE_MAX + 256];
        int saved_errno = errno, n;
        size_t used;
        va_list ap;

        if (level > log_max_level)
                return r;
        va_start(ap, format);
        n = vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        if (n < 0)
                return r;
        n = snprintf(line, sizeof(line), "<%d>%s[%d]: ", (int) level, log_program, (int) getpid());
        used = n > 0 ? (size_t) n : 0;
        used += escape_into(line + used, sizeof(line) - used - 128, text);
        if (r < 0) {
                n = snprintf(line + used, sizeof(line) - used - 1, ": %s", DESCRIPTION(-r));
                used += n > 0 ? (size_t) n : 0;
        }
        line[used++] = '\n';
        /* A log that cannot be written is not worth failing for. */
        (void) !write(STDERR_FILENO, line, used);
        errno = saved_errno;
        return r;
}

void sb_assert_failed(const char *expr, const char *file, int line)
{
        (void) log_error(0, "assertion failed: %s (%s:%d)", expr, file, line);
        abort();
}
