/* The provider of the benches: one core, one thread, epoll; plain HTTP/1.1 or TLS, keep-alive, a fixed latency.
 *
 *     provider PORT LATENCY_MS [CERTIFICATE KEY]      port 0: any; prints "listening PORT"
 *
 * POST /v1/jobs makes a job that runs for the "run_ms" of its body, else for ever; GET /v1/jobs/job-N reads any job;
 * POST /v1/jobs/batch with {"ids":["job-N",...]} reads up to 256. It also keeps the books that every contender is
 * measured by, so that nobody counts his own polls: GET /stats gives them, POST /mark begins some anew.
 *   polls, creates      since the start; each job of a batch is a poll
 *   requests            that asked about jobs, since the start; a batch is one
 *   seen                jobs polled since the mark
 *   open, peak          connections that asked about jobs: now, and the most since the mark
 *   waits               [[ms, count], ...]: time from a job's answer to its next poll, in steps of 10 ms
 * With NEWS in the environment the progress is another with nearly every poll.
 * Without libssl it is compiled without -DTLS and knows plain HTTP only.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#ifdef TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
static SSL_CTX *context;
#endif

enum { JOBS = 1 << 20, STEPS = 6000, STEP_MS = 10, IN_BYTES = 16384, PENDING = 1 << 17, FDS = 1 << 16, BATCH = 256 };

struct job { double answered, end; uint32_t mark; };
struct connection {
    int fd, filled, shaken, counted;
    uint32_t generation;
    char in[IN_BYTES];
#ifdef TLS
    SSL *ssl;
#endif
};
/* The latency is the same for all, so that what is to be answered next is always the oldest: a ring will do. */
struct answer { double due; int fd; uint32_t generation; int status; long job; struct batch *batch; };
struct batch { int count; long jobs[BATCH]; };

static struct job jobs[JOBS];
static struct connection *connections[FDS];
static struct answer ring[PENDING];
static uint32_t generations, mark = 1;
static unsigned long head, tail, requests, polls, creates, seen, open_now, open_peak, waits[STEPS];
static double latency;
static int poller, news;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void hang_up(struct connection *c) {
    connections[c->fd] = NULL;
    open_now -= c->counted;
#ifdef TLS
    if (c->ssl) SSL_free(c->ssl);
#endif
    close(c->fd);
    free(c);
}

/* Answers are small and clients read them: one that does not fit is as good as a broken connection. */
static int send_all(struct connection *c, const char *data, int length) {
#ifdef TLS
    if (c->ssl) return SSL_write(c->ssl, data, length) == length;
#endif
    return send(c->fd, data, length, MSG_NOSIGNAL) == length;
}

static int reply(struct connection *c, int status, const char *body, int length) {
    static char out[1 << 17];
    int size = snprintf(out, sizeof out,
                        "HTTP/1.1 %d OK\r\nDate: Mon, 23 Nov 2026 12:00:00 GMT\r\nContent-Type: application/json\r\n"
                        "Server: bench\r\nContent-Length: %d\r\n\r\n%.*s",
                        status, length, length, body);
    return send_all(c, out, size);
}

static int tell_stats(struct connection *c) {
    static char body[1 << 16];
    int n = snprintf(body, sizeof body,
                     "{\"requests\":%lu,\"polls\":%lu,\"creates\":%lu,\"seen\":%lu,\"open\":%lu,\"peak\":%lu,\"waits\":[",
                     requests, polls, creates, seen, open_now, open_peak);
    const char *comma = "";
    for (int i = 0; i < STEPS && n < (int)sizeof body - 64; i++)
        if (waits[i]) {
            n += snprintf(body + n, sizeof body - n, "%s[%d,%lu]", comma, i * STEP_MS, waits[i]);
            comma = ",";
        }
    n += snprintf(body + n, sizeof body - n, "]}");
    return reply(c, 200, body, n);
}

static void answer_later(struct connection *c, int status, long job, struct batch *batch, double at) {
    if (head - tail == PENDING) fail("too many requests at once");
    if (!c->counted) {
        c->counted = 1;
        if (++open_now > open_peak) open_peak = open_now;
    }
    ring[head++ % PENDING] = (struct answer){at + latency, c->fd, c->generation, status, job, batch};
}

static void note_poll(long number, double at) {
    struct job *job = &jobs[number % JOBS];
    polls++;
    if (job->answered > 0) {
        int step = (int)((at - job->answered) * 1000 / STEP_MS);
        waits[step < 0 ? 0 : step < STEPS ? step : STEPS - 1]++;
    }
    if (job->mark != mark) {
        job->mark = mark;
        seen++;
    }
}

/* One request that is whole. Returns 0 when the connection broke. */
static int handle(struct connection *c, const char *request) {
    double at = now();
    if (!strncmp(request, "GET /v1/jobs/job-", 17)) {
        long number = atol(request + 17);
        requests++;
        note_poll(number, at);
        answer_later(c, 200, number, NULL, at);
        return 1;
    }
    if (!strncmp(request, "POST /v1/jobs/batch ", 20)) {
        struct batch *batch = calloc(1, sizeof *batch);
        const char *id = strstr(request, "\r\n\r\n");
        while (batch->count < BATCH && (id = strstr(id, "\"job-"))) {
            id += 5;
            note_poll(batch->jobs[batch->count++] = atol(id), at);
        }
        requests++;
        answer_later(c, 200, 0, batch, at);
        return 1;
    }
    if (!strncmp(request, "POST /v1/jobs ", 14)) {
        const char *run = strstr(request, "\"run_ms\":");
        jobs[creates % JOBS].end = run ? at + atol(run + 9) / 1000.0 : 0;
        answer_later(c, 201, (long)creates++, NULL, at);
        return 1;
    }
    if (!strncmp(request, "POST /mark ", 11)) {
        mark++;
        seen = 0;
        open_peak = open_now;
        return reply(c, 200, "{}", 2);
    }
    if (!strncmp(request, "GET /stats ", 11)) return tell_stats(c);
    return reply(c, 404, "{}", 2);
}

static int take_requests(struct connection *c) {
    for (;;) {
        c->in[c->filled] = 0;
        char *end = strstr(c->in, "\r\n\r\n");
        if (!end) return c->filled < IN_BYTES - 1;
        char *field = strcasestr(c->in, "\r\ncontent-length:");
        long body = field && field < end ? atol(field + 17) : 0, whole = end + 4 - c->in + body;
        if (whole >= IN_BYTES) return 0;
        if (c->filled < whole) return 1;
        char next = c->in[whole];
        c->in[whole] = 0;
        int alive = handle(c, c->in);
        c->in[whole] = next;
        if (!alive) return 0;
        memmove(c->in, c->in + whole, c->filled - whole);
        c->filled -= whole;
    }
}

/* Returns bytes read, 0 when there is nothing yet, -1 when the connection is over. */
static int receive(struct connection *c) {
    int room = IN_BYTES - 1 - c->filled, got;
#ifdef TLS
    if (c->ssl) {
        ERR_clear_error();
        got = c->shaken ? SSL_read(c->ssl, c->in + c->filled, room) : SSL_accept(c->ssl);
        if (got <= 0) {
            int why = SSL_get_error(c->ssl, got);
            return why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? 0 : -1;
        }
        if (!c->shaken) {
            c->shaken = 1;
            return receive(c);
        }
        return got;
    }
#endif
    got = recv(c->fd, c->in + c->filled, room, 0);
    return got > 0 ? got : got < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
}

static void serve(struct connection *c) {
    for (;;) {
        int got = receive(c);
        if (got == 0) return;
        if (got < 0) {
            hang_up(c);
            return;
        }
        c->filled += got;
        if (!take_requests(c)) {
            hang_up(c);
            return;
        }
    }
}

static void welcome(int listener) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        if (fd >= FDS) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct connection *c = calloc(1, sizeof *c);
        c->fd = fd;
        c->generation = ++generations;
#ifdef TLS
        if (context) {
            c->ssl = SSL_new(context);
            SSL_set_fd(c->ssl, fd);
        }
#endif
        connections[fd] = c;
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl");
    }
}

/* What is said of one job; at least ROOM bytes must be free. Returns its length. */
enum { ROOM = 256 };
static int show(char *body, long number, double at) {
    struct job *job = &jobs[number % JOBS];
    job->answered = at;
    return snprintf(body, ROOM,
                    "{\"id\":\"job-%ld\",\"status\":\"%s\",\"progress\":0.%02lu,"
                    "\"created_at\":\"2026-11-23T12:00:00Z\",\"output\":null,\"error\":null}",
                    number, job->end > 0 && job->end <= at ? "succeeded" : "running", news ? polls % 100 : 42);
}

static int show_all(char *body, struct batch *batch, double at) {
    int length = sprintf(body, "{\"jobs\":[");
    for (int i = 0; i < batch->count; i++) {
        if (i) body[length++] = ',';
        length += show(body + length, batch->jobs[i], at);
    }
    return length + sprintf(body + length, "]}");
}

static void answer_what_is_due(void) {
    static char body[(BATCH + 1) * ROOM];
    while (tail != head) {
        struct answer *next = &ring[tail % PENDING];
        double at = now();
        if (next->due > at) return;
        tail++;
        struct connection *c = connections[next->fd];
        if (c && c->generation == next->generation) {
            int length = next->batch ? show_all(body, next->batch, at) : show(body, next->job, at);
            if (!reply(c, next->status, body, length)) hang_up(c);
        }
        free(next->batch);
    }
}

int main(int count, char **arguments) {
    if (count != 3 && count != 5) {
        fprintf(stderr, "usage: provider PORT LATENCY_MS [CERTIFICATE KEY]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    latency = atof(arguments[2]) / 1000;
    news = getenv("NEWS") != NULL;
    if (count == 5) {
#ifdef TLS
        context = SSL_CTX_new(TLS_server_method());
        if (SSL_CTX_use_certificate_chain_file(context, arguments[3]) != 1 ||
            SSL_CTX_use_PrivateKey_file(context, arguments[4], SSL_FILETYPE_PEM) != 1) {
            ERR_print_errors_fp(stderr);
            return 1;
        }
#else
        fprintf(stderr, "compiled without TLS\n");
        return 2;
#endif
    }
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[1]))};
    where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&where, sizeof where) || listen(listener, 4096)) fail("listen");
    socklen_t size = sizeof where;
    getsockname(listener, (struct sockaddr *)&where, &size);
    printf("listening %d\n", ntohs(where.sin_port));
    fflush(stdout);
    poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event events[512], event = {.events = EPOLLIN, .data.fd = listener};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event)) fail("epoll_ctl");
    for (;;) {
        double left_ms = tail == head ? 1000 : (ring[tail % PENDING].due - now()) * 1000;
        int ready = epoll_wait(poller, events, 512, left_ms <= 0 ? 0 : (int)left_ms + 1);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.fd == listener)
                welcome(listener);
            else if (connections[events[i].data.fd])
                serve(connections[events[i].data.fd]);
        }
        answer_what_is_due();
    }
}
