// TokenSource: the sequences of a token file as requests that a model processes: lengths are known, routing comes from the model itself.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/model_file.hpp"
#include "trace/source.hpp"

namespace moekv {

class TokenSource final : public TraceSource {
 public:
  /// Sequences of the file (configs/models/README.md); the first `prompt_tokens` of each are its prompt, 0 = half. Throws UserError where the file
  /// is bad, or its tokens or lengths do not fit the model.
  TokenSource(const std::string& path, std::uint32_t prompt_tokens, const DecoderSpec& model);

  [[nodiscard]] const TraceInfo& info() const override { return info_; }
  [[nodiscard]] std::uint32_t n_requests() const override { return static_cast<std::uint32_t>(begin_.size() - 1); }
  [[nodiscard]] RequestInfo request(RequestId r) const override;
  /// There are no rows: a UserError.
  void read(RequestId, std::uint32_t, std::uint32_t, std::uint32_t, std::uint32_t, WantLogits, RoutingRows&) override;

  /// The tokens that a model processes at the positions of a request, and what each must predict.
  [[nodiscard]] std::span<const std::uint32_t> inputs(RequestId r) const { return part(inputs_, r); }
  [[nodiscard]] std::span<const std::uint32_t> targets(RequestId r) const { return part(targets_, r); }

 private:
  [[nodiscard]] std::span<const std::uint32_t> part(const std::vector<std::uint32_t>& all, RequestId r) const {
    return {all.data() + begin_[r.value], begin_[r.value + 1] - begin_[r.value]};
  }

  TraceInfo info_;
  std::uint32_t prompt_tokens_;
  std::vector<std::uint32_t> inputs_, targets_;
  std::vector<std::size_t> begin_;  // [requests + 1]
};

}  // namespace moekv
