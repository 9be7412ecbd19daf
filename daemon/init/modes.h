#pragma once

/*
 * Modes of directories are the session's to set where its user owns them, and the guard has that user's
 * rights only: it gives itself what it needs while it looks.
 */

#include <stdbool.h>
#include <sys/stat.h>

/* u+rwx; true: changed, and *ret_mode is for modes_back(). fd: one of a path alone will do. What cannot be
 * changed, fails later. */
bool modes_open(int fd, mode_t *ret_mode);
void modes_back(int fd, bool is_changed, mode_t mode);
