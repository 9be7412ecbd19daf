#pragma once

/* Sessions and their commands, as the worker knows them. */

#include "daemon/api/api.h"
#include "daemon/api/request.h"

int session_new(Api *api, Session **ret) _must_check_;
Session *session_free(Session *s);
DEFINE_CLEANUP(Session *, session_free)
/* Into the table; the session is the table's from now on. */
void session_add(Session *s);

/* Out of it, and freed: clients that follow hear of it. */
void session_remove(Session *s);
/* Where events resume to see all of this session, as `cursor` of a reply. */
int session_set_cursor(const Session *s, Json *reply) _must_check_;

/* By id or name; NULL: no such session, also while it is starting. */
Session *session_find(Api *api, const char *id_or_name);
Session *session_find_name(Api *api, const char *name);
Session *session_find_id(Api *api, const Id *id);
Session *session_find_token(Api *api, uint64_t token);

bool session_has_ended(const Session *s);
const char *session_state_to_string(const Session *s);
/* Its processes are there and nobody has asked for their end. */
bool session_is_live(const Session *s);

/* session_methods.c. NULL: NoSuchSession, answered. */
Session *session_find_or_answer(Client *c, const char *id);
int session_answer_terminated(Client *c, size_t n) _must_check_;
int session_answer_state(Client *c, const Session *s) _must_check_;

/* The launcher's answers. */
int session_on_created(Api *api, Imsg *m) _must_check_;
int session_on_adopt(Api *api, Imsg *m) _must_check_;
int session_on_ended(Api *api, const PrivSessionEnd *end) _must_check_;

/* With the launcher's answer: from here on it runs. Takes the descriptors. */
int session_open(Session *s, const PrivSessionCreated *m, Imsg *message) _must_check_;
bool session_created_is_sound(const PrivSessionCreated *m);

/* blocks.c: the session has ended. */
SharedBlock *block_release(SharedBlock *b);

/* ---- adopt.c ---- */

/* False: no session that waits to be adopted. */
bool session_settle_orphan(Api *api, const PrivSessionEnd *end);

/* ---- guarded.c: from init ---- */

int session_on_guarded(Session *s, const PrivGuarded *m) _must_check_;

/* ---- report.c ---- */

int on_session_reported(Api *api, Imsg *m) _must_check_;
typedef struct SessionDenial SessionDenial;
/* Counts it with those that are equal. */
void session_note_denied(Session *s, const PrivDenied *m);

/* ---- freeze.c ---- */

int session_on_frozen(Api *api, const PrivSessionFrozen *m) _must_check_;
/* The session is ending: whoever waits for its freeze or thaw is told. */
void answer_freeze_end(Session *s);

/* Once audit is gone nobody knows. */
int session_on_denied(Api *api, const PrivDenied *m) _must_check_;
void sessions_audit_lost(Api *api);

/* Asks the launcher to end it now; later calls do nothing. */
void session_end(Session *s, EndReason reason);
/* SIGTERM to all, and the end after the grace time. */
void session_terminate(Session *s, uint64_t grace_usec);
/* Clients that are attached to its commands. */
size_t session_n_attached(const Session *s);
/* The last command is over, or one began; the same of clients that are attached. */
void session_update_idle(Session *s);
void session_warn(Session *s, const char *code, const char *message);

/* What the owner's client sees of it. */
int session_runtime(const Session *s, bool is_full, Json **ret) _must_check_;

/* A client has gone: what lives and dies with it. */
void sessions_client_gone(Api *api, uint64_t connection);
/* Drops ended ones beyond what is kept; older_than_usec UINT64_MAX: only what retention says. Returns how
 * many. */
size_t sessions_prune(Api *api, uint64_t older_than_usec);

/* ---- process.c ---- */

Process *process_free(Process *p);
DEFINE_CLEANUP(Process *, process_free)
Process *process_find(const Session *s, uint32_t number);
Process *process_last(const Session *s);
/* The oldest that are over make room for one more. */
void processes_make_room(Session *s);
/* The command that Spawn() made the session for; NULL: there is none, or none yet. */
Process *process_spawned(const Session *s);
bool process_has_ended(const Process *p);
const char *process_state_to_string(const Process *p);
int process_result(const Process *p, Json **ret) _must_check_;
int process_describe(const Process *p, Json **ret) _must_check_;
/* Once init has it. For Describe() the beginning will do, the audit has all of it: what is kept must fit
 * into one reply, and a user's commands must not fill our memory. */
void process_shorten_command_line(Process *p);

/* Asks audit for the row and init for the process, which waits for that row. On success a deadline runs. */
int process_start(Process *p) _must_check_;
/* Kills its group; the reason is what its result says. */
void process_kill(Process *p, EndReason reason);
/* SIGHUP to its group, and the end a moment later. */
void process_hang_up(Process *p);
/* To its first process. */
void process_signal(const Process *p, int number);
void process_number_text(uint32_t number, char text[16]);

/* ---- process_end.c ---- */

/* That alone: nobody is told. */
void process_set_ended(Process *p, EndReason reason);

#define START_DEADLINE_USEC (15 * USEC_PER_SEC)

/* The command never ran: its caller is told why, and a session that was made for it goes. */
void process_failed(Process *p, const char *error, Json *take_parameters);
/* Its result is known. */
void process_finish(Process *p, EndReason reason);
void process_record_exit(Process *p);
/* Its row is not committed, or nobody knows. */
void process_record_failed(Process *p, int error);
void process_on_timer(void *userdata);
/* The parameters of SetupFailed; NULL: no memory. */
Json *exec_setup_failed(const char *step, int error, const char *message);

/* exec.c: starts a command on behalf of a client, which waits on return 1 and is answered on 0; on return <
 * 0 the caller answers. fds are borrowed. */
int session_exec(Session *s, Client *c, const Json *parameters, const Json *command,
                 const int *fds) _must_check_;
/* Checks all of a command that needs no session; answers the client and returns 0 where it is unsound,
 * else 1. */
int command_check(Client *c, const Json *parameters, const Json *command) _must_check_;

int on_recorded(Api *api, const PrivRecorded *m) _must_check_;
/* Audit is gone: what waits for a row will not run. */
void processes_audit_lost(Api *api);
/* The launcher has killed what init, being frozen, could not. */
int on_command_killed(Api *api, const PrivSessionCommand *m) _must_check_;
int on_init_message(void *owner, PrivLink *link, Imsg *m) _must_check_;
void on_init_closed(void *owner, PrivLink *link, int reason);
/* The session is over: so are its commands. */
void processes_session_ended(Session *s);

/* ---- answer.c: whoever waits ---- */

void answer_process_end(Process *p);
void answer_session_end(Session *s);
/* Spawn(): the session is over and carries the result of the command that it was made for. */
void answer_spawn(Session *s);

/* ---- session_methods.c: what other methods need of it ---- */

/* NULL: there is none, and the client is answered. */
Process *find_process_or_answer(Client *c, Session *s, const char *number);
int answer_empty(Client *c);
/* "SIGINT"; -EINVAL: no such signal. */
int signal_from_name(const char *name);
