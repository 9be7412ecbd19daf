#pragma once

/*
 * What the programs in the kernel (daemon/bpf), the launcher and a session's guard have in common: the maps
 * that say what a session must not change.
 *
 * `sessions`: the number of a session's control group -> that session's own map of rules, which goes with
 * its entry. Rules are a tree of names: {number of a node, name} -> node. `marks`: an inode -> its token, a
 * random number that stays with it for as long as the kernel holds it, whatever it is called; {token, ""} ->
 * the node that it is. So one inode is what it is to each session, and a mark of a session that is over
 * means nothing.
 *
 * Also read by a compiler for the kernel: nothing of the C library here.
 */

#include <linux/types.h>

#define PREVENT_NAME_SIZE 56 /* with its NUL. Names are cut to that, so one that fills it is in no rule */
#define PREVENT_DEPTH_MAX 8  /* names of a rule, from the workspace or from a mark on */
#define PREVENT_LEVELS_MAX \
        128 /* of directories between a file and the workspace: what is deeper is refused */
#define PREVENT_TOKEN (1ULL << 63) /* a bit of all tokens and of no node's number */

enum PreventFlags {
        PREVENT_ABOVE = 1 << 0,     /* something below it is protected: it may be made, as a directory */
        PREVENT_PROTECTED = 1 << 1, /* with all below it */
        PREVENT_HAS_ANY = 1 << 2,   /* has a node for "*" */
        PREVENT_TOP = 1 << 3,       /* the workspace: what is above it is no session's business */
};

typedef struct PreventKey {
        __u64 parent;                 /* number of a node, 0: the workspace; or a token */
        char name[PREVENT_NAME_SIZE]; /* none, and parent 0: the node's number is the workspace's device */
} PreventKey;

typedef struct PreventNode {
        __u32 number;
        __u32 flags;
} PreventNode;

/* The value of the map `made`: which programs these are. */
typedef struct PreventMade {
        __u64 digest; /* of the object that they come from */
        __u32 level;  /* of sessions' control groups below the root of the hierarchy */
        __u32 n_links;
} PreventMade;
