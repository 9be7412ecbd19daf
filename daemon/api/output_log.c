#include "daemon/api/output_log.h"

#include <stdlib.h>
#include <string.h>

/* Small writes of a stream share a piece for so long. */
#define GATHER_USEC   100000U
#define PIECE_ROOM    4096U
#define POSITION_NONE UINT64_MAX

typedef struct Piece {
        ListLink link;
        ListLink age; /* in the store */
        OutputLog *log;
        uint64_t at;
        uint64_t number;
        uint64_t realtime_usec;
        unsigned stream;
        size_t size;
        size_t room;
        char data[];
} Piece;

void output_store_init(OutputStore *s, size_t n_bytes_max)
{
        *s = (OutputStore){ .n_bytes_max = n_bytes_max };
        list_init(&s->pieces);
}

void output_log_init(OutputLog *l, OutputStore *s)
{
        *l = (OutputLog){ .store = s, .pinned = POSITION_NONE };
        list_init(&l->pieces);
}

/* Of a log the oldest piece goes first. */
static void piece_free(Piece *p)
{
        OutputLog *l = p->log;
        size_t size = sizeof(*p) + p->room;

        list_unlink(&p->link);
        list_unlink(&p->age);
        l->n_bytes -= size;
        l->store->n_bytes -= size;
        l->begin = list_is_empty(&l->pieces) ? l->end : list_entry(l->pieces.next, Piece, link)->at;
        free(p);
}

void output_log_done(OutputLog *l)
{
        LIST_FOREACH (p, &l->pieces, Piece, link)
                piece_free(p);
}

static bool is_pinned(const Piece *p)
{
        return p->at + p->size > p->log->pinned;
}

static void make_room(OutputLog *l, size_t size)
{
        LIST_FOREACH (p, &l->pieces, Piece, link) {
                if (l->n_bytes + size <= OUTPUT_LOG_MAX || is_pinned(p))
                        break;
                piece_free(p);
        }
        LIST_FOREACH (p, &l->store->pieces, Piece, age) {
                if (l->store->n_bytes + size <= l->store->n_bytes_max)
                        break;
                if (!is_pinned(p))
                        piece_free(p);
        }
}

static bool put_behind(OutputLog *l, unsigned stream, uint64_t realtime_usec, const char *data, size_t size)
{
        Piece *last = list_is_empty(&l->pieces) ? NULL : list_entry(l->pieces.prev, Piece, link);

        if (!last || last->stream != stream || last->at + last->size != l->end ||
            last->room - last->size < size || realtime_usec - last->realtime_usec > GATHER_USEC)
                return false;
        memcpy(last->data + last->size, data, size);
        last->size += size;
        l->end += size;
        return true;
}

void output_log_put(OutputLog *l, unsigned stream, uint64_t realtime_usec, const char *data, size_t size)
{
        size_t room = MAX_OF(size, (size_t) PIECE_ROOM);
        Piece *p;

        if (size == 0 || put_behind(l, stream, realtime_usec, data, size))
                return;
        make_room(l, sizeof(*p) + room);
        p = malloc(sizeof(*p) + room);
        if (!p) {
                l->end += size;
                if (list_is_empty(&l->pieces))
                        l->begin = l->end;
                return;
        }
        *p = (Piece){ .log = l,
                      .at = l->end,
                      .number = l->next_number++,
                      .realtime_usec = realtime_usec,
                      .stream = stream,
                      .size = size,
                      .room = room };
        memcpy(p->data, data, size);
        if (list_is_empty(&l->pieces))
                l->begin = l->end;
        l->end += size;
        l->n_bytes += sizeof(*p) + room;
        l->store->n_bytes += sizeof(*p) + room;
        list_append(&l->pieces, &p->link);
        list_append(&l->store->pieces, &p->age);
}

/* The first piece that ends behind a position. Readers are at the front or at the back. */
static const Piece *find(const OutputLog *l, uint64_t at)
{
        ListLink *link;

        if (at >= l->end || list_is_empty(&l->pieces))
                return NULL;
        if (at - l->begin <= l->end - at) {
                for (link = l->pieces.next; link != &l->pieces; link = link->next) {
                        const Piece *p = list_entry(link, Piece, link);

                        if (p->at + p->size > at)
                                return p;
                }
                return NULL;
        }
        for (link = l->pieces.prev; link->prev != &l->pieces; link = link->prev) {
                const Piece *before = list_entry(link->prev, Piece, link);

                if (before->at + before->size <= at)
                        break;
        }
        return list_entry(link, Piece, link);
}

bool output_log_get(const OutputLog *l, uint64_t at, OutputPiece *ret)
{
        const Piece *p = find(l, MAX_OF(at, l->begin));
        size_t skip;

        if (!p || p->at + p->size <= at)
                return false;
        skip = at > p->at ? (size_t) (at - p->at) : 0;
        *ret = (OutputPiece){ .at = p->at + skip,
                              .number = p->number,
                              .realtime_usec = p->realtime_usec,
                              .stream = p->stream,
                              .data = p->data + skip,
                              .size = p->size - skip };
        return true;
}

uint64_t output_log_count(const OutputLog *l, uint64_t at)
{
        OutputPiece piece;

        return output_log_get(l, at, &piece) ? l->next_number - piece.number : 0;
}
