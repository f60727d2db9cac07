# Language, warnings and sanitizers for every target. The instruction set stays generic x86-64: faster code is chosen at
# run time (native/base/copy.cc).
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)  # the libraries also go into the addon
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)

add_library(hbmesh_options INTERFACE)
target_include_directories(hbmesh_options INTERFACE "${CMAKE_CURRENT_SOURCE_DIR}/native")
target_compile_options(hbmesh_options INTERFACE -Wall -Wextra -Werror -Wshadow -Wconversion -Wno-sign-conversion)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # GCC 12 sees overlapping copies in every `"text" + std::string` that it inlines at -O3 (GCC bug 105329, fixed in 13).
  target_compile_options(hbmesh_options INTERFACE -Wno-restrict)
endif()
target_link_libraries(hbmesh_options INTERFACE Threads::Threads)

if(HBMESH_SANITIZE STREQUAL "address")
  set(hbmesh_sanitize_flags -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g)
elseif(HBMESH_SANITIZE STREQUAL "undefined")
  set(hbmesh_sanitize_flags -fsanitize=undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g)
elseif(HBMESH_SANITIZE STREQUAL "thread")
  set(hbmesh_sanitize_flags -fsanitize=thread -fno-omit-frame-pointer -g)
elseif(HBMESH_SANITIZE)
  message(FATAL_ERROR "HBMESH_SANITIZE=${HBMESH_SANITIZE}: use address, undefined or thread")
endif()
if(HBMESH_SANITIZE)
  # GCC warns about variables that only the sanitizer's own code makes look unset. -O1: with more the sanitizers' code
  # takes twice as long to build, and is hardly faster.
  target_compile_options(hbmesh_options INTERFACE ${hbmesh_sanitize_flags} -O1 -g1 -Wno-maybe-uninitialized)
  target_link_options(hbmesh_options INTERFACE ${hbmesh_sanitize_flags})
endif()
