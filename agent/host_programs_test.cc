// SPDX-License-Identifier: Apache-2.0
#include "agent/host_programs.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace granary::agent {
namespace {

namespace fs = std::filesystem;

std::string content(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Two programs of this build stand in: any ELF file with a build id.
class HostProgramsTest : public testing::Test {
 protected:
  HostProgramsTest() {
    std::string name = (fs::temp_directory_path() / "granary-programs-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    folder_ = name;
    fs::create_directory(folder_ / "image");
    for (const char* program : {"granary-spawn", "granary-vmm"}) {
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
  for (const char* program : {"granary-spawn", "granary-vmm"}) {
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

}  // namespace
}  // namespace granary::agent
