/* The header of a message: what may stand in it, and what of it is taken. */

#include <errno.h>
#include <string.h>

#include "proto/base/str.h"
#include "proto/wire/conn_impl.h"

/* Vendor keys have a name in reverse-DNS form. */
static bool is_vendor_key(const char *key)
{
        const char *dot = strchr(key, '.');

        return dot && dot != key && dot[1] != '\0';
}

static int take_flag(const Json *value, bool *ret)
{
        if (json_type(value) != JSON_BOOLEAN)
                return -EBADMSG;
        *ret = json_boolean(value);
        return 0;
}

static int take_text(const Json *value, const char **ret)
{
        if (json_type(value) != JSON_STRING)
                return -EBADMSG;
        *ret = json_string(value);
        return 0;
}

static int take_parameters(const Json *value, ConnMessage *m)
{
        if (json_type(value) == JSON_NULL)
                return 0;
        if (json_type(value) != JSON_OBJECT)
                return -EBADMSG;
        m->parameters = value;
        return 0;
}

static int take_call_member(const char *key, const Json *value, ConnMessage *m)
{
        if (str_equal(key, "method"))
                return take_text(value, &m->method);
        if (str_equal(key, "parameters"))
                return take_parameters(value, m);
        if (str_equal(key, "oneway"))
                return take_flag(value, &m->is_oneway);
        if (str_equal(key, "more"))
                return take_flag(value, &m->is_more);
        if (str_equal(key, "upgrade"))
                return take_flag(value, &m->is_upgrade);
        return is_vendor_key(key) && json_type(value) == JSON_OBJECT ? 0 : -EBADMSG;
}

static int take_reply_member(const char *key, const Json *value, ConnMessage *m)
{
        if (str_equal(key, "error"))
                return take_text(value, &m->error);
        if (str_equal(key, "parameters"))
                return take_parameters(value, m);
        if (str_equal(key, "continues"))
                return take_flag(value, &m->has_continues);
        return is_vendor_key(key) ? 0 : -EBADMSG;
}

static int parse_members(bool is_call, ConnMessage *m)
{
        const Json *value;
        const char *key;
        void *cursor = NULL;
        int r;

        while (json_next(m->json, &cursor, &key, &value)) {
                r = is_call ? take_call_member(key, value, m) : take_reply_member(key, value, m);
                if (r < 0)
                        return r;
        }
        if (!is_call)
                return m->error && m->has_continues ? -EBADMSG : 0;
        if (!m->method || m->is_oneway + m->is_more + m->is_upgrade > 1)
                return -EBADMSG;
        return 0;
}

/* Callers read parameters without asking whether there are any. */
static int add_parameters(ConnMessage *m)
{
        Json *empty;
        int r;

        if (m->parameters)
                return 0;
        r = json_new_object(&empty);
        if (r < 0)
                return r;
        m->parameters = empty;
        return json_set(m->json, "parameters", empty);
}

int conn_message_parse(bool is_call, const char *text, size_t size, ConnMessage *m)
{
        int r;

        /* Policy texts may be as long as the message: what other strings may be, the interface says. */
        r = json_parse(text, size, /* string_max= */ size, &m->json);
        if (r < 0)
                return r;
        r = parse_members(is_call, m);
        if (r < 0)
                return r;
        return add_parameters(m);
}
