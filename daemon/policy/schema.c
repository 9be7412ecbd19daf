/*
 * The keys of a policy text. Every key of the format is known here; one that this version does not enforce
 * is a failure that says so, as is one that is unknown: what a text says holds, or it is not accepted.
 */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "daemon/policy/model.h"
#include "proto/base/parse.h"
#include "proto/base/str.h"

#define KEY_PATH_SIZE         256U
#define NAME_MAX_BYTES        63U
#define DESCRIPTION_MAX_BYTES 1024U

__attribute__((format(printf, 4, 0))) static int report(SchemaReader *x, PolicySeverity severity,
                                                        const TextNode *n, const char *format, va_list ap)
{
        _cleanup_free_ char *message = NULL;
        char key[KEY_PATH_SIZE];

        if (vasprintf(&message, format, ap) < 0) {
                message = NULL;
                return -ENOMEM;
        }
        text_path(n, key, sizeof(key));
        return diagnose(x->diagnostics, severity,
                        &(DiagnosticPlace){ .source = x->source,
                                            .line = n->line,
                                            .column = n->column,
                                            .key = key },
                        "%s", message);
}

int schema_fail(SchemaReader *x, const TextNode *n, const char *format, ...)
{
        va_list ap;
        int r;

        va_start(ap, format);
        r = report(x, SEVERITY_FAILURE, n, format, ap);
        va_end(ap);
        return r;
}

int schema_warn(SchemaReader *x, const TextNode *n, const char *format, ...)
{
        va_list ap;
        int r;

        va_start(ap, format);
        r = report(x, SEVERITY_WARNING, n, format, ap);
        va_end(ap);
        return r;
}

int schema_expect(SchemaReader *x, const TextNode *n, TextType type)
{
        int r;

        if (n->type == type)
                return 1;
        r = schema_fail(x, n, "expected %s, found %s", text_type_to_string(type),
                        text_type_to_string(n->type));
        return r < 0 ? r : 0;
}

static int fail_unknown(SchemaReader *x, const TextNode *n, const KeyTable *table)
{
        char known[512] = "";

        for (size_t i = 0; i < table->n; i++) {
                size_t used = strlen(known);

                if (table->rules[i].read && str_printf(known + used, sizeof(known) - used, "%s%s",
                                                       used ? ", " : "", table->rules[i].name) < 0)
                        break;
        }
        return schema_fail(x, n, "unknown key; known here: %s", known);
}

static int read_key(SchemaReader *x, const TextNode *n, const KeyTable *table)
{
        for (size_t i = 0; i < table->n; i++) {
                const KeyRule *rule = &table->rules[i];

                if (!str_equal(rule->name, n->key))
                        continue;
                if (rule->read)
                        return rule->read(x, n);
                return schema_fail(x, n, "not enforced by this version%s%s; remove the key",
                                   rule->advice ? ": " : "", rule->advice ? rule->advice : "");
        }
        return fail_unknown(x, n, table);
}

int schema_read_object(SchemaReader *x, const TextNode *n, const KeyTable *table)
{
        int r;

        r = schema_expect(x, n, TEXT_OBJECT);
        if (r <= 0)
                return r;
        for (const TextNode *c = n->first; c; c = c->next) {
                r = read_key(x, c, table);
                if (r < 0)
                        return r;
        }
        return 0;
}

int schema_read_strings(SchemaReader *x, const TextNode *n, KeyReader reader)
{
        int r;

        r = schema_expect(x, n, TEXT_ARRAY);
        if (r <= 0)
                return r;
        for (const TextNode *c = n->first; c; c = c->next) {
                r = schema_expect(x, c, TEXT_STRING);
                if (r > 0)
                        r = reader(x, c);
                if (r == -E2BIG)
                        return schema_fail(x, c, "too many entries; split the list or name a common parent");
                if (r < 0)
                        return r;
        }
        return 0;
}

static bool is_name(const char *s)
{
        size_t n = strlen(s);

        if (n == 0 || n > NAME_MAX_BYTES || s[0] == '-' || s[0] == '_')
                return false;
        return s[strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789-_")] == '\0';
}

int schema_read_version(SchemaReader *x, const TextNode *n)
{
        int r;

        r = schema_expect(x, n, TEXT_INTEGER);
        if (r <= 0)
                return r;
        return n->integer == 1 ? 0
                               : schema_fail(x, n, "this version reads format 1 only; write \"version\": 1");
}

static int read_name(SchemaReader *x, const TextNode *n)
{
        int r;

        r = schema_expect(x, n, TEXT_STRING);
        if (r <= 0)
                return r;
        if (!is_name(n->string))
                return schema_fail(
                                x, n,
                                "a name has 1 to 63 of a-z, 0-9, '-' and '_', and begins with a letter or "
                                "digit");
        return str_dup(n->string, &x->policy->name);
}

static int read_description(SchemaReader *x, const TextNode *n)
{
        int r;

        r = schema_expect(x, n, TEXT_STRING);
        if (r <= 0)
                return r;
        if (strlen(n->string) > DESCRIPTION_MAX_BYTES)
                return schema_fail(x, n, "a description has at most 1024 bytes");
        return str_dup(n->string, &x->policy->description);
}

static int read_parent(SchemaReader *x, const TextNode *n)
{
        if (!is_name(n->string))
                return schema_fail(x, n, "expected the name of a profile");
        if (x->policy->extends.n >= POLICY_EXTENDS_MAX)
                return -E2BIG;
        return string_list_add(&x->policy->extends, n->string);
}

static int read_extends(SchemaReader *x, const TextNode *n)
{
        if (x->policy->kind != POLICY_PROFILE)
                return schema_fail(x, n, "only profiles extend others; remove the key");
        return schema_read_strings(x, n, read_parent);
}

static int read_ask_timeout(SchemaReader *x, const TextNode *n)
{
        int r;

        r = schema_expect(x, n, TEXT_STRING);
        if (r <= 0)
                return r;
        if (parse_duration(n->string, &x->policy->ask_timeout_usec) < 0 || x->policy->ask_timeout_usec == 0)
                return schema_fail(x, n, "expected a duration such as \"25s\"");
        x->policy->has |= HAS_ASK_TIMEOUT;
        return 0;
}

static const KeyRule ask_rules[] = {
        { "timeout", read_ask_timeout, NULL },
        { "pending", NULL, "questions are answered with deny for now" },
};
static const KeyTable ask_table = { ask_rules, ELEMENTSOF(ask_rules) };

static int read_ask(SchemaReader *x, const TextNode *n)
{
        return schema_read_object(x, n, &ask_table);
}

static const KeyRule policy_rules[] = {
        { "$schema", NULL, "editors find the schema by their own settings" },
        { "version", schema_read_version, NULL },
        { "name", read_name, NULL },
        { "description", read_description, NULL },
        { "extends", read_extends, NULL },
        { "filesystem", schema_read_filesystem, NULL },
        { "network", schema_read_network, NULL },
        { "limits", schema_read_limits, NULL },
        { "environment", schema_read_environment, NULL },
        { "ask", read_ask, NULL },
        { "git", NULL, "credentials of git are not brokered yet" },
        { "credentials", NULL, "no credential is injected yet" },
        { "groups", schema_read_groups, NULL },
        { "open", NULL, "the catalogue's defaults cannot be opened yet" },
        { "devices", NULL, "sessions have the standard /dev only" },
};
static const KeyTable policy_table = { policy_rules, ELEMENTSOF(policy_rules) };

/* A project narrows the network alone: what else it says would not hold. */
static const KeyRule narrowing_rules[] = {
        { "version", schema_read_version, NULL },
        { "name", read_name, NULL },
        { "description", read_description, NULL },
        { "network", schema_read_network, NULL },
        { "filesystem", NULL, "in a project only network is" },
        { "limits", NULL, "in a project only network is" },
        { "groups", NULL, "in a project only network is" },
        { "environment", NULL, "in a project only network is" },
};
static const KeyTable narrowing_table = { narrowing_rules, ELEMENTSOF(narrowing_rules) };

static const KeyRule ceiling_rules[] = {
        { "version", schema_read_version, NULL },
        { "name", read_name, NULL },
        { "description", read_description, NULL },
        { "filesystem", schema_read_filesystem, NULL },
        { "network", schema_read_network, NULL },
        { "limits", schema_read_limits, NULL },
        { "groups", schema_read_groups, NULL },
        { "environment", NULL, "what a variable says opens nothing: there is nothing to bound" },
};
static const KeyTable ceiling_table = { ceiling_rules, ELEMENTSOF(ceiling_rules) };

static int read_root(SchemaReader *x, const TextNode *root)
{
        bool has_version = false;

        if (x->policy->kind == POLICY_SETTINGS)
                return schema_read_settings(x, root);
        for (const TextNode *n = root->first; n; n = n->next)
                has_version = has_version || str_equal(n->key, "version");
        if (!has_version) {
                int r = schema_fail(x, root, "the key version is missing; write \"version\": 1");

                if (r < 0)
                        return r;
        }
        if (x->policy->kind == POLICY_PROJECT)
                return schema_read_object(x, root, &narrowing_table);
        if (x->policy->kind == POLICY_CEILING)
                return schema_read_object(x, root, &ceiling_table);
        return schema_read_object(x, root, &policy_table);
}

int policy_parse(PolicyKind kind, const char *source, const char *text, size_t size,
                 PolicyDiagnostics *diagnostics, Policy **ret)
{
        _cleanup_(policy_freep) Policy *p = NULL;
        _cleanup_(text_freep) TextNode *root = NULL;
        SchemaReader x = { .diagnostics = diagnostics, .source = source };
        unsigned n_before = diagnostics->n_failures;
        TextError error;
        int r;

        r = policy_new(kind, source, &p);
        if (r < 0)
                return r;
        x.policy = p;
        r = text_parse(text, size, &root, &error);
        if (r == -EINVAL)
                r = diagnose(diagnostics, SEVERITY_FAILURE,
                             &(DiagnosticPlace){
                                             .source = source, .line = error.line, .column = error.column },
                             "%s", error.message);
        else if (r >= 0)
                r = read_root(&x, root);
        map_done(&x.ids);
        if (r < 0)
                return r;
        if (diagnostics->n_failures > n_before)
                return -EINVAL;
        *ret = TAKE_PTR(p);
        return 0;
}
