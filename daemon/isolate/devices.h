#pragma once

/*
 * A second layer against device nodes: a program at the group above all sessions refuses to make any, and to
 * open others than a session has in /dev. It binds root in that group, too, whatever it has mounted.
 */

#include "daemon/isolate/cgroup.h"
#include "proto/base/macro.h"

/* Attaches it, and proves that a device can neither be made nor opened in a group below. It stays until the
 * group is gone, also without us. */
int devices_refuse(const CgroupBase *base) _must_check_;
