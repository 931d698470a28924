/* The floor: the same polls from a bare epoll loop. No heartbeats, no JSON, no errors, no deadlines, no store.
 *
 *     floor PORT TASKS
 *
 * Each task is polled 3 s after its last answer, over kept-alive connections, the one used last first.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { FDS = 1 << 16 };
static const double EVERY_S = 3.0;

/* All wait equally long, so that the task that is due next is always the one that has waited longest: a ring. */
struct turn { double due; int task; };
static struct turn *ring;
static int task_of[FDS], idle[FDS], idle_count, poller, tasks;
static unsigned long head, tail;
static struct sockaddr_in where;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int connect_one(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    if (fd < 0 || fd >= FDS || connect(fd, (struct sockaddr *)&where, sizeof where)) fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl");
    return fd;
}

static void poll_task(int task) {
    char request[256];
    int fd = idle_count ? idle[--idle_count] : connect_one();
    task_of[fd] = task;
    int length = snprintf(request, sizeof request,
                          "GET /v1/jobs/job-%d HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n\r\n", task);
    if (send(fd, request, length, MSG_NOSIGNAL) != length) fail("send");
}

int main(int count, char **arguments) {
    if (count != 3) {
        fprintf(stderr, "usage: floor PORT TASKS\n");
        return 2;
    }
    where = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(atoi(arguments[1]))};
    where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    tasks = atoi(arguments[2]);
    ring = calloc(tasks, sizeof *ring);
    poller = epoll_create1(EPOLL_CLOEXEC);
    double start = now();
    for (; head < (unsigned long)tasks; head++) ring[head] = (struct turn){start + EVERY_S * head / tasks, (int)head};
    struct epoll_event events[512];
    char answer[4096];
    for (;;) {
        double left_ms = tail == head ? 1000 : (ring[tail % tasks].due - now()) * 1000;
        int ready = epoll_wait(poller, events, 512, left_ms <= 0 ? 0 : (int)left_ms + 1);
        double at = now();
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (recv(fd, answer, sizeof answer, 0) <= 0 || strncmp(answer, "HTTP/1.1 200", 12)) fail("answer");
            ring[head++ % tasks] = (struct turn){at + EVERY_S, task_of[fd]};
            idle[idle_count++] = fd;
        }
        for (; tail != head && ring[tail % tasks].due <= at; tail++) poll_task(ring[tail % tasks].task);
    }
}
