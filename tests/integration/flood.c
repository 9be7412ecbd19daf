/*
 * One process that gives the daemon as much work as it can: flood SOCKET WORKSPACE KIND… , a thread for each
 * KIND, until its standard input ends.
 */

#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BIG_SIZE   (250U * 1024U)
#define HALVES_MAX 60

static const char *socket_path, *workspace;

static int open_connection(int flags)
{
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);

        if (fd < 0)
                return -1;
        (void) snprintf(address.sun_path, sizeof(address.sun_path), "%s", socket_path);
        if (connect(fd, (const struct sockaddr *) &address, sizeof(address)) < 0) {
                (void) close(fd);
                return -1;
        }
        return fd;
}

static bool send_all(int fd, const char *data, size_t size)
{
        for (size_t at = 0; at < size;) {
                ssize_t n = send(fd, data + at, size - at, MSG_NOSIGNAL);

                if (n <= 0)
                        return false;
                at += (size_t) n;
        }
        return true;
}

/* Until so many answers have come, or the end. */
static bool read_answers(int fd, unsigned n)
{
        static _Thread_local char data[65536];

        while (n > 0) {
                ssize_t size = recv(fd, data, sizeof(data), 0);

                if (size <= 0)
                        return false;
                for (ssize_t i = 0; i < size && n > 0; i++)
                        n -= data[i] == '\0';
        }
        return true;
}

/* The same message again and again, so many at a time; a new connection when one ends. */
static void repeat(const char *message, size_t size, unsigned n)
{
        for (;;) {
                int fd = open_connection(0);
                bool is_open = fd >= 0;

                while (is_open) {
                        for (unsigned i = 0; i < n && is_open; i++)
                                is_open = send_all(fd, message, size);
                        is_open = is_open && read_answers(fd, n);
                }
                if (fd >= 0)
                        (void) close(fd);
        }
}

static void flood_connects(void)
{
        for (;;) {
                int fd = open_connection(SOCK_NONBLOCK);

                if (fd >= 0)
                        (void) close(fd);
        }
}

static void flood_messages(void)
{
        static const char message[] = "{\"method\":\"org.varlink.service.GetInfo\"}";

        repeat(message, sizeof(message), 64);
}

static void flood_creates(void)
{
        char message[4096];
        int n = snprintf(
                        message, sizeof(message),
                        "{\"method\":\"io.sandboxd.Session.Create\",\"parameters\":{\"context\":{\"workspace\":\"%s\","
                        "\"lifetime\":\"detached\"}}}",
                        workspace);

        repeat(message, (size_t) n + 1, 1);
}

static void flood_queries(void)
{
        static const char message[] =
                        "{\"method\":\"io.sandboxd.Audit.Query\",\"more\":true,\"parameters\":{\"limit\":1000}}";

        repeat(message, sizeof(message), 1);
}

static void flood_big(void)
{
        char *message = malloc(BIG_SIZE + 1);
        int n;

        if (!message)
                return;
        n = snprintf(message, BIG_SIZE,
                     "{\"method\":\"io.sandboxd.Session.Describe\",\"parameters\":{\"id\":\"x\",\"a\":[1");
        for (size_t at = (size_t) n; at < BIG_SIZE - 4; at += 2)
                memcpy(message + at, ",1", 2);
        (void) snprintf(message + BIG_SIZE - 4, 5, "1]}}");
        repeat(message, BIG_SIZE + 1, 1);
}

static void flood_halves(void)
{
        int fds[HALVES_MAX] = { 0 };

        for (unsigned i = 0;; i = (i + 1) % HALVES_MAX) {
                if (fds[i] > 0)
                        (void) close(fds[i]);
                fds[i] = open_connection(0);
                if (fds[i] >= 0)
                        (void) !send(fds[i], "{\"method\":\"org.varl", 19, MSG_NOSIGNAL);
        }
}

/* Nothing of the daemon's: what a process that never rests costs its neighbours on the same processors. */
static void flood_nobody(void)
{
        for (;;) {
                int fds[2];

                if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
                        continue;
                (void) close(fds[0]);
                (void) close(fds[1]);
        }
}

static void *run(void *name)
{
        static const struct {
                const char *name;
                void (*run)(void);
        } kinds[] = { { "connects", flood_connects }, { "messages", flood_messages },
                      { "creates", flood_creates },   { "queries", flood_queries },
                      { "big", flood_big },           { "halves", flood_halves },
                      { "nobody", flood_nobody } };

        for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
                if (strcmp(kinds[i].name, name) == 0)
                        kinds[i].run();
        }
        (void) fprintf(stderr, "no such flood: %s\n", (const char *) name);
        _exit(2);
}

int main(int argc, char **argv)
{
        char byte;

        if (argc < 4)
                return 2;
        socket_path = argv[1];
        workspace = argv[2];
        for (int i = 3; i < argc; i++) {
                pthread_t thread;

                if (pthread_create(&thread, NULL, run, argv[i]) != 0)
                        return 1;
        }
        while (read(STDIN_FILENO, &byte, 1) > 0)
                ;
        return 0;
}
