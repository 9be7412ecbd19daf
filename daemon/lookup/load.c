/* All that the daemon goes by, checked as a whole: one fault, and nothing of it counts. */

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "daemon/lookup/lookup.h"
#include "daemon/policy/model.h"
#include "proto/base/bundle.h"
#include "proto/base/str.h"

#define SETTINGS_NAME "sandboxd.json"

/* ---- diagnostics ---- */

/* For people: cut where it does not fit. */
static int copy_escaped(char *to, size_t size, const char *from)
{
        _cleanup_free_ char *shown = NULL;
        size_t n;
        int r;

        r = str_escape(from, strlen(from), &shown);
        if (r < 0)
                return r;
        n = MIN_OF(strlen(shown), size - 1);
        memcpy(to, shown, n);
        to[n] = '\0';
        return 0;
}

static int put_diagnostic(const PolicyDiagnostic *d, PrivDiagnostic *to)
{
        int r;

        *to = (PrivDiagnostic){ .severity = d->severity, .line = d->line, .column = d->column };
        r = copy_escaped(to->file, sizeof(to->file), d->source);
        if (r >= 0)
                r = copy_escaped(to->key, sizeof(to->key), d->key ? d->key : "");
        if (r >= 0)
                r = copy_escaped(to->message, sizeof(to->message), d->message);
        return r;
}

static void print_diagnostic(const PrivDiagnostic *d)
{
        (void) fprintf(stderr, "%s:%u:%u: %s%s%s\n", d->file, d->line, d->column, d->key,
                       d->key[0] ? ": " : "", d->message);
}

/* What is wrong before what is merely odd: not all may have room. */
static int put_diagnostics(const PolicyDiagnostics *d, PrivLoaded *to)
{
        PrivDiagnostic one;

        for (unsigned pass = 0; pass < 2; pass++) {
                LIST_FOREACH (g, &d->list, PolicyDiagnostic, link) {
                        int r;

                        if ((g->severity == SEVERITY_FAILURE) != (pass == 0))
                                continue;
                        r = put_diagnostic(g, &one);
                        if (r < 0)
                                return r;
                        print_diagnostic(&one);
                        if (to->n_diagnostics < PRIV_DIAGNOSTICS_MAX)
                                to->diagnostics[to->n_diagnostics++] = one;
                }
        }
        return 0;
}

/* ---- texts ---- */

/* As workers do it. */
static int load_profile(void *userdata, const char *name, char **ret_text, size_t *ret_size,
                        char **ret_source)
{
        const Bundle *b = userdata;
        const BundleText *t = name[0] == BUNDLE_MARK ? NULL : bundle_find(b, name);
        int r;

        if (!t)
                return -ENOENT;
        r = str_dup(t->source, ret_source);
        if (r < 0)
                return r;
        *ret_text = malloc((size_t) t->size + 1);
        if (!*ret_text)
                return -ENOMEM;
        memcpy(*ret_text, bundle_text(b, t), (size_t) t->size + 1);
        *ret_size = (size_t) t->size;
        return 0;
}

static int check_profile(Bundle *b, const BundleText *t, PolicyDiagnostics *d)
{
        _cleanup_(policy_freep) Policy *own = NULL, *resolved = NULL;
        unsigned n_before = d->n_failures;
        int r;

        if (bundle_find(b, t->name) != t)
                return diagnose(d, SEVERITY_WARNING, &(DiagnosticPlace){ .source = t->source },
                                "it is not used, a shipped profile has its name: choose another");
        r = policy_parse(POLICY_PROFILE, t->source, bundle_text(b, t), (size_t) t->size, d, &own);
        if (r >= 0)
                r = policy_resolve(own, load_profile, b, d, &resolved);
        if (r >= 0 || d->n_failures > n_before)
                return r == -ENOMEM ? r : 0;
        return r == -ENOMEM ? r
                            : diagnose(d, SEVERITY_FAILURE,
                                       &(DiagnosticPlace){ .source = t->source, .key = "extends" },
                                       "it cannot be resolved");
}

/* What holds for every session: with a fault in it nothing starts. */
static int check_layer(const Bundle *b, const BundleText *t, PolicyDiagnostics *d, PrivLoaded *to)
{
        PolicyKind kind = str_equal(t->name, BUNDLE_CEILING) ? POLICY_CEILING : POLICY_USER;
        _cleanup_(policy_freep) Policy *p = NULL;
        unsigned n_before = d->n_failures;
        int r = policy_parse(kind, t->source, bundle_text(b, t), (size_t) t->size, d, &p);

        if (r == -EINVAL && d->n_failures > n_before) {
                to->has_settings = 0;
                return 0;
        }
        return r;
}

static int check_settings(const char *text, size_t size, const PrivSettings *running, PolicyDiagnostics *d,
                          PrivLoaded *to)
{
        _cleanup_(policy_freep) Policy *p = NULL;
        int r = 0;

        policy_settings_default(&to->settings);
        /* Without a file the defaults count: as a text that says nothing. */
        r = policy_parse(POLICY_SETTINGS, SETTINGS_NAME, text ? text : "{}", text ? size : 2, d, &p);
        if (r == -EINVAL)
                return 0;
        if (r >= 0 && running)
                r = policy_settings_check_fixed(p, running, d);
        if (r < 0)
                return r;
        to->has_settings = d->n_failures == 0;
        policy_settings(p, &to->settings);
        return 0;
}

static int digest_texts(const Bundle *b, const char *settings, size_t size, uint8_t digest[PRIV_DIGEST_SIZE])
{
        uint64_t n_settings = size, has_settings = settings != NULL;
        EVP_MD_CTX *c = EVP_MD_CTX_new();
        bool is_good = c && EVP_DigestInit_ex(c, EVP_sha256(), NULL) == 1 &&
                       EVP_DigestUpdate(c, &has_settings, sizeof(has_settings)) == 1 &&
                       EVP_DigestUpdate(c, &n_settings, sizeof(n_settings)) == 1 &&
                       (size == 0 || EVP_DigestUpdate(c, settings, size) == 1);

        for (size_t i = 0; is_good && i < bundle_n(b); i++) {
                const BundleText *t = bundle_at(b, i);

                is_good = EVP_DigestUpdate(c, t->source, strlen(t->source) + 1) == 1 &&
                          EVP_DigestUpdate(c, &t->size, sizeof(t->size)) == 1 &&
                          EVP_DigestUpdate(c, bundle_text(b, t), (size_t) t->size) == 1;
        }
        is_good = is_good && EVP_DigestFinal_ex(c, digest, NULL) == 1;
        EVP_MD_CTX_free(c);
        return is_good ? 0 : -ENOMEM;
}

static int check_all(Bundle *b, const char *settings, size_t size, const PrivSettings *running,
                     PolicyDiagnostics *d, PrivLoaded *to)
{
        int r;

        r = check_settings(settings, size, running, d, to);
        for (size_t i = 0; r >= 0 && i < bundle_n(b); i++)
                r = bundle_at(b, i)->name[0] == BUNDLE_MARK ? check_layer(b, bundle_at(b, i), d, to)
                                                            : check_profile(b, bundle_at(b, i), d);
        return r;
}

int lookup_load(int bundle_fd, const char *settings, size_t size, const PrivSettings *running,
                PrivLoaded *ret)
{
        _cleanup_(bundle_freep) Bundle *b = NULL;
        PolicyDiagnostics d;
        int r;

        *ret = (PrivLoaded){ 0 };
        r = bundle_open(bundle_fd, &b);
        if (r < 0)
                return r;
        policy_diagnostics_init(&d);
        r = check_all(b, settings, size, running, &d, ret);
        if (r >= 0)
                r = put_diagnostics(&d, ret);
        if (r >= 0)
                r = digest_texts(b, settings, size, ret->digest);
        ret->is_valid = r >= 0 && d.n_failures == 0;
        policy_diagnostics_done(&d);
        return r;
}
