// What the files of the HDF5 layer share: identifiers of types, the text of HDF5's error stack, silence.
#pragma once

#include <hdf5.h>

#include "io/hdf5.hpp"

namespace moekv::h5::detail {

static_assert(std::is_same_v<hid_t, std::int64_t>, "HDF5 1.10 or newer");

/// Stops HDF5 from printing on this thread and from loading filter plugins; called before anything else.
void prepare();
/// The innermost reasons of the calling thread's error stack, and clears it.
[[nodiscard]] std::string take_error();
/// Throws UserError or SystemError, as the origin says.
[[noreturn]] void fail(const Origin& origin, const std::string& name, const std::string& what);

/// The type as it is in a file; valid for the life of the program, never closed.
[[nodiscard]] hid_t file_type(Type type);
[[nodiscard]] hid_t memory_type(Type type);
[[nodiscard]] Type type_from(hid_t type);
/// A dataspace: scalar for no axis, `extendable` leaves the first axis unlimited.
[[nodiscard]] Handle make_space(const Dims& dims, bool extendable = false);

}  // namespace moekv::h5::detail
