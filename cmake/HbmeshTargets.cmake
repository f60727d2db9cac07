# Helpers for native/<folder>/CMakeLists.txt.

# hbmesh_library(name sources... [LIBS libraries...])
# A static library with the project's options. LIBS are public: who links this gets them too.
function(hbmesh_library name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "LIBS")
  add_library(${name} STATIC ${arg_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PUBLIC hbmesh_options ${arg_LIBS})
endfunction()

# hbmesh_program(name sources... [LIBS libraries...])
# A program of the product, put beside the addon. It looks for its libraries in its own folder first: the wheel brings
# them there.
function(hbmesh_program name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "LIBS")
  add_executable(${name} ${arg_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PRIVATE hbmesh_options ${arg_LIBS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${HBMESH_OUTPUT_DIRECTORY}" BUILD_RPATH "$ORIGIN")
  # RPATH instead of RUNPATH: the libraries' own libraries are looked for there, too.
  target_link_options(${name} PRIVATE -Wl,--disable-new-dtags)
endfunction()

# hbmesh_test(name sources... [LIBS libraries...] [TIMEOUT seconds])
# A GoogleTest program with its main, known to ctest as one test that runs all of its cases. Nothing without
# HBMESH_TESTS.
function(hbmesh_test name)
  if(NOT HBMESH_TESTS)
    return()
  endif()
  find_package(GTest REQUIRED)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "TIMEOUT" "LIBS")
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  add_executable(${name} ${arg_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PRIVATE hbmesh_options ${arg_LIBS} GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE "HBMESH_SOURCE_DIR=\"${PROJECT_SOURCE_DIR}\"")
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/test")
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${arg_TIMEOUT})
endfunction()
