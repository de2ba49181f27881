# Every library comes from the system by find_package; nothing is downloaded at configure time.
set(MPI_CXX_SKIP_MPICXX ON)  # without it the removed C++ bindings are linked
find_package(MPI REQUIRED COMPONENTS CXX)
find_package(OpenMP REQUIRED COMPONENTS CXX)
# The static library where it exists: the shared one loads libcurl and fifty more at every start. Unused libraries are dropped.
set(HDF5_PREFER_PARALLEL OFF)
set(HDF5_USE_STATIC_LIBRARIES ON)
find_package(HDF5 QUIET COMPONENTS C HL)
if(NOT HDF5_FOUND)
  set(HDF5_USE_STATIC_LIBRARIES OFF)
  find_package(HDF5 REQUIRED COMPONENTS C HL)
endif()
add_library(moekv_hdf5 INTERFACE)
target_include_directories(moekv_hdf5 SYSTEM INTERFACE ${HDF5_INCLUDE_DIRS})
target_link_libraries(moekv_hdf5 INTERFACE ${HDF5_HL_LIBRARIES} ${HDF5_LIBRARIES})
target_link_options(moekv_hdf5 INTERFACE -Wl,--as-needed)
find_package(ZLIB REQUIRED)
find_package(CLI11 REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(Threads REQUIRED)
find_package(HWY REQUIRED)
find_package(Eigen3 REQUIRED NO_MODULE)
# Eigen's products would share their work among OpenMP threads where a source is compiled with OpenMP: values would depend on the number of threads,
# and be wrong where the linker takes the same function of a source compiled without.
set_property(TARGET Eigen3::Eigen APPEND PROPERTY INTERFACE_COMPILE_DEFINITIONS EIGEN_DONT_PARALLELIZE)

find_path(RANDOM123_INCLUDE_DIR Random123/philox.h REQUIRED)
# Philox needs no vendor intrinsics; their headers would cost every source half a second.
set(RANDOM123_DEFINITIONS R123_USE_SSE=0 R123_USE_WMMINTRIN_H=0 R123_USE_X86INTRIN_H=0 R123_USE_INTRIN_H=0 R123_USE_AES_NI=0 R123_USE_MULHILO64_ASM=0)
find_path(XXHASH_INCLUDE_DIR xxhash.h REQUIRED)
find_library(XXHASH_LIBRARY xxhash REQUIRED)

# Python for the plotting helpers and their tests: Debian's, which has h5py, before any other on PATH.
if(NOT Python3_EXECUTABLE AND EXISTS /usr/bin/python3)
  set(Python3_EXECUTABLE /usr/bin/python3)
endif()
find_package(Python3 COMPONENTS Interpreter)
