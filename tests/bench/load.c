/*
 * The two ends of a measured path, and a plain relay between them.
 *
 *   load server ADDRESS PORT                      answers "GET /" with six bytes, "GET /bulk/N" with N, and
 *                                                 "GET /hold" with six, after which the connection stays
 *   load bulk ADDRESS PORT BYTES                  prints nanoseconds and the client's CPU microseconds
 *   load rate ADDRESS PORT PREFIX N SECONDS       N connections at once, one request each: connections a
 * second load latency ADDRESS PORT COUNT               one after the other: nanoseconds, one a line load
 * hold ADDRESS PORT N                      opens N, prints how many stand, keeps them until its input ends
 *   load relay rw|splice SIZE PORT ADDRESS PORT   on 127.0.0.1
 *
 * PREFIX: "" for the origin form, "http://HOST:PORT" for the absolute one. All of it is one thread.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define EVENTS  256
#define FDS_MAX 65536
#define CHUNK   (256 * 1024)

typedef struct Conn {
        char head[512];
        size_t n_head;
        uint64_t left; /* bytes of a bulk answer */
        uint64_t since;
        bool holds;
        bool is_open;
} Conn;

static Conn conns[FDS_MAX];
static char chunk[CHUNK];

static uint64_t now(void)
{
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t) t.tv_sec * 1000000000U + (uint64_t) t.tv_nsec;
}

static void die(const char *what)
{
        perror(what);
        exit(1);
}

static struct sockaddr_in address_of(const char *text, const char *port)
{
        struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t) atoi(port)) };

        if (inet_pton(AF_INET, text, &a.sin_addr) != 1)
                die("address");
        return a;
}

static int listen_on(const char *text, const char *port)
{
        struct sockaddr_in a = address_of(text, port);
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;

        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
        if (bind(fd, (struct sockaddr *) &a, sizeof(a)) < 0 || listen(fd, 16384) < 0)
                die("listen");
        return fd;
}

static int connect_to(const struct sockaddr_in *a, bool waits)
{
        int fd = socket(AF_INET, SOCK_STREAM | (waits ? 0 : SOCK_NONBLOCK), 0), one = 1;

        if (fd < 0 || (connect(fd, (const struct sockaddr *) a, sizeof(*a)) < 0 && errno != EINPROGRESS))
                die("connect");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        return fd;
}

static void watch(int epoll_fd, int op, int fd, uint32_t events)
{
        struct epoll_event e = { .events = events, .data.fd = fd };

        if (epoll_ctl(epoll_fd, op, fd, &e) < 0)
                die("epoll_ctl");
}

/* ---- server ---- */

static void end(int fd)
{
        conns[fd].is_open = false;
        close(fd);
}

static void send_bulk(int epoll_fd, int fd)
{
        Conn *c = &conns[fd];

        while (c->left > 0) {
                ssize_t n = send(fd, chunk, c->left < CHUNK ? c->left : CHUNK, MSG_NOSIGNAL);

                if (n < 0 && errno == EAGAIN) {
                        watch(epoll_fd, EPOLL_CTL_MOD, fd, EPOLLOUT);
                        return;
                }
                if (n < 0)
                        break;
                c->left -= (uint64_t) n;
        }
        end(fd);
}

static void answer(int epoll_fd, int fd)
{
        static const char small[] =
                        "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n";
        static const char held[] = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n";
        Conn *c = &conns[fd];
        char head[160];
        int n;

        c->head[c->n_head] = '\0';
        if (!strstr(c->head, "\r\n\r\n"))
                return;
        c->n_head = 0;
        if (strstr(c->head, "/bulk/")) {
                c->left = strtoull(strstr(c->head, "/bulk/") + 6, NULL, 10);
                n = snprintf(head, sizeof(head),
                             "HTTP/1.1 200 OK\r\nContent-Length: %llu\r\nConnection: close\r\n\r\n",
                             (unsigned long long) c->left);
                (void) !send(fd, head, (size_t) n, MSG_NOSIGNAL);
                send_bulk(epoll_fd, fd);
        } else if (strncmp(c->head, "GET /hold", 9) == 0)
                (void) !send(fd, held, sizeof(held) - 1, MSG_NOSIGNAL);
        else {
                (void) !send(fd, small, sizeof(small) - 1, MSG_NOSIGNAL);
                end(fd);
        }
}

static void take(int epoll_fd, int listen_fd)
{
        for (;;) {
                int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK), one = 1;

                if (fd < 0)
                        return;
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
                conns[fd] = (Conn){ .is_open = true };
                watch(epoll_fd, EPOLL_CTL_ADD, fd, EPOLLIN);
        }
}

static void serve(const char *address, const char *port)
{
        int listen_fd = listen_on(address, port), epoll_fd = epoll_create1(0);
        struct epoll_event found[EVENTS];

        watch(epoll_fd, EPOLL_CTL_ADD, listen_fd, EPOLLIN);
        puts("ready");
        fflush(stdout);
        for (;;) {
                int n = epoll_wait(epoll_fd, found, EVENTS, -1);

                for (int i = 0; i < n; i++) {
                        int fd = found[i].data.fd;
                        Conn *c = &conns[fd];
                        ssize_t got;

                        if (fd == listen_fd) {
                                take(epoll_fd, fd);
                                continue;
                        }
                        if (c->left > 0) {
                                send_bulk(epoll_fd, fd);
                                continue;
                        }
                        got = recv(fd, c->head + c->n_head, sizeof(c->head) - 1 - c->n_head, 0);
                        if (got > 0) {
                                c->n_head += (size_t) got;
                                answer(epoll_fd, fd);
                        } else if (got == 0 || errno != EAGAIN)
                                end(fd);
                }
        }
}

/* ---- clients ---- */

static void bulk(const struct sockaddr_in *a, const char *bytes)
{
        char head[160];
        uint64_t start, n = 0, size = strtoull(bytes, NULL, 10);
        struct rusage used;
        int fd = connect_to(a, true), n_head;

        n_head = snprintf(head, sizeof(head), "GET /bulk/%s HTTP/1.1\r\nHost: bulk\r\n\r\n", bytes);
        start = now();
        if (write(fd, head, (size_t) n_head) != n_head)
                die("write");
        for (;;) {
                ssize_t got = read(fd, chunk, sizeof(chunk));

                if (got < 0)
                        die("read");
                if (got == 0)
                        break;
                n += (uint64_t) got;
        }
        if (n < size) {
                fprintf(stderr, "%llu of %s bytes came\n", (unsigned long long) n, bytes);
                exit(1);
        }
        start = now() - start;
        getrusage(RUSAGE_SELF, &used);
        printf("%llu %llu\n", (unsigned long long) start,
               (unsigned long long) ((used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000 +
                                     used.ru_utime.tv_usec + used.ru_stime.tv_usec));
}

static void rate(const struct sockaddr_in *a, const char *prefix, unsigned n, double seconds)
{
        int epoll_fd = epoll_create1(0);
        uint64_t start = now(), stop = start + (uint64_t) (seconds * 1e9), n_done = 0, n_failed = 0;
        struct epoll_event found[EVENTS];
        char head[512], host[64];
        size_t n_head;

        snprintf(host, sizeof(host), "%s", prefix[0] ? prefix + 7 : "measured");
        n_head = (size_t) snprintf(head, sizeof(head),
                                   "GET %s/ HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", prefix,
                                   host);
        for (unsigned i = 0; i < n; i++)
                watch(epoll_fd, EPOLL_CTL_ADD, connect_to(a, false), EPOLLOUT);
        while (now() < stop) {
                int k = epoll_wait(epoll_fd, found, EVENTS, 100);

                for (int i = 0; i < k; i++) {
                        int fd = found[i].data.fd;
                        ssize_t got;

                        if (found[i].events & EPOLLOUT) {
                                if (send(fd, head, n_head, MSG_NOSIGNAL) == (ssize_t) n_head) {
                                        watch(epoll_fd, EPOLL_CTL_MOD, fd, EPOLLIN);
                                        continue;
                                }
                                got = -1;
                        } else
                                got = recv(fd, chunk, 4096, 0);
                        if (got > 0) {
                                conns[fd].holds = conns[fd].holds ||
                                                  (got > 12 && memcmp(chunk + 8, " 200", 4) == 0);
                                continue;
                        }
                        if (conns[fd].holds)
                                n_done++;
                        else
                                n_failed++;
                        conns[fd].holds = false;
                        close(fd);
                        watch(epoll_fd, EPOLL_CTL_ADD, connect_to(a, false), EPOLLOUT);
                }
        }
        printf("%.1f %llu\n", (double) n_done * 1e9 / (double) (now() - start),
               (unsigned long long) n_failed);
}

static bool ask(int fd, const char *path)
{
        char head[128];
        int n = snprintf(head, sizeof(head), "GET %s HTTP/1.1\r\nHost: measured\r\n\r\n", path);

        return send(fd, head, (size_t) n, MSG_NOSIGNAL) == n;
}

static void latency(const struct sockaddr_in *a, unsigned count)
{
        for (unsigned i = 0; i < count; i++) {
                uint64_t start = now();
                int fd = connect_to(a, true);

                if (!ask(fd, "/") || recv(fd, chunk, 4096, 0) <= 0)
                        die("latency");
                printf("%llu\n", (unsigned long long) (now() - start));
                close(fd);
                usleep(1000);
        }
}

/* So many at a time: what is measured is how many stand, not how they come. */
static void hold(const struct sockaddr_in *a, unsigned n)
{
        struct timeval patience = { .tv_sec = 10 };
        unsigned n_held = 0;

        while (n_held < n) {
                int fds[64], k = n - n_held < 64 ? (int) (n - n_held) : 64;

                for (int i = 0; i < k; i++) {
                        fds[i] = connect_to(a, true);
                        if (!ask(fds[i], "/hold"))
                                die("hold");
                        /* Who has as many as it takes lets further ones wait. */
                        setsockopt(fds[i], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
                }
                for (int i = 0; i < k; i++, n_held++)
                        if (recv(fds[i], chunk, 4096, 0) < 13 || memcmp(chunk + 8, " 200", 4) != 0)
                                goto out;
        }
out:
        printf("%u\n", n_held);
        fflush(stdout);
        while (read(0, chunk, 64) > 0)
                ;
}

/* ---- a plain relay ---- */

typedef struct Way {
        int from, to, pipe[2];
        char *buffer;
        size_t kept, at;
        bool is_over;
} Way;

static bool use_splice;
static size_t relay_size;

/* Until nothing is left to do now. */
static void move(Way *w)
{
        for (;;) {
                ssize_t n;

                if (w->kept == 0) {
                        w->at = 0;
                        n = use_splice ? splice(w->from, NULL, w->pipe[1], NULL, relay_size,
                                                SPLICE_F_NONBLOCK | SPLICE_F_MOVE)
                                       : recv(w->from, w->buffer, relay_size, 0);
                        if (n == 0) {
                                w->is_over = true;
                                shutdown(w->to, SHUT_WR);
                        }
                        if (n <= 0)
                                return;
                        w->kept = (size_t) n;
                }
                n = use_splice ? splice(w->pipe[0], NULL, w->to, NULL, w->kept,
                                        SPLICE_F_NONBLOCK | SPLICE_F_MOVE)
                               : send(w->to, w->buffer + w->at, w->kept, MSG_NOSIGNAL);
                if (n <= 0)
                        return;
                w->kept -= (size_t) n;
                w->at += (size_t) n;
        }
}

static void relay_one(int client, const struct sockaddr_in *to)
{
        int server = connect_to(to, true), epoll_fd = epoll_create1(0);
        Way ways[2] = { { .from = client, .to = server }, { .from = server, .to = client } };
        struct epoll_event found[4];

        fcntl(server, F_SETFL, O_NONBLOCK);
        for (int i = 0; i < 2; i++) {
                ways[i].buffer = malloc(relay_size);
                if (pipe2(ways[i].pipe, O_NONBLOCK) < 0)
                        die("pipe2");
                fcntl(ways[i].pipe[1], F_SETPIPE_SZ, (int) relay_size);
                watch(epoll_fd, EPOLL_CTL_ADD, ways[i].from, EPOLLIN | EPOLLOUT | EPOLLET);
        }
        while (!ways[0].is_over || !ways[1].is_over) {
                epoll_wait(epoll_fd, found, 4, -1);
                for (int i = 0; i < 2; i++)
                        if (!ways[i].is_over)
                                move(&ways[i]);
                if (ways[1].is_over)
                        break;
        }
        for (int i = 0; i < 2; i++) {
                free(ways[i].buffer);
                close(ways[i].pipe[0]);
                close(ways[i].pipe[1]);
                close(ways[i].from);
        }
        close(epoll_fd);
}

static void relay(char **v)
{
        struct sockaddr_in to = address_of(v[3], v[4]);
        int listen_fd = listen_on("127.0.0.1", v[2]);

        use_splice = strcmp(v[0], "splice") == 0;
        relay_size = strtoul(v[1], NULL, 10);
        fcntl(listen_fd, F_SETFL, 0);
        /* As in a session: nothing is lost towards 127.0.0.1, so nothing need be paced. */
        if (setsockopt(listen_fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4) < 0)
                die("TCP_CONGESTION");
        puts("ready");
        fflush(stdout);
        for (;;) {
                int client = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK);

                if (client >= 0)
                        relay_one(client, &to);
        }
}

int main(int argc, char **argv)
{
        struct rlimit files = { .rlim_cur = 0 };
        struct sockaddr_in to;

        signal(SIGPIPE, SIG_IGN);
        getrlimit(RLIMIT_NOFILE, &files);
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
        if (argc == 7 && strcmp(argv[1], "relay") == 0)
                relay(argv + 2);
        if (argc == 4 && strcmp(argv[1], "server") == 0)
                serve(argv[2], argv[3]);
        if (argc < 5)
                return 2;
        to = address_of(argv[2], argv[3]);
        if (strcmp(argv[1], "bulk") == 0)
                bulk(&to, argv[4]);
        else if (strcmp(argv[1], "rate") == 0 && argc == 7)
                rate(&to, argv[4], (unsigned) atoi(argv[5]), atof(argv[6]));
        else if (strcmp(argv[1], "latency") == 0)
                latency(&to, (unsigned) atoi(argv[4]));
        else if (strcmp(argv[1], "hold") == 0)
                hold(&to, (unsigned) atoi(argv[4]));
        else
                return 2;
        return 0;
}
