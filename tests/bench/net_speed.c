// SPDX-License-Identifier: Apache-2.0
// Measures one TCP connection. Static, so that it runs in a guest.
//   net-speed serve PORT               what its clients ask for, until it is killed
//   net-speed out|in|rr HOST PORT SECONDS   prints bytes (round trips of one byte) per second
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static char buffer[256 * 1024];

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int fail(const char* what) {
  perror(what);
  return 1;
}

// Reno, because CUBIC ends its slow start when round trips become longer (HyStart), which in an emulated machine they
// do by chance: such a connection stays slow for seconds.
static void prepare(int peer) {
  const int on = 1;
  setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  setsockopt(peer, IPPROTO_TCP, TCP_CONGESTION, "reno", strlen("reno"));
}

static void answer(int peer) {
  char kind;
  ssize_t n;
  if (read(peer, &kind, 1) != 1) return;
  if (kind == 'i') {
    while (write(peer, buffer, sizeof(buffer)) > 0) continue;
    return;
  }
  while ((n = read(peer, buffer, sizeof(buffer))) > 0) {
    if (kind == 'r' && write(peer, buffer, (size_t)n) != n) return;
  }
  (void)!write(peer, "", 1);  // all of it is here
}

static int serve(struct sockaddr_in at) {
  const int on = 1;
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(listener, (struct sockaddr*)&at, sizeof(at)) != 0 || listen(listener, 4) != 0) return fail("listen");
  for (;;) {
    const int peer = accept(listener, NULL, NULL);
    if (peer < 0) return fail("accept");
    prepare(peer);
    answer(peer);
    close(peer);
  }
}

static int measure(const char* kind, struct sockaddr_in to, double seconds) {
  const int peer = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(peer, (struct sockaddr*)&to, sizeof(to)) != 0) return fail("connect");
  prepare(peer);
  if (write(peer, kind, 1) != 1) return fail("write");
  const double start = now();
  double done = 0;
  while (now() - start < seconds) {
    ssize_t n = 1;
    if (*kind == 'r' && (write(peer, buffer, 1) != 1 || read(peer, buffer, 1) != 1)) return fail("ping-pong");
    if (*kind == 'i') n = read(peer, buffer, sizeof(buffer));
    if (*kind == 'o') n = write(peer, buffer, sizeof(buffer));
    if (n <= 0) return fail("transfer");
    done += (double)n;
  }
  if (*kind == 'o') {
    shutdown(peer, SHUT_WR);
    if (read(peer, buffer, 1) != 1) return fail("transfer");
  }
  printf("%.0f\n", done / (now() - start));
  return 0;
}

int main(int argc, char** argv) {
  struct sockaddr_in address;
  memset(&address, 0, sizeof(address));
  address.sin_family = AF_INET;
  signal(SIGPIPE, SIG_IGN);
  if (argc == 3 && strcmp(argv[1], "serve") == 0) {
    address.sin_port = htons((uint16_t)atoi(argv[2]));
    return serve(address);
  }
  if (argc != 5 || inet_pton(AF_INET, argv[2], &address.sin_addr) != 1) return 2;
  address.sin_port = htons((uint16_t)atoi(argv[3]));
  return measure(argv[1], address, atof(argv[4]));
}
