#pragma once

/*
 * What init does once the session stands: starts commands, each in a child group of the session's cgroup,
 * reaps everything, and says what became of the commands. It runs with the session's own rights, in a
 * Landlock domain and under the session's filter; whatever it reads from the channel is a request of the
 * user's own api worker.
 *
 * A command is STARTING until the pipe to its child closes (execve succeeded) or brings an error; then it
 * runs until its leader is reaped; then only its group is left, which goes once nobody is in it.
 */

#include <stdbool.h>
#include <sys/types.h>

#include "proto/base/list.h"
#include "proto/wire/imsg.h"

#define SERVE_COMMANDS_MAX 1024U

typedef enum CommandState {
        COMMAND_STARTING = 0, /* the child has not executed the program yet: no message was sent */
        COMMAND_RUNNING,      /* EXEC_STARTED was sent */
        COMMAND_FAILED,       /* EXEC_STARTED with an error was sent; the child is about to exit */
        COMMAND_ENDED,        /* the leader was reaped: others may still be in the group */
} CommandState;

typedef struct Command {
        ListLink link;
        uint32_t process;
        CommandState state;
        pid_t pid;
        int pidfd;     /* until EXEC_STARTED was sent */
        int master_fd; /* of the pty, until then */
        int error_fd;  /* reading end of the pipe, until then */
} Command;

typedef struct Spare Spare;

typedef struct Server {
        ImsgChannel api;
        bool has_api;
        int cgroup_fd;
        int filter_fd;         /* of commands */
        const char *workspace; /* where commands start that do not say */
        uint32_t files_max;
        int signal_fd;
        int guard_fd;     /* -EBADF: nothing is protected */
        unsigned n_notes; /* of the guard's, passed on */
        bool is_ending;   /* the launcher said so: no command starts any more */
        ListLink commands;
        size_t n_commands;
        uint32_t last_process; /* highest number that was asked for */
        uint64_t n_started;
        Spare *spare;         /* waits for the next command, or was told to end and is not yet reaped */
        uint64_t spare_tried; /* n_started when one was last made */
} Server;

/* What the child reports through the pipe when it could not execute the program. */
typedef struct CommandError {
        int32_t error;
        uint32_t stage;
} CommandError;

/* A request for a command, pointing into the message. */
typedef struct CommandRequest {
        uint32_t process;
        bool has_pty;
        uint16_t columns;
        uint16_t rows;
        const char *directory;
        char **arguments; /* NULL-terminated, as is the environment */
        char **environment;
        int gate_fd; /* the child waits at it */
        int *fds;    /* three, or none with a pty */
} CommandRequest;

/* Runs until the end of the session. */
int serve_run(Server *s) _must_check_;

/* 0 and *ret, pointing into the message and the parser's own array, until the next call; gate_fd and fds are
 * not set. -EINVAL: the message is not what its sender should send. */
int command_request_parse(const Server *s, const Imsg *m, CommandRequest *ret) _must_check_;

/* Starts the child in a group of its own; on success *ret is a new command, not yet in a list. */
int command_start(Server *s, const CommandRequest *request, Command **ret) _must_check_;

/* The parts of it. command_new: without a process yet; the child's end of its pipe is the caller's.
 * command_clone: child->request NULL makes a spare. */
typedef struct Child Child;
int command_new(uint32_t process, Command **ret, int *ret_write_fd) _must_check_;
int command_open_pty(const CommandRequest *q, int *ret_master, int *ret_slave) _must_check_;
int command_clone(const Server *s, Command *c, Child *child) _must_check_;
Command *command_free(Command *c);
DEFINE_CLEANUP(Command *, command_free)

/* -EBUSY while somebody is in it. */
int command_group_remove(const Server *s, const Command *c) _must_check_;

/* A signal for each process in the group. -ESRCH: nobody is there. */
int command_group_signal(const Server *s, const Command *c, int signal) _must_check_;
int command_group_kill(const Server *s, const Command *c) _must_check_;

/* ---- the end, where there is a guard ---- */

/* What the guard says, for api; < 0: it is gone, and the session with it. */
int ending_pass_on(Server *s) _must_check_;
struct signalfd_siginfo;
bool ending_is_asked(const struct signalfd_siginfo *info);
/* Kills everything and hears that the guard has looked once more. */
int ending_run(Server *s) _must_check_;

/* ---- the next command's process ---- */

/* Commands follow each other here, and none waits. */
bool spare_is_wanted(const Server *s);
int spare_make(Server *s) _must_check_;

/* -EAGAIN: start it without; on success *ret is as from command_start(). m: what request was parsed from. */
int spare_take(Server *s, const Imsg *m, const CommandRequest *request, Command **ret) _must_check_;

/* The group of that number exists already. */
bool spare_has_group(const Server *s, uint32_t process);
void spare_reaped(Server *s, pid_t pid);
