#pragma once

/* What the client and the server of org.varlink.certification share: who calls what, with what, in which
 * order. */

#include "proto/wire/json.h"

#define CERTIFICATION         "org.varlink.certification."
#define CERTIFICATION_REPLIES 10U

typedef enum StepKind {
        STEP_PLAIN = 0,
        STEP_MORE,
        STEP_ONEWAY,
} StepKind;

/* The parameters of a call are client_id and what the step before was answered with. */
typedef struct Step {
        const char *method;
        StepKind kind;
        const char *reply; /* JSON; of Start without the id, of STEP_MORE without the numbers */
} Step;

extern const Step steps[];
extern const size_t n_steps;

/* The text of one of the ten replies, n from 1. */
int step_more_reply(size_t n, Json **ret) _must_check_;
/* What the step at i has as parameters beside client_id. */
int step_parameters(size_t i, Json **ret) _must_check_;
int parse_text(const char *text, Json **ret) _must_check_;
/* By content: an absent member is null, 1 is 1.0, the order of members is nobody's business. */
bool json_same(const Json *a, const Json *b);
