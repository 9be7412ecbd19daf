#pragma once

/* From Context to what the launcher needs: a plan, a compiled policy, limits and claims. */

#include "daemon/api/session.h"

/* Fills the session and makes both memfds. 1: done; 0: refused, the client is answered and the refusal
 * reported; negative errno: failure. */
int context_compile(Client *c, const Json *parameters, Session *s, int *ret_plan_fd,
                    int *ret_policy_fd) _must_check_;

/* ---- blocks.c ---- */

/* The compiled policy, which the session holds until block_release(); fills its digest. *ret_fd is the
 * caller's. */
int block_compile(Session *s, const Policy *policy, const Policy *project, int *ret_fd) _must_check_;

/* Behind all that its making took. */
void block_trim(const SharedBlock *b);

/* ---- profiles.c ---- */

/* PolicyLoader over what is loaded; userdata is the Api. */
int profile_load(void *userdata, const char *name, char **ret_text, size_t *ret_size, char **ret_source);

/* The text that a descriptor holds: regular file or memfd. -EINVAL: neither; -EFBIG. */
int policy_text_read(int fd, char **ret_text, size_t *ret_size) _must_check_;

/* diagnostics for a reply; has_file: with file, severity and key (Policy), else with source (Session). */
int diagnostics_format(const PolicyDiagnostics *d, bool is_session, Json **ret) _must_check_;

/* What Context and Check() have in common: profile, user layer, flags. Answers the client and returns 0
 * where something is wrong with them. *ret_project may become NULL. */
typedef struct PolicySources {
        const char *profile; /* name; NULL: content */
        const char *content;
        size_t content_size;
        const char *user;
        const char *project;
        PolicyFlags flags;
} PolicySources;

/* ---- context_flags.c ---- */

/* Strings stay the context's; flags_done() also where this fails. */
int flags_take(const Json *context, PolicyFlags *f) _must_check_;
void flags_done(PolicyFlags *f);

/* ---- profiles.c ---- */

/* 1: done; -ENOENT: no such profile; -EINVAL: see the diagnostics; else failure. */
int policy_load_sources(Api *api, const PolicySources *sources, PolicyDiagnostics *d, Policy **ret_policy,
                        Policy **ret_project) _must_check_;

void policy_variables(const Api *api, const char *workspace, PolicyVariables *ret);

/* ---- groups.c ---- */

/* The session keeps what the policy names, as far as the user has it; else a warning. */
void groups_take(Session *s, const Policy *p);

/* ---- environment.c ---- */

/* Where a command may start: canonical, and not below /proc, whose links lead anywhere. Else -EINVAL. */
int directory_parse(const char *path, char *ret, size_t size) _must_check_;

/* NAME=VALUE: sound, at most so many, no name twice. 0, or -EINVAL and the index of the first bad one. */
int environment_check(const Json *list, size_t *ret_index) _must_check_;

/* Appends the candidates that the policy lets pass to a list; the first of a name counts. 0, or -EINVAL: too
 * many candidates. */
int environment_pass(const Policy *p, const Json *candidates, Json *to) _must_check_;

/* Joins built-in variables, the session's and the command's, later ones winning, as strings with NULs behind
 * buf. */
int environment_build(const Session *s, const Json *command, Buf *b, uint32_t *ret_n) _must_check_;
