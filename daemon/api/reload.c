/* io.sandboxd.Policy.Reload: the launcher's answer in words. */

#include <errno.h>

#include "daemon/api/manager.h"
#include "proto/base/str.h"

int reload_take(const void *data, PrivReload **ret)
{
        _cleanup_free_ PrivReload *r = malloc(sizeof(*r));

        if (!r)
                return -ENOMEM;
        memcpy(r, data, sizeof(*r));
        if (r->n_diagnostics > PRIV_DIAGNOSTICS_MAX)
                return -EPROTO;
        for (size_t i = 0; i < r->n_diagnostics; i++) {
                const PrivDiagnostic *d = &r->diagnostics[i];

                if (!PRIV_STRING_OK(d->file) || !PRIV_STRING_OK(d->key) || !PRIV_STRING_OK(d->message))
                        return -EPROTO;
        }
        *ret = TAKE_PTR(r);
        return 0;
}

static int set_place(Json *o, const PrivDiagnostic *d)
{
        int r = 0;

        if (d->file[0])
                r = json_set_escaped(o, "file", d->file, strlen(d->file));
        if (r >= 0 && d->line > 0)
                r = json_set_integer(o, "line", d->line);
        if (r >= 0 && d->column > 0)
                r = json_set_integer(o, "column", d->column);
        if (r >= 0 && d->key[0])
                r = json_set_escaped(o, "key", d->key, strlen(d->key));
        return r;
}

static int append_diagnostic(Json *list, const PrivDiagnostic *d)
{
        static const char *const severities[] = { "info", "warning" };
        _cleanup_json_ Json *o = NULL;
        int r;

        r = json_new_object(&o);
        if (r >= 0)
                r = json_set_string(o, "severity",
                                    d->severity < ELEMENTSOF(severities) ? severities[d->severity]
                                                                         : "failure");
        if (r >= 0)
                r = set_place(o, d);
        if (r >= 0)
                r = json_set_escaped(o, "message", d->message, strlen(d->message));
        return r < 0 ? r : json_append(list, TAKE_PTR(o));
}

int reload_format_invalid(const PrivReload *r, Json **ret)
{
        _cleanup_json_ Json *p = NULL, *list = NULL;
        int e;

        e = json_new_object(&p);
        if (e >= 0)
                e = json_new_array(&list);
        for (size_t i = 0; e >= 0 && i < r->n_diagnostics; i++)
                e = append_diagnostic(list, &r->diagnostics[i]);
        if (e >= 0)
                e = json_set_integer(p, "generation", (int64_t) r->generation);
        if (e >= 0)
                e = json_set(p, "diagnostics", TAKE_PTR(list));
        if (e >= 0)
                *ret = TAKE_PTR(p);
        return e;
}

/* Sessions keep the policy that they were started with, and no ceiling is enforced: nothing is cut. */
int reload_format(const PrivReload *r, Json **ret)
{
        _cleanup_json_ Json *p = NULL;
        int e;

        e = reload_format_invalid(r, &p);
        if (e >= 0)
                e = json_set_boolean(p, "changed", r->is_changed != 0);
        if (e >= 0)
                e = json_set_integer(p, "closedConnections", 0);
        if (e >= 0)
                *ret = TAKE_PTR(p);
        return e;
}
