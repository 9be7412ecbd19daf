/* A response and its chunked body, read in pieces; the first byte of the input says how long these are. */

#include <errno.h>

#include "daemon/egress/http.h"
#include "tests/fuzz/fuzz.h"

static void check_written(const HttpHead *h)
{
        HttpBody framing = h->body == HTTP_BODY_UNTIL_CLOSE ? HTTP_BODY_CHUNKED : h->body;
        Buf b = BUF_INIT(4 * HTTP_HEAD_MAX);
        size_t scanned = 0, size = 0;
        HttpParser p;
        HttpHead head;

        sb_assert(http_put_response(&b, h, framing, /* is_closing= */ false) == 0);
        if (buf_size(&b) <= HTTP_HEAD_MAX) {
                sb_assert(http_find_head(buf_front(&b), buf_size(&b), &scanned, &size) == 1 &&
                          size == buf_size(&b));
                sb_assert(http_parse_response(&p, buf_front(&b), size, &head) == 0 &&
                          head.status == h->status);
        }
        buf_done(&b);
}

/* Chunks as they were become chunks of ours: those must read as one body, to its end. */
static void read_body(HttpParser *p, const char *data, size_t size, size_t step)
{
        Buf b = BUF_INIT(1U << 20);
        size_t used = 0;
        int r = 0;

        for (size_t at = 0; r == 0 && at < size; at += used) {
                r = http_read_chunks(p, data + at, MIN_OF(step, size - at), &b, /* is_rechunked= */ step % 2,
                                     &used);
                sb_assert(r == 0 || r == 1 || r == -EBADMSG);
                sb_assert(r < 0 || used <= MIN_OF(step, size - at));
                sb_assert(r != 0 || used > 0);
        }
        if (r == 1 && step % 2)
                sb_assert(buf_size(&b) >= 5 && memcmp(b.data + b.end - 5, "0\r\n\r\n", 5) == 0);
        buf_done(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        size_t step = 1U + fuzz_take_byte(&data, &size), scanned = 0, head_size = 0;
        _cleanup_free_ char *text = fuzz_copy(data, size);
        HttpParser p;
        HttpHead h;

        if (http_find_head(text, size, &scanned, &head_size) != 1 ||
            http_parse_response(&p, text, head_size, &h) < 0)
                return 0;
        check_written(&h);
        if (h.body == HTTP_BODY_CHUNKED)
                read_body(&p, text + head_size, size - head_size, step);
        return 0;
}
