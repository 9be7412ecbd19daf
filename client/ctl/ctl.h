#pragma once

/* sandboxctl: each verb is a function over the rest of the command line; it returns the exit status. */

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>

#include "client/lib/sandboxd.h"
#include "proto/base/buf.h"
#include "proto/base/macro.h"
#include "proto/wire/json.h"

#define EXIT_TIMEOUT        124
#define EXIT_OURS           125
#define EXIT_NOT_EXECUTABLE 126
#define EXIT_NOT_FOUND      127
#define EXIT_SIGNAL_BASE    128

#define SESSION "io.sandboxd.Session."
#define POLICY  "io.sandboxd.Policy."
#define AUDIT   "io.sandboxd.Audit."
#define MANAGER "io.sandboxd.Manager."

/* Options that every verb takes. */
typedef struct Common {
        const char *address;
        bool has_json;
} Common;

typedef int (*VerbFunction)(Common *common, int argc, char *argv[]);

int verb_run(Common *common, int argc, char *argv[]);
int verb_create(Common *common, int argc, char *argv[]);
int verb_exec(Common *common, int argc, char *argv[]);
int verb_shell(Common *common, int argc, char *argv[]);
int verb_attach(Common *common, int argc, char *argv[]);
int verb_forward(Common *common, int argc, char *argv[]);
int verb_logs(Common *common, int argc, char *argv[]);
int verb_list(Common *common, int argc, char *argv[]);
int verb_report(Common *common, int argc, char *argv[]);
int verb_describe(Common *common, int argc, char *argv[]);
int verb_wait(Common *common, int argc, char *argv[]);
int verb_signal(Common *common, int argc, char *argv[]);
int verb_freeze(Common *common, int argc, char *argv[]);
int verb_thaw(Common *common, int argc, char *argv[]);
int verb_terminate(Common *common, int argc, char *argv[]);
int verb_remove(Common *common, int argc, char *argv[]);
int verb_prune(Common *common, int argc, char *argv[]);
int verb_audit(Common *common, int argc, char *argv[]);
/* A part of audit. */
int verify_verb(Common *common, int argc, char *argv[]);
int verb_policy(Common *common, int argc, char *argv[]);
int verb_doctor(Common *common, int argc, char *argv[]);
int verb_drain(Common *common, int argc, char *argv[]);
int verb_events(Common *common, int argc, char *argv[]);
int verb_status(Common *common, int argc, char *argv[]);

/* ---- output.c ---- */

/* One line on stderr, control bytes escaped; returns EXIT_OURS. */
int fail(const char *format, ...) _printf_(1, 2);
/* The same for an error that the daemon answered with: what, why, what to do. Returns the exit status. */
int fail_reply(const SandboxdReply *reply);
/* The same for a call that failed with negative errno. */
int fail_call(const Common *common, int r);

/* Text on stdout, at once; false: nobody reads. */
bool print(const char *format, ...) _printf_(1, 2);
bool print_json(int fd, const Json *value);
/* Escaped, for terminals; static storage that the next call but seven overwrites. */
const char *shown(const char *s);
/* The same for what the daemon has escaped: its backslashes stay single. */
const char *shown_escaped(const char *s);
/* "2026-11-21 10:16:13" in UTC. */
void format_time(uint64_t usec, char text[32]);

/* ---- values; NULL, 0, false where absent ---- */

const char *text_of(const Json *object, const char *key);
int64_t integer_of(const Json *object, const char *key);
bool is_set(const Json *object, const char *key);

/* 0, or the exit status after an error message. */
int user_from_text(const char *text, uint32_t *ret_uid);

/* Exit status of a Result. */
int result_status(const Json *result);
int signal_number(const char *name);

/* ---- calls ---- */

/* 0, or the exit status after an error message. *ret_client is to free. */
int ctl_connect(const Common *common, SandboxdClient **ret_client);
/* Prints what one reply says; 0 to go on, or an exit status to end with. */
typedef int (*ReplyShower)(const Common *common, const Json *parameters, void *userdata);
/* Reads the replies to a call with `more` up to the last one, each to `shower`. Returns the exit status. */
int ctl_show_replies(const Common *common, SandboxdClient *client, ReplyShower shower, void *userdata);
/* One call on a connection of its own; 0 or an exit status. take_parameters may be NULL. */
int ctl_call(const Common *common, const char *method, Json *take_parameters, SandboxdReply *ret);

/* KEY=VALUE into an object that is made when there is none yet; 0 or an exit status. */
int label_add(Json **labels, const char *text);
/* A port into context.publish; 0 or an exit status. */
int publish_add(Json *context, const char *text);
/* A parameters object with one string; 0 or an exit status. */
int new_parameters(const char *key, const char *value, Json **ret);
/* The common options and n_min to n_max words, from optind; 0 or an exit status. */
int parse_plain(Common *common, int argc, char *argv[], int n_min, int n_max);

/* getopt_long() with the two common options; -1 at the end, '?' after an error message. */
int next_option(Common *common, int argc, char *argv[], const char *letters, const struct option *options);

/* The options that all verbs share, as rows of a table. */
#define OPTION_JSON    1000
#define OPTION_ADDRESS 1001
#define OPTION_HELP    1002
#define COMMON_OPTIONS                                                                                      \
        { "json", no_argument, NULL, OPTION_JSON }, { "address", required_argument, NULL, OPTION_ADDRESS }, \
                        { "help", no_argument, NULL, OPTION_HELP },                                         \
        {                                                                                                   \
                NULL, 0, NULL, 0                                                                            \
        }
