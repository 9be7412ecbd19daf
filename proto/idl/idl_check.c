/*
 * Values against an interface. The path of the field at hand is kept as a chain of frames on the stack and
 * becomes text only for the first bad field.
 */

#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "proto/base/str.h"
#include "proto/idl/idl.h"

/* One step of a path: a field, or an element of an array. */
typedef struct Frame {
        const struct Frame *parent;
        const char *name; /* NULL: an element */
        size_t index;
} Frame;

typedef struct Check {
        bool is_input;
        char *field; /* IDL_FIELD_SIZE */
} Check;

/* Integers whose name says what they hold, wherever they are input. */
typedef struct Range {
        const char *name;
        const char *method; /* NULL: any */
        int64_t min;
        int64_t max;
} Range;

static const Range ranges[] = {
        { "memoryMaxBytes", NULL, 1, INT64_MAX },
        { "swapMaxBytes", NULL, 0, INT64_MAX },
        { "tasksMax", NULL, 1, INT64_MAX },
        { "cpuQuotaPercent", NULL, 1, INT64_MAX },
        { "ioMaxBytesPerSec", NULL, 1, INT64_MAX },
        { "filesMax", NULL, 1, INT64_MAX },
        { "runtimeMaxUSec", NULL, 1, INT64_MAX },
        { "idleMaxUSec", NULL, 1, INT64_MAX },
        { "outputMaxBytes", NULL, 1, INT64_MAX },
        { "timeoutUSec", NULL, 1, INT64_MAX },
        { "graceUSec", NULL, 0, INT64_MAX },
        { "olderThanUSec", NULL, 0, INT64_MAX },
        { "replayBytes", NULL, 0, INT64_MAX },
        { "tailBytes", NULL, 0, INT64_MAX },
        { "sinceUSec", NULL, 0, INT64_MAX },
        { "untilUSec", NULL, 0, INT64_MAX },
        { "expiresAtUSec", NULL, 0, INT64_MAX },
        { "afterSequence", NULL, 0, INT64_MAX },
        { "fromSequence", NULL, 0, INT64_MAX },
        { "toSequence", NULL, 0, INT64_MAX },
        { "limit", "io.sandboxd.Audit.Stats", 1, 1000 },
        { "limit", "io.sandboxd.Audit.Query", 1, INT64_MAX },
        { "columns", NULL, 1, UINT16_MAX },
        { "rows", NULL, 1, UINT16_MAX },
        { "port", NULL, 1, UINT16_MAX },
        { "publish", NULL, 1, UINT16_MAX },
        { "ownerUid", NULL, 0, UINT32_MAX - 1 },
        { "uid", NULL, 0, UINT32_MAX - 1 },
        { "level", "io.systemd.service.SetLogLevel", 0, 7 },
};

/* Texts that may be as long as the message. */
static const char *const long_strings[] = { "profileContent", "userPolicy", "projectPolicy", "content" };

/* ---- paths ---- */

static int frame_format(const Frame *f, char *to, size_t size)
{
        size_t n;
        int r;

        if (!f)
                return 0;
        r = frame_format(f->parent, to, size);
        if (r < 0)
                return r;
        n = strlen(to);
        if (f->name)
                return str_printf(to + n, size - n, "%s%s", n > 0 ? "." : "", f->name);
        return str_printf(to + n, size - n, "[%zu]", f->index);
}

/* A path that does not fit is cut at an element. */
static int refuse(const Check *c, const Frame *f)
{
        c->field[0] = '\0';
        (void) frame_format(f, c->field, IDL_FIELD_SIZE);
        return -EINVAL;
}

/* The field that an integer or a string belongs to: that of the array for its elements. */
static const char *frame_name(const Frame *f)
{
        while (f && !f->name)
                f = f->parent;
        return f ? f->name : "";
}

/* ---- values ---- */

static int check_value(const Check *c, const IdlType *t, const Json *v, const Frame *f);

static int check_string(const Check *c, const Json *v, const Frame *f)
{
        const char *name = frame_name(f);

        if (!c->is_input || strlen(json_string(v)) <= JSON_STRING_MAX)
                return 0;
        for (size_t i = 0; i < ELEMENTSOF(long_strings); i++) {
                if (str_equal(name, long_strings[i]))
                        return 0;
        }
        return refuse(c, f);
}

static int check_enum(const Check *c, const IdlType *t, const Json *v, const Frame *f)
{
        if (json_type(v) != JSON_STRING)
                return refuse(c, f);
        for (size_t i = 0; i < t->n_fields; i++) {
                if (str_equal(t->fields[i].name, json_string(v)))
                        return 0;
        }
        return refuse(c, f);
}

static const IdlField *find_field(const IdlType *t, const char *name)
{
        for (size_t i = 0; i < t->n_fields; i++) {
                if (str_equal(t->fields[i].name, name))
                        return &t->fields[i];
        }
        return NULL;
}

static int check_struct(const Check *c, const IdlType *t, const Json *v, const Frame *f)
{
        const char *key;
        const Json *value;
        void *cursor = NULL;
        int r;

        if (json_type(v) != JSON_OBJECT)
                return refuse(c, f);
        while (json_next(v, &cursor, &key, &value)) {
                Frame inner = { .parent = f, .name = key };
                const IdlField *field = find_field(t, key);

                if (!field)
                        return refuse(c, &inner);
                r = check_value(c, field->type, value, &inner);
                if (r < 0)
                        return r;
        }
        for (size_t i = 0; i < t->n_fields; i++) {
                Frame inner = { .parent = f, .name = t->fields[i].name };

                if (!t->fields[i].type->is_nullable && !json_get(v, t->fields[i].name))
                        return refuse(c, &inner);
        }
        return 0;
}

static int check_array(const Check *c, const IdlType *t, const Json *v, const Frame *f)
{
        int r;

        if (json_type(v) != JSON_ARRAY)
                return refuse(c, f);
        for (size_t i = 0; i < json_n(v); i++) {
                Frame inner = { .parent = f, .index = i };

                r = check_value(c, t->element, json_at(v, i), &inner);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int check_map(const Check *c, const IdlType *t, const Json *v, const Frame *f)
{
        const char *key;
        const Json *value;
        void *cursor = NULL;
        int r;

        if (json_type(v) != JSON_OBJECT)
                return refuse(c, f);
        while (json_next(v, &cursor, &key, &value)) {
                Frame inner = { .parent = f, .name = key };

                if (strlen(key) > JSON_STRING_MAX)
                        return refuse(c, f);
                r = check_value(c, t->element, value, &inner);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int check_type(const Check *c, const Json *v, JsonType type, const Frame *f)
{
        return json_type(v) == type ? 0 : refuse(c, f);
}

static int check_value(const Check *c, const IdlType *t, const Json *v, const Frame *f)
{
        int r;

        if (json_type(v) == JSON_NULL && t->kind != IDL_ANY)
                return t->is_nullable ? 0 : refuse(c, f);
        switch (t->kind) {
        case IDL_BOOL:
                return check_type(c, v, JSON_BOOLEAN, f);
        case IDL_INT:
                return check_type(c, v, JSON_INTEGER, f);
        case IDL_FLOAT:
                return json_type(v) == JSON_INTEGER ? 0 : check_type(c, v, JSON_REAL, f);
        case IDL_STRING:
                r = check_type(c, v, JSON_STRING, f);
                return r < 0 ? r : check_string(c, v, f);
        case IDL_OBJECT:
                return check_type(c, v, JSON_OBJECT, f);
        case IDL_NAMED:
                return check_value(c, t->target, v, f);
        case IDL_STRUCT:
                return check_struct(c, t, v, f);
        case IDL_ENUM:
                return check_enum(c, t, v, f);
        case IDL_ARRAY:
                return check_array(c, t, v, f);
        case IDL_MAP:
                return check_map(c, t, v, f);
        case IDL_ANY:
        case _IDL_KIND_MAX:
        default:
                return 0;
        }
}

/* ---- integers that have to be in a range, descriptors that have to exist: a walk over all of the input
 * ---- */

typedef struct Walk {
        const Check *check;
        const IdlMember *method;
        size_t n_fds;
        uint64_t used; /* a bit a descriptor */
} Walk;

typedef int (*WalkVisit)(Walk *w, const Json *v, const Frame *f);

static int walk(Walk *w, WalkVisit visit, const IdlType *t, const Json *v, const Frame *f)
{
        const char *key;
        const Json *value;
        void *cursor = NULL;
        int r = 0;

        t = t->kind == IDL_NAMED ? t->target : t;
        if (t->kind == IDL_INT)
                return json_type(v) == JSON_INTEGER ? visit(w, v, f) : 0;
        if (t->kind == IDL_ARRAY) {
                for (size_t i = 0; r == 0 && i < json_n(v); i++) {
                        Frame inner = { .parent = f, .index = i };

                        r = walk(w, visit, t->element, json_at(v, i), &inner);
                }
                return r;
        }
        while (r == 0 && (t->kind == IDL_STRUCT || t->kind == IDL_MAP) &&
               json_next(v, &cursor, &key, &value)) {
                const IdlField *field = t->kind == IDL_STRUCT ? find_field(t, key) : NULL;
                const IdlType *type = field ? field->type : t->element;
                Frame inner = { .parent = f, .name = key };

                if (type)
                        r = walk(w, visit, type, value, &inner);
        }
        return r;
}

static int visit_range(Walk *w, const Json *v, const Frame *f)
{
        const char *name = frame_name(f);
        int64_t n = json_integer(v);

        for (size_t i = 0; i < ELEMENTSOF(ranges); i++) {
                const Range *range = &ranges[i];

                if (!str_equal(range->name, name))
                        continue;
                if (range->method && !str_equal(range->method, w->method->full_name))
                        continue;
                return n < range->min || n > range->max ? refuse(w->check, f) : 0;
        }
        return 0;
}

static int visit_fd(Walk *w, const Json *v, const Frame *f)
{
        int64_t n = json_integer(v);

        if (!str_has_suffix(frame_name(f), "FileDescriptor"))
                return 0;
        if (n < 0 || (uint64_t) n >= w->n_fds || (w->used & UINT64_C(1) << n))
                return refuse(w->check, f);
        w->used |= UINT64_C(1) << n;
        return 0;
}

int idl_check_parameters(const IdlMember *method, const Json *parameters, char ret_field[IDL_FIELD_SIZE])
{
        Check c = { .is_input = true, .field = ret_field };
        Walk w = { .check = &c, .method = method };
        int r;

        ret_field[0] = '\0';
        r = check_struct(&c, method->type, parameters, NULL);
        if (r < 0)
                return r;
        return walk(&w, visit_range, method->type, parameters, NULL);
}

int idl_check_fds(const IdlMember *method, const Json *parameters, size_t n_fds,
                  char ret_field[IDL_FIELD_SIZE])
{
        Frame left_over = { .name = "fileDescriptors" };
        Check c = { .is_input = true, .field = ret_field };
        Walk w = { .check = &c, .method = method, .n_fds = MIN_OF(n_fds, (size_t) 63) };
        int r;

        ret_field[0] = '\0';
        r = walk(&w, visit_fd, method->type, parameters, NULL);
        if (r < 0)
                return r;
        return w.used == (UINT64_C(1) << w.n_fds) - 1 ? 0 : refuse(&c, &left_over);
}

int idl_check_reply(const IdlMember *method, const Json *parameters, char ret_field[IDL_FIELD_SIZE])
{
        Check c = { .is_input = false, .field = ret_field };

        ret_field[0] = '\0';
        return check_struct(&c, method->output, parameters, NULL);
}
