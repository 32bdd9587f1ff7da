// SPDX-License-Identifier: Apache-2.0
// Measures one directory's file system. Static, so that it runs in a guest.
//   fs-speed read FILE   reads it once from end to end; prints bytes per second
//   fs-speed stat DIR    looks once at each entry (lstat); prints entries per second
//   fs-speed open DIR    opens, reads and closes each file once; prints files per second
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char buffer[128 * 1024];

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

// What was read; -1: it failed.
static double read_all(int directory, const char* path) {
  double done = 0;
  ssize_t n;
  const int fd = openat(directory, path, O_RDONLY);
  if (fd < 0) return -1;
  while ((n = read(fd, buffer, sizeof(buffer))) > 0) done += (double)n;
  close(fd);
  return n < 0 ? -1 : done;
}

static double visit_all(const char* kind, const char* path) {
  double done = 0;
  struct dirent* entry;
  struct stat looked_at;
  DIR* directory = opendir(path);
  if (directory == NULL) return -1;
  while ((entry = readdir(directory)) != NULL) {
    if (entry->d_name[0] == '.') continue;
    if (*kind == 's' && fstatat(dirfd(directory), entry->d_name, &looked_at, AT_SYMLINK_NOFOLLOW) != 0) return -1;
    if (*kind == 'o' && read_all(dirfd(directory), entry->d_name) < 0) return -1;
    ++done;
  }
  closedir(directory);
  return done;
}

int main(int argc, char** argv) {
  if (argc != 3 || strchr("rso", argv[1][0]) == NULL) return 2;
  const double start = now();
  const double done = argv[1][0] == 'r' ? read_all(AT_FDCWD, argv[2]) : visit_all(argv[1], argv[2]);
  if (done < 0) {
    perror(argv[2]);
    return 1;
  }
  printf("%.0f\n", done / (now() - start));
  return 0;
}
