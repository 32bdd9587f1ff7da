# SPDX-License-Identifier: Apache-2.0
# What every target of this tree shares: language level, warnings, and one function per kind of target.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS ON)  # statement expressions: GRANARY_TRY
set(CMAKE_C_STANDARD 11)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo)
endif()

option(GRANARY_SANITIZE "AddressSanitizer and UndefinedBehaviorSanitizer" OFF)
option(GRANARY_TSAN "ThreadSanitizer" OFF)
option(GRANARY_FUZZ "libFuzzer targets (needs clang)" OFF)
option(GRANARY_FAULTS "steps at which a test can have a process killed (vmpool/base/fault.h)" ON)

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # Objects are shared between checkouts and build folders.
  set(launcher ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${CCACHE_PROGRAM})
  set(CMAKE_C_COMPILER_LAUNCHER ${launcher})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${launcher})
endif()

find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(GTest REQUIRED)
include(GoogleTest)

add_library(granary_options INTERFACE)
target_compile_options(granary_options INTERFACE
  -Wall -Wextra -Wshadow -Wconversion -Werror -fno-omit-frame-pointer)
target_include_directories(granary_options INTERFACE ${PROJECT_SOURCE_DIR})
if(GRANARY_SANITIZE)
  # Without vptr: that check makes a pipe to find out whether memory can be read, and calls an object invalid when there are no
  # descriptors left, which a test of the spawner brings about.
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-sanitize=vptr)
  add_link_options(-fsanitize=address,undefined)
endif()
if(GRANARY_TSAN)
  add_compile_options(-fsanitize=thread)
  add_link_options(-fsanitize=thread)
endif()
if(GRANARY_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link,address,undefined)
  add_link_options(-fsanitize=address,undefined)
endif()
# A sanitizer runtime cannot be linked statically.
if(GRANARY_SANITIZE OR GRANARY_TSAN OR GRANARY_FUZZ)
  set(GRANARY_STATIC_FLAG "")
else()
  set(GRANARY_STATIC_FLAG -static)
endif()

# granary_library(NAME SOURCES... [DEPS...] [PRIVATE_DEPS...]): a room of the tree.
function(granary_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;PRIVATE_DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC ${ARG_DEPS} PRIVATE granary_options ${ARG_PRIVATE_DEPS})
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR})
endfunction()

# granary_plain_copy(NAME): NAME_plain, which NAME is in builds without a sanitizer and NAME's sources without one
# otherwise. Call it once NAME is complete; what NAME depends on in this tree needs a plain copy as well.
function(granary_plain_copy name)
  if(GRANARY_STATIC_FLAG)
    add_library(${name}_plain ALIAS ${name})
    return()
  endif()
  get_target_property(sources ${name} SOURCES)
  get_target_property(libraries ${name} INTERFACE_LINK_LIBRARIES)
  get_target_property(directories ${name} INTERFACE_INCLUDE_DIRECTORIES)
  add_library(${name}_plain STATIC EXCLUDE_FROM_ALL ${sources})
  target_compile_options(${name}_plain PRIVATE -fno-sanitize=all)
  target_include_directories(${name}_plain SYSTEM PUBLIC ${directories})
  target_link_libraries(${name}_plain PRIVATE granary_options)
  foreach(library ${libraries})
    if(library MATCHES "LINK_ONLY" OR NOT library)
      continue()
    endif()
    if(TARGET ${library}_plain)
      set(library ${library}_plain)
    endif()
    target_link_libraries(${name}_plain PUBLIC ${library})
  endforeach()
endfunction()

# granary_executable(NAME SOURCES... [DEPS...] [STATIC | JAILED])
# JAILED: it is started by granary-spawn, so there is no file system when it runs. Always static, so never with a sanitizer
# (see granary_plain_copy).
function(granary_executable name)
  cmake_parse_arguments(ARG "STATIC;JAILED" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  if(ARG_JAILED)
    list(TRANSFORM ARG_DEPS APPEND _plain)
    target_compile_options(${name} PRIVATE -fno-sanitize=all)
    target_link_options(${name} PRIVATE -fno-sanitize=all -static)
  endif()
  target_link_libraries(${name} PRIVATE granary_options ${ARG_DEPS})
  if(ARG_STATIC AND GRANARY_STATIC_FLAG)
    target_link_options(${name} PRIVATE ${GRANARY_STATIC_FLAG})
  endif()
endfunction()

# granary_test(NAME SOURCES... [DEPS...] [KVM] [LINUX [IMAGES...]] [TIMEOUT s] [AGENT])
# Without KVM: each case is one ctest test on this host. With KVM: the whole program is one test, run on this host where
# /dev/kvm works and in the emulated node otherwise (tests/with-kvm decides). LINUX: it needs a KVM that runs Linux guests.
# AGENT: it starts granaryd, and an agent's audit and reconciling look at all of this host's cgroups of clones: one such test at a time.
# IMAGES: a test for each Linux image, of the cases that end with its name; skipped where the minimal image is missing.
function(granary_test name)
  cmake_parse_arguments(ARG "KVM;LINUX;AGENT" "TIMEOUT" "SOURCES;DEPS;IMAGES" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE granary_options ${ARG_DEPS} GTest::gtest_main GTest::gmock)
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  if(ARG_KVM OR ARG_LINUX)
    set(need kvm)
    if(ARG_LINUX)
      set(need linux)
    endif()
    if(NOT ARG_IMAGES)
      granary_kvm_test(${need} ${name} ${name} ${ARG_TIMEOUT})
    endif()
    foreach(image ${ARG_IMAGES})
      granary_kvm_test(${need} ${name}.${image} ${name} ${ARG_TIMEOUT} --gtest_filter=*/${image})
      if(image STREQUAL minimal)
        set_tests_properties(${need}.${name}.${image} PROPERTIES
          FIXTURES_REQUIRED "node;minimal_image" SKIP_REGULAR_EXPRESSION "guest image is missing")
      endif()
    endforeach()
  else()
    set(lock "")
    if(ARG_AGENT)
      set(lock RESOURCE_LOCK cgroups)
    endif()
    gtest_discover_tests(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS unit ${lock} DISCOVERY_TIMEOUT 120)
    set_property(GLOBAL APPEND PROPERTY GRANARY_UNIT_TESTS ${name})
  endif()
endfunction()

function(granary_kvm_test need name program timeout)
  add_test(NAME ${need}.${name}
           COMMAND ${PROJECT_SOURCE_DIR}/tests/with-kvm --need ${need} $<TARGET_FILE:${program}> ${ARGN})
  set_tests_properties(${need}.${name} PROPERTIES
    TIMEOUT ${timeout} LABELS ${need} RESOURCE_LOCK node FIXTURES_REQUIRED node SKIP_RETURN_CODE 77)
endfunction()

# granary_fuzz(NAME SOURCES... [DEPS...]), corpus in tests/fuzz/corpus/NAME: with GRANARY_FUZZ a libFuzzer program; otherwise the same target
# function run over its corpus as a unit test.
function(granary_fuzz name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE granary_options ${ARG_DEPS})
  set_property(GLOBAL APPEND PROPERTY GRANARY_FUZZERS ${name})
  if(GRANARY_FUZZ)
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  else()
    target_sources(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests/fuzz/corpus_main.cc)
    add_test(NAME fuzz.${name} COMMAND ${name} ${PROJECT_SOURCE_DIR}/tests/fuzz/corpus/${name})
    set_tests_properties(fuzz.${name} PROPERTIES LABELS fuzz TIMEOUT 60)
  endif()
endfunction()
