#include "daemon/launcher/inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/base/clock.h"
#include "proto/base/fd.h"

/*
 * What they send is not looked at: a message ends with a NUL byte, and each of these bytes gets the same
 * answer (one that wants none gets it, too). So no parser reads what a session sends here, and its owner's
 * worker and quotas are left alone.
 */

#define INSIDE_MAX          64U
#define INSIDE_PER_USER_MAX 8U
#define INSIDE_BYTES_MAX    (256U * 1024U)
#define INSIDE_USEC         (10 * USEC_PER_SEC)

static const char answer[] = "{\"error\":\"org.varlink.service.PermissionDenied\",\"parameters\":{}}";

typedef struct Inside {
        ListLink link;
        LoopIo *io;
        LoopTimer *timer;
        int fd;
        uint32_t uid;
        size_t n_bytes;
} Inside;

static void inside_free(Inside *i)
{
        list_unlink(&i->link);
        i->io = loop_io_free(i->io);
        i->timer = loop_timer_free(i->timer);
        i->fd = fd_close(i->fd);
        free(i);
}

static void on_time_over(void *userdata)
{
        inside_free(userdata);
}

/* With its NUL. Who does not read gets no more. */
static bool answer_once(const Inside *i)
{
        return send(i->fd, answer, sizeof(answer), MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t) sizeof(answer);
}

static void on_input(void *userdata, int fd, _unused_ unsigned events)
{
        Inside *i = userdata;
        char data[4096];
        ssize_t n = recv(fd, data, sizeof(data), MSG_DONTWAIT);
        bool is_open = n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));

        for (ssize_t at = 0; at < n && is_open; at++) {
                if (data[at] == '\0')
                        is_open = answer_once(i);
        }
        i->n_bytes += n > 0 ? (size_t) n : 0;
        if (!is_open || i->n_bytes > INSIDE_BYTES_MAX)
                inside_free(i);
}

static bool may_have(const Launcher *l, uint32_t uid)
{
        unsigned n = 0, n_own = 0;

        LIST_FOREACH (i, &l->inside, const Inside, link) {
                n++;
                n_own += i->uid == uid;
        }
        return n < INSIDE_MAX && n_own < INSIDE_PER_USER_MAX;
}

void inside_refuse(Launcher *l, uint32_t uid, int take_fd)
{
        Inside *i = may_have(l, uid) ? calloc(1, sizeof(*i)) : NULL;
        int r;

        if (!i) {
                (void) fd_close(take_fd);
                return;
        }
        *i = (Inside){ .fd = take_fd, .uid = uid };
        list_init(&i->link);
        list_append(&l->inside, &i->link);
        r = loop_io_new(l->loop, i->fd, LOOP_READ, on_input, i, &i->io);
        if (r >= 0)
                r = loop_timer_new(l->loop, on_time_over, i, &i->timer);
        if (r >= 0)
                r = loop_timer_set(i->timer, INSIDE_USEC);
        if (r < 0)
                inside_free(i);
}

void inside_free_all(Launcher *l)
{
        LIST_FOREACH (i, &l->inside, Inside, link)
                inside_free(i);
}
