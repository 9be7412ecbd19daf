#include "daemon/egress/http.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "proto/base/str.h"

#define HTTP_TRAILERS_MAX         8192U
#define HTTP_EXTENSION_MAX        256U
#define CONTENT_LENGTH_DIGITS_MAX 18U

bool http_slice_equal(HttpSlice a, const char *s)
{
        return a.size == strlen(s) && strncasecmp(a.data, s, a.size) == 0;
}

static bool is_token_byte(char c)
{
        if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
                return true;
        return c != '\0' && strchr("!#$%&'*+-.^_`|~", c);
}

/* ---- the end of a head ---- */

static bool is_head_byte(unsigned char c)
{
        return c >= 0x20 ? c != 0x7f : c == '\t' || c == '\r' || c == '\n';
}

int http_find_head(const char *data, size_t size, size_t *scanned, size_t *ret_size)
{
        size_t i = *scanned;

        for (; i < size; i++) {
                if (i >= HTTP_HEAD_MAX)
                        return -EMSGSIZE;
                if (!is_head_byte((unsigned char) data[i]))
                        return -EBADMSG;
                if (data[i] == '\n' && (i == 0 || data[i - 1] != '\r'))
                        return -EBADMSG;
                if (i == 0)
                        continue;
                if (data[i - 1] == '\r' && data[i] != '\n')
                        return -EBADMSG;
                /* No folded lines: a field is one line. */
                if (data[i - 1] == '\n' && (data[i] == ' ' || data[i] == '\t'))
                        return -EBADMSG;
                if (i >= 3 && data[i] == '\n' && data[i - 2] == '\n') {
                        *ret_size = i + 1;
                        return 1;
                }
        }
        *scanned = i;
        return size >= HTTP_HEAD_MAX ? -EMSGSIZE : 0;
}

int http_check_first_line(const char *data, size_t size)
{
        static const char version[] = " HTTP/1.";
        const char *end = memchr(data, '\r', size);
        size_t n = sizeof(version); /* with the minor number */

        if (!end)
                return 0;
        return (size_t) (end - data) > n && memcmp(end - n, version, n - 1) == 0 ? 0 : -EBADMSG;
}

int http_look(const char *data, size_t size)
{
        size_t n = 0;

        while (n < size && n < HTTP_METHOD_SIZE &&
               ((data[n] >= 'A' && data[n] <= 'Z') || (n > 0 && data[n] == '-')))
                n++;
        if (n < size && (n == 0 || data[n] != ' '))
                return -EBADMSG;
        if (!memchr(data, '\r', size))
                return size < HTTP_HEAD_MAX && !memchr(data, '\n', size) ? 0 : -EBADMSG;
        return http_check_first_line(data, size) < 0 ? -EBADMSG : 1;
}

/* ---- what llhttp reports ---- */

static int on_method(llhttp_t *l, const char *at, size_t size)
{
        HttpParser *p = l->data;

        if (!p->head || size >= HTTP_METHOD_SIZE)
                return HPE_USER;
        memcpy(p->head->method, at, size);
        p->head->method[size] = '\0';
        return 0;
}

static int on_url(llhttp_t *l, const char *at, size_t size)
{
        HttpParser *p = l->data;

        if (!p->head)
                return HPE_USER;
        p->head->target = (HttpSlice){ at, size };
        return 0;
}

static int on_status(llhttp_t *l, const char *at, size_t size)
{
        HttpParser *p = l->data;

        if (!p->head)
                return HPE_USER;
        p->head->reason = (HttpSlice){ at, size };
        return 0;
}

/* Trailers: counted and dropped. */
static int count_trailer(HttpParser *p, size_t size)
{
        p->n_field_bytes += size;
        return p->n_field_bytes > HTTP_TRAILERS_MAX ? HPE_USER : 0;
}

static int on_header_field(llhttp_t *l, const char *at, size_t size)
{
        HttpParser *p = l->data;

        if (!p->head)
                return count_trailer(p, size + 4);
        if (p->head->n_fields >= HTTP_FIELDS_MAX)
                return HPE_USER;
        p->head->fields[p->head->n_fields] = (HttpField){ .name = { at, size }, .value = { at + size, 0 } };
        return 0;
}

static int on_header_value(llhttp_t *l, const char *at, size_t size)
{
        HttpParser *p = l->data;

        if (!p->head)
                return count_trailer(p, size);
        while (size > 0 && (at[size - 1] == ' ' || at[size - 1] == '\t'))
                size--;
        p->head->fields[p->head->n_fields].value = (HttpSlice){ at, size };
        return 0;
}

static int on_header_value_complete(llhttp_t *l)
{
        HttpParser *p = l->data;

        if (p->head)
                p->head->n_fields++;
        return 0;
}

static int on_headers_complete(llhttp_t *l)
{
        /* No switch to another protocol; the body is fed when its time has come. */
        l->upgrade = 0;
        return HPE_PAUSED;
}

static int on_body(llhttp_t *l, const char *at, size_t size)
{
        HttpParser *p = l->data;
        int r = 0;

        if (!p->to)
                return HPE_USER;
        if (p->is_rechunked)
                r = buf_printf(p->to, "%zx\r\n", size);
        if (r >= 0)
                r = buf_put(p->to, at, size);
        if (r >= 0 && p->is_rechunked)
                r = buf_put_string(p->to, "\r\n");
        return r < 0 ? HPE_USER : 0;
}

static int on_chunk_extension(llhttp_t *l, _unused_ const char *at, size_t size)
{
        HttpParser *p = l->data;

        p->n_extension_bytes += size;
        return p->n_extension_bytes > HTTP_EXTENSION_MAX ? HPE_USER : 0;
}

static int on_chunk_header(llhttp_t *l)
{
        HttpParser *p = l->data;

        p->n_extension_bytes = 0;
        return 0;
}

static int on_message_complete(llhttp_t *l)
{
        HttpParser *p = l->data;

        p->is_done = true;
        return HPE_PAUSED;
}

static const llhttp_settings_t http_settings = {
        .on_method = on_method,
        .on_url = on_url,
        .on_status = on_status,
        .on_header_field = on_header_field,
        .on_header_value = on_header_value,
        .on_header_value_complete = on_header_value_complete,
        .on_headers_complete = on_headers_complete,
        .on_body = on_body,
        .on_chunk_extension_name = on_chunk_extension,
        .on_chunk_extension_value = on_chunk_extension,
        .on_chunk_header = on_chunk_header,
        .on_message_complete = on_message_complete,
};

/* ---- heads ---- */

/* The field lines as we see them: their number must be what llhttp saw. */
static int check_lines(const char *data, size_t size, size_t n_fields)
{
        const char *at = memchr(data, '\n', size), *end = data + size - 2;
        size_t n = 0;

        if (!at)
                return -EBADMSG;
        for (at++; at < end; n++) {
                const char *line_end = memchr(at, '\r', (size_t) (end - at));
                const char *colon;

                if (!line_end)
                        return -EBADMSG;
                colon = memchr(at, ':', (size_t) (line_end - at));
                if (!colon || colon == at)
                        return -EBADMSG;
                for (const char *c = at; c < colon; c++) {
                        if (!is_token_byte(*c))
                                return -EBADMSG;
                }
                at = line_end + 2;
        }
        return n == n_fields ? 0 : -EBADMSG;
}

static int parse_length(HttpSlice v, uint64_t *ret)
{
        uint64_t n = 0;

        if (v.size == 0 || v.size > CONTENT_LENGTH_DIGITS_MAX)
                return -EBADMSG;
        for (size_t i = 0; i < v.size; i++) {
                if (v.data[i] < '0' || v.data[i] > '9')
                        return -EBADMSG;
                n = n * 10 + (uint64_t) (v.data[i] - '0');
        }
        *ret = n;
        return 0;
}

/* One reading of where the message ends, or none. */
static int read_framing(HttpHead *h)
{
        size_t n_lengths = 0, n_codings = 0;

        for (size_t i = 0; i < h->n_fields; i++) {
                const HttpField *f = &h->fields[i];

                if (http_slice_equal(f->name, "Content-Length")) {
                        n_lengths++;
                        if (parse_length(f->value, &h->length) < 0)
                                return -EBADMSG;
                } else if (http_slice_equal(f->name, "Transfer-Encoding")) {
                        n_codings++;
                        if (!http_slice_equal(f->value, "chunked"))
                                return -EBADMSG;
                }
        }
        if (n_lengths + n_codings > 1 || (n_codings > 0 && h->minor == 0))
                return -EBADMSG;
        if (n_codings > 0)
                h->body = HTTP_BODY_CHUNKED;
        else if (n_lengths > 0)
                h->body = h->length > 0 ? HTTP_BODY_LENGTH : HTTP_BODY_NONE;
        return n_lengths > 0 ? 1 : 0;
}

/* Calls of the list "a, b" in v: is name one of them? */
static bool list_contains(HttpSlice v, HttpSlice name)
{
        size_t at = 0;

        while (at < v.size) {
                size_t end = at, stop;

                while (end < v.size && v.data[end] != ',')
                        end++;
                stop = end;
                while (at < stop && (v.data[at] == ' ' || v.data[at] == '\t'))
                        at++;
                while (stop > at && (v.data[stop - 1] == ' ' || v.data[stop - 1] == '\t'))
                        stop--;
                if (stop - at == name.size && strncasecmp(v.data + at, name.data, name.size) == 0)
                        return true;
                at = end + 1;
        }
        return false;
}

static bool connection_lists(const HttpHead *h, HttpSlice name)
{
        for (size_t i = 0; i < h->n_fields; i++) {
                const HttpField *f = &h->fields[i];

                if ((http_slice_equal(f->name, "Connection") ||
                     http_slice_equal(f->name, "Proxy-Connection")) &&
                    list_contains(f->value, name))
                        return true;
        }
        return false;
}

static int parse_head(HttpParser *p, llhttp_type_t type, const char *data, size_t size, HttpHead *ret)
{
        llhttp_errno_t e;

        *p = (HttpParser){ .head = ret };
        *ret = (HttpHead){ .n_fields = 0 };
        llhttp_init(&p->llhttp, type, &http_settings);
        p->llhttp.data = p;
        e = llhttp_execute(&p->llhttp, data, size);
        p->head = NULL;
        if (e != HPE_PAUSED || llhttp_get_error_pos(&p->llhttp) != data + size)
                return -EBADMSG;
        if (p->llhttp.http_major != 1 || p->llhttp.http_minor > 1)
                return -EBADMSG;
        ret->minor = p->llhttp.http_minor;
        ret->wants_close = ret->minor == 0 || connection_lists(ret, (HttpSlice){ "close", 5 });
        return check_lines(data, size, ret->n_fields);
}

/* METHOD SP target SP HTTP/1.x: one space each, whatever llhttp would forgive. */
static int check_request_line(const char *data, const HttpHead *h)
{
        size_t n = strlen(h->method);

        if (n == 0 || memcmp(data, h->method, n) != 0 || h->target.data != data + n + 1 || data[n] != ' ')
                return -EBADMSG;
        if (memcmp(h->target.data + h->target.size, " HTTP/1.", 8) != 0 ||
            h->target.data[h->target.size + 9] != '\r')
                return -EBADMSG;
        if (h->target.size == 0 || h->target.size > HTTP_TARGET_MAX)
                return -EBADMSG;
        for (size_t i = 0; i < h->target.size; i++) {
                if (h->target.data[i] <= 0x20 || h->target.data[i] >= 0x7f || h->target.data[i] == '#')
                        return -EBADMSG;
        }
        return 0;
}

int http_parse_request(HttpParser *p, const char *data, size_t size, HttpHead *ret)
{
        int r;

        if (size < 4 || data[0] < 'A' || data[0] > 'Z')
                return -EBADMSG;
        r = parse_head(p, HTTP_REQUEST, data, size, ret);
        if (r >= 0)
                r = check_request_line(data, ret);
        if (r >= 0)
                r = read_framing(ret);
        return r < 0 ? r : 0;
}

int http_parse_response(HttpParser *p, const char *data, size_t size, HttpHead *ret)
{
        int r = parse_head(p, HTTP_RESPONSE, data, size, ret);

        if (r < 0)
                return r;
        ret->status = p->llhttp.status_code;
        /* We never ask for another protocol, so nobody may switch to one. */
        if (ret->status < 100 || ret->status > 599 || ret->status == 101)
                return -EBADMSG;
        r = read_framing(ret);
        if (r < 0)
                return r;
        if (r == 0 && ret->body == HTTP_BODY_NONE)
                ret->body = HTTP_BODY_UNTIL_CLOSE;
        if (ret->status < 200 || ret->status == 204 || ret->status == 304)
                ret->body = HTTP_BODY_NONE;
        return 0;
}

/* ---- destinations ---- */

/* Exactly one Host, naming what the request line names. Only HTTP/1.0 may leave it out. */
static int check_host(const HttpHead *h, const Authority *expected, uint16_t default_port,
                      HttpSlice *ret_raw)
{
        const HttpField *host = NULL;
        Authority a;

        for (size_t i = 0; i < h->n_fields; i++) {
                if (!http_slice_equal(h->fields[i].name, "Host"))
                        continue;
                if (host)
                        return -EBADMSG;
                host = &h->fields[i];
        }
        if (!host)
                return h->minor == 0 ? 0 : -EBADMSG;
        if (ret_raw)
                *ret_raw = host->value;
        if (authority_parse(host->value.data, host->value.size, default_port, &a) < 0)
                return -EBADMSG;
        return authority_equal(&a, expected) ? 0 : -EBADMSG;
}

static int judge_absolute(const HttpHead *h, HttpTarget *ret)
{
        static const char scheme[] = "http://";
        HttpSlice rest = h->target;
        size_t n = 0;

        ret->raw_host = h->target;
        if (rest.size <= sizeof(scheme) - 1 || strncasecmp(rest.data, scheme, sizeof(scheme) - 1) != 0)
                return -EBADMSG;
        rest.data += sizeof(scheme) - 1;
        rest.size -= sizeof(scheme) - 1;
        while (n < rest.size && rest.data[n] != '/' && rest.data[n] != '?')
                n++;
        ret->raw_host = (HttpSlice){ rest.data, n };
        ret->path = (HttpSlice){ rest.data + n, rest.size - n };
        if (authority_parse(rest.data, n, 80, &ret->authority) < 0)
                return -EBADMSG;
        return check_host(h, &ret->authority, 80, NULL);
}

static int judge_connect(const HttpHead *h, HttpTarget *ret)
{
        ret->is_connect = true;
        ret->raw_host = h->target;
        if (authority_parse(h->target.data, h->target.size, 0, &ret->authority) < 0)
                return -EBADMSG;
        if (h->body != HTTP_BODY_NONE)
                return -EBADMSG;
        return check_host(h, &ret->authority, ret->authority.port, NULL);
}

static int judge_origin(const HttpHead *h, const Authority *tunnel, HttpTarget *ret)
{
        ret->raw_host = h->target;
        ret->authority = *tunnel;
        ret->path = h->target;
        if (h->target.data[0] != '/' &&
            !(str_equal(h->method, "OPTIONS") && http_slice_equal(h->target, "*")))
                return -EBADMSG;
        return check_host(h, tunnel, 80, &ret->raw_host);
}

int http_judge_request(const HttpHead *h, const Authority *tunnel, HttpTarget *ret)
{
        *ret = (HttpTarget){ .raw_host = h->target };
        if (str_equal(h->method, "TRACE") || (tunnel && str_equal(h->method, "CONNECT")))
                return -EPERM;
        if (tunnel)
                return judge_origin(h, tunnel, ret);
        if (str_equal(h->method, "CONNECT"))
                return judge_connect(h, ret);
        return judge_absolute(h, ret);
}

/* ---- bodies ---- */

int http_read_chunks(HttpParser *p, const char *data, size_t size, Buf *to, bool is_rechunked,
                     size_t *ret_used)
{
        llhttp_errno_t e;

        if (size == 0) {
                *ret_used = 0;
                return 0;
        }
        p->to = to;
        p->is_rechunked = is_rechunked;
        llhttp_resume(&p->llhttp);
        e = llhttp_execute(&p->llhttp, data, size);
        p->to = NULL;
        if (e == HPE_OK) {
                *ret_used = size;
                return 0;
        }
        if (e != HPE_PAUSED || !p->is_done)
                return -EBADMSG;
        *ret_used = (size_t) (llhttp_get_error_pos(&p->llhttp) - data);
        if (is_rechunked && buf_put_string(to, "0\r\n\r\n") < 0)
                return -EBADMSG;
        return 1;
}

/* ---- writing ---- */

static bool is_passed_on(const HttpHead *h, const HttpField *f)
{
        static const char *const dropped[] = {
                "Connection",        "Keep-Alive",        "TE",
                "Trailer",           "Transfer-Encoding", "Upgrade",
                "HTTP2-Settings",    "Content-Length",    "Host",
                "Sandboxd-Decision",
        };

        for (size_t i = 0; i < ELEMENTSOF(dropped); i++) {
                if (http_slice_equal(f->name, dropped[i]))
                        return false;
        }
        if (f->name.size >= 6 && strncasecmp(f->name.data, "Proxy-", 6) == 0)
                return false;
        return !connection_lists(h, f->name);
}

static int put_slice(Buf *to, HttpSlice s)
{
        return buf_put(to, s.data, s.size);
}

static int put_fields(Buf *to, const HttpHead *h)
{
        int r = 0;

        for (size_t i = 0; r >= 0 && i < h->n_fields; i++) {
                const HttpField *f = &h->fields[i];

                if (!is_passed_on(h, f))
                        continue;
                r = put_slice(to, f->name);
                if (r >= 0)
                        r = buf_put_string(to, ": ");
                if (r >= 0)
                        r = put_slice(to, f->value);
                if (r >= 0)
                        r = buf_put_string(to, "\r\n");
        }
        return r;
}

static bool has_length(const HttpHead *h)
{
        for (size_t i = 0; i < h->n_fields; i++) {
                if (http_slice_equal(h->fields[i].name, "Content-Length"))
                        return true;
        }
        return false;
}

int http_put_request(Buf *to, const HttpHead *h, const HttpTarget *t)
{
        char host[AUTHORITY_TEXT_SIZE];
        const char *slash = t->path.size == 0 || t->path.data[0] == '?' ? "/" : "";
        int r;

        if (t->path.size == 0 && str_equal(h->method, "OPTIONS"))
                slash = "*";
        authority_format(&t->authority, 80, host);
        r = buf_printf(to, "%s %s", h->method, slash);
        if (r >= 0)
                r = put_slice(to, t->path);
        if (r >= 0)
                r = buf_printf(to, " HTTP/1.1\r\nHost: %s\r\n", host);
        if (r >= 0)
                r = put_fields(to, h);
        if (r >= 0 && h->body == HTTP_BODY_CHUNKED)
                r = buf_put_string(to, "Transfer-Encoding: chunked\r\n");
        else if (r >= 0 && has_length(h))
                r = buf_printf(to, "Content-Length: %llu\r\n", (unsigned long long) h->length);
        return r < 0 ? r : buf_put_string(to, "\r\n");
}

int http_put_response(Buf *to, const HttpHead *h, HttpBody framing, bool is_closing)
{
        int r = buf_printf(to, "HTTP/1.1 %u ", h->status);

        if (r >= 0)
                r = put_slice(to, h->reason);
        if (r >= 0)
                r = buf_put_string(to, "\r\n");
        if (r >= 0)
                r = put_fields(to, h);
        if (r >= 0 && framing == HTTP_BODY_CHUNKED)
                r = buf_put_string(to, "Transfer-Encoding: chunked\r\n");
        /* Also where there is no body: a HEAD's length is what GET would send. */
        else if (r >= 0 && has_length(h) && h->status >= 200 && h->status != 204)
                r = buf_printf(to, "Content-Length: %llu\r\n", (unsigned long long) h->length);
        if (r >= 0 && is_closing && h->status >= 200)
                r = buf_put_string(to, "Connection: close\r\n");
        return r < 0 ? r : buf_put_string(to, "\r\n");
}
