// ESFT text: a folder or tar archive of expert_weights_<layer>.txt, one sample per line: ids TAB..., two TABs, weights in the same order.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <map>

#include "io/spool.hpp"
#include "io/tar.hpp"
#include "trace/import_sink.hpp"
#include "trace/text.hpp"

namespace moekv {
namespace {

constexpr std::string_view file_word = "expert_weights_";

/// A member of an archive, kept in a spool file.
class SpoolStream final : public ByteStream {
 public:
  SpoolStream(std::shared_ptr<SpoolFile> spool, std::uint64_t begin, std::uint64_t end, std::string name)
      : spool_(std::move(spool)), at_(begin), end_(end), name_(std::move(name)) {}
  std::size_t read(std::span<std::byte> out) override {
    const std::size_t n = std::min<std::uint64_t>(out.size(), end_ - at_);
    spool_->read_at(at_, out.first(n));
    at_ += n;
    return n;
  }
  [[nodiscard]] const std::string& name() const override { return name_; }
  [[nodiscard]] std::uint64_t consumed_bytes() const override { return at_; }

 private:
  std::shared_ptr<SpoolFile> spool_;
  std::uint64_t at_, end_;
  std::string name_;
};

/// The files of one task by layer.
using LayerFiles = std::map<std::uint16_t, LineReader>;

std::optional<std::uint16_t> layer_of(const std::string& file) {
  const std::string name = std::filesystem::path(file).filename().string();
  if (!name.starts_with(file_word) || name.find(".txt") == std::string::npos) return std::nullopt;
  return number_after(name, file_word);
}

/// Recordings by folder name: from a folder, a tar archive (unpacked to one temporary file), or single files.
std::map<std::string, LayerFiles> open_recordings(const std::vector<std::string>& inputs) {
  std::map<std::string, LayerFiles> recordings;
  const auto add = [&](const std::string& folder, std::uint16_t layer, std::unique_ptr<ByteStream> stream) {
    const std::string name = stream->name();
    if (!recordings[folder].emplace(layer, LineReader(std::move(stream))).second) throw UserError(name, fmt::format("layer {} comes twice", layer));
  };
  for (const auto& input : inputs) {
    if (std::filesystem::is_directory(input)) {
      for (const auto& entry : std::filesystem::directory_iterator(input)) {
        const std::string file = entry.path().string();
        if (const auto layer = layer_of(file)) add(input, *layer, open_byte_stream(file));
      }
    } else if (const auto single = layer_of(input)) {
      add(std::filesystem::path(input).parent_path().string(), *single, open_byte_stream(input));
    } else {
      TarReader tar(open_byte_stream(input));
      auto spool = std::make_shared<SpoolFile>();
      std::vector<std::byte> chunk(1 << 16);
      while (const auto member = tar.next()) {
        const auto layer = layer_of(member->name);
        if (!layer) continue;
        const std::uint64_t begin = spool->size_bytes();
        while (const std::size_t n = tar.read(chunk)) spool->append(std::span(chunk).first(n));
        add(input + ":" + std::filesystem::path(member->name).parent_path().string(), *layer,
            std::make_unique<SpoolStream>(spool, begin, spool->size_bytes(), input + ":" + member->name));
      }
      spool->flush();
    }
  }
  std::erase_if(recordings, [](const auto& r) { return r.second.empty(); });
  if (recordings.empty()) throw UserError(inputs.empty() ? "" : inputs[0], "holds no file expert_weights_<layer>.txt");
  return recordings;
}

struct Sample {
  std::vector<std::uint16_t> ids;
  std::vector<float> weights;
};

template <class T, class Parse>
void parse_list(std::string_view text, const std::string& place, const char* what, const Parse& parse, std::vector<T>& out) {
  out.clear();
  while (!text.empty()) {
    const std::size_t tab = text.find('\t');
    const auto value = parse(text.substr(0, tab));
    if (!value) throw UserError(place, fmt::format("'{}' is not {}", text.substr(0, std::min<std::size_t>(tab, 40)), what));
    out.push_back(static_cast<T>(*value));
    text.remove_prefix(tab == std::string_view::npos ? text.size() : tab + 1);
  }
}

void parse_sample(std::string_view line, const std::string& place, std::uint32_t top_k, Sample& out) {
  const std::size_t middle = line.find("\t\t");
  if (middle == std::string_view::npos) throw UserError(place, "no two tabs between ids and weights", "is this ESFT's expert_weights format?");
  const auto id = [](std::string_view text) -> std::optional<std::int64_t> {
    const auto value = parse_integer(text);
    return value && *value >= 0 && *value < ExpertId::invalid ? value : std::nullopt;
  };
  parse_list(line.substr(0, middle), place, "an expert id", id, out.ids);
  parse_list(line.substr(middle + 2), place, "a weight", parse_real, out.weights);
  if (out.ids.size() != out.weights.size())
    throw UserError(place, fmt::format("{} ids but {} weights", out.ids.size(), out.weights.size()), "the line is incomplete");
  if (out.ids.size() % top_k != 0)
    throw UserError(place, fmt::format("{} ids are no multiple of top_k = {}", out.ids.size(), top_k), "is --topk right?");
}

/// The next line of every layer; false at the common end.
bool read_samples(LayerFiles& files, std::uint32_t top_k, std::vector<Sample>& samples) {
  std::size_t at = 0, ended = 0;
  std::string_view line;
  std::string first;
  for (auto& [layer, lines] : files) {
    Sample& sample = samples[at++];
    if (!lines.next(line)) {
      ++ended;
      continue;
    }
    parse_sample(line, lines.place(), top_k, sample);
    if (first.empty()) first = lines.place();
    if (ended == 0 && sample.ids.size() != samples[0].ids.size()) {
      throw UserError(lines.place(), fmt::format("{} tokens, but {} in {}", sample.ids.size() / top_k, samples[0].ids.size() / top_k, first),
                      "the layers do not belong together");
    }
  }
  if (ended != 0 && ended != files.size())
    throw UserError(first.empty() ? files.begin()->second.place() : first, "some layers have fewer samples than others", "files are incomplete");
  return ended == 0;
}

void emit(const std::vector<Sample>& samples, std::uint32_t top_k, const std::string& place, ImportSink& sink) {
  const auto n_tokens = static_cast<std::uint32_t>(samples[0].ids.size() / top_k);
  for (std::uint32_t begin = 0; begin < n_tokens; begin += block_tokens) {
    TokenBlock block;
    block.n_tokens = std::min(block_tokens, n_tokens - begin);
    for (std::uint32_t t = begin; t < begin + block.n_tokens; ++t) {
      for (const Sample& s : samples) {
        const auto from = static_cast<std::ptrdiff_t>(std::size_t{t} * top_k);
        block.ids.insert(block.ids.end(), s.ids.begin() + from, s.ids.begin() + from + top_k);
        block.weights.insert(block.weights.end(), s.weights.begin() + from, s.weights.begin() + from + top_k);
      }
    }
    sink.append(std::move(block), place);
  }
}

}  // namespace

bool detect_esft(const InputProbe& probe) {
  if (looks_like_tar(probe.head)) return probe.head.find(file_word) != std::string::npos;
  if (!probe.folder) return layer_of(probe.path).has_value();
  return std::ranges::any_of(std::filesystem::directory_iterator(probe.path),
                             [](const auto& entry) { return layer_of(entry.path().string()).has_value(); });
}

/// Memory: one sample of all layers.
void import_esft(const ImportOptions& options, ImportSink& sink) {
  auto recordings = open_recordings(options.inputs);
  SourceFacts facts;
  for (const auto& [layer, lines] : recordings.begin()->second) facts.layer_ids.push_back(layer);
  facts.n_layers = static_cast<std::uint32_t>(facts.layer_ids.size());
  facts.has_weights = true;
  facts.split_known = false;
  sink.describe(facts, recordings.begin()->first);
  std::vector<Sample> samples(facts.n_layers);
  for (auto& [folder, files] : recordings) {
    std::vector<std::uint16_t> layers;
    for (const auto& [layer, lines] : files) layers.push_back(layer);
    if (layers != facts.layer_ids) throw UserError(folder, "has other layers than " + recordings.begin()->first, "import it on its own");
    const std::string name = std::filesystem::path(folder.substr(folder.rfind(':') + 1)).filename().string();
    const std::uint16_t domain = sink.domain(options.domains.empty() ? name : options.domains[0]);
    while (!sink.full() && read_samples(files, sink.top_k(), samples)) {
      RequestInfo request;
      request.prompt_tokens = static_cast<std::uint32_t>(samples[0].ids.size() / sink.top_k());
      request.domain = domain;
      const std::string place = files.begin()->second.place();
      if (sink.begin_request(request, place)) emit(samples, sink.top_k(), place, sink);
    }
  }
}

}  // namespace moekv
