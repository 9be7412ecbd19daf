#pragma once

/* Who asks: read from /proc while the caller waits for its answer. What a process calls itself is its own
 * word. */

#include <stdbool.h>
#include <stdint.h>

#include "proto/base/id.h"

typedef struct Caller {
        bool is_host_root; /* no program of a session: their real user is never the machine's root */
        uint32_t pid;      /* 0: not known, as below */
        uint32_t process;  /* number of the session's command */
        char program[16];
} Caller;

/* proc_fd: a /proc that shows the thread; -EBADF: there is none. */
void caller_read(int proc_fd, uint32_t thread, const char *session, Caller *ret);

/* Is it the daemon's own that asks, init or the guard? What cannot be read is not. */
bool caller_is_host_root(int proc_fd, uint32_t thread);

/* The command that a control group belongs to: .../SESSION/eN; 0: none. text: of /proc/PID/cgroup. */
uint32_t caller_command_of(const char *text, const char *session);

/* Of /proc/PID/status: the process of the thread, and whether its real user is root. */
void caller_parse_status(const char *text, Caller *ret);
