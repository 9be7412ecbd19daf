/* The table of what is implemented, and the methods that say who serves. */

#include "daemon/api/session.h"
#include "proto/base/fd.h"
#include "proto/base/str.h"

int method_get_info(Client *c, _unused_ const Json *parameters)
{
        _cleanup_json_ Json *p = NULL, *names = NULL;
        int r;

        r = json_new_object(&p);
        if (r >= 0)
                r = json_new_array(&names);
        for (size_t i = 0; r >= 0 && idl_set_at(c->api->idl, i); i++)
                r = json_append_string(names, idl_set_at(c->api->idl, i)->name);
        if (r < 0 || (r = json_set_string(p, "vendor", "sandboxd")) < 0 ||
            (r = json_set_string(p, "product", "sandboxd")) < 0 ||
            (r = json_set_string(p, "version", SANDBOXD_VERSION)) < 0 ||
            (r = json_set_string(p, "url", "")) < 0 || (r = json_set(p, "interfaces", TAKE_PTR(names))) < 0)
                return r;
        client_reply(c, TAKE_PTR(p), false, NULL, 0);
        return 0;
}

int method_get_interface_description(Client *c, const Json *parameters)
{
        const char *name = get_string(parameters, "interface");
        const IdlInterface *interface = name ? idl_set_find(c->api->idl, name) : NULL;
        _cleanup_json_ Json *p = NULL;
        int r;

        if (!interface) {
                client_error_string(c, SERVICE_ERROR "InterfaceNotFound", "interface", name ? name : "");
                return 0;
        }
        r = json_new_object(&p);
        if (r >= 0)
                r = json_set_string(p, "description", interface->text);
        if (r < 0)
                return r;
        client_reply(c, TAKE_PTR(p), false, NULL, 0);
        return 0;
}

static const struct {
        const char *name;
        Method method;
} methods[] = {
        { "org.varlink.service.GetInfo", method_get_info },
        { "org.varlink.service.GetInterfaceDescription", method_get_interface_description },
        { "io.sandboxd.Manager.Describe", method_manager_describe },
        { "io.sandboxd.Manager.Diagnose", method_manager_diagnose },
        { "io.sandboxd.Manager.Drain", method_manager_drain },
        { "io.systemd.service.Ping", method_service_ping },
        { "io.systemd.service.Reload", method_service_reload },
        { "io.systemd.service.SetLogLevel", method_service_set_log_level },
        { "io.systemd.service.GetLogLevel", method_service_get_log_level },
        { "io.systemd.service.GetEnvironment", method_service_get_environment },
        { "io.sandboxd.Events.Subscribe", method_events_subscribe },
        { "io.sandboxd.Session.Spawn", method_spawn },
        { "io.sandboxd.Session.Create", method_create },
        { "io.sandboxd.Session.Exec", method_exec },
        { "io.sandboxd.Session.Attach", method_attach },
        { "io.sandboxd.Session.Resize", method_resize },
        { "io.sandboxd.Session.Logs", method_logs },
        { "io.sandboxd.Session.Wait", method_wait },
        { "io.sandboxd.Session.Signal", method_signal },
        { "io.sandboxd.Session.Freeze", method_freeze },
        { "io.sandboxd.Session.Thaw", method_thaw },
        { "io.sandboxd.Session.Terminate", method_terminate },
        { "io.sandboxd.Session.List", method_list },
        { "io.sandboxd.Session.Forward", method_forward },
        { "io.sandboxd.Session.Describe", method_describe },
        { "io.sandboxd.Session.Report", method_report },
        { "io.sandboxd.Session.Remove", method_remove },
        { "io.sandboxd.Session.Prune", method_prune },
        { "io.sandboxd.Policy.List", method_policy_list },
        { "io.sandboxd.Policy.Get", method_policy_get },
        { "io.sandboxd.Policy.Check", method_policy_check },
        { "io.sandboxd.Policy.Validate", method_policy_validate },
        { "io.sandboxd.Policy.Describe", method_policy_describe },
        { "io.sandboxd.Policy.Reload", method_policy_reload },
        { "io.sandboxd.Audit.Query", method_audit_query },
        { "io.sandboxd.Audit.Verify", method_audit_verify },
};

Method method_find(const char *full_name)
{
        for (size_t i = 0; i < ELEMENTSOF(methods); i++) {
                if (str_equal(methods[i].name, full_name))
                        return methods[i].method;
        }
        return NULL;
}
