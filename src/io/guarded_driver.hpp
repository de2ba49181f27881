// A read-only HDF5 file driver: it refuses damage that would make the HDF5 library itself read or write out of bounds.
#pragma once

#include <cstdint>

namespace moekv::h5 {

/// Which texts a file may hold.
enum class GuardedTexts : std::uint8_t {
  short_only,  // at most most_guarded_text_bytes: nothing in the file can make HDF5 write out of bounds
  any,         // longer ones too, as this program's own results have them; a damaged length of such a text is not seen
};

/// Texts of guarded files have at most this many bytes: HDF5 converts a text in a buffer of this size without looking at the heap's own size.
inline constexpr std::uint64_t most_guarded_text_bytes = 4096;
/// Largest piece of metadata, such as one collection of texts, that a guarded file may make HDF5 load.
inline constexpr std::uint64_t most_guarded_metadata_bytes = std::uint64_t{1} << 24;

/// Makes a file access list open files through the guarded driver. Returns a negative value where HDF5 refuses.
int use_guarded_driver(std::int64_t access_list, GuardedTexts texts);

}  // namespace moekv::h5
