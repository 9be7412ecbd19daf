/*
 * Parser of interface descriptions: recursive descent over the bytes, one token of look-ahead,
 * depth-limited. The texts are our own, but the parser does not rely on that: it is tested and fuzzed with
 * others'.
 *
 * Grammar: see the varlink specification. Comments go to the end of the line; those right before a member
 * are its doc, from which the flags of methods are read (the language has no syntax for them).
 */

#include <errno.h>
#include <string.h>

#include "proto/base/str.h"
#include "proto/idl/idl.h"

#define NAME_MAX_SIZE 255U
#define MEMBERS_MAX   1024U
#define FIELDS_MAX    256U
#define DOC_MAX       (16U * 1024U)

typedef struct Parser {
        const char *p;
        const char *end;
        unsigned line;
        unsigned depth;
        Buf doc; /* comment lines since the last token, joined by spaces */
} Parser;

/* ---- freeing ---- */

static void fields_free(IdlField *fields, size_t n);

static IdlType *type_free(IdlType *t)
{
        if (!t)
                return NULL;
        fields_free(t->fields, t->n_fields);
        (void) type_free(t->element);
        free(t->name);
        free(t);
        return NULL;
}
DEFINE_CLEANUP(IdlType *, type_free)

static void fields_free(IdlField *fields, size_t n)
{
        for (size_t i = 0; i < n; i++) {
                free(fields[i].name);
                (void) type_free(fields[i].type);
        }
        free(fields);
}

static void member_done(IdlMember *m)
{
        free(m->name);
        free(m->full_name);
        free(m->doc);
        (void) type_free(m->type);
        (void) type_free(m->output);
}

IdlInterface *idl_interface_free(IdlInterface *i)
{
        if (!i)
                return NULL;
        for (size_t k = 0; k < i->n_members; k++)
                member_done(&i->members[k]);
        free(i->members);
        free(i->name);
        free(i);
        return NULL;
}

/* ---- tokens ---- */

static int take_comment(Parser *p)
{
        const char *begin = ++p->p;
        int r;

        while (p->p < p->end && *p->p != '\n')
                p->p++;
        while (begin < p->p && *begin == ' ')
                begin++;
        if (buf_size(&p->doc) > 0) {
                r = buf_put(&p->doc, " ", 1);
                if (r < 0)
                        return r;
        }
        return buf_put(&p->doc, begin, (size_t) (p->p - begin));
}

/* White space and comments. An empty line ends a doc comment: what stood above it belongs to nobody. */
static int skip(Parser *p)
{
        bool is_line_empty = false;
        int r;

        while (p->p < p->end) {
                if (*p->p == '#') {
                        is_line_empty = false;
                        r = take_comment(p);
                        if (r < 0)
                                return r == -ENOBUFS ? -EBADMSG : r;
                        continue;
                }
                if (*p->p != ' ' && *p->p != '\t' && *p->p != '\n' && *p->p != '\r')
                        break;
                if (*p->p++ != '\n')
                        continue;
                p->line++;
                if (is_line_empty)
                        buf_consume(&p->doc, buf_size(&p->doc));
                is_line_empty = true;
        }
        return 0;
}

static bool peek(const Parser *p, char c)
{
        return p->p < p->end && *p->p == c;
}

/* A sign, if it is the next thing, and the space behind it. 1: it was. */
static int accept_sign(Parser *p, const char *sign)
{
        size_t n = strlen(sign);
        int r;

        if ((size_t) (p->end - p->p) < n || memcmp(p->p, sign, n) != 0)
                return 0;
        p->p += n;
        buf_consume(&p->doc, buf_size(&p->doc));
        r = skip(p);
        return r < 0 ? r : 1;
}

static int expect_sign(Parser *p, const char *sign)
{
        int r = accept_sign(p, sign);

        if (r < 0)
                return r;
        return r > 0 ? 0 : -EBADMSG;
}

static bool is_alnum(char c)
{
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

static bool is_upper(char c)
{
        return c >= 'A' && c <= 'Z';
}

/* Letters and digits, and inner_signs between two of them. */
static int take_word(Parser *p, const char *inner_signs, char **ret)
{
        const char *begin = p->p;
        char *name;
        int r;

        while (p->p < p->end && (is_alnum(*p->p) || (*p->p != '\0' && strchr(inner_signs, *p->p)))) {
                bool is_sign = !is_alnum(*p->p);

                if (is_sign && (p->p == begin || p->end - p->p < 2 || !is_alnum(p->p[1])))
                        return -EBADMSG;
                p->p++;
        }
        if (p->p == begin || (*begin >= '0' && *begin <= '9') || (size_t) (p->p - begin) > NAME_MAX_SIZE)
                return -EBADMSG;
        name = strndup(begin, (size_t) (p->p - begin));
        if (!name)
                return -ENOMEM;
        r = skip(p);
        if (r < 0) {
                free(name);
                return r;
        }
        *ret = name;
        return 0;
}

/* ---- types ---- */

static int parse_type(Parser *p, IdlType **ret);

static int add_field(IdlType *t, const IdlField *f)
{
        IdlField *bigger;

        if (t->n_fields >= FIELDS_MAX)
                return -EBADMSG;
        for (size_t i = 0; i < t->n_fields; i++) {
                if (str_equal(t->fields[i].name, f->name))
                        return -EBADMSG;
        }
        bigger = reallocarray(t->fields, t->n_fields + 1, sizeof(*bigger));
        if (!bigger)
                return -ENOMEM;
        t->fields = bigger;
        t->fields[t->n_fields++] = *f;
        return 0;
}

/* The first field decides between struct and enum; the others have to be alike. */
static int parse_field(Parser *p, IdlType *t)
{
        _cleanup_free_ char *name = NULL;
        _cleanup_(type_freep) IdlType *type = NULL;
        bool is_first = t->n_fields == 0;
        int r;

        r = take_word(p, "_", &name);
        if (r < 0)
                return r;
        if (is_first && !peek(p, ':'))
                t->kind = IDL_ENUM;
        if (t->kind == IDL_STRUCT) {
                r = expect_sign(p, ":");
                if (r < 0)
                        return r;
                r = parse_type(p, &type);
                if (r < 0)
                        return r;
        }
        r = add_field(t, &(IdlField){ .name = name, .type = type });
        if (r < 0)
                return r;
        name = NULL;
        type = NULL;
        return 0;
}

/* A struct or an enum, from its bracket on. */
static int parse_fields(Parser *p, IdlType *t)
{
        int r;

        t->kind = IDL_STRUCT;
        r = expect_sign(p, "(");
        if (r < 0)
                return r;
        if (peek(p, ')'))
                return expect_sign(p, ")");
        for (;;) {
                r = parse_field(p, t);
                if (r < 0)
                        return r;
                r = accept_sign(p, ",");
                if (r < 0)
                        return r;
                if (r == 0)
                        return expect_sign(p, ")");
        }
}

static int parse_named(Parser *p, IdlType *t)
{
        static const char *const builtin[] = {
                [IDL_BOOL] = "bool",     [IDL_INT] = "int",       [IDL_FLOAT] = "float",
                [IDL_STRING] = "string", [IDL_OBJECT] = "object", [IDL_ANY] = "any",
        };
        int r;

        r = take_word(p, "", &t->name);
        if (r < 0)
                return r;
        t->kind = IDL_NAMED;
        for (size_t i = 0; i < ELEMENTSOF(builtin); i++) {
                if (!str_equal(t->name, builtin[i]))
                        continue;
                t->kind = (IdlKind) i;
                free(t->name);
                t->name = NULL;
                return 0;
        }
        return is_upper(t->name[0]) ? 0 : -EBADMSG;
}

static int parse_element(Parser *p, IdlType *t, IdlKind kind)
{
        t->kind = kind;
        return parse_type(p, &t->element);
}

static int parse_type_into(Parser *p, IdlType *t)
{
        int r;

        r = accept_sign(p, "?");
        if (r < 0)
                return r;
        t->is_nullable = r > 0;
        r = accept_sign(p, "[]");
        if (r != 0)
                return r < 0 ? r : parse_element(p, t, IDL_ARRAY);
        r = accept_sign(p, "[string]");
        if (r != 0)
                return r < 0 ? r : parse_element(p, t, IDL_MAP);
        return peek(p, '(') ? parse_fields(p, t) : parse_named(p, t);
}

static int parse_type(Parser *p, IdlType **ret)
{
        _cleanup_(type_freep) IdlType *t = NULL;
        int r;

        if (p->depth >= IDL_DEPTH_MAX)
                return -EBADMSG;
        t = calloc(1, sizeof(*t));
        if (!t)
                return -ENOMEM;
        p->depth++;
        r = parse_type_into(p, t);
        p->depth--;
        if (r < 0)
                return r;
        *ret = TAKE_PTR(t);
        return 0;
}

/* ---- members ---- */

static int parse_struct(Parser *p, IdlType **ret)
{
        int r;

        if (!peek(p, '('))
                return -EBADMSG;
        r = parse_type(p, ret);
        if (r < 0)
                return r;
        return (*ret)->kind == IDL_STRUCT ? 0 : -EBADMSG;
}

static int parse_member_body(Parser *p, IdlMember *m)
{
        int r;

        r = take_word(p, "", &m->name);
        if (r < 0)
                return r;
        if (!is_upper(m->name[0]))
                return -EBADMSG;
        if (m->kind == IDL_TYPE)
                return peek(p, '(') ? parse_type(p, &m->type) : -EBADMSG;
        r = parse_struct(p, &m->type);
        if (r < 0 || m->kind == IDL_ERROR)
                return r;
        r = expect_sign(p, "->");
        return r < 0 ? r : parse_struct(p, &m->output);
}

static int parse_member_kind(Parser *p, IdlMemberKind *ret)
{
        static const char *const keywords[] = {
                [IDL_TYPE] = "type",
                [IDL_METHOD] = "method",
                [IDL_ERROR] = "error",
        };
        _cleanup_free_ char *keyword = NULL;
        int r;

        r = take_word(p, "", &keyword);
        if (r < 0)
                return r;
        for (size_t i = 0; i < ELEMENTSOF(keywords); i++) {
                if (str_equal(keyword, keywords[i])) {
                        *ret = (IdlMemberKind) i;
                        return 0;
                }
        }
        return -EBADMSG;
}

/* Types, methods and errors share one namespace. */
static int parse_member(Parser *p, IdlInterface *i)
{
        IdlMember *m = &i->members[i->n_members];
        int r;

        *m = (IdlMember){ .interface = i };
        i->n_members++;
        m->doc = strndup(p->doc.data ? buf_front(&p->doc) : "", buf_size(&p->doc));
        if (!m->doc)
                return -ENOMEM;
        buf_consume(&p->doc, buf_size(&p->doc));
        r = parse_member_kind(p, &m->kind);
        if (r < 0)
                return r;
        r = parse_member_body(p, m);
        if (r < 0)
                return r;
        for (size_t k = 0; k + 1 < i->n_members; k++) {
                if (str_equal(i->members[k].name, m->name))
                        return -EBADMSG;
        }
        return str_aprintf(&m->full_name, "%s.%s", i->name, m->name);
}

static int parse_members(Parser *p, IdlInterface *i)
{
        size_t room = 0;
        int r;

        while (p->p < p->end) {
                if (i->n_members >= MEMBERS_MAX)
                        return -EBADMSG;
                if (i->n_members == room) {
                        IdlMember *bigger;

                        room = room ? room * 2 : 16;
                        bigger = reallocarray(i->members, room, sizeof(*bigger));
                        if (!bigger)
                                return -ENOMEM;
                        i->members = bigger;
                }
                r = parse_member(p, i);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int parse_interface(Parser *p, IdlInterface *i)
{
        _cleanup_free_ char *keyword = NULL;
        int r;

        r = skip(p);
        if (r < 0)
                return r;
        r = take_word(p, "", &keyword);
        if (r < 0)
                return r;
        if (!str_equal(keyword, "interface"))
                return -EBADMSG;
        buf_consume(&p->doc, buf_size(&p->doc));
        r = take_word(p, ".-", &i->name);
        if (r < 0)
                return r;
        if (!strchr(i->name, '.'))
                return -EBADMSG;
        return parse_members(p, i);
}

/* ---- names to types, comments to flags ---- */

const IdlMember *idl_find_member(const IdlInterface *i, IdlMemberKind kind, const char *name)
{
        for (size_t k = 0; k < i->n_members; k++) {
                if (i->members[k].kind == kind && str_equal(i->members[k].name, name))
                        return &i->members[k];
        }
        return NULL;
}

static int resolve(const IdlInterface *i, IdlType *t)
{
        int r;

        if (!t)
                return 0;
        if (t->kind == IDL_NAMED) {
                const IdlMember *m = idl_find_member(i, IDL_TYPE, t->name);

                if (!m)
                        return -EBADMSG;
                t->target = m->type;
                return 0;
        }
        r = resolve(i, t->element);
        for (size_t k = 0; r == 0 && k < t->n_fields; k++)
                r = resolve(i, t->fields[k].type);
        return r;
}

/* Types may be recursive: mark tells what this search has seen. */
static bool has_fd_field(IdlType *t, size_t mark)
{
        if (!t || t->mark == mark)
                return false;
        t->mark = mark;
        if (has_fd_field(t->element, mark) || has_fd_field(t->target, mark))
                return true;
        for (size_t k = 0; k < t->n_fields; k++) {
                if (str_has_suffix(t->fields[k].name, "FileDescriptor") ||
                    has_fd_field(t->fields[k].type, mark))
                        return true;
        }
        return false;
}

/* A doc need not use the words: these say it in others. */
static const struct {
        const char *method;
        unsigned flags;
} flags_by_name[] = {
        { "io.sandboxd.Session.Spawn", IDL_SUPPORTS_MORE },
        { "io.sandboxd.Session.Exec", IDL_SUPPORTS_MORE },
        { "io.sandboxd.Session.Copy", IDL_SUPPORTS_UPGRADE },
};

static void set_flags(IdlMember *m, size_t mark)
{
        if (strstr(m->doc, "Requires more"))
                m->flags |= IDL_REQUIRES_MORE | IDL_SUPPORTS_MORE;
        if (strstr(m->doc, "Supports more"))
                m->flags |= IDL_SUPPORTS_MORE;
        if (strstr(m->doc, "Requires upgrade"))
                m->flags |= IDL_REQUIRES_UPGRADE | IDL_SUPPORTS_UPGRADE;
        if (strstr(m->doc, "Supports upgrade"))
                m->flags |= IDL_SUPPORTS_UPGRADE;
        for (size_t i = 0; i < ELEMENTSOF(flags_by_name); i++) {
                if (str_equal(m->full_name, flags_by_name[i].method))
                        m->flags |= flags_by_name[i].flags;
        }
        if (has_fd_field(m->type, mark))
                m->flags |= IDL_TAKES_FDS;
}

static int finish(IdlInterface *i)
{
        int r;

        for (size_t k = 0; k < i->n_members; k++) {
                r = resolve(i, i->members[k].type);
                if (r < 0)
                        return r;
                r = resolve(i, i->members[k].output);
                if (r < 0)
                        return r;
        }
        for (size_t k = 0; k < i->n_members; k++) {
                if (i->members[k].kind == IDL_METHOD)
                        set_flags(&i->members[k], k + 1);
        }
        return 0;
}

int idl_parse(const char *text, size_t size, IdlInterface **ret, unsigned *ret_line)
{
        _cleanup_(idl_interface_freep) IdlInterface *i = NULL;
        Parser p = { .p = text, .end = text + size, .line = 1, .doc = BUF_INIT(DOC_MAX) };
        int r;

        i = calloc(1, sizeof(*i));
        if (!i)
                return -ENOMEM;
        r = parse_interface(&p, i);
        buf_done(&p.doc);
        if (r == 0)
                r = finish(i);
        if (r < 0) {
                *ret_line = p.line;
                return r;
        }
        *ret = TAKE_PTR(i);
        return 0;
}
