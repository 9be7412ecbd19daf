#pragma once

/* Frames of an attached command, between our own streams and the daemon. */

#include "client/ctl/ctl.h"

typedef struct AttachRequest {
        const char *id;
        const char *process;  /* NULL: the one started last */
        int64_t replay_bytes; /* negative: what nobody has read yet */
        bool is_read_only;
        bool hangs_up;
        bool is_bound; /* it is our own command: we stay to its end, and signals are its */
} AttachRequest;

/* Until the command's end, whose exit status is returned, or until we leave it. */
int attach_run(const Common *common, const AttachRequest *request);

/* Blocks the signals that are passed on to a command or end its client, and reads them instead; the caller
 * owns the descriptor. < 0: negative errno. */
int attach_open_signals(void);
