#pragma once

/*
 * Linked worktrees of git: folders whose .git is a file that names REPOSITORY/worktrees/NAME, which names
 * the folder in turn. Both are text of whoever may write there, in a session for one. So each step is taken
 * by descriptor and without links, with the rights of the user who asks, and what comes out is believed only
 * where both sides name each other and all of it is that user's.
 */

#include <sys/types.h>

#include "proto/base/macro.h"

#define WORKTREE_PATH_MAX 4096U
#define WORKTREE_NAME_MAX 256U

typedef struct Worktree {
        int fd;                             /* the repository's directory, of a path alone; the caller's */
        char repository[WORKTREE_PATH_MAX]; /* its canonical path */
        char name[WORKTREE_NAME_MAX];       /* the worktree's, below "worktrees" */
} Worktree;

/* Of folder, a canonical path. 1: *ret. 0: there is no .git that is a file. Errors have their reason in
 * *ret_why, for people. owner: whose it all must be. Files are opened with the rights of the caller, which
 * are to be those of that user. */
int worktree_resolve(const char *folder, uid_t owner, Worktree *ret, const char **ret_why) _must_check_;
