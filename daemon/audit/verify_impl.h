#pragma once

/* Shared by the files of verify.h. All checks return 0, 1 when something is wrong (bad() said what), or
 * negative errno. */

#include <stdio.h>

#include "daemon/audit/segment.h"
#include "daemon/audit/verify.h"
#include "proto/base/hash.h"

typedef struct Verifier {
        const VerifySpec *spec;
        Verification *result;
        Chain *chain;
        Segment *segment;
        SqlStatement *decisions;
        SqlStatement *closes;
        SqlStatement *marks;
        Map sessions;         /* numbers that a row of this segment has named */
        Map policies;         /* numbers whose text was checked */
        uint64_t expected;    /* the next sequence */
        FILE *lines;          /* of the file of checkpoints; NULL: no such file */
        long lines_left;      /* bytes of it that were there when the verification began */
        Checkpoint line;      /* the next one of the file */
        Checkpoint mark;      /* the next one of the database */
        Checkpoint last_good; /* both say the same mostly: checked once */
        bool has_line;
        bool has_mark;
        bool has_head; /* a segment before this one was checked */
        bool is_odd;   /* the row has a value that cannot be one of ours, but would hash like one */
} Verifier;

int bad(Verifier *v, uint64_t sequence, const char *message);
RowBytes bytes_of(const SqlStatement *t, int i);

/* verify_rows.c: the rows of the segment, from v->expected on. */
int verify_rows(Verifier *v) _must_check_;
void numbers_done(Map *m);

/* verify_marks.c */
int marks_open(Verifier *v, const char *directory) _must_check_;
void marks_close(Verifier *v);
/* The next one of the database, if none is at hand. */
int marks_fetch(Verifier *v) _must_check_;
/* After the row at that sequence: what is said about it. */
int marks_check(Verifier *v, uint64_t sequence) _must_check_;
/* There are no more rows: of this segment; at all. */
int marks_end_segment(Verifier *v) _must_check_;
int marks_end(Verifier *v) _must_check_;
