// SPDX-License-Identifier: Apache-2.0
// Runs in the guest, on a directory of a share: asks of a file system what POSIX promises, and tells the first thing
// that it does not keep.
//   fs-probe basics DIR          one word for each promise, checked in turn
//   fs-probe random FILE SEED N  N random reads, writes, truncations and mappings of FILE, compared with a copy in
//   memory
#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace {

#define MUST(condition)                                                              \
  do {                                                                               \
    errno = 0;                                                                       \
    if (!(condition)) {                                                              \
      std::printf("line %d: %s (%s)\n", __LINE__, #condition, std::strerror(errno)); \
      std::exit(1);                                                                  \
    }                                                                                \
  } while (false)
#define MUST_FAIL(call, number) MUST((call) < 0 && errno == (number))

struct stat status_of(const char* path) {
  struct stat st {};
  MUST(::lstat(path, &st) == 0);
  return st;
}

int make(const char* path, mode_t mode = 0644) { return ::open(path, O_RDWR | O_CREAT | O_EXCL, mode); }

// In a child, as somebody who is not root. The exit code is what `act` returns.
template <class Act>
int as_user(uid_t uid, Act act) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setgid(uid) != 0 || ::setuid(uid) != 0) ::_exit(99);
    ::_exit(act());
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 98;
}

void files_and_links() {
  const int file = make("f");
  MUST(file >= 0);
  MUST_FAIL(make("f"), EEXIST);
  MUST(::write(file, "hello", 5) == 5);
  MUST(::link("f", "g") == 0);
  MUST(status_of("g").st_ino == status_of("f").st_ino && status_of("g").st_nlink == 2);
  MUST(::symlink("f", "s") == 0);
  char target[8] = {};
  MUST(::readlink("s", target, sizeof(target)) == 1 && target[0] == 'f');
  MUST(::unlink("f") == 0 && ::unlink("g") == 0);
  MUST_FAIL(::access("s", F_OK), ENOENT);
  char back[6] = {};
  MUST(::pread(file, back, 5, 0) == 5 && std::strcmp(back, "hello") == 0);
  struct stat gone {};
  MUST(::fstat(file, &gone) == 0 && gone.st_nlink == 0);
  MUST(::unlink("s") == 0 && ::close(file) == 0);
  MUST_FAIL(make(std::string(256, 'n').c_str()), ENAMETOOLONG);
  MUST(::mkfifo("p", 0600) == 0 && S_ISFIFO(status_of("p").st_mode) && ::unlink("p") == 0);
}

void renames() {
  MUST(::close(make("a")) == 0 && ::close(make("b")) == 0);
  const ino_t a = status_of("a").st_ino;
  MUST_FAIL(::renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_NOREPLACE), EEXIST);
  MUST(::renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_EXCHANGE) == 0);
  MUST(status_of("b").st_ino == a);
  MUST(::rename("b", "a") == 0 && status_of("a").st_ino == a);
  MUST_FAIL(::access("b", F_OK), ENOENT);
  MUST(::mkdir("d", 0755) == 0 && ::mkdir("d/e", 0755) == 0);
  MUST_FAIL(::rename("d", "d/e/x"), EINVAL);
  MUST_FAIL(::rmdir("d"), ENOTEMPTY);
  MUST_FAIL(::unlink("d"), EISDIR);
  MUST(::rename("a", "d/e/a") == 0 && ::unlink("d/e/a") == 0 && ::rmdir("d/e") == 0 && ::rmdir("d") == 0);
}

void owners_and_modes() {
  MUST(::mkdir("u", 0777) == 0 && ::chmod("u", 01777) == 0);
  MUST(as_user(1000, [] { return make("u/f", 0600) >= 0 ? 0 : 1; }) == 0);
  MUST(status_of("u/f").st_uid == 1000 && status_of("u/f").st_gid == 1000);
  MUST(as_user(1001, [] { return ::open("u/f", O_RDONLY) < 0 && errno == EACCES ? 0 : 1; }) == 0);
  MUST(as_user(1001, [] { return ::unlink("u/f") < 0 && errno == EPERM ? 0 : 1; }) == 0);
  MUST(as_user(1001, [] { return ::chmod("u/f", 0777) < 0 && errno == EPERM ? 0 : 1; }) == 0);
  MUST(::chmod("u/f", 06755) == 0 && (status_of("u/f").st_mode & 07777) == 06755);
  MUST(as_user(1000, [] { return ::write(::open("u/f", O_WRONLY), "x", 1) == 1 ? 0 : 1; }) == 0);
  MUST((status_of("u/f").st_mode & 06000) == 0);
  MUST(::chown("u/f", 7, 8) == 0 && status_of("u/f").st_uid == 7 && status_of("u/f").st_gid == 8);
  const timespec times[] = {{1000, 5}, {2000, 7}};
  MUST(::utimensat(AT_FDCWD, "u/f", times, 0) == 0);
  MUST(status_of("u/f").st_mtim.tv_sec == 2000 && status_of("u/f").st_mtim.tv_nsec == 7);
  MUST(::unlink("u/f") == 0 && ::rmdir("u") == 0);
}

void attributes() {
  MUST(::close(make("x")) == 0);
  MUST(::setxattr("x", "user.k", "value", 5, 0) == 0);
  char value[16] = {};
  MUST(::getxattr("x", "user.k", value, sizeof(value)) == 5 && std::strcmp(value, "value") == 0);
  MUST_FAIL(::setxattr("x", "user.k", "v", 1, XATTR_CREATE), EEXIST);
  char names[64] = {};
  MUST(::listxattr("x", names, sizeof(names)) == 7 && std::strcmp(names, "user.k") == 0);
  MUST(::removexattr("x", "user.k") == 0);
  MUST_FAIL(::getxattr("x", "user.k", value, sizeof(value)), ENODATA);
  MUST(::unlink("x") == 0);
}

void space() {
  const int file = make("h");
  MUST(::ftruncate(file, 1 << 20) == 0 && ::pwrite(file, "end", 3, 1 << 20) == 3);
  MUST(::lseek(file, 0, SEEK_HOLE) == 0);
  const off_t data = ::lseek(file, 0, SEEK_DATA);
  MUST(data > 0 && data <= 1 << 20);
  MUST(::posix_fallocate(file, 0, 4096) == 0);
  const int copy = make("c");
  off_t from = 1 << 20;
  off_t to = 0;
  MUST(::copy_file_range(file, &from, copy, &to, 3, 0) == 3);
  char end[4] = {};
  MUST(::pread(copy, end, 3, 0) == 3 && std::strcmp(end, "end") == 0);
  struct statvfs fs {};
  MUST(::statvfs(".", &fs) == 0 && fs.f_blocks > 0 && fs.f_namemax == 255);
  MUST(::fsync(file) == 0 && ::fdatasync(copy) == 0);
  const int folder = ::open(".", O_RDONLY | O_DIRECTORY);
  MUST(folder >= 0 && ::fsync(folder) == 0);
  MUST(::unlink("h") == 0 && ::unlink("c") == 0);
}

void mappings() {
  const int file = make("m");
  MUST(::ftruncate(file, 8192) == 0);
  void* at = ::mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  MUST(at != MAP_FAILED);
  auto* bytes = static_cast<char*>(at);
  std::memcpy(bytes + 4090, "across", 6);
  const int appender = ::open("m", O_WRONLY | O_APPEND);
  MUST(::write(appender, "appended", 8) == 8);
  MUST(::msync(at, 8192, MS_SYNC) == 0 && ::munmap(at, 8192) == 0);
  char back[9] = {};
  MUST(::pread(file, back, 6, 4090) == 6 && std::memcmp(back, "across", 6) == 0);
  MUST(::pread(file, back, 8, 8192) == 8 && std::strcmp(back, "appended") == 0);
  MUST(::unlink("m") == 0);
}

// A child that holds a lock until it is told.
void locks() {
  const int file = make("l");
  int told[2], tells[2];
  MUST(::pipe(told) == 0 && ::pipe(tells) == 0);
  const pid_t child = ::fork();
  char byte = 0;
  struct flock all {};
  all.l_type = F_WRLCK;
  if (child == 0) {
    const int own = ::open("l", O_RDWR);
    const bool locked = ::fcntl(own, F_SETLK, &all) == 0 && ::flock(own, LOCK_EX) == 0;
    if (!locked || ::write(tells[1], "l", 1) != 1 || ::read(told[0], &byte, 1) != 1) ::_exit(1);
    ::_exit(0);
  }
  MUST(::read(tells[0], &byte, 1) == 1);
  MUST_FAIL(::fcntl(file, F_SETLK, &all), EAGAIN);
  MUST_FAIL(::flock(file, LOCK_EX | LOCK_NB), EWOULDBLOCK);
  const pid_t waiter = ::fork();
  if (waiter == 0) {
    const int own = ::open("l", O_RDWR);
    ::_exit(::fcntl(own, F_SETLKW, &all) == 0 && ::flock(own, LOCK_EX) == 0 ? 0 : 1);
  }
  MUST(::pwrite(file, "x", 1, 0) == 1);  // while one waits, others work
  MUST(::write(told[1], "x", 1) == 1);
  int status = 0;
  MUST(::waitpid(child, &status, 0) == child && status == 0);
  MUST(::waitpid(waiter, &status, 0) == waiter && status == 0);
  MUST(::fcntl(file, F_SETLK, &all) == 0 && ::flock(file, LOCK_EX | LOCK_NB) == 0);
  MUST(::unlink("l") == 0);
}

void directories() {
  constexpr int kCount = 300;
  MUST(::mkdir("big", 0755) == 0 && ::chdir("big") == 0);
  for (int i = 0; i < kCount; ++i) MUST(::close(make(std::to_string(i).c_str())) == 0);
  DIR* directory = ::opendir(".");
  MUST(directory != nullptr);
  std::vector<int> seen(kCount);
  while (const dirent* entry = ::readdir(directory)) {
    if (entry->d_name[0] != '.') ++seen[static_cast<size_t>(std::atoi(entry->d_name))];
  }
  ::closedir(directory);
  MUST(std::all_of(seen.begin(), seen.end(), [](int count) { return count == 1; }));
  for (int i = 0; i < kCount; ++i) MUST(::unlink(std::to_string(i).c_str()) == 0);
  MUST(::chdir("..") == 0 && ::rmdir("big") == 0);
}

int basics(const char* directory) {
  MUST(::chdir(directory) == 0);
  ::umask(022);
  const struct {
    const char* name;
    void (*check)();
  } all[] = {{"files", files_and_links},
             {"renames", renames},
             {"owners", owners_and_modes},
             {"attributes", attributes},
             {"space", space},
             {"mappings", mappings},
             {"locks", locks},
             {"directories", directories}};
  for (const auto& each : all) {
    std::printf("%s\n", each.name);
    std::fflush(stdout);
    each.check();
  }
  return 0;
}

class RandomFile {
 public:
  RandomFile(const char* path, unsigned seed)
      : path_(path), random_(seed), fd_(::open(path, O_RDWR | O_CREAT | O_TRUNC, 0644)) {
    MUST(fd_ >= 0);
  }
  void step() {
    const size_t offset = number(kLimit);
    const size_t bytes = 1 + number(std::min<size_t>(kLimit - offset, 20'000));
    switch (number(7)) {
      case 0:
        return truncate(offset);
      case 1:
        return map(offset, bytes);
      case 2:
        return punch(offset, bytes);
      case 3:
        return reopen();
      case 4:
      case 5:
        return write(offset, bytes);
      default:
        return compare(offset, bytes);
    }
  }
  void compare(size_t offset, size_t bytes) {
    std::string got(bytes, '\0');
    const ssize_t n = ::pread(fd_, got.data(), bytes, static_cast<off_t>(offset));
    const std::string wanted = offset < model_.size() ? model_.substr(offset, bytes) : "";
    MUST(n == static_cast<ssize_t>(wanted.size()));
    MUST(got.compare(0, wanted.size(), wanted) == 0);
  }
  void compare_all() {
    MUST(status_of(path_.c_str()).st_size == static_cast<off_t>(model_.size()));
    compare(0, kLimit + 1);
  }

 private:
  static constexpr size_t kLimit = 256 * 1024;
  size_t number(size_t below) { return below == 0 ? 0 : random_() % below; }
  std::string noise(size_t bytes) {
    std::string text(bytes, '\0');
    for (char& c : text) c = static_cast<char>(random_());
    return text;
  }
  void write(size_t offset, size_t bytes) {
    const std::string text = noise(bytes);
    MUST(::pwrite(fd_, text.data(), bytes, static_cast<off_t>(offset)) == static_cast<ssize_t>(bytes));
    put(offset, text);
  }
  void put(size_t offset, const std::string& text) {
    if (model_.size() < offset + text.size()) model_.resize(offset + text.size());
    model_.replace(offset, text.size(), text);
  }
  void truncate(size_t size) {
    MUST(::ftruncate(fd_, static_cast<off_t>(size)) == 0);
    model_.resize(size);
  }
  void map(size_t offset, size_t bytes) {
    if (offset + bytes > model_.size()) return;
    const size_t begin = offset / 4096 * 4096;
    const size_t length = offset + bytes - begin;
    void* at = ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, static_cast<off_t>(begin));
    MUST(at != MAP_FAILED);
    char* place = static_cast<char*>(at) + (offset - begin);
    MUST(std::memcmp(place, model_.data() + offset, bytes) == 0);
    const std::string text = noise(bytes);
    std::memcpy(place, text.data(), bytes);
    MUST(::munmap(at, length) == 0);
    put(offset, text);
  }
  void punch(size_t offset, size_t bytes) {
    MUST(::fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                     static_cast<off_t>(bytes)) == 0);
    if (offset < model_.size())
      std::fill_n(model_.begin() + static_cast<long>(offset), std::min(bytes, model_.size() - offset), '\0');
  }
  void reopen() {
    MUST(::close(fd_) == 0);
    fd_ = ::open(path_.c_str(), O_RDWR);
    MUST(fd_ >= 0);
    compare_all();
  }
  std::string path_;
  std::mt19937 random_;
  int fd_;
  std::string model_;
};

int random_operations(const char* path, unsigned seed, int count) {
  RandomFile file(path, seed);
  for (int i = 0; i < count; ++i) file.step();
  file.compare_all();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && std::strcmp(argv[1], "basics") == 0) return basics(argv[2]);
  if (argc == 5 && std::strcmp(argv[1], "random") == 0) {
    return random_operations(argv[2], static_cast<unsigned>(std::atoi(argv[3])), std::atoi(argv[4]));
  }
  std::fputs("usage: fs-probe basics DIR | random FILE SEED COUNT\n", stderr);
  return 2;
}
