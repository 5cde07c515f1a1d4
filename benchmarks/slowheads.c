/* Connections that finish TLS and then send their request head a byte a second. Whoever is cut, or never gets in, tries
 * again a second later. One process, one epoll; as light as may be, because it shares a core with what is measured.
 *
 *   slowheads PORT COUNT PER_ADDRESS      until it is told to end (SIGTERM); then one line of what it did, as JSON
 *
 * Connections come from 127.0.1.1 and on, PER_ADDRESS from each. The first ones begin 50 every 20 ms.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum state { AWAY, CONNECTING, SECURING, DRIPPING };

struct one {
    int fd;
    enum state state;
    SSL *ssl;
    int sent;
    double due; /* when it has something to do by itself */
};

static volatile sig_atomic_t over;
static struct one *all;
static SSL_CTX *context;
static int poller, port, per_address;
static long tried, secured, cut, refused;

static const char head_begin[] =
    "GET /rooms/chat:bench HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer ";

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void stop(int number) {
    (void)number;
    over = 1;
}

/* It is over with this connection; the next one a second from now. */
static void leave(struct one *one) {
    if (one->state == DRIPPING)
        cut++;
    else
        refused++;
    if (one->ssl)
        SSL_free(one->ssl);
    close(one->fd);
    one->ssl = NULL;
    one->state = AWAY;
    one->due = now() + 1.0;
}

static void watch(struct one *one, int operation, unsigned events) {
    struct epoll_event event = {.events = events, .data.ptr = one};
    epoll_ctl(poller, operation, one->fd, &event);
}

static void secure(struct one *one) {
    int done = SSL_connect(one->ssl);
    if (done == 1) {
        secured++;
        one->state = DRIPPING;
        one->sent = 0;
        one->due = now();
        return;
    }
    if (SSL_get_error(one->ssl, done) != SSL_ERROR_WANT_READ)
        leave(one);
}

static void begin(struct one *one) {
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET, .sin_port = htons(port)};
    int on = 1;
    tried++;
    one->due = 1e18;
    one->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (one->fd < 0) {
        perror("socket");
        exit(1);
    }
    setsockopt(one->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    setsockopt(one->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    from.sin_addr.s_addr = htonl(0x7f000101 + (one - all) / per_address);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    one->state = CONNECTING;
    if (bind(one->fd, (struct sockaddr *)&from, sizeof from) ||
        (connect(one->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS)) {
        leave(one);
        return;
    }
    watch(one, EPOLL_CTL_ADD, EPOLLOUT);
}

static void connected(struct one *one) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(one->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        leave(one);
        return;
    }
    one->state = SECURING;
    one->ssl = SSL_new(context);
    SSL_set_fd(one->ssl, one->fd);
    watch(one, EPOLL_CTL_MOD, EPOLLIN);
    secure(one);
}

static void hear(struct one *one) {
    char data[4096];
    int size;
    while ((size = SSL_read(one->ssl, data, sizeof data)) > 0)
        ; /* whatever it is told */
    if (SSL_get_error(one->ssl, size) != SSL_ERROR_WANT_READ)
        leave(one);
}

static void drip(struct one *one) {
    char byte = one->sent < (int)sizeof head_begin - 1 ? head_begin[one->sent] : 'x';
    if (SSL_write(one->ssl, &byte, 1) != 1) {
        leave(one);
        return;
    }
    one->sent++;
    one->due += 1.0;
}

int main(int count_of_words, char **words) {
    if (count_of_words != 4)
        return 2;
    int count = atoi(words[2]);
    port = atoi(words[1]);
    per_address = atoi(words[3]);
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, stop);
    context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
    poller = epoll_create1(0);
    all = calloc(count, sizeof *all);
    double start = now();
    for (int number = 0; number < count; number++)
        all[number].due = start + number / 50 * 0.02;
    struct epoll_event events[256];
    while (!over) {
        int ready = epoll_wait(poller, events, 256, 5);
        for (int at = 0; at < ready; at++) {
            struct one *one = events[at].data.ptr;
            if (one->state == CONNECTING)
                connected(one);
            else if (one->state == SECURING)
                secure(one);
            else if (one->state == DRIPPING)
                hear(one);
        }
        double time = now();
        for (int number = 0; number < count; number++) {
            struct one *one = all + number;
            if (one->due > time)
                continue;
            if (one->state == AWAY)
                begin(one);
            else
                drip(one);
        }
        ERR_clear_error();
    }
    printf("{\"seconds\": %.1f, \"tried\": %ld, \"secured\": %ld, \"cut\": %ld, \"refused\": %ld}\n", now() - start, tried,
           secured, cut, refused);
    return 0;
}
