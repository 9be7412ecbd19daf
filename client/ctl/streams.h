#pragma once

/*
 * The command's standard streams. Terminals, files and /dev/null are passed as they are; for everything
 * else, and for pipes (which could be opened anew inside, the other way round), sandboxctl puts a pipe of
 * its own in between and moves the bytes. With a terminal inside, its master takes the place of all three.
 */

#include "client/ctl/ctl.h"

typedef struct Flow {
        int from; /* -EBADF: over */
        int to;
        bool owns_from;
        bool owns_to;
        bool can_splice;
} Flow;

typedef struct Stdio {
        bool has_pty;
        bool is_detached;
        bool is_raw; /* our terminal's mode was changed */
        bool is_nulls[3];
        int pass_fds[3]; /* for the call; borrowed or owned */
        bool owns_pass[3];
        Flow flows[3];
        int master;
} Stdio;

#define STDIO_FLOWS 3U

/* A detached command gets files and nothing else of ours; other output goes to its log. */
int stdio_init(Stdio *s, bool wants_terminal, bool wants_no_terminal, bool is_detached) _must_check_;
void stdio_done(Stdio *s);
/* Modes and indexes into command and parameters; descriptors into fds. */
int stdio_describe(Stdio *s, Json *command, Json *parameters, int fds[], size_t *n_fds) _must_check_;
/* The call was sent: what was only for it is closed. */
void stdio_sent(Stdio *s);
/* The command runs and this is its terminal. */
int stdio_start_pty(Stdio *s, int take_master) _must_check_;
void stdio_resize(Stdio *s);

/* One step of what can be moved; pollfds and back. */
struct pollfd;
size_t stdio_poll(const Stdio *s, struct pollfd *polls);
void stdio_move(Stdio *s, const struct pollfd *polls);
/* What the command has written before its end, as far as it is there. */
void stdio_drain(Stdio *s, bool until_end);
