/*
 * A varlink client on libsandboxd: calls what org.varlink.certification wants to be called, each time with
 * what the call before was answered with, and looks at each answer. What a service puts into a MyType is its
 * own affair: there the interface says what is right. Usage: certification-client ADDRESS
 */

#include <stdio.h>

#include "client/lib/sandboxd.h"
#include "proto/base/error.h"
#include "proto/base/str.h"
#include "proto/idl/idl.h"
#include "tests/conformance/certification.h"

typedef struct Run {
        SandboxdClient *client;
        Json *id;       /* as a string value */
        Json *previous; /* what the last call was answered with */
        IdlSet *idl;
} Run;

static int wrong(const Step *step, const char *what, const Json *got)
{
        _cleanup_free_ char *text = NULL;

        if (sandboxd_value_format(got, &text) < 0)
                return -ENOMEM;
        (void) printf("%s: %s: %s\n", step->method, what, text);
        return -EBADMSG;
}

/* The id and the members of the last reply. */
static int make_parameters(const Run *run, Json **ret)
{
        _cleanup_json_ Json *p = NULL;
        const Json *value;
        const char *key;
        void *cursor = NULL;
        int r = sandboxd_value_new_object(&p);

        while (r >= 0 && sandboxd_value_next(run->previous, &cursor, &key, &value))
                r = sandboxd_value_set(p, key, sandboxd_value_ref(value));
        if (r >= 0 && run->id)
                r = sandboxd_value_set(p, "client_id", sandboxd_value_ref(run->id));
        if (r < 0)
                return r;
        *ret = TAKE_PTR(p);
        return 0;
}

static int take_reply(Run *run, const Step *step, const SandboxdReply *reply)
{
        _cleanup_json_ Json *expected = NULL;
        char field[IDL_FIELD_SIZE];
        int r = parse_text(step->reply, &expected);

        if (r < 0)
                return r;
        if (idl_check_reply(idl_set_find_method(run->idl, step->method), reply->parameters, field) < 0)
                return wrong(step, field, reply->parameters);
        run->previous = sandboxd_value_unref(run->previous);
        if (!run->id) {
                run->id = sandboxd_value_ref(sandboxd_value_get(reply->parameters, "client_id"));
                return sandboxd_value_string(run->id) ? 0 : wrong(step, "no id", reply->parameters);
        }
        if (!json_get(expected, "mytype") && !json_same(reply->parameters, expected))
                return wrong(step, "wrong reply", reply->parameters);
        run->previous = sandboxd_value_ref(reply->parameters);
        return 0;
}

static int next_reply(const Run *run, const Step *step, SandboxdReply *ret)
{
        int r = sandboxd_next(run->client, ret);

        if (r >= 0 && ret->error) {
                (void) printf("%s\n", ret->error);
                return wrong(step, "error", ret->parameters);
        }
        return r;
}

/* Ten replies; their strings are the parameter of the next call. */
static int take_replies(Run *run, const Step *step)
{
        _cleanup_json_ Json *texts = NULL, *p = NULL;
        int r = sandboxd_value_new_array(&texts);

        for (size_t n = 1; r >= 0 && n <= CERTIFICATION_REPLIES; n++) {
                _cleanup_(sandboxd_reply_done) SandboxdReply reply = SANDBOXD_REPLY_INIT;
                _cleanup_json_ Json *expected = NULL;
                const char *text;

                r = next_reply(run, step, &reply);
                if (r < 0)
                        return r;
                text = sandboxd_value_string(sandboxd_value_get(reply.parameters, "string"));
                r = step_more_reply(n, &expected);
                if (r >= 0 && (!json_same(reply.parameters, expected) ||
                               reply.has_more != (n < CERTIFICATION_REPLIES)))
                        return wrong(step, "wrong reply", reply.parameters);
                if (r >= 0)
                        r = sandboxd_value_append_string(texts, text);
        }
        if (r >= 0)
                r = sandboxd_value_new_object(&p);
        if (r >= 0)
                r = sandboxd_value_set(p, "last_more_replies", TAKE_PTR(texts));
        run->previous = sandboxd_value_unref(run->previous);
        run->previous = TAKE_PTR(p);
        return r;
}

static int run_step(Run *run, const Step *step)
{
        static const unsigned flags[] = {
                [STEP_PLAIN] = 0,
                [STEP_MORE] = SANDBOXD_MORE,
                [STEP_ONEWAY] = SANDBOXD_ONEWAY,
        };
        _cleanup_(sandboxd_reply_done) SandboxdReply reply = SANDBOXD_REPLY_INIT;
        _cleanup_json_ Json *p = NULL;
        int r = make_parameters(run, &p);

        if (r >= 0)
                r = sandboxd_send(run->client, step->method, p, flags[step->kind], NULL, 0);
        if (r < 0)
                return r;
        (void) printf("%s\n", step->method);
        if (step->kind == STEP_MORE)
                return take_replies(run, step);
        if (step->kind == STEP_ONEWAY) {
                run->previous = sandboxd_value_unref(run->previous);
                return 0;
        }
        r = next_reply(run, step, &reply);
        return r < 0 ? r : take_reply(run, step, &reply);
}

int main(int argc, char *argv[])
{
        Run run = { .client = NULL };
        int r;

        if (argc != 2)
                return 2;
        r = idl_set_new(&run.idl);
        if (r >= 0)
                r = sandboxd_connect(argv[1], &run.client);
        for (size_t i = 0; r >= 0 && i < n_steps; i++)
                r = run_step(&run, &steps[i]);
        run.id = sandboxd_value_unref(run.id);
        run.previous = sandboxd_value_unref(run.previous);
        run.client = sandboxd_client_free(run.client);
        run.idl = idl_set_free(run.idl);
        (void) printf("%s\n", r < 0 ? error_name(r) : "all right");
        return r < 0;
}
