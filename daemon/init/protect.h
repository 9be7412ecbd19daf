#pragma once

/*
 * Protected paths, kept by mounts and by a watch: what every kernel can do.
 *
 * The guard is a process of its own, made by init while both have all rights. It is in the session's pid and
 * mount namespaces, in the session's group beside init, outside of its user namespace and of Landlock; of
 * capabilities it keeps CAP_SYS_ADMIN (mounts, fanotify), files it sees with the session user's rights.
 * Nothing in the session may signal or trace it, and without it the session ends.
 *
 * What lies at a protected path is covered by itself, read-only; each directory above it, below the
 * workspace, by itself, so that none can be renamed. A rename on the host takes a cover away, and what is
 * absent has none: so the directories are watched. Where something changed under a name that matters, all
 * commands are frozen, what the host made is covered and what the session made is taken away. Who made
 * something the kernel says: a process outside the session's pid namespace has no number in it.
 */

#include <dirent.h>

#include "daemon/init/setup.h"
#include "proto/base/list.h"

#define PROTECT_RULES_MAX          2048U
#define PROTECT_DEPTH_MAX          16U
#define PROTECT_PATH_MAX           512U /* below the workspace; what is deeper is in no rule */
#define PROTECT_ENTRIES_MAX        512U /* of a directory that a "*" is looked for in */
#define PROTECT_ALIASES_MAX        32U
#define PROTECT_MODULES_MAX        4096U /* directories below .git/modules, of one pass, which is to be short */
#define PROTECT_MODULE_ENTRIES_MAX 65536U
#define PROTECT_MODULE_DEPTH       32U
#define PROTECT_MODULE_SIZE        400U /* of the path of one */
#define PROTECT_PARTS_MAX          64U
#define PROTECT_REPOSITORY         "/" /* the path of the repository's directory */
#define PROTECT_FRESH_MAX          128U
#define FRESH_SAMPLE               ".sample"
#define PROTECT_WATCHES_LEFT       640U /* by modules, for others: those of a "*" alone may be 512 */

/* A name that matters in a directory that matters. */
typedef struct ProtectRule ProtectRule;
struct ProtectRule {
        char *name; /* "*": any */
        ProtectRule *first;
        ProtectRule *next;
        bool is_protected; /* else something below it is */
        /* A "*" below .git/modules. A submodule's name is as many names as its path, and it has submodules:
         * any directory below, at whatever depth, may be one. */
        bool is_module;
        /* What the session makes there may stay the session's; fresh.c. */
        enum { FRESH_NONE = 0, FRESH_CONFIG, FRESH_HOOKS, FRESH_MODULES } fresh;
        /* What the host has there is covered; what the session makes is its own: `git worktree add`. */
        bool is_kept;
        bool is_state; /* of another's checkout. In a worktree that the session adds it is the session's own
                        */
        uint32_t number; /* in the kernel's map; 0: none yet */
};

typedef enum Maker {
        MAKER_HOST = 0,
        MAKER_SESSION,       /* made there */
        MAKER_SESSION_MOVED, /* brought there from elsewhere: not to be lost */
        MAKER_UNKNOWN,
} Maker;

typedef struct Watch Watch;
typedef struct Fresh Fresh;

typedef struct Protect {
        const Plan *plan;
        const char *workspace;
        int workspace_fd;
        ProtectRule root;
        /* Of a workspace that is a linked worktree, where it lies outside: kept as a .git of the workspace's
         * is. Paths in it begin with a slash. Empty: there is none. */
        const char *repository;
        int repository_fd;
        ProtectRule repository_root;
        size_t n_rules;
        size_t n_aliases;
        bool has_new_alias; /* look again */
        bool is_first;      /* the session has not run yet: everything is the host's */
        size_t n_modules;   /* of this pass */
        size_t n_module_entries;
        char *parts[PROTECT_PARTS_MAX]; /* modules.c */
        size_t n_parts;
        char left[PROTECT_PATH_MAX]; /* where the host has modules that are too far down; empty: nowhere */
        bool is_partly_watched;      /* more directories than can be: look from time to time */
        Watch *watch;
        int rules_fd; /* of prevent.h; -EBADF: the kernel does not prevent */
        int marks_fd;
        uint32_t last_number;
        bool is_hosts_repository; /* the .git of the workspace: there before the session, or made by the host
                                   */
        Fresh *fresh;             /* NULL: none yet */
        int init_fd;              /* where notes go */
} Protect;

/* ---- rules.c ---- */

/* Rules of the plan. 0 with *ret_n 0: nothing to keep. */
int protect_rules(Protect *p, const Plan *plan, size_t *ret_n) _must_check_;

/* The repository of setup is kept as .git is. worktree: the workspace's name in it. */
int protect_repository_rules(Protect *p, const char *repository, const char *worktree) _must_check_;

/* path: below root's directory, without a slash at its beginning. */
int rules_add(Protect *p, ProtectRule *root, const char *path, ProtectRule **ret) _must_check_;
/* The same rules below another name: where a link leads. */
int rules_copy(Protect *p, const ProtectRule *from, ProtectRule *to, unsigned depth) _must_check_;

/* ---- cover.c ---- */

/* 1: something lies on fd's place, read-only if it is to be: it can be neither written nor renamed. */
int cover_is_there(int fd, bool is_read_only) _must_check_;
/* Lays what fd is over its own place. */
int cover_put(const Protect *p, int fd, const char *path, bool is_read_only, bool is_directory) _must_check_;

/* ---- away.c ---- */

/* What was made there goes. What was brought there, or holds something, gets another name: it may be
 * somebody's only copy. */
int away_take(Protect *p, int directory_fd, const char *path, const char *name, Maker maker,
              bool is_directory) _must_check_;

/* ---- protect.c ---- */

/* name in directory_fd itself, no link. */
int protect_open(int directory_fd, const char *name, uint64_t flags) _must_check_;
/* To read the directory's names from the first on; *ret is the caller's. */
int protect_list(int directory_fd, DIR **ret) _must_check_;

/* One pass over all that is there: covers, or takes away. The commands are frozen, or gone. */
int protect_pass(Protect *p) _must_check_;

/* The absolute path of what is at path. */
int protect_full(const Protect *p, const char *path, char *ret, size_t size) _must_check_;

/* A line for people, by way of init. */
void protect_note(Protect *p, PrivGuardNote note, const char *path);

/* ---- modules.c ---- */

/* A directory that is looked at. */
typedef struct Place {
        const ProtectRule *rule;
        int fd; /* the directory */
        const char *path;
        Maker maker; /* of what nobody is known to have made in it; MAKER_UNKNOWN: the host, or long ago */
        unsigned depth;
        bool is_in_modules;
} Place;

typedef int (*ModuleCall)(void *userdata, const char *name);

/* Calls for each directory in that of place that may be a submodule or lead to one, until one says otherwise
 * than 0. */
int modules_each(Protect *p, const Place *place, ModuleCall call, void *userdata) _must_check_;

/* ---- prevent.c ---- */

/* A session's map, empty. */
int prevent_new(int *ret_fd) _must_check_;
/* The next three do nothing without one. The workspace, and all rules. */
int prevent_begin(Protect *p) _must_check_;
/* Those that came since. */
int prevent_rules(Protect *p) _must_check_;
/* fd is the host's, and what the rule means; is_wrong: or stands where a directory was to be. */
int prevent_mark(Protect *p, const ProtectRule *rule, int fd, bool is_wrong) _must_check_;

/* ---- fresh.c ---- */

/* 0: name in place, at path, which the session made, is harmless and stays as it is. */
int fresh_take(Protect *p, const Place *place, const ProtectRule *rule, const char *name,
               const char *path) _must_check_;
bool fresh_is_known(const Fresh *f, const char *path);
void fresh_forget(Fresh *f, const char *path);
int fresh_fd(const Fresh *f);
/* Reads what there is. True: some of it is to be looked at. */
bool fresh_read(Fresh *f);

/* ---- watch.c ---- */

/* -EOPNOTSUPP and the like: nobody can say who made something; the guard looks from time to time. */
int watch_new(Watch **ret) _must_check_;
Watch *watch_free(Watch *w);
int watch_fd(const Watch *w);
/* rule, of which directory_fd is an instance, at path. 1: it was not watched yet. -ENOSPC: n_left or fewer
 * are left. */
int watch_add(Watch *w, const ProtectRule *rule, int directory_fd, const char *path,
              size_t n_left) _must_check_;
/* Reads what there is. 1: some of it matters. */
int watch_read(Watch *w) _must_check_;
/* Who put name into the directory at path last, since watch_clear(); fallback where nobody did. */
Maker watch_maker(const Watch *w, const char *path, const char *name, Maker fallback);
void watch_clear(Watch *w);
/* Those that nobody added again since the last time, but for the top: they are gone. No changes are kept. */
void watch_forget(Watch *w);

/* ---- guard.c ---- */

/* Forks the guard, if the plan has anything for it, and hears that all is covered. *ret_fd is init's end of
 * the channel, -EBADF without a guard; its end means the guard's. */
int guard_start(Setup *s, int *ret_fd) _must_check_;
