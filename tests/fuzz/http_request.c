/*
 * A request from inside a session, as a proxy's and in a tunnel. What we write for an accepted one must be
 * one request to us again, with no byte left over and the same destination: nobody behind us sees a second
 * one.
 */

#include <errno.h>

#include "daemon/egress/http.h"
#include "tests/fuzz/fuzz.h"

/* Under rules about requests it is written once more: one head, one method, and no escape too many. */
static void check_rewritten(Buf *b, const HttpHead *h, const Authority *authority)
{
        size_t scanned = 0, size = 0, before = buf_size(b);
        HttpParser p;
        HttpTarget again;
        HttpHead head;

        sb_assert(http_rewrite_request(b, /* for_methods= */ true, /* for_paths= */ true) == 0);
        sb_assert(buf_size(b) <= before);
        sb_assert(http_find_head(buf_front(b), buf_size(b), &scanned, &size) == 1 && size == buf_size(b));
        sb_assert(http_parse_request(&p, buf_front(b), size, &head) == 0);
        sb_assert(head.body == h->body && strcmp(head.method, h->method) == 0);
        sb_assert(http_judge_request(&head, authority, &again) == 0);
        for (size_t i = 0; i < head.n_fields; i++)
                sb_assert(!http_slice_equal(head.fields[i].name, "X-HTTP-Method-Override"));
}

static void check_written(const HttpHead *h, const HttpTarget *t)
{
        Buf b = BUF_INIT(4 * HTTP_HEAD_MAX);
        size_t scanned = 0, size = 0;
        HttpParser p;
        HttpTarget again;
        HttpHead head;

        sb_assert(http_put_request(&b, h, t) == 0);
        if (buf_size(&b) <= HTTP_HEAD_MAX) {
                sb_assert(http_find_head(buf_front(&b), buf_size(&b), &scanned, &size) == 1 &&
                          size == buf_size(&b));
                sb_assert(http_parse_request(&p, buf_front(&b), size, &head) == 0);
                sb_assert(head.body == h->body && strcmp(head.method, h->method) == 0);
                sb_assert(http_judge_request(&head, &t->authority, &again) == 0);
                sb_assert(authority_equal(&again.authority, &t->authority));
                check_rewritten(&b, h, &t->authority);
        }
        buf_done(&b);
}

static void judge(const HttpHead *h, const Authority *tunnel)
{
        HttpTarget t;
        int r = http_judge_request(h, tunnel, &t);

        sb_assert(r == 0 || r == -EBADMSG || r == -EPERM);
        sb_assert(t.raw_host.data &&
                  (t.raw_host.size == 0 || memchr(t.raw_host.data, '\n', t.raw_host.size) == NULL));
        if (r == 0 && !t.is_connect)
                check_written(h, &t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static const Authority tunnel = { .host = "a.test", .port = 80 };
        _cleanup_free_ char *text = fuzz_copy(data, size);
        size_t scanned = 0, head_size = 0;
        HttpParser p;
        HttpHead h;
        int r;

        r = http_check_first_line(text, size);
        sb_assert(r == 0 || r == -EBADMSG);
        r = http_find_head(text, size, &scanned, &head_size);
        sb_assert(r == 0 || r == 1 || r == -EBADMSG || r == -EMSGSIZE);
        sb_assert(r != 1 || head_size <= size);
        if (r != 1 || http_parse_request(&p, text, head_size, &h) < 0)
                return 0;
        judge(&h, NULL);
        judge(&h, &tunnel);
        return 0;
}
