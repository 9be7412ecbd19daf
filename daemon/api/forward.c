/* Forward(): a connection to a port inside. The launcher makes it, once its row is there; the session's
 * egress worker moves the bytes. */

#include <errno.h>

#include "daemon/api/session.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/wire/frame.h"

int method_forward(Client *c, const Json *parameters)
{
        Session *s = session_find_or_answer(c, get_string(parameters, "id"));
        PrivSessionForward m = { .token = ++c->api->next_token,
                                 .port = (uint32_t) get_integer(parameters, "port") };

        if (!s)
                return 0;
        if (!session_is_live(s))
                return session_answer_state(c, s);
        m.session = s->id;
        c->wait = WAIT_FORWARD;
        c->wait_token = m.token;
        c->wait_session = s->id;
        return priv_link_send(c->api->launcher, PRIV_SESSION_FORWARD, &m, sizeof(m), NULL, 0);
}

static int answer_integer(Client *c, const char *error, const char *key, int64_t value)
{
        _cleanup_json_ Json *p = NULL;
        int r;

        r = json_new_object(&p);
        if (r >= 0)
                r = json_set_integer(p, key, value);
        if (r < 0)
                return r;
        client_error(c, error, TAKE_PTR(p));
        return 0;
}

static int answer_failed(Client *c, int error)
{
        Session *s = session_find_id(c->api, &c->wait_session);

        switch (error) {
        case -ECONNREFUSED:
                return answer_integer(c, SESSION_ERROR "NotListening", "port",
                                      get_integer(c->call.parameters, "port"));
        case -EPERM:
                client_error_string(c, SESSION_ERROR "DeniedByPolicy", "message",
                                    "the session has no network");
                return 0;
        case -EDQUOT:
                client_error_string(c, SESSION_ERROR "QuotaExceeded", "resource", "rows");
                return 0;
        case -EIO:
                client_error_string(c, SESSION_ERROR "AuditUnavailable", "message", "no row can be written");
                return 0;
        case -ENOENT:
                if (s)
                        return session_answer_state(c, s);
                client_error_string(c, SESSION_ERROR "NoSuchSession", "id",
                                    get_string(c->call.parameters, "id"));
                return 0;
        default:
                return error;
        }
}

static int answer_descriptor(Client *c, int fd)
{
        _cleanup_json_ Json *p = NULL;
        int r;

        r = json_new_object(&p);
        if (r >= 0)
                r = json_set_integer(p, "connectionFileDescriptor", 0);
        if (r >= 0)
                client_reply(c, TAKE_PTR(p), false, &fd, 1);
        return r;
}

static int answer_upgraded(Client *c, int take_fd)
{
        _cleanup_close_ int fd = take_fd;
        _cleanup_json_ Json *p = NULL;
        int r;

        r = json_new_object(&p);
        if (r >= 0)
                r = json_set_string(p, "framing", FRAMING_RAW);
        if (r < 0)
                return r;
        if (client_upgrade(c, TAKE_PTR(p)) < 0)
                return 0; /* closed */
        if (fd_set_nonblock(fd, true) < 0 || relay_bytes(c, TAKE_FD(fd)) < 0)
                client_close(c);
        return 0;
}

int on_session_forwarded(Api *api, Imsg *m)
{
        const PrivSessionForwarded *body = m->body;

        if (body->error > 0 || (body->error == 0) != (m->n_fds == 1))
                return -EPROTO;
        LIST_FOREACH (c, &api->clients, Client, link) {
                int r;

                if (c->wait != WAIT_FORWARD || c->wait_token != body->token)
                        continue;
                if (body->error < 0)
                        r = answer_failed(c, body->error);
                else
                        r = c->call.is_upgrade ? answer_upgraded(c, TAKE_FD(m->fds[0]))
                                               : answer_descriptor(c, m->fds[0]);
                if (r < 0)
                        client_failure(c, r);
                break;
        }
        return 0;
}
