// SPDX-License-Identifier: Apache-2.0
#include "vmpool/pool/template_store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "vmpool/base/units.h"
#include "vmpool/pool/sha256.h"
#include "vmpool/pool/template_files.h"

namespace granary::pool {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMemoryBytes = 64 * kMiB;
const std::string kState(100, 's');

std::string read_text(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}
void write_text(const fs::path& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

class TemplateStoreTest : public testing::Test {
 protected:
  TemplateStoreTest() {
    std::string name = (fs::temp_directory_path() / "granary-store-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    folder = name;
    inputs.lines = {{"kernel", "abc"}, {"vmm", "1"}};
    info.inputs = inputs.text();
    info.boot_seconds = 1.25;
    info.created_unix_s = 1234;
  }
  ~TemplateStoreTest() override { fs::remove_all(folder); }

  TemplateStore open() {
    Result<TemplateStore> store = TemplateStore::open((folder / "store").string());
    EXPECT_TRUE(store) << store.error().message();
    return std::move(*store);
  }
  // `pages` populated pages, each far from the next.
  Template make(char fill, int pages = 2) const {
    Template content{inputs.key(), *create_memfd("state"), *create_memfd("memory", kMemoryBytes)};
    EXPECT_TRUE(pwrite_all(content.state.get(), std::as_bytes(std::span(kState)), 0));
    const std::string page(kPageSize, fill);
    for (int i = 0; i < pages; ++i) {
      EXPECT_TRUE(pwrite_all(content.memory.get(), std::as_bytes(std::span(page)), static_cast<uint64_t>(i) * kMiB));
    }
    EXPECT_TRUE(seal_memfd(content.state.get()));
    EXPECT_TRUE(seal_memfd(content.memory.get()));
    return content;
  }
  [[nodiscard]] fs::path file(const char* name) const { return folder / "store" / inputs.key() / name; }

  fs::path folder;
  TemplateInputs inputs;
  TemplateInfo info;
};

TEST_F(TemplateStoreTest, KeyDependsOnEveryLine) {
  TemplateInputs other = inputs;
  EXPECT_EQ(other.key(), inputs.key());
  other.lines["vmm"] = "2";
  EXPECT_NE(other.key(), inputs.key());
  EXPECT_EQ(inputs.text(), "kernel abc\nvmm 1\n");
  EXPECT_EQ(sha256_of("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST_F(TemplateStoreTest, KeepsContentAndHoles) {
  TemplateStore store = open();
  ASSERT_TRUE(store.save(info, make('a')));
  struct stat on_disk {};
  ASSERT_EQ(::stat(file("memory").c_str(), &on_disk), 0);
  EXPECT_EQ(static_cast<uint64_t>(on_disk.st_size), kMemoryBytes);
  EXPECT_LT(on_disk.st_blocks * 512, 1 << 20);

  const Result<Template> loaded = store.load(inputs.key());
  ASSERT_TRUE(loaded) << loaded.error().message();
  const auto extents = data_extents(loaded->memory.get());
  ASSERT_TRUE(extents);
  EXPECT_EQ(*extents, (std::vector<FileExtent>{{0, kPageSize}, {kMiB, kPageSize}}));
  std::string page(kPageSize, ' ');
  ASSERT_TRUE(pread_all(loaded->memory.get(), std::as_writable_bytes(std::span(page)), kMiB));
  EXPECT_EQ(page, std::string(kPageSize, 'a'));
  constexpr int kAll = F_SEAL_SEAL | F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK;
  EXPECT_EQ(::fcntl(loaded->memory.get(), F_GET_SEALS) & kAll, kAll);
  EXPECT_EQ(::fcntl(loaded->state.get(), F_GET_SEALS) & kAll, kAll);
}

TEST_F(TemplateStoreTest, ListReplaceRemove) {
  TemplateStore store = open();
  EXPECT_TRUE(store.load(inputs.key()).error().is_errno(ENOENT));
  ASSERT_TRUE(store.save(info, make('a')));
  ASSERT_TRUE(store.save(info, make('b', 3)));
  const auto list = store.list();
  ASSERT_TRUE(list);
  ASSERT_EQ(list->size(), 1U);
  EXPECT_EQ(list->front().inputs, inputs.text());
  EXPECT_EQ(list->front().populated_bytes, 3 * kPageSize);
  EXPECT_EQ(list->front().memory_bytes, kMemoryBytes);
  EXPECT_EQ(list->front().boot_seconds, 1.25);
  EXPECT_TRUE(*store.remove(inputs.key()));
  EXPECT_FALSE(*store.remove(inputs.key()));
  EXPECT_TRUE(store.remove("../store").error().is(Errc::kInvalidArgument));
  EXPECT_TRUE(store.load("../store").error().is(Errc::kInvalidArgument));
  EXPECT_TRUE(fs::is_empty(folder / "store"));
}

TEST_F(TemplateStoreTest, AnyFlippedBitOfStateAndManifestIsFound) {
  TemplateStore store = open();
  ASSERT_TRUE(store.save(info, make('a', 1)));
  // Links: load() only removes names, so what is kept stays whole.
  const fs::path kept = folder / "kept";
  constexpr auto kLinks = fs::copy_options::recursive | fs::copy_options::create_hard_links;
  fs::copy(file("").parent_path(), kept, kLinks);
  for (const char* name : {"state", "manifest.json"}) {
    const std::string good = read_text(kept / name);
    for (size_t i = 0; i < good.size(); ++i) {
      fs::remove_all(file("").parent_path());
      fs::copy(kept, file("").parent_path(), kLinks);
      fs::remove(file(name));
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ (1 << (i % 8)));
      write_text(file(name), bad);
      const Result<Template> loaded = store.load(inputs.key());
      ASSERT_FALSE(loaded) << name << " byte " << i;
      ASSERT_TRUE(loaded.error().is(Errc::kSnapshotCorrupt) || loaded.error().is(Errc::kSnapshotVersion))
          << loaded.error().message();
      ASSERT_FALSE(fs::exists(file(""))) << "a damaged template must be removed";
    }
  }
}

TEST_F(TemplateStoreTest, FlippedMemoryIsFound) {
  TemplateStore store = open();
  for (const uint64_t at : {uint64_t{0}, uint64_t{kPageSize - 1}, kMiB + 77}) {
    ASSERT_TRUE(store.save(info, make('a')));
    const Fd memory = *open_file(file("memory"), O_WRONLY);
    ASSERT_TRUE(pwrite_all(memory.get(), std::as_bytes(std::span("X", 1)), at));
    EXPECT_TRUE(store.load(inputs.key()).error().is(Errc::kSnapshotCorrupt)) << at;
  }
}

TEST_F(TemplateStoreTest, AnyTruncationIsFound) {
  TemplateStore store = open();
  ASSERT_TRUE(store.save(info, make('a', 1)));
  const size_t manifest_bytes = read_text(file("manifest.json")).size();
  const auto load_cut = [&](const char* name, uint64_t size) {
    EXPECT_TRUE(store.save(info, make('a', 1)));
    fs::resize_file(file(name), size);
    return store.load(inputs.key()).error().code();
  };
  for (size_t size = 0; size < manifest_bytes; size += 7) {
    EXPECT_EQ(load_cut("manifest.json", size), make_error_code(Errc::kSnapshotCorrupt));
  }
  for (size_t size = 0; size < kState.size(); size += 9) {
    EXPECT_EQ(load_cut("state", size), make_error_code(Errc::kSnapshotTruncated));
  }
  EXPECT_EQ(load_cut("memory", 0), make_error_code(Errc::kSnapshotTruncated));
  EXPECT_EQ(load_cut("memory", kMemoryBytes - 1), make_error_code(Errc::kSnapshotTruncated));
  EXPECT_EQ(load_cut("memory", kMemoryBytes + 1), make_error_code(Errc::kSnapshotCorrupt));
}

TEST_F(TemplateStoreTest, MissingFileIsDamage) {
  TemplateStore store = open();
  for (const char* name : {"manifest.json", "state", "memory"}) {
    ASSERT_TRUE(store.save(info, make('a')));
    fs::remove(file(name));
    EXPECT_TRUE(store.load(inputs.key()).error().is(Errc::kSnapshotCorrupt)) << name;
  }
}

TEST_F(TemplateStoreTest, TemplateUnderAnotherKeyIsRefused) {
  TemplateStore store = open();
  ASSERT_TRUE(store.save(info, make('a')));
  const std::string other(64, 'e');
  fs::rename(folder / "store" / inputs.key(), folder / "store" / other);
  EXPECT_TRUE(store.load(other).error().is(Errc::kSnapshotCorrupt));
}

TEST_F(TemplateStoreTest, OneOwnerAndCrashLeftovers) {
  fs::create_directories(folder / "store" / ".tmp-crashed");
  write_text(folder / "store" / ".tmp-crashed" / "memory", "half");
  const TemplateStore store = open();
  EXPECT_FALSE(fs::exists(folder / "store" / ".tmp-crashed"));
  const Result<TemplateStore> second = TemplateStore::open((folder / "store").string());
  ASSERT_FALSE(second);
  EXPECT_TRUE(second.error().is(Errc::kAlreadyRunning));
}

TEST_F(TemplateStoreTest, FullDiskLeavesNothing) {
  const std::string disk = (folder / "store").string();
  fs::create_directory(disk);
  if (::mount("granary-test", disk.c_str(), "tmpfs", 0, "size=128k") != 0) GTEST_SKIP() << "cannot mount a tmpfs here";
  {
    TemplateStore store = open();
    ASSERT_TRUE(store.save(info, make('a', 2)));
    const Status saved = store.save(info, make('b', 64));
    ASSERT_FALSE(saved);
    EXPECT_TRUE(saved.error().is_errno(ENOSPC)) << saved.error().message();
    EXPECT_TRUE(store.load(inputs.key())) << "the older one must survive";
    EXPECT_EQ(std::distance(fs::directory_iterator(disk), {}), 1);
  }
  ::umount(disk.c_str());
}

}  // namespace
}  // namespace granary::pool
