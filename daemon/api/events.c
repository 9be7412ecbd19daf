#include "daemon/api/events.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

/*
 * A file begins with the number of the last event before it ("after N"), so that a reader knows what is
 * missing; then one line an event: number, kind, session or "-", JSON. A file that is full stays as it is
 * and the other one begins anew. Nothing is synchronized: what a power failure takes is at most seconds old,
 * and the numbers go on with the clock.
 */

#define FILES          2U
#define FILE_BYTES_MAX (256U * 1024U)
#define TEXT_MAX       (16U * 1024U)
#define LINE_MAX_BYTES (TEXT_MAX + 128U)

struct Events {
        Api *api;
        Event *ring; /* EVENTS_KEPT_MAX of them */
        size_t first;
        size_t n;
        uint64_t last;
        uint64_t lost_through;
        int directory_fd;
        int fd;
        unsigned file;
        size_t file_bytes;
        bool is_serve_deferred;
        bool is_reconciled;
        struct {
                char resource[PRIV_NAME_SIZE];
                uint64_t at_usec;
        } limits[4];
};

uint64_t events_last(const Events *e)
{
        return e->last;
}

uint64_t events_lost_through(const Events *e)
{
        return e->lost_through;
}

static Event *at(const Events *e, size_t i)
{
        return &e->ring[(e->first + i) % EVENTS_KEPT_MAX];
}

const Event *events_after(const Events *e, uint64_t sequence)
{
        size_t low = 0, high = e->n;

        while (low < high) {
                size_t middle = low + (high - low) / 2;

                if (at(e, middle)->sequence > sequence)
                        high = middle;
                else
                        low = middle + 1;
        }
        return low < e->n ? at(e, low) : NULL;
}

static void drop_oldest(Events *e)
{
        Event *old = at(e, 0);

        subscriptions_lose(e->api, old);
        e->lost_through = old->sequence;
        free(old->text);
        *old = (Event){ 0 };
        e->first = (e->first + 1) % EVENTS_KEPT_MAX;
        e->n--;
}

static int keep(Events *e, const Event *event, const char *text, size_t size)
{
        char *copy = malloc(size + 1);
        Event *to;

        /* Lost is lost for all: whoever has not had it is told. */
        if (!copy) {
                subscriptions_lose(e->api, event);
                e->lost_through = event->sequence;
                return -ENOMEM;
        }
        memcpy(copy, text, size);
        copy[size] = '\0';
        if (e->n == EVENTS_KEPT_MAX)
                drop_oldest(e);
        to = at(e, e->n++);
        *to = *event;
        to->text = copy;
        return 0;
}

/* ---- files ---- */

static int open_file(const Events *e, unsigned file, int flags)
{
        char name[16];
        int fd;

        (void) snprintf(name, sizeof(name), "events-%u", file);
        fd = openat(e->directory_fd, name, flags | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC, 0600);
        return fd < 0 ? neg_errno() : fd;
}

/* The other file, from its beginning. */
static int begin_file(Events *e, uint64_t after)
{
        char line[48];
        int r;

        e->fd = fd_close(e->fd);
        r = open_file(e, (e->file + 1) % FILES, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND);
        if (r < 0)
                return r;
        e->fd = r;
        e->file = (e->file + 1) % FILES;
        r = str_printf(line, sizeof(line), "after %llu\n", (unsigned long long) after);
        if (r >= 0)
                r = fd_write_all(e->fd, line, strlen(line));
        e->file_bytes = r < 0 ? FILE_BYTES_MAX : strlen(line);
        return r;
}

/* What could not be written is a hole, and a new file says so. */
static void write_event(Events *e, const Event *event, uint64_t before)
{
        _cleanup_free_ char *line = NULL;
        int r;

        if (e->directory_fd < 0)
                return;
        r = str_aprintf(&line, "%llu %s %s %s\n", (unsigned long long) event->sequence, event->kind,
                        event->session[0] ? event->session : "-", event->text);
        if (r >= 0 && (e->fd < 0 || e->file_bytes >= FILE_BYTES_MAX))
                r = begin_file(e, before);
        if (r >= 0)
                r = fd_write_all(e->fd, line, strlen(line));
        if (r < 0) {
                log_debug("an event is kept in memory only: %s", error_name(r));
                e->file_bytes = FILE_BYTES_MAX;
                return;
        }
        e->file_bytes += strlen(line);
}

/* The next word of a line, which ends at a space; NULL: there is none. */
static char *take_word(char **at)
{
        char *word = *at, *end = strchr(word, ' ');

        if (!end || end == word)
                return NULL;
        *end = '\0';
        *at = end + 1;
        return word;
}

static int load_line(Events *e, char *line)
{
        char *number = take_word(&line), *kind = number ? take_word(&line) : NULL,
             *session = kind ? take_word(&line) : NULL;
        Event event = { 0 };
        int r;

        if (!session || parse_u64(number, &event.sequence) < 0 || event.sequence <= e->last ||
            event.sequence > INT64_MAX)
                return -EBADMSG;
        r = str_copy(event.kind, sizeof(event.kind), kind);
        if (r >= 0 && !str_equal(session, "-"))
                r = str_copy(event.session, sizeof(event.session), session);
        if (r >= 0)
                r = keep(e, &event, line, strlen(line));
        if (r >= 0)
                e->last = event.sequence;
        return r;
}

typedef struct EventFile {
        char *text;
        size_t size;
        uint64_t after;
        char *lines;
} EventFile;

/* One that is not there or not ours is as one that was never written. */
static void read_file(const Events *e, unsigned file, EventFile *ret)
{
        _cleanup_close_ int fd = open_file(e, file, O_RDONLY | O_NONBLOCK);
        char *end;

        *ret = (EventFile){ 0 };
        if (fd < 0 || fd_read_all(fd, FILE_BYTES_MAX + LINE_MAX_BYTES * 2, &ret->text, &ret->size) < 0)
                return;
        end = memchr(ret->text, '\n', ret->size);
        if (!end || !str_has_prefix(ret->text, "after "))
                return;
        *end = '\0';
        if (parse_u64(ret->text + strlen("after "), &ret->after) >= 0 && ret->after <= INT64_MAX)
                ret->lines = end + 1;
}

/* A line without its end was cut by a crash. */
static void load_file(Events *e, const EventFile *f)
{
        char *line = f->lines, *end;

        if (!line)
                return;
        if (f->after > e->last) {
                while (e->n > 0)
                        drop_oldest(e);
                e->lost_through = e->last = f->after;
        }
        while ((end = memchr(line, '\n', f->size - (size_t) (line - f->text)))) {
                *end = '\0';
                if (load_line(e, line) < 0) {
                        log_debug("a damaged line in the file of events, ignoring");
                        e->lost_through = e->last;
                }
                line = end + 1;
        }
}

static void load(Events *e)
{
        EventFile files[FILES];
        unsigned newer;

        for (unsigned i = 0; i < FILES; i++)
                read_file(e, i, &files[i]);
        newer = files[1].lines && (!files[0].lines || files[1].after > files[0].after);
        load_file(e, &files[!newer]);
        load_file(e, &files[newer]);
        e->file = newer;
        if (files[newer].lines) {
                int fd = open_file(e, newer, O_WRONLY | O_APPEND);

                e->fd = fd < 0 ? -EBADF : fd;
                e->file_bytes = files[newer].size;
                /* Half a line at the end: what follows begins elsewhere. */
                if (files[newer].text[files[newer].size - 1] != '\n')
                        e->file_bytes = FILE_BYTES_MAX;
        }
        for (unsigned i = 0; i < FILES; i++)
                free(files[i].text);
}

int events_new(Api *api, const char *directory, Events **ret)
{
        Events *e = calloc(1, sizeof(*e));

        if (!e)
                return -ENOMEM;
        e->ring = calloc(EVENTS_KEPT_MAX, sizeof(*e->ring));
        if (!e->ring) {
                free(e);
                return -ENOMEM;
        }
        e->api = api;
        e->fd = -EBADF;
        e->directory_fd = open(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (e->directory_fd < 0)
                (void) log_warning(neg_errno(), "events are kept in memory only");
        else
                load(e);
        *ret = e;
        return 0;
}

Events *events_free(Events *e)
{
        if (!e)
                return NULL;
        for (size_t i = 0; i < e->n; i++)
                free(at(e, i)->text);
        e->fd = fd_close(e->fd);
        e->directory_fd = fd_close(e->directory_fd);
        free(e->ring);
        free(e);
        return NULL;
}

/* ---- making ---- */

static int set_process(Json *o, uint32_t number)
{
        char text[16];

        process_number_text(number, text);
        return number > 0 ? json_set_string(o, "process", text) : 0;
}

static int set_text(Json *o, const char *key, const char *s)
{
        return s && *s ? json_set_escaped(o, key, s, strlen(s)) : 0;
}

static int make(const Api *api, const EventSpec *s, uint64_t sequence, Json **ret)
{
        _cleanup_json_ Json *o = NULL;
        int r;

        r = json_new_object(&o);
        if (r < 0 || (r = json_set_integer(o, "sequence", (int64_t) sequence)) < 0 ||
            (r = json_set_integer(o, "realtimeUSec", (int64_t) clock_realtime_usec())) < 0 ||
            (r = json_set_string(o, "kind", s->kind)) < 0 || (r = set_text(o, "session", s->session)) < 0 ||
            (r = set_process(o, s->process)) < 0 ||
            (r = json_set_integer(o, "ownerUid", api->start.identity.uid)) < 0 ||
            (r = set_text(o, "state", s->state)) < 0 || (r = set_text(o, "reason", s->reason)) < 0 ||
            (r = set_text(o, "host", s->host)) < 0 || (r = set_text(o, "rule", s->rule)) < 0 ||
            (r = set_text(o, "path", s->path)) < 0 ||
            (s->port > 0 && (r = json_set_integer(o, "port", s->port)) < 0) ||
            (s->audit_sequence > 0 &&
             (r = json_set_integer(o, "auditSequence", (int64_t) s->audit_sequence)) < 0) ||
            (s->take_details && (r = json_set(o, "details", json_ref(s->take_details))) < 0))
                return r;
        *ret = TAKE_PTR(o);
        return 0;
}

static void serve_deferred(void *userdata)
{
        Api *api = userdata;

        api->events->is_serve_deferred = false;
        subscriptions_serve(api);
}

static int put(Api *api, const EventSpec *spec)
{
        Events *e = api->events;
        uint64_t before = e->last, now = clock_realtime_usec();
        Event event = { .sequence = MAX_OF(before + 1, now) };
        _cleanup_json_ Json *o = NULL;
        Buf text = BUF_INIT(TEXT_MAX);
        int r;

        r = str_copy(event.kind, sizeof(event.kind), spec->kind);
        if (r >= 0 && spec->session)
                r = str_copy(event.session, sizeof(event.session), spec->session);
        if (r >= 0)
                r = make(api, spec, event.sequence, &o);
        if (r >= 0)
                r = json_format(o, &text);
        e->last = event.sequence;
        if (r >= 0)
                r = keep(e, &event, buf_front(&text), buf_size(&text));
        buf_done(&text);
        if (r >= 0)
                write_event(e, at(e, e->n - 1), before);
        else
                e->file_bytes = FILE_BYTES_MAX;
        return r;
}

void event_emit(Api *api, const EventSpec *spec)
{
        Events *e = api->events;
        int r = e ? put(api, spec) : 0;

        json_unref(spec->take_details);
        if (r < 0)
                (void) log_warning(r, "an event (%s) was lost, ignoring", spec->kind);
        if (!e || e->is_serve_deferred)
                return;
        e->is_serve_deferred = loop_defer(api->loop, serve_deferred, api) >= 0;
}

/* ---- what needs the kept ones ---- */

void events_limit(Api *api, const char *resource, int64_t limit)
{
        Events *e = api->events;
        uint64_t now = clock_monotonic_usec();
        _cleanup_json_ Json *details = NULL;
        size_t i = 0;

        if (!e)
                return;
        while (i < ELEMENTSOF(e->limits) && e->limits[i].resource[0] &&
               !str_equal(e->limits[i].resource, resource))
                i++;
        if (i == ELEMENTSOF(e->limits))
                i = 0;
        if (e->limits[i].resource[0] && now - e->limits[i].at_usec < USEC_PER_SEC)
                return;
        if (str_copy(e->limits[i].resource, sizeof(e->limits[i].resource), resource) < 0)
                return;
        e->limits[i].at_usec = now;
        if (limit >= 0 && (json_new_object(&details) < 0 || json_set_integer(details, "limit", limit) < 0))
                details = json_unref(details);
        event_emit(api, &(EventSpec){ .kind = "limit.reached",
                                      .reason = resource,
                                      .take_details = TAKE_PTR(details) });
}

static bool has_event(const Events *e, const char *session, const char *kind)
{
        for (size_t i = e->n; i > 0; i--) {
                if (str_equal(at(e, i - 1)->session, session) && str_equal(at(e, i - 1)->kind, kind))
                        return true;
        }
        return false;
}

/* When it was made tells whether the daemon has been started since; what ended while only this worker was
 * away did so for a reason that nobody told. */
static void emit_end(Api *api, const char *session, uint64_t created)
{
        bool is_before = created < api->start.started_usec;

        event_emit(api, &(EventSpec){ .kind = "session.ended",
                                      .session = session,
                                      .state = "exited",
                                      .reason = is_before ? "daemon-restart" : NULL });
}

static void reconcile(Api *api, const Event *created)
{
        const Session *s = session_find(api, created->session);
        char session[ID_TEXT_SIZE];

        if (s && !session_has_ended(s))
                return;
        /* The event may leave the memory while others come. */
        memcpy(session, created->session, sizeof(session));
        if (!has_event(api->events, session, "session.ended")) {
                if (s)
                        events_session_ended(s);
                else
                        emit_end(api, session, created->sequence);
        }
        if (!s && !has_event(api->events, session, "session.removed"))
                event_emit(api, &(EventSpec){ .kind = "session.removed", .session = session });
}

void events_reconcile(Api *api)
{
        Events *e = api->events;
        size_t n = e ? e->n : 0;
        uint64_t from = 0;

        if (!e || e->is_reconciled)
                return;
        e->is_reconciled = true;
        for (; n > 0; n--) {
                const Event *event = events_after(e, from);

                if (!event)
                        return;
                from = event->sequence;
                if (str_equal(event->kind, "session.created"))
                        reconcile(api, event);
        }
}
