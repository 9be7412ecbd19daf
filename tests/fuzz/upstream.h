#pragma once

/*
 * A name server that says what the input says, for a target that runs c-ares: the program is linked with
 * ares_init_options() wrapped, and the resolver's sockets lead here. Its questions are real, so that answers
 * are not thrown away for a number or a name that does not fit, unless the input wants just that.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Before each input. */
void upstream_reset(void);

/* Answers the oldest question, if there is one. Takes what it needs of the input. */
void upstream_answer(const uint8_t **data, size_t *size);

/* Has it answered with anything? */
bool upstream_has_spoken(void);
