#pragma once

/* What an egress worker may do from its first message on: the program itself and whoever tests a stand-in.
 */

#include "daemon/isolate/worker.h"

#define EGRESS_FILES_MAX  32768U
#define EGRESS_MEMORY_MAX (UINT64_C(512) << 20)

/* Without ids: the caller fills them in. */
WorkerSpec egress_rights(void);
