#pragma once

/* What our end of a varlink connection wrote: consumed, if it is whole messages that our own gate lets
 * through. */

#include "proto/base/buf.h"

void messages_check(Buf *output);

/* The same, of a sender that may have been cut off in its last message. */
void messages_check_prefix(Buf *output);
