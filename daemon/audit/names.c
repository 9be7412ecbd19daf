/* Names that a session may choose, and what is gone of them. */

#include "daemon/audit/audit.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"

typedef struct Restored {
        Session *session;
        uint64_t now_usec; /* CLOCK_MONOTONIC, as the next is CLOCK_REALTIME */
        uint64_t realtime_usec;
} Restored;

/* Was it looked up? Records beside addresses are only where rules say so (match.c), and said so then. */
static bool is_looked_up(const Restored *x, const char *host, const char *type, uint64_t realtime_usec)
{
        uint32_t record = type ? policy_dns_type_from_string(type) : 0;
        PolicyRequest request;
        PolicyMatch match;

        if (record == 0)
                return true;
        policy_match_name(x->session->policy, host, realtime_usec, &match, &request);
        return match.dns_types & record;
}

static void on_asked(void *userdata, const char *host, const char *type, uint64_t realtime_usec)
{
        Restored *x = userdata;
        uint64_t age = x->realtime_usec > realtime_usec ? x->realtime_usec - realtime_usec : 0;

        if (!is_looked_up(x, host, type, realtime_usec))
                return;
        name_budget_restore(&x->session->names, host, policy_name_chosen(x->session->policy, host),
                            x->now_usec > age ? x->now_usec - age : 0);
}

static void restore(Audit *a, Session *s)
{
        Restored x = { .session = s,
                       .now_usec = clock_monotonic_usec(),
                       .realtime_usec = clock_realtime_usec() };
        int r = store_list_asked(a->store, s->id_text, s->row.started_usec, on_asked, &x);

        if (r < 0) {
                (void) log_warning(r, "Session %s may ask for no further names: those before cannot be read",
                                   s->id_text);
                name_budget_exhaust(&s->names);
        }
}

bool session_take_name(Audit *a, Session *s, const char *host)
{
        size_t n_chosen = policy_name_chosen(s->policy, host);

        if (n_chosen == 0)
                return true;
        if (s->has_former_names)
                restore(a, s);
        s->has_former_names = false;
        return name_budget_take(&s->names, host, n_chosen, clock_monotonic_usec());
}
