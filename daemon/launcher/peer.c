#include "daemon/launcher/peer.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

#define PEER_OVERFLOW_ID 65534U
#define PEER_GROUPS_MAX  65536U

static int read_credentials(int fd, Peer *p)
{
        struct ucred credentials = { 0 };
        socklen_t size = sizeof(credentials);

        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) < 0)
                return neg_errno();
        if (size != sizeof(credentials) || credentials.pid <= 0)
                return -EACCES;
        if (credentials.uid == UINT32_MAX || credentials.uid == PEER_OVERFLOW_ID ||
            credentials.gid == UINT32_MAX)
                return -EACCES;
        p->pid = (uint32_t) credentials.pid;
        p->uid = credentials.uid;
        p->gid = credentials.gid;
        return 0;
}

static void note_group(const Launcher *l, Peer *p, uint32_t group)
{
        if (group != UINT32_MAX && group == l->ids.admins_gid)
                p->is_admin = true;
        if (group != UINT32_MAX && group == l->ids.auditors_gid)
                p->is_auditor = true;
}

static int read_groups(const Launcher *l, int fd, Peer *p)
{
        _cleanup_free_ gid_t *groups = NULL;
        socklen_t size = 0;

        if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, NULL, &size) < 0 && errno != ERANGE)
                return neg_errno();
        if (size > PEER_GROUPS_MAX * sizeof(gid_t))
                return -E2BIG;
        groups = malloc(MAX_OF(size, (socklen_t) sizeof(gid_t)));
        if (!groups)
                return -ENOMEM;
        if (size > 0 && getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size) < 0)
                return neg_errno();
        for (size_t i = 0; i < size / sizeof(gid_t); i++) {
                note_group(l, p, groups[i]);
                if (p->n_groups < PRIV_GROUPS_MAX)
                        p->groups[p->n_groups++] = groups[i];
                else
                        p->has_too_many_groups = true;
        }
        note_group(l, p, p->gid);
        if (p->uid == 0)
                p->is_admin = p->is_auditor = true;
        return 0;
}

/* Kernels before 6.5 give no pidfd of the peer: then the pid is as good as it gets, and one that was
 * recycled since the connect is the caller's own doing. */
static int open_pidfd(int fd, const Peer *p, int *ret_fd)
{
        int pidfd = -EBADF;
        socklen_t size = sizeof(pidfd);

        if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size) >= 0) {
                *ret_fd = pidfd;
                return 0;
        }
        if (errno != ENOPROTOOPT)
                return neg_errno();
        pidfd = (int) syscall(SYS_pidfd_open, (pid_t) p->pid, 0);
        if (pidfd < 0)
                return neg_errno();
        *ret_fd = pidfd;
        return 0;
}

static bool has_ended(int pidfd)
{
        struct pollfd p = { .fd = pidfd, .events = POLLIN };

        return poll(&p, 1, 0) != 0;
}

int peer_read_uid(int socket_fd, uint32_t *ret_uid)
{
        Peer p = { 0 };
        int r = read_credentials(socket_fd, &p);

        if (r >= 0)
                *ret_uid = p.uid;
        return r;
}

int peer_read(const Launcher *l, int socket_fd, Peer *ret)
{
        _cleanup_close_ int pidfd = -EBADF;
        Peer p = { 0 };
        int r;

        r = read_credentials(socket_fd, &p);
        if (r >= 0)
                r = read_groups(l, socket_fd, &p);
        if (r >= 0)
                r = open_pidfd(socket_fd, &p, &pidfd);
        if (r >= 0)
                r = cgroup_base_holds(l->kernel->cgroups, (pid_t) p.pid);
        if (r < 0)
                return r;
        if (r > 0)
                return 1;
        /* It still runs, so the pid was its own while we looked. */
        if (has_ended(pidfd))
                return -ESRCH;
        *ret = p;
        return 0;
}
