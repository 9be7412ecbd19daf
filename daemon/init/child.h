#pragma once

/*
 * A process of init's that becomes a command: from its birth in the command's group to execve(). It does not
 * return and leaves init's memory as it was born with it; what fails goes through error_fd.
 */

#include "daemon/init/serve.h"

struct Child {
        const Server *server;
        const CommandRequest *request; /* NULL: comes through channel_fd */
        int slave_fd;                  /* of a pty */
        int error_fd;
        int channel_fd; /* of a spare */
};

_noreturn_ void child_run(Child *c);

/* Does what every command needs, then waits for its request; ends when init closes the channel. */
_noreturn_ void child_run_spare(Child *c);
