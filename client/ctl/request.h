#pragma once

/* Options of run, create and exec to the parameters of Spawn, Create and Exec. Everything of the user's that
 * is read (policy files, the environment) is read here, with the user's rights. */

#include "client/ctl/ctl.h"

typedef struct Request {
        Json *context;
        Json *command;
        Json *environment; /* NAME=VALUE */
        Json *limits;
        Json *labels; /* NULL: none */
        char *workspace;
        const char *profile; /* as given */
        int profile_fd;
        const char *shell_string; /* -c */
        bool wants_terminal;      /* -t */
        bool wants_no_terminal;   /* -T */
        bool is_detached;
        bool has_keep;
        bool has_stats;
        bool is_quiet;
} Request;

int request_init(Request *q) _must_check_;
void request_done(Request *q);

/* Options of a session or of a command alone; 0, or an exit status after a message. The rest of the command
 * line begins at optind. */
int request_parse_session(Request *q, Common *common, int argc, char *argv[]);
int request_parse_command(Request *q, Common *common, int argc, char *argv[]);

/* What only a whole session has: workspace, texts of policy, environment. */
int request_finish_context(Request *q);
/* The environment's own part, and the command line from argv. */
int request_finish_command(Request *q, int argc, char *argv[], bool has_own_environment);

/* The environment's own part alone, of the user's login shell. */
int request_finish_environment(Request *q);

/* {context[, command][, profileFileDescriptor: n_fds]}: takes what it puts there. */
int request_parameters(Request *q, bool has_command, size_t profile_index, Json **ret) _must_check_;

/* Profile by name, or the file's text as a descriptor; workspace path as it is on disk. Also for policy
 * check. */
int request_take_profile(Request *q, const char *name_or_file);
int request_take_workspace(Request *q, const char *directory);
/* Texts of the user and the project, where there are any. */
int request_read_policy(Json *object, const char *workspace);
