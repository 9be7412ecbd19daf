#include "daemon/launcher/quota.h"

#include <errno.h>
#include <sys/resource.h>

#include "daemon/launcher/door.h"
#include "daemon/launcher/service.h"
#include "daemon/launcher/user.h"
#include "proto/base/clock.h"
#include "proto/base/str.h"

/* So many beyond a quota are still answered with an error; more are closed at once. */
#define QUOTA_CONNECTIONS_BEYOND 64U

/* The first few of each user are let in whatever others have. */
#define QUOTA_CONNECTIONS_ALWAYS 4U

/* Who has used up as many at once is turned away before we know more than the uid. */
#define QUOTA_CONNECTS_BURST 256U

/* Who is turned away more often than this is refused by the kernel for a while. */
#define QUOTA_TURNED_AWAY_PER_SEC 64U
#define QUOTA_SHUT_USEC           USEC_PER_SEC

/* Of each second of ours so much is for one user's starts; what they take from those that were made ahead is
 * made again, which takes as long once more. */
#define QUOTA_TIME_USEC       (300 * USEC_PER_MSEC)
#define QUOTA_TIME_BURST_USEC (100 * USEC_PER_MSEC)
#define QUOTA_TIME_FACTOR     2U

/* While others have connected within the last second it is less, and less of it at once: they wait behind
 * each start. */
#define QUOTA_SHARED_USEC       (80 * USEC_PER_MSEC)
#define QUOTA_SHARED_BURST_USEC (20 * USEC_PER_MSEC)
#define QUOTA_SHARED_FOR_USEC   USEC_PER_SEC

#define QUOTA_ROWS_PER_SEC    128U
#define QUOTA_FREEZES_PER_SEC 4U
#define QUOTA_FREEZES_BURST   128U
#define QUOTA_BURST_SECONDS   4U
#define QUOTA_SESSION_FDS     26U   /* that a session costs us, with some to spare while it starts */
#define QUOTA_RESERVED_FDS    2048U /* for connections, workers and root */
#define QUOTA_RESERVED_PARTS  4U    /* of few descriptors so many parts are not for sessions: one */

static const char *const names[] = {
        [QUOTA_CONNECTIONS] = "connections",
        [QUOTA_CONNECTS] = "connects",
        [QUOTA_SESSIONS] = "sessions",
        [QUOTA_STARTS] = "starts",
        [QUOTA_ROWS] = "rows",
        [QUOTA_BUFFERS] = "buffers",
        [QUOTA_USERS] = "users",
};
ASSERT_TABLE(names, _QUOTA_MAX);

const char *quota_to_string(Quota q)
{
        return names[q];
}

static BucketRate per_second(uint64_t n)
{
        return bucket_rate(n, USEC_PER_SEC, n * QUOTA_BURST_SECONDS);
}

/* Root's own things are bounded as those of all others together. */
static bool is_root(const User *u)
{
        return u->uid == 0;
}

/* ---- rows ---- */

static void write_row(User *u, Quota q, uint64_t now)
{
        QuotaCounter *c = &u->quota.counters[q];
        char text[PRIV_TEXT_SIZE];

        if (str_printf(text, sizeof(text), "{\"refused\":%llu}", (unsigned long long) c->n_refused) >= 0)
                service_report_limit(u->launcher, u->uid, quota_to_string(q), text);
        *c = (QuotaCounter){ .since_usec = now };
}

/* True: some counter is not yet to be written. */
static bool write_due(User *u, uint64_t now)
{
        bool is_left = false;

        for (size_t q = 0; q < _QUOTA_MAX; q++) {
                const QuotaCounter *c = &u->quota.counters[q];

                if (c->n_refused == 0)
                        continue;
                if (c->since_usec != 0 && now - c->since_usec < USEC_PER_SEC)
                        is_left = true;
                else
                        write_row(u, (Quota) q, now);
        }
        return is_left;
}

static void write_now(User *u)
{
        UserQuota *x = &u->quota;

        if (write_due(u, clock_monotonic_usec()) && !x->is_timer_set)
                x->is_timer_set = loop_timer_set(x->timer, USEC_PER_SEC) >= 0;
}

static void on_second(void *userdata)
{
        User *u = userdata;

        u->quota.is_timer_set = false;
        write_now(u);
}

void quota_refused(User *u, Quota q, uint32_t n)
{
        u->quota.counters[q].n_refused += n;
        if (!u->quota.is_timer_set)
                write_now(u);
}

int quota_init(User *u)
{
        return loop_timer_new(u->launcher->loop, on_second, u, &u->quota.timer);
}

void quota_done(User *u)
{
        u->quota.timer = loop_timer_free(u->quota.timer);
        (void) write_due(u, UINT64_MAX);
}

/* ---- connections ---- */

/* 0: within the quota; 1: beyond it, but an error can be said; -1: not even that. */
static int judge(unsigned n, unsigned max)
{
        if (n < max)
                return 0;
        return n - max < MIN_OF(max, QUOTA_CONNECTIONS_BEYOND) ? 1 : -1;
}

static BucketRate connects_rate(const User *u)
{
        uint32_t n = u->launcher->settings.connects_per_second;

        return bucket_rate(n, USEC_PER_SEC, MIN_OF(n * QUOTA_BURST_SECONDS, QUOTA_CONNECTS_BURST));
}

/* Connections that were only turned away are taken by us all the same, and others wait behind them. */
static void shut_out_flood(User *u)
{
        BucketRate turned_away =
                        bucket_rate(QUOTA_TURNED_AWAY_PER_SEC, USEC_PER_SEC, QUOTA_TURNED_AWAY_PER_SEC);
        BucketRate connects = connects_rate(u);
        uint64_t now = clock_monotonic_usec();

        if (bucket_take(&u->quota.turned_away, &turned_away, 1, now))
                return;
        /* Nothing is saved up meanwhile: what the daemon would take at once delays others. */
        if (door_shut(u->launcher->door, u->uid, now + QUOTA_SHUT_USEC))
                bucket_drain(&u->quota.connects, &connects, now + QUOTA_SHUT_USEC);
}

bool quota_admit_connection(User *u, uint32_t *ret_is_over)
{
        const PrivSettings *s = &u->launcher->settings;
        BucketRate rate = connects_rate(u);
        int own, all = 0;

        if (!is_root(u) && !bucket_take(&u->quota.connects, &rate, 1, clock_monotonic_usec())) {
                quota_refused(u, QUOTA_CONNECTS, 1);
                shut_out_flood(u);
                return false;
        }
        u->quota.connected_usec = clock_monotonic_usec();
        own = judge(u->n_connections, is_root(u) ? s->connections_max : s->connections_per_user_max);
        if (!is_root(u) && u->n_connections >= QUOTA_CONNECTIONS_ALWAYS)
                all = judge(u->launcher->n_connections, s->connections_max);
        if (own != 0 || all != 0)
                quota_refused(u, QUOTA_CONNECTIONS, 1);
        *ret_is_over = own != 0 ? PRIV_OVER_OWN : all != 0 ? PRIV_OVER_ALL : PRIV_OVER_NONE;
        return own >= 0 && all >= 0;
}

/* ---- sessions ---- */

static bool has_room_for_session(const User *u)
{
        const Launcher *l = u->launcher;
        const PrivSettings *s = &l->settings;
        unsigned all = MIN_OF(s->sessions_max, l->sessions_by_fds);

        if (is_root(u))
                return u->n_sessions < s->sessions_max;
        return u->n_sessions < s->sessions_per_user_max && l->n_sessions < all;
}

const char *quota_take_start(User *u)
{
        BucketRate rate = per_second(u->launcher->settings.starts_per_second);
        Quota q = QUOTA_STARTS;

        if (bucket_take(&u->quota.starts, &rate, 1, clock_monotonic_usec())) {
                if (has_room_for_session(u))
                        return NULL;
                q = QUOTA_SESSIONS;
        }
        quota_refused(u, q, 1);
        return quota_to_string(q);
}

void quota_charge_start(User *u)
{
        BucketRate rate = per_second(u->launcher->settings.starts_per_second);

        bucket_charge(&u->quota.starts, &rate, 1, clock_monotonic_usec());
}

static bool has_others(const User *u, uint64_t now)
{
        size_t cursor = 0;

        for (const User *o = map_next(&u->launcher->users, &cursor); o;
             o = map_next(&u->launcher->users, &cursor)) {
                if (o != u && o->quota.connected_usec + QUOTA_SHARED_FOR_USEC > now)
                        return true;
        }
        return false;
}

uint64_t quota_charge_time(User *u, uint64_t usec)
{
        uint64_t now = clock_monotonic_usec();
        BucketRate rate;

        if (is_root(u))
                return 0;
        rate = has_others(u, now) ? bucket_rate(QUOTA_SHARED_USEC, USEC_PER_SEC, QUOTA_SHARED_BURST_USEC)
                                  : bucket_rate(QUOTA_TIME_USEC, USEC_PER_SEC, QUOTA_TIME_BURST_USEC);
        bucket_charge(&u->quota.time, &rate, QUOTA_TIME_FACTOR * usec, now);
        return bucket_debt_usec(&u->quota.time, &rate, now);
}

void quota_read_descriptors(Launcher *l)
{
        struct rlimit limit;
        rlim_t n;

        l->sessions_by_fds = UINT32_MAX;
        if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY)
                return;
        n = limit.rlim_cur - MIN_OF(limit.rlim_cur / QUOTA_RESERVED_PARTS, (rlim_t) QUOTA_RESERVED_FDS);
        l->sessions_by_fds = (unsigned) MIN_OF(n / QUOTA_SESSION_FDS, (rlim_t) UINT32_MAX);
}

/* ---- the rest ---- */

int quota_note(User *u, const char *name, uint32_t n)
{
        static const Quota known_to_api[] = { QUOTA_SESSIONS, QUOTA_BUFFERS };

        for (size_t i = 0; i < ELEMENTSOF(known_to_api); i++) {
                if (str_equal(name, quota_to_string(known_to_api[i]))) {
                        quota_refused(u, known_to_api[i], n);
                        return 0;
                }
        }
        return -EPROTO;
}

bool quota_take_row(User *u)
{
        BucketRate rate = bucket_rate(QUOTA_ROWS_PER_SEC, USEC_PER_SEC, QUOTA_ROWS_PER_SEC);

        if (bucket_take(&u->quota.rows, &rate, 1, clock_monotonic_usec()))
                return true;
        quota_refused(u, QUOTA_ROWS, 1);
        return false;
}

/* Its row is not one that audit may refuse, so there are few of them for a whole day. */
bool quota_take_freeze(User *u)
{
        BucketRate rate = bucket_rate(QUOTA_FREEZES_PER_SEC, USEC_PER_SEC, QUOTA_FREEZES_BURST);

        if (bucket_take(&u->quota.freezes, &rate, 1, clock_monotonic_usec()))
                return true;
        quota_refused(u, QUOTA_ROWS, 1);
        return false;
}

bool quota_may_have_worker(User *u)
{
        if (is_root(u) || u->launcher->n_workers_of_users < u->launcher->settings.users_max)
                return true;
        quota_refused(u, QUOTA_USERS, 1);
        return false;
}
