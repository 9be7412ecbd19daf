#include "daemon/audit/quota.h"

#include <errno.h>

#include "daemon/audit/queue.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "proto/base/str.h"

#define USEC_PER_DAY    (UINT64_C(86400) * USEC_PER_SEC)
#define BURST_SECONDS   10U
#define ROW_BYTES       384U                 /* a row and what indexes it, without its texts */
#define UNIT_BYTES      64U                  /* what shares are counted in */
#define SHARE_BYTES_MIN (UINT64_C(16) << 20) /* a small log is no reason to stop ordinary work */
#define PERCENT         100U

/* No user's: what root's sessions cause is counted under it. */
#define SESSIONS_OF_ROOT UINT32_MAX

typedef struct Usage {
        Quotas *quotas;
        uint32_t uid;
        Bucket rows;
        Bucket units;
        uint64_t n_refused;
        uint64_t since_usec; /* CLOCK_MONOTONIC: of the last row that says so */
} Usage;

struct Quotas {
        Audit *audit;
        BucketRate rows;
        BucketRate units;
        bool has_rows;
        bool has_units;
        Map usages; /* by uid */
        LoopTimer *timer;
        bool is_timer_set;
};

/* ---- rows about refusals ---- */

static void write_row(Usage *u, uint64_t now)
{
        Row row = ROW_INIT(AUDIT_KIND_LIMIT, "reached");
        char detail[PRIV_TEXT_SIZE];

        row.uid = u->uid == SESSIONS_OF_ROOT ? 0 : u->uid;
        row.verdict = VERDICT_DENY;
        row.reason = "rows";
        if (str_printf(detail, sizeof(detail), "{\"refused\":%llu}", (unsigned long long) u->n_refused) <
                            0 ||
            queue_report(u->quotas->audit, &row, NULL, detail) < 0)
                return;
        u->n_refused = 0;
        u->since_usec = now;
}

static void write_due(Quotas *q)
{
        uint64_t now = clock_monotonic_usec();
        bool is_left = false;
        size_t cursor = 0;
        Usage *u;

        while ((u = map_next(&q->usages, &cursor))) {
                if (u->n_refused > 0 && (u->since_usec == 0 || now - u->since_usec >= USEC_PER_SEC))
                        write_row(u, now);
                is_left = is_left || u->n_refused > 0;
        }
        if (is_left && !q->is_timer_set)
                q->is_timer_set = loop_timer_set(q->timer, USEC_PER_SEC) >= 0;
}

static void on_second(void *userdata)
{
        Quotas *q = userdata;

        q->is_timer_set = false;
        write_due(q);
}

/* ---- usage ---- */

static Usage *usage_of(Quotas *q, uint32_t uid)
{
        Usage *u = map_get(&q->usages, &uid, sizeof(uid));

        if (u)
                return u;
        u = calloc(1, sizeof(*u));
        if (!u)
                return NULL;
        *u = (Usage){ .quotas = q, .uid = uid };
        if (map_put(&q->usages, &u->uid, sizeof(u->uid), u) < 0) {
                free(u);
                return NULL;
        }
        return u;
}

static uint64_t units_of(size_t size)
{
        return (size + ROW_BYTES) / UNIT_BYTES;
}

static bool has_rate(const Quotas *q, const Usage *u)
{
        return q->has_rows && u->uid != SESSIONS_OF_ROOT;
}

bool quota_take(Audit *a, uint32_t uid, size_t size)
{
        Quotas *q = a->quotas;
        uint64_t now = clock_monotonic_usec();
        Usage *u;

        if (uid == 0 || !q)
                return true;
        u = usage_of(q, uid);
        if (!u)
                return false;
        if ((!q->has_units || bucket_take(&u->units, &q->units, units_of(size), now)) &&
            (!has_rate(q, u) || bucket_take(&u->rows, &q->rows, 1, now)))
                return true;
        u->n_refused++;
        if (!q->is_timer_set)
                write_due(q);
        return false;
}

void quota_charge(Audit *a, uint32_t uid, size_t size)
{
        Quotas *q = a->quotas;
        uint64_t now = clock_monotonic_usec();
        Usage *u = uid == 0 || !q ? NULL : usage_of(q, uid);

        if (!u)
                return;
        if (q->has_units)
                bucket_charge(&u->units, &q->units, units_of(size), now);
        if (has_rate(q, u))
                bucket_charge(&u->rows, &q->rows, 1, now);
}

static uint32_t uid_of(const Session *s)
{
        return s->row.uid == 0 ? SESSIONS_OF_ROOT : s->row.uid;
}

bool quota_take_request(Audit *a, const Session *s, size_t size)
{
        return quota_take(a, uid_of(s), size);
}

void quota_charge_close(Audit *a, const Session *s)
{
        quota_charge(a, uid_of(s), 0);
}

void quotas_set(Quotas *q, const QuotaSpec *spec, uint64_t retention_bytes)
{
        uint64_t bytes = retention_bytes / PERCENT * spec->share_percent;
        uint64_t units = bytes > 0 ? MAX_OF(bytes, SHARE_BYTES_MIN) / UNIT_BYTES : 0;

        q->rows = bucket_rate(spec->rows_per_second, USEC_PER_SEC,
                              (uint64_t) spec->rows_per_second * BURST_SECONDS);
        q->units = bucket_rate(units, USEC_PER_DAY, units);
        q->has_rows = spec->rows_per_second > 0;
        q->has_units = units > 0;
}

int quotas_new(Audit *a, const QuotaSpec *spec, uint64_t retention_bytes, Quotas **ret)
{
        Quotas *q = calloc(1, sizeof(*q));
        int r;

        if (!q)
                return -ENOMEM;
        q->audit = a;
        quotas_set(q, spec, retention_bytes);
        r = loop_timer_new(a->loop, on_second, q, &q->timer);
        if (r < 0) {
                free(q);
                return r;
        }
        *ret = q;
        return 0;
}

Quotas *quotas_free(Quotas *q)
{
        size_t cursor = 0;
        Usage *u;

        if (!q)
                return NULL;
        while ((u = map_next(&q->usages, &cursor)))
                free(u);
        map_done(&q->usages);
        q->timer = loop_timer_free(q->timer);
        free(q);
        return NULL;
}
