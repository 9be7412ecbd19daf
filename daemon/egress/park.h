#pragma once

/*
 * Where descriptors are scarce: a tunnel through which nothing goes gives its server connection back to the
 * dialer, who holds it all the same, and asks for it again when one of its ends has something. So a session
 * can have more connections than its worker can hold both descriptors of.
 */

#include "daemon/egress/egress.h"

/* There are descriptors for one more; where not, a tunnel gives one up. */
bool park_make_room(Egress *e) _must_check_;
/* So many more than there is room for that one more would be too much. */
bool park_is_full(Egress *e) _must_check_;
/* Whoever waits for room: something may rest now. */
void park_on_turn_end(Egress *e);
/* The client has something for its server. */
void park_want(Client *c);
/* The client has no use for its server any more. */
void park_forget(Client *c);

/* What the dialer says. */
void park_on_stirs(Egress *e, const PrivConnectionRef *m);
void park_on_back(Egress *e, const PrivConnectionReturn *m, int take_fd);
void park_on_gone(Egress *e, const PrivConnectionRef *m);
