/* The interfaces of the daemon as a set, and a description as text again. */

#include "proto/idl/idl.h"

#include <errno.h>
#include <string.h>

#include "proto/base/hash.h"
#include "proto/base/str.h"
#include "proto/idl/idl_texts.h"

struct IdlSet {
        IdlInterface **interfaces; /* in the order of idl_texts: sorted */
        size_t n;
        Map methods; /* full name to member */
};

IdlSet *idl_set_free(IdlSet *s)
{
        if (!s)
                return NULL;
        map_done(&s->methods);
        for (size_t i = 0; i < s->n; i++)
                (void) idl_interface_free(s->interfaces[i]);
        free(s->interfaces);
        free(s);
        return NULL;
}

static int add_methods(IdlSet *s, IdlInterface *i)
{
        int r;

        for (size_t k = 0; k < i->n_members; k++) {
                IdlMember *m = &i->members[k];

                if (m->kind != IDL_METHOD)
                        continue;
                r = map_put(&s->methods, m->full_name, strlen(m->full_name), m);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int add_text(IdlSet *s, const IdlText *t)
{
        IdlInterface *i;
        unsigned line;
        int r;

        r = idl_parse(t->text, t->size, &i, &line);
        if (r < 0)
                return r;
        i->text = t->text;
        s->interfaces[s->n++] = i;
        return add_methods(s, i);
}

int idl_set_new(IdlSet **ret)
{
        _cleanup_(idl_set_freep) IdlSet *s = NULL;
        int r;

        s = malloc(sizeof(*s));
        if (!s)
                return -ENOMEM;
        *s = (IdlSet){ .methods = MAP_INIT };
        s->interfaces = calloc(idl_n_texts, sizeof(*s->interfaces));
        if (!s->interfaces)
                return -ENOMEM;
        for (size_t i = 0; i < idl_n_texts; i++) {
                r = add_text(s, &idl_texts[i]);
                if (r < 0)
                        return r;
        }
        *ret = TAKE_PTR(s);
        return 0;
}

const IdlInterface *idl_set_at(const IdlSet *s, size_t i)
{
        return i < s->n ? s->interfaces[i] : NULL;
}

const IdlInterface *idl_set_find(const IdlSet *s, const char *interface_name)
{
        for (size_t i = 0; i < s->n; i++) {
                if (str_equal(s->interfaces[i]->name, interface_name))
                        return s->interfaces[i];
        }
        return NULL;
}

const IdlMember *idl_set_find_method(const IdlSet *s, const char *full_name)
{
        return map_get(&s->methods, full_name, strlen(full_name));
}

/* ---- as text ---- */

static int format_type(const IdlType *t, Buf *b);

static int format_fields(const IdlType *t, Buf *b)
{
        int r;

        r = buf_put_string(b, "(");
        for (size_t i = 0; r == 0 && i < t->n_fields; i++) {
                const IdlField *f = &t->fields[i];

                r = buf_printf(b, "%s%s%s", i > 0 ? ", " : "", f->name, f->type ? ": " : "");
                if (r == 0 && f->type)
                        r = format_type(f->type, b);
        }
        return r < 0 ? r : buf_put_string(b, ")");
}

static const char *type_word(const IdlType *t)
{
        switch (t->kind) {
        case IDL_BOOL:
                return "bool";
        case IDL_INT:
                return "int";
        case IDL_FLOAT:
                return "float";
        case IDL_STRING:
                return "string";
        case IDL_OBJECT:
                return "object";
        case IDL_ANY:
                return "any";
        case IDL_NAMED:
                return t->name;
        case IDL_ARRAY:
                return "[]";
        case IDL_MAP:
                return "[string]";
        case IDL_STRUCT:
        case IDL_ENUM:
        case _IDL_KIND_MAX:
        default:
                return "";
        }
}

static int format_type(const IdlType *t, Buf *b)
{
        int r;

        r = buf_printf(b, "%s%s", t->is_nullable ? "?" : "", type_word(t));
        if (r < 0)
                return r;
        if (t->element)
                return format_type(t->element, b);
        return t->kind == IDL_STRUCT || t->kind == IDL_ENUM ? format_fields(t, b) : 0;
}

static int format_member(const IdlMember *m, Buf *b)
{
        static const char *const keywords[] = {
                [IDL_TYPE] = "type",
                [IDL_METHOD] = "method",
                [IDL_ERROR] = "error",
        };
        int r;

        r = buf_printf(b, "\n%s %s%s", keywords[m->kind], m->name, m->kind == IDL_METHOD ? "" : " ");
        if (r < 0)
                return r;
        r = format_type(m->type, b);
        if (r < 0)
                return r;
        if (m->output) {
                r = buf_put_string(b, " -> ");
                if (r < 0)
                        return r;
                r = format_type(m->output, b);
                if (r < 0)
                        return r;
        }
        return buf_put_string(b, "\n");
}

int idl_format(const IdlInterface *i, Buf *b)
{
        int r;

        r = buf_printf(b, "interface %s\n", i->name);
        for (size_t k = 0; r == 0 && k < i->n_members; k++)
                r = format_member(&i->members[k], b);
        return r;
}
