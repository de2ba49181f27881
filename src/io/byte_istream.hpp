// ByteIstream: a ByteStream as std::istream, for parsers that take one.
#pragma once

#include <array>
#include <istream>
#include <memory>
#include <streambuf>

#include "io/gzip.hpp"

namespace moekv {

/// The buffer of ByteIstream; reads onward only.
class ByteStreambuf final : public std::streambuf {
 public:
  explicit ByteStreambuf(std::unique_ptr<ByteStream> stream) : stream_(std::move(stream)) {}

 private:
  int_type underflow() override {
    const std::size_t n = stream_->read(std::as_writable_bytes(std::span(buffer_)));
    setg(buffer_.data(), buffer_.data(), buffer_.data() + n);
    return n == 0 ? traits_type::eof() : traits_type::to_int_type(buffer_[0]);
  }

  std::unique_ptr<ByteStream> stream_;
  std::array<char, 1 << 16> buffer_{};
};

/// Errors of the stream below (UserError) pass through its reads.
class ByteIstream final : public std::istream {
 public:
  explicit ByteIstream(std::unique_ptr<ByteStream> stream) : std::istream(nullptr), buffer_(std::move(stream)) {
    rdbuf(&buffer_);
    exceptions(std::ios::badbit);
  }

 private:
  ByteStreambuf buffer_;
};

}  // namespace moekv
