// SPDX-License-Identifier: Apache-2.0
#include "agent/host_programs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <utility>

namespace granary::agent {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::string content(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Programs of this build stand in: any ELF file with a build id.
class HostProgramsTest : public testing::Test {
 protected:
  HostProgramsTest() {
    std::string name = (fs::temp_directory_path() / "granary-programs-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    folder_ = name;
    fs::create_directory(folder_ / "image");
    for (const char* program : {"granary-spawn", "granary-vmm", "granary-fsd", "containerd-shim-granary-v2"}) {
      fs::copy_file("/proc/self/exe", folder_ / "image" / program);
    }
  }
  ~HostProgramsTest() override { fs::remove_all(folder_); }

  Result<std::string> install(const std::string& version = "1.2.3") {
    return install_programs((folder_ / "image").string(), (folder_ / "host").string(), version);
  }

  fs::path folder_;
};

TEST_F(HostProgramsTest, CopiesIntoADirectoryOfItsVersion) {
  const mode_t before = ::umask(077);
  const auto directory = install();
  ::umask(before);
  ASSERT_TRUE(directory) << directory.error().message();
  EXPECT_EQ(fs::path(*directory).parent_path(), folder_ / "host");
  EXPECT_EQ(fs::path(*directory).filename().string().find("1.2.3-"), 0U);
  for (const char* program : {"granary-spawn", "granary-vmm", "granary-fsd", "containerd-shim-granary-v2"}) {
    EXPECT_EQ(content(fs::path(*directory) / program), content("/proc/self/exe"));
    struct stat info {};
    ASSERT_EQ(::stat((*directory + "/" + program).c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777U, 0755U);  // VMMs execute it under uids of their own
  }
}

TEST_F(HostProgramsTest, LeavesWhatIsThereAndFinishesWhatIsNot) {
  const std::string first = *install();
  std::ofstream(first + "/granary-spawn") << "it runs";
  fs::remove(first + "/granary-vmm");
  std::ofstream(first + "/granary-vmm.new") << "half of it";
  EXPECT_EQ(*install(), first);
  EXPECT_EQ(content(first + "/granary-spawn"), "it runs");
  EXPECT_EQ(content(first + "/granary-vmm"), content("/proc/self/exe"));
}

TEST_F(HostProgramsTest, PutsAnotherVersionBesideIt) { EXPECT_NE(*install("1.2.3"), *install("1.2.4")); }

TEST_F(HostProgramsTest, NamesWhatItCannotRead) {
  fs::remove(folder_ / "image/granary-vmm");
  const auto directory = install();
  ASSERT_FALSE(directory);
  EXPECT_NE(directory.error().message().find("image/granary-vmm"), std::string::npos) << directory.error().message();
}

// A process that executes `program` until the end of its life.
class Running {
 public:
  explicit Running(const std::string& program) {
    char* const argv[] = {const_cast<char*>("sleep"), const_cast<char*>("1000"), nullptr};
    if (::posix_spawn(&pid_, program.c_str(), nullptr, nullptr, argv, environ) != 0) std::abort();
  }
  ~Running() { end(); }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;
  void end() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(std::exchange(pid_, -1), nullptr, 0);
  }
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
};

// Programs of three versions; what runs is sleep(1), as granary-vmm of "1.2.4".
class UnusedProgramsTest : public HostProgramsTest {
 protected:
  UnusedProgramsTest() : oldest_(*install("1.2.3")), older_(*install("1.2.4")), own_(*install("1.3")) {
    fs::create_directories(process("1"));  // a kernel thread's exe leads nowhere
    fs::copy_file(fs::canonical("/bin/sleep"), older_ + "/granary-vmm", fs::copy_options::overwrite_existing);
  }
  // Where the only processes are those shown: a test may not look at every other's program.
  OldPrograms clean() { return remove_unused_programs(own_, process("")); }
  void show(const Running& running) {
    const std::string pid = std::to_string(running.pid());
    fs::create_directories(process(pid));
    fs::create_symlink("/proc/" + pid + "/exe", process(pid + "/exe"));
  }
  [[nodiscard]] std::string process(const std::string& name) const { return (folder_ / "proc" / name).string(); }
  std::string oldest_, older_, own_;
};

TEST_F(UnusedProgramsTest, GoUnlessSomebodyExecutesThem) {
  Running vmm(older_ + "/granary-vmm");
  show(vmm);
  OldPrograms old = clean();
  EXPECT_THAT(old.left_over, IsEmpty());
  EXPECT_THAT(old.removed, ElementsAre(oldest_));
  EXPECT_FALSE(fs::exists(oldest_));
  EXPECT_TRUE(fs::exists(older_ + "/granary-spawn"));  // kept as a whole
  vmm.end();
  old = clean();
  EXPECT_THAT(old.left_over, IsEmpty());
  EXPECT_THAT(old.removed, ElementsAre(older_));
  EXPECT_TRUE(fs::exists(own_ + "/granary-vmm"));
}

TEST_F(UnusedProgramsTest, StayForAProcessThatKnowsThemByAnotherName) {
  // As in a VMM's empty file system, whose /proc/PID/exe reads as a path that nobody has.
  fs::create_hard_link(older_ + "/granary-vmm", folder_ / "elsewhere");
  const Running vmm((folder_ / "elsewhere").string());
  show(vmm);
  EXPECT_THAT(clean().removed, ElementsAre(oldest_));
}

TEST_F(UnusedProgramsTest, OwnOnesStayWhoeverRuns) {
  own_ =
      folder_.string() + "/host//" + fs::path(own_).filename().string();  // --host-libexec-dir with a slash at its end
  EXPECT_THAT(clean().removed, testing::UnorderedElementsAre(oldest_, older_));
  EXPECT_TRUE(fs::exists(own_ + "/granary-vmm"));
}

TEST_F(UnusedProgramsTest, WithoutTheNameOfOursStay) {
  const auto names = {"1.2.3",
                      "1.2.3-0123abcd",
                      "1.2.3-0123abcd-0123ABCD",
                      "-0123abcd-0123abcd",
                      "1..3-0123abcd-0123abcd",
                      "granary-notes",
                      "v1.2-0123abcd-0123abcd",
                      "1.2-0123abcd_0123abcd",
                      "1.2.-0123abcd-0123abcd"};
  for (const char* name : names) fs::create_directory(folder_ / "host" / name);
  EXPECT_THAT(clean().removed, testing::UnorderedElementsAre(oldest_, older_));
  for (const char* name : names) EXPECT_TRUE(fs::exists(folder_ / "host" / name)) << name;
}

TEST_F(UnusedProgramsTest, WithFilesOfOthersAreNamed) {
  std::ofstream(oldest_ + "/notes") << "an operator's";
  fs::rename(older_, folder_ / "moved");
  fs::create_directory_symlink(folder_ / "moved", older_);
  const OldPrograms old = clean();
  EXPECT_THAT(old.removed, IsEmpty());
  EXPECT_THAT(old.left_over, testing::UnorderedElementsAre(HasSubstr(oldest_), HasSubstr(older_)));
  EXPECT_EQ(content(oldest_ + "/notes"), "an operator's");
  EXPECT_TRUE(fs::exists(folder_ / "moved/granary-vmm"));
}

TEST_F(UnusedProgramsTest, StayWhenProcessesCannotBeTold) {
  EXPECT_THAT(remove_unused_programs(own_, process("none")).left_over, ElementsAre(HasSubstr("none")));
  fs::create_directories(process("2"));
  fs::create_symlink("exe", process("2/exe"));  // ELOOP, where /proc says EACCES
  const OldPrograms old = clean();
  EXPECT_THAT(old.left_over, ElementsAre(HasSubstr("2/exe")));
  EXPECT_THAT(old.removed, IsEmpty());
  EXPECT_TRUE(fs::exists(oldest_ + "/granary-spawn"));
}

}  // namespace
}  // namespace granary::agent
