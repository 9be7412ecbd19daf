#pragma once

/* What a policy text means, inside daemon/policy only. */

#include "daemon/policy/policy.h"
#include "daemon/policy/text.h"
#include "proto/base/buf.h"
#include "proto/base/hash.h"

#define POLICY_RULES_MAX      200000U
#define POLICY_PATHS_MAX      400U
#define POLICY_EXTENDS_MAX    16U
#define POLICY_STRINGS_MAX    256U
#define POLICY_RULE_PORTS_MAX 64U

typedef struct PortRange {
        uint16_t first;
        uint16_t last;
} PortRange;

typedef enum RuleProtocol {
        RULE_ANY = 0, /* http and tls; of a deny rule that names none: every protocol */
        RULE_HTTP,
        RULE_TLS,
        RULE_TCP,
        _RULE_PROTOCOL_MAX,
} RuleProtocol;

const char *rule_protocol_to_string(RuleProtocol p);

typedef struct StringList {
        char **items;
        size_t n;
} StringList;

typedef struct NetRule {
        Verdict action;
        char *id;          /* NULL: none given */
        char *host;        /* without "*."; NULL: none */
        char *reason;      /* NULL: none */
        char *expires;     /* as written (canonical already); NULL: never */
        const char *layer; /* static */
        PortRange *ports;
        size_t n_ports; /* 0: the default */
        uint64_t expires_usec;
        RuleProtocol protocol;
        bool has_protocol;
        bool has_action;
        bool is_wildcard;
        bool has_cidr;
        bool is_empty_ports; /* "ports": [] matches none */
        bool has_methods;    /* an empty list matches none */
        bool has_paths;
        bool has_tls;
        bool is_tls_any;
        PrivAddress network;
        uint32_t prefix_length;
        StringList methods;
        StringList paths;          /* as written */
        uint64_t max_upload_bytes; /* 0: no limit, as below */
        uint64_t max_download_bytes;
        uint64_t idle_usec;
        uint32_t max_connections;
        uint32_t dns_types; /* PolicyDnsType */
} NetRule;

/* Is there anything of what stands apart in the compiled form? */
#define net_rule_has_terms(r)                                                                  \
        ((r)->has_methods || (r)->has_paths || (r)->is_tls_any || (r)->max_upload_bytes > 0 || \
         (r)->max_download_bytes > 0 || (r)->idle_usec > 0 || (r)->max_connections > 0 ||      \
         (r)->expires_usec > 0 || (r)->dns_types != 0)

typedef enum PathAccess {
        PATH_DENY = 0,
        PATH_TMPFS, /* memory of the session's own lies over it */
        PATH_SOCKET,
        PATH_READ,
        PATH_WRITE,
        PATH_PROTECT, /* may not be written in a writable workspace; shows as the workspace does */
        _PATH_ACCESS_MAX,
} PathAccess;

typedef struct PathRule {
        PathAccess access;
        char *pattern;       /* with variables, else canonical */
        const char *layer;   /* static */
        uint64_t size_bytes; /* of PATH_TMPFS */
} PathRule;

enum PolicyHas {
        HAS_ROOT = 1 << 0,
        HAS_HOME = 1 << 1,
        HAS_WORKSPACE = 1 << 2,
        HAS_DEFAULT = 1 << 3,
        HAS_MEMORY = 1 << 4,
        HAS_SWAP = 1 << 5,
        HAS_TASKS = 1 << 6,
        HAS_CPU = 1 << 7,
        HAS_IO = 1 << 8,
        HAS_FILES = 1 << 9,
        HAS_RUNTIME = 1 << 10,
        HAS_TMP = 1 << 11,
        HAS_ASK_TIMEOUT = 1 << 12,
        HAS_IDLE = 1 << 13,
        HAS_OUTPUT = 1 << 14,
        HAS_DNS = 1 << 15,
        HAS_READ = 1 << 16, /* lists that are there, be they empty: of a ceiling they bound */
        HAS_WRITE = 1 << 17,
        HAS_SOCKETS = 1 << 18,
        HAS_GROUPS = 1 << 19,
        HAS_PUBLISH = 1 << 20,
        HAS_POOL4 = 1 << 21,
        HAS_POOL6 = 1 << 22,
};

struct Policy {
        PolicyKind kind;
        Policy *ceiling; /* what bounds it; NULL: nothing */
        uint32_t has;
        char *name;
        char *description;
        char *source;
        StringList extends;
        Verdict network_default;
        const char *default_layer;          /* static */
        uint32_t publish[PRIV_PUBLISH_MAX]; /* in order, each once */
        uint32_t n_publish;
        bool is_dns_real;
        PrivPool pool; /* of a family that it does not choose: all zero */
        NetRule *rules;
        size_t n_rules;
        size_t n_rules_room;
        PathRule *paths;
        size_t n_paths;
        uint8_t modes[_POLICY_MODE_MAX]; /* where has says so */
        uint64_t tmp_bytes;
        uint64_t ask_timeout_usec;
        PolicyLimits limits;
        StringList pass;
        StringList set;
        StringList groups;
        PrivSettings settings;
        unsigned root_uid_line; /* of the settings; 0: they do not say */
        unsigned root_uid_column;
};

int policy_new(PolicyKind kind, const char *source, Policy **ret) _must_check_;

/* Deep copies, with another layer's name. Rooms and limits are checked: -E2BIG. */
int policy_add_rule(Policy *p, const NetRule *rule, const char *layer) _must_check_;
int policy_add_path(Policy *p, PathAccess access, const char *pattern, const char *layer) _must_check_;
/* Memory at that path: one word for each path and layer; of two the smaller holds, or with replaces the new.
 */
int policy_add_tmpfs(Policy *p, const char *pattern, uint64_t size_bytes, const char *layer,
                     bool replaces) _must_check_;
void net_rule_done(NetRule *r);
/* Keeps them in order. -E2BIG: there are too many. */
int policy_add_publish(Policy *p, uint32_t port) _must_check_;

int string_list_copy(const StringList *from, StringList *to) _must_check_;
int string_list_add(StringList *l, const char *s) _must_check_;
bool string_list_holds(const StringList *l, const char *s);
void string_list_done(StringList *l);

/* ---- diagnostics ---- */

typedef struct DiagnosticPlace {
        const char *source;
        unsigned line;
        unsigned column;
        const char *key;
} DiagnosticPlace;

/* -ENOMEM is all that fails. */
int diagnose(PolicyDiagnostics *d, PolicySeverity severity, const DiagnosticPlace *place, const char *format,
             ...) _must_check_ _printf_(4, 5);

/* ---- reading, by part of the schema ---- */

typedef struct SchemaReader {
        Policy *policy;
        PolicyDiagnostics *diagnostics;
        const char *source;
        NetRule *rule; /* the one being read */
        Map ids;       /* of rules read so far */
} SchemaReader;

typedef int (*KeyReader)(SchemaReader *x, const TextNode *n);

typedef struct KeyRule {
        const char *name;
        KeyReader read;     /* NULL: part of the format, not enforced by this version */
        const char *advice; /* what to do instead, where read is NULL */
} KeyRule;

typedef struct KeyTable {
        const KeyRule *rules;
        size_t n;
} KeyTable;

/* A failure about a node. Returns 0, so that reading goes on and finds more. */
int schema_fail(SchemaReader *x, const TextNode *n, const char *format, ...) _must_check_ _printf_(3, 4);
int schema_warn(SchemaReader *x, const TextNode *n, const char *format, ...) _must_check_ _printf_(3, 4);
/* Positive where the type is right; 0 after a diagnostic. */
int schema_expect(SchemaReader *x, const TextNode *n, TextType type) _must_check_;
int schema_read_object(SchemaReader *x, const TextNode *n, const KeyTable *table) _must_check_;
/* "version" of any file: 1. */
int schema_read_version(SchemaReader *x, const TextNode *n) _must_check_;
/* Each element of a list of strings. */
int schema_read_strings(SchemaReader *x, const TextNode *n, KeyReader reader) _must_check_;

/* Keys of a rule that say which requests it is about and how far it goes; and what may not stand together,
 * once all of them are read. */
int rule_read_methods(SchemaReader *x, const TextNode *n) _must_check_;
int rule_read_paths(SchemaReader *x, const TextNode *n) _must_check_;
int rule_read_tls(SchemaReader *x, const TextNode *n) _must_check_;
int rule_read_max_upload(SchemaReader *x, const TextNode *n) _must_check_;
int rule_read_max_download(SchemaReader *x, const TextNode *n) _must_check_;
int rule_read_max_connections(SchemaReader *x, const TextNode *n) _must_check_;
int rule_read_idle(SchemaReader *x, const TextNode *n) _must_check_;
int rule_read_dns_types(SchemaReader *x, const TextNode *n) _must_check_;
int rule_check_terms(SchemaReader *x, const TextNode *n) _must_check_;
int rule_format_terms(const NetRule *r, Buf *b) _must_check_;

int mode_read(SchemaReader *x, const TextNode *n, PolicyMode mode) _must_check_;
/* is_join: what to does not say holds as if it were said. */
void mode_merge(Policy *to, const Policy *from, bool replaces, bool is_join);
int mode_format(const Policy *p, Buf *b) _must_check_;

int schema_read_network(SchemaReader *x, const TextNode *n) _must_check_;
/* pool.c: the network of a setting, and those of a policy */
int schema_read_pool(SchemaReader *x, const TextNode *n, uint32_t family, PrivPrefix *to) _must_check_;
int schema_read_own_pool4(SchemaReader *x, const TextNode *n) _must_check_;
int schema_read_own_pool6(SchemaReader *x, const TextNode *n) _must_check_;
int schema_read_filesystem(SchemaReader *x, const TextNode *n) _must_check_;
int schema_read_groups(SchemaReader *x, const TextNode *n) _must_check_;
int schema_read_limits(SchemaReader *x, const TextNode *n) _must_check_;
int schema_read_environment(SchemaReader *x, const TextNode *n) _must_check_;
int schema_read_settings(SchemaReader *x, const TextNode *root) _must_check_;

/* A host as a rule names it: -EINVAL with *ret_message (static), also for wildcards at a public suffix. */
int rule_host_parse(const char *s, char ret[PRIV_HOST_SIZE], bool *ret_is_wildcard,
                    const char **ret_message) _must_check_;
int rule_cidr_parse(const char *s, PrivAddress *ret_network, uint32_t *ret_prefix_length,
                    const char **ret_message) _must_check_;
int rule_time_parse(const char *s, uint64_t *ret_usec) _must_check_;

/* Of a denial: its tail below the workspace is a pattern of names (glob.h). */
bool path_is_glob(const char *pattern);
/* A denied pattern, which may be relative to the workspace and have '*' and '?'; else as below. */
const char *path_glob_check(const char *s, char *ret, size_t size);
/* Adds them to the plan, after all else: they hold against whatever else is said about a path. */
int globs_plan(const Policy *p, const PolicyVariables *v, PlanBuilder *b, PolicyDiagnostics *d) _must_check_;
/* A denied path of the workspace: looked for as well when it appears there, or is replaced. */
int globs_plan_literal(const char *path, const PolicyVariables *v, PlanBuilder *b) _must_check_;
/* The one that hides this path, because it or a folder above it matches; or NULL. */
const PathRule *glob_matching(const Policy *p, const PolicyVariables *v, const char *path);

/* A path pattern: NULL, or what is wrong with it (static). ret: PLAN_PATH_MAX bytes, canonical. */
const char *path_pattern_check(const char *s, char *ret, size_t size);
/* Variables replaced. -ENOENT: it names a variable that this session has no value for. */
int path_pattern_expand(const char *pattern, const PolicyVariables *v, char *ret, size_t size) _must_check_;
/* What is put together of the host's root and the caller's home, and what is hidden there: credentials, and
 * the paths that are denied. */
int compose_plan(const Policy *p, const PolicyVariables *v, const char *const *denied, size_t n_denied,
                 PlanBuilder *b) _must_check_;
/* Would this path be among it? Denials aside. */
bool compose_shows(const Policy *p, const PolicyVariables *v, const char *path);

/* What the ceiling leaves of an access to a path: the same, less, or PATH_DENY. */
PathAccess ceiling_access(const Policy *ceiling, const PolicyVariables *v, const char *path,
                          PathAccess access);
/* Where the ceiling (NULL: everywhere) lets a repository be shown. */
int repository_plan(const Policy *ceiling, const PolicyVariables *v, PlanBuilder *b) _must_check_;
/* Takes out of p what it lets nobody have: ports, groups. */
int ceiling_strike(Policy *p, const Policy *ceiling, PolicyDiagnostics *d) _must_check_;
/* The same for a protected path, whose names may be "*". */
const char *protect_pattern_check(const char *s, char *ret, size_t size);
/* What the session's guard keeps; nothing where the workspace is not writable. */
int protect_plan(const Policy *p, const PolicyVariables *v, PlanBuilder *b) _must_check_;
/* Takes back that path may be written, where a rule keeps it. */
void protect_answer(const Policy *p, const PolicyVariables *v, const char *path, PolicyFileAnswer *answer);

/* ---- writing ---- */

/* The JSON of one rule. */
int rule_format(const NetRule *r, Buf *b) _must_check_;
int format_string(Buf *b, const char *s) _must_check_;

/* What a rule is called in rows: its id, or one made of action and target. */
int rule_name(const NetRule *r, char ret[PRIV_NAME_SIZE]) _must_check_;

/* ---- files ---- */

/* Below the home, with programs: shown read-only where they exist; NULL ends. */
extern const char *const tool_folders[];
/* Does the minimal root show it, without a word of a policy? */
bool builtin_shows(const char *path, bool for_writing, const char **ret_rule);
extern const char builtin_own[]; /* the rule of what is the session's own */
/* Literal paths that hold credentials, below the home and absolute; NULL ends. */
extern const char *const credential_home_paths[];
extern const char *const credential_system_paths[];
/* Those folders of the home that are masked in each session, whether they exist or not: nothing of them
 * shows, and whoever looks for something there is noticed. At most as many as init has masks ready for
 * (MASKS_READY). */
extern const char *const credential_folders[];
