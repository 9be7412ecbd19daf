/*
 * Changes of names in some directories, and who made them: fanotify, whose events carry the number of the
 * process in the reader's pid namespace, 0 for one outside of it, also when that process has long ended.
 */

#include <errno.h>
#include <linux/fanotify.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/init/protect.h"
#include "daemon/isolate/kernel.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

#define WATCH_DIRECTORIES_MAX 2048U
#define WATCH_EVENTS_MAX      4096U
#define WATCH_HANDLE_MAX      128U
#define WATCH_MASK            (FAN_CREATE | FAN_MOVED_TO | FAN_MOVED_FROM | FAN_DELETE | FAN_ONDIR)

/* Not in every C library. */
typedef struct Handle {
        uint32_t n_bytes;
        int32_t type;
        uint8_t bytes[WATCH_HANDLE_MAX];
} Handle;

typedef struct Directory {
        const ProtectRule *rule;
        char *path;
        Handle handle;
        bool is_seen; /* since watch_clear() */
} Directory;

typedef struct Change {
        const Directory *directory;
        char *name;
        Maker maker;
} Change;

struct Watch {
        int fd;
        Directory *directories[WATCH_DIRECTORIES_MAX];
        size_t n_directories;
        Change *changes;
        size_t n_changes;
        bool has_lost; /* some changes are not known */
};

int watch_new(Watch **ret)
{
        Watch *w = calloc(1, sizeof(*w));

        if (!w)
                return -ENOMEM;
        w->changes = calloc(WATCH_EVENTS_MAX, sizeof(*w->changes));
        w->fd = w->changes ? (int) syscall(SYS_fanotify_init,
                                           FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK |
                                                           FAN_REPORT_DIR_FID | FAN_REPORT_NAME,
                                           0)
                           : -1;
        if (w->fd < 0) {
                int r = w->changes ? neg_errno() : -ENOMEM;

                free(w->changes);
                free(w);
                return r;
        }
        *ret = w;
        return 0;
}

Watch *watch_free(Watch *w)
{
        if (!w)
                return NULL;
        watch_clear(w);
        for (size_t i = 0; i < w->n_directories; i++) {
                free(w->directories[i]->path);
                free(w->directories[i]);
        }
        (void) fd_close(w->fd);
        free(w->changes);
        free(w);
        return NULL;
}

int watch_fd(const Watch *w)
{
        return w->fd;
}

static int handle_of(int fd, Handle *ret)
{
        int mount_id;

        *ret = (Handle){ .n_bytes = WATCH_HANDLE_MAX };
        return syscall(SYS_name_to_handle_at, fd, "", ret, &mount_id, AT_EMPTY_PATH) < 0 ? neg_errno() : 0;
}

static bool handle_equal(const Handle *a, const Handle *b)
{
        return a->n_bytes == b->n_bytes && a->type == b->type && memcmp(a->bytes, b->bytes, a->n_bytes) == 0;
}

int watch_add(Watch *w, const ProtectRule *rule, int directory_fd, const char *path, size_t n_left)
{
        Directory *d;
        Handle handle;
        int r;

        r = handle_of(directory_fd, &handle);
        if (r < 0)
                return r;
        for (size_t i = 0; i < w->n_directories; i++) {
                d = w->directories[i];
                if (d->rule == rule && handle_equal(&d->handle, &handle) && str_equal(d->path, path)) {
                        d->is_seen = true;
                        return 0;
                }
        }
        if (w->n_directories + n_left >= WATCH_DIRECTORIES_MAX)
                return -ENOSPC;
        d = calloc(1, sizeof(*d));
        if (!d || str_dup(path, &d->path) < 0) {
                free(d);
                return -ENOMEM;
        }
        d->rule = rule;
        d->handle = handle;
        d->is_seen = true;
        w->directories[w->n_directories++] = d;
        if (syscall(SYS_fanotify_mark, w->fd, FAN_MARK_ADD | FAN_MARK_ONLYDIR, (uint64_t) WATCH_MASK,
                    directory_fd, NULL) < 0)
                return neg_errno();
        return 1;
}

/* ---- reading ---- */

static bool matters(const ProtectRule *rule, const char *name, bool is_directory)
{
        if (rule->is_module && is_directory)
                return true;
        if (rule->fresh == FRESH_HOOKS)
                return !str_has_suffix(name, FRESH_SAMPLE);
        for (const ProtectRule *c = rule->first; c; c = c->next)
                if (str_equal(c->name, "*") || str_equal(c->name, name))
                        return true;
        return false;
}

static void keep(Watch *w, const Directory *d, const char *name, Maker maker)
{
        Change *c;

        if (w->n_changes >= WATCH_EVENTS_MAX) {
                w->has_lost = true;
                return;
        }
        c = &w->changes[w->n_changes];
        if (str_dup(name, &c->name) < 0) {
                w->has_lost = true;
                return;
        }
        c->directory = d;
        c->maker = maker;
        w->n_changes++;
}

/* 1: one that matters. */
static int take(Watch *w, const struct fanotify_event_metadata *m, const Handle *handle, const char *name)
{
        Maker maker = m->pid == 0              ? MAKER_HOST
                      : m->mask & FAN_MOVED_TO ? MAKER_SESSION_MOVED
                                               : MAKER_SESSION;
        int matter = 0;

        /* What we did ourselves. */
        if (m->pid == getpid())
                return 0;
        for (size_t i = 0; i < w->n_directories; i++) {
                const Directory *d = w->directories[i];

                if (!handle_equal(&d->handle, handle) || !matters(d->rule, name, (m->mask & FAN_ONDIR) != 0))
                        continue;
                if (m->mask & (FAN_CREATE | FAN_MOVED_TO))
                        keep(w, d, name, maker);
                matter = 1;
        }
        return matter;
}

static int take_event(Watch *w, const struct fanotify_event_metadata *m, const char *event)
{
        struct fanotify_event_info_fid info;
        const char *at = event + sizeof(*m), *end = event + m->event_len;
        Handle handle = { 0 };

        if (m->mask & FAN_Q_OVERFLOW) {
                w->has_lost = true;
                return 1;
        }
        if (m->event_len < sizeof(*m) + sizeof(info) + 8)
                return 0;
        memcpy(&info, at, sizeof(info));
        if (info.hdr.info_type != FAN_EVENT_INFO_TYPE_DFID_NAME)
                return 0;
        at += sizeof(info);
        memcpy(&handle, at, 8);
        at += 8;
        if (handle.n_bytes > WATCH_HANDLE_MAX || (size_t) (end - at) <= handle.n_bytes)
                return 0;
        memcpy(handle.bytes, at, handle.n_bytes);
        at += handle.n_bytes;
        return memchr(at, '\0', (size_t) (end - at)) ? take(w, m, &handle, at) : 0;
}

/* Copied: events are a multiple of four bytes long, their fields are wider. */
static int take_events(Watch *w, const char *events, size_t n)
{
        struct fanotify_event_metadata m;
        int matter = 0;

        while (n >= sizeof(m)) {
                memcpy(&m, events, sizeof(m));
                if (m.event_len < sizeof(m) || m.event_len > n)
                        break;
                matter |= take_event(w, &m, events);
                events += m.event_len;
                n -= m.event_len;
        }
        return matter;
}

int watch_read(Watch *w)
{
        char buffer[8192];
        int matter = 0;

        for (;;) {
                ssize_t n = read(w->fd, buffer, sizeof(buffer));

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno != EAGAIN)
                        return neg_errno();
                if (n <= 0)
                        return matter;
                matter |= take_events(w, buffer, (size_t) n);
        }
}

Maker watch_maker(const Watch *w, const char *path, const char *name, Maker fallback)
{
        for (size_t i = w->n_changes; i > 0; i--) {
                const Change *c = &w->changes[i - 1];

                if (str_equal(c->directory->path, path) && str_equal(c->name, name))
                        return c->maker;
        }
        /* Nothing is thrown away on a guess. */
        return w->has_lost && fallback == MAKER_UNKNOWN ? MAKER_SESSION_MOVED : fallback;
}

void watch_clear(Watch *w)
{
        for (size_t i = 0; i < w->n_changes; i++)
                free(w->changes[i].name);
        w->n_changes = 0;
        w->has_lost = false;
}

void watch_forget(Watch *w)
{
        for (size_t i = 0; i < w->n_directories;) {
                Directory *d = w->directories[i];

                if (d->is_seen || d->path[0] == '\0' || str_equal(d->path, PROTECT_REPOSITORY)) {
                        d->is_seen = false;
                        i++;
                        continue;
                }
                w->directories[i] = w->directories[--w->n_directories];
                free(d->path);
                free(d);
        }
}
