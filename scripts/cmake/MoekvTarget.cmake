# moekv_library and moekv_flags: one static library per layer, warnings are errors, no fused multiply-add, no fast-math.
function(moekv_flags target)
  target_include_directories(${target} PUBLIC ${PROJECT_SOURCE_DIR}/src)
  target_include_directories(${target} SYSTEM PUBLIC ${RANDOM123_INCLUDE_DIR} ${XXHASH_INCLUDE_DIR})
  target_compile_definitions(${target} PUBLIC ${RANDOM123_DEFINITIONS})
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Werror -ffp-contract=off)
  if(CMAKE_SYSTEM_PROCESSOR STREQUAL "x86_64")
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-march=x86-64-v2>)  # popcount; kernels choose wider instructions at run time
  endif()
  if(MOEKV_UNITY AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:--param=ggc-min-heapsize=600000>)  # collecting garbage below this takes a tenth of the time
  endif()
  moekv_release_optimisation(${target} -O2)  # CMake's own -O3 takes longer to build; moekv_device has it
  if(MOEKV_SANITIZE)
    # -O1: unoptimised, the tests take too long. With sanitizers g++ sees uninitialised values where none are.
    target_compile_options(${target} PUBLIC -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -O1 -Wno-maybe-uninitialized)
    target_link_options(${target} PUBLIC -fsanitize=address,undefined)
  endif()
  if(MOEKV_CHECKED)
    target_compile_definitions(${target} PUBLIC MOEKV_CHECKED)
  endif()
endfunction()

# moekv_release_optimisation(target level): instead of -O2. A source takes the level of its precompiled header, whatever its own says.
function(moekv_release_optimisation target level)
  target_compile_options(${target} PRIVATE $<$<AND:$<CONFIG:Release>,$<COMPILE_LANGUAGE:CXX>>:${level}>)
endfunction()

# moekv_library(layer SOURCES a.cpp ... LINK libs ...): static library moekv_<layer>.
function(moekv_library layer)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LINK;PRIVATE_LINK")
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "moekv_library: unknown argument ${arg_UNPARSED_ARGUMENTS}")
  endif()
  if(arg_SOURCES)
    add_library(moekv_${layer} STATIC ${arg_SOURCES})
    moekv_flags(moekv_${layer})
    set_target_properties(moekv_${layer} PROPERTIES UNITY_BUILD ${MOEKV_UNITY} UNITY_BUILD_BATCH_SIZE 28)
    target_link_libraries(moekv_${layer} PUBLIC ${arg_LINK} PRIVATE ${arg_PRIVATE_LINK})
  else()
    add_library(moekv_${layer} INTERFACE)
    target_include_directories(moekv_${layer} INTERFACE ${PROJECT_SOURCE_DIR}/src)
    target_include_directories(moekv_${layer} SYSTEM INTERFACE ${RANDOM123_INCLUDE_DIR} ${XXHASH_INCLUDE_DIR})
    target_link_libraries(moekv_${layer} INTERFACE ${arg_LINK})
  endif()
endfunction()

# moekv_cuda_flags(target): as moekv_flags, for a library with .cu sources: warnings of both compilers are errors.
function(moekv_cuda_flags target)
  target_include_directories(${target} PUBLIC ${PROJECT_SOURCE_DIR}/src)
  target_include_directories(${target} SYSTEM PUBLIC ${RANDOM123_INCLUDE_DIR} ${XXHASH_INCLUDE_DIR} ${CUDAToolkit_INCLUDE_DIRS})
  set(warnings -Wall -Wextra -Wshadow -Werror)
  string(REPLACE ";" "," host_warnings "${warnings}")  # nvcc rewrites declarations with more parentheses than a warning likes
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:${warnings};-Wpedantic;-Wconversion;-Wno-sign-conversion;-ffp-contract=off>
    $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;-Werror=all-warnings;-Xcompiler=${host_warnings},-Wno-parentheses,-ffp-contract=off>)
  if(MOEKV_CHECKED)
    target_compile_definitions(${target} PUBLIC MOEKV_CHECKED)
  endif()
endfunction()

# moekv_precompiled(target [OWNER header ... | FROM owner]): compiles `target` with precompiled headers, by default those of the engine, which half of
# the sources include. The owner makes them; the others share them and so need its flags.
function(moekv_precompiled target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "FROM" "OWNER")
  target_link_libraries(${target} PRIVATE OpenMP::OpenMP_CXX)
  if(arg_OWNER)
    target_precompile_headers(${target} PRIVATE ${arg_OWNER})
  elseif(arg_FROM)
    target_precompile_headers(${target} REUSE_FROM ${arg_FROM})
  else()
    target_precompile_headers(${target} REUSE_FROM moekv_engine)
  endif()
endfunction()
