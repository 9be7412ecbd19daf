/* A request's head once more, where a rule has judged method or path: what is sent says the same, in one
 * way. */

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "daemon/egress/http.h"
#include "daemon/policy/compiled.h"

static const char *const method_fields[] = { "X-HTTP-Method-Override", "X-HTTP-Method",
                                             "X-Method-Override" };
static const char *const path_fields[] = { "X-Original-URL", "X-Rewrite-URL" };

/* Some servers take '_' for '-' in the name of a field. */
static bool is_name(HttpSlice name, const char *s)
{
        if (name.size != strlen(s))
                return false;
        for (size_t i = 0; i < name.size; i++) {
                char c = name.data[i] == '_' ? '-' : name.data[i];

                if (strncasecmp(&c, &s[i], 1) != 0)
                        return false;
        }
        return true;
}

static bool names_one_of(HttpSlice line, const char *const names[], size_t n)
{
        const char *colon = memchr(line.data, ':', line.size);

        for (size_t i = 0; colon && i < n; i++)
                if (is_name((HttpSlice){ line.data, (size_t) (colon - line.data) }, names[i]))
                        return true;
        return false;
}

/* METHOD SP PATH SP VERSION, as we have written it ourselves. */
static int put_request_line(Buf *to, HttpSlice line)
{
        const char *path = memchr(line.data, ' ', line.size), *end;
        char *tail;
        int r;

        if (!path)
                return -EBADMSG;
        path++;
        end = memchr(path, ' ', line.size - (size_t) (path - line.data));
        if (!end)
                return -EBADMSG;
        r = buf_put(to, line.data, (size_t) (path - line.data));
        if (r >= 0)
                r = buf_reserve(to, (size_t) (end - path), &tail);
        if (r < 0)
                return r;
        buf_commit(to, policy_path_rewrite(path, (size_t) (end - path), tail));
        return buf_put(to, end, line.size - (size_t) (end - line.data));
}

static int put_line(Buf *to, HttpSlice line, bool is_first, bool for_methods, bool for_paths)
{
        if (is_first && for_paths)
                return put_request_line(to, line);
        if (!is_first && ((for_methods && names_one_of(line, method_fields, ELEMENTSOF(method_fields))) ||
                          (for_paths && names_one_of(line, path_fields, ELEMENTSOF(path_fields)))))
                return 0;
        return buf_put(to, line.data, line.size);
}

int http_rewrite_request(Buf *head, bool for_methods, bool for_paths)
{
        const char *at = buf_front(head), *end = at + buf_size(head);
        Buf to = BUF_INIT(head->size_max);
        int r = 0;

        while (r >= 0 && at < end) {
                const char *newline = memchr(at, '\n', (size_t) (end - at));
                size_t n = newline ? (size_t) (newline - at) + 1 : (size_t) (end - at);

                r = put_line(&to, (HttpSlice){ at, n }, at == buf_front(head), for_methods, for_paths);
                at += n;
        }
        if (r < 0) {
                buf_done(&to);
                return r;
        }
        buf_done(head);
        *head = to;
        return 0;
}
