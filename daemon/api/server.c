/*
 * Connections of the worker's user. A client has at most one open call; what it sends behind it waits in its
 * Conn. Closing takes a client out of the table at once (nobody finds it any more) and frees it after the
 * turn, so that code on the stack may go on using it.
 */

#include <poll.h>
#include <stdlib.h>

#include "daemon/api/events.h"
#include "daemon/api/manager.h"
#include "daemon/api/streams.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

#define PARTIAL_TIMEOUT_USEC (10 * USEC_PER_SEC)
#define HANG_UP_POLL_USEC    (500 * USEC_PER_MSEC)

static void client_free_deferred(void *userdata)
{
        Client *c = userdata;

        c->query = audit_query_free(c->query);
        c->logs = logs_reader_free(c->logs);
        c->attachment = attachment_free(c->attachment);
        c->manager = manager_wait_free(c->manager);
        c->subscription = subscription_free(c->subscription);
        c->relay = relay_free(c->relay);
        if (c->has_call)
                conn_message_done(&c->call);
        c->timer = loop_timer_free(c->timer);
        quota_client_done(c);
        c->conn = conn_free(c->conn);
        free(c->wait_ids);
        free(c);
}

void client_close(Client *c)
{
        PrivClientClosed closed = { .connection = c->peer.connection };

        if (c->is_closing)
                return;
        c->is_closing = true;
        list_unlink(&c->link);
        c->io = loop_io_free(c->io);
        loop_timer_stop(c->timer);
        quota_client_closed(c);
        c->wait = WAIT_NONE;
        c->request = request_give_up(c->request);
        if (c->attachment)
                attachment_leave(c->attachment);
        streams_client_gone(c->api, c->peer.connection);
        sessions_client_gone(c->api, c->peer.connection);
        (void) priv_link_send(c->api->launcher, PRIV_API_CLIENT_CLOSED, &closed, sizeof(closed), NULL, 0);
        /* Without memory it leaks rather than being freed under somebody's feet. */
        if (loop_defer(c->api->loop, client_free_deferred, c) < 0)
                (void) log_warning(-ENOMEM, "connection of uid %u stays, ignoring", c->peer.uid);
}

Client *client_find(Api *api, uint64_t connection)
{
        if (connection == 0)
                return NULL;
        LIST_FOREACH (c, &api->clients, Client, link) {
                if (c->peer.connection == connection)
                        return c;
        }
        return NULL;
}

static void update_events(Client *c)
{
        unsigned events;

        if (c->is_closing || c->is_upgraded)
                return;
        if (!quota_client_is_within(c)) {
                client_close(c);
                return;
        }
        if (c->is_drained_close && !conn_has_call(c->conn) && !conn_wants_write(c->conn) &&
            (c->peer.over != PRIV_OVER_NONE || !conn_has_message(c->conn))) {
                client_close(c);
                return;
        }
        events = (conn_wants_read(c->conn) ? LOOP_READ : 0U) | (conn_wants_write(c->conn) ? LOOP_WRITE : 0U);
        /* While the input is full, nothing but a look now and then shows that the client is gone. */
        if (loop_io_set_events(c->io, events) < 0 || (!conn_wants_read(c->conn) && !c->is_drained_close &&
                                                      loop_timer_set(c->timer, HANG_UP_POLL_USEC) < 0))
                client_close(c);
}

static void flush(Client *c)
{
        if (c->is_closing)
                return;
        if (conn_wants_write(c->conn) && conn_write(c->conn) < 0) {
                client_close(c);
                return;
        }
        update_events(c);
}

static void dispatch_waiting(Client *c);

static void continue_deferred(void *userdata)
{
        dispatch_waiting(userdata);
}

/* The open call has been answered. */
static void call_finished(Client *c)
{
        c->wait = WAIT_NONE;
        c->request = request_give_up(c->request);
        free(c->wait_ids);
        c->wait_ids = NULL;
        c->n_wait_ids = 0;
        if (c->is_in_use)
                return;
        if (c->has_call)
                conn_message_done(&c->call);
        c->has_call = false;
        if (loop_defer(c->api->loop, continue_deferred, c) < 0)
                client_close(c);
}

void client_reply(Client *c, Json *take_parameters, bool has_continues, const int *fds, size_t n_fds)
{
        _cleanup_json_ Json *parameters = take_parameters;

        if (c->is_closing)
                return;
        if (conn_reply(c->conn, parameters, has_continues, fds, n_fds) < 0) {
                client_close(c);
                return;
        }
        flush(c);
        if (!has_continues && !c->is_closing)
                call_finished(c);
}

int client_upgrade(Client *c, Json *take_parameters)
{
        /* What stands behind the call is no varlink, and was read too early: it cannot be given back. */
        if (conn_has_input(c->conn)) {
                json_unref(take_parameters);
                client_close(c);
                return -EBADMSG;
        }
        c->is_upgraded = true;
        client_reply(c, take_parameters, /* has_continues= */ false, NULL, 0);
        if (c->is_closing)
                return -EPIPE;
        c->io = loop_io_free(c->io);
        loop_timer_stop(c->timer);
        loop_timer_stop(c->output_timer);
        return 0;
}

void client_error(Client *c, const char *error, Json *take_parameters)
{
        _cleanup_json_ Json *parameters = take_parameters;

        if (c->is_closing)
                return;
        if (conn_reply_error(c->conn, error, parameters) < 0) {
                client_close(c);
                return;
        }
        flush(c);
        if (!c->is_closing)
                call_finished(c);
}

void client_error_string(Client *c, const char *error, const char *key, const char *value)
{
        _cleanup_json_ Json *p = NULL;

        if (json_new_object(&p) < 0 || json_set_string(p, key, value) < 0) {
                client_close(c);
                return;
        }
        client_error(c, error, TAKE_PTR(p));
}

void client_invalid(Client *c, const char *field)
{
        client_error_string(c, SERVICE_ERROR "InvalidParameter", "parameter", field);
}

void client_failure(Client *c, int r)
{
        _cleanup_json_ Json *p = NULL;

        if (json_new_object(&p) < 0 || json_set_string(p, "origin", "linux") < 0 ||
            json_set_integer(p, "errno", -(int64_t) r) < 0 ||
            json_set_string(p, "errnoName", error_name(r)) < 0) {
                client_close(c);
                return;
        }
        client_error(c, "io.systemd.System", TAKE_PTR(p));
}

static void refuse_over_quota(Client *c)
{
        int64_t limit = c->api->loaded.settings.connections_per_user_max;

        c->is_drained_close = true;
        client_quota_error(c, "connections", c->peer.over == PRIV_OVER_OWN ? limit : -1);
}

/* 1: go on; 0: answered or closed. */
static int check_call(Client *c, const IdlMember *member)
{
        const ConnMessage *m = &c->call;
        char field[IDL_FIELD_SIZE];

        if ((m->n_fds > 0 || m->has_lost_fds) && (!member || !(member->flags & IDL_TAKES_FDS))) {
                client_close(c);
                return 0;
        }
        if (!member)
                client_error_string(c, SERVICE_ERROR "MethodNotFound", "method", m->method);
        else if (!method_find(m->method))
                client_error_string(c, SERVICE_ERROR "MethodNotImplemented", "method", m->method);
        else if (m->has_lost_fds)
                client_invalid(c, "fileDescriptors");
        else if ((member->flags & IDL_REQUIRES_MORE) && !m->is_more)
                client_error(c, SERVICE_ERROR "ExpectedMore", NULL);
        else if ((member->flags & IDL_REQUIRES_UPGRADE) && !m->is_upgrade)
                client_error(c, SERVICE_ERROR "ExpectedUpgrade", NULL);
        else if (idl_check_parameters(member, m->parameters, field) < 0 ||
                 idl_check_fds(member, m->parameters, m->n_fds, field) < 0)
                client_invalid(c, field);
        else
                return 1;
        return 0;
}

static void dispatch(Client *c)
{
        int r;

        if (c->peer.over != PRIV_OVER_NONE) {
                refuse_over_quota(c);
                return;
        }
        if (check_call(c, idl_set_find_method(c->api->idl, c->call.method)) == 0)
                return;
        if (c->peer.is_relayed && !relay_permits(c->call.method)) {
                client_error(c, SERVICE_ERROR "PermissionDenied", NULL);
                return;
        }
        r = relay_is_needed(c) ? relay_start(c) : method_find(c->call.method)(c, c->call.parameters);
        if (r < 0 && !c->is_closing && conn_has_call(c->conn))
                client_failure(c, r);
}

void client_dispatch_again(Client *c)
{
        int r;

        c->wait = WAIT_NONE;
        c->is_in_use = true;
        r = method_find(c->call.method)(c, c->call.parameters);
        if (r < 0 && !c->is_closing && conn_has_call(c->conn))
                client_failure(c, r);
        c->is_in_use = false;
        if (c->is_closing || conn_has_call(c->conn))
                return;
        conn_message_done(&c->call);
        c->has_call = false;
        if (loop_defer(c->api->loop, continue_deferred, c) < 0)
                client_close(c);
}

static void dispatch_waiting(Client *c)
{
        while (!c->is_closing && !conn_has_call(c->conn)) {
                int r;

                r = conn_next(c->conn, &c->call);
                if (r == 0)
                        break;
                if (r < 0) {
                        client_close(c);
                        return;
                }
                c->has_call = true;
                c->is_in_use = true;
                dispatch(c);
                c->is_in_use = false;
                if (c->is_closing)
                        return;
                if (!conn_has_call(c->conn)) {
                        conn_message_done(&c->call);
                        c->has_call = false;
                }
                loop_timer_stop(c->timer);
                if (c->is_upgraded)
                        return;
        }
        if (!c->is_closing && !conn_has_call(c->conn) && conn_has_partial(c->conn) &&
            loop_timer_set(c->timer, PARTIAL_TIMEOUT_USEC) < 0)
                client_close(c);
        update_events(c);
}

/* No more input will come. What is open is answered as long as somebody may read it. */
static void on_end_of_input(Client *c)
{
        c->is_drained_close = true;
        dispatch_waiting(c);
        if (!c->is_closing && !c->is_upgraded && loop_timer_set(c->timer, HANG_UP_POLL_USEC) < 0)
                client_close(c);
}

static void on_timer(void *userdata)
{
        Client *c = userdata;
        struct pollfd p = { .fd = conn_fd(c->conn) };

        /* Too slow with its message; or, where no input is read, gone. */
        if (conn_wants_read(c->conn) || poll(&p, 1, 0) > 0) {
                client_close(c);
                return;
        }
        if (loop_timer_set(c->timer, HANG_UP_POLL_USEC) < 0)
                client_close(c);
}

static void on_client_io(void *userdata, _unused_ int fd, unsigned events)
{
        Client *c = userdata;
        bool had_partial = conn_has_partial(c->conn);
        int r = 0;

        if (events & LOOP_WRITE) {
                flush(c);
                if (!c->is_closing && c->query && !conn_wants_write(c->conn))
                        audit_query_resume(c->query);
                if (!c->is_closing && c->logs && !conn_wants_write(c->conn))
                        logs_reader_resume(c->logs);
                if (!c->is_closing && c->subscription)
                        subscription_resume(c);
                if (!c->is_closing && c->relay && !conn_wants_write(c->conn))
                        relay_resume(c->relay);
        }
        if (c->is_closing || c->is_upgraded || !(events & LOOP_READ))
                return;
        r = conn_read(c->conn);
        if (r == -EPIPE) {
                on_end_of_input(c);
                return;
        }
        if (r < 0) {
                client_close(c);
                return;
        }
        /* The time of a message runs from its first byte. One that fills the buffer is too long: conn_next()
         * says so. */
        if (had_partial && conn_has_partial(c->conn) && !conn_has_call(c->conn) &&
            conn_wants_read(c->conn)) {
                update_events(c);
                return;
        }
        dispatch_waiting(c);
}

int client_new(Api *api, const PrivClient *peer, int take_fd)
{
        Client *c = calloc(1, sizeof(*c));
        int r;

        if (!c) {
                (void) fd_close(take_fd);
                return -ENOMEM;
        }
        *c = (Client){ .api = api, .peer = *peer };
        list_init(&c->link);
        r = conn_new(take_fd, /* is_server= */ true, &c->conn);
        if (r >= 0)
                r = loop_timer_new(api->loop, on_timer, c, &c->timer);
        if (r >= 0)
                r = quota_client_new(c);
        /* One that gets no more than an error must come for it soon. */
        if (r >= 0 && peer->over != PRIV_OVER_NONE)
                r = loop_timer_set(c->timer, PARTIAL_TIMEOUT_USEC);
        if (r >= 0)
                r = loop_io_new(api->loop, conn_fd(c->conn), LOOP_READ, on_client_io, c, &c->io);
        if (r < 0) {
                client_free_deferred(c);
                return r;
        }
        list_append(&api->clients, &c->link);
        return 0;
}
