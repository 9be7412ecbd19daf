#pragma once

/*
 * What sandbox-init knows while it builds a session. It starts as root in the new pid, ipc and uts
 * namespaces and in the session's cgroup, and goes through these steps once, never back:
 *
 *   stage 1, nothing of any user: mount namespace from the template, own root, /proc with its masks, network
 * and cgroup namespaces, a Landlock ruleset with the fixed rules; stage 2, after INIT_START: the caller's
 * paths are opened with the caller's rights and cloned (in the host's mount namespace, for only there may
 * they be cloned), attached, the root made read-only; then identity, user namespace, capabilities, Landlock,
 * seccomp; then every layer is tried.
 *
 * A failure anywhere ends init: there is no session with a layer less.
 */

#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "daemon/init/plan.h"
#include "proto/idl/privsep.h"

#define SETUP_DEVICES_MAX (PLAN_MOUNTS_MAX + 8U)
#define SETUP_SEALED_MAX  4U
#define MASKS_READY       8U

typedef struct Piece Piece; /* of what is put together; compose.c */

typedef struct Setup {
        PrivInitStart start;
        Plan plan;
        PrivInitResult result;
        size_t n_missing_bytes;

        /* given by the launcher */
        int template_fd;
        int network_fd;
        int host_fd;
        int user_fd;
        int cgroup_fd;
        int filter_fd;
        int command_filter_fd;
        int idmap_fd;
        int home_fd;  /* -EBADF: none was given */
        int marks_fd; /* of prevent.h; -EBADF: the kernel does not prevent */

        /* made by us */
        int own_fd;                 /* our mount namespace */
        int root_fd;                /* the session's root */
        int mask_fd;                /* directory of the empty files that masks are made of */
        uint32_t watched_device[2]; /* major, minor; 0, 0: none */
        int watched_fd; /* the file system whose nodes are masks of denied paths; -EBADF: those of mask_fd
                           are */
        int ready_masks[MASKS_READY]; /* clones of its first nodes, made ahead */
        int proc_fd;  /* a proc of our own, nowhere attached: for the knob of the user namespace */
        int proof_fd; /* a writable directory that no Landlock rule names: to see Landlock refuse */
        Piece *pieces;
        size_t n_pieces;
        int sealed[SETUP_SEALED_MAX]; /* mounts that become read-only when all is made */
        size_t n_sealed;
        int ruleset_fd;
        int home_mount_fd;      /* the given home, cloned */
        uint64_t home_mount_id; /* of it, once it is attached: directories may be made there; 0: none */
        uint64_t capabilities;  /* permitted at start */
        bool is_lowered;        /* no effective capability, the caller's ids: proven */
        bool is_unattributed;   /* nobody can say who makes what is protected */
        int rules_fd;           /* of prevent.h: what the session must not change; -EBADF: none */
        int guard_fd;           /* init's end of the channel to its guard; -EBADF: there is none */
        bool has_fs_ids;
        uid_t fs_uid;
        gid_t fs_gid;
        dev_t root_device;
        dev_t devices[SETUP_DEVICES_MAX]; /* of file systems that are ours: mount points are made only there
                                           */
        size_t n_devices;
        char repository[PLAN_PATH_MAX]; /* of the workspace, a linked worktree: attached there, or part of
                                           the workspace anyway; empty: none */
        char worktree[256];             /* the workspace's name in it */
        int repository_fd;              /* detached; -EBADF: there is nothing to attach, or no more */
        uint32_t repository_flags;      /* the workspace's */
        int sources[PLAN_MOUNTS_MAX];   /* detached mounts, -EBADF where skipped */
        bool source_is_directory[PLAN_MOUNTS_MAX];
#ifdef SANDBOXD_LEAVE_OUT
        uint32_t unchecked; /* layers whose absence is let pass */
#endif
} Setup;

/* Names the step that the next failure belongs to. */
void setup_step(Setup *s, const char *step);

/* Returns r, so that `return setup_fail(...)` is one statement; keeps the first detail. */
int setup_fail(Setup *s, int r, const char *format, ...) _printf_(3, 4);

/* An optional path that is not there. */
void setup_missing(Setup *s, const char *path);

/* Those of PrivLayer, and layers that only a program of the tests can leave out. */
enum SetupLayer {
        LAYER_MASKS = 1 << 8, /* of /proc */
        LAYER_CAPABILITIES = 1 << 9,
        LAYER_LIMITS = 1 << 10,
        LAYER_GROUPS = 1 << 11,
};

#ifdef SANDBOXD_LEAVE_OUT
#define SETUP_LEAVES_OUT(s, layer) (((s)->start.leave_out & (layer)) != 0)
#define SETUP_CHECKS(s, layer)     (((s)->unchecked & (layer)) == 0)
#else
#define SETUP_LEAVES_OUT(s, layer) ((void) (s), false)
#define SETUP_CHECKS(s, layer)     ((void) (s), true)
#endif

/* ---- root.c: stage 1 ---- */

int root_enter_namespaces(Setup *s) _must_check_;
int root_build(Setup *s) _must_check_;
int root_build_proc(Setup *s) _must_check_;
/* Landlock's rules for what every session has. */
int root_allow_fixed(Setup *s) _must_check_;
/* After the last mount point was made. */
int root_seal(Setup *s) _must_check_;

/* A new tmpfs, not attached. options: NULL-terminated pairs of key and value. The file system counts as
 * ours. */
int root_tmpfs_new(Setup *s, const char *const options[], unsigned attributes, int *ret_fd) _must_check_;

extern const char *const root_proc_empty[]; /* hidden names of /proc, NULL-terminated */
extern const char *const root_proc_read_only[];

/* ---- source.c ---- */

/* Opens and clones all sources of the plan; returns in our own mount namespace. */
int source_open_all(Setup *s) _must_check_;
/* Both as the caller. A file or directory, detached and read-only with all that is mounted below it. */
int source_clone(Setup *s, const char *path, int *ret_fd, bool *ret_is_directory) _must_check_;
int source_open_directory(Setup *s, const char *path, int *ret_fd) _must_check_;

/* A mount of path, where the object there is what like_fd is; as the caller, with flags of PlanMountFlags.
 */
int source_clone_directory(Setup *s, const char *path, int like_fd, uint32_t flags,
                           int *ret_fd) _must_check_;

/* ---- repository.c ---- */

/* The repository of entry i's folder, if that is a linked worktree; as the caller. What keeps it from being
 * shown is no failure, but told. */
int repository_open(Setup *s, uint32_t i) _must_check_;
/* Where it belongs; path: that of the mount which is attached next, NULL: no more follow. */
int repository_attach(Setup *s, const char *path) _must_check_;

/* ---- compose.c ---- */

/* What the caller sees of a directory, but for what the plan hides: kept until it is attached. */
int compose_open(Setup *s, const char *path) _must_check_;
/* Where links lead that are hidden; when all is composed. */
int compose_resolve(Setup *s) _must_check_;
int compose_attach(Setup *s) _must_check_;
/* When all else is attached. */
int compose_mask(Setup *s) _must_check_;
/* When no mount point is made any more: directories get the rights of those that they stand for. */
int compose_close(Setup *s) _must_check_;
void compose_done(Setup *s);

/* ---- home.c ---- */

/* The given home, cloned: in the host's mount namespace, as root. */
int home_clone(Setup *s) _must_check_;
/* At its place, of whatever kind it is. */
int home_attach(Setup *s) _must_check_;
/* The file system at fd is the given home's. */
bool home_holds(const Setup *s, int fd);
/* What stands where a directory is to be, and is none, goes: 1. */
int home_clear(int directory_fd, const char *name) _must_check_;
/* A directory of the given home that its user cannot enter, can be again. fd: opened by O_PATH. */
int home_open_up(Setup *s, int fd) _must_check_;

/* ---- target.c ---- */

int target_attach_all(Setup *s) _must_check_;
/* At path, which is made where that is ours to do. */
int target_attach(Setup *s, int mount_fd, const char *path, bool is_directory) _must_check_;
/* The same for what is no mount; -EEXIST: something is there. */
int target_link(Setup *s, const char *link, const char *path) _must_check_;
int target_make_directory(Setup *s, const char *path, int *ret_fd) _must_check_;
bool target_exists(Setup *s, const char *path);
/* Over whatever lies there; -ENOENT: nothing does. number: of the plan's mount; UINT32_MAX: it has none. */
int target_mask(Setup *s, const char *path, uint32_t number) _must_check_;
/* As target_attach_tmpfs(), but nobody may write once root_seal() has run. */
int target_attach_sealed(Setup *s, const char *path, const char *mode, uint64_t size_bytes) _must_check_;
/* A private file system, writable for the session. mode in octal; owned by the session's user. */
int target_attach_tmpfs(Setup *s, const char *path, const char *mode, uint64_t size_bytes) _must_check_;

/* ---- masks.c: what denied paths are hidden by ---- */

/* Of what the watch answers for, ahead: nothing is known of the session yet. */
void masks_prepare(Setup *s);
/* A detached mount. */
int mask_clone(Setup *s, uint32_t number, bool is_directory, int *ret_fd) _must_check_;
void masks_done(Setup *s);
/* It is a node that the watch answers for: found out without asking it, which would be an attempt. */
bool mask_is_watched(const Setup *s, int fd);

/* ---- submounts.c ---- */

/* No kernel interface came along with what is shown, and every mount is nosuid and nodev. */
int submounts_check(Setup *s) _must_check_;

/* ---- files.c ---- */

/* /run/sandbox: what /etc/passwd, group, hostname and hosts are links to. */
int files_write(Setup *s) _must_check_;

/* ---- identity.c ---- */

/* The caller's rights to open paths with; without any capability, then with those that cloning takes; then
 * all. */
int identity_become_caller(Setup *s) _must_check_;
int identity_lower(Setup *s) _must_check_;
int identity_raise(Setup *s) _must_check_;
int identity_return(Setup *s) _must_check_;

/* File system rights only: the session's user, or root. Mount rights stay. */
int identity_walk_as_session(Setup *s) _must_check_;
int identity_walk_as_root(Setup *s) _must_check_;

/* The guard's, for good: files with the session user's rights, mounts and fanotify with root's. The real uid
 * stays root's, so that nothing in the session may signal it. */
int identity_become_guard(Setup *s) _must_check_;

/* For good: the session's ids, a fresh keyring, limits, the user namespace, no capabilities, no_new_privs.
 */
int identity_drop(Setup *s) _must_check_;

/* ---- layers.c ---- */

int layers_prepare_landlock(Setup *s) _must_check_;
/* Writing below the object (a directory, or one file) stays allowed. */
int layers_allow_write(Setup *s, int fd, bool is_directory) _must_check_;
/* LANDLOCK_ACCESS_FS_x below the object; rights that no session ever has are ignored. */
int layers_allow(Setup *s, int fd, uint64_t rights) _must_check_;
int layers_enforce(Setup *s) _must_check_;
/* Loads a sealed program. */
int layers_load_filter(int fd) _must_check_;

/* ---- check.c ---- */

/* Tries what must not be possible, one attempt for each layer. */
int check_all(Setup *s) _must_check_;
