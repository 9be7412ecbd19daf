#pragma once

/*
 * One line a message on stderr, with the level prefix that systemd's journal understands ("<3>"). Control
 * bytes and everything outside printable ASCII are escaped, so that text from outside cannot forge lines.
 */

#include <stdarg.h>

#include "proto/base/macro.h"

typedef enum LogLevel {
        LOG_LEVEL_ERROR = 3,
        LOG_LEVEL_WARNING = 4,
        LOG_LEVEL_INFO = 6,
        LOG_LEVEL_DEBUG = 7,
} LogLevel;

/* Name that each line begins with; static storage. Debug messages appear only after log_set_level(). */
void log_open(const char *program);
void log_set_level(LogLevel level);

/* Returns r, so that `return log_error(r, "...")` is one statement. Appends the text of r where r < 0. */
int log_message(LogLevel level, int r, const char *format, ...) _printf_(3, 4);

#define log_error(r, ...)   log_message(LOG_LEVEL_ERROR, (r), __VA_ARGS__)
#define log_warning(r, ...) log_message(LOG_LEVEL_WARNING, (r), __VA_ARGS__)
#define log_info(...)       ((void) log_message(LOG_LEVEL_INFO, 0, __VA_ARGS__))
#define log_debug(...)      ((void) log_message(LOG_LEVEL_DEBUG, 0, __VA_ARGS__))
