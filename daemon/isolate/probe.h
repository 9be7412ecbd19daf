#pragma once

/*
 * Does this kernel have what a session needs, and what it uses where it is? Each answer comes from trying
 * it, once, while the launcher still has all its rights; what is made for it is taken away again.
 */

#include "daemon/isolate/cgroup.h"
#include "daemon/isolate/pings.h"
#include "daemon/isolate/steer.h"
#include "proto/idl/privsep.h"

/* home_fd: our own network namespace. Fills in all of them. *ret_steering: the first kind that works; NULL:
 * none does. *ret_pings: what refuses pings and tells of them, likewise; where there is one the steering
 * lets them. Both are the caller's. */
void probe_all(const CgroupBase *base, int home_fd, PrivProbe probes[_PROBE_MAX], Steering **ret_steering,
               Pings **ret_pings);

/* Word for a layer that sessions go without; NULL: its absence is no loss to a session that started. */
const char *probe_layer(uint32_t name);

/* probe_bpf.c: 0 or negative errno. The first attaches a program that refuses one ioctl which does not
 * exist, and tries it: where BPF is no active security module, attaching succeeds and nothing is refused. */
int probe_bpf_lsm(void);
int probe_fexit(void);
