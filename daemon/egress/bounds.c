/*
 * Limits of the rules that allowed a connection. Upwards counts what goes to the server, heads and framing
 * of HTTP included, downwards what comes from it: a limit of n lets n bytes pass and no more, whatever they
 * are part of.
 */

#include <errno.h>
#include <sys/socket.h>

#include "daemon/egress/egress.h"
#include "proto/base/error.h"

int bounds_room(const Volume *v, int fd, size_t n, size_t *ret)
{
        size_t left = volume_left(v, n);
        ssize_t more;
        char byte;

        if (left == 0 && n > 0) {
                more = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
                if (more < 0)
                        return errno == EINTR ? -EAGAIN : neg_errno();
                if (more > 0)
                        return -EDQUOT;
                left = 1;
        }
        *ret = left;
        return 0;
}

static void narrow(uint64_t *to, uint64_t limit)
{
        if (limit != 0 && (*to == 0 || limit < *to))
                *to = limit;
}

/* What has gone already has gone by rights. */
static void narrow_volume(Volume *v, uint64_t max)
{
        narrow(&v->max, max);
        if (v->max != 0 && v->used > v->max)
                v->max = v->used;
}

void bounds_apply(Client *c)
{
        Server *s = &c->server;

        narrow_volume(&s->sent, c->bounds.max_upload_bytes);
        narrow_volume(&s->received, c->bounds.max_download_bytes);
        narrow(&s->idle_usec, c->bounds.idle_usec);
}

int bounds_count_request(Client *c)
{
        Volume *v = &c->server.sent;
        uint64_t n = buf_size(&c->to_server);

        if (c->request_body.kind == HTTP_BODY_LENGTH)
                n += c->request_body.left;
        if (v->max != 0 && n > v->max - v->used)
                return -EDQUOT;
        v->used += n;
        return 0;
}

void bounds_count_sent(Client *c, size_t n)
{
        Volume *v = &c->server.sent;
        size_t more = buf_size(&c->to_server) - n, left = volume_left(v, more);

        v->is_over = v->is_over || left < more;
        v->used += left;
        c->to_server.end -= more - left;
}

int bounds_refuse_upload(Client *c)
{
        c->is_last = true;
        server_close(c, CLOSE_MAX_UPLOAD);
        c->end = CLOSE_MAX_UPLOAD;
        return answer_error(c, 413, "the rule that allows this lets no more be sent (max_upload)");
}

int bounds_refuse_download(Client *c)
{
        struct linger reset = { .l_onoff = 1 };

        if (!c->has_answer_begun) {
                c->is_last = true;
                server_close(c, CLOSE_MAX_DOWNLOAD);
                return answer_error(c, 502, "the rule that allows this lets no more come (max_download)");
        }
        c->end = CLOSE_MAX_DOWNLOAD;
        /* A body that only the end of the connection ends must not look whole. */
        if (c->response_body.kind == HTTP_BODY_UNTIL_CLOSE)
                (void) setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
        return -EDQUOT;
}
