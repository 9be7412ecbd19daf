#pragma once

/*
 * The interfaces as data. The .varlink texts are the source of truth: they are embedded in the program,
 * parsed once at start, and calls are validated straight from what was parsed. Nothing here is kept in
 * globals: a process makes one IdlSet and passes it on.
 */

#include <stdbool.h>
#include <stddef.h>

#include "proto/base/buf.h"
#include "proto/base/macro.h"
#include "proto/wire/json.h"

/* Longest path of a field that a check reports, with its NUL; longer ones are cut at an element. */
#define IDL_FIELD_SIZE 256U
#define IDL_DEPTH_MAX  16U

typedef enum IdlKind {
        IDL_BOOL = 0,
        IDL_INT,
        IDL_FLOAT,
        IDL_STRING,
        IDL_OBJECT, /* any JSON object */
        IDL_ANY,
        IDL_NAMED, /* a type of the same interface: see target */
        IDL_STRUCT,
        IDL_ENUM,
        IDL_ARRAY,
        IDL_MAP, /* [string]T */
        _IDL_KIND_MAX,
} IdlKind;

typedef enum IdlMemberKind {
        IDL_TYPE = 0,
        IDL_METHOD,
        IDL_ERROR,
} IdlMemberKind;

enum IdlFlags {
        IDL_REQUIRES_MORE = 1 << 0,    /* else ExpectedMore */
        IDL_SUPPORTS_MORE = 1 << 1,    /* set with IDL_REQUIRES_MORE too */
        IDL_REQUIRES_UPGRADE = 1 << 2, /* else ExpectedUpgrade */
        IDL_SUPPORTS_UPGRADE = 1 << 3, /* set with IDL_REQUIRES_UPGRADE too */
        IDL_TAKES_FDS = 1 << 4,        /* else a message with descriptors closes the connection */
};

typedef struct IdlType IdlType;
typedef struct IdlInterface IdlInterface;
typedef struct IdlSet IdlSet;

typedef struct IdlField {
        char *name;
        IdlType *type; /* NULL: a value of an enum */
} IdlField;

struct IdlType {
        IdlKind kind;
        bool is_nullable;
        char *name;       /* IDL_NAMED */
        IdlType *target;  /* IDL_NAMED, borrowed: a struct or an enum */
        IdlType *element; /* IDL_ARRAY, IDL_MAP */
        IdlField *fields; /* IDL_STRUCT, IDL_ENUM */
        size_t n_fields;
        size_t mark; /* of the parser */
};

typedef struct IdlMember {
        IdlMemberKind kind;
        char *name;
        char *full_name; /* io.sandboxd.Session.Spawn */
        char *doc;       /* comment right before, one line; "" for none */
        IdlType *type;   /* the type, a method's input, an error's parameters */
        IdlType *output; /* a method's */
        unsigned flags;  /* of a method: enum IdlFlags */
        const IdlInterface *interface;
} IdlMember;

struct IdlInterface {
        char *name;
        IdlMember *members;
        size_t n_members;
        const char *text; /* for GetInterfaceDescription; NULL unless of an IdlSet */
};

/* ---- one text ---- */

/* -EBADMSG: the text is wrong, in *ret_line (from 1). */
int idl_parse(const char *text, size_t size, IdlInterface **ret, unsigned *ret_line) _must_check_;
IdlInterface *idl_interface_free(IdlInterface *i);
DEFINE_CLEANUP(IdlInterface *, idl_interface_free)

/* The interface as text again, without comments. */
int idl_format(const IdlInterface *i, Buf *b) _must_check_;
const IdlMember *idl_find_member(const IdlInterface *i, IdlMemberKind kind, const char *name);

/* ---- all interfaces of the daemon, parsed once ---- */

int idl_set_new(IdlSet **ret) _must_check_;
IdlSet *idl_set_free(IdlSet *s);
DEFINE_CLEANUP(IdlSet *, idl_set_free)

/* Sorted by name; NULL behind the last one. */
const IdlInterface *idl_set_at(const IdlSet *s, size_t i);
const IdlInterface *idl_set_find(const IdlSet *s, const char *interface_name);
/* By full name ("io.sandboxd.Session.Spawn"); NULL: MethodNotFound. */
const IdlMember *idl_set_find_method(const IdlSet *s, const char *full_name);

/* ---- checks; 0, or -EINVAL with the path of the first bad field ("context.mounts[2].source") ---- */

/* Unknown fields, types, missing or null where it may not be, enum values, ranges (ports, limits, uids),
 * strings above JSON_STRING_MAX that are no policy text. */
int idl_check_parameters(const IdlMember *method, const Json *parameters,
                         char ret_field[IDL_FIELD_SIZE]) _must_check_;

/* Every ...FileDescriptor names a descriptor of the message, none twice, and none is left over
 * ("fileDescriptors"). After idl_check_parameters(). */
int idl_check_fds(const IdlMember *method, const Json *parameters, size_t n_fds,
                  char ret_field[IDL_FIELD_SIZE]) _must_check_;

/* What goes out, for tests and debug messages: the same without ranges. */
int idl_check_reply(const IdlMember *method, const Json *parameters,
                    char ret_field[IDL_FIELD_SIZE]) _must_check_;
