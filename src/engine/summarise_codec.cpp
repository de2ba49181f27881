// What the codec of a run stored and lost: shares of its page classes, errors of sampled pages, entropy of their codes.
#include <fmt/format.h>

#include "engine/summarise.hpp"
#include "engine/summary_list.hpp"

namespace moekv {
namespace {

using C = CodecRecord;

std::string class_title(const RunSpec& spec, std::uint32_t c) {
  const Codec& by_class = classes_of(spec.compression.k) > 1 ? spec.compression.k : spec.compression.v;
  return std::string(class_name(by_class, c));
}

}  // namespace

void add_codec(const RunSpec& spec, std::span<const CodecRecord> codecs, SummaryList& list) {
  if (codecs.empty()) return;
  using enum ClaimClass;
  const double sampled = total(codecs, &C::sampled_pages), asked = total(codecs, &C::asked_pages);
  list.add("sealed_pages", {"1", counted, "pages sealed"}, total(codecs, &C::sealed_pages));
  list.add_ratio("code_entropy_factor", {"1", measured, "codes of less than 16 bits / their empirical entropy, in a sample of sealed pages"},
                 total(codecs, &C::code_bits), total(codecs, &C::entropy_bits));
  list.add_ratio("k_reconstruction_err", {"1", measured, "norm(K stored - K) / norm(K), mean over a sample of sealed pages"},
                 total(codecs, &C::k_err_ppm) * 1e-6, sampled);
  list.add_ratio("v_reconstruction_err", {"1", measured, "the same of V"}, total(codecs, &C::v_err_ppm) * 1e-6, sampled);
  list.add_ratio(
      "page_logit_err",
      {"1", measured, "error of the newest query's logits over a page, less its mean, over their deviation; mean over sampled pages with queries"},
      total(codecs, &C::logit_err_ppm) * 1e-6, asked);
  list.add_ratio("page_attention_err",
                 {"1", measured, "relative error of the newest query's softmax over a page, mean over sampled pages with queries"},
                 total(codecs, &C::attention_err_ppm) * 1e-6, asked);
  std::vector<C> classes;
  for (const C& row : codecs) {
    if (row.page_class >= static_cast<std::int64_t>(classes.size())) classes.resize(static_cast<std::size_t>(row.page_class) + 1);
    C& sum = classes[static_cast<std::size_t>(row.page_class)];
    sum.sealed_pages += row.sealed_pages;
    sum.entries += row.entries;
    sum.page_bytes += row.page_bytes;
  }
  if (classes.size() < 2) return;
  const std::string windows = ", summed over the ends of windows";
  for (std::uint32_t c = 0; c < classes.size(); ++c) {
    const std::string tail = std::to_string(c), title = fmt::format("class {} ({})", tail, class_title(spec, c));
    list.add_ratio("class_page_share_" + tail, {"1", counted, fmt::format("pages sealed in {} / pages sealed", title)},
                   static_cast<double>(classes[c].sealed_pages), total(codecs, &C::sealed_pages));
    list.add_ratio("class_entry_share_" + tail, {"1", counted, fmt::format("live entries in pages of {} / in sealed pages{}", title, windows)},
                   static_cast<double>(classes[c].entries), total(codecs, &C::entries));
    list.add_ratio("class_byte_share_" + tail, {"1", counted, fmt::format("block bytes of pages of {} / of sealed pages{}", title, windows)},
                   static_cast<double>(classes[c].page_bytes), total(codecs, &C::page_bytes));
  }
}

std::string unshrunk_codec(const RunSpec& spec) {
  const ModelShape& model = spec.model;
  const std::uint32_t raw = element_bits(spec.payload.element);
  const auto bits = [&](const PlaneFormat& f, std::uint32_t d) { return f.raw() ? d * raw : stored_width(f, d) * element_bits(f.element); };
  if (classes_of(spec.compression.k) > 1 || classes_of(spec.compression.v) > 1) return {};
  const PlaneFormat k = plane_of(spec.compression.k, Role::k, model.d_k), v = plane_of(spec.compression.v, Role::v, model.d_v);
  const bool latent = model.mla();
  if ((k.raw() && (latent || v.raw())) || bits(k, model.d_k) + (latent ? 0 : bits(v, model.d_v)) < (model.d_k + (latent ? 0 : model.d_v)) * raw) return {};
  const bool of_k = !k.raw();
  const std::uint32_t d = of_k ? model.d_k : model.d_v;
  const std::string why = fmt::format("codec {} stores all {} channels of {}, so nothing is compressed: ",
                                      class_name(of_k ? spec.compression.k : spec.compression.v, 0), d, of_k ? "K" : "V");
  const MapKind map = (of_k ? k : v).map;
  if (map == MapKind::basis) return why + fmt::format("give a compression.rank below {}", d);
  if (map == MapKind::select && d > 16) return why + fmt::format("give a compression.pruned of {:.4g} or more", 16.0 / d);
  return why + "take a codec of fewer bits";
}

}  // namespace moekv
