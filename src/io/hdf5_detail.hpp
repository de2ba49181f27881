// What the files of the HDF5 layer share: identifiers of types, the text of HDF5's error stack, silence.
#pragma once

#include <hdf5.h>

#include <map>

#include "io/hdf5.hpp"

namespace moekv::h5::detail {

static_assert(std::is_same_v<hid_t, std::int64_t>, "HDF5 1.10 or newer");

/// An element of a scale's attribute REFERENCE_LIST, as H5DS lays it out: a dataset, and its axis that the scale describes.
struct ScaleUser {
  hobj_ref_t dataset;
  unsigned axis;
};

/// H5DSattach_scale reads and rewrites REFERENCE_LIST for every one more dataset, a third of the time of writing a result; the lists are collected here
/// and File::close() writes each once.
struct ScaleUsers {
  std::map<std::string, std::vector<ScaleUser>> of_scale;  // by the scale's name
};

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
/// The transfer properties for `n` elements of `type`: HDF5 clears a conversion buffer of 1 MiB at every transfer unless it is told of a smaller one.
[[nodiscard]] hid_t transfer_list(Type type, std::uint64_t n);
/// Notes in every scale of `file` which axes it describes.
void write_scale_users(const Group& file, const Origin& origin);
/// A dataspace: scalar for no axis, `extendable` leaves the first axis unlimited.
[[nodiscard]] Handle make_space(const Dims& dims, bool extendable = false);

}  // namespace moekv::h5::detail
