#pragma once

/*
 * The session plan: what sandbox-init mounts and sets, flat and free of pointers. api writes it (it parses
 * the policy), the launcher passes it on unread, init reads it while it still has privileges: so every
 * offset is checked once, by plan_open(), and nothing in it says who anybody is (uid, gid and groups come
 * from the launcher).
 *
 * Paths are absolute, canonical (no "//", "/./", "/../", no trailing slash) and shorter than PLAN_PATH_MAX.
 * Mounts are made in their order; init adds what every session has (proc, dev, the system directories).
 */

#include <stddef.h>
#include <stdint.h>

#include "proto/base/macro.h"

#define PLAN_MAGIC       UINT32_C(0x314c5053) /* "SPL1" */
#define PLAN_SIZE_MAX    (1024U * 1024U)
#define PLAN_MOUNTS_MAX  1024U
#define PLAN_PATH_MAX    4096U
#define PLAN_MATCHES_MAX 256U /* patterns */

typedef enum PlanMountType {
        PLAN_BIND = 0, /* source, opened as the caller, shown at target */
        PLAN_TMPFS,    /* size_bytes of private memory at target, mode 0700 of the session's user */
        PLAN_SOCKET,   /* source, a socket that the caller may connect to, shown at target */
        PLAN_COMPOSE,  /* source, a directory, shown at the same target, read-only, but for what is hidden;
                          "/" too */
        PLAN_HIDE,     /* target is left out of what is put together */
        PLAN_MASK,     /* whatever lies at target is hidden: an empty unreadable file or directory */
        PLAN_MASK_MATCHES, /* the same for what matches source, a pattern (glob.h), below target, the
                              workspace */
        PLAN_PROTECT,    /* target, below the workspace, names that may be "*", stays as it is: protect.h */
        PLAN_REPOSITORY, /* of target, the workspace, where that is a linked worktree: shown at its own
                            place, with the workspace's flags; repository.c */
        PLAN_BOUND,      /* a repository is shown only at or below one of these, writable if that one is */
        PLAN_DENY,       /* denied, and neither a mask nor hidden: it may be in, or above, a repository */
        _PLAN_MOUNT_TYPE_MAX,
} PlanMountType;

enum PlanMountFlags {
        PLAN_WRITABLE = 1 << 0, /* else read-only */
        PLAN_OPTIONAL = 1 << 1, /* skipped and reported where the source is absent (bind) */
        PLAN_IDMAP = 1 << 2, /* of a root session: files of root on disk are the session's user's inside */
        PLAN_WORKSPACE = 1 << 3,  /* exactly one, or none where the workspace is an own empty directory */
        PLAN_EXEC_TOOLS = 1 << 4, /* a tool folder of the caller's home: source's directory may be absent
                                     silently */
        PLAN_FOLLOW = 1 << 5,     /* of what is hidden: where links lead from there is masked, too */
        PLAN_MADE = 1 << 6, /* of a mask: also where nothing is, as a directory, if it is ours to make one */
        PLAN_QUIET = 1 << 7, /* of a mask: a directory that looks empty to whoever only looks around */
        PLAN_FLAGS_ALL = (1 << 8) - 1,
};

typedef enum PlanHomeKind {
        PLAN_HOME_OWN = 0, /* a private tmpfs of home_size_bytes */
        PLAN_HOME_SHOWN,   /* a private tmpfs that nobody writes, for a PLAN_COMPOSE */
        PLAN_HOME_GIVEN,   /* the directory that the launcher gives; where it gives none, as OWN, reported */
        _PLAN_HOME_KIND_MAX,
} PlanHomeKind;

typedef struct PlanMount {
        uint32_t type;
        uint32_t flags;
        uint32_t source; /* offset of a string; 0 = "" */
        uint32_t target;
        uint64_t size_bytes;
        uint32_t layer; /* of a mask: whose rule it is, and which */
        uint32_t rule;
} PlanMount;

/* Strings are NUL-terminated at offsets within [strings, strings + strings_size); the byte at `strings` is
 * NUL, so that offset 0 (relative to it) is the empty string. */
typedef struct PlanHeader {
        uint32_t magic;
        uint32_t size;   /* of the whole plan */
        uint32_t mounts; /* offset of PlanMount[n_mounts], 8-aligned */
        uint32_t n_mounts;
        uint32_t strings;
        uint32_t strings_size;
        uint32_t home; /* path of the session's home */
        uint32_t user; /* for /etc/passwd inside */
        uint32_t group;
        uint32_t shell;
        uint32_t hostname;
        uint32_t workspace;         /* path inside; where commands start that do not say */
        uint32_t has_tmp_workspace; /* the workspace is an empty directory of the session's own */
        uint32_t files_max;         /* RLIMIT_NOFILE */
        uint32_t home_kind;         /* PlanHomeKind */
        uint32_t padding;           /* 0 */
        uint64_t tmp_size_bytes;    /* /tmp */
        uint64_t home_size_bytes;
} PlanHeader;

typedef struct Plan {
        const PlanHeader *header;
        const PlanMount *mounts;
        const char *strings;
} Plan;

/* Checks everything that is said above; -EBADMSG where it does not hold. The data outlives the plan. */
int plan_open(const void *data, size_t size, Plan *ret) _must_check_;

static inline const char *plan_string(const Plan *p, uint32_t offset)
{
        return p->strings + offset;
}

/* ---- writing ---- */

typedef struct PlanBuilder PlanBuilder;

int plan_builder_new(PlanBuilder **ret) _must_check_;
PlanBuilder *plan_builder_free(PlanBuilder *b);
DEFINE_CLEANUP(PlanBuilder *, plan_builder_free)

/* Offset of a copy of s; equal strings share one. */
int plan_builder_string(PlanBuilder *b, const char *s, uint32_t *ret_offset) _must_check_;
int plan_builder_mount(PlanBuilder *b, PlanMountType type, uint32_t flags, const char *source,
                       const char *target, uint64_t size_bytes) _must_check_;

int plan_builder_mask(PlanBuilder *b, uint32_t flags, const char *target, const char *layer,
                      const char *rule) _must_check_;

/* header: all fields that are no offsets of tables. *ret_fd: a sealed memfd, proven with plan_open(). */
int plan_builder_seal(PlanBuilder *b, const PlanHeader *header, int *ret_fd) _must_check_;
