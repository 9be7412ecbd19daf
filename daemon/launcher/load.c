#include "daemon/launcher/load.h"

#include <errno.h>
#include <string.h>

#include "daemon/launcher/profiles.h"
#include "daemon/launcher/trusted.h"
#include "proto/base/error.h"
#include "proto/base/fd.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

#define LOAD_SETTINGS "sandboxd.json"

static int fail(Loading *x, int r, const char *file, const char *message)
{
        fault_set(&x->loaded.diagnostics[0], file, message);
        x->loaded.n_diagnostics = 1;
        return r;
}

static bool is_sound(const PrivLoaded *p)
{
        if (p->settings.n_servers > PRIV_RESOLVERS_MAX || p->n_diagnostics > PRIV_DIAGNOSTICS_MAX ||
            p->has_settings > 1 || p->is_valid > p->has_settings)
                return false;
        for (size_t i = 0; i < p->n_diagnostics; i++) {
                const PrivDiagnostic *d = &p->diagnostics[i];

                if (!PRIV_STRING_OK(d->file) || !PRIV_STRING_OK(d->key) || !PRIV_STRING_OK(d->message))
                        return false;
        }
        return true;
}

static void on_answer(void *userdata, int error, const void *data, size_t size)
{
        Loading *x = userdata;
        int r = error;

        x->lookup = NULL;
        if (r >= 0 && size != sizeof(x->loaded))
                r = -EPROTO;
        if (r >= 0) {
                memcpy(&x->loaded, data, sizeof(x->loaded));
                if (!is_sound(&x->loaded)) {
                        x->loaded = (PrivLoaded){ 0 };
                        r = -EPROTO;
                }
        }
        if (r < 0)
                (void) fail(x, r, LOAD_SETTINGS,
                            "the process that reads settings and profiles ended without an answer");
        x->callback(x->launcher, r);
}

/* Opened here, where root may; read by a child, who may not. */
static int open_settings(Loading *x, int *ret_fd)
{
        const char *folder = x->launcher->config->config_dir;
        TrustedFault fault = { "" };
        int r;

        r = trusted_open(folder, LOAD_SETTINGS, ret_fd, &fault);
        if (r >= 0 || r == -ENOENT)
                return 0;
        (void) log_error(r, "%s/" LOAD_SETTINGS, folder);
        return fail(x, r, LOAD_SETTINGS, fault.text[0] ? fault.text : "it cannot be opened");
}

static int ask(Loading *x, bool is_running, int settings_fd)
{
        LookupQuestion question = { .what = "load",
                                    .child_fds = { x->profiles_fd, settings_fd },
                                    .n_child_fds = settings_fd >= 0 ? 2 : 1 };
        char uid[16];

        if (str_printf(uid, sizeof(uid), "%u", x->launcher->settings.root_session_uid) < 0)
                return -EINVAL;
        if (is_running)
                question.argument = uid;
        return lookup_new(x->launcher, &question, on_answer, x, &x->lookup);
}

int loading_begin(Loading *x, bool is_running)
{
        _cleanup_close_ int settings_fd = -EBADF;
        int r;

        x->loaded = (PrivLoaded){ 0 };
        x->profiles_fd = fd_close(x->profiles_fd);
        r = open_settings(x, &settings_fd);
        if (r < 0)
                return r;
        r = profiles_gather(x->launcher->config, &x->profiles_fd, &x->loaded.diagnostics[0]);
        if (r < 0) {
                x->loaded.n_diagnostics = 1;
                return r;
        }
        r = ask(x, is_running, settings_fd);
        return r < 0 ? fail(x, r, LOAD_SETTINGS, "no process can be started that reads it") : 0;
}

Loading *loading_new(Launcher *l, void (*callback)(Launcher *l, int error))
{
        Loading *x = calloc(1, sizeof(*x));

        if (x)
                *x = (Loading){ .launcher = l, .callback = callback, .profiles_fd = -EBADF };
        return x;
}

Loading *loading_free(Loading *x)
{
        if (!x)
                return NULL;
        x->lookup = lookup_free(x->lookup);
        x->profiles_fd = fd_close(x->profiles_fd);
        free(x);
        return NULL;
}
