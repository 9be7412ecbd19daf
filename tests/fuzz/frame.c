/* Frames in pieces; the first byte says which side gets them and how long the pieces are. However they are
 * cut, the same frames come out, and putting them gives the bytes that they were. */

#include "proto/wire/frame.h"

#include <errno.h>

#include "tests/fuzz/fuzz.h"

#define ROOM (1U << 20)

static void check_frame(const Frame *f, Buf *again)
{
        uint16_t columns, rows;

        sb_assert(f->size <= FRAME_PAYLOAD_MAX);
        switch (f->type) {
        case FRAME_RESIZE:
                frame_terminal_size(f, &columns, &rows);
                sb_assert(frame_put_resize(again, columns, rows) == 0);
                return;
        case FRAME_CREDIT:
        case FRAME_EXIT:
                sb_assert(frame_put_number(again, f->type, f->flags, frame_number(f)) == 0);
                return;
        case FRAME_DROPPED:
                sb_assert(frame_put_long_number(again, f->type, frame_long_number(f)) == 0);
                return;
        case FRAME_STDIN:
        case FRAME_STDOUT:
        case FRAME_STDERR:
        case FRAME_SIGNAL:
        case FRAME_PING:
                sb_assert(frame_put(again, f->type, f->flags, f->payload, f->size) == 0);
                return;
        }
        sb_assert(false);
}

/* Feeds pieces of a length; what came out, put again, is in *again. Returns how it ended. */
static int feed(const uint8_t *data, size_t size, size_t step, bool is_daemon, Buf *again)
{
        Buf in = BUF_INIT(ROOM);
        int r = 0;

        for (size_t at = 0; r >= 0 && at < size; at += step) {
                Frame f;

                sb_assert(buf_put(&in, data + at, MIN_OF(step, size - at)) == 0);
                while ((r = frame_next(&in, is_daemon, &f)) > 0) {
                        check_frame(&f, again);
                        frame_consume(&in, &f);
                }
        }
        sb_assert(r == 0 || r == -EBADMSG);
        /* What is left is the beginning of one frame, or what is none. */
        sb_assert(r < 0 || buf_size(&in) < FRAME_HEADER_SIZE + FRAME_PAYLOAD_MAX);
        buf_done(&in);
        return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        uint8_t first = fuzz_take_byte(&data, &size);
        _cleanup_free_ uint8_t *copy = fuzz_copy(data, size);
        Buf whole = BUF_INIT(ROOM), pieces = BUF_INIT(ROOM);
        int r, k;

        if (size > ROOM / 2)
                return 0;
        r = feed(copy, size, size > 0 ? size : 1, first & 1, &whole);
        k = feed(copy, size, 1U + (first >> 1), first & 1, &pieces);
        sb_assert(r == k && buf_size(&whole) == buf_size(&pieces) && buf_size(&whole) <= size);
        if (buf_size(&whole) > 0)
                sb_assert(memcmp(buf_front(&whole), buf_front(&pieces), buf_size(&whole)) == 0 &&
                          memcmp(buf_front(&whole), copy, buf_size(&whole)) == 0);
        buf_done(&whole);
        buf_done(&pieces);
        return 0;
}
