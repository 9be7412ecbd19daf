/* Authorities, heads and bodies of HTTP: what must be refused, and what is written for what was accepted. */

#include "check.h"
#include "daemon/egress/authority.h"
#include "daemon/egress/http.h"
#include "proto/base/str.h"

static int parse_authority(const char *s, Authority *a)
{
        return authority_parse(s, strlen(s), 80, a);
}

static void test_authority_good(void **state)
{
        static const struct {
                const char *text;
                const char *written;
                uint16_t port;
        } rows[] = {
                { "allowed.test", "allowed.test", 80 },
                { "ALLOWED.Test.", "allowed.test", 80 },
                { "allowed.test:8080", "allowed.test:8080", 8080 },
                { "a_b.test", "a_b.test", 80 },
                { "1.2.3.4", "1.2.3.4", 80 },
                { "1.2.3.4:443", "1.2.3.4:443", 443 },
                { "[2001:DB8::1]", "[2001:db8::1]", 80 },
                { "[::1]:81", "[::1]:81", 81 },
                { "xn--bcher-kva.test", "xn--bcher-kva.test", 80 },
        };

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
                char text[AUTHORITY_TEXT_SIZE];
                Authority a;

                if (parse_authority(rows[i].text, &a) < 0)
                        fail_msg("refused: %s", rows[i].text);
                authority_format(&a, 80, text);
                assert_string_equal(text, rows[i].written);
                assert_int_equal(a.port, rows[i].port);
        }
}

static void test_authority_bad(void **state)
{
        static const char *const rows[] = {
                "",
                ":80",
                "[evil.example]",
                "[evil.example]:443",
                "[1.2.3.4]",
                "allowed.test@evil.example",
                "evil.example\\@allowed.test",
                "a b",
                "a\tb",
                "a\x7f",
                "a..b",
                ".a",
                "a.test:",
                "a.test:0",
                "a.test:65536",
                "a.test:99999999999",
                "a.test:8o",
                "a.test:+80",
                "a.test: 80",
                "a.test:80:80",
                "127.1",
                "2130706433",
                "0x7f.1",
                "0177.0.0.1",
                "017700000001",
                "169.254.43518",
                "0xa9fea9fe",
                "127.0.0.1 ",
                "0000127.0.0.1",
                "127.0.0.01",
                "[::1",
                "[::1]x",
                "[::1%lo]",
                "[::1]:",
                "::1",
                "[]",
                "\xe2\x91\xa0\xe2\x91\xa1\xe2\x91\xa6.0.0.1",
                "b\xc3\xbc"
                "cher.test",
                "allowed.test,evil.test",
                "allowed.test%00",
                "%61llowed.test",
                "allowed.test?",
                "allowed.test/",
                "1.2.3.4.5.6.7",
                "-",
        };

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
                Authority a;

                if (str_equal(rows[i], "-")) /* policy decides about lone hyphens */
                        continue;
                if (parse_authority(rows[i], &a) >= 0)
                        fail_msg("accepted: %s", rows[i]);
        }
}

static void test_authority_lengths(void **state)
{
        char name[300];
        Authority a;

        (void) state;
        assert_true(authority_parse("a\0.test", 7, 80, &a) < 0);
        assert_true(authority_parse("a.test", 6, 0, &a) < 0);
        memset(name, 'a', sizeof(name));
        for (size_t i = 50; i < sizeof(name); i += 50)
                name[i] = '.';
        assert_int_equal(authority_parse(name, 253, 80, &a), 0);
        assert_true(authority_parse(name, 254, 80, &a) < 0);
        memset(name, 'a', 64);
        assert_true(authority_parse(name, 64, 80, &a) < 0);
        assert_int_equal(authority_parse(name, 63, 80, &a), 0);
}

/* As the worker does it: 0, -EBADMSG, -EPERM, -EAGAIN where the head has no end. */
static int read_request_at(const char *text, const Authority *tunnel, HttpParser *p, HttpHead *h,
                           HttpTarget *t)
{
        size_t scanned = 0, size = 0;
        int r = http_check_first_line(text, strlen(text));

        if (r >= 0)
                r = http_find_head(text, strlen(text), &scanned, &size);
        if (r <= 0)
                return r < 0 ? r : -EAGAIN;
        r = http_parse_request(p, text, size, h);
        return r < 0 ? r : http_judge_request(h, tunnel, t);
}

static int read_request(const char *text, const Authority *tunnel)
{
        static HttpParser p;
        static HttpHead h;
        HttpTarget t;

        return read_request_at(text, tunnel, &p, &h, &t);
}

#define HOST "Host: allowed.test\r\n"
#define GET  "GET http://allowed.test/ HTTP/1.1\r\n" HOST
#define POST "POST http://allowed.test/ HTTP/1.1\r\n" HOST

static const char *const refused_requests[] = {
        "GET / HTTP/1.1\r\n" HOST "\r\n",
        "GET https://allowed.test/ HTTP/1.1\r\n" HOST "\r\n",
        "GET http://allowed.test@evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        "GET http://evil.example\\@allowed.test/ HTTP/1.1\r\n" HOST "\r\n",
        "GET http://evil.example#.allowed.test/ HTTP/1.1\r\n" HOST "\r\n",
        "GET http://allowed.test/#x HTTP/1.1\r\n" HOST "\r\n",
        "GET http:// HTTP/1.1\r\n" HOST "\r\n",
        "GET http:///x HTTP/1.1\r\n" HOST "\r\n",
        "GET http://allowed.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        "GET http://allowed.test/ HTTP/1.1\r\nHost: allowed.test:81\r\n\r\n",
        "GET http://allowed.test/ HTTP/1.1\r\nHost: allowed.test, evil.test\r\n\r\n",
        "GET http://allowed.test/ HTTP/1.1\r\nHost:\r\n\r\n",
        "GET http://allowed.test/ HTTP/1.1\r\n\r\n",
        GET HOST "\r\n",
        GET "host: evil.test\r\n\r\n",
        "GET http://127.1/ HTTP/1.1\r\nHost: 127.1\r\n\r\n",
        "get http://allowed.test/ HTTP/1.1\r\n" HOST "\r\n",
        "GET  http://allowed.test/ HTTP/1.1\r\n" HOST "\r\n",
        "GET http://allowed.test/  HTTP/1.1\r\n" HOST "\r\n",
        "GET http://allowed.test/ HTTP/1.1 \r\n" HOST "\r\n",
        "GET http://allowed.test/ HTTP/2.0\r\n" HOST "\r\n",
        "GET http://allowed.test/ HTTP/0.9\r\n" HOST "\r\n",
        "GET http://allowed.test/\r\n" HOST "\r\n",
        "GET http://allowed.test/ HTTP/1.1\n" HOST "\r\n",
        "GET http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\n\r\n",
        "GET http://allowed.test/\x80 HTTP/1.1\r\n" HOST "\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "WHAT http://allowed.test/ HTTP/1.1\r\n" HOST "\r\n",
        POST "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        POST "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
        POST "Content-Length: 3\r\nContent-Length: 3\r\n\r\n",
        POST "Content-Length: 3, 3\r\n\r\n",
        POST "Content-Length: +3\r\n\r\n",
        POST "Content-Length: -3\r\n\r\n",
        POST "Content-Length: 0x3\r\n\r\n",
        POST "Content-Length: 3 3\r\n\r\n",
        POST "Content-Length: \r\n\r\n",
        POST "Content-Length: 99999999999999999999999\r\n\r\n",
        POST "Content-Length : 3\r\n\r\n",
        POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        POST "Transfer-Encoding: gzip, chunked\r\n\r\n",
        POST "Transfer-Encoding: chunked, identity\r\n\r\n",
        POST "Transfer-Encoding: xchunked\r\n\r\n",
        POST "Transfer-Encoding: \"chunked\"\r\n\r\n",
        POST "Transfer-Encoding\r\n: chunked\r\n\r\n",
        POST "Transfer-Encoding:\r\n chunked\r\n\r\n",
        POST "Transfer-Encoding:\x0b"
             "chunked\r\n\r\n",
        "POST http://allowed.test/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        GET "X: a\r\n b\r\n\r\n",
        GET " X: a\r\n\r\n",
        GET "X : a\r\n\r\n",
        GET "X a\r\n\r\n",
        GET ": a\r\n\r\n",
        GET "X: a\rb\r\n\r\n",
        GET "X: a\nb: c\r\n\r\n",
        GET "X: a\x01\r\n\r\n",
        GET "X\x80: a\r\n\r\n",
        GET "X(: a\r\n\r\n",
        "CONNECT allowed.test HTTP/1.1\r\n" HOST "\r\n",
        "CONNECT http://allowed.test:443 HTTP/1.1\r\n" HOST "\r\n",
        "CONNECT allowed.test:443/ HTTP/1.1\r\n" HOST "\r\n",
        "CONNECT [evil.example]:443 HTTP/1.1\r\nHost: [evil.example]:443\r\n\r\n",
        "CONNECT allowed.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n",
        "CONNECT allowed.test:443 HTTP/1.1\r\nHost: allowed.test:444\r\n\r\n",
        "CONNECT allowed.test:443 HTTP/1.1\r\nHost: allowed.test\r\nContent-Length: 3\r\n\r\n",
};

static void test_requests_refused(void **state)
{
        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(refused_requests); i++) {
                int r = read_request(refused_requests[i], NULL);

                if (r != -EBADMSG)
                        fail_msg("%d for %s", r, refused_requests[i]);
        }
}

static void test_methods_never_passed_on(void **state)
{
        Authority tunnel;

        (void) state;
        ASSERT_OK(parse_authority("allowed.test", &tunnel));
        ASSERT_ERROR(read_request("TRACE http://allowed.test/ HTTP/1.1\r\n" HOST "\r\n", NULL), EPERM);
        ASSERT_ERROR(read_request("CONNECT evil.test:1 HTTP/1.1\r\n" HOST "\r\n", &tunnel), EPERM);
}

static void test_requests_in_a_tunnel(void **state)
{
        Authority tunnel;

        (void) state;
        ASSERT_OK(parse_authority("allowed.test", &tunnel));
        ASSERT_OK(read_request("GET /x HTTP/1.1\r\n" HOST "\r\n", &tunnel));
        ASSERT_OK(read_request("OPTIONS * HTTP/1.1\r\n" HOST "\r\n", &tunnel));
        ASSERT_ERROR(read_request("GET /x HTTP/1.1\r\nHost: evil.test\r\n\r\n", &tunnel), EBADMSG);
        ASSERT_ERROR(read_request("GET http://evil.test/ HTTP/1.1\r\n" HOST "\r\n", &tunnel), EBADMSG);
        ASSERT_ERROR(read_request("GET x HTTP/1.1\r\n" HOST "\r\n", &tunnel), EBADMSG);
}

/* What goes to the server for a request. */
static void rewrite(const char *text, const char *expected)
{
        static HttpParser p;
        static HttpHead h;
        Buf out = BUF_INIT(65536);
        HttpTarget t;

        ASSERT_OK(read_request_at(text, NULL, &p, &h, &t));
        ASSERT_OK(http_put_request(&out, &h, &t));
        ASSERT_OK(buf_put(&out, "", 1));
        assert_string_equal(buf_front(&out), expected);
        buf_done(&out);
}

static void test_requests_rewritten(void **state)
{
        (void) state;
        rewrite(GET "\r\n", "GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n");
        rewrite("GET HTTP://ALLOWED.test.:80?q=1 HTTP/1.1\r\nhOST:  Allowed.TEST. \r\n\r\n",
                "GET /?q=1 HTTP/1.1\r\nHost: allowed.test\r\n\r\n");
        rewrite("GET http://allowed.test:8080/a%2fb/../c HTTP/1.0\r\n\r\n",
                "GET /a%2fb/../c HTTP/1.1\r\nHost: allowed.test:8080\r\n\r\n");
        rewrite("OPTIONS http://allowed.test HTTP/1.1\r\n" HOST "\r\n",
                "OPTIONS * HTTP/1.1\r\nHost: allowed.test\r\n\r\n");
        rewrite(POST "Content-Length:   007  \r\nX:\ty \r\n\r\n",
                "POST / HTTP/1.1\r\nHost: allowed.test\r\nX: y\r\nContent-Length: 7\r\n\r\n");
        rewrite(POST "transfer-encoding: Chunked\r\n\r\n",
                "POST / HTTP/1.1\r\nHost: allowed.test\r\nTransfer-Encoding: chunked\r\n\r\n");
        rewrite(GET
                "Connection: upgrade, HTTP2-Settings, x-secret\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n"
                "X-Secret: 1\r\nTE: trailers\r\nKeep-Alive: 5\r\nTrailer: x\r\n"
                "Proxy-Authorization: Basic x\r\n"
                "Proxy-Connection: keep-alive\r\nProxy-Whatever: x\r\nAccept: */*\r\nEmpty:\r\n\r\n",
                "GET / HTTP/1.1\r\nHost: allowed.test\r\nAccept: */*\r\nEmpty: \r\n\r\n");
        /* What a client lists cannot take away what the message needs. */
        rewrite(POST "Connection: host, content-length\r\nContent-Length: 2\r\n\r\n",
                "POST / HTTP/1.1\r\nHost: allowed.test\r\nContent-Length: 2\r\n\r\n");
        rewrite("GET http://[2001:db8::1]:8080/ HTTP/1.1\r\nHost: [2001:DB8:0::1]:8080\r\n\r\n",
                "GET / HTTP/1.1\r\nHost: [2001:db8::1]:8080\r\n\r\n");
}

/* The same verdict however much of it has arrived. */
static void test_first_bytes(void **state)
{
        static const struct {
                const char *text;
                int result;
        } cases[] = {
                { "GET / HTTP/1.1\r\n", 1 },
                { "M-SEARCH * HTTP/1.1\r\n", 1 },
                { "GET", 0 },
                { "GET /", 0 },
                { "", 0 },
                { "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", -EBADMSG },
                { "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", -EBADMSG },
                { "PING\r\n", -EBADMSG },
                { "EHLO\n", -EBADMSG },
                { "0045git-upload-pack /repo.git", -EBADMSG },
                { "get / HTTP/1.1\r\n", -EBADMSG },
                { " GET / HTTP/1.1\r\n", -EBADMSG },
                { "\x16\x03\x01", -EBADMSG },
                { "-GET / HTTP/1.1\r\n", -EBADMSG },
                { "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHIJKLMNOPQRSTUVWXYZ", -EBADMSG },
        };

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                size_t size = strlen(cases[i].text);

                assert_int_equal(http_look(cases[i].text, size), cases[i].result);
                for (size_t n = 0; n < size; n++) {
                        int r = http_look(cases[i].text, n);

                        assert_true(r == 0 || r == cases[i].result);
                }
        }
}

static void test_heads_in_pieces(void **state)
{
        static const char text[] = GET "A: b\r\n\r\nrest";
        size_t scanned = 0, size = 0, end = strlen(text) - 4;

        (void) state;
        for (size_t n = 1; n < end; n++)
                assert_int_equal(http_find_head(text, n, &scanned, &size), 0);
        assert_int_equal(http_find_head(text, strlen(text), &scanned, &size), 1);
        assert_int_equal(size, end);
}

static void test_heads_too_long(void **state)
{
        static char text[HTTP_HEAD_MAX + 100];
        size_t scanned = 0, size = 0;

        (void) state;
        memset(text, 'A', sizeof(text));
        assert_int_equal(http_find_head(text, HTTP_HEAD_MAX - 1, &scanned, &size), 0);
        ASSERT_ERROR(http_find_head(text, sizeof(text), &scanned, &size), EMSGSIZE);
}

static int read_response(const char *text, HttpHead *h)
{
        static HttpParser p;
        size_t scanned = 0, size = 0;
        int r = http_find_head(text, strlen(text), &scanned, &size);

        if (r <= 0)
                return r < 0 ? r : -EAGAIN;
        return http_parse_response(&p, text, size, h);
}

static void test_responses(void **state)
{
        static const char *const bad[] = {
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
                "HTTP/1.1 200 OK\r\nHTTP/1.1 200 OK\r\n\r\n",
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
                "HTTP/1.1 200 OK\r\nX: a\nSet-Cookie: b\r\n\r\n",
                "HTTP/1.1 20 OK\r\n\r\n",
                "HTTP/1.1 999 OK\r\n\r\n",
                "HTTP/2 200 OK\r\n\r\n",
                "ICY 200 OK\r\n\r\n",
        };
        static HttpHead h;
        Buf out = BUF_INIT(65536);

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                if (read_response(bad[i], &h) != -EBADMSG)
                        fail_msg("accepted: %s", bad[i]);
        }
        ASSERT_OK(read_response("HTTP/1.0 200 Fine\r\nServer: x\r\n"
                                "Proxy-Authenticate: y\r\nSandboxd-Decision: {}\r\n\r\n",
                                &h));
        assert_int_equal(h.body, HTTP_BODY_UNTIL_CLOSE);
        ASSERT_OK(http_put_response(&out, &h, h.body, true));
        ASSERT_OK(buf_put(&out, "", 1));
        assert_string_equal(buf_front(&out), "HTTP/1.1 200 Fine\r\nServer: x\r\nConnection: close\r\n\r\n");
        buf_done(&out);
        ASSERT_OK(read_response("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", &h));
        assert_int_equal(h.body, HTTP_BODY_NONE);
        ASSERT_OK(read_response("HTTP/1.1 200\r\nContent-Length: 5\r\n\r\n", &h));
        assert_int_equal(h.length, 5);
}

/* Feeds a chunked body in pieces of n; the result of the last call. */
static int read_body(const char *body, size_t piece, Buf *out, size_t *ret_used)
{
        static HttpParser p;
        static HttpHead h;
        HttpTarget t;
        size_t size = strlen(body);
        int r = 0;

        ASSERT_OK(read_request_at(POST "Transfer-Encoding: chunked\r\n\r\n", NULL, &p, &h, &t));
        *ret_used = 0;
        for (size_t at = 0; at < size && r == 0; at += piece) {
                size_t n = MIN_OF(piece, size - at), used = 0;

                r = http_read_chunks(&p, body + at, n, out, /* is_rechunked= */ piece >= size, &used);
                *ret_used += used;
        }
        return r;
}

static void test_chunks(void **state)
{
        static const char body[] = "3;a=b\r\nabc\r\n00A\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nGET /";

        (void) state;
        for (size_t piece = 1; piece < sizeof(body); piece++) {
                Buf out = BUF_INIT(65536);
                size_t used = 0;

                assert_int_equal(read_body(body, piece, &out, &used), 1);
                assert_int_equal(used, strlen(body) - 5);
                ASSERT_OK(buf_put(&out, "", 1));
                assert_string_equal(buf_front(&out),
                                    piece >= strlen(body) ? "3\r\nabc\r\na\r\n0123456789\r\n0\r\n\r\n"
                                                          : "abc0123456789");
                buf_done(&out);
        }
}

static void test_chunks_refused(void **state)
{
        static const char *const rows[] = {
                "0x3\r\nabc\r\n0\r\n\r\n",
                "+3\r\nabc\r\n0\r\n\r\n",
                "-3\r\nabc\r\n0\r\n\r\n",
                " 3\r\nabc\r\n0\r\n\r\n",
                "3 \r\nabc\r\n0\r\n\r\n",
                "3\nabc\r\n0\r\n\r\n",
                "3\rabc\r\n0\r\n\r\n",
                "3\r\nabcd\r\n0\r\n\r\n",
                "3\r\nabc\n0\r\n\r\n",
                "FFFFFFFFFFFFFFFFF\r\nabc\r\n0\r\n\r\n",
                "\r\nabc\r\n0\r\n\r\n",
                "3\r\nabc\r\n0\r\nTrailer\r\n\r\n",
                "g\r\n",
        };
        char extension[400];
        size_t used;

        (void) state;
        for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
                Buf out = BUF_INIT(65536);

                if (read_body(rows[i], 1000, &out, &used) != -EBADMSG)
                        fail_msg("accepted: %s", rows[i]);
                buf_done(&out);
        }
        memset(extension, 'x', sizeof(extension));
        memcpy(extension, "1;", 2);
        extension[sizeof(extension) - 1] = '\0';
        for (size_t piece = 1; piece < 1000; piece += 399) {
                Buf out = BUF_INIT(65536);

                ASSERT_ERROR(read_body(extension, piece, &out, &used), EBADMSG);
                buf_done(&out);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_authority_good),
                cmocka_unit_test(test_authority_bad),
                cmocka_unit_test(test_authority_lengths),
                cmocka_unit_test(test_requests_refused),
                cmocka_unit_test(test_methods_never_passed_on),
                cmocka_unit_test(test_requests_in_a_tunnel),
                cmocka_unit_test(test_requests_rewritten),
                cmocka_unit_test(test_heads_in_pieces),
                cmocka_unit_test(test_heads_too_long),
                cmocka_unit_test(test_responses),
                cmocka_unit_test(test_first_bytes),
                cmocka_unit_test(test_chunks),
                cmocka_unit_test(test_chunks_refused),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
