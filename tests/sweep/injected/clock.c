/* Preloaded, it makes the time of day jump two days, there and back, every 0.7 s of the clock that cannot jump. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>

#define DAY 86400

static int (*real)(clockid_t, struct timespec *);

static long shift(void) {
    struct timespec now;
    real(CLOCK_MONOTONIC, &now);
    long tick = (now.tv_sec * 10 + now.tv_nsec / 100000000) / 7;
    return tick % 2 ? DAY : -DAY;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    if (!real)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        time->tv_sec += shift();
    return result;
}

int gettimeofday(struct timeval *restrict value, void *restrict zone) {
    struct timespec now;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &now);
    value->tv_sec = now.tv_sec;
    value->tv_usec = now.tv_nsec / 1000;
    return result;
}

time_t time(time_t *value) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (value)
        *value = now.tv_sec;
    return now.tv_sec;
}
