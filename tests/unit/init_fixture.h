#pragma once

/* Plays launcher and api for one sandbox-init: namespaces, cgroup, plan, then commands with captured output.
 * Root and a writable cgroup v2 tree are needed. */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/init/plan.h"
#include "proto/wire/imsg.h"

#define FIXTURE_UID        61234U
#define FIXTURE_OUTPUT_MAX 65536U

typedef struct Fixture {
        int template_fd;
        int filter_fd;
        int command_filter_fd;
        int program_fd;
        int group_fd; /* our part of the cgroup tree */
        char group[128];
        char workspace[64]; /* of FIXTURE_UID, mode 0700 */
} Fixture;

typedef struct Session {
        const Fixture *fixture;
        ImsgChannel launcher;
        ImsgChannel api;
        int pidfd;
        pid_t pid;
        int cgroup_fd;
        uint32_t next_process;
        bool keeps_gates_closed; /* of the commands that follow */
        PrivInitResult result;
} Session;

typedef struct Output {
        char text[FIXTURE_OUTPUT_MAX]; /* standard output and error of the command */
        size_t n;
        int32_t error; /* of EXEC_STARTED */
        uint32_t stage;
        bool is_signal;
        uint32_t status;
} Output;

/* False: this machine cannot run it. */
bool fixture_open(Fixture *f, const char *program);
void fixture_close(Fixture *f);

/* What session_start() sends; the test changes it first. */
typedef struct Options {
        PrivInitStart start;
        PlanHeader header;
        PlanBuilder *builder;
        bool has_workspace; /* the fixture's, writable, at its own path */
} Options;

void options_init(Options *o);
void options_set_string(Options *o, uint32_t *ret_offset, const char *s);

/* 0 when init says that it is ready; what it said is in s->result. Frees the options. */
int session_start(const Fixture *f, Options *o, Session *s);
void session_end(Session *s);

/* Starts a command on pipes, or on a pty whose master is returned; 0 is no such descriptor. */
uint32_t session_exec(Session *s, char *const argv[], const char *directory, bool has_pty,
                      int *ret_output_fd);
/* The next message from init. */
void session_wait_message(Session *s, Imsg *m);
/* Runs to the end. */
void session_run(Session *s, char *const argv[], Output *out);
void session_shell(Session *s, const char *script, Output *out);
void session_signal(Session *s, uint32_t process, int signal, uint32_t scope, int *ret_error);
/* What init knows of a command: an ExecState. */
uint32_t session_probe(Session *s, uint32_t process);
