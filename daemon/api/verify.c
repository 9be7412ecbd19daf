/* Audit.Verify: audit computes, and says how far it is and what it found. */

#include <errno.h>

#include "daemon/api/api.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

static int format_common(const AuditVerification *v, Json **ret)
{
        _cleanup_json_ Json *p = NULL;
        int r;

        r = json_new_object(&p);
        if (r >= 0)
                r = json_set_integer(p, "checked", (int64_t) v->n_checked);
        if (r >= 0)
                r = json_set_integer(p, "checkpoints", (int64_t) v->n_checkpoints);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(p);
        return 0;
}

static int set_hex(Json *p, const char *key, const uint8_t bytes[32])
{
        char text[65];

        str_hex(text, bytes, 32);
        return json_set_string(p, key, text);
}

static int set_bad(Json *p, const AuditVerification *v)
{
        int r;

        r = json_set_boolean(p, "valid", v->bad_sequence == 0);
        if (r < 0 || v->bad_sequence == 0)
                return r;
        r = json_set_integer(p, "firstBadSequence", (int64_t) v->bad_sequence);
        return r < 0 ? r : json_set_string(p, "message", v->message);
}

static int format_verdict(const AuditVerification *v, Json **ret)
{
        _cleanup_json_ Json *p = NULL;
        int r;

        r = format_common(v, &p);
        if (r >= 0)
                r = set_bad(p, v);
        if (r >= 0 && v->head_sequence > 0) {
                r = json_set_integer(p, "headSequence", (int64_t) v->head_sequence);
                if (r >= 0)
                        r = set_hex(p, "headHash", v->head);
        }
        if (r >= 0 && v->first_sequence > 0)
                r = json_set_integer(p, "firstSequence", (int64_t) v->first_sequence);
        if (r >= 0 && v->signed_sequence > 0)
                r = json_set_integer(p, "signedSequence", (int64_t) v->signed_sequence);
        if (r >= 0)
                r = json_set_integer(p, "erased", (int64_t) v->n_erased);
        if (r >= 0 && v->has_key)
                r = set_hex(p, "publicKey", v->key);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(p);
        return 0;
}

int verification_take(Client *c, Buf *input, AuditVerification *verdict)
{
        _cleanup_json_ Json *p = NULL;
        int r;

        if (buf_size(input) < sizeof(*verdict))
                return 0;
        memcpy(verdict, buf_front(input), sizeof(*verdict));
        buf_consume(input, sizeof(*verdict));
        if (!PRIV_STRING_OK(verdict->message))
                return -EBADMSG;
        if (verdict->is_last || !c->call.is_more)
                return 1;
        r = format_common(verdict, &p);
        if (r < 0)
                return r;
        client_reply(c, TAKE_PTR(p), /* has_continues= */ true, NULL, 0);
        return 1;
}

static void refuse_retired(Client *c, const AuditVerification *v)
{
        _cleanup_json_ Json *p = NULL;

        if (json_new_object(&p) < 0 ||
            json_set_integer(p, "oldestSequence", (int64_t) v->first_sequence) < 0)
                client_failure(c, -ENOMEM);
        else
                client_error(c, AUDIT_ERROR "NoSuchSequence", TAKE_PTR(p));
}

void verification_finish(Client *c, const AuditVerification *v)
{
        _cleanup_json_ Json *p = NULL;
        int r;

        if (v->is_retired) {
                refuse_retired(c, v);
                return;
        }
        r = format_verdict(v, &p);
        if (r < 0)
                client_failure(c, r);
        else
                client_reply(c, TAKE_PTR(p), false, NULL, 0);
}

/* -EINVAL: *ret_field is the one that is wrong. */
static int take_verify(const Json *parameters, PrivVerify *m, const char **ret_field)
{
        const struct {
                const char *key;
                uint64_t *to;
        } numbers[] = {
                { "fromSequence", &m->from },
                { "toSequence", &m->to },
                { "headSequence", &m->head_sequence },
        };
        const char *text;

        for (size_t i = 0; i < ELEMENTSOF(numbers); i++) {
                int64_t v = get_integer(parameters, *ret_field = numbers[i].key);

                if (v < 0 || (v == 0 && get_value(parameters, numbers[i].key)))
                        return -EINVAL;
                *numbers[i].to = (uint64_t) v;
        }
        if (m->head_sequence > 0 && (m->from > 0 || m->to > 0))
                return -EINVAL;
        text = get_string(parameters, *ret_field = "headHash");
        if ((text != NULL) != (m->head_sequence > 0) ||
            (text && parse_hex(text, m->head, sizeof(m->head)) < 0))
                return -EINVAL;
        text = get_string(parameters, *ret_field = "publicKey");
        if (text && parse_hex(text, m->key, sizeof(m->key)) < 0)
                return -EINVAL;
        m->has_key = text != NULL;
        if (m->to > 0 && m->from > m->to) {
                *ret_field = "toSequence";
                return -EINVAL;
        }
        return 0;
}

int method_audit_verify(Client *c, const Json *parameters)
{
        PrivVerify m = { .from = 0 };
        AuditVerification *verdict;
        const char *field;
        int r;

        if (take_verify(parameters, &m, &field) < 0) {
                client_invalid(c, field);
                return 0;
        }
        if (!c->peer.is_auditor) {
                client_error(c, SERVICE_ERROR "PermissionDenied", NULL);
                return 0;
        }
        if (!c->api->audit) {
                client_error_string(c, AUDIT_ERROR "LogUnavailable", "message",
                                    "the audit writer is being restarted");
                return 0;
        }
        verdict = calloc(1, sizeof(*verdict));
        if (!verdict)
                return -ENOMEM;
        r = audit_query_new(c, verdict, &m.token);
        if (r < 0)
                return r;
        (void) priv_link_send(c->api->audit, PRIV_VERIFY, &m, sizeof(m), NULL, 0);
        return 0;
}
