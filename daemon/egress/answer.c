#include <errno.h>

#include "daemon/egress/egress.h"
#include "daemon/egress/socks.h"
#include "proto/base/str.h"

static const char *status_text(unsigned status)
{
        switch (status) {
        case 400:
                return "Bad Request";
        case 403:
                return "Forbidden";
        case 408:
                return "Request Timeout";
        case 413:
                return "Content Too Large";
        case 431:
                return "Request Header Fields Too Large";
        case 502:
                return "Bad Gateway";
        case 503:
                return "Service Unavailable";
        case 504:
                return "Gateway Timeout";
        default:
                return "Error";
        }
}

/* For headers and JSON: printable ASCII, no quote and no backslash. Names and rules have none anyway. */
static void make_plain(char *s)
{
        for (; *s; s++) {
                if (*s < 0x20 || *s >= 0x7f || *s == '"' || *s == '\\')
                        *s = '?';
        }
}

/* The answer takes the place of the server's, so the rest of the request has nowhere to go. */
static int put_answer(Client *c, unsigned status, const char *fields, const char *body)
{
        int r;

        if (c->request_body.kind != HTTP_BODY_NONE && !c->request_body.is_done)
                c->is_last = true;
        r = buf_printf(&c->to_client,
                       "HTTP/1.1 %u %s\r\n%sContent-Type: text/plain; charset=utf-8\r\n"
                       "Content-Length: %zu\r\n%s\r\n",
                       status, status_text(status), fields, strlen(body),
                       c->is_last ? "Connection: close\r\n" : "");
        if (r >= 0 && !c->is_head_method)
                r = buf_put_string(&c->to_client, body);
        if (r < 0)
                return r;
        buf_consume(&c->to_server, buf_size(&c->to_server));
        if (c->is_last)
                server_close(c, CLOSE_CLIENT);
        if (transparent_is_waiting(c))
                client_set_state(c, CLIENT_REFUSED);
        else
                client_set_state(c, c->is_last ? CLIENT_ENDING : CLIENT_HEAD);
        return 1;
}

int answer_error(Client *c, unsigned status, const char *text)
{
        char body[PRIV_TEXT_SIZE * 2];
        int r;

        if (c->has_answer_begun)
                return -EPIPE;
        if (socks_is_waiting(c))
                return socks_answer(c, SOCKS_FAILED);
        r = str_printf(body, sizeof(body), "sandboxd: %s\n", text);
        return r < 0 ? r : put_answer(c, status, "", body);
}

static const char *why(const Denial *d)
{
        switch (d->reason) {
        case REASON_DEFAULT:
                return "no rule of this session's policy allows it";
        case REASON_NO_APPROVER:
                return "policy asks about it, and nobody is there to answer";
        case REASON_ADDRESS:
                return "its address is one that a host rule alone does not open";
        case REASON_AUDIT:
                return "the decision could not be recorded";
        case REASON_LIMIT:
                return "a limit of this session is reached";
        case REASON_NO_NETWORK:
                return "this session has no network";
        case REASON_PATH:
                return "rules look at its path, and that can be read in two ways (escapes of / and %, \\, ;, //, dots)";
        case REASON_MAX_CONNECTIONS:
                return "as many connections are open as its rule allows at a time";
        case REASON_PROTOCOL:
                return "no rule opens anything but TCP";
        case REASON_MALFORMED:
                return "the request is not one that is ever passed on";
        default:
                return "a rule of this session's policy denies it";
        }
}

int answer_denied(Client *c, const Denial *d)
{
        char host[PRIV_HOST_SIZE], rule[PRIV_NAME_SIZE], text[PRIV_TEXT_SIZE];
        char fields[PRIV_TEXT_SIZE * 4], body[PRIV_TEXT_SIZE * 8];
        const char *reason = decision_reason_to_string(d->reason);
        int r;

        if (c->has_answer_begun)
                return -EPIPE;
        if (socks_is_waiting(c))
                return socks_answer(c, SOCKS_DENIED);
        authority_format_host(&c->authority, host);
        r = str_copy(rule, sizeof(rule), d->rule);
        if (r >= 0)
                r = str_copy(text, sizeof(text), d->text);
        if (r < 0)
                return r;
        make_plain(host);
        make_plain(rule);
        make_plain(text);
        r = str_printf(fields, sizeof(fields),
                       "Sandboxd-Decision: {\"rule\":\"%s\",\"host\":\"%s\",\"port\":%u,\"reason\":\"%s\","
                       "\"ask_id\":null}\r\n",
                       rule, host, c->authority.port, reason ? reason : "unknown");
        if (r < 0)
                return r;
        r = str_printf(body, sizeof(body),
                       "sandboxd: connection to %s port %u denied: %s.\n%s%s%s%s%s%s"
                       "To allow it, add a rule to the profile or run with --allow-host %s:%u.\n",
                       host, c->authority.port, why(d), rule[0] ? "Rule: " : "", rule, rule[0] ? "\n" : "",
                       text[0] ? "Reason: " : "", text, text[0] ? "\n" : "", host, c->authority.port);
        if (r < 0)
                return r;
        return put_answer(c, 403, fields, body);
}
