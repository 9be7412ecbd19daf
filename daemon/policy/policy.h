#pragma once

/*
 * Policy texts to a compiled block and the file part of a session plan. Runs in api and in the one-shot
 * child, never in the launcher. Texts are JSON with comments; an unknown key, a wrong type or a value that
 * this version cannot enforce is a diagnostic with line and column, never ignored.
 */

#include <stdbool.h>

#include "daemon/init/plan.h"
#include "daemon/policy/compiled.h"
#include "proto/base/list.h"

typedef enum PolicyKind {
        POLICY_PROFILE = 0,
        POLICY_USER,
        POLICY_PROJECT,
        POLICY_CEILING,
        POLICY_SETTINGS,
        _POLICY_KIND_MAX,
} PolicyKind;

const char *policy_kind_to_string(PolicyKind k);
int policy_kind_from_string(const char *s);

typedef enum PolicySeverity {
        SEVERITY_INFO = 0,
        SEVERITY_WARNING,
        SEVERITY_FAILURE,
} PolicySeverity;

typedef struct PolicyDiagnostic {
        ListLink link;
        PolicySeverity severity;
        unsigned line; /* 0: none */
        unsigned column;
        char *source;  /* file name or "profile", "user", "flags" */
        char *key;     /* e.g. network.rules[2].ports; "" for none */
        char *message; /* what, why, what to do */
} PolicyDiagnostic;

/* Bounded: beyond 64 the last one says so. */
typedef struct PolicyDiagnostics {
        ListLink list;
        unsigned n;
        unsigned n_failures;
} PolicyDiagnostics;

void policy_diagnostics_init(PolicyDiagnostics *d);
void policy_diagnostics_done(PolicyDiagnostics *d);

typedef struct Policy Policy; /* a parsed text, or the union of several */

/* Parses one text. source is the name for diagnostics. -EINVAL: *diagnostics says why; nothing is returned.
 */
int policy_parse(PolicyKind kind, const char *source, const char *text, size_t size,
                 PolicyDiagnostics *diagnostics, Policy **ret) _must_check_;
Policy *policy_free(Policy *p);
DEFINE_CLEANUP(Policy *, policy_free)

/* Name, description, extends of a profile. Strings live in p; "" where absent. */
const char *policy_name(const Policy *p);
const char *policy_description(const Policy *p);
size_t policy_n_extends(const Policy *p);
const char *policy_extends(const Policy *p, size_t i);

/* Loads a profile's text by name: the caller's business (folders, rights). *ret_text is the caller's to
 * free; -ENOENT: no such profile. ret_source: e.g. the file's path, also to free. */
typedef int (*PolicyLoader)(void *userdata, const char *name, char **ret_text, size_t *ret_size,
                            char **ret_source);

/* Resolves extends (depth 8, a cycle is an error): a new policy that is the union. */
int policy_resolve(const Policy *p, PolicyLoader loader, void *userdata, PolicyDiagnostics *diagnostics,
                   Policy **ret) _must_check_;

/* Adds a layer to the union. layer is "user" or "flags" (static string). */
int policy_join(Policy *p, const Policy *layer, const char *layer_name,
                PolicyDiagnostics *diagnostics) _must_check_;

/* What the command line adds: as a user layer named "flags". HOST, HOST:PORT, paths. */
typedef struct PolicyFlags {
        const char *const *allow_hosts;
        size_t n_allow_hosts;
        const char *const *deny_hosts;
        size_t n_deny_hosts;
        const char *const *read;
        size_t n_read;
        const char *const *write;
        size_t n_write;
        const char *const *deny;
        size_t n_deny;
        const uint16_t *publish;
        size_t n_publish;
        bool has_no_network;
} PolicyFlags;

int policy_join_flags(Policy *p, const PolicyFlags *flags, PolicyDiagnostics *diagnostics) _must_check_;

/* Bounds p, once and for good, by the administrator's ceiling: its files, modes, limits, groups and ports;
 * policy_compile() takes the ceiling for the network. NULL: nothing bounds it. p owns it then, also where
 * this fails. What is taken out is a warning. */
int policy_bound(Policy *p, Policy *take_ceiling, PolicyDiagnostics *diagnostics) _must_check_;
const Policy *policy_ceiling(const Policy *p);

/* The ports that a session publishes, each once; returns how many. */
uint32_t policy_publish(const Policy *p, uint32_t ports[PRIV_PUBLISH_MAX]);
/* Where the addresses are that stand for names; all zero for a family: the daemon's own choice. */
PrivPool policy_pool(const Policy *p);

/* Canonical JSON of the effective policy; the caller frees. */
int policy_format(const Policy *p, char **ret) _must_check_;

/* Before the first policy_compile() of a process that lasts: libcrypto sets itself up once, and where memory
 * was short just then it never works again. -ENOMEM: this process is of no use, its successor may be. */
int policy_prepare(void) _must_check_;

/* The block as a sealed memfd. project and ceiling may be NULL: further sets that can only narrow. */
int policy_compile(const Policy *p, const Policy *project, const Policy *ceiling, uint64_t generation,
                   int *ret_fd) _must_check_;

/* What a block is made of; project and ceiling may be NULL. */
typedef struct PolicyParts {
        const Policy *policy;
        const Policy *project;
        const Policy *ceiling;
        uint64_t generation;
} PolicyParts;

#define POLICY_CONTENT_SIZE 32U

/* A block that is there already, by the SHA-256 of all that it holds: a descriptor of the caller's own, or
 * -ENOENT. */
typedef int (*PolicyFinder)(void *userdata, const uint8_t content[POLICY_CONTENT_SIZE], int *ret_fd);

/* The same, but another one is made only where find (may be NULL) has none. */
int policy_compile_shared(const PolicyParts *parts, PolicyFinder find, void *userdata,
                          uint8_t ret_content[POLICY_CONTENT_SIZE], int *ret_fd) _must_check_;

/* What variables in paths stand for. */
typedef struct PolicyVariables {
        const char *workspace; /* "" where the session has an own empty one */
        const char *home;
        const char *user;
        uint32_t uid;
} PolicyVariables;

/* What a text says by one word: each from the narrowest to the widest. */
typedef enum PolicyMode {
        MODE_ROOT = 0,
        MODE_HOME,
        MODE_WORKSPACE,
        _POLICY_MODE_MAX,
} PolicyMode;

typedef enum PolicyRoot { ROOT_MINIMAL = 0, ROOT_HOST } PolicyRoot;
typedef enum PolicyHome { HOME_EMPTY = 0, HOME_PERSISTENT, HOME_MASKED } PolicyHome;
typedef enum PolicyWorkspace { WORKSPACE_READ_ONLY = 0, WORKSPACE_DIRECT } PolicyWorkspace;

/* One of the enumeration of that mode. */
unsigned policy_mode(const Policy *p, PolicyMode mode);
const char *policy_mode_word(const Policy *p, PolicyMode mode);
/* What the caller wants instead. -EINVAL: a word that this version does not enforce; -EPERM: beyond the
 * ceiling. */
int policy_choose(Policy *p, PolicyMode mode, const char *word) _must_check_;

/* Which persistent home is meant: one for each profile and workspace of a user, whom the launcher adds.
 * workspace: "" where the session has an own empty one. */
#define POLICY_HOME_KEY_SIZE 32U
int policy_home_key(const char *profile, const char *workspace,
                    uint8_t ret[POLICY_HOME_KEY_SIZE]) _must_check_;

/* Adds the mounts of the file part (home folders, workspace, read, write, deny) to the plan, most specific
 * last; fills tmp_size_bytes, home_size_bytes and files_max of the header. is_root_session: writable binds
 * get PLAN_IDMAP. */
int policy_plan(const Policy *p, const PolicyVariables *v, bool is_root_session, PlanBuilder *b,
                PlanHeader *header, PolicyDiagnostics *diagnostics) _must_check_;

typedef struct PolicyFileAnswer {
        Verdict verdict;
        const char *layer; /* both strings of p, or static */
        const char *rule;  /* the pattern that decided, what the session has there of its own, or "" */
} PolicyFileAnswer;

/* Would this path be readable or writable inside? For Policy.Check. */
int policy_check_file(const Policy *p, const PolicyVariables *v, const char *path, bool for_writing,
                      PolicyFileAnswer *ret) _must_check_;

/* 0 where the policy does not say. */
typedef struct PolicyLimits {
        uint64_t memory_bytes;
        uint64_t swap_bytes;
        bool has_swap;
        uint64_t tasks;
        uint64_t cpu_percent;
        uint64_t io_bytes_per_sec;
        uint64_t files;
        uint64_t runtime_usec;
        uint64_t idle_usec;
        uint64_t output_bytes; /* of one command */
} PolicyLimits;

const PolicyLimits *policy_limits(const Policy *p);
/* What the ceiling leaves at most; all 0 where it says nothing. */
const PolicyLimits *policy_limits_max(const Policy *p);

/* Environment: names that pass, NAME=VALUE that are set; strings of p. */
size_t policy_n_pass(const Policy *p);
const char *policy_pass(const Policy *p, size_t i);
size_t policy_n_set(const Policy *p);
const char *policy_set(const Policy *p, size_t i);

/* Names of supplementary groups that a session keeps, as far as the caller is in them; strings of p. */
size_t policy_n_groups(const Policy *p);
const char *policy_group(const Policy *p, size_t i);

/* Settings (POLICY_SETTINGS): values or the defaults. */
void policy_settings(const Policy *p, PrivSettings *ret);
void policy_settings_default(PrivSettings *ret);
/* A failure for each value that differs from what a running daemon has and cannot change. */
int policy_settings_check_fixed(const Policy *p, const PrivSettings *running,
                                PolicyDiagnostics *diagnostics) _must_check_;

/* A workspace or mount path as a client may name it: absolute and canonical, else -EINVAL; -EPERM where no
 * session may have it as its workspace (/, a home directory itself, system directories, our own state). */
int policy_workspace_check(const char *path, const char *home) _must_check_;

/* path equals above or lies below it. */
bool path_is_below(const char *path, const char *above);

/* Lexically canonical absolute path, or -EINVAL. ret: PLAN_PATH_MAX bytes. */
int policy_path_canonical(const char *path, char *ret, size_t size) _must_check_;
